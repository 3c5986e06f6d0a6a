"""One listing of the jobs in the triggerer, for all watchers of the same connection settings and kind.

- A look costs one call for each page that must be read, see :class:`~.watching.listing.Course`, and one for
  each unfinished job that is on none of these pages.
- A page that fails is asked for again, so a listing that has begun gets through. Looks at what is new go on
  while all pages are being read.
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

from airflow_provider_personalize_segments.arns import find_owner, is_job_arn
from airflow_provider_personalize_segments.connection_parts import ConnectionPart
from airflow_provider_personalize_segments.connections import SharedConnection, shared_connection
from airflow_provider_personalize_segments.errors import (
    THROTTLING_CODES,
    PersonalizeError,
    PersonalizeRequestError,
    PersonalizeUnavailableError,
)
from airflow_provider_personalize_segments.jobs import BatchJobKind, JobState, is_known_status
from airflow_provider_personalize_segments.plain_json import show
from airflow_provider_personalize_segments.watching.listing import Course, Job, ListedPage, Look, Reading
from airflow_provider_personalize_segments.watching.subscriptions import Subscription

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.connection_settings import ConnectionSettings
    from airflow_provider_personalize_segments.hooks import PersonalizeHook

CALL_LIMIT = 30.0
"""Seconds that a call may take, the first with the time that it takes to read the connection."""
MAX_BACKOFF = 300.0
"""Seconds between two looks while AWS does not answer, unless the watchers' own interval is longer."""
FIRST_PAUSE = 0.5
"""Seconds after which a page that failed is asked for again; doubled with each further failure."""
MAX_TRIES = 10
"""Failures of one page, other than throttling, after which its listing is read from its first page again."""
TOLD_FAILURES = 3
"""Failures in a row, of AWS's own, that the log is told of."""
THROTTLED = THROTTLING_CODES | {"LimitExceededException"}
"""Codes of calls that come too fast; of a call that creates nothing the last one means that, too."""
SHORTEST_PACE = 0.25
"""Seconds between two calls once AWS throttles them; doubled with each call that is throttled."""
LONGEST_PACE = 10.0
"""Seconds between two calls at the most, while AWS throttles them."""
EASE = 0.9
"""By how much the pause between two calls becomes shorter with each call that is not throttled."""
SECONDS_PER_PAGE = 2.0
"""Seconds between two looks for each page of the second: a long history leaves AWS's rate to others, too."""
MAX_PAGES = 10_000
"""Pages of one listing, a million jobs."""
MAX_DESCRIBED = 10
"""Jobs that one look describes, or as many as the listing has pages, if that is more."""
MAX_SILENT_CALLS = 20
"""Calls for pages without an answer that are left to themselves; each further one waits before it begins."""
LISTING = "the listing"
"""What a call for a page is about; others are about a job."""
MAX_WARNINGS = 100
"""Odd statuses and ARNs, each of which the log is told of once."""
RESTART_PAUSE = 30.0
"""Seconds until watchers begin anew when their lister ended."""

Answer = TypeVar("Answer")
log = logging.getLogger(__name__)


