"""The one question about a job that every mode of waiting asks, and what is told about the answer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from airflow_provider_personalize_segments.arns import parse_job_arn
from airflow_provider_personalize_segments.errors import (
    MAX_REASON_LENGTH,
    MAX_WORD_LENGTH,
    PersonalizeRequestError,
    PersonalizeUnavailableError,
)
from airflow_provider_personalize_segments.jobs import JobState, classify_status, is_known_status
from airflow_provider_personalize_segments.plain_json import clean_line, make_job_safe

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.hooks import PersonalizeHook

_MARKS = (60, 300, 900, 3600)
CANNOT_CANCEL = (
    "The job goes on, and is billed: Personalize cannot cancel a batch job. Nothing was deleted. A sensor "
    "can wait for it. A create operator waits for it when it is cleared while the job is unfinished, and may "
    "create another one when it is cleared later. (%s)"
)
"""What is logged when a person ends a task whose job runs."""


class Log(Protocol):
    """What a sensor's and a trigger's log have in common on every Airflow."""

    def info(self, message: str, /, *args: Any) -> Any:
        """Log what is going on."""

    def warning(self, message: str, /, *args: Any) -> Any:
        """Log what a person should look at."""

    def error(self, message: str, /, *args: Any) -> Any:
        """Log what ends the task."""


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
    return Verdict(classify_status(job["status"]), make_job_safe(job))


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
        f"no answer within {seconds:.3g} s",
        "Look for a proxy, a firewall or a VPC endpoint that swallows connections.",
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


FIRST_SIGN = 45.0
"""Seconds after which a trigger says how the wait stands; its first answer usually comes later than that."""


class Reporter:
    """
    Tells a task's log about its wait: one writer for a worker and for the triggerer.

    It says at the start what will happen, then each status when it is new and why there is none, and now and
    then how long the task has been waiting.

    :param log: the log of the sensor or trigger
    :param subject: what is waited for; a job's ARN
    :param since: since when the task waits; ``None`` means from now on
    :param told_until: the moment until which the log has been told how long the wait is; ``None`` means now,
        as when a task begins
    :param is_told: whether the log has been told the job's status, as by the worker before the task deferred;
        then there is a sign of life soon, however long the task has been waiting
    """

    def __init__(
        self,
        log: Log,
        subject: str,
        since: datetime | None = None,
        told_until: datetime | None = None,
        *,
        is_told: bool = False,
    ) -> None:
        self._log = log
        self._subject = subject
        self._is_told = is_told
        now = datetime.now(UTC)
        self._since = since or now
        waited = ((told_until or now) - self._since).total_seconds()
        self._next_mark = _find_mark(waited)
        if is_told:
            self._next_mark = min(self._next_mark, waited + FIRST_SIGN)
        self.status: str | None = None
        """The status that AWS told last."""
        self.fault: str | None = None
        """What the last call met instead of an answer; ``None`` when AWS answered it."""

    def begin(self, where: str, interval: float, until: datetime | None, *, grows: bool = False) -> None:
        """
        Say what will happen.

        :param where: where the task waits
        :param interval: seconds between two calls about the job
        :param until: when the task gives up; ``None`` means never
        :param grows: whether the interval grows from call to call
        """
        self._log.info(
            "Waiting %s for %s: asking AWS %severy %s, until %s.",
            where,
            self._subject,
            "ever more rarely, at first " if grows else "",
            f"{interval:g} s" if interval % 60 else show_seconds(interval),
            "it is over" if until is None else show_moment(until),
        )

    def tell(self, verdict: Verdict, *, tells_fault: bool = True) -> None:
        """
        Log what is new in a verdict.

        :param verdict: the verdict
        :param tells_fault: whether to say at once why there is no answer; when not, that comes with the next
            line that says how long the task has been waiting
        """
        self.fault = verdict.no_answer
        if verdict.job is not None and verdict.job["status"] != self.status:
            self._tell_status(verdict)
        state = f"the job is {self._shown_status}"
        if verdict.no_answer and tells_fault:
            self._log.warning("Not yet: %s", verdict.no_answer)
        elif verdict.no_answer:
            state = f"{state}, and there is no answer: {verdict.no_answer}"
        if verdict.state is JobState.WAITING:
            self.tell_time(state)

    @property
    def _shown_status(self) -> str:
        return clean_line(self.status or "not known yet", MAX_WORD_LENGTH)

    def _tell_status(self, verdict: Verdict) -> None:
        job = verdict.job or {}
        self.status = status = job["status"]
        is_told, self._is_told = self._is_told, False
        if is_told and verdict.state is JobState.WAITING and is_known_status(status):
            return
        if verdict.state is JobState.FAILED:
            reason = clean_line(job.get("failureReason") or "Personalize gave no reason", MAX_REASON_LENGTH)
            self._log.error("%s: %s (%s)", self._shown_status, reason, self._subject)
            return
        self._log.info("The job is %s. (%s)", self._shown_status, self._subject)
        if not is_known_status(status):
            self._log.warning(
                "The status %r is not documented. Waiting on: only ACTIVE is success. (%s)",
                status,
                self._subject,
            )

    def tell_time(self, state: str) -> None:
        """
        Log how long the task has been waiting, if it is time to say so.

        :param state: how things stand
        """
        if self.seconds_to_tell > 0:
            return
        waited = (datetime.now(UTC) - self._since).total_seconds()
        self._next_mark = _find_mark(waited)
        self._log.info(
            "Still waiting after %s: %s. (%s)", show_seconds(waited), state.rstrip(". "), self._subject
        )

    @property
    def seconds_to_tell(self) -> float:
        """In how many seconds it is time to say how long the task has been waiting."""
        return self._next_mark - (datetime.now(UTC) - self._since).total_seconds()


def _find_mark(waited: float) -> float:
    """Return after how many seconds of waiting the log is told next: 1, 5, 15 and 60 minutes, then hourly."""
    return next((mark for mark in _MARKS if mark > waited), (waited // 3600 + 1) * 3600)


def show_moment(moment: datetime) -> str:
    """
    Return a moment as a person reads it: ``2026-12-02 02:41:02 UTC``.

    :param moment: the moment, with an offset
    """
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def show_seconds(seconds: float) -> str:
    """
    Return a length of time as a person reads it: ``0.5 s``, ``1 min``, ``2 h 15 min``, ``7 d``.

    :param seconds: the length in seconds
    """
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    parts = ((minutes // 1440, "d"), (minutes // 60 % 24, "h"), (minutes % 60, "min"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number)
