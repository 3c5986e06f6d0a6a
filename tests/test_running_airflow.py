"""Fifty deferred sensors in a running Airflow: the triggerer is killed, the service fails, all end right."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import airflow
import psutil
import pytest

from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.testing import LocalPersonalize
from airflow_provider_personalize_segments.testing.standalone import find_port

IS_AIRFLOW_3 = not airflow.__version__.startswith("2.")
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
SHORT_TIMEOUT = 75.0
"""Of the sensor whose job never ends; the triggerer is gone and back well before it is over."""
SHORTEST_WAIT_BEFORE_KILL = 20.0
LATENESS = 15.0
"""Less than a clock that starts again with the triggerer would be late, more than a busy machine is."""
SECONDS_OF_SERVER_ERRORS = 12.0
CALLS_AT_AN_EVEN_PACE = 4
THROTTLED_CALLS = 5
SECONDS_TO_STOP = 5.0
PATIENCE = 300.0
"""Seconds until waiting for anything is given up; a machine that others use, too, is slow."""

DAG_FILE = Path(__file__).parent / "running_airflow" / "waiting.py"


class TaskInstance(NamedTuple):
    """What the database says about a task."""

    state: str | None
    try_number: int
    start: datetime | None
    end: datetime | None


class RunningAirflow:
    """Airflow's parts as processes of their own, each in a session of its own."""

    def __init__(self, home: Path, plan: dict[str, Any], connection: str) -> None:
        self.home = home
        self.dags = home / "dags"
        self.dags.mkdir()
        (self.dags / "plan.json").write_text(json.dumps(plan))
        shutil.copy(DAG_FILE, self.dags)
        self.database = home / "airflow.db"
        self.port = find_port(0)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = os.environ | {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW_CONN_AWS_DEFAULT": connection,
            # Airflow's parts write at the same time, and SQLite lets one at a time.
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.database}?timeout=60",
            # Before 3.0 Airflow asks for another database; for a few dozen short tasks this one does.
            "_AIRFLOW__SKIP_DATABASE_EXECUTOR_COMPATIBILITY_CHECK": "1",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "8",
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            # Every part has to have the same, and each would make its own.
            "AIRFLOW__CORE__FERNET_KEY": "dGhlIHNlY3JldHMgaW4gdGVzdHMgYXJlIG1hZGUgdXA=",
            "AIRFLOW__API_AUTH__JWT_SECRET": "the secrets in tests are made up, and this one is long enough",
            "AIRFLOW__API__SECRET_KEY": "the secrets in tests are made up",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{self.port}",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{self.port}/execution/",
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
            "AIRFLOW__SCHEDULER__MIN_FILE_PROCESS_INTERVAL": "600",
            "AIRFLOW__SCHEDULER__PARSING_PROCESSES": "1",
            # Before 3.0 tasks that end schedule what follows, too: twice at once, where rows have no locks.
            "AIRFLOW__SCHEDULER__SCHEDULE_AFTER_TASK_EXECUTION": "False",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
            # How soon a new triggerer takes over from a dead one.
            "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "8",
        }
        # Imported before the tasks are forked, and not in each of them.
        (home / "config").mkdir()
        (home / "config" / "airflow_local_settings.py").write_text("import boto3")

    def migrate(self) -> None:
        command = [sys.executable, "-m", "airflow", "db", "migrate"]
        with (self.home / "migrate.log").open("wb") as log:
            output = {"stdout": log, "stderr": subprocess.STDOUT}
            subprocess.run(command, check=True, **output, env=self.environment, timeout=PATIENCE)
        with contextlib.closing(sqlite3.connect(self.database)) as database:
            database.execute("PRAGMA journal_mode=WAL")  # who reads does not wait for who writes

    def start(self, name: str, *options: str) -> None:
        with (self.home / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "airflow", name, *options],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )

    def start_all(self) -> None:
        if IS_AIRFLOW_3:
            self.start("api-server")
            self.start("dag-processor")
        self.start("triggerer", "--skip-serve-logs")
        if IS_AIRFLOW_3:
            wait_until(self.is_api_server_healthy, "the API server is healthy", self)
        self.start("scheduler", "--skip-serve-logs")

    def is_api_server_healthy(self) -> bool:
        url = f"http://127.0.0.1:{self.port}/api/v2/version"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
        return False

    def kill(self, name: str) -> None:
        kill_session(self.processes.pop(name))

    def stop_all(self) -> None:
        for process in self.processes.values():
            process.terminate()
        deadline = time.monotonic() + SECONDS_TO_STOP
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
            kill_session(process)

    def check_alive(self) -> None:
        for name, process in self.processes.items():
            assert process.poll() is None, f"airflow {name} ended with {process.returncode}"

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.database, timeout=60)) as database:
            return database.execute(statement).fetchall()

    def tasks(self, prefix: str = "wait.") -> dict[str, TaskInstance]:
        rows = self.query("SELECT task_id, state, try_number, start_date, end_date FROM task_instance")
        return {
            task_id: TaskInstance(state, try_number, read_time(start), read_time(end))
            for task_id, state, try_number, start, end in rows
            if task_id.startswith(prefix)
        }

    def states(self, *jobs: str) -> Counter[str | None]:
        """Return how many sensors are in which state, of all jobs or some."""
        tasks = self.tasks().items()
        return Counter(each.state for name, each in tasks if not jobs or name.split(".")[1] in jobs)

    def events(self) -> list[dict[str, str]]:
        path = self.dags / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def task_log(self, task_id: str) -> str:
        return "".join(path.read_text() for path in self.home.glob(f"logs/**/task_id={task_id}/*.log*"))

    def print_logs(self) -> None:
        for path in sorted(self.home.glob("*.log")):
            print(f"--- {path.name}", *path.read_text(errors="replace").splitlines()[-40:], sep="\n")
        for task_id, task in self.tasks("").items():
            print(task_id, *task)


