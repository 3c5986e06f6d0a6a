"""Fifty deferred sensors in a running Airflow: the triggerer is killed, the service fails, all end right."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from running_airflow.harness import RunningAirflow, run_airflow

from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.testing import LocalPersonalize

POKE_INTERVAL = 3.0
SENSORS_BY_JOB = {
    "early-many": 20,
    "early-one": 1,
    "late-many": 15,
    "late-few": 4,
    "late-one": 1,
    "failing": 8,
}
ENDLESS = "endless"
JOBS = [*SENSORS_BY_JOB, ENDLESS]
FAILURE_REASON = "The service role may not write to s3://example-bucket/output/"
SHORT_TIMEOUT = 80.0
"""Of the sensor whose job never ends; the triggerer is gone and back well before it is over."""
SHORTEST_WAIT_BEFORE_KILL = 30.0
LATENESS = 25.0
"""Less than a clock that starts again with the triggerer would be late, more than a busy machine is."""
SECONDS_OF_SERVER_ERRORS = 12.0
CALLS_AT_AN_EVEN_PACE = 4
THROTTLED_CALLS = 5

DAG_FILE = Path(__file__).parent / "running_airflow" / "waiting.py"


@pytest.fixture
def local() -> Iterator[LocalPersonalize]:
    with LocalPersonalize(progress="by_hand") as control:
        yield control


@pytest.fixture
def arns(local: LocalPersonalize) -> dict[str, str]:
    version = local.add_solution_version("segments")
    return {
        job: local.add_job(
            BatchJobKind.SEGMENT, job, solution_version_arn=version, status="CREATE IN_PROGRESS"
        )
        for job in JOBS
    }


@pytest.fixture
def running(tmp_path: Path, local: LocalPersonalize, arns: dict[str, str]) -> Iterator[RunningAirflow]:
    plan = {
        "arns": arns,
        "sensors_by_job": SENSORS_BY_JOB,
        "endless": ENDLESS,
        "poke_interval": POKE_INTERVAL,
        "short_timeout": SHORT_TIMEOUT,
    }
    with run_airflow(tmp_path, DAG_FILE, plan, local.airflow_connection()) as running:
        yield running


def test_fifty_deferred_sensors_end_as_they_should_whatever_happens(
    running: RunningAirflow, local: LocalPersonalize, arns: dict[str, str]
) -> None:
    begin = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - begin:6.1f} s  {what}", flush=True)

    def calls_by_job(only_faulty: bool = False) -> Counter[str]:
        return Counter(
            call.parameters["batchSegmentJobArn"]
            for call in local.calls
            if call.operation == "DescribeBatchSegmentJob" and (call.faults or not only_faulty)
        )

    def every_job_has(calls: int, only_faulty: bool = False) -> bool:
        counts = calls_by_job(only_faulty)
        return all(counts[arn] >= calls for arn in arns.values())

    def sensors_of(*jobs: str) -> list[str]:
        return [f"wait.{job}." for job in jobs]

    changed: dict[str, datetime] = {}

    def end_jobs(*jobs: str, status: str = "ACTIVE", reason: str | None = None) -> None:
        for job in jobs:
            changed[job] = datetime.now(UTC)
            local.set_status(arns[job], status, reason)

    number = sum(SENSORS_BY_JOB.values()) + 1
    assert number == 50

    # All wait in the triggerer, the one with the short timeout last.
    running.wait_until(lambda: running.states("wait.")["deferred"] == number - 1, "all but one are deferred")
    tell("49 deferred")
    (running.dags / "gate").touch()
    running.wait_until(lambda: running.states("wait.")["deferred"] == number, "all are deferred")
    start = running.tasks("wait.")[f"wait.{ENDLESS}.0"].start
    assert start is not None
    tell("50 deferred")

    # They cost as many calls as there are jobs.
    local.clear_calls()
    watch = time.monotonic()
    running.wait_until(lambda: every_job_has(CALLS_AT_AN_EVEN_PACE), "every job was asked about")
    calls, intervals = len(local.calls), (time.monotonic() - watch) / POKE_INTERVAL
    tell(f"{calls} calls about {len(JOBS)} jobs in {intervals:.1f} intervals for {number} triggers")
    assert calls <= len(JOBS) * (intervals + 2)
    assert calls < number * intervals / 3

    # The triggerer dies, and another takes over.
    running.wait_until(
        lambda: (datetime.now(UTC) - start).total_seconds() >= SHORTEST_WAIT_BEFORE_KILL,
        "the short timeout is partly over",
    )
    running.kill("triggerer")
    tell("triggerer killed")
    local.clear_calls()
    assert running.states("wait.") == {"deferred": number}
    running.start_triggerer()
    running.wait_until(lambda: every_job_has(1), "the new triggerer asks about every job")
    back = datetime.now(UTC)
    tell("triggerer back")
    assert (back - start).total_seconds() < SHORT_TIMEOUT - 5, "too slow a machine to tell anything"

    # The service fails.
    local.clear_calls()
    local.faults.server_error()
    failing_since = time.monotonic()
    running.wait_until(
        lambda: (
            every_job_has(2, only_faulty=True)
            and time.monotonic() - failing_since >= SECONDS_OF_SERVER_ERRORS
        ),
        "every job was asked about in vain",
    )
    server_errors = calls_by_job(only_faulty=True).total()
    local.faults.clear()
    tell(f"{server_errors} server errors")
    assert running.states("wait.")["deferred"] >= number - 1  # the time of one may be over

    # It throttles, while the first jobs end; not for long, as who is unlucky would wait for minutes.
    local.clear_calls()
    local.faults.throttle(share=0.5)
    early = [job for job in SENSORS_BY_JOB if job.startswith("early")]
    early_number = sum(SENSORS_BY_JOB[job] for job in early)
    end_jobs(*early)
    running.wait_until(
        lambda: calls_by_job(only_faulty=True).total() >= THROTTLED_CALLS, "calls are throttled"
    )
    throttled, answered = calls_by_job(only_faulty=True).total(), len(local.calls)
    local.faults.clear()
    tell(f"{throttled} of {answered} calls throttled")
    running.wait_until(
        lambda: running.states(*sensors_of(*early)) == {"success": early_number},
        "the first jobs' sensors end",
    )
    tell(f"the first {early_number} sensors have ended")

    # The others end.
    late = [job for job in SENSORS_BY_JOB if job.startswith("late")]
    assert running.states(*sensors_of(*late, "failing")) == {"deferred": number - 1 - early_number}
    end_jobs(*late)
    end_jobs("failing", status="CREATE FAILED", reason=FAILURE_REASON)
    running.wait_until(
        lambda: running.query("SELECT state FROM dag_run") == [("failed",)], "the DAG run has ended"
    )
    tell("all ended")

    tasks = running.tasks()
    ends = running.events()
    by_task = {each["task_id"]: each for each in ends}
    assert [name for name, count in Counter(each["task_id"] for each in ends).items() if count > 1] == []
    for job, sensors in (SENSORS_BY_JOB | {ENDLESS: 1}).items():
        word = "failed" if job in ("failing", ENDLESS) else "success"
        for name in (f"wait.{job}.{index}" for index in range(sensors)):
            assert (tasks[name].state, tasks[name].try_number) == (word, 1), name
            assert by_task[name]["word"] == word, name
            if job in changed:
                assert datetime.fromisoformat(by_task[name]["time"]) >= changed[job], name
                assert tasks[name].end >= changed[job], name
        ran = by_task.get(f"after.{job}")
        if word == "failed":
            assert ran is None
            assert tasks[f"after.{job}"].state == "upstream_failed"
        else:
            last = max(by_task[f"wait.{job}.{index}"]["time"] for index in range(sensors))
            assert ran["word"] == "ran"
            assert ran["time"] > last
            assert (tasks[f"after.{job}"].state, tasks[f"after.{job}"].try_number) == ("success", 1)
    assert len(ends) == number + len(early) + len(late)
    assert running.query("SELECT task_id, try_number FROM task_instance_history") == []

    for index in range(SENSORS_BY_JOB["failing"]):
        name = f"wait.failing.{index}"
        assert FAILURE_REASON in by_task[name]["error"]
        assert FAILURE_REASON in running.task_log(name)

    # The deadline is the one set at the start.
    name = f"wait.{ENDLESS}.0"
    took = (datetime.fromisoformat(by_task[name]["time"]) - start).total_seconds()
    tell(f"timed out after {took:.1f} s, set to {SHORT_TIMEOUT:.0f} s")
    assert SHORT_TIMEOUT <= took <= SHORT_TIMEOUT + LATENESS
    assert (back - start).total_seconds() > LATENESS
    assert "CREATE IN_PROGRESS" in by_task[name]["error"]
