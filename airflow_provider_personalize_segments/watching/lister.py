"""One listing of the jobs in the triggerer, for all watchers of the same connection settings and kind.

- A look costs one call for each page that must be read, see :class:`~.watching.listing.Course`, and one for
  each unfinished job that is on none of these pages.
- The most eager watcher sets the pace, and all watchers take each look.
- The lister logs every fault, and waits until it is over. No fault ends a watcher.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from airflow_provider_personalize_segments.arns import is_job_arn
from airflow_provider_personalize_segments.connection_parts import ConnectionPart
from airflow_provider_personalize_segments.connections import SharedConnection, shared_connection
from airflow_provider_personalize_segments.errors import (
    PersonalizeError,
    PersonalizeRequestError,
    PersonalizeUnavailableError,
)
from airflow_provider_personalize_segments.jobs import BatchJobKind, JobState, is_known_status
from airflow_provider_personalize_segments.plain_json import show
from airflow_provider_personalize_segments.watching.listing import Course, Job, ListedPage, Look
from airflow_provider_personalize_segments.watching.subscriptions import Subscription

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.connection_settings import ConnectionSettings
    from airflow_provider_personalize_segments.hooks import PersonalizeHook

CALL_LIMIT = 30.0
"""Seconds that a call may take, the first with the time that it takes to read the connection."""
MAX_BACKOFF = 300.0
"""Seconds between two looks while AWS does not answer, unless the watchers' own interval is longer."""
MAX_FAILURES = 6
"""Counted failures; more would only slow the recovery."""
SECONDS_PER_PAGE = 2.0
"""Seconds between two looks for each page of the second: a long history leaves AWS's rate to others, too."""
MAX_PAGES = 10_000
"""Pages of one listing, a million jobs."""
MAX_DESCRIBED = 10
"""Jobs that one look describes, or as many as the listing has pages, if that is more."""
MAX_SILENT_CALLS = 3
"""Calls for pages without an answer that are left to themselves at a time."""
LISTING = "the listing"
"""What a call for a page is about; others are about a job."""
MAX_WARNINGS = 100
"""Odd statuses and ARNs, each of which the log is told of once."""
RESTART_PAUSE = 30.0
"""Seconds until watchers begin anew when their lister ended."""

Answer = TypeVar("Answer")
log = logging.getLogger(__name__)


