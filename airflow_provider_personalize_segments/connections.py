"""How the triggerer reaches AWS: one client and a few threads for all triggers of the same settings.

Calls are made in threads, on plain boto3, so that the event loop never waits for a socket, a connection or a
client. The threads do nothing but AWS: the Airflow connection is read before, in the way that every Airflow
allows on its triggerer's loop.

Each :class:`~.connection_parts.ConnectionPart` uses the :class:`SharedConnection` of its settings; the last
part to leave takes client and threads with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Hashable
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from airflow_provider_personalize_segments.airflow_compat import run_beside_loop
from airflow_provider_personalize_segments.bounded_calls import DaemonThreads
from airflow_provider_personalize_segments.errors import PersonalizeError, PersonalizeRequestError
from airflow_provider_personalize_segments.lacks import is_lack, make_lack

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.connection_settings import ConnectionSettings
    from airflow_provider_personalize_segments.hooks import PersonalizeHook

MAX_CONCURRENT_CALLS = 8
"""Per connection settings and region while AWS answers; botocore keeps ten connections open."""
SLOW_CALL = 2.0
"""Seconds after which a call that has no answer makes room for the next."""
MAX_SLOW_CALLS = 56
"""How many calls without an answer may make room for others at a time."""
GIVEN_UP_CALL = 30.0
"""
Seconds after which a call without an answer is given up: it keeps its thread, and no other call waits for it.
A job has one such call at the most, as it is not asked about again before that has ended.
"""
MAX_GIVEN_UP_CALLS = 1_000
"""How many of them there may be, each with a thread that sleeps."""
MAX_SUSPECT_CALLS = 2
"""How many calls may be under way about jobs whose last call had no answer."""

Answer = TypeVar("Answer")


class ClosablePart(Protocol):
    """A part that uses a connection, as the connection knows it."""

    def close(self) -> None:
        """Give up the part's work, and leave the connection."""


Part = TypeVar("Part", bound=ClosablePart)


