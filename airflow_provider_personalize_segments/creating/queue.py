"""Creating jobs in the triggerer when no more may run: the tasks that wait take turns.

AWS lets five unfinished jobs of a kind run in a region, and sends no notification when one ends. Triggers
that wait for a slot share a :class:`SlotQueue`: one of them at a time asks AWS to create its job, the longest
wait first. So many cost about as few calls as one. A task whose own call hangs, fails, or is refused while
others succeed, is passed by.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from bisect import insort
from collections.abc import Iterable
from contextvars import copy_context
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_provider_personalize_segments.connection_parts import ConnectionPart
from airflow_provider_personalize_segments.connections import SharedConnection, shared_connection
from airflow_provider_personalize_segments.creating.once import Attempt, Creation
from airflow_provider_personalize_segments.creating.pauses import find_delay
from airflow_provider_personalize_segments.errors import PersonalizeUnavailableError

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.connection_settings import ConnectionSettings
    from airflow_provider_personalize_segments.hooks import PersonalizeHook

PATIENCE = 5.0
"""Seconds that the queue waits for the answer to one attempt before it makes the next."""
REFUSALS_IN_ORDER = 3
"""How often AWS refuses the first in the queue before the second attempts beside it."""
LAST_PATIENCE = 30.0
"""Seconds that a call may take which is under way when its trigger's time is over; it may create the job."""


class Ticket:
    """
    One trigger's place in the queue.

    :param creation: creates its job
    :param since: since when its task waits
    :param number: decides between two that wait since the same moment
    :param interval: seconds between two attempts when AWS refuses
    """

    __slots__ = (
        "context",
        "creation",
        "due",
        "faults",
        "future",
        "interval",
        "is_attempted",
        "is_over",
        "is_passed_by",
        "is_taken",
        "order",
        "reason",
        "refusals",
    )

    def __init__(self, creation: Creation, since: datetime, number: int, interval: float) -> None:
        self.creation = creation
        # Airflow tells by it whose log a line belongs to, also in a thread.
        self.context = copy_context()
        self.order = (since, number)
        self.interval = interval
        self.due = 0.0
        self.faults = 0
        self.refusals = 0
        self.is_attempted = False
        self.is_over = False
        self.is_passed_by = False
        self.is_taken = False
        self.reason: str | None = None
        self.future: asyncio.Future[Attempt | BaseException] = asyncio.get_running_loop().create_future()

    def attempt(self, hook: PersonalizeHook) -> Attempt:
        """Attempt the creation; runs in a thread."""
        return self.context.run(self.creation.attempt, hook)

    def __lt__(self, other: Ticket) -> bool:
        return self.order < other.order


