"""A home of its own for Airflow, made before anything imports it, and none of the machine's AWS settings."""

from __future__ import annotations

import logging
import os
import runpy
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.loaders import JSONFileLoader
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from scripted_endpoint import ScriptedEndpoint

PROJECT = Path(__file__).parent.parent
AIRFLOW_HOME = Path(tempfile.mkdtemp(prefix="airflow-home-"))
DAGS_FOLDER = AIRFLOW_HOME / "dags"

for name in [name for name in os.environ if name.startswith(("AIRFLOW_", "AWS_", "BOTO_", "MOTO_"))]:
    del os.environ[name]
os.environ |= {
    "AIRFLOW_HOME": str(AIRFLOW_HOME),
    "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS_FOLDER),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
    # Airflow 3.2 runs no DAG by dag.test() without one.
    "AIRFLOW__API_AUTH__JWT_SECRET": "the secrets in tests are made up, and this one is long enough",
    # What a test does not give is not there: no settings of the machine's, and no metadata service.
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1,localhost",
}

# A busy machine is no bug: cases are counted, not timed.
settings.register_profile("default", deadline=None, print_blob=True)
settings.load_profile("default")

# botocore reads its models anew for every session, which is two fifths of what these tests compute.
JSONFileLoader.load_file = staticmethod(cache(JSONFileLoader().load_file))

# For what test files share and import by name: ``running_airflow.harness``.
sys.path.append(str(Path(__file__).parent))

pytest_plugins = ["airflow_provider_personalize_segments.testing.fixtures"]


def pytest_configure(config: pytest.Config) -> None:
    if version("apache-airflow").startswith(("3.0.", "3.1.", "3.2.")):
        # These lines get no more releases: they, and the libraries of their time, use names that newer
        # libraries and providers deprecate. What our own modules use still fails the tests.
        for line in (
            "ignore::DeprecationWarning",
            "ignore:The `airflow.operators",
            "error::DeprecationWarning:airflow_provider_personalize_segments",
        ):
            config.addinivalue_line("filterwarnings", line)


