"""One call about a job in the triggerer, for all triggers that wait for it.

Triggers share a :class:`JobPoller`, which asks through the :class:`~.connections.SharedConnection`:

- per connection settings and region one task on the event loop;
- per job one Describe for however many triggers wait for it, at the pace of the most eager of them;
- jobs that begin together are spread over their interval, so that their calls do not arrive together;
- throttling and faults slow down the job that met them, and no other;
- a call that hangs is given up after seconds, and its job gets few of the threads until AWS answers;
- the last one to leave takes the task with it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from airflow_provider_personalize_segments.bounded_calls import find_limit
from airflow_provider_personalize_segments.connection_parts import ConnectionPart
from airflow_provider_personalize_segments.connections import SharedConnection, shared_connection
from airflow_provider_personalize_segments.errors import PersonalizeUnavailableError
from airflow_provider_personalize_segments.jobs import JobState
from airflow_provider_personalize_segments.waiting.verdicts import Verdict, ask, make_silence

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.connection_settings import ConnectionSettings

MAX_BACKOFF = 300.0
"""Seconds between two calls about a job that AWS does not answer, unless its own interval is longer."""
MAX_BACKOFF_INTERVALS = 12
"""The same in intervals of the job, whichever is shorter: a short interval asks to hear of the end early."""
MAX_FAILURES = 4
"""Counted failures; 2**4 intervals are more than the bounds above, and more would only slow the recovery."""
TOLD_AGAIN = 900.0
"""Seconds between two lines that say why AWS does not answer about a job, each in one of the tasks' logs."""
TOLD_PER_SECOND = 10.0
"""Such lines about all jobs: Airflow writes each on the event loop."""
WOKEN_AT_ONCE = 50
"""Triggers of a job that take its answer in one round of the event loop, which others wait for, too."""


class Subscription:
    """
    One trigger's interest in one job.

    :param due: when it wants the next verdict at the latest, in the loop's time
    :param future: gets the verdict, or the error that there was instead
    """

    __slots__ = ("due", "future")

    def __init__(self, due: float, future: asyncio.Future[Verdict | BaseException]) -> None:
        self.due = due
        self.future = future


class _Watch:
    """A job that triggers wait for."""

    __slots__ = (
        "due",
        "failures",
        "interval",
        "is_asked",
        "is_suspect",
        "job_arn",
        "not_before",
        "subscriptions",
        "told_again",
        "wanted",
    )

    def __init__(self, job_arn: str) -> None:
        self.job_arn = job_arn
        self.subscriptions: set[Subscription] = set()
        self.wanted = float("inf")
        self.interval = float("inf")
        self.due = float("inf")
        self.not_before = 0.0
        self.told_again = 0.0
        self.failures = 0
        self.is_asked = False
        self.is_suspect = False


