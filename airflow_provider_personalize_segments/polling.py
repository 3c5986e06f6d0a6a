"""Who asks AWS about a job in the triggerer, and when: once for everyone who waits.

Triggers share a :class:`JobPoller`, which asks in threads, on plain boto3, so that the event loop never waits
for a socket, a connection or a client:

- per connection settings and region one client, one small pool of threads, one task on the event loop;
- per job one Describe for however many triggers wait for it, at the pace of the most eager of them;
- jobs that begin together are spread over their interval, so that their calls do not arrive together;
- throttling and faults slow down the job that met them, and nobody else;
- the last one to leave takes client, threads and task with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_personalize_segments.verdicts import Verdict, ask

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.hooks import PersonalizeHook

MAX_CONCURRENT_CALLS = 8
"""Per connection settings and region; below the ten connections that botocore's pool keeps open."""
MAX_BACKOFF = 300.0
"""Seconds between two calls about a job that AWS does not answer, unless its own interval is longer."""
MAX_BACKOFF_INTERVALS = 12
"""The same in intervals of the job, whichever is shorter: who asks often wants to hear early of the end."""
MAX_FAILURES = 4
"""Counted failures; 2**4 intervals are more than the bounds above, and more would only slow the recovery."""
WOKEN_AT_ONCE = 50
"""Triggers of a job that take its answer in one round of the event loop, which others wait for, too."""


class ConnectionSettings(NamedTuple):
    """
    What decides with whose credentials, where and how AWS is called; different ones never share a client.

    :param aws_conn_id: the Airflow connection, or ``None``
    :param region_name: the AWS region
    :param verify: whether to verify TLS certificates, or a CA bundle's path, or ``None``
    :param botocore_config: botocore configuration as JSON text, which can be compared; or ``None``
    """

    aws_conn_id: str | None
    region_name: str
    verify: bool | str | None
    botocore_config: str | None

    @classmethod
    def of(
        cls,
        aws_conn_id: str | None,
        region_name: str,
        verify: bool | str | None,
        botocore_config: dict[str, Any] | None,
    ) -> ConnectionSettings:
        """Make it from a hook's parameters."""
        config = json.dumps(botocore_config, sort_keys=True) if botocore_config else None
        return cls(aws_conn_id, region_name, verify, config)

    def make_hook(self) -> PersonalizeHook:
        """Return a hook with these settings; blocks, since it reads the connection."""
        from botocore.config import Config

        from airflow_provider_personalize_segments.hooks import PersonalizeHook

        def make(config: Config | dict[str, Any] | None) -> PersonalizeHook:
            return PersonalizeHook(self.aws_conn_id, self.region_name, self.verify, config)

        hook = make(json.loads(self.botocore_config) if self.botocore_config else None)
        if not hook.config.retries:
            # The poller repeats calls by itself; botocore doing so too would multiply them just when AWS
            # asks for fewer. Who configured retries gets them.
            hook = make(hook.config.merge(Config(retries={"total_max_attempts": 1})))
        return hook


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
    """A job that somebody waits for."""

    __slots__ = (
        "due",
        "failures",
        "interval",
        "is_asked",
        "job_arn",
        "not_before",
        "subscriptions",
        "wanted",
    )

    def __init__(self, job_arn: str) -> None:
        self.job_arn = job_arn
        self.subscriptions: set[Subscription] = set()
        self.wanted = float("inf")
        self.interval = float("inf")
        self.due = float("inf")
        self.not_before = 0.0
        self.failures = 0
        self.is_asked = False


