"""Runs a DAG or a task through Airflow itself, in this process, and tells how it ended.

Airflow's own ``dag.test()`` does the work. What it needs around it, and what it does differently from one
Airflow to the next, is here.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from types import SimpleNamespace
from typing import Any

from airflow_provider_personalize_segments.testing.airflow_database import (
    keep_environment,
    own_database,
    set_environment,
)

RETURN_VALUE = "return_value"


@dataclass(frozen=True)
class AssetEvent:
    """An event of an asset that a task emitted; before Airflow 3.0, of a dataset."""

    task: str
    """The task, by the same name as in ``states``."""
    uri: str
    """The asset's URI, as Airflow keeps it: without a slash at its end."""
    name: str
    """The asset's name; before Airflow 3.0, where there is none, the URI."""
    aliases: tuple[str, ...]
    """The aliases through which the task emitted it."""
    extra: Mapping[str, Any]
    """What the event says."""


@dataclass(frozen=True)
class DagRunResult:
    """How a DAG run ended."""

    state: str
    """``success`` or ``failed``."""
    states: Mapping[str, str]
    """How each task ended, by task ID: ``success``, ``failed``, ``skipped``, ``upstream_failed``; of a mapped
    task by ``task[0]``, ``task[1]`` and so on."""
    errors: Mapping[str, BaseException]
    """What each task that failed raised, by the same names."""
    map_names: Mapping[str, str]
    """The names that ``map_index_template`` gave to instances of mapped tasks, by the same names."""
    asset_events: Sequence[AssetEvent]
    """What the tasks emitted for DAGs that are scheduled on assets, in order."""
    _xcoms: Mapping[tuple[str, int], Mapping[str, Any]] = field(repr=False)

    @property
    def xcoms(self) -> dict[str, Any]:
        """
        What each task returned, by task ID; of a mapped task as a list, in the order of its map.

        A task that returned nothing is not in it; in the list of a mapped task it is ``None``.
        """
        found: dict[str, Any] = {}
        for (task_id, map_index), values in sorted(self._xcoms.items(), key=lambda item: item[0]):
            if map_index >= 0:
                found.setdefault(task_id, []).append(values.get(RETURN_VALUE))
            elif RETURN_VALUE in values:
                found[task_id] = values[RETURN_VALUE]
        return found

    def xcom(self, task_id: str, key: str = RETURN_VALUE, *, map_index: int = -1) -> Any:
        """
        Return a value that a task pushed to XCom; ``None`` when it pushed none.

        :param task_id: the task
        :param key: the key it was pushed under
        :param map_index: which instance of a mapped task, from 0 on
        :raises KeyError: when there was no such task
        """
        return self._xcoms[task_id, map_index].get(key)


def run_dag(
    dag_or_task: Any,
    *,
    environment: Mapping[str, str | None],
    conf: dict[str, Any] | None = None,
    logical_date: datetime | None = None,
    poke_interval: float | None = None,
    timeout: float | None = None,
) -> DagRunResult:
    """
    Run a DAG, or one task, through Airflow.

    :param dag_or_task: a DAG, or an operator or sensor, mapped or not; a task that belongs to a DAG is run
        without the tasks around it
    :param environment: environment variables for the time of the run; ``None`` removes one
    :param conf: the configuration of the DAG run
    :param logical_date: the logical date of the DAG run; ``None`` means now
    :param poke_interval: the most seconds between two looks of a task that waits, and between two tries of a
        task; ``None`` leaves what the tasks say
    :param timeout: the most seconds that a task waits; ``None`` leaves what the tasks say
    :returns: how it ended
    :raises TypeError: when it is neither a DAG nor a task
    """
    dag = _find_dag(dag_or_task)
    errors: dict[str, BaseException] = {}
    with contextlib.ExitStack() as exits:
        exits.enter_context(keep_environment("AIRFLOW_CTX_"))  # which tasks leave behind
        exits.enter_context(own_database())
        exits.enter_context(set_environment(environment))
        exits.enter_context(_shortened(dag, poke_interval, timeout))
        exits.enter_context(_prepared(errors))
        _store(dag)
        # Airflow 2 has an older name for it.
        named = inspect.signature(dag.test).parameters
        date = {"logical_date" if "logical_date" in named else "execution_date": logical_date}
        dag_run = dag.test(run_conf=conf, **(date if logical_date else {}))
        instances = dag_run.get_task_instances()
        states = {_name(each.task_id, each.map_index): str(each.state or "none") for each in instances}
        return DagRunResult(
            state=str(dag_run.state),
            states=states,
            errors={name: error for name, error in errors.items() if states.get(name) == "failed"},
            map_names={
                _name(each.task_id, each.map_index): str(each.rendered_map_index)
                for each in instances
                if each.rendered_map_index is not None
            },
            asset_events=_read_asset_events(),
            _xcoms={(each.task_id, each.map_index): _read_xcoms(each) for each in instances},
        )


