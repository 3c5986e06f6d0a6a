"""The trigger that waits for a batch job, for many tasks at the cost of one, and the base of all triggers."""

from __future__ import annotations

import asyncio
import random
from abc import abstractmethod
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from airflow.triggers.base import TriggerEvent

from airflow_provider_personalize_segments.arns import parse_job_arn
from airflow_provider_personalize_segments.base_trigger import StoredTrigger
from airflow_provider_personalize_segments.errors import PersonalizeRequestError
from airflow_provider_personalize_segments.jobs import JobState
from airflow_provider_personalize_segments.plain_json import make_json_safe
from airflow_provider_personalize_segments.waiting.events import Event, Outcome, dump_error
from airflow_provider_personalize_segments.waiting.poller import JobPoller, shared_poller
from airflow_provider_personalize_segments.waiting.verdicts import (
    CANNOT_CANCEL,
    Reporter,
    Verdict,
    judge_refusal,
)

GRACE = 5.0
"""Seconds that the last call may take after the deadline, when it is made."""
SHORTEST_INTERVAL = 0.1
"""Seconds between two calls about a job, also when ``poke_interval`` is 0."""
EARLIEST_EVENT = 7.0
"""
Seconds between a trigger's start and its event, at least. When a trigger fires before the scheduler has heard
that the worker which deferred the task is gone, Airflow finds the task queued while its executor says that it
is over, and fails or retries it (https://github.com/apache/airflow/issues/71580). The worker may take a
heartbeat to leave, 5 s by default, and the scheduler on two busy cores another 10 to 13 s to handle that.
"""
LONGEST_PAUSE = 30.0
"""Seconds that an event is held back at most, and a short ``poke_interval`` asks for less."""


