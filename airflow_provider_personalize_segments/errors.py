"""All our exceptions: what happened, in fields, and what to do about it, in words.

::

    AirflowFailException            Airflow fails the task at once: trying again cannot help
    ├── PersonalizeJobFailedError   the job ended in CREATE FAILED
    ├── PersonalizeRequestError     AWS refused the request for good
    ├── ConnectionNotFoundError     the Airflow connection does not exist
    └── InvalidParameterError       a parameter's value cannot be right; also a ValueError
    AirflowSensorTimeout            Airflow fails the task at once
    └── PersonalizeJobTimeoutError  the job was not over in time
    RuntimeError                    Airflow retries the task
    ├── PersonalizeUnavailableError AWS did not answer properly; it may the next time
    └── TriggerFailedError          waiting in the triggerer went wrong, whatever the job does
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from airflow_provider_personalize_segments.airflow_compat import AirflowFailException, AirflowSensorTimeout


class _PicklableError(Exception):
    """Keeps an exception's fields when it travels between processes."""

    fields: tuple[Any, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.fields


class PersonalizeJobFailedError(_PicklableError, AirflowFailException):
    """
    The batch job ended without a result; it never becomes ACTIVE, so the task is not retried.

    :param job_arn: the job's ARN
    :param status: the status it ended in, such as ``CREATE FAILED``
    :param failure_reason: Personalize's own words, or ``None`` when it gave none
    """

    def __init__(self, job_arn: str, status: str, failure_reason: str | None = None) -> None:
        self.job_arn = job_arn
        self.status = status
        self.failure_reason = failure_reason
        self.fields = (job_arn, status, failure_reason)
        super().__init__(
            f"{job_arn} ended in {status}: {failure_reason or 'Personalize gave no reason'}. "
            "A failed job never becomes ACTIVE: remove the cause and create a job under another name."
        )

    @classmethod
    def from_job(cls, job_arn: str, job: Mapping[str, Any]) -> PersonalizeJobFailedError:
        """
        Make the error from a job as Describe gives it.

        :param job_arn: the ARN that was asked for
        :param job: the job, with its ``status`` and perhaps a ``failureReason``
        """
        return cls(job_arn, str(job.get("status")), job.get("failureReason"))


class PersonalizeJobTimeoutError(_PicklableError, AirflowSensorTimeout):
    """
    The sensor's ``timeout`` was over before the job was.

    :param job_arn: the job's ARN
    :param status: its last known status, or ``None`` when Personalize never answered
    :param timeout: the timeout in seconds
    """

    def __init__(self, job_arn: str, status: str | None, timeout: float) -> None:
        self.job_arn = job_arn
        self.status = status
        self.timeout = timeout
        self.fields = (job_arn, status, timeout)
        known = f"its last known status is {status}" if status else "Personalize never told its status"
        super().__init__(
            f"{job_arn} was not ACTIVE when the timeout of {timeout:g} s was over; {known}. "
            "The job goes on by itself: raise timeout if it may take longer."
        )


class TriggerFailedError(RuntimeError):
    """Waiting went wrong in the triggerer, which says nothing about the job; a retry waits on."""


class _CallError(_PicklableError):
    """
    A call to AWS that brought no answer worth judging.

    :param operation: the API operation, such as ``DescribeBatchSegmentJob``
    :param subject: what it was about: an ARN, or words
    :param region: the region that was called, or ``None`` when none could be found
    :param aws_conn_id: the Airflow connection that was used; ``None`` means boto3's own credentials
    :param code: AWS's error code, or the name of botocore's exception
    :param detail: what AWS or botocore said
    :param advice: what to do about it
    """

    outcome: str

    def __init__(
        self,
        operation: str,
        subject: str,
        region: str | None,
        aws_conn_id: str | None,
        code: str,
        detail: str,
        advice: str = "",
    ) -> None:
        self.operation = operation
        self.subject = subject
        self.region = region
        self.aws_conn_id = aws_conn_id
        self.code = code
        self.detail = detail
        self.advice = advice
        self.fields = (operation, subject, region, aws_conn_id, code, detail, advice)
        identity = f"connection {aws_conn_id!r}" if aws_conn_id else "boto3's own credentials (no connection)"
        where = f"region {region}" if region else "no region"
        text = (
            f"{operation} {self.outcome} for {subject} ({where}, {identity}): {code}: {detail.rstrip('. ')}."
        )
        super().__init__(f"{text} {advice}".rstrip())


class PersonalizeRequestError(_CallError, AirflowFailException):
    """AWS refused the request, and would refuse it again, so the task is not retried."""

    outcome = "was refused"


class PersonalizeUnavailableError(_CallError, RuntimeError):
    """AWS throttled the request, failed itself, was not reached, or answered nonsense: not an answer yet."""

    outcome = "got no answer"


class ConnectionNotFoundError(_PicklableError, AirflowFailException):
    """
    The named Airflow connection does not exist; nothing was called with other credentials instead.

    :param aws_conn_id: the connection's ID as it was given
    """

    def __init__(self, aws_conn_id: str) -> None:
        self.aws_conn_id = aws_conn_id
        self.fields = (aws_conn_id,)
        super().__init__(
            f"The Airflow connection {aws_conn_id!r} does not exist, or cannot be read just now. Create it "
            f"(airflow connections add {aws_conn_id} --conn-type aws), correct aws_conn_id, or pass "
            "aws_conn_id=None to use the credentials that boto3 finds by itself. "
            "Nothing was called with other credentials."
        )


class InvalidParameterError(AirflowFailException, ValueError):
    """A value given to a task cannot be right, now or on a retry; the message says what was expected."""


@contextmanager
def fail_on_invalid_parameters() -> Iterator[None]:
    """Turn a ValueError about what the user gave into one that Airflow does not retry."""
    try:
        yield
    except InvalidParameterError:
        raise
    except ValueError as error:
        raise InvalidParameterError(str(error)) from error


def dump_error(error: Exception) -> dict[str, Any]:
    """
    Return an error as plain JSON, for a trigger's event.

    :param error: any error; only a PersonalizeRequestError keeps its fields
    """
    fields = list(error.fields) if isinstance(error, PersonalizeRequestError) else None
    return {"type": type(error).__name__, "text": str(error), "fields": fields}


def load_error(dumped: object) -> Exception:
    """
    Return the error that :func:`dump_error` made JSON of: a refusal as it was, or TriggerFailedError.

    Not even ConnectionNotFoundError stays final: Airflow says so, too, when a secrets backend failed for a
    moment. The worker had the connection just before, so a retry asks there, and its word is final.

    :param dumped: what a trigger's event says of an error
    """
    if not isinstance(dumped, Mapping):
        return TriggerFailedError(
            f"Waiting in the triggerer failed without a word that makes sense: {dumped!r:.200}"
        )
    fields = dumped.get("fields")
    if dumped.get("type") == PersonalizeRequestError.__name__ and isinstance(fields, list):
        return PersonalizeRequestError(*fields)
    return TriggerFailedError(f"Waiting in the triggerer failed: {dumped.get('type')}: {dumped.get('text')}")