class JobLister(ConnectionPart):
    """
    Lists jobs on behalf of all watchers of one event loop that have the same connection settings.

    Get looks from :func:`watch`. Everything but the calls runs on the event loop.

    :param connection: how it reaches AWS
    :param kind: the kind of job
    """

    def __init__(self, connection: SharedConnection, kind: BatchJobKind) -> None:
        self._kind = kind
        self._subscriptions: set[Subscription] = set()
        self._course = Course()
        self._unfinished: dict[str, None] = {}
        """The jobs to ask about again, the longest unasked first."""
        self._warned: set[str] = set()
        self._silent: dict[asyncio.Task[object], str] = {}
        """Calls that had no answer in time and have not ended, each with what it is about."""
        self._failures = 0
        super().__init__(connection, "personalize-lister")

    def subscribe(self, interval: float) -> Subscription:
        """
        Begin to watch; the next look is complete, and comes at once.

        :param interval: the most seconds between two looks
        """
        subscription = Subscription(interval)
        self._subscriptions.add(subscription)
        self._course.want_sweep()
        if not self._failures:
            self._wake.set()
        return subscription

    async def next_look(self, subscription: Subscription) -> Look | None:
        """
        Wait for the next look of a watcher.

        :param subscription: the watcher's
        :returns: the look; ``None`` when the lister has ended, by a mistake of ours that it logged
        """
        while (look := subscription.take()) is None:
            if self._is_closed:
                return None
            subscription.future = self._loop.create_future()
            answer = await subscription.future
            if isinstance(answer, BaseException):
                log.error("The watchers of %ss begin anew", self._kind.title, exc_info=answer)
                return None
        return look

    def unsubscribe(self, subscription: Subscription) -> None:
        """
        Stop watching; the last watcher to leave closes the lister.

        :param subscription: the watcher's
        """
        self._subscriptions.discard(subscription)
        if not self._subscriptions:
            self.close()

    def _waiting(self) -> Iterable[asyncio.Future[Look | BaseException | None]]:
        return [each.future for each in self._subscriptions if each.future is not None]

    def _forget_all(self) -> None:
        self._subscriptions.clear()

    async def _run(self) -> None:
        """Look again and again."""
        while True:
            self._wake.clear()
            try:
                look = await self._look()
            except Exception as error:
                # Airflow would start a watcher that ends at once again, whatever the error was.
                self._failures = min(self._failures + 1, MAX_FAILURES)
                pause = self._find_pause()
                self._tell_fault(error, pause)
            else:
                if self._failures:
                    log.info("Listing %ss works again.", self._kind.title)
                self._failures = 0
                for subscription in list(self._subscriptions):
                    subscription.give(look)
                pause = self._find_pause()
            await self._sleep(pause)

    def _find_pause(self) -> float:
        """Return the seconds until the next look."""
        interval = min((each.interval for each in self._subscriptions), default=MAX_BACKOFF)
        if not self._failures:
            return max(interval, SECONDS_PER_PAGE * (self._course.cost - 1))
        backoff = min(interval * 2.0**self._failures, max(MAX_BACKOFF, interval))
        return backoff * random.uniform(0.5, 1.0)

    def _tell_fault(self, error: Exception, pause: float) -> None:
        where = self._connection.settings
        log.warning(
            "Listing %ss failed; the watchers look again in %.0f s, and miss nothing: %s "
            "(connection %r, region %s)",
            self._kind.title,
            pause,
            str(error) or type(error).__name__,
            where.aws_conn_id,
            where.region_name or "of the connection",
            exc_info=None if isinstance(error, PersonalizeError) else error,
        )

    # --- A look -----------------------------------------------------------------------------------

    async def _look(self) -> Look:
        """Read what must be read, and ask about the unfinished jobs that were not in it."""
        listed = await self._read_pages()
        jobs = {arn: job for arn, job in listed.jobs.items() if not job.is_half}
        # Describe tells of a job what the summary left out.
        unsure = [arn for arn in self._unfinished if arn not in jobs]
        unsure += [arn for arn in listed.jobs if arn not in jobs and arn not in self._unfinished]
        try:
            unasked = await self._describe(unsure, jobs, is_complete=listed.is_complete)
        except Exception:
            self._course.want_sweep()  # no watcher gets what this look has read
            raise
        waiting = [arn for arn, job in jobs.items() if job.state is JobState.WAITING]
        self._unfinished = dict.fromkeys(unasked + waiting)
        for status in {job.status for job in jobs.values() if isinstance(job.status, str)}:
            if not is_known_status(status):
                self._warn_once(
                    "The status %s is not documented. Watching on: only ACTIVE and failures are endings.",
                    show(status),
                )
        return Look(jobs, listed.is_complete)

    async def _read_pages(self) -> Look:
        course = self._course
        token = course.begin()
        for _ in range(MAX_PAGES):
            try:
                page = await self._call(partial(_read_page, kind=self._kind, token=token), LISTING)
            except PersonalizeRequestError:
                if token is not None:
                    course.want_sweep()  # AWS may have forgotten the token
                raise
            for odd in page.odd_arns:
                self._warn_once("The listing has a job that no task can wait for, as its ARN is %s.", odd)
            if not course.goes_on(page):
                return course.end(time.time())
            token = page.next_token
        raise RuntimeError(f"AWS lists more than {MAX_PAGES} pages of {self._kind.title}s.")

    async def _describe(self, arns: list[str], jobs: dict[str, Job], *, is_complete: bool) -> list[str]:
        """Ask about jobs one by one; add those that AWS told of, and return those to ask about again."""
        most = max(MAX_DESCRIBED, self._course.sweep_cost)
        if len(arns) > most and not is_complete:
            self._course.want_sweep()
        left, failed = deque(arns), []
        for _ in range(min(most, len(arns))):
            arn = left.popleft()
            if arn in self._silent.values():
                self._course.want_sweep()
                failed.append(arn)
                continue
            try:
                jobs[arn] = await self._call(partial(_read_job, kind=self._kind, arn=arn), arn)
            except (PersonalizeRequestError, PersonalizeUnavailableError, TimeoutError, ValueError) as error:
                log.warning("Asking about a %s failed: %s (%s)", self._kind.title, error, arn)
                is_abroad = isinstance(error, ValueError)  # no job of this region has such an ARN
                if is_abroad or getattr(error, "code", None) == "ResourceNotFoundException":
                    continue
                # The listing tells of the job, too, when it is read to its end.
                self._course.want_sweep()
                failed.append(arn)
        # One that fails has no turn before all others.
        return [*left, *failed]

    async def _call(self, ask: Callable[[PersonalizeHook], Answer], about: str) -> Answer:
        """Call AWS in a thread; a call that has no answer in time is left to itself."""
        while list(self._silent.values()).count(LISTING) >= MAX_SILENT_CALLS:
            await asyncio.wait(self._silent, return_when=asyncio.FIRST_COMPLETED)
        await self._connection.acquire()
        call = self._connection.call(ask)
        await asyncio.wait([call], timeout=CALL_LIMIT)
        if not call.done():
            self._silent[call] = about
            call.add_done_callback(self._silent.pop)
            raise TimeoutError(f"no answer within {CALL_LIMIT:g} s")
        return call.result()

    def _warn_once(self, message: str, value: str) -> None:
        if value not in self._warned and len(self._warned) < MAX_WARNINGS:
            self._warned.add(value)
            log.warning(message + " (%s)", value, self._kind.list_operation)


def _read_page(hook: PersonalizeHook, kind: BatchJobKind, token: str | None) -> ListedPage:
    page = hook.list_jobs_page(kind, next_token=token)
    jobs = [Job.read(kind, each) for each in page.summaries if is_job_arn(each[kind.arn_member], kind)]
    odd_arns = {each[kind.arn_member] for each in page.summaries} - {job.arn for job in jobs}
    return ListedPage(token, jobs, page.next_token, tuple(show(arn) for arn in sorted(odd_arns)))


def _read_job(hook: PersonalizeHook, kind: BatchJobKind, arn: str) -> Job:
    return Job.read(kind, hook.describe_job(arn))


def shared_lister(settings: ConnectionSettings, kind: BatchJobKind) -> JobLister:
    """
    Return the lister of the running event loop for these settings and this kind, made on first use.

    :param settings: the connection settings
    :param kind: the kind of job
    """
    return shared_connection(settings).part((JobLister, kind.name), lambda it: JobLister(it, kind))


async def watch(settings: ConnectionSettings, kind: BatchJobKind, interval: float) -> AsyncIterator[Look]:
    """
    Yield looks at the listing for ever. The first is complete; all together miss no job.

    :param settings: the connection settings
    :param kind: the kind of job
    :param interval: the most seconds between two looks
    """
    while True:
        lister = shared_lister(settings, kind)
        subscription = lister.subscribe(interval)
        try:
            while (look := await lister.next_look(subscription)) is not None:
                yield look
        finally:
            lister.unsubscribe(subscription)
        await asyncio.sleep(RESTART_PAUSE)
