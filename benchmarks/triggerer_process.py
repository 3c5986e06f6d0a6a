"""Runs many triggers of one kind in one event loop, as a triggerer does, and prints what that cost, as JSON.

``waiting_cost.py`` starts it, in a fresh process for each measurement; it ends when its stdin is closed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import statistics
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from fast_endpoint import JOB_PREFIX, Counters

REGION = "eu-west-1"
HEARTBEAT = 0.005
MEASURED_INTERVALS = 2


class Heartbeat:
    """Measures by how much a coroutine that wants to run every few milliseconds is late, at most."""

    def __init__(self) -> None:
        self.latest = 0.0

    async def beat(self) -> None:
        """Go on until cancelled."""
        while True:
            start = time.monotonic()
            await asyncio.sleep(HEARTBEAT)
            self.latest = max(self.latest, time.monotonic() - start - HEARTBEAT)


def resident_bytes() -> int:
    """Return the resident memory of this process once garbage is gone."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def make_trigger(kind: str, job_arn: str, interval: int, aws_conn_id: str) -> Any:
    """Return a trigger of ours or of the amazon provider's pattern."""
    if kind == "amazon":
        from amazon_pattern import AmazonPatternTrigger

        return AmazonPatternTrigger(
            job_arn=job_arn,
            waiter_delay=interval,
            waiter_max_attempts=10_000,
            aws_conn_id=aws_conn_id,
            region_name=REGION,
        )
    from airflow_provider_personalize_segments.triggers import PersonalizeBatchJobTrigger

    deadline = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    return PersonalizeBatchJobTrigger(
        job_arn=job_arn, deadline=deadline, poke_interval=interval, aws_conn_id=aws_conn_id
    )


def import_all() -> None:
    """Import what either kind needs, so that each measurement is of waiting and not of importing."""
    import amazon_pattern

    import airflow_provider_personalize_segments.hooks
    import airflow_provider_personalize_segments.triggers

    assert airflow_provider_personalize_segments.hooks
    assert airflow_provider_personalize_segments.triggers
    assert amazon_pattern


def silence() -> None:
    """Write no log: the two kinds log in different ways, and the cost of that is not the cost of waiting."""

    def drop(logger: Any, name: str, event: Any) -> Any:
        raise structlog.DropEvent

    structlog.configure(processors=[drop])
    logging.root.handlers[:] = [logging.NullHandler()]


async def run_trigger(trigger: Any, number: int, events: list[tuple[int, float, bool]]) -> None:
    """Note when a trigger fires, and whether that is success."""
    is_success = False
    try:
        async for event in trigger.run():
            is_success = event.payload.get("outcome", event.payload.get("status")) in ("active", "success")
            break
    except Exception as error:
        print(f"A trigger raised {error!r:.300}", file=sys.stderr)
    events.append((number, time.monotonic(), is_success))


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one run."""
    counters = Counters(options.counters)
    triggers = [
        make_trigger(
            options.kind,
            f"{JOB_PREFIX}{number % options.jobs}",
            options.interval,
            f"bench_{number % options.connections}",
        )
        for number in range(options.triggers)
    ]
    figures: dict[str, Any] = {}
    events: list[tuple[int, float, bool]] = []
    heartbeat = Heartbeat()
    before = resident_bytes()
    beating = asyncio.create_task(heartbeat.beat())
    start, cpu = time.monotonic(), time.process_time()
    tasks = []
    for number, trigger in enumerate(triggers):
        tasks.append(asyncio.create_task(run_trigger(trigger, number, events)))
        await asyncio.sleep(0)

    # Where each job has one trigger, jobs tell that all have polled. Where they share jobs, triggers of the
    # amazon pattern are known by their connections.
    expected = options.triggers if options.kind == "amazon" else options.jobs
    name = "jobs" if options.jobs == options.triggers else "callers" if options.kind == "amazon" else "jobs"
    if options.throttled:
        counters.active_at = start + options.interval
    else:
        while getattr(counters, name) < expected and time.monotonic() < start + options.limit:
            await asyncio.sleep(0.02)
        figures["have_polled"] = getattr(counters, name)
        figures["cpu_until_polled"] = time.process_time() - cpu
        figures["seconds_until_polled"] = time.monotonic() - start
        await asyncio.sleep(options.interval * 0.2)
        # Collecting garbage for the sake of the figure is no stall of the triggers' making.
        beating.cancel()
        figures["bytes_per_trigger"] = (resident_bytes() - before) / options.triggers
        beating = asyncio.create_task(heartbeat.beat())
        figures["steady_from"] = time.monotonic()
        await asyncio.sleep(options.interval * MEASURED_INTERVALS)
        figures["steady_until"] = time.monotonic()
        if options.until_active:
            counters.active_at = time.monotonic()
    if options.throttled or options.until_active:
        await asyncio.wait(tasks, timeout=options.limit)
    figures["began"] = start
    figures["stall"] = heartbeat.latest
    figures["cpu"] = time.process_time() - cpu
    figures["seconds"] = time.monotonic() - start
    figures["ended"] = len(events)
    figures["failed"] = sum(not is_success for _, _, is_success in events)
    if options.until_active and events:
        step = options.interval / options.jobs
        figures["active_to_event"] = statistics.median(
            at - counters.active_at - (number % options.jobs) * step for number, at, _ in events
        )
    for task in [*tasks, beating]:
        task.cancel()
    await asyncio.gather(*tasks, beating, return_exceptions=True)
    return figures


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counters", type=Path, required=True)
    parser.add_argument("--kind", choices=("ours", "amazon"), required=True)
    parser.add_argument("--triggers", type=int, required=True)
    parser.add_argument("--jobs", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--interval", type=int, required=True)
    parser.add_argument("--limit", type=float, required=True)
    parser.add_argument("--throttled", action="store_true")
    parser.add_argument("--until-active", action="store_true")
    options = parser.parse_args()

    def end_with_parent() -> None:
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    import_all()
    silence()
    figures = asyncio.run(measure(options))
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
