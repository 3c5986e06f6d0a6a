"""A running Airflow, an endpoint that sends what no document promises, and neighbours in the triggerer."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from running_airflow.harness import RunningAirflow, run_airflow
from scripted_endpoint import SOLUTION_VERSION_ARN, Answer, ScriptedEndpoint, describe, error, job_arn

DAG_FILE = Path(__file__).parent / "running_airflow" / "triggerer.py"
CONNECTIONS = ["aws_default", "second", "third"]
POKE_INTERVAL = 2.0
TIMEOUT = 60.0
"""Seconds, of the sensors whose jobs never end."""
CALLS_UNTIL_ACTIVE = 4
SLOTS = 5
CREATES = 8
NEIGHBOURS = [15, 30, 45, 60]
LONGEST_STALL = 4.0
"""Seconds; less than any hang that the test makes, more than a busy machine takes away."""
MOST_LOST = 4
"""Of 45 tasks, by Airflow itself. Triggers of ours that fired too early would lose most of them."""
ODD_REASON = "cut off \ud83d here \0"


class Service:
    """Answers about the jobs by their names, and lets five created jobs be unfinished at a time."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.created: dict[str, dict[str, Any]] = {}
        self.lock = threading.Lock()

    def answer(self, operation: str, parameters: dict[str, Any]) -> Answer:
        with self.lock:
            if operation.startswith("Create"):
                return self.create(parameters)
            if operation != "DescribeBatchSegmentJob":
                return error("AccessDeniedException")
            name = parameters["batchSegmentJobArn"].rpartition("/")[2]
            self.asked[name] += 1
            return self.describe(name, self.asked[name])

    def create(self, parameters: dict[str, Any]) -> Answer:
        name = parameters["jobName"]
        unfinished = [each for each in self.created if self.asked[each] < CALLS_UNTIL_ACTIVE]
        if name in self.created:
            return error("ResourceAlreadyExistsException")
        if len(unfinished) >= SLOTS:
            return error("LimitExceededException", message="More than 5 resources with PENDING status")
        self.asked[name] = 0
        self.created[name] = {
            "jobInput": parameters["jobInput"],
            "jobOutput": parameters["jobOutput"],
            "roleArn": parameters["roleArn"],
        }
        return Answer({"batchSegmentJobArn": job_arn(name)})

    def describe(self, name: str, count: int) -> Answer:
        kind = name.partition("-")[0]
        if kind == "created" and name not in self.created:
            return error("ResourceNotFoundException")
        if count < CALLS_UNTIL_ACTIVE:
            return describe(name, "CREATE IN_PROGRESS", **self.created.get(name, {}))
        endings = {
            "hangs": Answer(hangs=True),
            "odd": describe(name, "CREATE FAILED", failureReason=ODD_REASON, numResults=10**30),
            "huge": describe(name, "CREATE FAILED", failureReason="x" * 4_000_000),
            "nan": describe(name, "ACTIVE", numResults=float("nan")),
            "denied": error("AccessDeniedException", 403, ODD_REASON),
            "another": describe("somebody-elses"),
            "page": Answer("<html>Accès".encode("latin-1"), 200, {"Content-Type": "text/html"}),
            "endless": Answer(b"x" * 65_536, is_endless=True),
            # Refused until the triggerer has read the connection again.
            "expired": error("ExpiredTokenException") if count == CALLS_UNTIL_ACTIVE else describe(name),
        }
        return endings.get(kind, describe(name, **self.created.get(name, {})))


def sensor(name: str, number: int = 0, **options: Any) -> dict[str, Any]:
    connection = CONNECTIONS[number % len(CONNECTIONS)]
    return {"job_arn": job_arn(name), "aws_conn_id": connection, "timeout": 3600, **options}


