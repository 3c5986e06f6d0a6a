"""Sensors: a task that is done when a Personalize batch job is, and fails with the reason when it failed."""

from __future__ import annotations

import inspect
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Never

from airflow_provider_personalize_segments.airflow_compat import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)
from airflow_provider_personalize_segments.errors import (
    InvalidParameterError,
    PersonalizeJobFailedError,
    PersonalizeJobTimeoutError,
    TriggerFailedError,
    fail_on_invalid_parameters,
    load_error,
)
from airflow_provider_personalize_segments.jobs import BatchJobKind, JobState, parse_job_arn
from airflow_provider_personalize_segments.parameters import read_bool, read_verify
from airflow_provider_personalize_segments.tasks import CONNECTION_FIELDS, PersonalizeTask
from airflow_provider_personalize_segments.verdicts import Reporter, ask

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.airflow_compat import Context

DEFERRAL_TIMEOUT_MARGIN = timedelta(minutes=5)
"""How long after the trigger's own deadline Airflow gives up on a triggerer."""


class BatchJobSensor(PersonalizeTask, BaseSensorOperator):
    """
    Wait until a batch job is ACTIVE; base of the sensors for the two kinds.

    - ACTIVE: done. XCom ``return_value`` is the job as Describe gives it, as plain JSON.
    - CREATE FAILED, or any other status that ends in FAILED or STOPPED: the task fails with
      :class:`~.errors.PersonalizeJobFailedError` and Personalize's reason, without retries.
    - Any other status, known or not: not yet. One that nobody documented is warned about.
    - Throttling, 5xx, network faults and unreadable answers: not yet, until ``timeout``.
    - Access denied, invalid input, a job or a connection that does not exist: the task fails at once,
      without retries, naming the ARN, the region and the connection.

    A wrong ``job_arn`` or ``region_name`` fails the task before anything is called, and neither
    ``soft_fail`` nor ``never_fail`` hides it: it is a mistake in the DAG, not news about the job.

    :param job_arn: the ARN of the job
    :param deferrable: whether to wait in the triggerer instead of on a worker, whatever ``mode`` says; the
        default is ``[operators] default_deferrable``. Every other parameter means the same there.
    :param kwargs: the connection parameters of :class:`~.tasks.PersonalizeTask`, and everything that
        Airflow's ``BaseSensorOperator`` takes: ``mode`` (``poke`` or ``reschedule``), ``poke_interval`` and
        ``timeout`` in seconds, ``exponential_backoff``, ``max_wait``, ``soft_fail``, ``silent_fail``,
        ``never_fail``

    .. seealso:: https://docs.aws.amazon.com/personalize/latest/dg/API_DescribeBatchSegmentJob.html
    """

    template_fields: Sequence[str] = ("job_arn", "deferrable", *CONNECTION_FIELDS)

    def __init__(
        self,
        *,
        job_arn: str,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_arn = job_arn
        self.deferrable = deferrable

    @property
    def arn_region(self) -> str:
        """The region in ``job_arn``."""
        return parse_job_arn(self.job_arn, self.kind, source=self.source_of("job_arn")).region

    @cached_property
    def _reporter(self) -> Reporter:
        return Reporter(self.log, self.job_arn)

    def poke(self, context: Context) -> PokeReturnValue:
        """Ask Personalize once; done when the job is ACTIVE."""
        verdict = ask(self.hook, self.job_arn)
        self._reporter.tell(verdict)
        if verdict.state is JobState.FAILED:
            raise PersonalizeJobFailedError.from_job(self.job_arn, verdict.job or {})
        return PokeReturnValue(is_done=verdict.state is JobState.ACTIVE, xcom_value=verdict.job)

    def execute(self, context: Context) -> Any:
        """Check what was rendered, then wait until the job is done."""
        with fail_on_invalid_parameters():
            deferrable = read_bool(self.deferrable, self.source_of("deferrable"))
        _ = self.hook  # raises what is wrong outside poke, where soft_fail and never_fail would hide it
        return self._poke_and_defer(context) if deferrable else self._poke_until_done(context)

    def _poke_until_done(self, context: Context) -> Any:
        """Let Airflow's own loop poke, in both of its modes; only its words about a timeout are replaced."""
        try:
            # Unwrapped: Airflow 2.11 takes a call from a subclass for one from outside a task.
            return inspect.unwrap(BaseSensorOperator.execute)(self, context)
        except AirflowSensorTimeout:
            raise self._timeout_error(self._reporter.status) from None
        except AirflowSkipException as skip:
            if skip.__cause__ is None and "timed out" not in str(skip):
                raise  # a subclass's own
            reason = skip.__cause__ or self._timeout_error(self._reporter.status)
            raise AirflowSkipException(str(reason)) from reason

    # --- Deferred ---------------------------------------------------------------------------------

    def _poke_and_defer(self, context: Context, deadline: datetime | None = None) -> Any:
        try:
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
        from airflow_provider_personalize_segments.triggers import PersonalizeBatchJobTrigger

        deadline = deadline or self._deadline(context)
        start = deadline - timedelta(seconds=self.timeout)
        if deadline <= datetime.now(UTC):
            self._end(self._timeout_error(self._reporter.status))
        hook = self.hook
        self.defer(
            trigger=PersonalizeBatchJobTrigger(
                job_arn=self.job_arn,
                deadline=deadline.isoformat(),
                execution_deadline=(start + self.execution_timeout).isoformat()
                if self.execution_timeout
                else None,
                poke_interval=self.poke_interval,
                exponential_backoff=self.exponential_backoff,
                max_wait=self.max_wait.total_seconds() if self.max_wait else None,
                silent_fail=self.silent_fail,
                aws_conn_id=hook.aws_conn_id,
                region_name=self.arn_region,
                verify=read_verify(self.verify, self.source_of("verify")),
                botocore_config=self.botocore_config or None,
            ),
            method_name="execute_complete",
            # The trigger itself ends in time. This is for when no triggerer runs.
            timeout=max(deadline - datetime.now(UTC), timedelta()) + DEFERRAL_TIMEOUT_MARGIN,
        )

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """
        End the way the trigger's event says.

        :param event: the event; whatever is not one of our trigger's is an error
        :returns: the job, when it is ACTIVE
        """
        from airflow_provider_personalize_segments.triggers import Outcome, read_event

        ending = read_event(event, self.job_arn)
        outcome, job = ending["outcome"], ending["job"] or {}
        if outcome == Outcome.ACTIVE:
            self.log.info("%s is %s.", self.job_arn, job["status"])
            return job
        if outcome == Outcome.FAILED:
            raise PersonalizeJobFailedError.from_job(self.job_arn, job)
        if outcome == Outcome.TIMEOUT:
            return self._ask_last(context, job.get("status"))
        if outcome == Outcome.EXECUTION_TIMEOUT:
            raise AirflowTaskTimeout(f"{self.job_arn}: the task's execution_timeout was over.")
        raise load_error(ending["error"])

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """
        Resume after deferral, and end every error the way a poking sensor would.

        Airflow's own version of this makes soft_fail and never_fail mean something else after deferral, and
        something else again on Airflow 2.
        """
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
        left = (deadline - datetime.now(UTC)).total_seconds()
        time.sleep(max(0.0, min(self.poke_interval, left)))
        return self._poke_and_defer(context, deadline)

    def _ask_last(self, context: Context, status: str | None) -> Any:
        """Ask once more before giving up, as a poking sensor does when its time is over."""
        result = self.poke(context)
        if result.is_done:
            return result.xcom_value
        raise self._timeout_error(self._reporter.status or status)

    def _deadline(self, context: Context) -> datetime:
        start = getattr(context.get("ti"), "start_date", None) or datetime.now(UTC)
        return start + timedelta(seconds=self.timeout)

    def _end(self, error: Exception) -> None:
        """Raise what Airflow's poke loop would raise for this error; returns when it would go on poking."""
        if isinstance(error, AirflowSkipException):
            skip = False
        elif isinstance(error, AirflowSensorTimeout):
            skip = self.soft_fail
        elif isinstance(error, InvalidParameterError):
            skip = False
        elif isinstance(error, AirflowFailException):
            skip = self.soft_fail or self.never_fail
        elif self.silent_fail:
            self.log.error(
                "Asking about %s failed; waiting on, as silent_fail is set: %s", self.job_arn, error
            )
            return
        else:
            skip = self.never_fail
        if skip:
            raise AirflowSkipException(str(error)) from error
        raise error

    def _timeout_error(self, status: str | None) -> PersonalizeJobTimeoutError:
        return PersonalizeJobTimeoutError(self.job_arn, status, self.timeout)


class PersonalizeBatchSegmentJobSensor(BatchJobSensor):
    """
    Wait until a batch segment job is ACTIVE: its user segments are then in S3.

    ::

        PersonalizeBatchSegmentJobSensor(
            task_id="wait_for_segments",
            job_arn="arn:aws:personalize:us-east-1:123456789012:batch-segment-job/weekly",
            mode="reschedule",
            poke_interval=300,
            timeout=6 * 60 * 60,
        )
    """

    kind = BatchJobKind.SEGMENT


class PersonalizeBatchInferenceJobSensor(BatchJobSensor):
    """Wait until a batch inference job is ACTIVE; all else as :class:`PersonalizeBatchSegmentJobSensor`."""

    kind = BatchJobKind.INFERENCE
