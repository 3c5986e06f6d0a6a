"""Waiting for a job, on a worker or in the triggerer: one way to ask and one way to end for all tasks."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Never

from airflow_provider_personalize_segments.airflow_compat import AirflowTaskTimeout
from airflow_provider_personalize_segments.errors import TriggerFailedError
from airflow_provider_personalize_segments.links import has_links
from airflow_provider_personalize_segments.parameters import MAX_SECONDS, read_verify
from airflow_provider_personalize_segments.waiting.events import Outcome, load_error, read_event
from airflow_provider_personalize_segments.waiting.questions import JobQuestions, seconds_until
from airflow_provider_personalize_segments.waiting.verdicts import show_seconds

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger

    from airflow_provider_personalize_segments.airflow_compat import Context

PAUSE_BEFORE_SECOND_QUESTION = 2.0
"""Seconds, on the worker, when AWS did not answer the first one."""
LEAVING = (
    "The triggerer goes on. If no line of its own follows here within %s, see whether a triggerer runs "
    "(airflow jobs check --job-type TriggererJob) and has room ([triggerer] capacity). (%s)"
)
"""The last line of a worker that defers: without a triggerer, nobody would say another word until the end."""
DEFERRAL_TIMEOUT_MARGIN = timedelta(minutes=5)
"""How long after the trigger's own deadline Airflow gives up on a triggerer."""