def _find_dag(dag_or_task: Any) -> Any:
    from airflow.providers.common.compat.sdk import DAG

    if isinstance(dag_or_task, DAG):
        return dag_or_task
    # What a function decorated with @task returns, and the output of an operator, have an operator.
    task = getattr(dag_or_task, "operator", dag_or_task)
    if isinstance(task, type) or not hasattr(task, "task_id") or not hasattr(task, "get_dag"):
        raise TypeError(
            f"run takes a DAG, or an operator or sensor, got {dag_or_task!r}. "
            "A function decorated with @dag or @task has to be called first."
        )
    dag = task.get_dag()
    if dag is None:
        dag = DAG(task.task_id, schedule=None)
        dag.add_task(task)
    if list(dag.task_ids) == [task.task_id]:
        return dag
    return dag.partial_subset([task.task_id], include_upstream=False, include_downstream=False)


def _name(task_id: str, map_index: int | None) -> str:
    return task_id if map_index is None or map_index < 0 else f"{task_id}[{map_index}]"


def _read_xcoms(instance: Any) -> dict[str, Any]:
    try:
        from airflow.models.xcom import XComModel
    except ImportError:  # before Airflow 3.0
        from airflow.models.xcom import XCom as XComModel  # type: ignore[no-redef]
    from airflow.utils.session import create_session

    of_instance = {name: getattr(instance, name) for name in ("dag_id", "run_id", "task_id", "map_index")}
    with create_session() as session:
        keys = [row.key for row in session.query(XComModel.key).filter_by(**of_instance)]
    return {
        key: instance.xcom_pull(task_ids=instance.task_id, map_indexes=instance.map_index, key=key)
        for key in keys
    }


def _read_asset_events() -> list[AssetEvent]:
    """Return all events of assets in the database, which this run alone has written to."""
    try:
        from airflow.models.asset import AssetEvent as Event
    except ImportError:  # before Airflow 3.0
        from airflow.models.dataset import DatasetEvent as Event  # type: ignore[import-not-found,no-redef]
    from airflow.utils.session import create_session

    with create_session() as session:
        events: list[Any] = session.query(Event).order_by(Event.id).all()
        return [
            AssetEvent(
                _name(each.source_task_id, each.source_map_index),
                each.uri,
                str(getattr(each, "name", each.uri)),
                tuple(sorted(alias.name for alias in each.source_aliases)),
                dict(each.extra),
            )
            for each in events
        ]


# --- Waits ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _shortened(dag: Any, interval: float | None, timeout: float | None) -> Iterator[None]:
    """Cap the waits of all tasks, which are for jobs of half an hour, and give the tasks theirs back."""
    with contextlib.ExitStack() as exits:
        for task in dag.tasks:
            for name, limit in _find_waits(task, interval, timeout).items():
                exits.enter_context(_capped(_values_of(task), name, limit))
        if interval is not None:
            exits.enter_context(_without_pause_before_events())
        yield


def _find_waits(task: Any, interval: float | None, timeout: float | None) -> dict[str, Any]:
    """Return the limits for one task, by the names of its parameters."""
    kind: Any = getattr(task, "operator_class", type(task))
    names = {*_values_of(task), *_parameters(kind)}
    intervals = names & {"poke_interval", "poll_interval"}
    limits: dict[str, Any] = {}
    if interval is not None:
        limits = {**dict.fromkeys(intervals, interval), "retry_delay": timedelta(seconds=interval)}
    # Other tasks than those that wait may mean something else by it.
    if timeout is not None and intervals:
        limits["timeout"] = timeout
    mapped_over = getattr(getattr(task, "expand_input", None), "value", {})
    return {name: limit for name, limit in limits.items() if name not in mapped_over}


@cache
def _parameters(kind: Any) -> frozenset[str]:
    """Return the names of an operator's parameters, those of the classes it inherits from included."""
    found: set[str] = set()
    for each in getattr(kind, "__mro__", ()):
        with contextlib.suppress(TypeError, ValueError):
            found.update(inspect.signature(each.__init__).parameters)
    return frozenset(found)


def _values_of(task: Any) -> dict[str, Any]:
    # A mapped task makes its instances from these.
    partial: dict[str, Any] | None = getattr(task, "partial_kwargs", None)
    return vars(task) if partial is None else partial


@contextlib.contextmanager
def _capped(values: dict[str, Any], name: str, limit: Any) -> Iterator[None]:
    had, old = name in values, values.get(name)
    seconds = old.total_seconds() if isinstance(old, timedelta) else old
    most = limit.total_seconds() if isinstance(limit, timedelta) else limit
    if isinstance(seconds, (int, float)) and seconds <= most:
        yield
        return
    values[name] = limit
    try:
        yield
    finally:
        if had:
            values[name] = old
        else:
            del values[name]