class PersonalizeTrigger(StoredTrigger):
    """
    Base of the triggers that tasks defer to; each fires exactly one event, and never raises.

    The event is plain JSON, see :class:`~.waiting.events.Event`.

    :param deadline: when to give up, as ISO 8601 with an offset; a triggerer's restart does not move it.
        ``None`` means never
    :param execution_deadline: when the task's ``execution_timeout`` is over, in the same form
    :param poke_interval: seconds between two calls about the job
    :param aws_conn_id: as all that follow: see :class:`~.base_trigger.StoredTrigger`
    """

    def __init__(
        self,
        deadline: str | None,
        execution_deadline: str | None,
        poke_interval: float,
        aws_conn_id: str | None,
        region_name: str | None,
        verify: bool | str | None,
        botocore_config: dict[str, Any] | None,
    ) -> None:
        super().__init__(aws_conn_id, region_name, verify, botocore_config)
        self.deadline = deadline
        self.execution_deadline = execution_deadline
        self.poke_interval = poke_interval
        self._job_arn: str | None = None
        self._last_job: dict[str, Any] | None = None
        self._reason: str | None = None
        self._is_unanswered = False
        self._may_be_own = False

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then yield one event."""
        start = asyncio.get_running_loop().time()
        try:
            outcome, error = await self._wait(), None
        except Exception as caught:
            # A trigger that raises fails its task without a word about the reason.
            outcome, error = Outcome.ERROR, caught
        await asyncio.sleep(start + find_pause(self.poke_interval) - asyncio.get_running_loop().time())
        event = Event(
            outcome,
            self._job_arn,
            self.deadline,
            self._last_job,
            self._reason,
            self._is_unanswered,
            None if error is None else dump_error(error),
            self._may_be_own,
        )
        # All of it once more: an event that cannot be encoded ends Airflow's triggerer.
        yield TriggerEvent(make_json_safe(event.dump()))  # type: ignore[no-untyped-call]  # not annotated

    @abstractmethod
    async def _wait(self) -> str:
        """Wait; return the outcome."""

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


class PersonalizeBatchJobTrigger(PersonalizeTrigger):
    """
    Wait in the triggerer until a batch job of either kind is over, and fire one event that says how it ended.

    All triggers of a triggerer that have the same connection settings share one client, and all that wait for
    the same job share its calls; see :mod:`~.waiting.poller`. It never raises, cancellation aside.

    The event's ``outcome`` is ``active``, ``failed``, ``timeout``, ``execution_timeout`` or ``error``.

    :param job_arn: the job's ARN
    :param poke_interval: seconds between two calls about the job; 60 by default
    :param exponential_backoff: whether ``poke_interval`` doubles from call to call; ``False`` by default
    :param max_wait: the most seconds that ``poke_interval`` may grow to; ``None`` by default, no limit
    :param silent_fail: whether to go on waiting after an unexpected error
    :param is_created: whether the task has created the job, so that "not found" means "not yet"
    :param waiting_since: since when the task waits, as ISO 8601 with an offset; ``None`` means from now on
    :param deadline: as all other parameters: see :class:`~.waiting.trigger.PersonalizeTrigger`
    """

    def __init__(
        self,
        job_arn: str,
        deadline: str | None = None,
        execution_deadline: str | None = None,
        poke_interval: float = 60.0,
        exponential_backoff: bool = False,
        max_wait: float | None = None,
        silent_fail: bool = False,
        is_created: bool = False,
        waiting_since: str | None = None,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        verify: bool | str | None = None,
        botocore_config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            deadline, execution_deadline, poke_interval, aws_conn_id, region_name, verify, botocore_config
        )
        self.job_arn = self._job_arn = job_arn
        self.exponential_backoff = exponential_backoff
        self.max_wait = max_wait
        self.silent_fail = silent_fail
        self.is_created = is_created
        self.waiting_since = waiting_since

    async def on_kill(self) -> None:
        """Say what becomes of the job when a person ends the task; Airflow calls this from 3.3 on."""
        self.log.warning(CANNOT_CANCEL, self.job_arn)

    async def _wait(self) -> str:
        since = datetime.fromisoformat(self.waiting_since) if self.waiting_since else None
        # The worker has told what is waited for: Airflow writes each line on the loop, and waits come by the
        # thousand when a triggerer starts.
        self._reporter = Reporter(self.log, self.job_arn, since, is_told=True)
        settings = self._settings(parse_job_arn(self.job_arn).region)
        count = 1
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
                state = self._judge(answer, poller)
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

    def _judge(self, answer: Verdict | BaseException, poller: JobPoller) -> JobState:
        if isinstance(answer, PersonalizeRequestError):
            answer = judge_refusal(answer.with_traceback(None), is_created=self.is_created)
        if isinstance(answer, Verdict):
            tells_fault = bool(answer.no_answer) and poller.may_tell_fault(self.job_arn)
            self._reporter.tell(answer, tells_fault=tells_fault)
            self._last_job = answer.job or self._last_job
            return answer.state
        if not self.silent_fail:
            raise answer.with_traceback(None)
        if poller.may_tell_fault(self.job_arn):
            self.log.error(
                "Asking about the job failed; waiting on, as silent_fail is set: %s (%s)",
                answer,
                self.job_arn,
                exc_info=answer,
            )
        return JobState.WAITING

    def _interval(self, count: int) -> float:
        """Return the seconds between the call of that number and the next, as a poking sensor would wait."""
        if not self.exponential_backoff:
            return max(self.poke_interval, SHORTEST_INTERVAL)
        shortest = max(int(self.poke_interval * 2.0 ** min(count - 2, 60)), 1)
        interval = shortest * random.uniform(1, 2)
        return interval if self.max_wait is None else min(interval, self.max_wait)


def find_pause(interval: float) -> float:
    """
    Return how many seconds after its start a trigger may fire: half an interval, 7 to 30 seconds.

    :param interval: seconds between two calls about the job
    """
    return min(max(interval / 2, EARLIEST_EVENT), LONGEST_PAUSE)
