"""What our triggers tell the tasks that they wake: one type, which both sides share and the task checks."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from typing import Any

from airflow_provider_personalize_segments.airflow_compat import AirflowFailException
from airflow_provider_personalize_segments.arns import is_job_arn
from airflow_provider_personalize_segments.errors import (
    InvalidParameterError,
    PersonalizeJobExistsError,
    PersonalizeRequestError,
    TriggerFailedError,
)
from airflow_provider_personalize_segments.jobs import BatchJobKind, JobState, classify_status
from airflow_provider_personalize_segments.plain_json import clean_line, make_json_safe, show

EVENT_VERSION = 1


class Outcome:
    """What an event says happened; resuming takes no other word."""

    ACTIVE = "active"
    FAILED = "failed"
    CREATED = "created"
    EXISTS = "exists"
    TIMEOUT = "timeout"
    EXECUTION_TIMEOUT = "execution_timeout"
    ERROR = "error"


_ENDS = (Outcome.TIMEOUT, Outcome.EXECUTION_TIMEOUT, Outcome.ERROR)


@dataclass(frozen=True, slots=True)
class Event:
    """
    The one event of a trigger; it is plain JSON between triggerer and worker.

    :param outcome: a word of :class:`Outcome`
    :param job_arn: the job's ARN; ``None`` when there is none
    :param deadline: when the task gives up, as ISO 8601 with an offset; ``None`` means never
    :param job: the job as Describe last gave it; ``None`` when AWS never did
    :param reason: why there is no job yet; ``None`` when there is one
    :param is_unanswered: whether a Create had no answer, so that a job of its name is the task's own
    :param error: the error that ended the trigger, as :func:`dump_error` gives it, or ``None``
    :param may_be_own: whether a triggerer that died may have created a job that exists, for the same task
    """

    outcome: str
    job_arn: str | None = None
    deadline: str | None = None
    job: dict[str, Any] | None = None
    reason: str | None = None
    is_unanswered: bool = False
    error: dict[str, Any] | None = None
    may_be_own: bool = False

    def dump(self) -> dict[str, Any]:
        """Return the event as a dict, with its version."""
        return {"version": EVENT_VERSION, **asdict(self)}


def read_event(payload: object, job_arn: str) -> Event:
    """
    Return the event of a trigger that waited for a job, checked.

    :param payload: what Airflow resumed the task with
    :param job_arn: the job that the task waits for
    :raises TriggerFailedError: when it is no such event, or about another job
    """
    event = _read(payload, (Outcome.ACTIVE, Outcome.FAILED, *_ENDS))
    if event and event.job_arn == job_arn:
        state = classify_status((event.job or {}).get("status"))
        expected = {Outcome.ACTIVE: JobState.ACTIVE, Outcome.FAILED: JobState.FAILED}
        if expected.get(event.outcome, state) is state:
            return event
    raise _unknown(payload, f"waits for {job_arn}")


def read_creation_event(payload: object, kind: BatchJobKind) -> Event:
    """
    Return the event of a trigger that created a job, checked.

    :param payload: what Airflow resumed the task with
    :param kind: the kind of job that the task creates
    :raises TriggerFailedError: when it is no such event
    """
    event = _read(payload, (Outcome.CREATED, Outcome.EXISTS, *_ENDS))
    if event and (event.outcome in _ENDS or is_job_arn(event.job_arn, kind)):
        has_status = event.job is not None and "status" in event.job
        if has_status or event.outcome != Outcome.EXISTS:
            return event
    raise _unknown(payload, f"creates a {kind.title}")


def _read(payload: object, outcomes: tuple[str, ...]) -> Event | None:
    if not isinstance(payload, dict) or payload.get("version") != EVENT_VERSION:
        return None
    if payload.get("outcome") not in outcomes or not isinstance(payload.get("job"), (dict, type(None))):
        return None
    # A later release may say more.
    return Event(**{each.name: payload.get(each.name) for each in fields(Event)})  # type: ignore[arg-type]


def _unknown(payload: object, task: str) -> TriggerFailedError:
    return TriggerFailedError(
        f"The trigger's event is unknown, which is no success: {show(payload)}. If the package was just "
        f"updated, restart the triggerer. (the task {task})"
    )


_REFUSALS: tuple[type[AirflowFailException], ...] = (
    PersonalizeRequestError,
    PersonalizeJobExistsError,
    InvalidParameterError,
)


def dump_error(error: Exception) -> dict[str, Any]:
    """
    Return an error as plain JSON, for a trigger's event.

    :param error: any error; only a refusal keeps its fields
    """
    fields = list(getattr(error, "fields", error.args)) if isinstance(error, _REFUSALS) else None
    dumped: dict[str, Any] = make_json_safe(
        {"type": type(error).__name__, "text": str(error), "fields": fields}
    )
    return dumped


def load_error(dumped: object) -> Exception:
    """
    Return the error that :func:`dump_error` made JSON of: a refusal as it was, or TriggerFailedError.

    Not even ConnectionNotFoundError stays final: Airflow says so, too, when a secrets backend failed for a
    moment. The worker had the connection just before, so a retry asks there, and its word is final.

    :param dumped: what a trigger's event says of an error
    """
    if not isinstance(dumped, Mapping):
        return TriggerFailedError(f"Waiting in the triggerer failed, and does not say why: {show(dumped)}.")
    fields = dumped.get("fields")
    for refusal in _REFUSALS:
        if dumped.get("type") == refusal.__name__ and isinstance(fields, list):
            with suppress(TypeError):  # not the fields of this release
                return refusal(*fields)
    said = clean_line(f"{dumped.get('type')}: {dumped.get('text')}")
    return TriggerFailedError(f"Waiting in the triggerer failed: {said}")