class WaitingSteps(JobQuestions):
    """What a worker does for a task that waits: it asks again, or leaves that to the triggerer."""

    def end(self, error: Exception) -> None:
        """
        Raise what this error is to become; returns when the task is to go on waiting.

        :param error: the error
        """
        raise error

    def wait_here(self, context: Context, deadline: datetime) -> Any:
        """
        Ask until the job is over or the time is, on the worker; a pause comes first.

        :param context: the task's context
        :param deadline: until when
        """
        self.report(self.start(context)).begin("on this worker", self.pace.interval, deadline)
        while True:
            time.sleep(max(0.0, min(self.pace.interval, seconds_until(deadline))))
            left = seconds_until(deadline)
            result = self.task.poke(context)
            if result.is_done:
                return result.xcom_value
            if left <= 0:
                raise self.timeout_error()

    # --- Deferred ---------------------------------------------------------------------------------

    def poke_and_defer(self, context: Context, deadline: datetime | None = None) -> Any:
        """
        Ask once, and leave the rest to the triggerer.

        :param context: the task's context
        :param deadline: until when to wait; ``None`` means that the task has not deferred in this try
        """
        try:
            result = self.task.poke(context)
            if deadline is None and not self.has_links:
                # Without an answer there are no links, and a deferred task gets none before it ends.
                pause = min(self.pace.interval, PAUSE_BEFORE_SECOND_QUESTION)
                time.sleep(max(0.0, min(pause, seconds_until(self.deadline(context)))))
                result = self.task.poke(context)
        except Exception as error:
            self.end(error)
        else:
            if result.is_done:
                return result.xcom_value
        return self.defer(context, deadline)

    def defer(self, context: Context, deadline: datetime | None = None) -> Never:
        """
        Leave the worker.

        :param context: the task's context
        :param deadline: until when to wait; ``None`` means that the task has not deferred in this try
        """
        # Not at the top: only a task that defers needs asyncio, and what comes with it.
        from airflow_provider_personalize_segments.waiting.trigger import PersonalizeBatchJobTrigger

        deadline = deadline or self.deadline(context)
        if deadline <= datetime.now(UTC):
            self.end(self.timeout_error())
        pace = self.pace
        self.report(self.start(context)).begin(
            "in the triggerer", pace.interval, deadline, grows=pace.exponential_backoff
        )
        trigger = PersonalizeBatchJobTrigger(
            job_arn=self.awaited_arn,
            poke_interval=pace.interval,
            exponential_backoff=pace.exponential_backoff,
            max_wait=pace.max_wait,
            silent_fail=pace.silent_fail,
            is_created=self.has_created,
            waiting_since=self.start(context).isoformat(),
            **self.trigger_arguments(deadline),
        )
        self.leave(trigger, "execute_complete", deadline)

    def leave(
        self, trigger: BaseTrigger, method_name: str, deadline: datetime, kwargs: dict[str, Any] | None = None
    ) -> Never:
        """
        Say who goes on, and hand the task over; the trigger itself ends in time.

        :param trigger: what goes on
        :param method_name: the task's method that Airflow is to call then
        :param deadline: until when to wait; Airflow gives up a little later, for when no triggerer runs
        :param kwargs: arguments for the method
        """
        self.log.info(LEAVING, show_seconds(max(120.0, 3 * self.pace.interval)), self.awaited_arn)
        self.task.defer(
            trigger=trigger,
            method_name=method_name,
            kwargs=kwargs,
            timeout=timedelta(seconds=max(0.0, seconds_until(deadline))) + DEFERRAL_TIMEOUT_MARGIN,
        )

    def trigger_arguments(self, deadline: datetime) -> dict[str, Any]:
        """
        Return what every trigger of this task is given: until when it waits, and how it reaches AWS.

        :param deadline: until when to wait
        """
        task = self.task
        start = deadline - timedelta(seconds=min(self.pace.timeout, MAX_SECONDS))
        return {
            "deadline": deadline.isoformat(),
            "execution_deadline": (start + task.execution_timeout).isoformat()
            if task.execution_timeout
            else None,
            "aws_conn_id": task.hook.aws_conn_id,
            "region_name": task.arn_region,
            "verify": read_verify(task.verify, task.source_of("verify")),
            "botocore_config": task.botocore_config or None,
        }

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """
        End the way the trigger's event says.

        :param context: the task's context
        :param event: the event; any other than our trigger's is an error
        :returns: what the task returns when the job is ACTIVE
        """
        ending = read_event(event, self.awaited_arn)
        outcome, job = ending.outcome, ending.job or {}
        self.last_job = ending.job
        if job and not has_links(context):
            self.push_links(context, job)
        if outcome == Outcome.ACTIVE:
            self.log.info("The job is %s. (%s)", job["status"], self.awaited_arn)
            return self.result(context, job)
        if outcome == Outcome.FAILED:
            raise self.job_failure(context, job)
        if outcome == Outcome.TIMEOUT:
            return self.ask_last(context, job.get("status"))
        if outcome == Outcome.EXECUTION_TIMEOUT:
            raise AirflowTaskTimeout(
                f"The task's execution_timeout was over before the job was. ({self.awaited_arn})"
            )
        raise load_error(ending.error)

    def resume(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """
        Go on after deferral.

        :param next_method: the task's method that Airflow is to call, or ``__fail__``
        :param next_kwargs: its arguments but the context
        :param context: the task's context
        """
        try:
            if next_method == "__fail__":
                reason = str((next_kwargs or {}).get("error", "no reason given"))
                if trace := (next_kwargs or {}).get("traceback"):
                    self.log.error("The trigger failed:\n%s", "\n".join(trace))
                if "timeout" in reason.lower():
                    return self.ask_last(context, None)
                raise TriggerFailedError(f"Waiting in the triggerer failed: {reason}")
            return getattr(self.task, next_method)(context, **(next_kwargs or {}))
        except Exception as error:
            self.end(error)
        event = (next_kwargs or {}).get("event")
        known = event.get("deadline") if isinstance(event, dict) else None
        deadline = datetime.fromisoformat(known) if known else self.deadline(context)
        # As after an error while poking: a pause, then a question, here, where it may work.
        time.sleep(max(0.0, min(self.pace.interval, seconds_until(deadline))))
        return self.poke_and_defer(context, deadline)

    def ask_last(self, context: Context, status: str | None) -> Any:
        """
        Ask once more before giving up, as a poking sensor does when its time is over.

        :param context: the task's context
        :param status: the status that the triggerer saw last
        """
        result = self.task.poke(context)
        if result.is_done:
            return result.xcom_value
        raise self.timeout_error(status)