def kill_session(leader: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that descend from it, in whatever group: Airflow gives its own to some."""
    leader.kill()
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == leader.pid:
                os.kill(pid, signal.SIGKILL)
    leader.wait()


def read_time(text: str | None) -> datetime | None:
    if text is None:
        return None
    parsed = datetime.fromisoformat(text)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def wait_until(condition: Callable[[], bool], what: str, running: RunningAirflow) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        running.check_alive()
        assert time.monotonic() < deadline, f"Not within {PATIENCE:.0f} s: {what}"
        time.sleep(0.3)


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
def running(
    tmp_path: Path, local: LocalPersonalize, arns: dict[str, str], request: pytest.FixtureRequest
) -> Iterator[RunningAirflow]:
    plan = {
        "arns": arns,
        "sensors_by_job": SENSORS_BY_JOB,
        "endless": ENDLESS,
        "poke_interval": POKE_INTERVAL,
        "short_timeout": SHORT_TIMEOUT,
    }
    running = RunningAirflow(tmp_path, plan, local.airflow_connection())
    try:
        running.migrate()
        running.start_all()
        yield running
    finally:
        running.stop_all()
        running.print_logs()


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

    changed: dict[str, datetime] = {}

    def end_jobs(*jobs: str, status: str = "ACTIVE", reason: str | None = None) -> None:
        for job in jobs:
            changed[job] = datetime.now(UTC)
            local.set_status(arns[job], status, reason)

    number = sum(SENSORS_BY_JOB.values()) + 1
    assert number == 50

    # All wait in the triggerer, the one with the short timeout last.
    wait_until(lambda: running.states()["deferred"] == number - 1, "all but one are deferred", running)
    tell("49 deferred")
    (running.dags / "gate").touch()
    wait_until(lambda: running.states()["deferred"] == number, "all are deferred", running)
    start = running.tasks()[f"wait.{ENDLESS}.0"].start
    assert start is not None
    tell("50 deferred")

    # They cost as many calls as there are jobs.
    local.clear_calls()
    watch = time.monotonic()
    wait_until(lambda: every_job_has(CALLS_AT_AN_EVEN_PACE), "every job was asked about", running)
    calls, intervals = len(local.calls), (time.monotonic() - watch) / POKE_INTERVAL
    tell(f"{calls} calls about {len(JOBS)} jobs in {intervals:.1f} intervals for {number} triggers")
    assert calls <= len(JOBS) * (intervals + 2)
    assert calls < number * intervals / 3

    # The triggerer dies, and another takes over.
    wait_until(
        lambda: (datetime.now(UTC) - start).total_seconds() >= SHORTEST_WAIT_BEFORE_KILL,
        "the short timeout is partly over",
        running,
    )
    running.kill("triggerer")
    tell("triggerer killed")
    local.clear_calls()
    assert running.states() == {"deferred": number}
    running.start("triggerer", "--skip-serve-logs")
    wait_until(lambda: every_job_has(1), "the new triggerer asks about every job", running)
    back = datetime.now(UTC)
    tell("triggerer back")
    assert (back - start).total_seconds() < SHORT_TIMEOUT - 5, "too slow a machine to tell anything"

    # The service fails.
    local.clear_calls()
    local.faults.server_error()
    failing_since = time.monotonic()
    wait_until(
        lambda: (
            every_job_has(2, only_faulty=True)
            and time.monotonic() - failing_since >= SECONDS_OF_SERVER_ERRORS
        ),
        "every job was asked about in vain",
        running,
    )
    server_errors = calls_by_job(only_faulty=True).total()
    local.faults.clear()
    tell(f"{server_errors} server errors")
    assert running.states()["deferred"] >= number - 1  # the time of one may be over

    # It throttles, while the first jobs end; not for long, as who is unlucky would wait for minutes.
    local.clear_calls()
    local.faults.throttle(share=0.5)
    early = [job for job in SENSORS_BY_JOB if job.startswith("early")]
    early_number = sum(SENSORS_BY_JOB[job] for job in early)
    end_jobs(*early)
    wait_until(
        lambda: calls_by_job(only_faulty=True).total() >= THROTTLED_CALLS, "calls are throttled", running
    )
    throttled, answered = calls_by_job(only_faulty=True).total(), len(local.calls)
    local.faults.clear()
    tell(f"{throttled} of {answered} calls throttled")
    wait_until(
        lambda: running.states(*early) == {"success": early_number}, "the first jobs' sensors end", running
    )
    tell(f"the first {early_number} sensors have ended")

    # The others end.
    late = [job for job in SENSORS_BY_JOB if job.startswith("late")]
    assert running.states(*late, "failing") == {"deferred": number - 1 - early_number}
    end_jobs(*late)
    end_jobs("failing", status="CREATE FAILED", reason=FAILURE_REASON)
    wait_until(
        lambda: running.query("SELECT state FROM dag_run") == [("failed",)], "the DAG run has ended", running
    )
    tell("all ended")

    tasks = running.tasks("")
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
