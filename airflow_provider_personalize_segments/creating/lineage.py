"""A task's lineage: its names, and the one record that it keeps where Airflow has a place for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

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
from airflow_provider_personalize_segments.errors import StateStoreUnavailableError
from airflow_provider_personalize_segments.jobs import BatchJobKind

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.airflow_compat import Context
    from airflow_provider_personalize_segments.waiting.verdicts import Log

STATE_KEY = "personalize_batch_job"
PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds between two questions to Airflow's task state store while it does not answer."""
MAX_REQUESTS = 5
"""Requests that a record keeps of one name: more than a try whose Create is still under way leaves behind."""
Answer = TypeVar("Answer")


class Record(NamedTuple):
    """
    The plan that a task recorded last.

    :param plan: the plan
    :param max_tries: tells the lineage that recorded it
    :param has_delivered: whether the lineage is done with the job: it succeeded with it, or refused its
        output; ``None`` in a record of a release that did not tell
    :param requests: what earlier tries of the lineage asked for under this name, newest first
    """

    plan: Plan
    max_tries: int
    has_delivered: bool | None = None
    requests: tuple[dict[str, Any], ...] = ()


class TaskRecord:
    """
    Records the plan of a task before its job is created, from Airflow 3.3 on.

    A retry resumes the recorded name, even if templates render differently by then. Before 3.3 the names
    alone tell. A store that does not answer is asked for a while, and then ends the try: without the record,
    a retry might create a second job, or refuse its own.

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
        self.is_empty = False
        """Whether the store has told that it holds nothing, so that no try before got as far as Create."""

    def keep(self, plan: Plan) -> None:
        """
        Record a plan, before its job is created or taken.

        :param plan: the plan
        :raises StateStoreUnavailableError: when it cannot be recorded
        """
        if self._store is None:
            return
        record, requests = _read(self._kept), []
        if record and (record.plan.job_name, record.max_tries) == (plan.job_name, self.lineage.max_tries):
            # A Create of an earlier try may still be under way, with what was asked for then.
            requests = [each for each in (record.plan.request, *record.requests) if each != plan.request]
        self._write(
            {
                "kind": plan.kind.name,
                "job_name": plan.job_name,
                "request": plan.request,
                "max_tries": self.lineage.max_tries,
                "has_delivered": False,
                "earlier_requests": requests[:MAX_REQUESTS],
            },
            plan.job_arn,
        )

    def settle(self, job_arn: str) -> None:
        """
        Record that the lineage is done with its job, so that the task does it again when it is cleared.

        :param job_arn: the job's ARN
        :raises StateStoreUnavailableError: when it cannot be recorded
        """
        record = self.recall()
        if record and (record.plan.job_arn, record.max_tries) == (job_arn, self.lineage.max_tries):
            self._write({**(self._kept or {}), "has_delivered": True}, job_arn)

    def forget(self) -> None:
        """Take back what was recorded: AWS gave the name to another job, so it proves nothing."""
        if self._store is None:
            return
        try:
            self._insist("written", lambda: self._store.delete(STATE_KEY))
        except StateStoreUnavailableError as error:
            self._log.warning("%s", error)  # the other job ends this try, and is what people have to know
        self._kept = None

    def recall(self) -> Record | None:
        """
        Return what was recorded last; ``None`` when there is nothing, or nothing that makes sense.

        :raises StateStoreUnavailableError: when the record cannot be read
        """
        if self._store is None:
            return None
        kept = self._insist("read", lambda: self._store.get(STATE_KEY))
        self.is_empty = kept is None
        record = _read(kept)
        self._kept = kept if record else None
        return record

    def _write(self, kept: dict[str, Any], job_arn: str) -> None:
        if kept != self._kept:
            self._insist("written", lambda: keep_for_ever(self._store, STATE_KEY, kept), job_arn)
            self._kept = kept

    def _insist(self, action: str, ask: Callable[[], Answer], job_arn: str | None = None) -> Answer:
        """Ask the store again for a while when it does not answer."""
        for pause in (*PAUSES, None):
            try:
                return ask()
            except Exception as error:
                if pause is None:
                    raise StateStoreUnavailableError(action, str(error), job_arn) from error
                self._log.warning("Not yet: Airflow's task state store could not be %s: %s", action, error)
            time.sleep(pause)
        raise AssertionError("the loop has returned or raised")


def _read(kept: object) -> Record | None:
    if not isinstance(kept, dict) or not isinstance(kept.get("request"), dict):
        return None
    kind, job_name = str(kept.get("kind")), str(kept.get("job_name") or "")
    try:
        plan = Plan(BatchJobKind.named(kind), job_name, kept["request"])
        parse_solution_version_arn(plan.request.get("solutionVersionArn"))
    except ValueError:
        return None
    max_tries, has_delivered = kept.get("max_tries"), kept.get("has_delivered")
    if not is_job_arn(plan.job_arn, plan.kind) or not isinstance(max_tries, int):
        return None
    requests = tuple(each for each in kept.get("earlier_requests") or () if isinstance(each, dict))
    return Record(plan, max_tries, has_delivered if isinstance(has_delivered, bool) else None, requests)


def make_wanted(
    lineage: TaskLineage,
    plan: Plan,
    if_exists: str,
    record: Record | None,
    prefix: str = "",
    *,
    has_run: bool = True,
    is_first: bool = False,
    is_resumed: bool = False,
) -> Wanted:
    """
    Return the job that a task wants, with the names that its lineage may use.

    :param lineage: the task's lineage
    :param plan: the job as rendered now; its name is the user's, or empty
    :param if_exists: ``adopt``, ``fail`` or ``new``
    :param record: what the task recorded last
    :param prefix: what keeps the names of two Airflows apart
    :param has_run: whether the task instance has tried before
    :param is_first: whether this is the lineage's first try, as far as Airflow's numbers tell
    :param is_resumed: whether this try deferred before, so that the record may be its own
    """
    is_own = not plan.job_name or if_exists == NEW
    own = _own_names(lineage, plan.job_name, prefix)
    wanted = Wanted(plan._replace(job_name=own[0]) if is_own else plan, if_exists, is_own, is_first)
    if record and record.plan.job_arn != plan._replace(job_name=record.plan.job_name).job_arn:
        record = None  # of another kind, region or account than the task's is now
    if record is None:
        # What ran before may have been cleared; `retries` does not tell, as it may have been edited since.
        return wanted._replace(earlier=own[1:] if is_own and has_run else ())
    recurs = record.max_tries == lineage.max_tries
    if recurs and (is_resumed or not (is_first and record.has_delivered)):
        return wanted._replace(is_first=is_first and is_resumed, kept=record.plan, requests=record.requests)
    # A lineage records its plan before Create, so this one has created nothing. Where `retries` was lowered
    # before the clear, it has the name of the one before, which delivered.
    return wanted._replace(
        is_first=True,
        earlier=(record.plan.job_name,) if is_own or if_exists == FAIL else (),
        has_delivered=record.has_delivered,
        spent=record.plan.job_name if recurs and is_own else "",
    )


def _own_names(lineage: TaskLineage, job_name: str, prefix: str) -> tuple[str, ...]:
    """Return the first name of a lineage, and those of the lineages before, newest first."""
    lineages = [
        lineage._replace(max_tries=max_tries)
        for max_tries in range(lineage.max_tries, max(-1, lineage.max_tries - MAX_LOOKS_BACK - 1), -1)
    ]
    return tuple(
        extend_job_name(job_name, each, prefix) if job_name else derive_job_name(each, prefix)
        for each in lineages
    )