class JobPoller(ConnectionPart):
    """
    Asks about jobs on behalf of all triggers of one event loop that have the same connection settings.

    Get it from :func:`shared_poller`. Everything but the calls runs on the event loop.

    :param connection: how it reaches AWS
    """

    def __init__(self, connection: SharedConnection) -> None:
        self._watches: dict[str, _Watch] = {}
        self._queue: list[tuple[float, int, _Watch]] = []
        self._order = itertools.count()
        self._told_until = 0.0
        super().__init__(connection, "personalize-poller")

    def subscribe(self, job_arn: str, delay: float) -> Subscription:
        """
        Begin to wait for a job.

        :param job_arn: the job's ARN
        :param delay: seconds until the first verdict is wanted at the latest; the job's first subscriber
            gets it at a random moment before, since others may begin at the same time
        """
        watch, interval = self._watches.get(job_arn), delay
        if watch is None:
            watch = self._watches[job_arn] = _Watch(job_arn)
            # A random part of the interval keeps jobs apart that began together. A later trigger takes the
            # job's turn: were each to draw its own, the earliest of many would always be at once.
            delay *= random.random()
        subscription = Subscription(self._loop.time() + delay, self._loop.create_future())
        watch.subscriptions.add(subscription)
        self._plan(watch, subscription.due, interval)
        return subscription

    def renew(self, job_arn: str, subscription: Subscription, delay: float) -> None:
        """
        Go on waiting after a verdict.

        :param job_arn: the job's ARN
        :param subscription: the subscription whose verdict was taken
        :param delay: seconds until the next verdict is wanted at the latest
        """
        subscription.due = self._loop.time() + delay
        subscription.future = self._loop.create_future()
        self._plan(self._watches[job_arn], subscription.due, delay)

    def unsubscribe(self, job_arn: str, subscription: Subscription) -> None:
        """
        Stop waiting for a job; the last one to leave closes the poller.

        :param job_arn: the job's ARN
        :param subscription: the subscription
        """
        watch = self._watches.get(job_arn)
        if watch is None:
            return
        watch.subscriptions.discard(subscription)
        if not watch.subscriptions:
            del self._watches[job_arn]
            watch.due = float("inf")
            # Their places in the queue are passed by when their time comes, which may be in a day.
            if len(self._queue) > 2 * len(self._watches):
                self._queue = [each for each in self._queue if each[0] == each[2].due]
                heapq.heapify(self._queue)
        if not self._watches:
            self.close()

    def may_tell_fault(self, job_arn: str) -> bool:
        """
        Tell whether a trigger may log now why AWS does not answer about its job: one does for all.

        That is once in a while for each job, and at a bounded rate for all of them.

        :param job_arn: the job's ARN
        """
        now, watch = self._loop.time(), self._watches[job_arn]
        if now < watch.told_again or now < self._told_until - 1.0:
            return False
        watch.told_again = now + TOLD_AGAIN
        self._told_until = max(now, self._told_until) + 1.0 / TOLD_PER_SECOND
        return True

    def _waiting(self) -> Iterable[asyncio.Future[Verdict | BaseException]]:
        return [each.future for watch in self._watches.values() for each in watch.subscriptions]

    def _forget_all(self) -> None:
        self._watches.clear()
        self._queue.clear()

    # --- When -------------------------------------------------------------------------------------

    def _plan(self, watch: _Watch, wanted: float, interval: float) -> None:
        """Put a job where it belongs in the queue: due when the first of its triggers wants it."""
        watch.wanted = min(watch.wanted, wanted)
        watch.interval = min(watch.interval, interval)
        if watch.is_asked:
            return  # it is planned anew when the answer is there
        due = max(watch.wanted, watch.not_before)
        if due != watch.due and due != float("inf"):
            watch.due = due
            heapq.heappush(self._queue, (due, next(self._order), watch))
            if self._queue[0][2] is watch:
                self._wake.set()

    async def _run(self) -> None:
        """Ask about each job when it is due, so many at a time as there are threads."""
        while True:
            self._wake.clear()
            while self._queue and self._queue[0][0] <= self._loop.time():
                due, _, watch = heapq.heappop(self._queue)
                if due != watch.due or watch.is_asked:
                    continue  # planned anew meanwhile
                about_job = partial(ask, job_arn=watch.job_arn)
                begun = asyncio.Event()
                if watch.is_suspect:
                    call = self._connection.call_suspect(about_job, begun.set)
                else:
                    await self._connection.acquire()
                    if watch.due != due:
                        self._connection.release()
                        continue
                    call = self._connection.call(about_job)
                    begun.set()
                watch.is_asked = True
                self._start(self._hand_out(watch, call, begun))
            await self._sleep(self._queue[0][0] - self._loop.time() if self._queue else None)

    async def _hand_out(self, watch: _Watch, call: asyncio.Task[Verdict], begun: asyncio.Event) -> None:
        """Give an answer to all triggers that wait for it, and plan the next call."""
        await begun.wait()
        limit = find_limit(watch.interval)
        await asyncio.wait([call], timeout=limit)
        is_silent = not call.done()
        if is_silent:
            # The thread stays with the call, and the job gets no other until the call has ended.
            aws_conn_id = self._connection.settings.aws_conn_id
            self._wake_up(watch, make_silence(watch.job_arn, aws_conn_id, limit))
            await asyncio.wait([call])
        # Errors are handed out as results: raised in a thousand places, one error would collect their traces.
        answer: Verdict | BaseException = call.exception() or call.result()
        if isinstance(answer, PersonalizeUnavailableError):
            answer = Verdict(JobState.WAITING, no_answer=str(answer))
        watch.is_asked = False
        watch.due = float("inf")
        has_answer = isinstance(answer, Verdict) and answer.no_answer is None
        watch.is_suspect = is_silent and not has_answer
        self._pace(watch, has_answer=has_answer)
        if is_silent and isinstance(answer, Verdict) and not has_answer:
            # The triggers know that; they get the next answer.
            self._plan(watch, watch.wanted, watch.interval)
        else:
            self._wake_up(watch, answer)

    def _wake_up(self, watch: _Watch, answer: Verdict | BaseException) -> None:
        """Hand an answer to all triggers that wait for it; each says when it wants the next."""
        watch.wanted = watch.interval = float("inf")
        self._wake_some([each for each in watch.subscriptions if not each.future.done()], answer)

    def _wake_some(self, waiting: list[Subscription], answer: Verdict | BaseException) -> None:
        """Hand an answer to some, and to the rest in the loop's next rounds."""
        for subscription in waiting[:WOKEN_AT_ONCE]:
            if not subscription.future.done():
                subscription.future.set_result(answer)
        if len(waiting) > WOKEN_AT_ONCE:
            self._loop.call_soon(self._wake_some, waiting[WOKEN_AT_ONCE:], answer)

    def _pace(self, watch: _Watch, *, has_answer: bool) -> None:
        """Slow down a job that AWS does not answer, and let it recover in a few answers."""
        watch.failures = watch.failures // 2 if has_answer else min(watch.failures + 1, MAX_FAILURES)
        watch.not_before = 0.0
        if watch.failures and watch.interval < MAX_BACKOFF:
            longest = min(MAX_BACKOFF, watch.interval * MAX_BACKOFF_INTERVALS)
            backoff = min(longest, watch.interval * 2.0**watch.failures)
            watch.not_before = self._loop.time() + backoff * random.uniform(0.5, 1.0)


def shared_poller(settings: ConnectionSettings) -> JobPoller:
    """
    Return the poller of the running event loop for these settings, made on first use.

    :param settings: the connection settings
    """
    return shared_connection(settings).part(JobPoller, JobPoller)
