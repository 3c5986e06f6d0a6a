"""Telling of status changes, once no store is being worked on."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

StatusChange = Callable[[dict[str, Any], str | None, str, datetime], object]
"""Called with the job, its old status, its new one, and when it changed."""


class ChangeFeed:
    """
    Changes noted while the stores are locked, and told afterwards.

    A callback may therefore call Personalize itself, from whichever thread. One thread tells at a time, so
    that changes are told in order; a second one leaves what it noted to the first.
    """

    def __init__(self) -> None:
        self.callbacks: list[StatusChange] = []
        self._changes: deque[tuple[dict[str, Any], str | None, str, datetime]] = deque()
        self._telling = threading.Lock()

    def note(self, job: dict[str, Any], old: str | None, new: str, when: float) -> None:
        """
        Keep a change until it can be told.

        :param job: the job as Describe shows it
        :param old: its status before; ``None`` when it was created
        :param new: its status now
        :param when: when it changed, in seconds since the epoch
        """
        if self.callbacks:
            self._changes.append((job, old, new, datetime.fromtimestamp(when, UTC)))

    def tell(self) -> None:
        """Tell every callback of every change noted, unless another thread is at it."""
        # Again after the lock is given back: what came just before that was left to this thread.
        while self._changes and self._telling.acquire(blocking=False):
            try:
                while self._changes:
                    change = self._changes.popleft()
                    for callback in list(self.callbacks):
                        callback(*change)
            finally:
                self._telling.release()
