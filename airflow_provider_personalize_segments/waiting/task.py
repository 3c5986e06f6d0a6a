"""Waiting for a job, on a worker or in the triggerer: one way to ask and one way to end for all tasks."""

from __future__ import annotations

import time
from abc import abstractmethod
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Never

from airflow_provider_personalize_segments.airflow_compat import AirflowTaskTimeout, PokeReturnValue
from airflow_provider_personalize_segments.errors import (
    PersonalizeJobFailedError,
    PersonalizeJobTimeoutError,
    PersonalizeOutputError,
    TriggerFailedError,
    fail_on_invalid_parameters,
)
from airflow_provider_personalize_segments.jobs import JobState
from airflow_provider_personalize_segments.links import LINKS, has_links, push_links
from airflow_provider_personalize_segments.parameters import MAX_SECONDS, read_share, read_verify
from airflow_provider_personalize_segments.tasks import PersonalizeTask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_personalize_segments.airflow_compat import Context
    from airflow_provider_personalize_segments.waiting.pace import Pace
    from airflow_provider_personalize_segments.waiting.verdicts import Reporter, Verdict

COUNTS_KEY = "counts"
"""The XCom that holds the counts of a job's output, once it was read."""
PAUSE_BEFORE_SECOND_QUESTION = 2.0
"""Seconds, on the worker, when AWS did not answer the first one."""
LAST_QUESTION = 3.0
"""Seconds that a question may take even when the time is nearly over: a busy worker needs some."""
DEFERRAL_TIMEOUT_MARGIN = timedelta(minutes=5)
"""How long after the trigger's own deadline Airflow gives up on a triggerer."""


