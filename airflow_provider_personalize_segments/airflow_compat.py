"""Every Airflow name that moved between 2.11 and 3.x, and every check of a version: here and nowhere else.

Airflow 3 has its public names in ``airflow.sdk`` (https://airflow.apache.org/docs/task-sdk/stable/api.html).
``airflow.providers.common.compat.sdk`` resolves names for all lines, too, but the official constraint files
of Airflow 2.11.0 and 3.0.6 pin releases of common-compat that do not have it yet.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.configuration import conf

try:
    from airflow.sdk import BaseOperator, BaseOperatorLink, BaseSensorOperator, PokeReturnValue
    from airflow.sdk.execution_time.xcom import XCom
except ImportError:  # before Airflow 3.0, which mypy does not see
    from airflow.models.baseoperator import BaseOperator  # type: ignore[import-not-found,no-redef]
    from airflow.models.baseoperatorlink import BaseOperatorLink  # type: ignore[import-not-found,no-redef]
    from airflow.models.xcom import XCom  # type: ignore[no-redef]
    from airflow.sensors.base import (  # type: ignore[import-not-found,no-redef]
        BaseSensorOperator,
        PokeReturnValue,
    )
try:
    from airflow.sdk.exceptions import (
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        AirflowSkipException,
        AirflowTaskTimeout,
    )
except ImportError:  # before Airflow 3.2
    from airflow.exceptions import (  # type: ignore[attr-defined,no-redef]
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        AirflowSkipException,
        AirflowTaskTimeout,
    )

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from concurrent.futures import Executor

    from airflow.sdk import Connection, Context
    from airflow.sdk.types import TaskInstanceKey

Answer = TypeVar("Answer")


def find_task_state_store(context: Context) -> Any:
    """
    Return the store that keeps what a task writes for its next try; ``None`` before Airflow 3.3.

    :param context: the task's context
    """
    return context.get("task_state_store")


def keep_for_ever(store: Any, key: str, value: Any) -> None:
    """
    Write a value that does not expire to a task's state store.

    :param store: the store, which Airflow has from 3.3 on
    :param key: the key
    :param value: the value, as plain JSON
    """
    store.set(key, value, retention=timedelta.max)  # Airflow's NEVER_EXPIRE


def find_first_start(context: Context, retries: int) -> datetime | None:
    """
    Return when a task in mode ``reschedule`` began for the first time; ``None`` in its first run.

    :param context: the task's context
    :param retries: the task's ``retries``
    """
    ti: Any = context["ti"]
    if hasattr(ti, "get_first_reschedule_date"):
        start: datetime | None = ti.get_first_reschedule_date(context)
        return start
    # Airflow 2.11 has no other way, and no later Airflow has this module.
    from airflow.sensors.base import _orig_start_date

    first_try = (ti.max_tries or 0) - retries + 1
    start = _orig_start_date(ti.dag_id, ti.task_id, ti.run_id, ti.map_index, first_try)
    return start


async def run_beside_loop(function: Callable[[], Answer], executor: Executor) -> Answer:
    """
    Run in a thread what may ask Airflow for a connection, or tell it a secret to mask.

    On Airflow 3.0 and 3.1 the triggerer ends when a plain thread asks its supervisor anything. From a thread
    that asgiref entered, the question goes back to the triggerer's loop; this way works on every Airflow. The
    caller must not be cancelled: half a conversation with the supervisor ends those triggerers, too.

    :param function: the function
    :param executor: has the thread; asgiref's own is one for all triggers, which this must not hold up
    :returns: what the function returns
    """
    from asgiref.sync import sync_to_async

    # asgiref asks for the standard library's pool, and needs no more than any executor has.
    run: Callable[[], Awaitable[Answer]] = sync_to_async(  # type: ignore[call-overload]
        function, thread_sensitive=False, executor=executor
    )
    return await run()


def find_text_renderer(task: BaseOperator, parameter: str) -> Callable[[str, Context], str] | None:
    """
    Return a function that renders a template of a task as text; ``None`` where Airflow itself does so.

    With ``render_template_as_native_obj`` Airflow makes 2026112312 of the text ``20261123_12``.

    :param task: the task; from Airflow 3.2 on it may have a setting of its own, before only its DAG
    :param parameter: the parameter that holds the template; one that the task is mapped over holds none
    """
    own = getattr(task, "render_template_as_native_obj", None)
    dag = task.get_dag()
    is_native = bool(dag and dag.render_template_as_native_obj) if own is None else bool(own)
    if dag is None or not is_native:
        return None
    partial = getattr(dag.task_dict.get(task.task_id), "partial_kwargs", None)
    if partial is not None and parameter not in partial:
        return None
    try:
        from airflow.sdk.definitions.context import render_template_to_string
    except ImportError:  # before Airflow 3.0
        from airflow.utils.helpers import render_template_to_string  # type: ignore[no-redef]
    environment = dag.get_template_env(force_sandboxed=True)
    return lambda text, context: str(render_template_to_string(environment.from_string(text), context))


def has_asset_watchers() -> bool:
    """Tell whether this Airflow can watch for events, which it does from 3.0 on."""
    from airflow.triggers import base

    return hasattr(base, "BaseEventTrigger")


def find_event_trigger() -> type[Any]:
    """Return the base of triggers for asset watchers; before Airflow 3.0 that of any trigger."""
    from airflow.triggers import base

    found: type[Any] = getattr(base, "BaseEventTrigger", base.BaseTrigger)
    return found


def find_shared_stream_producer() -> type[Any]:
    """Return the base of what Airflow 3.3 tells that it has stored an event; before 3.3 a plain class."""
    try:
        from airflow.triggers.shared_stream import SharedStreamProducer
    except ImportError:
        return object
    return SharedStreamProducer


def find_asset_stores(store: Any) -> list[Any]:
    """
    Return the store of each asset of a watcher: two whose watchers are equal have one trigger and two stores.

    :param store: the watcher's ``asset_state_store``, which Airflow has from 3.3 on
    """
    # Airflow names the assets nowhere else (https://github.com/apache/airflow/issues/71460).
    stores = [
        each for name in ("_by_name", "_by_uri") for _, each in sorted(getattr(store, name, {}).items())
    ]
    return stores or [store]


async def read_asset_state(store: Any, key: str) -> Any:
    """
    Return what a watcher keeps with an asset; ``None`` when that is nothing.

    :param store: the asset's store
    :param key: the key
    """
    return await _ask_asset_state(store, "get", key)


async def write_asset_state(store: Any, key: str, value: Any) -> None:
    """
    Keep something with an asset.

    :param store: the asset's store
    :param key: the key
    :param value: the value, as plain JSON
    """
    await _ask_asset_state(store, "set", key, value)


async def _ask_asset_state(store: Any, method: str, *arguments: Any) -> Any:
    if hasattr(store, f"a{method}"):
        return await getattr(store, f"a{method}")(*arguments)
    # Airflow 3.3.0 and 3.3.1 can only wait for the answer.
    from concurrent.futures import ThreadPoolExecutor

    executor = ThreadPoolExecutor(1, "personalize-asset-state")
    try:
        return await run_beside_loop(lambda: getattr(store, method)(*arguments), executor)
    finally:
        executor.shutdown(wait=False)


def make_storage_path(path: str) -> Any:
    """
    Return Airflow's ObjectStoragePath of a path.

    :param path: the path, such as ``gs://connection@bucket/folder``
    :raises ValueError: when no file system serves it
    """
    try:
        from airflow.sdk import ObjectStoragePath
    except ImportError:  # before Airflow 3.0, which mypy does not see
        from airflow.io.path import ObjectStoragePath  # type: ignore[import-not-found,no-redef]
    return ObjectStoragePath(path)


def find_asset_aliases(outlets: Iterable[Any]) -> list[Any]:
    """
    Return the asset aliases among a task's outlets, each once; before Airflow 3.0 they are DatasetAliases.

    :param outlets: the task's outlets, which may be anything
    """
    # Not at the top: few tasks have outlets, and DAG files with none need not load what assets need.
    try:
        from airflow.sdk import AssetAlias
    except ImportError:  # before Airflow 3.0, which mypy does not see
        from airflow.datasets import DatasetAlias as AssetAlias  # type: ignore[import-not-found,no-redef]

    return list({each.name: each for each in outlets if isinstance(each, AssetAlias)}.values())


def make_asset(uri: str) -> Any:
    """
    Return Airflow's Asset of a URI; before Airflow 3.0 it is a Dataset.

    :param uri: the URI
    :raises ValueError: when Airflow takes no such URI
    """
    try:
        from airflow.sdk import Asset
    except ImportError:  # before Airflow 3.0, which mypy does not see
        from airflow.datasets import Dataset as Asset  # type: ignore[no-redef]

    return Asset(uri=uri)


def add_asset_event(context: Context, aliases: Iterable[Any], asset: Any, extra: dict[str, Any]) -> None:
    """
    Emit an event of an asset through aliases, once the task has succeeded.

    From Airflow 3.0 on an asset has a name besides its URI. When Airflow knows an asset of this URI by
    another name, the event is that asset's: one under a second name would start none of the DAGs that wait.

    :param context: the task's context
    :param aliases: the aliases
    :param asset: the asset
    :param extra: what the event says, as plain JSON
    """
    known = asset.ref(uri=asset.uri) if hasattr(asset, "ref") else asset  # before 3.0 there is no name
    for alias in aliases:
        events = context["outlet_events"][alias]
        try:
            events.add(known, extra=extra)
        except Exception as error:
            if not _is_unknown_asset(error):
                raise
            known = asset
            events.add(known, extra=extra)


def _is_unknown_asset(error: Exception) -> bool:
    try:
        from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
    except ImportError:  # before Airflow 3.0, which asks for none
        return False
    return isinstance(error, AirflowRuntimeError) and error.error.error is ErrorType.ASSET_NOT_FOUND


__all__ = [
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowSensorTimeout",
    "AirflowSkipException",
    "AirflowTaskTimeout",
    "BaseOperator",
    "BaseOperatorLink",
    "BaseSensorOperator",
    "Connection",
    "Context",
    "PokeReturnValue",
    "TaskInstanceKey",
    "XCom",
    "add_asset_event",
    "conf",
    "find_asset_aliases",
    "find_asset_stores",
    "find_event_trigger",
    "find_first_start",
    "find_shared_stream_producer",
    "find_task_state_store",
    "find_text_renderer",
    "has_asset_watchers",
    "keep_for_ever",
    "make_asset",
    "make_storage_path",
    "read_asset_state",
    "run_beside_loop",
    "write_asset_state",
]
