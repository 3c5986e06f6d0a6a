"""All our exceptions: what happened, in fields, and what to do about it, in words.

Every message begins with what happened and why, because Airflow's log view shows its first words beside the
name of the error. The message goes on with what to do, and ends with the job or the call that it is about.
All errors are a :class:`PersonalizeError`, too.

::

    AirflowFailException            Airflow fails the task at once: trying again cannot help
    ├── PersonalizeJobFailedError   the job ended in CREATE FAILED
    ├── PersonalizeJobExistsError   the name is taken, by a job that cannot be adopted
    ├── PersonalizeInputError       the job's input cannot be right; nothing was created
    ├── PersonalizeOutputError      the job's output is not there as a whole, or too much of it is errors
    ├── S3RefusedError              S3 refused to list or to hand out input or output
    ├── PersonalizeRequestError     AWS refused the request for good
    ├── ConnectionNotFoundError     the Airflow connection does not exist
    ├── ExtraNotInstalledError      a library of an extra is missing where the task runs
    └── InvalidParameterError       a parameter's value cannot be right; also a ValueError
    AirflowSensorTimeout            Airflow fails the task at once
    ├── PersonalizeJobTimeoutError  the job was not over in time
    └── PersonalizeNoSlotError      no job could be created in time, as far as is known
    RuntimeError                    Airflow retries the task
    ├── PersonalizeNewJobFailedError  the job that the task created failed; a retry creates another
    ├── PersonalizeNoJobsError      a listing found no job, and there has to be one
    ├── S3UnavailableError          S3 did not answer properly; it may the next time
    ├── PersonalizeUnavailableError AWS did not answer properly; it may the next time
    ├── StateStoreUnavailableError  Airflow's task state store did not answer; it may the next time
    └── TriggerFailedError          waiting in the triggerer went wrong; the job goes on
    ValueError, TypeError           Airflow does not load the DAG file
    └── InvalidWatcherError         a parameter of a watcher cannot be right, or Airflow is too old for it
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

from airflow_provider_personalize_segments.airflow_compat import AirflowFailException, AirflowSensorTimeout
from airflow_provider_personalize_segments.plain_json import clean_line

MAX_REASON_LENGTH = 2_000
"""Characters of what AWS says that a message repeats."""
MAX_WORD_LENGTH = 200
"""Characters of an error code or a status."""

THROTTLING_CODES = frozenset(
    {
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "Throttling",
        "ThrottledException",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
"""Codes with which AWS refuses a request that it did not carry out, because there are too many."""


class PersonalizeError(Exception):
    """Base of all errors that this package raises on purpose."""


class _PicklableError(PersonalizeError):
    """Keeps an exception's fields when it travels between processes."""

    fields: tuple[Any, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.fields


def _name_job(job_arn: str, *more: str) -> str:
    """Return a job's kind, name and region, for the end of a message; the full ARN is in the task's log."""
    parts = job_arn.split(":", 5)
    return f"({', '.join([*([parts[5], parts[3]] if len(parts) == 6 else [job_arn]), *more])})"


class _JobFailureError(_PicklableError):
    """A batch job ended without a result."""

    advice: str

    def __init__(self, job_arn: str, status: str, failure_reason: str | None = None) -> None:
        self.job_arn = job_arn
        self.status = clean_line(status, MAX_WORD_LENGTH)
        self.failure_reason = clean_line(failure_reason, MAX_REASON_LENGTH) if failure_reason else None
        self.fields = (job_arn, self.status, self.failure_reason)
        reason = (self.failure_reason or "Personalize gave no reason").rstrip(". ")
        super().__init__(f"{self.status}: {reason}. {self.advice} {_name_job(job_arn)}")

    @classmethod
    def from_job(cls, job_arn: str, job: Mapping[str, Any]) -> Self:
        """
        Make the error from a job as Describe gives it.

        :param job_arn: the ARN that was asked for
        :param job: the job, with its ``status`` and perhaps a ``failureReason``
        """
        return cls(job_arn, str(job.get("status")), job.get("failureReason"))


class PersonalizeJobFailedError(_JobFailureError, AirflowFailException):
    """
    The batch job ended without a result; it never becomes ACTIVE, so the task is not retried.

    :param job_arn: the job's ARN
    :param status: the status that the job ended in, such as ``CREATE FAILED``
    :param failure_reason: Personalize's own words, or ``None`` when it gave none
    """

    advice = (
        "A failed job never becomes ACTIVE: remove the cause, then clear the task that created it, or create "
        "a job under another name."
    )


class PersonalizeNewJobFailedError(_JobFailureError, RuntimeError):
    """
    The job that a task created ended without a result; a retry of the task creates another.

    It is raised while the task has retries left. Without, it is :class:`PersonalizeJobFailedError`.

    :param job_arn: the same as in :class:`PersonalizeJobFailedError`, like all other fields
    """

    advice = "The task's next try creates another job, under the next number."


class PersonalizeJobExistsError(_PicklableError, AirflowFailException):
    """
    There is a job of that name already, and it is not the one that was asked for, or none was allowed.

    :param job_arn: the ARN of the job that is there
    :param status: its status
    :param differences: in which fields it differs from what was asked for, one sentence each; empty when it
        is the same, and ``if_exists`` is ``fail``, or it was ACTIVE before a task of this name began
    :param is_own_name: whether the name is the task's own, so that the user did not choose it
    """

    def __init__(
        self, job_arn: str, status: str, differences: Sequence[str] = (), is_own_name: bool = False
    ) -> None:
        self.job_arn = job_arn
        self.status = status = clean_line(status, MAX_WORD_LENGTH)
        self.differences = tuple(clean_line(each, MAX_REASON_LENGTH) for each in differences)
        self.is_own_name = is_own_name
        self.fields = (job_arn, status, list(self.differences), is_own_name)
        if is_own_name:
            told = (
                f"Another job has this task's own name already: its {'; '.join(self.differences)}."
                if differences
                else "The job of this name was ACTIVE before the task's first try, so it is no result of "
                "this run."
            )
            text = (
                f"{told} Nothing was created: clear the task, which then creates a job under another name. A "
                "DAG run that was deleted, or an earlier try with other parameters, may have made the job; "
                "or another Airflow of this AWS account, which [personalize] job_name_prefix keeps apart."
            )
        elif differences:
            text = (
                f"Another job has this name already: its {'; '.join(self.differences)}. Nothing was created: "
                "choose another job_name, or set if_exists='new' to create it under a name of the task's own."
            )
        else:
            text = (
                "A job of this name exists already, and if_exists is 'fail'. Nothing was created: choose "
                "another job_name, or set if_exists to 'adopt' or 'new'."
            )
        super().__init__(f"{text} {_name_job(job_arn, status)}")


class PersonalizeInputError(_PicklableError, AirflowFailException):
    """
    Personalize would refuse a job's input, after a while; nothing was created, and the task is not retried.

    :param problem: what is wrong, in a sentence
    :param advice: what to do about it
    :param path: the file or the folder, ``s3://bucket/key``
    """

    def __init__(self, problem: str, advice: str, path: str) -> None:
        self.problem = problem = clean_line(problem, MAX_REASON_LENGTH)
        self.advice = advice
        self.path = path = clean_line(path, MAX_REASON_LENGTH)
        self.fields = (problem, advice, path)
        super().__init__(f"{problem.rstrip('. ')}. Nothing was created. {advice} ({path})")


class PersonalizeOutputError(_PicklableError, AirflowFailException):
    """
    The job is ACTIVE, and its output is not what a later task can use; the task is not retried.

    :param job_arn: the job's ARN
    :param problem: what is wrong, in a sentence
    :param records: how many records were read
    :param errors: how many of them have an error
    :param first_errors: the first errors, each with its file and line
    :param advice: what to do about it
    """

    ADVICE = (
        "The job is ACTIVE all the same. Where its input is to blame for the errors, correct that, and "
        "create another job."
    )

    def __init__(
        self,
        job_arn: str,
        problem: str,
        records: int = 0,
        errors: int = 0,
        first_errors: Sequence[str] = (),
        advice: str = ADVICE,
    ) -> None:
        self.job_arn = job_arn
        self.problem = problem = clean_line(problem, MAX_REASON_LENGTH)
        self.records, self.errors = records, errors
        self.first_errors = tuple(clean_line(each, MAX_REASON_LENGTH) for each in first_errors)
        self.advice = advice
        self.fields = (job_arn, problem, records, errors, list(self.first_errors), advice)
        said = f" {'; '.join(each.rstrip('. ') for each in self.first_errors)}." if self.first_errors else ""
        super().__init__(f"{problem.rstrip('. ')}.{said} {advice} {_name_job(job_arn)}")


class PersonalizeJobTimeoutError(_PicklableError, AirflowSensorTimeout):
    """
    The task's ``timeout`` was over before the job was.

    :param job_arn: the job's ARN
    :param status: its last known status, or ``None`` when Personalize never answered
    :param timeout: the timeout in seconds
    :param fault: what the last call about the job met instead of an answer, and what to do about it; ``None``
        when AWS answered it
    :param is_created: whether the task creates jobs, so that it may create another when it is cleared
    """

    def __init__(
        self,
        job_arn: str,
        status: str | None,
        timeout: float,
        fault: str | None = None,
        is_created: bool = False,
    ) -> None:
        self.job_arn = job_arn
        self.status = status = None if status is None else clean_line(status, MAX_WORD_LENGTH)
        self.timeout = timeout
        self.fault = fault = clean_line(fault, MAX_REASON_LENGTH) if fault else None
        self.is_created = is_created
        self.fields = (job_arn, status, timeout, fault, is_created)
        if fault:
            known = f" (the status before was {status})" if status else ""
            text = f"No answer when the timeout of {timeout:g} s was over{known}: {fault.rstrip('. ')}."
        else:
            text = (
                f"Not ACTIVE when the timeout of {timeout:g} s was over: its last known status is "
                f"{status or 'none'}."
            )
        longer = "" if fault else ", and raise timeout if it may take longer"
        advice = f"The job goes on by itself: clear the task to wait on{longer}."
        if is_created:
            advice = (
                f"The job goes on by itself: while it is unfinished, clear the task to wait on{longer}. When "
                "the job is ACTIVE, a cleared task takes it from Airflow 3.3 on; before, do not clear the "
                "task, which may then create another job; let a sensor take this one."
            )
        super().__init__(f"{text} {advice} {_name_job(job_arn)}")


class PersonalizeNoSlotError(_PicklableError, AirflowSensorTimeout):
    """
    The operator's ``timeout`` was over before the job could be created.

    :param job_arn: the ARN that the job would have had
    :param reason: why AWS did not create it when it was last asked, and what to do about it; ``None`` when no
        call was made
    :param timeout: the timeout in seconds
    :param may_exist: whether the job may exist all the same, as AWS did not say what became of a Create, or
        whether an earlier try had created it
    """

    def __init__(self, job_arn: str, reason: str | None, timeout: float, may_exist: bool = False) -> None:
        self.job_arn = job_arn
        self.reason = reason = clean_line(reason, MAX_REASON_LENGTH) if reason else None
        self.timeout = timeout
        self.may_exist = may_exist
        self.fields = (job_arn, reason, timeout, may_exist)
        why = (reason or "No triggerer asked for it; see whether one is running").rstrip(". ")
        known, advice = "Not created", "Clear the task to try again."
        if may_exist:
            known = "Not known to be created"
            advice = (
                "Look whether the job exists: if it does, let a sensor wait for it; if not, clear the task "
                "to try again."
            )
        super().__init__(
            f"{known} when the timeout of {timeout:g} s was over: {why}. {advice} {_name_job(job_arn)}"
        )


class PersonalizeNoJobsError(_PicklableError, RuntimeError):
    """
    A list operator found no job, and its ``if_empty`` is ``fail``; a retry lists again.

    :param title: the kind of job, in words
    :param listed: how many jobs AWS listed, before they were filtered
    :param solution_version_arn: the solution version whose jobs were listed; ``None`` means all jobs
    """

    def __init__(self, title: str, listed: int, solution_version_arn: str | None = None) -> None:
        self.title = title
        self.listed = listed
        self.solution_version_arn = solution_version_arn
        self.fields = (title, listed, solution_version_arn)
        reason, advice = f"AWS lists {listed}, which the filters leave out", "Widen the filters"
        if not listed:
            reason, advice = "AWS lists none", "Check solution_version_arn, region and connection"
        text = f"No {title} matches, and if_empty is 'fail': {reason}. {advice}, or create a job first."
        super().__init__(f"{text} {_name_job(solution_version_arn)}" if solution_version_arn else text)


class _ObjectError(_PicklableError):
    """An object or a folder in S3 that cannot be read."""

    def __init__(self, reason: str, advice: str, path: str, offset: int | None = None) -> None:
        self.reason = reason = clean_line(reason, MAX_REASON_LENGTH)
        self.advice = advice
        self.path = path = clean_line(path, MAX_REASON_LENGTH)
        self.offset = offset
        self.fields = (reason, advice, path, offset)
        place = path if offset is None else f"{path}, byte {offset}"
        super().__init__(f"{reason.rstrip('. ')}. {advice} ({place})")


class S3RefusedError(_ObjectError, AirflowFailException):
    """
    S3 refused to list or hand out what a task asked for, and would again, so it is not retried.

    :param reason: what happened, and why
    :param advice: what to do about it
    :param path: the object's or the folder's path, ``s3://bucket/key``
    :param offset: how many bytes of the object were read before; ``None`` when it is about no byte
    """


class S3UnavailableError(_ObjectError, RuntimeError):
    """
    S3 did not answer properly, or an object changed while it was read; a retry may read it.

    :param reason: the same as in :class:`S3RefusedError`, like all other fields
    """


class StateStoreUnavailableError(_PicklableError, RuntimeError):
    """
    Airflow's task state store did not answer for a while, so a task has no record; a retry asks again.

    :param action: what failed, ``read`` or ``written``
    :param detail: what Airflow says
    :param job_arn: the job that it is about; ``None`` when the task does not know yet
    """

    def __init__(self, action: str, detail: str, job_arn: str | None = None) -> None:
        self.action = action
        self.detail = detail = clean_line(detail, MAX_REASON_LENGTH)
        self.job_arn = job_arn
        self.fields = (action, detail, job_arn)
        super().__init__(
            f"Airflow's task state store could not be {action}: {detail.rstrip('. ')}. The task's record of "
            "its job keeps a retry from creating a second one, so this try ends here: look at Airflow's API "
            "server and database; the next try, or the task when it is cleared, goes on."
            + (f" {_name_job(job_arn)}" if job_arn else "")
        )


class TriggerFailedError(PersonalizeError, RuntimeError):
    """Waiting went wrong in the triggerer, which says nothing about the job; a retry waits on."""


class _CallError(_PicklableError):
    """A call to AWS that brought no answer worth judging."""

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
        self.code = code = clean_line(code, MAX_WORD_LENGTH)
        self.detail = detail = clean_line(detail, MAX_REASON_LENGTH)
        self.advice = advice
        self.fields = (operation, subject, region, aws_conn_id, code, detail, advice)
        identity = f"connection {aws_conn_id!r}" if aws_conn_id else "boto3's own credentials, no connection"
        where = f"region {region}" if region else "no region"
        said = f"{code}: {detail.rstrip('. ')}. {advice}".rstrip()
        super().__init__(f"{said} ({operation} {self.outcome} for {subject}, {where}, {identity})")


class PersonalizeRequestError(_CallError, AirflowFailException):
    """
    AWS refused the request, and would refuse it again, so the task is not retried.

    :param operation: the API operation, such as ``DescribeBatchSegmentJob``
    :param subject: what the call was about: an ARN, or words
    :param region: the region that was called, or ``None`` when none could be found
    :param aws_conn_id: the Airflow connection that was used; ``None`` means boto3's own credentials
    :param code: AWS's error code, or the name of botocore's exception
    :param detail: what AWS or botocore said
    :param advice: what to do about it
    """

    outcome = "was refused"


class PersonalizeUnavailableError(_CallError, RuntimeError):
    """
    AWS throttled the request, failed itself, was not reached, or answered nonsense: not an answer yet.

    :param operation: the same as in :class:`PersonalizeRequestError`, like all other fields
    """

    outcome = "did not succeed"
    is_called = True
    """Whether the request may have reached AWS; what failed before carried nothing out."""

    @property
    def is_throttling(self) -> bool:
        """Whether AWS refused the request for want of capacity, so that it carried nothing out."""
        return self.code in THROTTLING_CODES


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


class ExtraNotInstalledError(_PicklableError, AirflowFailException):
    """
    A task needs a library that comes with an extra of this package.

    :param module: the module that is not there
    :param extra: the extra
    """

    def __init__(self, module: str, extra: str) -> None:
        self.module = module
        self.extra = extra
        self.fields = (module, extra)
        super().__init__(
            f"No module named {module!r}. Install the extra where tasks run: "
            f"pip install 'airflow-provider-personalize-segments[{extra}]'"
        )


class InvalidParameterError(PersonalizeError, AirflowFailException, ValueError):
    """A value given to a task cannot be right, now or on a retry; the message says what was expected."""


class InvalidWatcherError(PersonalizeError, ValueError, TypeError):
    """
    A watcher in a DAG file cannot work; the message says why.

    It is a TypeError, too: any other error of a trigger that is made anew ends Airflow's triggerer.
    """


@contextmanager
def fail_on_invalid_parameters() -> Iterator[None]:
    """Turn a ValueError about what the user gave into one that Airflow does not retry."""
    try:
        yield
    except InvalidParameterError:
        raise
    except ValueError as error:
        # One sentence, not two tracebacks that say the same.
        raise InvalidParameterError(str(error)) from None
