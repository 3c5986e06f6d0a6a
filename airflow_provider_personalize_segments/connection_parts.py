"""The base of all that works on the triggerer's loop for many triggers, by way of a shared connection."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterable
from contextvars import Context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.connections import SharedConnection


class ConnectionPart(ABC):
    """
    A task of its own on the event loop that works for many waiters, by way of a shared connection.

    Its tasks run in a context of their own, as what they log is no single trigger's. When one fails by a
    mistake of ours, all waiting triggers get its error, and the next one gets a new part.

    :param connection: how it reaches AWS
    :param name: the task's name
    """

    def __init__(self, connection: SharedConnection, name: str) -> None:
        self._connection = connection
        self._loop = connection.loop
        self._wake = asyncio.Event()
        self._is_closed = False
        self._name = name
        self._tasks: set[asyncio.Task[None]] = set()
        self._start(self._run())

    @abstractmethod
    async def _run(self) -> None:
        """Work until the part is closed."""

    @abstractmethod
    def _waiting(self) -> Iterable[asyncio.Future[Any]]:
        """Return the futures of all waiting triggers."""

    @abstractmethod
    def _forget_all(self) -> None:
        """Forget all waiting triggers; the part is closed."""

    def close(self) -> None:
        """Give up its tasks and its place at the connection; the next to come gets a new part."""
        if self._is_closed:
            return
        self._is_closed = True
        if not self._loop.is_closed():
            for task in self._tasks:
                task.cancel()
        self._forget_all()
        self._connection.leave(self)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task whose error all waiting triggers get."""
        task = self._loop.create_task(work, name=self._name, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        futures = list(self._waiting())
        self.close()
        for future in futures:
            if not future.done():
                future.set_result(error)

    async def _sleep(self, seconds: float | None) -> None:
        """Wait until woken, or so long; ``None`` means until woken."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass
