"""Runs a DAG or a task through Airflow itself, in this process, and tells how it ended.

Airflow's own ``dag.test()`` does the work.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from airflow_provider_personalize_segments.testing.airflow_database import (
    keep_environment,
    own_database,
    set_environment,
)
from airflow_provider_personalize_segments.testing.prepared_airflow import (
    name_instance,
    prepare_airflow,
    store_dag,
)
from airflow_provider_personalize_segments.testing.short_waits import shorten_waits

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
        exits.enter_context(shorten_waits(dag, poke_interval, timeout))
        exits.enter_context(prepare_airflow(errors))
        store_dag(dag)
        # Airflow 2 has an older name for it.
        named = inspect.signature(dag.test).parameters
        date = {"logical_date" if "logical_date" in named else "execution_date": logical_date}
        dag_run = dag.test(run_conf=conf, **(date if logical_date else {}))
        instances = dag_run.get_task_instances()
        states = {
            name_instance(each.task_id, each.map_index): str(each.state or "none") for each in instances
        }
        return DagRunResult(
            state=str(dag_run.state),
            states=states,
            errors={name: error for name, error in errors.items() if states.get(name) == "failed"},
            map_names={
                name_instance(each.task_id, each.map_index): str(each.rendered_map_index)
                for each in instances
                if each.rendered_map_index is not None
            },
            asset_events=_read_asset_events(),
            _xcoms={(each.task_id, each.map_index): _read_xcoms(each) for each in instances},
        )


def _find_dag(dag_or_task: Any) -> Any:
    try:
        from airflow.sdk import DAG
    except ImportError:  # before Airflow 3.0, which mypy does not see
        from airflow.models.dag import DAG  # type: ignore[no-redef]

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
                name_instance(each.source_task_id, each.source_map_index),
                each.uri,
                str(getattr(each, "name", each.uri)),
                tuple(sorted(alias.name for alias in each.source_aliases)),
                dict(each.extra),
            )
            for each in events
        ]
