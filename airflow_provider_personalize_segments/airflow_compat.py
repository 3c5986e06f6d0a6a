"""Every Airflow name that moved between 2.11 and 3.x, and every check of a version: here and nowhere else.

The amazon provider brings ``common.compat``, which resolves each name to the home it has on the running
Airflow; importing from it costs a DAG file about a millisecond.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import airflow
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowNotFoundException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseOperator,
    BaseOperatorLink,
    BaseSensorOperator,
    PokeReturnValue,
    XCom,
    conf,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Executor

    from airflow.providers.common.compat.sdk import Connection, Context, TaskInstanceKey

Answer = TypeVar("Answer")


def find_task_state_store(context: Context) -> Any:
    """
    Return the store that keeps what a task writes for its next try; ``None`` before Airflow 3.3.

    :param context: the task's context
    """
    return context.get("task_state_store")


def find_start_of_try(context: Context, try_number: int) -> datetime | None:
    """
    Return when an earlier try of the task began; ``None`` where Airflow does not tell, which is from 3.0 on.

    :param context: the task's context
    :param try_number: the number of the try
    """
    if not airflow.__version__.startswith("2."):
        return None
    from airflow.models.taskinstancehistory import TaskInstanceHistory
    from airflow.utils.session import create_session

    ti = context["ti"]
    columns = {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id, "map_index": ti.map_index}
    with create_session() as session:
        tries = session.query(TaskInstanceHistory.start_date).filter_by(**columns, try_number=try_number)
        return next((start for (start,) in tries if start), None)


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


def renders_natively(task: BaseOperator) -> bool:
    """
    Tell whether a task's templates are rendered as native objects: ``0.3`` of a text becomes a number.

    :param task: the task; from Airflow 3.2 on it may have a setting of its own, before only its DAG
    """
    own = getattr(task, "render_template_as_native_obj", None)
    dag = task.get_dag()
    return bool(dag and dag.render_template_as_native_obj) if own is None else bool(own)


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
    "conf",
    "find_start_of_try",
    "find_task_state_store",
    "renders_natively",
    "run_beside_loop",
]
