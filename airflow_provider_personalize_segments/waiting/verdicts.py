"""The one question about a job that every mode of waiting asks, and what is told about the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from airflow_provider_personalize_segments.arns import parse_job_arn
from airflow_provider_personalize_segments.errors import PersonalizeRequestError, PersonalizeUnavailableError
from airflow_provider_personalize_segments.jobs import JobState, classify_status, is_known_status
from airflow_provider_personalize_segments.plain_json import make_json_safe

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.hooks import PersonalizeHook

CANNOT_CANCEL = (
    "%s goes on, and is billed: Personalize cannot cancel a batch job. Nothing was deleted. Clear the task "
    "to wait for it again; a sensor can, too."
)
"""What is logged when a person ends a task whose job runs."""


class Log(Protocol):
    """What a sensor's and a trigger's log have in common on every Airflow."""

    def info(self, message: str, /, *args: Any) -> Any:
        """Log what is going on."""

    def warning(self, message: str, /, *args: Any) -> Any:
        """Log what a person should look at."""


class Verdict(NamedTuple):
    """
    What one call told about a job.

    :param state: whether it is over
    :param job: the job as Describe gives it, as plain JSON; ``None`` when there was no answer
    :param no_answer: why there was none, in words
    """

    state: JobState
    job: dict[str, Any] | None = None
    no_answer: str | None = None


def ask(hook: PersonalizeHook, job_arn: str, *, is_created: bool = False) -> Verdict:
    """
    Ask AWS about a job, once, and judge the answer; every mode of waiting goes through here.

    :param hook: the hook to call with
    :param job_arn: the job's ARN
    :param is_created: whether the task that asks has created the job
    :returns: a verdict; no answer, for a reason that may pass, is WAITING
    :raises PersonalizeRequestError: when AWS refuses for good
    :raises ConnectionNotFoundError: when the hook's connection does not exist
    """
    try:
        job = hook.describe_job(job_arn)
    except PersonalizeUnavailableError as error:
        return Verdict(JobState.WAITING, no_answer=str(error))
    except PersonalizeRequestError as error:
        return judge_refusal(error, is_created=is_created)
    return Verdict(classify_status(job["status"]), make_json_safe(job))


def make_silence(job_arn: str, aws_conn_id: str | None, seconds: float) -> Verdict:
    """
    Return the verdict about a job when AWS did not answer in time.

    :param job_arn: the job's ARN
    :param aws_conn_id: the Airflow connection that AWS was called with
    :param seconds: how long the answer was waited for
    """
    arn = parse_job_arn(job_arn)
    error = PersonalizeUnavailableError(
        arn.kind.describe_operation,
        job_arn,
        arn.region,
        aws_conn_id,
        "NoAnswer",
        f"none within {seconds:.3g} s",
    )
    return Verdict(JobState.WAITING, no_answer=str(error))


def judge_refusal(error: PersonalizeRequestError, *, is_created: bool) -> Verdict:
    """
    Judge what AWS refuses for good, which a job that it does not show yet only seems to be.

    :param error: the refusal
    :param is_created: whether the task that asked has created the job: no job can be deleted, so it exists
    :raises PersonalizeRequestError: the refusal, when it is one
    """
    if is_created and error.code == "ResourceNotFoundException":
        return Verdict(JobState.WAITING, no_answer=str(error))
    raise error


class Reporter:
    """
    Tells a task's log about a job: each status when it is new, and why there is none.

    :param log: the log of the sensor or trigger
    :param job_arn: the job's ARN
    """

    def __init__(self, log: Log, job_arn: str) -> None:
        self._log = log
        self._job_arn = job_arn
        self.status: str | None = None

    def tell(self, verdict: Verdict) -> None:
        """
        Log what is new in a verdict.

        :param verdict: the verdict
        """
        if verdict.job is None:
            self._log.warning("Not yet: %s", verdict.no_answer)
            return
        status = verdict.job["status"]
        if status == self.status:
            return
        self.status = status
        self._log.info("%s is %s.", self._job_arn, status)
        if not is_known_status(status):
            self._log.warning(
                "%s has the status %r, which is not documented. Waiting on: only ACTIVE is success.",
                self._job_arn,
                status,
            )
