"""What ``dag.test()`` needs around it, and what it does differently from one Airflow to the next."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from typing import Any


def name_instance(task_id: str, map_index: int | None) -> str:
    """
    Return a task instance's name, ``task`` or ``task[0]``.

    :param task_id: the task's ID
    :param map_index: which of a mapped task's instances it is; ``None`` and -1 mean that it is not mapped
    """
    return task_id if map_index is None or map_index < 0 else f"{task_id}[{map_index}]"


def store_dag(dag: Any) -> None:
    """
    Write the DAG to the database, as the DAG processor does.

    From Airflow 3.1 on ``dag.test()`` looks for it there, and otherwise in the DAGs folder, where the DAG of
    a test is not.

    :param dag: the DAG
    """
    try:
        from airflow.dag_processing import dagbag
    except ImportError:
        if hasattr(dag, "sync_to_db"):
            dag.sync_to_db()  # Airflow 2, whose tasks look for the aliases of datasets there
            return
        from airflow.models import dagbag  # type: ignore[no-redef]  # where it is until Airflow 3.1

        # Airflow 3.0, whose tasks look for assets there, takes nothing of a DAG without a file.
        dag.relative_fileloc = getattr(dag, "relative_fileloc", None) or f"{dag.dag_id}.py"
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    manager: Any = DagBundlesManager  # it carries no types
    manager().sync_bundles_to_db()
    module: Any = dagbag  # its names differ from one Airflow to the next
    bag = module.DagBag(collect_dags=False)
    bag.dags[dag.dag_id] = dag
    store = getattr(module, "sync_bag_to_db", None) or module.DagBag.sync_to_db
    store(bag, "dags", None)


@contextlib.contextmanager
def prepare_airflow(errors: dict[str, BaseException]) -> Iterator[None]:
    """
    Have ``dag.test()`` keep what tasks raise, and do without what some Airflows do wrong.

    :param errors: gets what tasks raise, by the name of the task's instance
    """
    try:
        import airflow.sdk  # noqa: F401
    except ImportError:  # before Airflow 3.0
        mended = _mend_airflow_2(errors)
    else:
        mended = _mend_airflow_3(errors)
    with mended:
        yield


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """
    Put a value in the place of an attribute for a while.

    :param owner: the object, class or module that has the attribute
    :param name: the attribute's name
    :param value: the value
    """
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
            errors[name_instance(ti.task_id, ti.map_index)] = outcome[2]
        return outcome

    # Airflow 3.0 hands a text on, which a worker of its own would read from JSON as a date.
    def ask_and_read(*args: Any, **named: Any) -> Any:
        answer = ask_for_date(*args, **named)
        return type(answer)(start_date=answer.start_date)

    with contextlib.ExitStack() as exits:
        exits.enter_context(replaced(task_runner, "run", run_and_keep))
        exits.enter_context(replaced(TaskInstanceOperations, "get_reschedule_start_date", ask_and_read))
        if not hasattr(supervisor.in_process_api_server, "cache_info"):
            # Airflow 3.3 makes it only once, too; making it takes 2 s.
            exits.enter_context(replaced(supervisor, "in_process_api_server", _make_api_server))
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
            errors[name_instance(instance.task_id, instance.map_index)] = error
        return handle_failure(instance, error, *args, **named)

    # A trigger that raises would leave its task running, and dag.test() waiting for it for ever.
    def run_and_end(*, ti: Any, **named: Any) -> Any:
        try:
            return run_task(ti=ti, **named)
        except Exception as error:
            if str(ti.state) in ("running", "deferred"):
                errors[name_instance(ti.task_id, ti.map_index)] = error
                ti.set_state("failed")
            raise

    with (
        replaced(TaskInstance, "handle_failure", keep_and_handle),
        replaced(dag_module, "_run_task", run_and_end),
    ):
        yield