@contextlib.contextmanager
def _without_pause_before_events() -> Iterator[None]:
    """Take away a pause that only a scheduler and a worker need."""
    from airflow_provider_personalize_segments.waiting import trigger

    before = trigger.EARLIEST_EVENT
    trigger.EARLIEST_EVENT = 0.0
    try:
        yield
    finally:
        trigger.EARLIEST_EVENT = before


# --- What dag.test() needs ------------------------------------------------------------------------


def _store(dag: Any) -> None:
    """
    Write the DAG to the database, as the DAG processor does.

    From Airflow 3.1 on ``dag.test()`` looks for it there, and otherwise in the DAGs folder, where the DAG of
    a test is not.
    """
    try:
        from airflow.dag_processing.dagbag import sync_bag_to_db
    except ImportError:
        try:
            from airflow.models.dagbag import sync_bag_to_db  # type: ignore[no-redef]  # Airflow 3.1
        except ImportError:
            if hasattr(dag, "sync_to_db"):
                dag.sync_to_db()  # Airflow 2, whose tasks look for the aliases of datasets there
                return
            from airflow.models.dagbag import DagBag  # Airflow 3.0, whose tasks look for assets there

            sync_bag_to_db = DagBag.sync_to_db
            # Of a DAG without a file it takes nothing.
            dag.relative_fileloc = dag.relative_fileloc or f"{dag.dag_id}.py"
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    manager: Any = DagBundlesManager  # it carries no types
    manager().sync_bundles_to_db()
    # What it reads of a DagBag, whose way of being made differs between Airflows.
    bag: Any = SimpleNamespace(
        dags={dag.dag_id: dag},
        import_errors={},
        dag_warnings=set(),
        bundle_path=None,
        file_last_changed={},
    )
    sync_bag_to_db(bag, "dags", None)


@contextlib.contextmanager
def _prepared(errors: dict[str, BaseException]) -> Iterator[None]:
    """Have ``dag.test()`` keep what tasks raise, by name, and do without what some Airflows do wrong."""
    try:
        import airflow.sdk  # noqa: F401
    except ImportError:  # before Airflow 3.0
        mended = _mend_airflow_2(errors)
    else:
        mended = _mend_airflow_3(errors)
    with mended:
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def _mend_airflow_3(errors: dict[str, BaseException]) -> Iterator[None]:
    from airflow.sdk.api.client import TaskInstanceOperations
    from airflow.sdk.execution_time import supervisor, task_runner

    run_task = task_runner.run
    ask_for_date = TaskInstanceOperations.get_reschedule_start_date

    # Not by a failure callback: Airflow 3.0 tells it no exception, and 3.1 calls none.
    def run_and_keep(ti: Any, *args: Any, **named: Any) -> Any:
        outcome = run_task(ti, *args, **named)
        if outcome[2] is not None:
            errors[_name(ti.task_id, ti.map_index)] = outcome[2]
        return outcome

    # Airflow 3.0 hands a text on, which a worker of its own would read from JSON as a date.
    def ask_and_read(*args: Any, **named: Any) -> Any:
        answer = ask_for_date(*args, **named)
        return type(answer)(start_date=answer.start_date)

    with contextlib.ExitStack() as exits:
        exits.enter_context(_replaced(task_runner, "run", run_and_keep))
        exits.enter_context(_replaced(TaskInstanceOperations, "get_reschedule_start_date", ask_and_read))
        if not hasattr(supervisor.in_process_api_server, "cache_info"):
            # Airflow 3.3 makes it only once, too; making it takes 2 s.
            exits.enter_context(_replaced(supervisor, "in_process_api_server", _make_api_server))
        yield


@cache
def _make_api_server() -> Any:
    from airflow.api_fastapi.execution_api.app import InProcessExecutionAPI

    return InProcessExecutionAPI()


@contextlib.contextmanager
def _mend_airflow_2(errors: dict[str, BaseException]) -> Iterator[None]:
    from airflow.models import dag as dag_module
    from airflow.models.taskinstance import TaskInstance

    handle_failure, run_task = TaskInstance.handle_failure, dag_module._run_task

    def keep_and_handle(instance: Any, error: Any, *args: Any, **named: Any) -> Any:
        if isinstance(error, BaseException):
            errors[_name(instance.task_id, instance.map_index)] = error
        return handle_failure(instance, error, *args, **named)

    # A trigger that raises would leave its task running, and dag.test() waiting for it for ever.
    def run_and_end(*, ti: Any, **named: Any) -> Any:
        try:
            return run_task(ti=ti, **named)
        except Exception as error:
            if str(ti.state) in ("running", "deferred"):
                errors[_name(ti.task_id, ti.map_index)] = error
                ti.set_state("failed")
            raise

    with (
        _replaced(TaskInstance, "handle_failure", keep_and_handle),
        _replaced(dag_module, "_run_task", run_and_end),
    ):
        yield
