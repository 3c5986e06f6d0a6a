"""What a look of a watcher costs in calls, beside a poll that lists everything, as the history grows.

Calls are counted over real HTTP, against an endpoint that lists jobs in each order that AWS may choose.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from contextlib import aclosing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from listing_service import ORDERS, ListingService
from measured_run import make_environment
from scripted_endpoint import ScriptedEndpoint

HISTORIES = (10, 1_000, 10_000)
UNFINISHED = 5
"""As many jobs as AWS lets run at a time; they are the oldest."""
LOOKS = 20
"""Over which the calls of a later look are a mean; two when each reads all pages."""
MOST_CALLS = 1 + UNFINISHED
"""One page, and a question about each unfinished job."""


def count_calls(service: ListingService, looks: int) -> tuple[int, float]:
    """
    Return the calls of a watcher's first look, and the calls of one later look in the mean.

    :param service: answers
    :param looks: over how many later looks the mean is taken
    """
    from airflow_provider_personalize_segments.connection_settings import ConnectionSettings
    from airflow_provider_personalize_segments.jobs import BatchJobKind
    from airflow_provider_personalize_segments.watching import lister

    lister.SECONDS_PER_PAGE = 0.0

    async def look() -> tuple[int, float]:
        settings = ConnectionSettings("aws_default", "us-east-1", None, None)
        async with aclosing(lister.watch(settings, BatchJobKind.SEGMENT, 0.05)) as found:
            await anext(found)
            first = sum(service.calls.values())
            service.calls.clear()
            for _ in range(looks):
                await anext(found)
            return first, sum(service.calls.values()) / looks

    with ScriptedEndpoint(service.answer) as endpoint:
        os.environ["AIRFLOW_CONN_AWS_DEFAULT"] = endpoint.connection
        return asyncio.run(look())


def make_service(order: str, history: int) -> ListingService:
    """
    Return a service with old jobs, a job a day, of which the oldest are unfinished.

    :param order: the order of its listing
    :param history: how many jobs are over
    """
    service = ListingService(order, now=time.time() - (history + UNFINISHED) * 86_400.0)
    for number in range(history + UNFINISHED):
        service.now += 86_400.0
        service.create(f"job-{number}")
        if number >= UNFINISHED:
            service.end(f"job-{number}")
    return service


def main() -> None:
    """Print the table; end in an error when the goal is missed."""
    with tempfile.TemporaryDirectory() as folder:
        environment = make_environment(folder) | {"AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING"}
        os.environ.clear()
        os.environ.update(environment)
        print_table()


def print_table() -> None:
    """Measure, and print a line for each history and order."""
    print(f"Calls of a look, with {UNFINISHED} old jobs unfinished (goal: {MOST_CALLS} at the most)\n")
    print(f"{'past jobs':>9}  {'AWS lists':<14}{'list all':>9}{'first look':>12}{'later looks':>13}")
    missed = False
    for history in HISTORIES:
        for order in ORDERS:
            service = make_service(order, history)
            every = -(-len(service.jobs) // service.page_size)
            first, later = count_calls(service, LOOKS if order != "none" else 2)
            goal = MOST_CALLS if order != "none" else every
            # From time to time a look reads all pages, and the next may have begun.
            missed |= later > goal * 1.1 + 1
            print(f"{history:>9,}  {order:<14}{every:>9}{first:>12}{later:>13.1f}")
    if missed:
        sys.exit("A look makes more calls than it is to make.")


if __name__ == "__main__":
    main()
