"""What waiting costs in a triggerer: our trigger beside the amazon provider's own pattern, in one run.

Each measurement is made in a fresh process, against an endpoint on the loopback interface that has a process
of its own. The amazon provider's pattern needs aiobotocore, which nothing else here does, and which decides
about botocore's version: install it beside Airflow and this package in an environment of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

from measured_run import Figures, measure

SHARED_JOBS = 5
RATE = 10.0
THROTTLED_LIMIT = 60.0
CONNECTIONS = (1, 10, 25)
"""How many Airflow connections the triggers of one process use, one trigger each."""


class Row(NamedTuple):
    """
    One line of the table.

    :param title: what was measured
    :param unit: in what, and how it is printed
    :param amazon: the amazon provider's pattern's figure
    :param ours: ours
    :param goal: the goal in words
    :param is_met: whether ours meets it
    """

    title: str
    unit: str
    amazon: float
    ours: float
    goal: str
    is_met: bool | None

    def __str__(self) -> str:
        ratio = f"1/{self.amazon / self.ours:,.1f}" if self.ours > 0 else "-"
        met = {True: "met", False: "MISSED", None: ""}[self.is_met]
        amazon, ours = (f"{value:,.{0 if value >= 100 else 1}f} {self.unit}" for value in self[2:4])
        return f"{self.title:<56}{amazon:>12}{ours:>12}{ratio:>10}  {self.goal:<16}{met}"


def make_rows(
    triggers: int, interval: int, single: dict[str, Figures], shared: dict[str, Figures]
) -> list[Row]:
    """Return the lines about triggers that nothing goes wrong for."""

    def compare(
        title: str, unit: str, runs: dict[str, Figures], name: str, factor: float, goal: float | None = None
    ) -> Row:
        amazon, ours = (runs[kind][name] * factor for kind in ("amazon", "ours"))
        return Row(
            title,
            unit,
            amazon,
            ours,
            "" if goal is None else f"1/{goal:.0f} or less",
            None if goal is None else ours * goal <= amazon,
        )

    def limit(row: Row, goal: str, most: float) -> Row:
        return row._replace(goal=goal, is_met=row.ours <= most)

    own, few = f"{triggers:,} jobs", f"{SHARED_JOBS} jobs"
    return [
        compare("memory per trigger", "KB", single, "bytes_per_trigger", 1e-3, 50),
        compare(f"CPU until all have polled once, {own}", "s", single, "cpu_until_polled", 1, 20),
        compare(f"CPU until all have polled once, {few}", "s", shared, "cpu_until_polled", 1, 100),
        compare(f"time until all have polled once, {own}", "s", single, "seconds_until_polled", 1),
        limit(
            compare(f"longest stall of the event loop, {own}", "ms", single, "stall", 1e3), "under 50 ms", 50
        ),
        compare("  of a process that does nothing, meanwhile", "ms", single, "idle_stall", 1e3),
        limit(
            compare(f"longest stall of the event loop, {few}", "ms", shared, "stall", 1e3), "under 50 ms", 50
        ),
        compare("  of a process that does nothing, meanwhile", "ms", shared, "idle_stall", 1e3),
        limit(compare("connections", "", single, "connections", 1), "at most 10", 10),
        limit(
            compare(f"calls per interval, {few}", "", shared, "calls_per_interval", 1),
            f"{SHARED_JOBS}",
            SHARED_JOBS * 1.05,
        ),
        limit(
            compare(f"calls per interval, {own}", "", single, "calls_per_interval", 1),
            f"at most {triggers:,}",
            triggers * 1.01,
        ),
        limit(
            compare(f"most calls in 100 ms, {own}", "", single, "most_in_100_ms", 1),
            f"at most {triggers // 10:,}",
            triggers // 10,
        ),
        limit(
            compare("ACTIVE to event, median", "s", single, "active_to_event", 1),
            "no worse",
            max(single["amazon"]["active_to_event"], interval / 2) * 1.1,
        ),
    ]


def make_throttled_rows(jobs: int, runs: dict[str, Figures]) -> list[Row]:
    """Return the lines about an endpoint that answers few of the calls."""
    amazon, ours = runs["amazon"], runs["ours"]
    well = [figures["ended"] - figures["failed"] for figures in (amazon, ours)]
    return [
        Row(
            f"throttled at {RATE:.0f} calls/s, {jobs} jobs: calls made",
            "",
            amazon["calls"],
            ours["calls"],
            "fewer",
            ours["calls"] < amazon["calls"],
        ),
        Row("  jobs that ended well", "", well[0], well[1], "all", well[1] == jobs),
        Row("  until then", "s", amazon["seconds"], ours["seconds"], "", None),
    ]


def print_connections(runs: dict[int, Figures]) -> None:
    """Print what further connections cost, as a table of its own."""
    print(
        f"\n{'connections':<14}{'memory':>12}{'CPU until polled':>20}{'longest stall':>18}"
        f"{'of an idle process':>22}"
    )
    for number, figures in runs.items():
        memory = figures["bytes_per_trigger"] * number
        print(
            f"{number:<14}{memory / 1e6:>9.1f} MB{figures['cpu_until_polled']:>18.1f} s"
            f"{figures['stall'] * 1e3:>15,.0f} ms{figures['idle_stall'] * 1e3:>19,.0f} ms"
        )
    few, many = min(runs), max(runs)
    growth = runs[many]["bytes_per_trigger"] * many - runs[few]["bytes_per_trigger"] * few
    each = growth / (many - few)
    print(f"Each further connection: {each / 1e6:.2f} MB (goal: 1 MB or less, {_say(each <= 1e6)})")


def _say(is_met: bool) -> str:
    return "met" if is_met else "MISSED"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--triggers", type=int, default=1000, help="how many wait in one process")
    parser.add_argument("--interval", type=int, default=5, help="seconds between two calls about a job")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    options = parser.parse_args()
    if importlib.util.find_spec("aiobotocore") is None:
        sys.exit(
            "The amazon provider's pattern needs aiobotocore: install this package together with "
            "apache-airflow-providers-amazon[aiobotocore] in an environment of its own, and run this there."
        )
    began, load = time.monotonic(), os.getloadavg()[0]
    triggers, interval = options.triggers, options.interval
    throttled_jobs = max(triggers // 5, 1)
    kinds = ("amazon", "ours")
    single = {
        kind: measure(kind, triggers, triggers, interval=interval, limit=150, until_active=True)
        for kind in kinds
    }
    shared = {kind: measure(kind, triggers, SHARED_JOBS, interval=interval, limit=150) for kind in kinds}
    throttled = {
        kind: measure(
            kind, throttled_jobs, throttled_jobs, interval=interval, limit=THROTTLED_LIMIT, rate=RATE
        )
        for kind in kinds
    }
    connected = {
        number: measure("ours", number, number, connections=number, interval=interval, limit=150)
        for number in CONNECTIONS
    }
    rows = make_rows(triggers, interval, single, shared)
    rows += make_throttled_rows(throttled_jobs, throttled)
    print(
        f"{triggers:,} triggers in one process, {interval} s interval, Python {sys.version.split()[0]}, "
        f"{os.cpu_count()} cores, load {load:.1f} before and {os.getloadavg()[0]:.1f} after"
    )
    print(f"{'':<56}{'amazon':>12}{'ours':>12}{'ratio':>10}  goal")
    for row in rows:
        print(row)
    print(
        f"The goals are for 1,000 triggers; with fewer, what is needed once weighs more.\n"
        f"Throttled were {throttled_jobs} jobs, ACTIVE after one interval, for {THROTTLED_LIMIT:.0f} s at "
        f"most: 1,000 would take 100 s or more."
    )
    for kind, runs in (("single", single), ("shared", shared)):
        if runs["amazon"]["have_polled"] < triggers:
            print(
                f"Not all of the amazon pattern's triggers had polled in time ({kind}): figures are too low."
            )
    print_connections(connected)
    print(f"Took {time.monotonic() - began:.0f} s.")
    if options.json:
        options.json.write_text(
            json.dumps(
                {"single": single, "shared": shared, "throttled": throttled, "connected": connected}, indent=2
            )
            + "\n"
        )
    failed = [figures["failed"] for runs in (single, shared, throttled) for figures in [runs["ours"]]]
    failed += [figures["failed"] for figures in connected.values()]
    if any(failed):
        sys.exit(f"{sum(failed)} of our triggers ended otherwise than they should.")


if __name__ == "__main__":
    main()