class JobPoller:
    """
    Asks about jobs on behalf of all triggers of one event loop that have the same connection settings.

    Get it from :func:`shared_poller`. Everything but the calls runs on the event loop.

    :param settings: the connection settings
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self.settings = settings
        self._loop = asyncio.get_running_loop()
        self._watches: dict[str, _Watch] = {}
        self._queue: list[tuple[float, int, _Watch]] = []
        self._order = itertools.count()
        self._wake = asyncio.Event()
        self._free = asyncio.Semaphore(MAX_CONCURRENT_CALLS)
        self._hook: PersonalizeHook | None = None
        self._hook_lock = threading.Lock()
        self._threads = ThreadPoolExecutor(MAX_CONCURRENT_CALLS, thread_name_prefix="personalize-poller")
        self._task = self._loop.create_task(self._run(), name="personalize-poller")

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
            # A random part of the interval keeps jobs apart that began together. Who joins later takes the
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
        if not self._watches:
            self.close()

    def close(self) -> None:
        """Give up task, threads and client; whoever comes later gets a new poller."""
        _forget(self._loop, self)
        if not self._loop.is_closed():
            self._task.cancel()
        self._queue.clear()
        self._threads.shutdown(wait=False)
        # In a thread, as closing sockets is input and output, too.
        closing = threading.Thread(target=self._close_hook, name="personalize-poller-closing", daemon=True)
        with contextlib.suppress(RuntimeError):  # raised while the interpreter shuts down
            closing.start()

    def _close_hook(self) -> None:
        self._threads.shutdown(wait=True)  # calls in flight still use the client
        with self._hook_lock:
            if self._hook is not None:
                self._hook.close()

    # --- When -------------------------------------------------------------------------------------

    def _plan(self, watch: _Watch, wanted: float, interval: float) -> None:
        """Put a job where it belongs in the queue: due when the first of those who wait wants it."""
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
                await self._free.acquire()
                if watch.due != due:
                    self._free.release()
                    continue
                watch.is_asked = True
                try:
                    call = self._loop.run_in_executor(self._threads, self._ask, watch.job_arn)
                except RuntimeError as error:
                    # No thread is to be had, or the interpreter shuts down: an answer like any other error.
                    call = self._loop.create_future()
                    call.set_exception(error)
                call.add_done_callback(partial(self._hand_out, watch))
            wait = self._queue[0][0] - self._loop.time() if self._queue else None
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _ask(self, job_arn: str) -> Verdict:
        """Runs in a thread."""
        with self._hook_lock:
            if self._hook is None:
                self._hook = self.settings.make_hook()
        return ask(self._hook, job_arn)

    def _hand_out(self, watch: _Watch, call: asyncio.Future[Verdict]) -> None:
        """Give an answer to all who wait for it, and plan the next call."""
        self._free.release()
        watch.is_asked = False
        watch.due = float("inf")
        if call.cancelled():
            return
        # Errors are handed out as results: raised in a thousand places, one error would collect their traces.
        answer = call.exception() or call.result()
        self._pace(watch, has_answer=isinstance(answer, Verdict) and answer.no_answer is None)
        watch.wanted = watch.interval = float("inf")
        self._wake_up([each for each in watch.subscriptions if not each.future.done()], answer)

    def _wake_up(self, waiting: list[Subscription], answer: Verdict | BaseException) -> None:
        """Hand an answer to some, and to the rest in the loop's next rounds."""
        for subscription in waiting[:WOKEN_AT_ONCE]:
            if not subscription.future.done():
                subscription.future.set_result(answer)
        if len(waiting) > WOKEN_AT_ONCE:
            self._loop.call_soon(self._wake_up, waiting[WOKEN_AT_ONCE:], answer)

    def _pace(self, watch: _Watch, *, has_answer: bool) -> None:
        """Slow down a job that AWS does not answer, and let it recover in a few answers."""
        watch.failures = watch.failures // 2 if has_answer else min(watch.failures + 1, MAX_FAILURES)
        watch.not_before = 0.0
        if watch.failures and watch.interval < MAX_BACKOFF:
            longest = min(MAX_BACKOFF, watch.interval * MAX_BACKOFF_INTERVALS)
            backoff = min(longest, watch.interval * 2.0**watch.failures)
            watch.not_before = self._loop.time() + backoff * random.uniform(0.5, 1.0)


_pollers: dict[asyncio.AbstractEventLoop, dict[ConnectionSettings, JobPoller]] = {}
_pollers_lock = threading.Lock()


def shared_poller(settings: ConnectionSettings) -> JobPoller:
    """
    Return the poller of the running event loop for these settings, made on first use.

    :param settings: the connection settings
    """
    loop = asyncio.get_running_loop()
    with _pollers_lock:
        abandoned = [poller for each in _pollers if each.is_closed() for poller in _pollers[each].values()]
    for poller in abandoned:
        # Its loop was closed before its triggers could leave.
        poller.close()
    with _pollers_lock:
        pollers = _pollers.setdefault(loop, {})
        if settings not in pollers:
            pollers[settings] = JobPoller(settings)
        return pollers[settings]


def _forget(loop: asyncio.AbstractEventLoop, poller: JobPoller) -> None:
    with _pollers_lock:
        pollers = _pollers.get(loop, {})
        if pollers.get(poller.settings) is poller:
            del pollers[poller.settings]
        if not pollers:
            _pollers.pop(loop, None)
