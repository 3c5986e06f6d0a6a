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
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from scripted_endpoint import ScriptedEndpoint

    from airflow_provider_personalize_segments.testing.runs import DagRunResult

PROJECT = Path(__file__).parent.parent
AIRFLOW_HOME = Path(tempfile.mkdtemp(prefix="airflow-home-"))
DAGS_FOLDER = AIRFLOW_HOME / "dags"

for name in [
    name for name in os.environ if name.startswith(("AIRFLOW_", "AWS_", "BOTO_", "MOTO_", "OPENLINEAGE_"))
]:
    del os.environ[name]
os.environ |= {
    "AIRFLOW_HOME": str(AIRFLOW_HOME),
    "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS_FOLDER),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
    # What a test does not give is not there: no settings of the machine's, and no metadata service.
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1,localhost",
}

# A busy machine is no bug: cases are counted, not timed.
settings.register_profile("default", deadline=None, print_blob=True)
settings.register_profile("fuzz", deadline=None, print_blob=True, max_examples=20_000)
settings.load_profile("default")

# For what test files share and import by name: ``running_airflow.harness``.
sys.path.append(str(Path(__file__).parent))

from lines import HAS_LIBRARIES_OF_ITS_TIME  # noqa: E402 - found on the path that the line above extends
from repetition import spare_botocore, spare_collector, spare_painting  # noqa: E402 - the same

spare_botocore()
if version("apache-airflow").startswith("3.0."):
    spare_painting()

pytest_plugins = ["airflow_provider_personalize_segments.testing.fixtures"]


def pytest_configure(config: pytest.Config) -> None:
    if HAS_LIBRARIES_OF_ITS_TIME:
        # What our own modules use still fails the tests.
        for line in (
            "ignore::DeprecationWarning",
            "ignore:The `airflow.operators",
            "error::DeprecationWarning:airflow_provider_personalize_segments",
        ):
            config.addinivalue_line("filterwarnings", line)


class OneAirflowAfterTheOther(LoadScopeScheduling):
    """
    Hands each test to the next free worker, but most that drive a running Airflow to two workers.

    Two of them, and later a third, are as much as two cores carry. Tests that share a run of a DAG, or a
    command, share a worker. xdist's own groups do nothing with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        module = Path(nodeid.partition("::")[0]).stem
        return _SHARED_RUNS.get(module, nodeid)


_SHARED_RUNS = {
    "test_running_creation": "creating",
    "test_running_watcher": "waiting",
    "test_running_airflow": "waiting",
    "test_openlineage": "openlineage",
    "test_provider_info": "provider_info",
}


_SLOW_ONES = ("test_standalone", "test_running_creation", "test_hanging_calls", "test_readme")
"""Modules with tests that wait or compute for long. Begun last, one would keep a single worker busy."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in _SLOW_ONES)


def pytest_collection_finish() -> None:
    """By now Airflow is imported."""
    spare_collector()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what tests have counted, which is of interest when they pass, too."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "counted" and report.when == "call":
                terminalreporter.section(report.nodeid.partition("::")[2])
                terminalreporter.write_line(value)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return OneAirflowAfterTheOther(config, log)


def pytest_unconfigure() -> None:
    shutil.rmtree(AIRFLOW_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def _airflow_database() -> None:
    from airflow_provider_personalize_segments.testing.airflow_database import put_database

    DAGS_FOLDER.mkdir()
    put_database(AIRFLOW_HOME / "airflow.db")


@pytest.fixture
def run_dag(tmp_path: Path) -> Callable[..., DagRunResult]:
    """
    Run a DAG file through Airflow itself, as ``personalize.run()`` does, with the connections of the test.

    :param source: a DAG file, or the text of one; its DAG is called ``dag``
    :param conf: the DAG run's configuration
    :param poke_interval: the most seconds between two looks; ``None`` leaves the tasks' own
    :param retries: replaces the tasks' own
    """
    from airflow_provider_personalize_segments.testing import runs

    def run(
        source: Path | str,
        conf: dict[str, Any] | None = None,
        poke_interval: float | None = None,
        retries: int | None = None,
    ) -> DagRunResult:
        path = source
        if isinstance(source, str):
            path = tmp_path / "dag_of_test.py"
            path.write_text(source)
        dag = runpy.run_path(str(path))["dag"]
        for task in dag.tasks:
            if retries is not None:
                (getattr(task, "partial_kwargs", None) or vars(task))["retries"] = retries
        return runs.run_dag(dag, environment={}, conf=conf, poke_interval=poke_interval)

    return run


@pytest.fixture(autouse=True)
def _no_pause_before_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away a pause that only a scheduler and a worker need; where these run, they have it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Airflow 2 warns of its own settings when it is imported
        triggers = import_module("airflow_provider_personalize_segments.waiting.trigger")
        if version("apache-airflow").startswith("2."):
            # Airflow makes its list of providers once, for the first test that asks. With 2.11.0's libraries
            # Airflow warns meanwhile, and a warning that is an error leaves no list.
            import_module("airflow.providers_manager").ProvidersManager()
    monkeypatch.setattr(triggers, "LONGEST_PAUSE", 0.0)


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
