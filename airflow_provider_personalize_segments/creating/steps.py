"""Creating a job, on a worker or by way of the triggerer, and going on with it."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Never

from airflow_provider_personalize_segments.airflow_compat import AirflowTaskTimeout
from airflow_provider_personalize_segments.creating.created import CreatedSteps
from airflow_provider_personalize_segments.creating.once import (
    FAIL,
    Attempt,
    Creation,
    Plan,
    find,
    look,
    may_take,
)
from airflow_provider_personalize_segments.creating.pauses import Pauses, find_delay
from airflow_provider_personalize_segments.creating.requests import find_path_warnings
from airflow_provider_personalize_segments.errors import (
    InvalidParameterError,
    PersonalizeJobExistsError,
    PersonalizeNoSlotError,
    PersonalizeUnavailableError,
    S3UnavailableError,
    fail_on_invalid_parameters,
)
from airflow_provider_personalize_segments.jobs import JobState, classify_status
from airflow_provider_personalize_segments.links import has_links
from airflow_provider_personalize_segments.plain_json import clean_line
from airflow_provider_personalize_segments.waiting.events import Outcome, load_error, read_creation_event
from airflow_provider_personalize_segments.waiting.questions import seconds_until
from airflow_provider_personalize_segments.waiting.verdicts import CANNOT_CANCEL, Reporter

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.airflow_compat import Context
    from airflow_provider_personalize_segments.creating.lineage import TaskRecord
    from airflow_provider_personalize_segments.creating.once import Wanted
    from airflow_provider_personalize_segments.creating.task import CreateBatchJobOperator

QUICK_ATTEMPTS = 3
"""Faults in a row that the worker outlasts before the task defers."""


class CreatingSteps(CreatedSteps):
    """
    What a worker does for a create operator.

    :param task: the operator, as rendered
    """

    def __init__(self, task: CreateBatchJobOperator) -> None:
        super().__init__(task)
        self._is_unanswered = False

    def execute(self, context: Context) -> str:
        """
        Check what was rendered, have a job, and wait until it is done.

        :param context: the task's context
        :returns: the job's ARN
        """
        task, parameters = self.task, self.parameters
        ti = context.get("ti")
        if not isinstance(getattr(ti, "try_number", None), int):
            raise InvalidParameterError(
                f"Task {task.task_id!r} was run without Airflow's task instance, which names its job. In a "
                "test, run the task or its DAG on a local Personalize: "
                "with mock_personalize() as personalize: personalize.run(task)."
            )
        with fail_on_invalid_parameters():
            if getattr(task, "multiple_outputs", False):
                raise ValueError(
                    f"{task.source_of('multiple_outputs')} is set, but the task returns one ARN, which "
                    "Airflow cannot split: it would fail after the job was created. Leave it out."
                )
            wanted, record = self._find_wanted(context)
            deadline = self.deadline(context)
            _ = parameters.may_wait, parameters.may_defer, parameters.may_check_input
            if self.error_limit is not None and not parameters.may_wait:
                raise ValueError(
                    f"{task.source_of('max_error_rate')} needs wait_for_completion=True, as there is no "
                    "output before the job is ACTIVE. Leave it out, or give it to the sensor that waits."
                )
            if task.outlets:
                self._check_outlets(wanted.plan)
        for warning in find_path_warnings(wanted.plan.request):
            self.log.warning(warning)
        if name_warning := self.parameters.find_name_warning(context):
            self.log.warning(name_warning)
        return self.go_on(context, self._have_job(context, wanted, record, deadline), deadline)

    def _find_wanted(self, context: Context, *, is_resumed: bool = False) -> tuple[Wanted, TaskRecord]:
        """Return the job that the task wants, and its record; what is wanted becomes the task's plan."""
        wanted, record = self.parameters.find_wanted(context, is_resumed=is_resumed)
        self.plan = self.plan or next(wanted.plans())
        return wanted, record

    def _check_outlets(self, plan: Plan) -> None:
        """See that the output folder can become an asset, while no job was created yet."""
        from airflow_provider_personalize_segments.watching.assets import check_folder, tell_not_waiting

        if self.parameters.may_wait:
            path = plan.request["jobOutput"]["s3DataDestination"]["path"]
            check_folder(self.task.outlets, path, self.task.source_of("output_path"))
        else:
            tell_not_waiting(self.task.task_id, self.task.outlets, self.log)

    def tell_kill(self) -> None:
        """Say what becomes of the job when the task is ended on a worker."""
        if self.job_arn:
            self.log.warning(CANNOT_CANCEL, self.job_arn)
        elif self.plan:
            self.log.warning(CANNOT_CANCEL, f"if it was just being created: {self.plan.job_arn}")

    # --- Creating ---------------------------------------------------------------------------------

    def _have_job(self, context: Context, wanted: Wanted, record: TaskRecord, deadline: datetime) -> Attempt:
        """Find or create the job, until the time is over; or leave creating it to the triggerer."""
        # Not in a thread that is given up: half an attempt, finished later, could meet with the next one.
        limit = max(1.0, min(self.call_limit, seconds_until(deadline)))
        hook = self.task.hook.with_limit(limit).without_retries()
        pauses = Pauses()
        while True:
            try:
                plan, job = find(hook, wanted, self.log)
                break
            except PersonalizeUnavailableError as error:
                # Nothing is decided, so there is nothing that the triggerer could do.
                self._pause(wanted.plan, Attempt(reason=str(error)), pauses, deadline, may_exist=True)
        self.plan = plan
        if job is None and self.parameters.may_check_input:
            self._check_input(plan, pauses, deadline)
        if job is None or not wanted.is_kept(plan):
            record.keep(plan)
        if job is not None:
            # Under a name of its own, a first try takes an ACTIVE job only where a record tells of it.
            self._tell_adopted(plan, job, is_new=wanted.is_own or wanted.is_kept(plan))
            return Attempt(plan.job_arn, job)
        creation = Creation(plan, self.log)
        while (attempt := creation.attempt(hook)).job_arn is None:
            if attempt.is_full:
                self.push_links(context, plan.request)
            # Only this process knows that its Create had no answer, which `fail` has to know.
            is_bound = creation.is_unanswered and wanted.if_exists == FAIL and not wanted.is_own
            is_patient = attempt.is_full or pauses.count >= QUICK_ATTEMPTS - 1
            if is_patient and not is_bound and seconds_until(deadline) > 0 and self.parameters.may_defer:
                self.log.warning("Not yet: %s", attempt.reason)
                self._defer_creation(context, plan, deadline, attempt.reason)
            self._pause(plan, attempt, pauses, deadline, may_exist=creation.is_unanswered)
        self._judge(attempt, plan, wanted, record)
        return attempt

    def _check_input(self, plan: Plan, pauses: Pauses, deadline: datetime) -> None:
        """Read the input of a job that is to be created."""
        while True:
            try:
                counts = self.task.hook.check_input(plan.kind, **plan.request)
                break
            except (PersonalizeUnavailableError, S3UnavailableError) as error:
                self._pause(plan, Attempt(reason=str(error)), pauses, deadline)
        self.log.info("The input is good: %(records)d records in %(bytes)d bytes.", counts)

    def _judge(self, attempt: Attempt, plan: Plan, wanted: Wanted, record: TaskRecord) -> None:
        """Judge a job that exists without an answer to Create; one that failed ends this try."""
        if attempt.job is None:
            return
        try:
            # A record of this very try was made while the name was free: another task may have had it since.
            is_recorded = wanted.is_kept(plan) and (attempt.may_be_own or not wanted.is_first)
            is_own = attempt.is_own or is_recorded
            may_take(wanted, plan, attempt.job, self.log, is_own=is_own)
        except PersonalizeJobExistsError:
            record.forget()
            raise

    def _pause(
        self, plan: Plan, attempt: Attempt, pauses: Pauses, deadline: datetime, *, may_exist: bool = False
    ) -> None:
        """Wait a while after an attempt in vain; when the time is over, say whether the job may exist."""
        self.log.warning("Not yet: %s", attempt.reason)
        pauses.add(is_full=attempt.is_full)
        if (left := seconds_until(deadline)) <= 0:
            raise PersonalizeNoSlotError(plan.job_arn, attempt.reason, self.pace.timeout, may_exist)
        time.sleep(min(left, find_delay(pauses.count, self.pace.interval, is_full=attempt.is_full)))

    def _tell_adopted(self, plan: Plan, job: dict[str, Any], *, is_new: bool) -> None:
        self.log.info(
            "Adopting the job that exists already, created at %s; it is %s. (%s)",
            clean_line(job.get("creationDateTime")),
            clean_line(job["status"]),
            plan.job_arn,
        )
        if not is_new and classify_status(job["status"]) is JobState.ACTIVE:
            self.log.warning(
                "The job was ACTIVE before this try began, so this try computes nothing: the output is from "
                "%s. To compute anew, clear the task if it has no job_name; else choose another job_name, "
                "or set if_exists='new'. (%s)",
                job.get("lastUpdatedDateTime"),
                plan.job_arn,
            )

    def _defer_creation(self, context: Context, plan: Plan, deadline: datetime, reason: str | None) -> Never:
        # Not at the top: only a task that defers needs asyncio, and what comes with it.
        from airflow_provider_personalize_segments.creating.trigger import PersonalizeCreateBatchJobTrigger

        reporter = Reporter(self.log, f"a slot to create {plan.job_arn}")
        reporter.begin("in the triggerer", self.pace.interval, deadline)
        trigger = PersonalizeCreateBatchJobTrigger(
            kind=plan.kind.name,
            request=plan.request,
            job_name=plan.job_name,
            waiting_since=self.start(context).isoformat(),
            reason=reason,
            poke_interval=self.pace.interval,
            **self.trigger_arguments(deadline),
        )
        # Templates may render to something else when the task resumes.
        kwargs = {"job_name": plan.job_name, "request": plan.request}
        self.leave(trigger, "execute_created", deadline, kwargs)

    def execute_created(
        self,
        context: Context,
        event: dict[str, Any] | None,
        job_name: str | None,
        request: dict[str, Any] | None,
    ) -> str:
        """
        Go on with the job that the trigger created.

        :param context: the task's context
        :param event: the event; any other than our trigger's is an error
        :param job_name: the name under which the trigger created the job
        :param request: the members of the Create request but the name
        """
        ending = read_creation_event(event, self.task.kind)
        if job_name and request:
            self.plan = Plan(self.task.kind, job_name, request)
        if ending.outcome == Outcome.TIMEOUT:
            self._is_unanswered = bool(ending.is_unanswered)
            arn: str = self.ask_last(context, ending.reason)
            return arn
        if ending.outcome == Outcome.EXECUTION_TIMEOUT:
            raise AirflowTaskTimeout(
                f"The task's execution_timeout was over before the job was created. ({self.awaited_arn})"
            )
        if ending.outcome == Outcome.ERROR:
            raise load_error(ending.error)
        attempt = Attempt(
            ending.job_arn,
            ending.job,
            is_own=ending.outcome == Outcome.CREATED,
            may_be_own=bool(ending.may_be_own),
        )
        if attempt.job is not None:
            with fail_on_invalid_parameters():
                wanted, record = self._find_wanted(context, is_resumed=True)
            self._judge(attempt, self.plan or wanted.plan, wanted, record)
        self.log.info("The triggerer has %s %s.", "found" if attempt.job else "created", attempt.job_arn)
        self.has_links = has_links(context)
        deadline = datetime.fromisoformat(ending.deadline) if ending.deadline else self.deadline(context)
        return self.go_on(context, attempt, deadline)

    def ask_last(self, context: Context, status: str | None) -> Any:
        """
        Ask once more before giving up, first for the job itself if the task has not heard of one.

        :param context: the task's context
        :param status: what the triggerer said last: the job's status, or why there was no job
        """
        if self.job_arn is None:
            arn = self.take(context, attempt := self._find_last(context, status))
            if not self.parameters.may_wait:
                if classify_status((attempt.job or {}).get("status")) is JobState.FAILED:
                    raise self.job_failure(context, attempt.job or {})
                self.settle(context)
                return arn
            status = None
        return super().ask_last(context, status)

    def _find_last(self, context: Context, reason: str | None) -> Attempt:
        """Find the job that the triggerer may have created before it was heard of no more."""
        plan = self.plan
        with fail_on_invalid_parameters():
            wanted, _ = self._find_wanted(context, is_resumed=True)
        # `airflow dags test`, and Airflow's own timeout, resume a task without its plan.
        plan = plan or (self.plan if wanted.kept else None)
        hook = self.task.hook.with_limit(self.call_limit).without_retries()
        try:
            if plan is None:
                # What the first try finds by now may be what its trigger has created.
                plan, job = find(hook, wanted._replace(is_first=False), self.log)
            elif (job := look(hook, plan)) is not None:
                is_own = wanted.is_kept(plan) or self._is_unanswered
                may_take(wanted, plan, job, self.log, is_own=is_own)
        except PersonalizeUnavailableError as error:
            plan = plan or wanted.plan
            raise PersonalizeNoSlotError(plan.job_arn, str(error), self.pace.timeout, True) from None
        if job is None:
            raise PersonalizeNoSlotError(plan.job_arn, reason, self.pace.timeout)
        return Attempt(plan.job_arn, job)
