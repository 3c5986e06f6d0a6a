"""Looks at the listing on their way to one watcher."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.watching.listing import Look


class Subscription:
    """
    One watcher's interest in the listing. Its first look is complete.

    :param interval: the most seconds between two looks
    """

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.future: asyncio.Future[Look | BaseException | None] | None = None
        self._look: Look | None = None
        self._is_new = True

    def begin_anew(self) -> None:
        """Let the next look be complete."""
        self._is_new = True

    def give(self, look: Look) -> None:
        """
        Hand a look to the watcher, or keep it until the watcher asks; several become one.

        :param look: the look
        """
        if self._is_new and not look.is_complete:
            return
        self._is_new = False
        self._look = look if self._look is None else self._look.followed_by(look)
        if self.future is not None and not self.future.done():
            self.future.set_result(None)

    def take(self) -> Look | None:
        """Return what was kept; ``None`` when nothing was."""
        look, self._look = self._look, None
        return look
