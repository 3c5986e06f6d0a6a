"""Waiting for the job that a task has created or found, and telling later tasks of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_personalize_segments.arns import is_job_arn
from airflow_provider_personalize_segments.creating.lineage import TaskRecord
from airflow_provider_personalize_segments.creating.rendered import RenderedParameters
from airflow_provider_personalize_segments.errors import PersonalizeNewJobFailedError, PersonalizeOutputError
from airflow_provider_personalize_segments.jobs import JobState, classify_status
from airflow_provider_personalize_segments.waiting.steps import WaitingSteps

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from airflow_provider_personalize_segments.airflow_compat import Context
    from airflow_provider_personalize_segments.creating.once import Attempt, Plan
    from airflow_provider_personalize_segments.creating.task import CreateBatchJobOperator
    from airflow_provider_personalize_segments.waiting.pace import Pace

JOB_KEY = "job"
"""The XCom that holds the job as Describe gives it; before AWS described it, its ARN and its request."""


class CreatedSteps(WaitingSteps):
    """
    What a worker does once there is a job.

    :param task: the operator, as rendered
    """

    has_created = True
    task: CreateBatchJobOperator

    def __init__(self, task: CreateBatchJobOperator) -> None:
        super().__init__(task)
        self.parameters = RenderedParameters(task)
        self.job_arn: str | None = None
        """The job's ARN, as soon as there is one."""
        self.plan: Plan | None = None
        """What the task creates, or looks for."""

    @property
    def awaited_arn(self) -> str:
        """The ARN of the job that was created or adopted."""
        return self.job_arn or f"a {self.task.kind.title} of task {self.task.task_id!r}"

    @property
    def known_job(self) -> Mapping[str, Any]:
        """What its parameters say, as rendered; its ARN as soon as the job exists."""
        return {**self.parameters.known_job, self.task.kind.arn_member: self.job_arn}

    @property
    def pace(self) -> Pace:
        """What ``poll_interval`` and ``timeout`` say."""
        return self.parameters.pace

    def go_on(self, context: Context, attempt: Attempt, deadline: datetime) -> str:
        """
        Tell of the job, now that there is one, and wait for it when that is asked for.

        :param context: the task's context
        :param attempt: how the job was created or found
        :param deadline: until when to wait
        :returns: the job's ARN
        """
        arn = self.take(context, attempt)
        state = classify_status((attempt.job or {}).get("status"))
        if state is JobState.FAILED:
            raise self.job_failure(context, attempt.job or {})
        if not self.parameters.may_wait:
            self.settle(context)
            return arn
        if state is JobState.ACTIVE:
            self.accept(context, attempt.job or {})
            return arn
        if self.parameters.may_defer:
            self.defer(context, deadline)
        result: str = self.wait_here(context, deadline)
        return result

    def take(self, context: Context, attempt: Attempt) -> str:
        """
        Take a job for the task's own, and tell later tasks of it.

        :param context: the task's context
        :param attempt: how the job was created or found
        :returns: the job's ARN
        """
        arn = self.job_arn = str(attempt.job_arn)
        if self.task.do_xcom_push:
            context["ti"].xcom_push(key="return_value", value=arn)
        job = attempt.job
        if job is None:
            # `airflow dags test` resumes a task without its plan.
            request = self.plan.request if self.plan else self.parameters.build_request(context)
            job = {self.task.kind.arn_member: arn, "jobName": arn.rpartition("/")[2], **request}
        self.last_job = job
        self._push_job(context, job)
        self.push_links(context, job)
        return arn

    def _push_job(self, context: Context, job: dict[str, Any] | None) -> None:
        """Let later tasks know what the job is, and where its output lies."""
        if job and self.task.do_xcom_push:
            context["ti"].xcom_push(key=JOB_KEY, value=job)

    def accept(self, context: Context, job: dict[str, Any]) -> None:
        """
        Judge the output of a job that is ACTIVE, emit its folder, and record that the task is done with it.

        :param context: the task's context
        :param job: the job as Describe gives it
        """
        super().accept(context, job)
        self.settle(context)

    def _check_output(self, context: Context, job: Mapping[str, Any]) -> None:
        """Read the output, and record that the task is done with the job when it refuses that."""
        try:
            super()._check_output(context, job)
        except PersonalizeOutputError:
            self.settle(context)  # a cleared task is to create another job, and not to read this output again
            raise

    def settle(self, context: Context) -> None:
        """
        Record that the task is done with its job, so that it does it again when it is cleared.

        :param context: the task's context
        """
        if "ti" in context:
            TaskRecord(context, self.log).settle(self.awaited_arn)

    def result(self, context: Context, job: dict[str, Any]) -> str:
        """
        Return the job's ARN when it is ACTIVE, and its output good enough.

        :param context: the task's context
        :param job: the job as Describe gives it
        """
        self._push_job(context, job)
        self.accept(context, job)
        return self.awaited_arn

    def job_failure(self, context: Context, job: dict[str, Any]) -> Exception:
        """
        Return what the task raises when its job failed; with tries left, the next one may create another.

        :param context: the task's context
        :param job: the job as Describe gives it
        """
        ti = context["ti"]
        has_tries = ti.try_number <= (getattr(ti, "max_tries", None) or 0)
        if has_tries and self.parameters.may_create_next(context):
            return PersonalizeNewJobFailedError.from_job(self.awaited_arn, job)
        return super().job_failure(context, job)

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """
        End the way the trigger's event says.

        :param context: the task's context
        :param event: the event; any other than our trigger's is an error
        :returns: the job's ARN, when it is ACTIVE
        """
        arn = event.get("job_arn") if isinstance(event, dict) else None
        self.job_arn = arn if is_job_arn(arn, self.task.kind) else None
        return super().execute_complete(context, event)
