"""The trigger that waits for a batch job in the triggerer, for many tasks at the cost of one.

What it leaves in Airflow's database is plain JSON, and loads in later releases: new parameters get defaults,
and none is taken away. Its events carry everything that resuming needs, in a version that is checked.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_personalize_segments.errors import (
    PersonalizeRequestError,
    TriggerFailedError,
    dump_error,
)
from airflow_provider_personalize_segments.jobs import JobState, classify_status, parse_job_arn
from airflow_provider_personalize_segments.polling import ConnectionSettings, shared_poller
from airflow_provider_personalize_segments.verdicts import Reporter, Verdict

EVENT_VERSION = 1
GRACE = 5.0
"""Seconds that the last call may take after the deadline, when it is made."""


class Outcome:
    """What an event says happened; resuming takes no other word."""

    ACTIVE = "active"
    FAILED = "failed"
    TIMEOUT = "timeout"
    EXECUTION_TIMEOUT = "execution_timeout"
    ERROR = "error"


class PersonalizeBatchJobTrigger(BaseTrigger):
    """
    Wait in the triggerer until a batch job of either kind is over, and fire one event that says how it ended.

    All triggers of a triggerer that have the same connection settings share one client, and all that wait for
    the same job share its calls; see :mod:`~.polling`. It never raises, cancellation aside.

    The event is plain JSON: ``version``, ``job_arn``, ``outcome`` (``active``, ``failed``, ``timeout``,
    ``execution_timeout`` or ``error``), ``deadline``, ``job`` (as Describe last gave it, or ``None``) and
    ``error`` (what ended it, with its fields, for ``error`` alone).

    :param job_arn: the job's ARN
    :param deadline: when to give up, as ISO 8601 with an offset; a triggerer's restart does not move it.
        ``None`` means never
    :param execution_deadline: when the task's ``execution_timeout`` is over, in the same form
    :param poke_interval: seconds between two calls about the job
    :param exponential_backoff: whether that interval doubles from call to call
    :param max_wait: the most seconds that it may grow to
    :param poke_count: how often the task itself has asked already
    :param silent_fail: whether to go on waiting after an unexpected error
    :param aws_conn_id: the Airflow connection; ``None`` means the credentials that boto3 finds by itself
    :param region_name: the AWS region; ``None`` means the one in the ARN
    :param verify: whether to verify TLS certificates, or the path of a CA bundle
    :param botocore_config: arguments of ``botocore.config.Config`` in a dict
    """

    def __init__(
        self,
        job_arn: str,
        deadline: str | None = None,
        execution_deadline: str | None = None,
        poke_interval: float = 60.0,
        exponential_backoff: bool = False,
        max_wait: float | None = None,
        poke_count: int = 1,
        silent_fail: bool = False,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        verify: bool | str | None = None,
        botocore_config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's own is not annotated
        self.job_arn = job_arn
        self.deadline = deadline
        self.execution_deadline = execution_deadline
        self.poke_interval = poke_interval
        self.exponential_backoff = exponential_backoff
        self.max_wait = max_wait
        self.poke_count = poke_count
        self.silent_fail = silent_fail
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self.verify = verify
        self.botocore_config = botocore_config

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the parameters from which Airflow makes this trigger anew."""
        return (
            f"{PersonalizeBatchJobTrigger.__module__}.{PersonalizeBatchJobTrigger.__qualname__}",
            {
                "job_arn": self.job_arn,
                "deadline": self.deadline,
                "execution_deadline": self.execution_deadline,
                "poke_interval": self.poke_interval,
                "exponential_backoff": self.exponential_backoff,
                "max_wait": self.max_wait,
                "poke_count": self.poke_count,
                "silent_fail": self.silent_fail,
                "aws_conn_id": self.aws_conn_id,
                "region_name": self.region_name,
                "verify": self.verify,
                "botocore_config": self.botocore_config,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then yield one event."""
        self._last_job: dict[str, Any] | None = None
        self._reporter = Reporter(self.log, self.job_arn)
        try:
            outcome, error = await self._wait(), None
        except Exception as caught:
            # Whatever it is, a trigger that raises could only fail its task, without a word.
            outcome, error = Outcome.ERROR, caught
        yield TriggerEvent(  # type: ignore[no-untyped-call]  # Airflow's own is not annotated
            {
                "version": EVENT_VERSION,
                "job_arn": self.job_arn,
                "outcome": outcome,
                "deadline": self.deadline,
                "job": self._last_job,
                "error": None if error is None else dump_error(error),
            }
        )

    async def _wait(self) -> str:
        region = self.region_name or parse_job_arn(self.job_arn).region
        settings = ConnectionSettings.of(self.aws_conn_id, region, self.verify, self.botocore_config)
        count = self.poke_count
        # The task has asked just now.
        delay = min(self._interval(count), self._time_left()[0])
        poller = shared_poller(settings)
        subscription = poller.subscribe(self.job_arn, delay)
        grace = GRACE
        try:
            while True:
                left, ending = self._time_left()
                try:
                    # The last call is made when the time is over, and may take a moment.
                    async with asyncio.timeout(None if left == float("inf") else left + grace):
                        answer = await subscription.future
                except TimeoutError:
                    return ending
                state = self._judge(answer)
                if state is not JobState.WAITING:
                    return Outcome.ACTIVE if state is JobState.ACTIVE else Outcome.FAILED
                left, ending = self._time_left()
                if left <= 0:
                    return ending
                count += 1
                grace = GRACE if isinstance(answer, Verdict) and answer.job else 0.0
                poller.renew(self.job_arn, subscription, min(self._interval(count), left))
        finally:
            poller.unsubscribe(self.job_arn, subscription)

    def _judge(self, answer: Verdict | BaseException) -> JobState:
        if isinstance(answer, Verdict):
            self._reporter.tell(answer)
            self._last_job = answer.job or self._last_job
            return answer.state
        if isinstance(answer, PersonalizeRequestError) or not self.silent_fail:
            raise answer.with_traceback(None)
        self.log.error(
            "Asking about %s failed; waiting on, as silent_fail is set", self.job_arn, exc_info=answer
        )
        return JobState.WAITING

    def _interval(self, count: int) -> float:
        """Return the seconds between the call of that number and the next, as a poking sensor would wait."""
        if not self.exponential_backoff:
            return self.poke_interval
        shortest = max(int(self.poke_interval * 2.0 ** min(count - 2, 60)), 1)
        interval = shortest * random.uniform(1, 2)
        return interval if self.max_wait is None else min(interval, self.max_wait)

    def _time_left(self) -> tuple[float, str]:
        """Return the seconds until the first deadline, and what it means to reach it."""
        now = datetime.now(UTC)
        return min(
            (float("inf") if at is None else (datetime.fromisoformat(at) - now).total_seconds(), ending)
            for at, ending in (
                (self.deadline, Outcome.TIMEOUT),
                (self.execution_deadline, Outcome.EXECUTION_TIMEOUT),
            )
        )


def read_event(event: object, job_arn: str) -> dict[str, Any]:
    """
    Return an event of :class:`PersonalizeBatchJobTrigger`, checked; whatever is not one is never success.

    :param event: what Airflow resumed the task with
    :param job_arn: the job that the task waits for
    :raises TriggerFailedError: when it is no such event, or about another job
    """
    outcomes = (Outcome.ACTIVE, Outcome.FAILED, Outcome.TIMEOUT, Outcome.EXECUTION_TIMEOUT, Outcome.ERROR)
    if isinstance(event, dict) and event.get("version") == EVENT_VERSION and event.get("outcome") in outcomes:
        job = event.get("job")
        if event.get("job_arn") == job_arn and (job is None or isinstance(job, dict)):
            state = classify_status((job or {}).get("status"))
            expected = {Outcome.ACTIVE: JobState.ACTIVE, Outcome.FAILED: JobState.FAILED}
            if expected.get(event["outcome"], state) is state:
                return event
    raise TriggerFailedError(
        f"The task that waits for {job_arn} was resumed with an event that it does not know, which is no "
        f"success: {event!r:.500}. If the package was just updated, restart the triggerer."
    )
