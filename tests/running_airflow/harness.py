"""Airflow's parts as real processes, to be killed, asked and stopped by the tests that share this."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sqlite3
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import airflow
import psutil
from running_airflow.parts import Part, PartStarter, start_part

from airflow_provider_personalize_segments.testing.airflow_database import put_database
from airflow_provider_personalize_segments.testing.ports import hold_port

IS_AIRFLOW_3 = not airflow.__version__.startswith("2.")
SECONDS_TO_STOP = 5.0
PATIENCE = 600.0
"""Seconds until waiting for anything is given up; a machine that others use, too, is slow."""


class TaskInstance(NamedTuple):
    """What the database says about a task."""

    state: str | None
    try_number: int
    start: datetime | None
    end: datetime | None


class RunningAirflow:
    """
    Airflow's parts as processes of their own, each in a session of its own.

    :param home: an empty folder
    :param dag_file: the only DAG file; its folder gets what the test and its tasks tell each other
    :param plan: what the DAG file reads from ``plan.json``
    :param connection: the connection ``aws_default``
    :param settings: environment variables besides the usual ones
    :param has_api: whether the tests use Airflow's REST API, which is a part of its own before 3.0
    """

    def __init__(
        self,
        home: Path,
        dag_file: Path,
        plan: Mapping[str, Any],
        connection: str,
        settings: Mapping[str, str] | None = None,
        has_api: bool = False,
        *,
        port: int,
    ) -> None:
        self.home = home
        self.dags = home / "dags"
        self.dags.mkdir()
        (self.dags / "plan.json").write_text(json.dumps(plan))
        shutil.copy(dag_file, self.dags)
        self.database = home / "airflow.db"
        self.port = port
        self.has_api = has_api
        self.processes: dict[str, Part] = {}
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
            "AIRFLOW__WEBSERVER__SECRET_KEY": "the secrets in tests are made up",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{self.port}",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{self.port}/execution/",
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
            # Who asks on loopback may do everything.
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__API__AUTH_BACKENDS": "airflow.api.auth.backend.default",
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
            **(settings or {}),
        }
        # Imported before the tasks are forked, and not in each of them.
        (home / "config").mkdir()
        (home / "config" / "airflow_local_settings.py").write_text("import boto3")
        (home / "webserver_config.py").write_text('AUTH_ROLE_PUBLIC = "Admin"')
        self.starter: PartStarter | None = None
        self._token: str | None = None

    # --- Its parts --------------------------------------------------------------------------------

    def migrate(self) -> None:
        put_database(self.database)
        with contextlib.closing(sqlite3.connect(self.database)) as database:
            database.execute("PRAGMA journal_mode=WAL")  # who reads does not wait for who writes

    def start(self, name: str, *options: str) -> None:
        log = self.home / f"{name}.log"
        if name == "scheduler":
            # Forked, its workers would be so quick that Airflow 3.0 starts a task before it has stored that
            # the task is queued, and fails it.
            self.processes[name] = start_part(self.environment, log, name, *options)
        else:
            self.processes[name] = self.starter.start(log, name, *options)

    def start_triggerer(self) -> None:
        self.start("triggerer", "--skip-serve-logs")

    def start_all(self) -> None:
        self.starter = PartStarter(self.environment, self.home / "starter.log")
        if IS_AIRFLOW_3:
            self.start("api-server")
            self.start("dag-processor")
        elif self.has_api:
            self.start("webserver", "--hostname", "127.0.0.1", "--port", str(self.port), "--workers", "1")
        self.start_triggerer()
        if IS_AIRFLOW_3:
            self.wait_until(self.is_api_healthy, "the API answers")
        self.start("scheduler", "--skip-serve-logs")
        if self.has_api:
            self.wait_until(self.is_api_healthy, "the API answers")

    def is_api_healthy(self) -> bool:
        url = f"http://127.0.0.1:{self.port}/api/{'v2' if IS_AIRFLOW_3 else 'v1'}/version"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
        return False

    def kill(self, name: str) -> None:
        self.processes.pop(name).kill()

    def stop_all(self) -> None:
        for process in self.processes.values():
            process.terminate()
        deadline = time.monotonic() + SECONDS_TO_STOP
        for process in self.processes.values():
            process.wait(max(0.1, deadline - time.monotonic()))
            process.kill()
        if self.starter is not None:
            self.starter.stop()

    def check_alive(self) -> None:
        for name, process in list(self.processes.items()):
            ended = process.has_ended() and self.processes.get(name) is process  # not killed by us
            assert not ended, f"airflow {name} ended"

    def wait_until(self, condition: Callable[[], Any], what: str | Callable[[], str]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            self.check_alive()
            if time.monotonic() >= deadline:
                raise AssertionError(f"Not within {PATIENCE:.0f} s: {what() if callable(what) else what}")
            time.sleep(0.3)

    # --- What its database, its tasks and its logs say --------------------------------------------

    def query(self, statement: str, *values: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.database, timeout=60)) as database:
            return database.execute(statement, values).fetchall()

    def tasks(self, *prefixes: str) -> dict[str, TaskInstance]:
        """Return all tasks, or those whose IDs begin in one of these ways; mapped ones as ``task[0]``."""
        rows = self.query(
            "SELECT task_id, map_index, state, try_number, start_date, end_date FROM task_instance"
        )
        return {
            task_id if map_index < 0 else f"{task_id}[{map_index}]": TaskInstance(
                state, try_number, read_time(start), read_time(end)
            )
            for task_id, map_index, state, try_number, start, end in rows
            if task_id.startswith(prefixes or "")
        }

    def states(self, *prefixes: str) -> Counter[str | None]:
        """Return how many of these tasks are in which state."""
        return Counter(task.state for task in self.tasks(*prefixes).values())

    def run_state(self, dag_id: str) -> str | None:
        """Return the state of a DAG's only run."""
        ((state,),) = self.query("SELECT state FROM dag_run WHERE dag_id = ?", dag_id)
        return state

    def wait_until_over(self, dag_id: str, meanwhile: Callable[[], object] = lambda: None) -> str | None:
        """Wait until a DAG's only run has ended, and return its state."""

        def is_over() -> bool:
            meanwhile()
            return self.run_state(dag_id) in ("success", "failed") or self._is_abandoned()

        self.wait_until(is_over, f"the run of {dag_id} has ended")
        return self.run_state(dag_id)

    def _is_abandoned(self) -> bool:
        """
        Tell whether Airflow 3.0 will never end a run whose tasks have all ended.

        It deactivates a DAG when it takes one of its tasks for lost, see :meth:`lost_tasks`.
        """
        is_stale = airflow.__version__.startswith("3.0.") and self.query("SELECT 1 FROM dag WHERE is_stale")
        ended = {"success", "failed", "skipped", "upstream_failed"}
        return bool(is_stale) and set(self.states()) <= ended

    def events(self) -> list[dict[str, Any]]:
        """Return what the tasks of the DAG file recorded."""
        path = self.dags / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def task_log(self, task_id: str, attempt: int | None = None) -> str:
        """Return what a task logged, on workers and in triggerers, in all its tries or one."""
        name = "*.log*" if attempt is None else f"attempt={attempt}.log*"
        return "".join(path.read_text() for path in self.home.glob(f"logs/**/task_id={task_id}/{name}"))

    def lost_tasks(self) -> set[str]:
        """
        Return the tasks that Airflow has taken for lost though they had deferred.

        On SQLite the scheduler can read a task's state from before the deferral, which is "running". A busy
        scheduler hears of the deferral when the trigger has fired already, and the task is "queued" again.
        The scheduler then fails or repeats the task, whichever operator that is. A trigger of ours that fires
        too early leaves the same line with "queued", so callers allow a few of many.
        """
        log = (self.home / "scheduler.log").read_text(errors="replace")
        task = r"<TaskInstance: \w+\.(\S+) .*\[(?:running|queued)\]"
        line = rf"reported that the task instance {task}.*finished with"
        return set(re.findall(line, log))

    def print_logs(self) -> None:
        for path in sorted(self.home.glob("*.log")):
            print(f"--- {path.name}", *path.read_text(errors="replace").splitlines()[-40:], sep="\n")
        for task_id, task in self.tasks().items():
            print(task_id, *task)

    # --- Its REST API -----------------------------------------------------------------------------

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Call the REST API and return the answer's JSON; ``None`` when there is no such thing."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/{'v2' if IS_AIRFLOW_3 else 'v1'}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        if IS_AIRFLOW_3:
            if self._token is None:
                url = f"http://127.0.0.1:{self.port}/auth/token"
                with urllib.request.urlopen(url, timeout=60) as answer:
                    self._token = json.load(answer)["access_token"]
            request.add_header("Authorization", f"Bearer {self._token}")
        # Where two requests write at once, Airflow on SQLite can wait for itself until a timeout.
        for tries_left in (2, 1, 0):
            try:
                with urllib.request.urlopen(request, timeout=90) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return None
                if error.code == 409 and tries_left < 2:
                    break  # done by the request before this one
                if error.code < 500 or not tries_left:
                    raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from error
            except TimeoutError:
                if not tries_left:
                    raise
        return None

    def trigger(self, dag_id: str, run_id: str = "run") -> None:
        """Start a DAG run, once Airflow knows the DAG."""
        self.wait_until(lambda: self.ask("GET", f"/dags/{dag_id}"), f"DAG {dag_id} is known")
        body = {"dag_run_id": run_id, "conf": {}, **({"logical_date": None} if IS_AIRFLOW_3 else {})}
        self.ask("POST", f"/dags/{dag_id}/dagRuns", body)
        assert self.ask("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["dag_run_id"] == run_id

    def links(self, dag_id: str, task_id: str, map_index: int = -1, run_id: str = "run") -> dict[str, Any]:
        """Return a task's extra links, ``None`` for each that it does not have yet."""
        path = f"{self._path(dag_id, task_id, run_id)}/links?map_index={map_index}"
        answer = self.ask("GET", path)
        return dict(answer["extra_links"] if IS_AIRFLOW_3 else answer)

    def xcom(
        self, dag_id: str, task_id: str, key: str = "return_value", map_index: int = -1, run_id: str = "run"
    ) -> Any:
        """Return a task's XCom; ``None`` when it does not have it."""
        path = f"{self._path(dag_id, task_id, run_id)}/xcomEntries/{key}?map_index={map_index}"
        answer = self.ask("GET", path)
        return None if answer is None else answer["value"]

    def fail_task(self, dag_id: str, task_id: str, run_id: str = "run") -> None:
        """Do what "Mark as failed" does in the user interface."""
        self.ask("PATCH", self._path(dag_id, task_id, run_id), {"new_state": "failed"} | _BEFORE_3_NOT_DRY)

    def clear_task(self, dag_id: str, task_id: str, run_id: str = "run") -> None:
        """Do what "Clear" does in the user interface."""
        body = {"dry_run": False, "dag_run_id": run_id, "task_ids": [task_id], "only_failed": False}
        self.ask("POST", f"/dags/{dag_id}/clearTaskInstances", {**body, "reset_dag_runs": True})

    def fail_unfinished_runs(self) -> None:
        """Stop all that still runs or waits."""
        for dag_id, run_id in self.query("SELECT dag_id, run_id FROM dag_run WHERE state = 'running'"):
            self.ask("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}", {"state": "failed"})

    @staticmethod
    def _path(dag_id: str, task_id: str, run_id: str) -> str:
        quoted = (urllib.parse.quote(each, safe="") for each in (dag_id, run_id, task_id))
        return "/dags/{}/dagRuns/{}/taskInstances/{}".format(*quoted)


_BEFORE_3_NOT_DRY = {} if IS_AIRFLOW_3 else {"dry_run": False}


@contextlib.contextmanager
def run_airflow(*parameters: Any, **named: Any) -> Iterator[RunningAirflow]:
    """Start a :class:`RunningAirflow`, and stop all of it at the end."""
    with hold_port() as port:
        running = RunningAirflow(*parameters, **named, port=port)
        try:
            running.migrate()
            running.start_all()
            yield running
        finally:
            running.stop_all()
            running.print_logs()


def kill_process(pid: int) -> None:
    """Kill a process, and return when it can do nothing any more."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        process.kill()
        while process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)


def read_time(text: str | None) -> datetime | None:
    if text is None:
        return None
    parsed = datetime.fromisoformat(text)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
