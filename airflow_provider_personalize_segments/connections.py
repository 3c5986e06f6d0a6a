"""How the triggerer reaches AWS: one client and one small pool of threads for all who share their settings.

Calls are made in threads, on plain boto3, so that the event loop never waits for a socket, a connection or a
client. Whoever has something to ask is a part of the :class:`SharedConnection` of its settings; the last part
to leave takes client and threads with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.hooks import PersonalizeHook

MAX_CONCURRENT_CALLS = 8
"""Per connection settings and region; below the ten connections that botocore's pool keeps open."""

Answer = TypeVar("Answer")
Part = TypeVar("Part", bound="Closable")


class Closable(Protocol):
    """What uses a shared connection on the event loop."""

    def close(self) -> None:
        """Stop using it."""


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
        """Return a hook that repeats nothing by itself; blocks, as it reads the connection."""
        from airflow_provider_personalize_segments.hooks import PersonalizeHook

        config = json.loads(self.botocore_config) if self.botocore_config else None
        return PersonalizeHook(self.aws_conn_id, self.region_name, self.verify, config).without_retries()


class SharedConnection:
    """
    The client and the threads that all of an event loop share who have the same settings.

    Get it from :func:`shared_connection`. Everything but the calls runs on the event loop.

    :param settings: the connection settings
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self.settings = settings
        self.loop = asyncio.get_running_loop()
        self._parts: dict[Hashable, Closable] = {}
        self._free = asyncio.Semaphore(MAX_CONCURRENT_CALLS)
        self._hook: PersonalizeHook | None = None
        self._hook_lock = threading.Lock()
        self._threads = ThreadPoolExecutor(MAX_CONCURRENT_CALLS, thread_name_prefix="personalize-caller")

    def part(self, key: Hashable, make: Callable[[SharedConnection], Part]) -> Part:
        """
        Return the part of that name, made on first use.

        :param key: what tells it from other parts
        :param make: makes it
        """
        if key not in self._parts:
            self._parts[key] = make(self)
        return self._parts[key]  # type: ignore[return-value]  # what was made under this key

    def leave(self, key: Hashable) -> None:
        """
        Forget a part; the last one closes the connection.

        :param key: what tells it from other parts
        """
        self._parts.pop(key, None)
        if not self._parts:
            self._close()

    def close(self) -> None:
        """Close all parts, and with the last the connection."""
        for part in list(self._parts.values()):
            part.close()

    async def acquire(self) -> None:
        """Wait until a thread is free; whoever waited must go on to :meth:`call` or :meth:`release`."""
        await self._free.acquire()

    def release(self) -> None:
        """Give the thread back without a call."""
        self._free.release()

    def call(self, ask: Callable[[PersonalizeHook], Answer]) -> asyncio.Future[Answer]:
        """
        Call AWS in the thread that was acquired, which is given back when the answer is there.

        :param ask: makes the call
        """
        call: asyncio.Future[Answer]
        try:
            call = self.loop.run_in_executor(self._threads, self._call, ask)
        except RuntimeError as error:
            # No thread is to be had, or the interpreter shuts down: an answer like any other error.
            call = self.loop.create_future()
            call.set_exception(error)
        call.add_done_callback(lambda _: self._free.release())
        return call

    def _call(self, ask: Callable[[PersonalizeHook], Answer]) -> Answer:
        """Runs in a thread."""
        with self._hook_lock:
            if self._hook is None:
                self._hook = self.settings.make_hook()
        return ask(self._hook)

    def _close(self) -> None:
        """Give up threads and client; whoever comes later gets a new connection."""
        _forget(self)
        self._threads.shutdown(wait=False)
        # In a thread, as closing sockets is input and output, too.
        closing = threading.Thread(target=self._close_hook, name="personalize-caller-closing", daemon=True)
        with contextlib.suppress(RuntimeError):  # raised while the interpreter shuts down
            closing.start()

    def _close_hook(self) -> None:
        self._threads.shutdown(wait=True)  # calls in flight still use the client
        with self._hook_lock:
            if self._hook is not None:
                self._hook.close()


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
