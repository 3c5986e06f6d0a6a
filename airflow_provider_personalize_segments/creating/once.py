"""Creating a job once, whatever happens in between: the name tells whether it exists.

Personalize's Create has no idempotency token, but a name is taken for ever, and the ARN follows from it. So
before each Create the name is looked up, and what is found is judged here: for the worker, for the triggerer,
and for the try after one that was killed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_personalize_segments.creating.differences import find_differences
from airflow_provider_personalize_segments.creating.names import MAX_NUMBER, number_job_name
from airflow_provider_personalize_segments.errors import (
    InvalidParameterError,
    PersonalizeJobExistsError,
    PersonalizeRequestError,
    PersonalizeUnavailableError,
)
from airflow_provider_personalize_segments.jobs import (
    BatchJobKind,
    JobState,
    classify_status,
    find_job_arn,
)
from airflow_provider_personalize_segments.plain_json import make_json_safe

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.hooks import PersonalizeHook
    from airflow_provider_personalize_segments.waiting.verdicts import Log

ADOPT, FAIL, NEW = IF_EXISTS = ("adopt", "fail", "new")
CLOCK_DIFFERENCE = timedelta(minutes=5)
"""How far Airflow's clock and AWS's may be apart; AWS answers nobody whose clock is further off."""

FULL_INTERVALS = 4
"""The most intervals between two attempts while no more jobs may run."""


class Attempt(NamedTuple):
    """
    What came of one attempt to have a job.

    :param job_arn: the job's ARN; ``None`` when there is no job yet
    :param job: the job as Describe gives it, as plain JSON, when it was there already
    :param reason: why there is none yet
    :param is_full: whether that is because no more jobs may run or be asked for at a time
    """

    job_arn: str | None = None
    job: dict[str, Any] | None = None
    reason: str | None = None
    is_full: bool = False


class JobCreation:
    """
    One task instance's way to its job, attempt by attempt.

    :param kind: the kind of job
    :param request: the members of the Create request but its name
    :param job_name: the name of the first; further ones get numbers
    :param if_exists: ``adopt``, ``fail`` or ``new``
    :param since: a job created later than this may be an earlier try's, or this one's before it was deferred;
        ``None`` when nothing can have been created so far
    :param made_arn: the ARN of the job that an earlier try may have created, where that is known
    :param made_request: what it asked for then; another job under this ARN is not its own
    :param is_derived: whether the name follows from the task instance, and ``since`` is exact, so that a job
        that has it can only be an earlier try's
    :param is_first_try: whether no earlier try can have created a job, so that one since ``since`` is this
        try's, failed or not
    :param number: the number of the name to attempt next
    :param is_free: whether this name was seen to be free: a job of the same request that has it since counts
        as this task's own
    :param before_create: called before each Create with the ARN that the job will have
    :param log: where to tell what happens
    """

    def __init__(
        self,
        kind: BatchJobKind,
        request: dict[str, Any],
        job_name: str,
        if_exists: str,
        *,
        since: datetime | None,
        made_arn: str | None = None,
        made_request: Mapping[str, Any] | None = None,
        is_derived: bool = False,
        is_first_try: bool = False,
        number: int = 1,
        is_free: bool = False,
        before_create: Callable[[str], object] | None = None,
        log: Log,
    ) -> None:
        self.kind = kind
        self.request = request
        self.job_name = job_name
        self.if_exists = if_exists
        self.since = since
        self.is_derived = is_derived
        self.is_first_try = is_first_try
        self.number = number
        self.is_free = is_free
        self.failed: tuple[str, dict[str, Any]] | None = None
        """The ARN of the last job of these tries that :meth:`find` passed by since it failed, and the job."""
        self._made_arn = made_arn
        self._made_request = made_request or request
        self._before_create = before_create
        self._log = log
        self._is_refused = False
        self._candidate: tuple[str, dict[str, Any]] | None = None

    @property
    def name(self) -> str:
        """The name that is attempted next."""
        return number_job_name(self.job_name, self.number)

    @property
    def job_arn(self) -> str:
        """The ARN of the job that is attempted next."""
        return find_job_arn(self.kind, self.request["solutionVersionArn"], self.name)

    def attempt(self, hook: PersonalizeHook) -> Attempt:
        """
        Look for the job, and create it when there is none; blocks.

        :param hook: the hook to call with; one that repeats nothing by itself
        :returns: the job's ARN, or why there is none yet
        :raises PersonalizeJobExistsError: when a name is taken that the task may not move on from
        :raises PersonalizeRequestError: when AWS refuses for good
        """
        try:
            # After a refusal for want of a slot, unlike after no answer, nothing can have been created.
            found = None if self._is_refused else self.find(hook)
            self._is_refused = False
            return found or self._create(hook)
        except PersonalizeUnavailableError as error:
            self._is_refused = is_full = error.code == "LimitExceededException" and self.is_free
            return Attempt(reason=str(error), is_full=is_full)

    def find(self, hook: PersonalizeHook) -> Attempt | None:
        """
        Look for a job to take; blocks.

        :param hook: the hook to call with
        :returns: the job; ``None`` when there is none, and the name to attempt next is free
        :raises PersonalizeUnavailableError: when AWS does not answer
        """
        if self._made_arn:
            arn, job = self._made_arn, self._look(hook, self._made_arn)
            if job is not None and self._is_kept(job):
                if classify_status(job["status"]) is not JobState.FAILED:
                    return self._adopt(arn, job)
                self.failed = arn, job
            self._made_arn = None
        while (job := self._look(hook, self.job_arn)) is not None:
            if self._may_take(job):
                return self._adopt(self.job_arn, job)
            if self.number == MAX_NUMBER:
                break
            self._move_on(job["status"])
        if self._candidate:
            return self._adopt(*self._candidate)
        if job is not None:
            raise InvalidParameterError(
                f"job_name: {self.job_name} and its numbers up to {MAX_NUMBER} are taken. Choose a name that "
                "changes from run to run, such as one with '{{ ts_nodash }}' in it."
            )
        self.is_free = True
        return None

    def _look(self, hook: PersonalizeHook, job_arn: str) -> dict[str, Any] | None:
        try:
            job: dict[str, Any] = make_json_safe(hook.describe_job(job_arn))
        except PersonalizeRequestError as error:
            if error.code != "ResourceNotFoundException":
                raise
            return None
        return job

    def _create(self, hook: PersonalizeHook) -> Attempt:
        name = self.name
        if self._before_create:
            self._before_create(self.job_arn)
        try:
            arn = hook.create_job(self.kind, jobName=name, **self.request)
        except PersonalizeRequestError as error:
            if error.code != "ResourceAlreadyExistsException":
                raise
        else:
            self._log.info("Created %s.", arn)
            return Attempt(arn)
        # Somebody was faster, or a call before was carried out: a look tells, or the next.
        found = self.find(hook)
        if found is None and self.name == name:
            return Attempt(reason=f"AWS says that {self.job_arn} exists, and does not show it yet")
        return found or self._create(hook)

    def _may_take(self, job: Mapping[str, Any]) -> bool:
        """Tell whether a job that has the name is to be the task's; False means to try the next number."""
        failed = classify_status(job["status"]) is JobState.FAILED
        differences = find_differences(self.kind, self.request, job)
        if self.is_free and not differences:
            return True  # since the look at which the name was free; failed or not, it is this try's
        earlier = self._is_of_earlier_try(job)
        if self.is_first_try and earlier and not differences:
            failed = False  # of no try that came before, so there is none to move on from
        if failed and (self.if_exists != FAIL or earlier):
            if earlier and not differences:
                self._candidate = None  # whatever came before, an earlier try moved on from it
                self.failed = self.job_arn, dict(job)
            return False
        if differences and earlier and self.is_derived:
            self._log.warning(
                "%s differs from what this task asks for now, but only an earlier try can have made it: %s.",
                self.job_arn,
                "; ".join(differences),
            )
            differences = []
        if self.if_exists == NEW:
            # Of several of the same, the last is an earlier try's: look on, until there are no more.
            if earlier and not differences:
                self._candidate = (self.job_arn, dict(job))
            return False
        if differences or (self.if_exists == FAIL and not earlier):
            raise PersonalizeJobExistsError(self.job_arn, job["status"], differences)
        return True

    def _is_kept(self, job: Mapping[str, Any]) -> bool:
        """Tell whether a job is the one that was kept: a name that was free then may be another's now."""
        own = self.if_exists == ADOPT or self._is_of_earlier_try(job)
        return own and not find_differences(self.kind, self._made_request, job)

    def _is_of_earlier_try(self, job: Mapping[str, Any]) -> bool:
        created = job.get("creationDateTime")
        if self.since is None or created is None:
            return False
        return datetime.fromisoformat(created) >= self.since - CLOCK_DIFFERENCE

    def _move_on(self, status: str) -> None:
        taken = self.name
        self.number += 1
        self.is_free = False
        self._log.info(
            "There is a %s %s already, which is %s; trying %s.", self.kind.title, taken, status, self.name
        )

    def _adopt(self, job_arn: str, job: dict[str, Any]) -> Attempt:
        self._log.info(
            "%s exists already, created at %s: adopting it. It is %s.",
            job_arn,
            job.get("creationDateTime"),
            job["status"],
        )
        return Attempt(job_arn, job)


def find_delay(attempt: Attempt, count: int, interval: float) -> float:
    """
    Return how many seconds to wait after an attempt that brought no job.

    A full quota changes when a job ends, so it is asked about at the interval, then a little less often; a
    fault may be over in a moment. Both are spread, so that those who wait do not ask together.

    :param attempt: what came of it
    :param count: how many such attempts there were in a row
    :param interval: seconds between two calls about a job
    """
    if attempt.is_full:
        longest = interval * FULL_INTERVALS
        delay = interval * 2.0 ** min(count - 1, 8)
    else:
        longest = interval
        delay = 2.0 ** min(count - 1, 16)
    return min(delay, longest) * random.uniform(0.5, 1.0)