SENSORS = {
    **{f"good.{number}": sensor(f"good-{number % 4}", number) for number in range(12)},
    **{f"expired.{number}": sensor(f"expired-{number}", number) for number in range(3)},
    "nan": sensor("nan"),
    **{f"odd.{number}": sensor("odd", number) for number in range(3)},
    "huge": sensor("huge"),
    "denied": sensor("denied"),
    "soft": sensor("odd-soft", soft_fail=True),
    **{f"hangs.{number}": sensor(f"hangs-{number}", number, timeout=TIMEOUT) for number in range(9)},
    "another": sensor("another", timeout=TIMEOUT),
    "page": sensor("page", timeout=TIMEOUT),
    "endless": sensor("endless", timeout=TIMEOUT),
}
ENDS = {
    "good": "success",
    "expired": "success",
    "nan": "success",
    "odd": "failed",
    "huge": "failed",
    "denied": "failed",
    "soft": "skipped",
    "hangs": "failed",
    "another": "failed",
    "page": "failed",
    "endless": "failed",
    "create": "success",
    "neighbour": "success",
}
"""By what the task's ID begins with."""
WORDS = {
    "odd": "cut off \ufffd here \ufffd",
    "huge": r"characters in all\)",
    "denied": "AccessDeniedException",
    # The task gives its last call up when the call's own limit is over, too: either may come first.
    "hangs": "NoAnswer: no answer within|ReadTimeoutError: Read timeout",
    "another": "ResponseParserError: the response is about",
    "page": "No answer when the timeout",
    "endless": "ResponseParserError: the answer is longer than 4 MB",
}


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def running(tmp_path: Path, service: Service) -> Iterator[RunningAirflow]:
    with ScriptedEndpoint(service.answer) as endpoint:
        plan = {
            "sensors": SENSORS,
            "neighbours": NEIGHBOURS,
            "creates": CREATES,
            "solution_version_arn": SOLUTION_VERSION_ARN,
            "connections": CONNECTIONS,
            "poke_interval": POKE_INTERVAL,
        }
        settings = {f"AIRFLOW_CONN_{name.upper()}": endpoint.connection for name in CONNECTIONS}
        settings["PYTHONPATH"] = str(DAG_FILE.parent)  # for the neighbours' trigger
        with run_airflow(tmp_path, DAG_FILE, plan, endpoint.connection, settings) as running:
            yield running


def test_nothing_that_aws_sends_ends_a_triggerer_or_holds_it_up(
    running: RunningAirflow, service: Service, record_property: Callable[[str, object], None]
) -> None:
    begin = time.monotonic()
    running.wait_until(lambda: running.query("SELECT state FROM dag_run"), "the run has begun")
    running.wait_until_over("beside")  # fails as soon as the triggerer has ended
    print(f"{time.monotonic() - begin:.1f} s for {len(SENSORS)} sensors and {CREATES} creates")

    lost = running.lost_tasks()
    assert len(lost) <= MOST_LOST, lost
    tasks = {name: task for name, task in running.tasks().items() if name not in lost}
    assert len(tasks) == len(SENSORS) + CREATES + len(NEIGHBOURS) - len(lost)
    states = {name: task.state for name, task in tasks.items()}
    assert states == {name: ENDS[name.partition(".")[0]] for name in tasks}
    # Nothing was retried, whatever the trigger and the worker were doing at the same time.
    assert {name: task.try_number for name, task in tasks.items() if task.try_number != 1} == {}

    events = [each for each in running.events() if each["task_id"] not in lost]
    errors = {each["task_id"]: each["error"] for each in events if each["word"] == "failed"}
    assert set(errors) == {name for name, state in states.items() if state == "failed"}
    for name, text in errors.items():
        assert re.search(WORDS[name.partition(".")[0]], text), (name, text)

    assert sorted(service.created) == [f"created-{number}" for number in range(CREATES)]

    stalls = [each["longest_stall"] for each in events if each["word"] == "neighbour"]
    record_property("counted", f"the event loop stood still for {max(stalls):.2f} s at most")
    assert len(stalls) == sum(name.startswith("neighbour") for name in tasks)
    assert max(stalls) <= LONGEST_STALL

    log = (running.home / "triggerer.log").read_text(errors="replace")
    for sign in (
        "Response read out of order",
        "Trigger runner failed",
        "UnicodeEncodeError",
        "OverflowError",
    ):
        assert sign not in log
