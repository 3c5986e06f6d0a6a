"""Makes one measurement: an endpoint, a triggerer's process beside it, and the figures of both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Figures = dict[str, Any]


class Idler:
    """Notes when a thread that does nothing is late all the same: what the machine adds to every stall."""

    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._idle, daemon=True)

    def __enter__(self) -> Idler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _idle(self) -> None:
        while not self._is_over.is_set():
            start = time.monotonic()
            time.sleep(0.005)
            self._late.append((start, time.monotonic() - start - 0.005))

    def latest(self, since: float) -> float:
        """Return by how many seconds it was late, at most."""
        return max(late for start, late in self._late if start >= since)


@contextmanager
def running(*arguments: object, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run a script of this folder; however this is left, it has ended then."""
    command = [sys.executable, *map(str, arguments)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def measure(
    kind: str,
    triggers: int,
    jobs: int,
    *,
    connections: int = 1,
    interval: int,
    limit: float,
    rate: float = 0.0,
    until_active: bool = False,
) -> Figures:
    """Return the figures of one measurement: those of the triggerer's process, and the endpoint's."""
    with tempfile.TemporaryDirectory() as folder:
        counters = Path(folder, "counters")
        environment = make_environment(folder)
        endpoint_arguments: list[object] = [
            HERE / "fast_endpoint.py",
            f"--counters={counters}",
            f"--spread={interval if until_active else 0}",
            f"--jobs={jobs}",
            f"--rate={rate}",
        ]
        with running(*endpoint_arguments, environment=environment) as endpoint:
            assert endpoint.stdout
            port = int(endpoint.stdout.readline())
            connection = json.dumps(
                {
                    "conn_type": "aws",
                    "login": "nobody",
                    "password": "nothing",
                    "extra": {"region_name": "eu-west-1", "endpoint_url": f"http://127.0.0.1:{port}"},
                }
            )
            environment |= {f"AIRFLOW_CONN_BENCH_{number}": connection for number in range(connections)}
            triggerer_arguments: list[object] = [
                HERE / "triggerer_process.py",
                f"--counters={counters}",
                f"--kind={kind}",
                f"--triggers={triggers}",
                f"--jobs={jobs}",
                f"--connections={connections}",
                f"--interval={interval}",
                f"--limit={limit}",
                *(["--throttled"] if rate else []),
                *(["--until-active"] if until_active else []),
            ]
            with running(*triggerer_arguments, environment=environment) as triggerer, Idler() as idler:
                assert triggerer.stdout
                lines = triggerer.stdout.read().splitlines()
            if not lines:
                sys.exit(f"The process with {triggers} triggers ({kind}) ended without figures.")
            figures: Figures = json.loads(lines[-1])
            report, _ = endpoint.communicate(timeout=30)
    figures["idle_stall"] = idler.latest(figures["began"])
    return figures | _read_report(json.loads(report), figures, interval)


def make_environment(folder: str) -> dict[str, str]:
    """Return an environment in which Airflow and boto3 know nothing of this machine."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AIRFLOW_", "AWS_")) and not name.lower().endswith("_proxy")
    }
    return kept | {
        "AIRFLOW_HOME": folder,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
    }


def _read_report(report: Figures, figures: Figures, interval: int) -> Figures:
    """Return what the endpoint counted."""
    times = report.pop("times")
    report["calls"] = len(times)
    if "steady_from" in figures:
        begin, end = figures["steady_from"], figures["steady_until"]
        steady = [at for at in times if begin <= at < end]
        report["calls_per_interval"] = len(steady) * interval / (end - begin)
        first = 0
        most = 0
        for last, at in enumerate(times):
            while times[first] <= at - 0.1:
                first += 1
            most = max(most, last - first + 1)
        report["most_in_100_ms"] = most
    return report
