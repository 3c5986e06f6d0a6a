"""What our triggers tell the tasks that they wake: words that both sides know, checked before they count."""

from __future__ import annotations

from typing import Any

from airflow_provider_personalize_segments.errors import TriggerFailedError
from airflow_provider_personalize_segments.jobs import BatchJobKind, JobState, classify_status, is_job_arn

EVENT_VERSION = 1


class Outcome:
    """What an event says happened; resuming takes no other word."""

    ACTIVE = "active"
    FAILED = "failed"
    CREATED = "created"
    TIMEOUT = "timeout"
    EXECUTION_TIMEOUT = "execution_timeout"
    ERROR = "error"


def read_event(event: object, job_arn: str) -> dict[str, Any]:
    """
    Return an event of :class:`PersonalizeBatchJobTrigger`, checked; whatever is not one is never success.

    :param event: what Airflow resumed the task with
    :param job_arn: the job that the task waits for
    :raises TriggerFailedError: when it is no such event, or about another job
    """
    outcomes = (Outcome.ACTIVE, Outcome.FAILED, Outcome.TIMEOUT, Outcome.EXECUTION_TIMEOUT, Outcome.ERROR)
    known = _read(event, outcomes)
    if known and known.get("job_arn") == job_arn:
        state = classify_status((known["job"] or {}).get("status"))
        expected = {Outcome.ACTIVE: JobState.ACTIVE, Outcome.FAILED: JobState.FAILED}
        if expected.get(known["outcome"], state) is state:
            return known
    raise _unknown(event, f"waits for {job_arn}")


def read_creation_event(event: object, kind: BatchJobKind) -> dict[str, Any]:
    """
    Return an event of :class:`PersonalizeCreateBatchJobTrigger`, checked; what is not one is never success.

    :param event: what Airflow resumed the task with
    :param kind: the kind of job that the task creates
    :raises TriggerFailedError: when it is no such event
    """
    outcomes = (Outcome.CREATED, Outcome.TIMEOUT, Outcome.EXECUTION_TIMEOUT, Outcome.ERROR)
    known = _read(event, outcomes)
    if known and (known["outcome"] != Outcome.CREATED or is_job_arn(known.get("job_arn"), kind)):
        return known
    raise _unknown(event, f"creates a {kind.title}")


def _read(event: object, outcomes: tuple[str, ...]) -> dict[str, Any] | None:
    if isinstance(event, dict) and event.get("version") == EVENT_VERSION and event.get("outcome") in outcomes:
        job = event.get("job")
        if job is None or isinstance(job, dict):
            return {"job": None, "reason": None, "error": None} | event
    return None


def _unknown(event: object, task: str) -> TriggerFailedError:
    return TriggerFailedError(
        f"The task that {task} was resumed with an event that it does not know, which is no success: "
        f"{event!r:.500}. If the package was just updated, restart the triggerer."
    )
