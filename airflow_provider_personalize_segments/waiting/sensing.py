"""Sensors on a worker: Airflow's own poke loop, in both modes, and what soft_fail and its like mean."""

from __future__ import annotations

import inspect
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_personalize_segments.airflow_compat import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    find_first_start,
)
from airflow_provider_personalize_segments.errors import InvalidParameterError, fail_on_invalid_parameters
from airflow_provider_personalize_segments.parameters import read_bool, read_seconds
from airflow_provider_personalize_segments.waiting.pace import Pace
from airflow_provider_personalize_segments.waiting.steps import WaitingSteps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_personalize_segments.airflow_compat import Context
    from airflow_provider_personalize_segments.sensors import BatchJobSensor


class SensorSteps(WaitingSteps):
    """
    What a worker does for a sensor.

    :param task: the sensor, as rendered
    """

    task: BatchJobSensor

    @property
    def awaited_arn(self) -> str:
        """``job_arn``."""
        return self.task.job_arn

    @property
    def known_job(self) -> Mapping[str, Any]:
        """Its ARN."""
        return {self.task.kind.arn_member: self.task.job_arn}

    @property
    def pace(self) -> Pace:
        """What Airflow's own parameters say."""
        task = self.task
        return Pace(
            task.poke_interval,
            task.timeout,
            task.exponential_backoff,
            task.max_wait.total_seconds() if task.max_wait else None,
            task.silent_fail,
        )

    def execute(self, context: Context) -> Any:
        """
        Check what was rendered, then wait until the job is done.

        :param context: the task's context
        """
        task = self.task
        with fail_on_invalid_parameters():
            deferrable = read_bool(task.deferrable, task.source_of("deferrable"))
            read_seconds(task.poke_interval, task.source_of("poke_interval"))
            _ = self.error_limit
        _ = task.hook  # raises what is wrong outside poke, where soft_fail and never_fail would hide it
        return self.poke_and_defer(context) if deferrable else self._poke_until_done(context)

    def _poke_until_done(self, context: Context) -> Any:
        """Let Airflow's own loop poke, in both of its modes; only its words about a timeout are replaced."""
        self.begin(context)
        try:
            # Unwrapped: Airflow 2.11 takes a call from a subclass for one from outside a task.
            return inspect.unwrap(BaseSensorOperator.execute)(self.task, context)
        except AirflowSensorTimeout:
            raise self.timeout_error() from None
        except AirflowSkipException as skip:
            if skip.__cause__ is None and "timed out" not in str(skip):
                raise  # a subclass's own
            reason = skip.__cause__ or self.timeout_error()
            raise AirflowSkipException(str(reason)) from reason

    def begin(self, context: Context) -> None:
        """
        Say what will happen; in mode ``reschedule``, where each question is a new process, only once.

        :param context: the task's context
        """
        start, now, pace = self.start(context), datetime.now(UTC), self.pace
        first = None
        if self.task.reschedule:
            with suppress(Exception):  # no log line is worth a task
                first = find_first_start(context, self.task.retries or 0)
        if first is None:
            where = "in mode reschedule" if self.task.reschedule else "on this worker"
            self.report(start).begin(
                where, pace.interval, self.deadline(context), grows=pace.exponential_backoff
            )
            return
        # The last question was asked an interval ago; one that grows is at most half of the wait so far.
        gap = max(pace.interval, (now - first).total_seconds() / 2 if pace.exponential_backoff else 0)
        self.report(first, now - timedelta(seconds=gap))

    def end(self, error: Exception) -> None:
        """
        Raise what Airflow's poke loop would raise for this error; returns when it would go on poking.

        :param error: the error
        """
        task = self.task
        if isinstance(error, AirflowSkipException):
            skip = False
        elif isinstance(error, AirflowSensorTimeout):
            skip = task.soft_fail
        elif isinstance(error, InvalidParameterError):
            skip = False
        elif isinstance(error, AirflowFailException):
            skip = task.soft_fail or task.never_fail
        elif task.silent_fail:
            self.log.error(
                "Asking about the job failed; waiting on, as silent_fail is set: %s (%s)", error, task.job_arn
            )
            return
        else:
            skip = task.never_fail
        if skip:
            raise AirflowSkipException(str(error)) from error
        raise error