class JobWaitingTask(PersonalizeTask):
    """Base of the sensors and operators that wait for a job; not for use in a DAG by itself."""

    operator_extra_links = LINKS
    _has_created = False
    _has_links = False
    max_error_rate: float | str | None = None
    _has_error_limit = False
    _reporter: Reporter | None = None
    _last_job: Mapping[str, Any] | None = None
    """The task's job as it was seen last."""
    _counts: Mapping[str, Any] | None = None
    """The counts of the job's output, once it was read."""

    @property
    @abstractmethod
    def awaited_arn(self) -> str:
        """The ARN of the job that is waited for."""

    @property
    @abstractmethod
    def pace(self) -> Pace:
        """How often to ask, and how long to wait, as rendered."""

    @property
    def call_limit(self) -> float:
        """How many seconds a call about the job may take."""
        from airflow_provider_personalize_segments.bounded_calls import find_limit

        return find_limit(self.pace.interval)

    def _report(self, since: datetime | None = None, told_until: datetime | None = None) -> Reporter:
        """
        Return what tells this task's log about its wait, made on first use.

        :param since: since when the task waits; ``None`` means from now on
        :param told_until: see :class:`~.waiting.verdicts.Reporter`
        """
        from airflow_provider_personalize_segments.waiting.verdicts import Reporter

        if self._reporter is None:
            self._reporter = Reporter(self.log, self.awaited_arn, since, told_until)
        return self._reporter

    def poke(self, context: Context) -> PokeReturnValue:
        """Ask Personalize once; done when the job is ACTIVE."""
        verdict = self._ask(context)
        if verdict.job:
            self._last_job = verdict.job
            self._push_links(context, verdict.job)
        if verdict.state is JobState.FAILED:
            raise self._job_failure(context, verdict.job or {})
        self._report().tell(verdict)
        done = verdict.state is JobState.ACTIVE
        result = self._result(context, verdict.job or {}) if done else None
        return PokeReturnValue(is_done=done, xcom_value=result)

    def _ask(self, context: Context) -> Verdict:
        """Ask in a thread that is given up when AWS does not answer in time."""
        from airflow_provider_personalize_segments.waiting.verdicts import ask, make_silence

        limit = min(self.call_limit, max(LAST_QUESTION, seconds_until(self._deadline(context))))
        try:
            return self.call_within(
                limit, lambda hook: ask(hook, self.awaited_arn, is_created=self._has_created)
            )
        except TimeoutError:
            return make_silence(self.awaited_arn, self.hook.aws_conn_id, limit)

    def _push_links(self, context: Context, job: Mapping[str, Any]) -> None:
        """Make the links visible; once, as they do not change."""
        if not self._has_links:
            self._has_links = True  # also when that fails, as it would the next time
            try:
                hook = self._bounded_hook
            except Exception as error:
                # Calls about the job tell of it, too, where it matters.
                self.log.warning("The links to the AWS console could not be made: %s", error)
            else:
                push_links(context, hook, job, self.log)

    def _result(self, context: Context, job: dict[str, Any]) -> Any:
        """Return what the task returns when its job is ACTIVE, and its output good enough."""
        self._accept(context, job)
        return job

    def _accept(self, context: Context, job: dict[str, Any]) -> None:
        """Judge the output of a job that is ACTIVE, and emit its folder to whom the task's outlets name."""
        self.check_output(context, job)
        if self.outlets:
            # Not at the top: few tasks have outlets.
            from airflow_provider_personalize_segments.watching.assets import emit_output

            emit_output(context, self.outlets, self.awaited_arn, job, self.log)

    @property
    def error_limit(self) -> float | None:
        """What ``max_error_rate`` says."""
        limit = read_share(self.max_error_rate, self.source_of("max_error_rate"))
        if limit is None and self._has_error_limit:
            # The gate would open without a look, though the DAG asks for one.
            raise ValueError(
                f"{self.source_of('max_error_rate')} is {self.max_error_rate!r}: the XCom or the template "
                "that it comes from is empty. Leave max_error_rate out to open the gate without a look."
            )
        return limit

    def check_output(self, context: Context, job: Mapping[str, Any]) -> None:
        """
        Read the output of a job that is ACTIVE, when ``max_error_rate`` asks for it, and tell its counts.

        :param context: the task's context
        :param job: the job as Describe gives it
        :raises PersonalizeOutputError: when the output is not there as a whole, or too much of it is errors
        """
        with fail_on_invalid_parameters():
            limit = self.error_limit
        if limit is None:
            return
        # Not at the top: only a task that reads output needs it.
        from airflow_provider_personalize_segments.output.checking import check_output

        try:
            self._counts = summary = check_output(self.hook, self.awaited_arn, job, limit, self.log)
        except PersonalizeOutputError as error:
            self._counts = {"records": error.records} if error.records else None
            raise
        if self.do_xcom_push and "ti" in context:
            context["ti"].xcom_push(key=COUNTS_KEY, value=summary)

    def _job_failure(self, context: Context, job: dict[str, Any]) -> Exception:
        """Return what the task raises when its job failed."""
        return PersonalizeJobFailedError.from_job(self.awaited_arn, job)

    def _end(self, error: Exception) -> None:
        """Raise what this error is to become; returns when the task is to go on waiting."""
        raise error

    def _wait_here(self, context: Context, deadline: datetime) -> Any:
        """Ask until the job is over or the time is, on the worker; a pause comes first."""
        self._report(self._start(context)).begin("on this worker", self.pace.interval, deadline)
        while True:
            time.sleep(max(0.0, min(self.pace.interval, seconds_until(deadline))))
            left = seconds_until(deadline)
            result = self.poke(context)
            if result.is_done:
                return result.xcom_value
            if left <= 0:
                raise self._timeout_error()

    # --- Deferred ---------------------------------------------------------------------------------

    def _poke_and_defer(self, context: Context, deadline: datetime | None = None) -> Any:
        try:
            result = self.poke(context)
            if deadline is None and not self._has_links:
                # Without an answer there are no links, and a deferred task gets none before it ends.
                pause = min(self.pace.interval, PAUSE_BEFORE_SECOND_QUESTION)
                time.sleep(max(0.0, min(pause, seconds_until(self._deadline(context)))))
                result = self.poke(context)
        except Exception as error:
            self._end(error)
        else:
            if result.is_done:
                return result.xcom_value
        return self._defer(context, deadline)

    def _defer(self, context: Context, deadline: datetime | None = None) -> Never:
        """Leave the worker; the deadline counts from the start of this try, however often it defers."""
        # Not at the top: only a task that defers needs asyncio, and what comes with it.
        from airflow_provider_personalize_segments.waiting.trigger import PersonalizeBatchJobTrigger

        deadline = deadline or self._deadline(context)
        if deadline <= datetime.now(UTC):
            self._end(self._timeout_error())
        pace = self.pace
        self.defer(
            trigger=PersonalizeBatchJobTrigger(
                job_arn=self.awaited_arn,
                poke_interval=pace.interval,
                exponential_backoff=pace.exponential_backoff,
                max_wait=pace.max_wait,
                silent_fail=pace.silent_fail,
                is_created=self._has_created,
                waiting_since=self._start(context).isoformat(),
                **self._trigger_arguments(deadline),
            ),
            method_name="execute_complete",
            timeout=self._deferral_timeout(deadline),
        )

    def _trigger_arguments(self, deadline: datetime) -> dict[str, Any]:
        """Return what every trigger of this task is given: until when it waits, and how it reaches AWS."""
        start = deadline - timedelta(seconds=min(self.pace.timeout, MAX_SECONDS))
        return {
            "deadline": deadline.isoformat(),
            "execution_deadline": (start + self.execution_timeout).isoformat()
            if self.execution_timeout
            else None,
            "aws_conn_id": self.hook.aws_conn_id,
            "region_name": self.arn_region,
            "verify": read_verify(self.verify, self.source_of("verify")),
            "botocore_config": self.botocore_config or None,
        }

    @staticmethod
    def _deferral_timeout(deadline: datetime) -> timedelta:
        """Return when Airflow is to give up; the trigger itself ends in time, this is for when none runs."""
        return timedelta(seconds=max(0.0, seconds_until(deadline))) + DEFERRAL_TIMEOUT_MARGIN

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """
        End the way the trigger's event says.

        :param event: the event; any other than our trigger's is an error
        :returns: what the task returns when the job is ACTIVE
        """
        from airflow_provider_personalize_segments.waiting.events import Outcome, load_error, read_event

        ending = read_event(event, self.awaited_arn)
        outcome, job = ending.outcome, ending.job or {}
        self._last_job = ending.job
        if job and not has_links(context):
            self._push_links(context, job)
        if outcome == Outcome.ACTIVE:
            self.log.info("The job is %s. (%s)", job["status"], self.awaited_arn)
            return self._result(context, job)
        if outcome == Outcome.FAILED:
            raise self._job_failure(context, job)
        if outcome == Outcome.TIMEOUT:
            return self._ask_last(context, job.get("status"))
        if outcome == Outcome.EXECUTION_TIMEOUT:
            raise AirflowTaskTimeout(
                f"The task's execution_timeout was over before the job was. ({self.awaited_arn})"
            )
        raise load_error(ending.error)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """
        Resume after deferral, and end every error the way it would end on a worker.

        Airflow's own version of this makes soft_fail and never_fail mean something else after deferral, and
        something else again on Airflow 2.
        """
        with self.told_failure():
            return self._resume(next_method, next_kwargs, context)

    def _resume(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        try:
            if next_method == "__fail__":
                reason = str((next_kwargs or {}).get("error", "no reason given"))
                if trace := (next_kwargs or {}).get("traceback"):
                    self.log.error("The trigger failed:\n%s", "\n".join(trace))
                if "timeout" in reason.lower():
                    return self._ask_last(context, None)
                raise TriggerFailedError(f"Waiting in the triggerer failed: {reason}")
            return getattr(self, next_method)(context, **(next_kwargs or {}))
        except Exception as error:
            self._end(error)
        event = (next_kwargs or {}).get("event")
        known = event.get("deadline") if isinstance(event, dict) else None
        deadline = datetime.fromisoformat(known) if known else self._deadline(context)
        # As after an error while poking: a pause, then a question, here, where it may work.
        time.sleep(max(0.0, min(self.pace.interval, seconds_until(deadline))))
        return self._poke_and_defer(context, deadline)

    def _ask_last(self, context: Context, status: str | None) -> Any:
        """Ask once more before giving up, as a poking sensor does when its time is over."""
        result = self.poke(context)
        if result.is_done:
            return result.xcom_value
        raise self._timeout_error(status)

    def _deadline(self, context: Context) -> datetime:
        return self._start(context) + timedelta(seconds=min(self.pace.timeout, MAX_SECONDS))

    @staticmethod
    def _start(context: Context) -> datetime:
        """Return when this try began."""
        start: datetime | None = getattr(context.get("ti"), "start_date", None)
        return start or datetime.now(UTC)

    def _timeout_error(self, status: str | None = None) -> PersonalizeJobTimeoutError:
        """
        Return what the task raises when its time is over.

        :param status: the status that the triggerer saw last
        """
        report = self._report()
        return PersonalizeJobTimeoutError(
            self.awaited_arn, report.status or status, self.pace.timeout, report.fault
        )

    # --- OpenLineage ------------------------------------------------------------------------------

    @property
    def known_job(self) -> Mapping[str, Any]:
        """The members of the job that the task knows before it has seen the job, as Describe names them."""
        return {}

    def get_openlineage_facets_on_start(self) -> OperatorLineage[Any, Any] | None:
        """Tell OpenLineage what the task waits for or creates; it asks again when the task resumes."""
        return self._tell_lineage()

    def get_openlineage_facets_on_complete(self, ti: Any) -> OperatorLineage[Any, Any] | None:
        """
        Tell OpenLineage of the job that the task has seen.

        :param ti: the task's instance
        """
        return self._tell_lineage()

    def get_openlineage_facets_on_failure(self, ti: Any) -> OperatorLineage[Any, Any] | None:
        """
        Tell OpenLineage what is known of the job of a task that failed.

        :param ti: the task's instance
        """
        return self._tell_lineage()

    def _tell_lineage(self) -> OperatorLineage[Any, Any] | None:
        try:
            # Not at the top: it is there for OpenLineage alone.
            from airflow_provider_personalize_segments.lineage import build_lineage

            return build_lineage(self.kind, {**self.known_job, **(self._last_job or {})}, self._counts)
        except Exception as error:
            # No event is worth a task.
            self.log.warning("OpenLineage is told nothing about the job: %s", error)
            return None


def seconds_until(moment: datetime) -> float:
    """
    Return how many seconds there are left; less than 0 when it is over.

    :param moment: until when
    """
    return (moment - datetime.now(UTC)).total_seconds()
