"""Who creates the next job in the triggerer when no more may run: those who wait take turns.

AWS lets five unfinished jobs of a kind run in a region, and announces nothing when one ends. Triggers that
wait for a slot share a :class:`SlotQueue`: one of them at a time asks AWS to create its job, the one that has
waited longest. So many cost as few calls as one, and none that waits here is overtaken by another.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from bisect import insort
from collections.abc import Iterable
from contextvars import copy_context
from datetime import datetime
from typing import TYPE_CHECKING

from airflow_provider_personalize_segments.connections import (
    ConnectionPart,
    ConnectionSettings,
    SharedConnection,
    shared_connection,
)
from airflow_provider_personalize_segments.creating.once import Attempt, JobCreation, find_delay

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.hooks import PersonalizeHook

MIN_DELAY = 7.0
"""
Seconds before a trigger's first attempt, unless its interval is shorter. Airflow 3.3 fails a task whose
trigger fires before the worker that deferred it is gone, which may take a heartbeat, 5 s by default.
"""
PATIENCE = 5.0
"""Seconds that those who wait give the call of the one whose turn it is, before the next one's is made."""
LAST_PATIENCE = 30.0
"""Seconds that a call may take which is under way when its trigger's time is over; it may create the job."""


class Ticket:
    """
    One trigger's place in the queue.

    :param creation: what it wants to create
    :param since: since when it waits
    :param number: decides between two that wait since the same moment
    :param interval: seconds between two attempts when AWS refuses
    :param due: when it may first be attempted, in the loop's time
    """

    __slots__ = (
        "attempts",
        "context",
        "creation",
        "due",
        "future",
        "interval",
        "is_attempted",
        "is_over",
        "order",
        "reason",
    )

    def __init__(
        self, creation: JobCreation, since: datetime, number: int, interval: float, due: float
    ) -> None:
        self.creation = creation
        # Airflow tells by it whose log a line belongs to, also in a thread.
        self.context = copy_context()
        self.order = (since, number)
        self.interval = interval
        self.due = due
        self.attempts = 0
        self.is_attempted = False
        self.is_over = False
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
        super().__init__(connection, "personalize-slots")

    def join(
        self, creation: JobCreation, since: datetime, interval: float, reason: str | None = None
    ) -> Ticket:
        """
        Take a place, before those who came later.

        :param creation: what to create; it was refused just now
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
        ticket = Ticket(creation, since, next(self._numbers), interval, now + min(interval, MIN_DELAY))
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
        """Attempt one creation after the other, those first who have waited longest."""
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
            # The others wait for the answer, unless it does not come: then they go on without it.
            await asyncio.wait([taking], timeout=PATIENCE)

    async def _take_answer(self, ticket: Ticket, call: asyncio.Task[Attempt]) -> None:
        """Judge what came of an attempt, whenever that is known."""
        await asyncio.wait([call])
        ticket.is_attempted = False
        self._judge(ticket, call.exception() or call.result())
        self._wake.set()

    def _next(self) -> tuple[Ticket | None, float]:
        """Return whose turn it is, and in how many seconds."""
        if not self._tickets:
            return None, 0.0
        now = self._loop.time()
        # First come, first served; a ticket that backs off after a fault, or whose call hangs, is passed by.
        tickets = [each for each in self._tickets if not each.is_attempted]
        if not tickets:
            return None, 0.0
        turn = next((each for each in tickets if not each.attempts or each.due <= now), None)
        turn = turn or min(tickets, key=lambda each: each.due)
        return turn, max(turn.due, self._full_until) - now

    def _judge(self, ticket: Ticket, answer: Attempt | BaseException) -> None:
        """Hand an end to the trigger; after a refusal wait, all of them or this one."""
        if isinstance(answer, Attempt) and answer.job_arn is None:
            self._slow_down(ticket, answer)
            if not ticket.is_over:
                return
        else:
            self._refusals = 0
            self._full_until = 0.0
        if ticket in self._tickets:
            self._tickets.remove(ticket)
        if not ticket.future.done():
            ticket.future.set_result(answer)

    def _slow_down(self, ticket: Ticket, answer: Attempt) -> None:
        now = self._loop.time()
        ticket.reason = answer.reason
        if answer.is_full:
            self._refusals += 1
            for each in self._tickets:
                each.reason = answer.reason  # which holds for all of them
            interval = min((each.interval for each in self._tickets), default=ticket.interval)
            self._full_until = now + find_delay(answer, self._refusals, interval)
        else:
            ticket.attempts += 1
            ticket.due = now + find_delay(answer, ticket.attempts, ticket.interval)


def shared_queue(settings: ConnectionSettings, name: str) -> SlotQueue:
    """
    Return the queue of the running event loop for these settings and a kind, made on first use.

    :param settings: the connection settings
    :param name: the kind's name
    """
    return shared_connection(settings).part((SlotQueue, name), SlotQueue)