class SlotQueue(ConnectionPart):
    """
    Creates jobs of one kind for all triggers of one event loop that have the same connection settings.

    Get it from :func:`shared_queue`. Everything but the calls runs on the event loop.

    :param connection: how it reaches AWS
    """

    def __init__(self, connection: SharedConnection) -> None:
        self._tickets: list[Ticket] = []
        self._numbers = itertools.count()
        self._refusals = 0
        self._full_until = 0.0
        self._refused: Ticket | None = None
        """The first in the queue, when AWS refused it often."""
        self._beside: Ticket | None = None
        """The ticket that attempts beside it."""
        super().__init__(connection, "personalize-slots")

    def join(self, creation: Creation, since: datetime, interval: float, reason: str | None = None) -> Ticket:
        """
        Take a place, before all tasks that began to wait later.

        :param creation: creates the job; AWS refused it just now
        :param since: since when the task waits
        :param interval: seconds between two attempts when AWS refuses
        :param reason: why it was refused
        """
        now = self._loop.time()
        soon = now + interval * random.uniform(0.5, 1.0)
        if not self._tickets:
            self._full_until = soon
        elif interval < min(each.interval for each in self._tickets):
            self._full_until = min(self._full_until, soon)
        ticket = Ticket(creation, since, next(self._numbers), interval)
        ticket.reason = reason
        insort(self._tickets, ticket)
        self._wake.set()
        return ticket

    async def last_answer(self, ticket: Ticket) -> Attempt | BaseException | None:
        """
        Return what came of it, or comes of the attempt that is being made just now; ``None`` for no job.

        :param ticket: the place, which gets no further attempt
        """
        if not ticket.is_attempted and not ticket.future.done():
            return None
        ticket.is_over = True
        await asyncio.wait([ticket.future], timeout=LAST_PATIENCE)
        if not ticket.future.done():
            return None
        answer = ticket.future.result()
        return None if isinstance(answer, Attempt) and answer.job_arn is None else answer

    def leave(self, ticket: Ticket) -> None:
        """
        Give a place up; the last one to leave closes the queue.

        :param ticket: the place
        """
        if ticket in self._tickets:
            self._tickets.remove(ticket)
            self._wake.set()
        if not self._tickets:
            self.close()

    def _waiting(self) -> Iterable[asyncio.Future[Attempt | BaseException]]:
        return [each.future for each in self._tickets]

    def _forget_all(self) -> None:
        self._tickets.clear()

    async def _run(self) -> None:
        """Attempt one creation after the other, the longest wait first."""
        while True:
            self._wake.clear()
            ticket, delay = self._next()
            if ticket is None or delay > 0:
                await self._sleep(None if ticket is None else delay)
                continue
            await self._connection.acquire()
            if ticket not in self._tickets:
                self._connection.release()
                continue
            ticket.is_attempted = True
            taking = self._start(self._take_answer(ticket, self._connection.call(ticket.attempt)))
            await asyncio.wait([taking], timeout=PATIENCE)
            if not taking.done() and ticket in self._tickets:
                # A call that hangs goes behind the others, which would wait for it again.
                self._tickets.remove(ticket)
                ticket.order = (datetime.now(UTC), next(self._numbers))
                insort(self._tickets, ticket)

    async def _take_answer(self, ticket: Ticket, call: asyncio.Task[Attempt]) -> None:
        """Judge the answer to an attempt, whenever it comes."""
        await asyncio.wait([call])
        ticket.is_attempted = False
        answer = call.exception() or call.result()
        if isinstance(answer, PersonalizeUnavailableError):
            answer = Attempt(reason=str(answer))
        if isinstance(answer, Attempt) and answer.job_arn is None:
            self._slow_down(ticket, answer)
            if ticket.is_over:
                self._hand_out(ticket, answer)
        else:
            self._pass_by(ticket, answer)
            self._hand_out(ticket, answer)
        self._wake.set()

    def _next(self) -> tuple[Ticket | None, float]:
        """Return the ticket whose turn it is, and in how many seconds."""
        now = self._loop.time()
        tickets = [each for each in self._tickets if not each.is_attempted]
        if not tickets:
            return None, 0.0
        if self._beside is not None and self._beside in tickets:
            return self._beside, 0.0
        # First come, first served; a ticket that backs off after a fault is passed by.
        turn = next((each for each in tickets if each.due <= now), None)
        turn = turn or min(tickets, key=lambda each: each.due)
        return turn, max(turn.due, self._full_until) - now

    def _hand_out(self, ticket: Ticket, answer: Attempt | BaseException) -> None:
        if ticket in self._tickets:
            self._tickets.remove(ticket)
        if isinstance(answer, Attempt) and answer.job:
            answer = answer._replace(may_be_own=not ticket.is_taken)
        elif isinstance(answer, Attempt) and answer.job_arn:
            for each in self._tickets:
                each.is_taken = each.is_taken or each.creation.plan.job_arn == answer.job_arn
        if not ticket.future.done():
            ticket.future.set_result(answer)

    def _pass_by(self, ticket: Ticket, answer: Attempt | BaseException) -> None:
        """After a success, let the next attempt at once; one refused just before has a fault of its own."""
        is_created = isinstance(answer, Attempt) and answer.job is None
        if self._refused is not None and self._beside is ticket and is_created:
            self._refused.is_passed_by = True
            self._back_off(self._refused)
        self._beside = self._refused = None
        self._refusals = 0
        self._full_until = 0.0

    def _slow_down(self, ticket: Ticket, answer: Attempt) -> None:
        """After an attempt in vain, wait: all of them when AWS wants fewer, one alone after a fault."""
        ticket.reason = answer.reason
        is_beside, self._beside = ticket is self._beside, None
        if not (answer.is_full or answer.is_throttled):
            self._back_off(ticket)
            return
        ticket.refusals += 1
        if ticket.is_passed_by and not all(each.is_passed_by for each in self._tickets):
            self._back_off(ticket)
            return
        ticket.faults = 0
        for each in self._tickets:
            each.reason = answer.reason  # which holds for all of them
        if is_beside:
            return
        self._refusals += 1
        interval = min((each.interval for each in self._tickets), default=ticket.interval)
        self._full_until = self._loop.time() + find_delay(self._refusals, interval, is_full=True)
        # AWS may refuse this one for a reason of its own, which the second would not meet.
        if ticket.refusals >= REFUSALS_IN_ORDER:
            others = (each for each in self._tickets if each is not ticket and not each.is_attempted)
            self._refused, self._beside = ticket, next(others, None)

    def _back_off(self, ticket: Ticket) -> None:
        ticket.faults += 1
        ticket.due = self._loop.time() + find_delay(ticket.faults, ticket.interval, is_full=False)


def shared_queue(settings: ConnectionSettings, name: str) -> SlotQueue:
    """
    Return the queue of the running event loop for these settings and a kind, made on first use.

    :param settings: the connection settings
    :param name: the kind's name
    """
    return shared_connection(settings).part((SlotQueue, name), SlotQueue)