class Round:
    """A reading that is done again and again: when it goes on, and how often it has failed in a row."""

    def __init__(self) -> None:
        self.reading: Reading | None = None
        self.due = 0.0
        """When its next page is read, by the clock of the event loop."""
        self.failures = 0
        self.is_told = False
        """Whether the log was told of the failures."""


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
        self._owners: frozenset[str] = frozenset()
        """Whose jobs are listed: the accounts and regions in the ARNs that the last complete look saw."""
        self._news, self._sweep = Round(), Round()
        """Reading what is new, and reading all pages, each page in turn with the other."""
        self._pace = 0.0
        """Seconds between two calls, as AWS throttles them."""
        self._unfinished: dict[str, None] = {}
        """The jobs to ask about again, the longest unasked first."""
        self._warned: set[str] = set()
        self._silent: dict[asyncio.Task[object], str] = {}
        """Calls that had no answer in time and have not ended, each with what it is about."""
        super().__init__(connection, "personalize-lister")

    def subscribe(self, interval: float) -> Subscription:
        """
        Begin to watch; the next look is complete, and is begun at once.

        :param interval: the most seconds between two looks
        """
        subscription = Subscription(interval)
        self._subscriptions.add(subscription)
        self._course.want_sweep()
        now = self._loop.time()
        self._news.due = min(self._news.due, now + interval)
        if not self._sweep.failures:
            self._sweep.due = min(self._sweep.due, now)
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
        """Look at what is new again and again; read all pages beside that, page by page, when it is time."""
        earliest = 0.0
        while True:
            self._wake.clear()
            rounds = [self._news] if self._course.has_order else []
            if self._course.needs_sweep:
                rounds.append(self._sweep)
            turn = min(rounds, key=lambda each: each.due)
            pause = max(turn.due, earliest) - self._loop.time()
            if pause <= 0:
                pause = 0.0
                await self._read_on(turn)
                earliest = self._loop.time() + self._pace
            await self._sleep(pause)

    async def _read_on(self, turn: Round) -> None:
        """Read the next page of a round; after the last one hand the look to all watchers."""
        if turn.reading is None:
            turn.reading = self._course.begin_sweep() if turn is self._sweep else self._course.begin_look()
        try:
            page = await self._read_page(turn.reading)
            if self._is_elsewhere(page):
                self._move()
                return
            goes_on = turn.reading.take(page)
            look = None if goes_on else await self._finish(turn.reading)
        except Exception as error:
            # Airflow would start a watcher that ends at once again, whatever the error was.
            pause = self._fail(turn, turn.reading, error)
        else:
            if turn.is_told:
                log.info("Listing %ss works again.", self._kind.title)
            turn.failures, turn.is_told = 0, False
            pause = 0.0 if look is None else self._give(turn, turn.reading, look)
        turn.due = self._loop.time() + pause

    def _is_elsewhere(self, page: ListedPage) -> bool:
        """Tell whether the connection leads to another account or region than it did."""
        owners = {find_owner(job.arn) for job in page.jobs}
        return bool(owners and self._owners) and self._owners.isdisjoint(owners)

    def _move(self) -> None:
        """Forget the listing of the other account or region; the next look is complete for each watcher."""
        self._course, self._owners, self._unfinished = Course(), frozenset(), {}
        self._news, self._sweep = Round(), Round()
        for subscription in self._subscriptions:
            subscription.begin_anew()

    def _give(self, turn: Round, reading: Reading, look: Look) -> float:
        """Hand a look to all watchers; return the seconds until the round's next reading."""
        turn.reading = None
        if look.is_complete:
            self._sweep.reading, self._sweep.failures = None, 0
            self._owners = frozenset(map(find_owner, look.jobs))
        elif self._sweep.reading is not None:
            # Newer than what the sweep has read; it may have passed the pages where new jobs appear.
            self._sweep.reading.jobs |= look.jobs
        for subscription in list(self._subscriptions):
            subscription.give(look)
        pause = self._find_pause()
        self._news.due = self._loop.time() + pause
        return pause if turn is self._news else max(pause, SECONDS_PER_PAGE * (len(reading.pages) - 1))

    def _find_pause(self) -> float:
        """Return the seconds until the next look."""
        return min((each.interval for each in self._subscriptions), default=MAX_BACKOFF)

    def _fail(self, turn: Round, reading: Reading, error: Exception) -> float:
        """Return the seconds until a page that failed is asked for again, or the reading is begun anew."""
        is_transient = isinstance(error, (PersonalizeUnavailableError, TimeoutError))
        is_throttled = self._slow_down(error)
        turn.failures += 1
        if not is_transient or reading.token is None or (turn.failures >= MAX_TRIES and not is_throttled):
            turn.reading = None
            if reading.token is not None:
                self._course.doubt_tokens()
        first = FIRST_PAUSE if is_transient else max(FIRST_PAUSE, self._find_pause())
        pause = min(first * 2.0 ** min(turn.failures - 1, MAX_TRIES), MAX_BACKOFF) * random.uniform(0.5, 1.0)
        # Single faults are AWS's everyday life.
        if turn.failures >= TOLD_FAILURES or not isinstance(error, PersonalizeUnavailableError):
            turn.is_told = True
            self._tell_fault(error, pause)
        return pause

    def _slow_down(self, error: Exception) -> bool:
        """Let more time pass between two calls if AWS throttles them; tell whether it does."""
        is_throttled = getattr(error, "code", None) in THROTTLED
        if is_throttled:
            self._pace = min(max(2 * self._pace, SHORTEST_PACE), LONGEST_PACE)
        return is_throttled

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

    # --- What a look costs ------------------------------------------------------------------------

    async def _read_page(self, reading: Reading) -> ListedPage:
        if len(reading.pages) >= MAX_PAGES:
            raise RuntimeError(f"AWS lists more than {MAX_PAGES} pages of {self._kind.title}s.")
        page = await self._call(partial(_read_page, kind=self._kind, token=reading.token), LISTING)
        for odd in page.odd_arns:
            self._warn_once("The listing has a job that no task can wait for, as its ARN is %s.", odd)
        return page

    async def _finish(self, reading: Reading) -> Look:
        """Ask about the unfinished jobs that were on no page, and return what is known of all."""
        jobs = {arn: job for arn, job in reading.jobs.items() if not job.is_half}
        # Describe tells of a job what the summary left out.
        unsure = [arn for arn in self._unfinished if arn not in jobs]
        unsure += [arn for arn in reading.jobs if arn not in jobs and arn not in self._unfinished]
        unasked = await self._describe(unsure, jobs, reading)
        waiting = [arn for arn, job in jobs.items() if job.state is JobState.WAITING]
        self._unfinished = dict.fromkeys(unasked + waiting)
        for status in {job.status for job in jobs.values() if isinstance(job.status, str)}:
            if not is_known_status(status):
                self._warn_once(
                    "The status %s is not documented. Watching on: only ACTIVE and failures are endings.",
                    show(status),
                )
        # Not before: what the course learns, the watchers must have seen.
        self._course.end(reading, time.time())
        return Look(jobs, reading.is_complete, reading.pages[-1].date)

    async def _describe(self, arns: list[str], jobs: dict[str, Job], reading: Reading) -> list[str]:
        """Ask about jobs one by one; add those that AWS told of, and return those to ask about again."""
        most = max(MAX_DESCRIBED, self._course.sweep_cost, len(reading.pages))
        if len(arns) > most and not reading.is_complete:
            self._course.want_sweep()
        left, failed = deque(arns), []
        for _ in range(min(most, len(arns))):
            arn = left.popleft()
            if arn in self._silent.values():
                self._course.want_sweep()
                failed.append(arn)
                continue
            if self._pace:
                await asyncio.sleep(self._pace)
            try:
                jobs[arn] = await self._call(partial(_read_job, kind=self._kind, arn=arn), arn)
            except (PersonalizeRequestError, PersonalizeUnavailableError, TimeoutError, ValueError) as error:
                if self._slow_down(error):
                    # The others would be throttled, too.
                    failed.append(arn)
                    break
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
        """Call AWS in a thread, at the pace that AWS allows; a call without an answer is left to itself."""
        if list(self._silent.values()).count(LISTING) >= MAX_SILENT_CALLS:
            # Not for ever: an answer that drips byte by byte ends on no day that anybody waits for.
            await asyncio.wait(self._silent, timeout=MAX_BACKOFF, return_when=asyncio.FIRST_COMPLETED)
        try:
            async with asyncio.timeout(CALL_LIMIT):
                await self._connection.acquire()
        except TimeoutError:
            raise TimeoutError(f"no call could be begun within {CALL_LIMIT:g} s") from None
        call = self._connection.call(ask)
        await asyncio.wait([call], timeout=CALL_LIMIT)
        if not call.done():
            self._silent[call] = about
            call.add_done_callback(self._silent.pop)
            raise TimeoutError(f"no answer within {CALL_LIMIT:g} s")
        answer = call.result()
        self._pace = self._pace * EASE if self._pace > SHORTEST_PACE / 10 else 0.0
        return answer

    def _warn_once(self, message: str, value: str) -> None:
        if value not in self._warned and len(self._warned) < MAX_WARNINGS:
            self._warned.add(value)
            log.warning(message + " (%s)", value, self._kind.list_operation)


def _read_page(hook: PersonalizeHook, kind: BatchJobKind, token: str | None) -> ListedPage:
    page = hook.list_jobs_page(kind, next_token=token)
    jobs = [Job.read(kind, each) for each in page.summaries if is_job_arn(each[kind.arn_member], kind)]
    odd_arns = {each[kind.arn_member] for each in page.summaries} - {job.arn for job in jobs}
    odd = tuple(show(arn) for arn in sorted(odd_arns))
    return ListedPage(token, jobs, page.next_token, odd, page.date)


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