class SharedConnection:
    """
    The client and the threads that all triggers of an event loop with the same settings share.

    Get it from :func:`shared_connection`. Everything but the calls runs on the event loop.

    :param settings: the connection settings
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self.settings = settings
        self.loop = asyncio.get_running_loop()
        self._parts: dict[Hashable, ClosablePart] = {}
        self._free = asyncio.Semaphore(MAX_CONCURRENT_CALLS)
        self._suspects = asyncio.Semaphore(MAX_SUSPECT_CALLS)
        self._slow_calls = 0
        self._given_up_calls = 0
        self._reading: asyncio.Task[PersonalizeHook] | None = None
        self._threads = DaemonThreads(
            MAX_CONCURRENT_CALLS + MAX_SLOW_CALLS + MAX_SUSPECT_CALLS, "personalize-caller"
        )

    def part(self, key: Hashable, make: Callable[[SharedConnection], Part]) -> Part:
        """
        Return the part of that name, made on first use.

        :param key: what tells it from other parts
        :param make: makes it
        """
        if key not in self._parts:
            self._parts[key] = make(self)
        return self._parts[key]  # type: ignore[return-value]  # what was made under this key

    def leave(self, part: ClosablePart) -> None:
        """
        Forget a part; the last one closes the connection.

        :param part: the part
        """
        for key in [key for key, each in self._parts.items() if each is part]:
            del self._parts[key]
        if not self._parts:
            self._close()

    def close(self) -> None:
        """Close all parts, and with the last the connection."""
        for part in list(self._parts.values()):
            part.close()

    async def acquire(self) -> None:
        """Wait until a call may begin; :meth:`call` or :meth:`release` must follow."""
        await self._free.acquire()

    def release(self) -> None:
        """Give the right to call back without a call."""
        self._free.release()

    def call(self, ask: Callable[[PersonalizeHook], Answer]) -> asyncio.Task[Answer]:
        """
        Call AWS in a thread, after :meth:`acquire`, and give that right back.

        A call that has no answer after a while makes room for others, so that calls that hang hold up none.

        :param ask: makes the call
        :returns: a task with its answer, or with the error of the call or of reading the Airflow connection
        """
        call = self.loop.create_task(self._call(ask), context=Context())
        place = contextlib.ExitStack()
        place.callback(self._free.release)

        def make_room() -> None:
            if self._slow_calls < MAX_SLOW_CALLS:
                place.close()
                self._slow_calls += 1
                place.callback(self._end_slow_call)

        timer = self.loop.call_later(SLOW_CALL, make_room)
        self._give_up_late(call, place)

        def end(call: asyncio.Task[Answer]) -> None:
            timer.cancel()
            place.close()
            _retrieve(call)

        call.add_done_callback(end)
        return call

    def _end_slow_call(self) -> None:
        self._slow_calls -= 1

    def _give_up_late(self, call: asyncio.Task[Any], place: contextlib.ExitStack) -> None:
        """Let another call have the place of one that does not end, and a thread of its own."""

        def add_thread() -> None:
            if self._given_up_calls < MAX_GIVEN_UP_CALLS:
                self._given_up_calls += 1
                self._threads.change_size(1)
                call.add_done_callback(take_thread)
                place.close()

        def take_thread(_: asyncio.Task[Any]) -> None:
            self._given_up_calls -= 1
            self._threads.change_size(-1)

        timer = self.loop.call_later(GIVEN_UP_CALL, add_thread)
        call.add_done_callback(lambda _: timer.cancel())

    def call_suspect(
        self, ask: Callable[[PersonalizeHook], Answer], begun: Callable[[], object]
    ) -> asyncio.Task[Answer]:
        """
        Call AWS about a job whose last call had no answer, two such calls at a time.

        :param ask: makes the call
        :param begun: is called when it is the call's turn, and once more when it has ended
        :returns: a task as :meth:`call` returns it
        """

        async def call_in_turn() -> Answer:
            await self._suspects.acquire()
            with contextlib.ExitStack() as place:
                place.callback(self._suspects.release)
                begun()
                self._give_up_late(call, place)
                return await self._call(ask)

        call = self.loop.create_task(call_in_turn(), context=Context())
        call.add_done_callback(lambda _: begun())
        call.add_done_callback(_retrieve)
        return call

    async def _call(self, ask: Callable[[PersonalizeHook], Answer]) -> Answer:
        try:
            return await self._call_in_thread(ask)
        except Exception as error:
            # By what is loaded already: without file descriptors no module can be.
            if isinstance(error, PersonalizeError) or not is_lack(error):
                raise
            about = ("Calling AWS", "the triggerer", self.settings.region_name, self.settings.aws_conn_id)
            raise make_lack(error, *about) from error

    async def _call_in_thread(self, ask: Callable[[PersonalizeHook], Answer]) -> Answer:
        reading = self._read_hook()
        hook = await asyncio.shield(reading)
        try:
            return await self.loop.run_in_executor(self._threads, ask, hook)
        except PersonalizeRequestError as error:
            # The hook is loaded by now.
            from airflow_provider_personalize_segments.aws_errors import are_credentials_refused

            if not are_credentials_refused(error):
                raise
        # The connection may hold newer credentials; all calls that were refused share one look at it.
        if self._reading is reading:
            self._forget_hook()
        hook = await asyncio.shield(self._read_hook())
        return await self.loop.run_in_executor(self._threads, ask, hook)

    def _read_hook(self) -> asyncio.Task[PersonalizeHook]:
        """Return the task that reads the connection, or has read it; never cancelled, many wait for it."""
        reading = self._reading
        if reading is not None and reading.done() and (reading.cancelled() or reading.exception()):
            reading = None
        if reading is None:
            # Not in the context of one trigger, as all share it.
            reading = self.loop.create_task(
                run_beside_loop(self.settings.make_hook, self._threads),
                name="personalize-connection",
                context=Context(),
            )
        self._reading = reading
        return reading

    def _forget_hook(self, before: Callable[[], object] = lambda: None) -> None:
        """Close the client in a thread, as closing sockets is input and output."""
        reading, self._reading = self._reading, None
        if reading is None or not reading.done() or reading.cancelled() or reading.exception():
            return
        hook = reading.result()

        def close() -> None:
            before()
            hook.close()

        closing = threading.Thread(target=close, name="personalize-caller-closing", daemon=True)
        with contextlib.suppress(RuntimeError):  # raised while the interpreter shuts down
            closing.start()

    def _close(self) -> None:
        """Give up threads and client; the next to come gets a new connection."""
        _forget(self)
        self._threads.shutdown(wait=False)
        self._forget_hook(before=self._threads.shutdown)  # calls under way still use the client


def _retrieve(call: asyncio.Task[Any]) -> None:
    """Keep asyncio from warning about an error after the last trigger has left."""
    if not call.cancelled():
        call.exception()


_connections: dict[asyncio.AbstractEventLoop, dict[ConnectionSettings, SharedConnection]] = {}
_connections_lock = threading.Lock()


def shared_connection(settings: ConnectionSettings) -> SharedConnection:
    """
    Return the running event loop's connection for these settings, made on first use.

    :param settings: the connection settings
    """
    loop = asyncio.get_running_loop()
    with _connections_lock:
        abandoned = [
            each for closed in _connections if closed.is_closed() for each in _connections[closed].values()
        ]
    for connection in abandoned:
        # Its loop was closed before its triggers could leave.
        connection.close()
    with _connections_lock:
        connections = _connections.setdefault(loop, {})
        if settings not in connections:
            connections[settings] = SharedConnection(settings)
        return connections[settings]


def _forget(connection: SharedConnection) -> None:
    with _connections_lock:
        connections = _connections.get(connection.loop, {})
        if connections.get(connection.settings) is connection:
            del connections[connection.settings]
        if not connections:
            _connections.pop(connection.loop, None)
