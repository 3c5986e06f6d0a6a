"""A task's lineage: its names, and the one record that it keeps where Airflow has a place for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_personalize_segments.airflow_compat import find_task_state_store, keep_for_ever
from airflow_provider_personalize_segments.arns import is_job_arn, parse_solution_version_arn
from airflow_provider_personalize_segments.creating.names import (
    TaskLineage,
    derive_job_name,
    extend_job_name,
)
from airflow_provider_personalize_segments.creating.once import (
    FAIL,
    MAX_LOOKS_BACK,
    NEW,
    Plan,
    Wanted,
)
from airflow_provider_personalize_segments.jobs import BatchJobKind

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.airflow_compat import Context
    from airflow_provider_personalize_segments.waiting.verdicts import Log

STATE_KEY = "personalize_batch_job"


class Record(NamedTuple):
    """
    The plan that a task recorded last.

    :param plan: the plan
    :param max_tries: tells the lineage that recorded it
    """

    plan: Plan
    max_tries: int


class TaskRecord:
    """
    Records the plan of a task before its job is created, from Airflow 3.3 on.

    A retry resumes the recorded plan, even if templates render differently by then. Before 3.3, and when a
    record cannot be read, the names alone tell.

    :param context: the task's context
    :param log: the task's log
    """

    def __init__(self, context: Context, log: Log) -> None:
        ti = context["ti"]
        self.lineage = TaskLineage(
            ti.dag_id,
            ti.task_id,
            ti.run_id,
            -1 if ti.map_index is None else ti.map_index,
            getattr(ti, "max_tries", None) or 0,
        )
        self._log = log
        self._store = find_task_state_store(context)
        self._kept: dict[str, Any] | None = None

    def keep(self, plan: Plan, *, is_needed: bool = False) -> None:
        """
        Record a plan.

        :param plan: the plan
        :param is_needed: whether to raise Airflow's error when it cannot be recorded
        """
        kept = {
            "kind": plan.kind.name,
            "job_name": plan.job_name,
            "request": plan.request,
            "max_tries": self.lineage.max_tries,
        }
        if self._store is None or kept == self._kept:
            return
        try:
            keep_for_ever(self._store, STATE_KEY, kept)
        except Exception as error:
            if is_needed:
                raise
            # The name leads to the job all the same, as it does on every Airflow before 3.3.
            self._log.warning("The job's name could not be kept in Airflow's task state store: %s", error)
        else:
            self._kept = kept

    def forget(self) -> None:
        """Take back what was recorded: AWS gave the name to another job, so it proves nothing."""
        if self._store is None:
            return
        try:
            self._store.delete(STATE_KEY)
        except Exception as error:
            self._log.warning("Airflow's task state store could not be written: %s", error)
        self._kept = None

    def recall(self) -> Record | None:
        """Return what was recorded last; ``None`` when there is nothing, or nothing that makes sense."""
        if self._store is None:
            return None
        try:
            kept = self._store.get(STATE_KEY)
        except Exception as error:
            # That does not mean that nothing was created; the names tell.
            self._log.warning("Airflow's task state store could not be read: %s", error)
            return None
        record = _read(kept)
        self._kept = kept if record else None
        return record


def _read(kept: object) -> Record | None:
    if not isinstance(kept, dict) or not isinstance(kept.get("request"), dict):
        return None
    kind, job_name = str(kept.get("kind")), str(kept.get("job_name") or "")
    try:
        plan = Plan(BatchJobKind.named(kind), job_name, kept["request"])
        parse_solution_version_arn(plan.request.get("solutionVersionArn"))
    except ValueError:
        return None
    max_tries = kept.get("max_tries")
    return (
        Record(plan, max_tries)
        if is_job_arn(plan.job_arn, plan.kind) and isinstance(max_tries, int)
        else None
    )


def make_wanted(
    lineage: TaskLineage, plan: Plan, if_exists: str, record: Record | None, *, is_first_try: bool
) -> Wanted:
    """
    Return the job that a task wants, with the names that its lineage may use.

    :param lineage: the task's lineage
    :param plan: the job as rendered now; its name is the user's, or empty
    :param if_exists: ``adopt``, ``fail`` or ``new``
    :param record: what the task recorded last
    :param is_first_try: whether the task instance never ran before
    """
    is_own = not plan.job_name or if_exists == NEW
    own = _own_names(lineage, plan.job_name)
    wanted = Wanted(plan._replace(job_name=own[0]) if is_own else plan, if_exists, is_own)
    if record and _is_elsewhere(record.plan, plan):
        record = None
    if record and record.max_tries == lineage.max_tries:
        return wanted._replace(kept=record.plan)
    if record:
        return wanted._replace(earlier=(record.plan.job_name,) if is_own or if_exists == FAIL else ())
    # What ran before may have been cleared; `retries` does not tell, as it may have been edited since.
    return wanted._replace(earlier=own[1:] if is_own and not is_first_try else ())


def _own_names(lineage: TaskLineage, job_name: str) -> tuple[str, ...]:
    """Return the first name of a lineage, and those of the lineages before, newest first."""
    lineages = [
        lineage._replace(max_tries=max_tries)
        for max_tries in range(lineage.max_tries, max(-1, lineage.max_tries - MAX_LOOKS_BACK - 1), -1)
    ]
    return tuple(extend_job_name(job_name, each) if job_name else derive_job_name(each) for each in lineages)


def _is_elsewhere(recorded: Plan, plan: Plan) -> bool:
    """Tell whether a recorded plan is of another kind, or of another region than the task's is now."""
    versions = (recorded.request["solutionVersionArn"], plan.request["solutionVersionArn"])
    regions = {parse_solution_version_arn(each) for each in versions}
    return recorded.kind is not plan.kind or len(regions) > 1
