"""Creating a job once: the name is the only owner.

Personalize's Create has no idempotency token, but AWS gives a name to one job, for ever. So a task needs no
memory and no clock. :func:`find` walks a task's names, and returns the job to take, or the one name that may
be created now. :class:`Creation` creates a job of exactly that name, on the worker or in the triggerer.

A name's number grows only after the job before was seen in CREATE FAILED, and AWS creates a name once. So a
task never has two jobs, whichever process dies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    :param is_own: whether these names belong to the task's lineage alone, if no other Airflow makes them
    :param is_first: whether this is the lineage's first try, so that no try before can have created a job
    :param kept: the plan that this lineage recorded last, where Airflow keeps records
    :param requests: what this lineage asked for before under the recorded name, newest first
    :param earlier: names of jobs that earlier lineages of the task may have created, newest first
    :param has_delivered: whether the lineage before succeeded with its job; ``None`` when no record tells
    :param spent: a name of this lineage's that one before delivered a job under; empty when there is none
    """

    plan: Plan
    if_exists: str = ADOPT
    is_own: bool = True
    is_first: bool = False
    kept: Plan | None = None
    requests: tuple[dict[str, Any], ...] = ()
    earlier: tuple[str, ...] = ()
    has_delivered: bool | None = None
    spent: str = ""

    def plans(self) -> Iterator[Plan]:
        """Yield the plans as rendered now, in the order in which they are tried; a recorded name is first."""
        names = [number_job_name(self.plan.job_name, number) for number in range(1, MAX_NUMBER + 1)]
        last = self.kept.job_name if self.kept else self.spent
        if last in names:
            names = names[names.index(last) + 1 :]
        elif self.if_exists == FAIL and self.earlier and self.earlier[0] in names:
            # An earlier lineage recorded it when it had seen all before it in CREATE FAILED.
            names = names[names.index(self.earlier[0]) :]
        for name in [self.kept.job_name, *names] if self.kept else names:
            yield self.plan._replace(job_name=name)

    def is_kept(self, plan: Plan) -> bool:
        """
        Tell whether this lineage recorded a plan's name before.

        :param plan: the plan
        """
        return self.kept is not None and self.kept.job_name == plan.job_name

    def requests_for(self, plan: Plan) -> list[Mapping[str, Any]]:
        """
        Return what this lineage may have asked for under a plan's name, the newest first.

        :param plan: the plan
        """
        recorded = [self.kept.request, *self.requests] if self.kept and self.is_kept(plan) else []
        return [plan.request, *recorded]


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
    :param may_be_own: whether a triggerer that died may have created the job for the same task: no other task
        that waits in this triggerer did
    """

    job_arn: str | None = None
    job: dict[str, Any] | None = None
    is_own: bool = True
    reason: str | None = None
    is_full: bool = False
    is_throttled: bool = False
    may_be_own: bool = False


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
    has_seen_none = True
    for plan in wanted.plans():
        job = look(hook, plan)
        if job is None:
            may_look_back = has_seen_none and not wanted.kept
            return (_find_earlier(hook, wanted, log) if may_look_back else None) or Found(plan)
        has_seen_none = False
        if may_take(wanted, plan, job, log, is_own=wanted.is_kept(plan), was_there=True):
            return Found(plan, job)
        log.info("The job %s is %s; trying the next name.", plan.job_name, clean_line(job["status"]))
    raise InvalidParameterError(
        f"job_name: {wanted.plan.job_name} and its numbers up to {MAX_NUMBER} are taken. Choose a name that "
        "changes from run to run, such as one with '{{ ts_nodash }}' in it."
    )


def may_take(
    wanted: Wanted,
    plan: Plan,
    job: dict[str, Any],
    log: Log,
    *,
    is_own: bool = False,
    was_there: bool = False,
) -> bool:
    """
    Judge a job that has a name of the task's.

    A name of the lineage's own tells that a job is its own, but for what the *first* try finds: a DAG run of
    the same ID, deleted since, or another Airflow made that.

    :param wanted: the job that the task wants
    :param plan: the plan whose name the job has
    :param job: the job as Describe gives it, as plain JSON
    :param log: the task's log
    :param is_own: whether a record or an unanswered Create tells that a job is the lineage's own, unless it
        is another than was planned
    :param was_there: whether the job was there when this try began
    :returns: whether the task takes it; ``False`` when it failed, so that the next name may be tried
    :raises PersonalizeJobExistsError: when it is neither
    """
    state = classify_status(job["status"])
    has_failed = state is JobState.FAILED
    requests = wanted.requests_for(plan)
    differences = find_differences(plan.kind, plan.request, job, is_strict=not is_own)
    if wanted.is_own:
        if has_failed:
            return False
        if wanted.is_first and not is_own:
            differences = find_differences(plan.kind, plan.request, job, is_strict=was_there)
            if differences or (was_there and state is JobState.ACTIVE):
                raise PersonalizeJobExistsError(plan.job_arn, job["status"], differences, True)
            return True
        if all(others := [find_other_environment(plan.kind, each, job) for each in requests]):
            raise PersonalizeJobExistsError(plan.job_arn, job["status"], others[0], True)
        _warn_of_differences(differences, plan, log)
        return True
    # The task's own, of an earlier lineage, which recorded it.
    is_spent = state is JobState.ACTIVE and wanted.has_delivered is not False
    is_earlier = plan.job_name in wanted.earlier and not is_spent
    if wanted.if_exists == FAIL and not is_own and not is_earlier:
        raise PersonalizeJobExistsError(plan.job_arn, job["status"], differences)
    if has_failed:
        return False
    if all(find_differences(plan.kind, each, job, is_strict=not is_own) for each in requests):
        raise PersonalizeJobExistsError(plan.job_arn, job["status"], differences)
    _warn_of_differences(differences, plan, log)
    return True


def _warn_of_differences(differences: Sequence[str], plan: Plan, log: Log) -> None:
    """Say that an earlier try created the job with other parameters; nobody pays twice for a correction."""
    if differences:
        log.warning(
            "This task's own job differs from the parameters as they are now: its %s. To create another, "
            "clear the task when this job is over. (%s)",
            "; ".join(differences),
            plan.job_arn,
        )


def _find_earlier(hook: PersonalizeHook, wanted: Wanted, log: Log) -> Found | None:
    """
    Return the job of an earlier lineage that a cleared task takes, if it is the same.

    One that is unfinished is billed, and nothing stops it. One that became ACTIVE after its lineage had
    failed went well, and nobody pays twice for that; only a record tells.
    """
    looks, passed_by = 0, None
    for first in wanted.earlier:
        for number in range(1, MAX_NUMBER + 1):
            if looks == MAX_LOOKS_BACK:
                break
            plan = wanted.plan._replace(job_name=number_job_name(first, number))
            job = look(hook, plan)
            looks += 1
            if job is None:
                break
            state = classify_status(job["status"])
            if state is JobState.FAILED:
                continue
            is_same = not find_differences(plan.kind, plan.request, job)
            # What was created was recorded before, so no number behind the recorded name is the lineage's.
            is_left = wanted.has_delivered is False and number == 1
            if is_same and (state is JobState.WAITING or is_left):
                return Found(plan, job)
            if is_same and wanted.has_delivered is None:
                passed_by = passed_by or plan
            break
    if passed_by:
        log.warning(
            "The task's job from before it was cleared is ACTIVE. Nothing tells whether the task succeeded "
            "with it, so the task does it again, and creates another. To take such a job, do not clear the "
            "task: mark it as success, or let a sensor wait for the ARN. (%s)",
            passed_by.job_arn,
        )
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
