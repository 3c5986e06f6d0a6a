"""Creating a job once: the name is the only owner.

Personalize's Create has no idempotency token, but AWS gives a name to one job, for ever. So a task needs no
memory and no clock. :func:`find` walks a task's names, and returns the job to take, or the one name that may
be created now. :class:`Creation` creates a job of exactly that name, on the worker or in the triggerer.

A name's number grows only after the job before was seen in CREATE FAILED, and AWS creates a name once. So a
task never has two jobs, whichever process dies.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_personalize_segments.arns import find_job_arn
from airflow_provider_personalize_segments.creating.differences import (
    find_differences,
    find_other_environment,
)
from airflow_provider_personalize_segments.creating.names import MAX_NUMBER, number_job_name
from airflow_provider_personalize_segments.errors import (
    InvalidParameterError,
    PersonalizeJobExistsError,
    PersonalizeRequestError,
    PersonalizeUnavailableError,
)
from airflow_provider_personalize_segments.jobs import BatchJobKind, JobState, classify_status
from airflow_provider_personalize_segments.plain_json import clean_line, make_job_safe

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.hooks import PersonalizeHook
    from airflow_provider_personalize_segments.waiting.verdicts import Log

ADOPT, FAIL, NEW = IF_EXISTS = ("adopt", "fail", "new")
MAX_LOOKS_BACK = 20
"""The most calls that looking for jobs of earlier lineages makes."""


class Plan(NamedTuple):
    """
    One job: the name that it gets, and what it is made of.

    :param kind: the kind of job
    :param job_name: its final name
    :param request: the members of the Create request but the name
    """

    kind: BatchJobKind
    job_name: str
    request: dict[str, Any]

    @property
    def job_arn(self) -> str:
        """The ARN that the job has, or will have."""
        return find_job_arn(self.kind, self.request["solutionVersionArn"], self.job_name)


class Wanted(NamedTuple):
    """
    The job that a try of a task wants.

    :param plan: the job under the first of the task's names
    :param if_exists: ``adopt``, ``fail`` or ``new``
    :param is_own: whether these names belong to the task's lineage alone
    :param kept: the plan that this lineage recorded last, where Airflow keeps records
    :param earlier: names of jobs that earlier lineages of the task may have created, newest first
    """

    plan: Plan
    if_exists: str = ADOPT
    is_own: bool = True
    kept: Plan | None = None
    earlier: tuple[str, ...] = ()

    def plans(self) -> Iterator[Plan]:
        """Yield the plans in the order in which they are tried; the recorded one comes first."""
        numbered = [
            self.plan._replace(job_name=number_job_name(self.plan.job_name, number))
            for number in range(1, MAX_NUMBER + 1)
        ]
        if self.kept:
            yield self.kept
            names = [each.job_name for each in numbered]
            if self.kept.job_name in names:
                numbered = numbered[names.index(self.kept.job_name) + 1 :]
        yield from numbered


class Found(NamedTuple):
    """
    The end of a search.

    :param plan: the job to take, or to create
    :param job: the job as Describe gives it, as plain JSON; ``None`` when it may be created
    """

    plan: Plan
    job: dict[str, Any] | None = None


class Attempt(NamedTuple):
    """
    The result of one attempt to create a job.

    :param job_arn: the job's ARN; ``None`` when there is no job yet
    :param job: the job as Describe gives it, as plain JSON, when it exists without an answer to Create
    :param is_own: whether the attempts created it; when not, AWS says that its name was taken before
    :param reason: why there is no job yet
    :param is_full: whether that is because AWS lets no more jobs run at a time
    :param is_throttled: whether that is because AWS lets no more calls be made at a time
    """

    job_arn: str | None = None
    job: dict[str, Any] | None = None
    is_own: bool = True
    reason: str | None = None
    is_full: bool = False
    is_throttled: bool = False


# --- Finding --------------------------------------------------------------------------------------


def find(hook: PersonalizeHook, wanted: Wanted, log: Log) -> Found:
    """
    Return the job that a task is to take, or the one plan that it may create now; blocks.

    :param hook: the hook to call with
    :param wanted: the job that the task wants
    :param log: the task's log
    :raises PersonalizeJobExistsError: when a job has the name that the task may neither take nor pass by
    :raises PersonalizeUnavailableError: when AWS does not answer; nothing is decided then
    :raises InvalidParameterError: when all numbers of the name are taken
    """
    for plan in wanted.plans():
        job = look(hook, plan)
        if job is None:
            is_first = plan in (wanted.plan, wanted.kept)
            earlier = _find_earlier(hook, wanted) if is_first and not wanted.kept else None
            return earlier or Found(plan)
        if may_take(wanted, plan, job, log, is_own=plan is wanted.kept):
            return Found(plan, job)
        log.info("The job %s is %s; trying the next name.", plan.job_name, clean_line(job["status"]))
    raise InvalidParameterError(
        f"job_name: {wanted.plan.job_name} and its numbers up to {MAX_NUMBER} are taken. Choose a name that "
        "changes from run to run, such as one with '{{ ts_nodash }}' in it."
    )


def may_take(wanted: Wanted, plan: Plan, job: dict[str, Any], log: Log, *, is_own: bool = False) -> bool:
    """
    Judge a job that has a name of the task's.

    :param wanted: the job that the task wants
    :param plan: the plan whose name the job has
    :param job: the job as Describe gives it, as plain JSON
    :param log: the task's log
    :param is_own: whether a record or an unanswered Create tells that a job of an explicit name is the
        lineage's own, unless it is another than was planned
    :returns: whether the task takes it; ``False`` when it failed, so that the next name may be tried
    :raises PersonalizeJobExistsError: when it is neither
    """
    has_failed = classify_status(job["status"]) is JobState.FAILED
    differences = find_differences(plan.kind, plan.request, job, is_strict=not is_own)
    if wanted.is_own:
        if has_failed:
            return False
        if others := find_other_environment(plan.kind, plan.request, job):
            raise PersonalizeJobExistsError(plan.job_arn, job["status"], others)
        if differences:
            log.warning(
                "This task's own job differs from the parameters as they are now: its %s. (%s)",
                "; ".join(differences),
                plan.job_arn,
            )
        return True
    # The task's own, of an earlier lineage, which recorded it.
    is_earlier = plan.job_name in wanted.earlier and is_unfinished_or_failed(job)
    if wanted.if_exists == FAIL and not is_own and not is_earlier:
        raise PersonalizeJobExistsError(plan.job_arn, job["status"], differences)
    if has_failed:
        return False
    if differences:
        raise PersonalizeJobExistsError(plan.job_arn, job["status"], differences)
    return True


def is_unfinished_or_failed(job: dict[str, Any]) -> bool:
    """
    Tell whether a job is anything but ACTIVE.

    :param job: the job as Describe gives it
    """
    return classify_status(job["status"]) is not JobState.ACTIVE


def _find_earlier(hook: PersonalizeHook, wanted: Wanted) -> Found | None:
    """Return an unfinished job of an earlier lineage that is the same: it is billed, and nothing stops it."""
    looks = 0
    for first in wanted.earlier:
        for number in range(1, MAX_NUMBER + 1):
            if looks == MAX_LOOKS_BACK:
                return None
            plan = wanted.plan._replace(job_name=number_job_name(first, number))
            job = look(hook, plan)
            looks += 1
            state = None if job is None else classify_status(job["status"])
            if state is JobState.WAITING and job and not find_differences(plan.kind, plan.request, job):
                return Found(plan, job)
            if state is not JobState.FAILED:
                break
    return None


def look(hook: PersonalizeHook, plan: Plan) -> dict[str, Any] | None:
    """
    Return the job that has a plan's name, as plain JSON; ``None`` when AWS shows none.

    :param hook: the hook to call with
    :param plan: the plan
    :raises PersonalizeUnavailableError: when AWS does not answer
    """
    try:
        job = make_job_safe(hook.describe_job(plan.job_arn))
    except PersonalizeRequestError as error:
        if error.code != "ResourceNotFoundException":
            raise
        return None
    return job


# --- Creating -------------------------------------------------------------------------------------


class Creation:
    """
    Create one job under its final name, attempt by attempt; never another name.

    :param plan: the job; a search found its name free
    :param log: the log of the task or trigger
    """

    def __init__(self, plan: Plan, log: Log) -> None:
        self.plan = plan
        self.is_unanswered = False
        """Whether a Create of these attempts had no answer: a job of this name is then their own."""
        self._log = log

    def attempt(self, hook: PersonalizeHook) -> Attempt:
        """
        Create the job, unless it exists by now; blocks.

        :param hook: the hook to call with
        :raises PersonalizeRequestError: when AWS refuses for good
        """
        try:
            if self.is_unanswered and (job := look(hook, self.plan)):
                return Attempt(self.plan.job_arn, job)
            return self._create(hook)
        except PersonalizeUnavailableError as error:
            return Attempt(reason=str(error), is_throttled=error.is_throttling)

    def _create(self, hook: PersonalizeHook) -> Attempt:
        try:
            create = hook.repeating_nothing().create_job
            arn = create(self.plan.kind, jobName=self.plan.job_name, **self.plan.request)
        except PersonalizeUnavailableError as error:
            is_full = error.code == "LimitExceededException"
            is_refused = is_full or error.is_throttling or not error.is_called
            self.is_unanswered = self.is_unanswered or not is_refused
            return Attempt(reason=str(error), is_full=is_full, is_throttled=error.is_throttling)
        except PersonalizeRequestError as error:
            if error.code != "ResourceAlreadyExistsException":
                raise
        else:
            self._log.info("Created %s.", arn)
            return Attempt(arn)
        job = look(hook, self.plan)
        if job is None:
            return Attempt(
                reason=f"AWS says that the job exists, and does not show it yet ({self.plan.job_arn})"
            )
        return Attempt(self.plan.job_arn, job, is_own=self.is_unanswered)
