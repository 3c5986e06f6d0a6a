"""Calls that a caller waits for a bounded time only, in threads that hold up no exit.

A socket's timeout does not bound a call: each byte of a slow answer starts it again, and the lookup of a name
has none. So callers wait for a bounded time, and then go on without the answer.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextvars import copy_context
from typing import Any, TypeVar

SHORTEST_LIMIT = 5.0
"""Seconds that a call about a job may take at least, however often it is made."""
LONGEST_LIMIT = 10.0
"""Seconds that it may take at most; AWS answers in a fraction of one."""
_INTERVALS = 1 / 6

Answer = TypeVar("Answer")


def find_limit(interval: float) -> float:
    """
    Return how many seconds a call may take: a sixth of the interval between two calls, 5 to 10 seconds.

    :param interval: seconds between two calls
    """
    return min(max(interval * _INTERVALS, SHORTEST_LIMIT), LONGEST_LIMIT)


class DaemonThreads(Executor):
    """
    A pool of threads that end with the process, even in a call; the standard pool's threads hold it up.

    :param max_threads: the most threads there are at a time
    :param name: begins the threads' names
    """

    def __init__(self, max_threads: int, name: str) -> None:
        self._max_threads = max_threads
        self._name = name
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._unfinished = 0
        self._is_closed = False

    def submit(self, function: Callable[..., Answer], /, *args: Any, **kwargs: Any) -> Future[Answer]:
        """
        Run a function in a thread.

        :param function: the function, with its arguments
        :raises RuntimeError: when there is no thread at all to be had, or the pool was shut down
        """
        future: Future[Answer] = Future()
        with self._lock:
            if self._is_closed:
                raise RuntimeError("These threads were given up.")
            self._unfinished += 1
            try:
                self._add_thread()
            except RuntimeError:
                self._unfinished -= 1
                raise
            self._work.put((future, lambda: function(*args, **kwargs)))
        return future

    def _add_thread(self) -> None:
        """Start a thread when there is work for one more, and it is allowed; without it, the others do."""
        if len(self._threads) < min(self._unfinished, self._max_threads):
            thread = threading.Thread(
                target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:
                if not self._threads:
                    raise
                return
            self._threads.append(thread)

    def change_size(self, difference: int) -> None:
        """
        Allow more threads or fewer; a thread that is too many ends after its next call.

        :param difference: how many more, or fewer if less than 0
        """
        with self._lock:
            self._max_threads += difference
            if not self._is_closed:
                self._add_thread()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """
        Let the threads end when their calls have.

        :param wait: whether to return only then
        :param cancel_futures: without effect; a pool is shut down when no caller waits for it any more
        """
        with self._lock:
            self._is_closed = True
            threads = list(self._threads)
            for _ in threads:
                self._work.put(None)
        if wait:
            for thread in threads:
                thread.join()

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            future, function = item
            if future.set_running_or_notify_cancel():
                try:
                    answer = function()
                except StopIteration as error:
                    # asyncio's futures take every error but this one, so its caller would wait for ever.
                    future.set_exception(RuntimeError(f"A call ended in {error!r}"))
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(answer)
                    del answer
            with self._lock:
                self._unfinished -= 1
                if len(self._threads) > self._max_threads:
                    self._threads.remove(threading.current_thread())
                    return
            del item, future, function  # an idle thread keeps nothing alive


class OneCall:
    """Makes one call at a time: while it goes on, the next caller waits for its answer, too."""

    def __init__(self) -> None:
        self._future: Future[Any] | None = None

    def within(self, seconds: float, function: Callable[[], Answer]) -> Answer:
        """
        Return what a function returns, or raise what it raises, unless that takes too long.

        :param seconds: how long to wait for it; a later call takes the answer when it is there by then
        :param function: makes the call, in a thread of its own, unless one goes on already
        :raises TimeoutError: when there is no answer in time
        """
        future = self._future or _start(function)
        self._future = None
        try:
            answer: Answer = future.result(timeout=max(0.0, seconds))
        finally:
            if not future.done():
                self._future = future
        return answer


def call_within(seconds: float, function: Callable[[], Answer]) -> Answer:
    """
    Return what a function returns, or raise what it raises, unless that takes too long.

    :param seconds: how long to wait for it; the function is left to itself after that
    :param function: makes the call, in a thread of its own
    :raises TimeoutError: when there is no answer in time
    """
    return _start(function).result(timeout=max(0.0, seconds))


def _start(function: Callable[[], Answer]) -> Future[Answer]:
    threads = DaemonThreads(1, "personalize-call")
    future: Future[Answer] = threads.submit(copy_context().run, function)
    threads.shutdown(wait=False)
    return future