class OneAirflowAfterTheOther(LoadScopeScheduling):
    """
    Hands each test to the next free worker, but all that have a running Airflow to two workers.

    Two running Airflows are as much as two cores carry. xdist's own groups do nothing with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        module = Path(nodeid.partition("::")[0]).stem
        return _RUNNING_AIRFLOWS.get(module, nodeid)


_RUNNING_AIRFLOWS = {
    "test_running_creation": "creating",
    "test_standalone": "creating",
    "test_running_airflow": "waiting",
    "test_running_triggerer": "waiting",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return OneAirflowAfterTheOther(config, log)


def pytest_unconfigure() -> None:
    shutil.rmtree(AIRFLOW_HOME, ignore_errors=True)


@dataclass
class Run:
    """How a DAG run ended."""

    state: str
    states: dict[str, str]
    """Task states by task ID; mapped ones as ``task[0]``."""
    errors: dict[str, BaseException]
    """What failed tasks raised, by task ID."""
    _dag_run: Any

    def xcom(self, task_id: str, map_index: int = -1) -> Any:
        (instance,) = (
            each
            for each in self._dag_run.get_task_instances()
            if (each.task_id, each.map_index) == (task_id, map_index)
        )
        return instance.xcom_pull(task_ids=task_id, map_indexes=map_index)


@pytest.fixture(scope="session")
def _airflow_database() -> None:
    from airflow_database import migrate

    DAGS_FOLDER.mkdir()
    migrate(AIRFLOW_HOME, dict(os.environ))


@pytest.fixture
def run_dag(_airflow_database: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """
    Run a DAG file through Airflow itself.

    :param source: a DAG file, or the text of one; its DAG is called ``dag``
    :param conf: the DAG run's configuration
    :param poke_interval: replaces the tasks' own, which are for jobs that take half an hour
    :param retries: replaces the tasks' own; ``dag.test`` gives no task a second try
    """

    def run(
        source: Path | str,
        conf: dict[str, Any] | None = None,
        poke_interval: float | None = None,
        retries: int | None = None,
    ) -> Run:
        for path in DAGS_FOLDER.glob("*.py"):
            path.unlink()
        path = DAGS_FOLDER / (source.name if isinstance(source, Path) else "dag_of_test.py")
        path.write_text(source.read_text() if isinstance(source, Path) else source)
        dag = runpy.run_path(str(path))["dag"]
        errors: dict[str, BaseException] = {}

        def keep_error(context: Any) -> None:
            if "exception" in context:  # in dag.test of Airflow 3.0 it is not
                errors[context["ti"].task_id] = context["exception"]

        if not version("apache-airflow").startswith("2."):
            _keep_errors(monkeypatch, errors)
            _keep_api_server(monkeypatch)
        if version("apache-airflow").startswith("3.0."):
            _read_reschedule_dates(monkeypatch)
        for task in dag.tasks:
            target = getattr(task, "partial_kwargs", None) or vars(task)  # mapped, or not
            target["on_failure_callback"] = [keep_error]
            for name in ("poke_interval", "poll_interval"):
                if poke_interval is not None and name in target:
                    target[name] = poke_interval
            if retries is not None:
                target["retries"] = retries
        dag_run = dag.test(run_conf=conf)
        states = {
            each.task_id if each.map_index < 0 else f"{each.task_id}[{each.map_index}]": str(each.state)
            for each in dag_run.get_task_instances()
        }
        return Run(str(dag_run.state), states, errors, dag_run)

    return run


def _keep_errors(monkeypatch: pytest.MonkeyPatch, errors: dict[str, BaseException]) -> None:
    """Keep what failed tasks raise: ``dag.test`` of Airflow 3.1 calls no failure callback."""
    from airflow.sdk.execution_time import task_runner

    run_task = task_runner.run

    def watched(ti: Any, *args: Any, **kwargs: Any) -> Any:
        state, message, error = run_task(ti, *args, **kwargs)
        if str(getattr(state, "value", state)) == "failed" and error is not None:
            errors[ti.task_id] = error
        return state, message, error

    monkeypatch.setattr(task_runner, "run", watched)


@cache
def _in_process_api_server() -> Any:
    from airflow.api_fastapi.execution_api.app import InProcessExecutionAPI

    return InProcessExecutionAPI()


def _keep_api_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the API that ``dag.test`` asks only once, as Airflow 3.3 does; making it takes 2 s."""
    from airflow.sdk.execution_time import supervisor

    monkeypatch.setattr(supervisor, "in_process_api_server", _in_process_api_server)


def _read_reschedule_dates(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Make a date of the text that ``dag.test`` of Airflow 3.0 hands on when a sensor was rescheduled.

    A worker of its own reads it from JSON, so only ``dag.test`` fails to subtract it from a date.
    """
    from airflow.sdk.api.client import TaskInstanceOperations, TaskRescheduleStartDate

    ask = TaskInstanceOperations.get_reschedule_start_date

    def ask_for_date(*args: Any, **kwargs: Any) -> TaskRescheduleStartDate:
        return TaskRescheduleStartDate(start_date=ask(*args, **kwargs).start_date)

    monkeypatch.setattr(TaskInstanceOperations, "get_reschedule_start_date", ask_for_date)


@pytest.fixture(autouse=True)
def _no_pause_before_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away a pause that only a scheduler and a worker need; where these run, they have it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Airflow 2 warns of its own settings when it is imported
        triggers = import_module("airflow_provider_personalize_segments.waiting.trigger")
    monkeypatch.setattr(triggers, "EARLIEST_EVENT", 0.0)


@pytest.fixture
def read_log(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return what was logged since the last reading: Airflow 3 writes to the screen, 2 hands to logging."""
    caplog.set_level(logging.INFO)

    def read() -> list[str]:
        records = [record for record in caplog.records if record.name.startswith("airflow.task")]
        lines = [f"{record.levelname.lower()} {record.getMessage()}" for record in records]
        caplog.clear()
        captured = capsys.readouterr()
        return lines or [*captured.out.splitlines(), *captured.err.splitlines()]

    return read


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], ScriptedEndpoint]]:
    """Return a function that serves an answer, or what a function returns, as the default connection."""
    from scripted_endpoint import ScriptedEndpoint

    with ExitStack() as stack:

        def make(answer: Any) -> ScriptedEndpoint:
            respond = answer if callable(answer) else lambda *_: answer
            endpoint = stack.enter_context(ScriptedEndpoint(respond))
            monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", endpoint.connection)
            return endpoint

        yield make
