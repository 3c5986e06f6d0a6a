"""Looks on their way to a watcher, by Airflow 3.3's stream, which tells when it has stored an event."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from airflow_provider_personalize_segments.airflow_compat import find_shared_stream_producer
from airflow_provider_personalize_segments.watching.listing import Look


class Delivery:
    """
    A look on its way to a watcher.

    :param look: the look
    """

    def __init__(self, look: Look) -> None:
        self.look = look
        self.when_stored: Callable[[], Awaitable[None]] | None = None
        """Is called once Airflow has reported as stored what the watcher made of the look, be it no event."""


class Deliveries(find_shared_stream_producer()):  # type: ignore[misc]  # a class that only Airflow 3.3 has
    """
    Hands looks to Airflow's stream, and hears of those that are done with.

    Each watcher has a stream of its own: one that Airflow fails holds up no other. They share their calls all
    the same, in the lister.

    :param looks: the looks
    """

    def __init__(self, looks: AsyncIterator[Look]) -> None:
        self._looks = looks

    async def open_stream(self) -> AsyncIterator[tuple[Delivery, Delivery]]:
        """Yield each look twice: for the watcher, and for :meth:`advance`."""
        async for look in self._looks:
            delivery = Delivery(look)
            yield delivery, delivery

    async def advance(self, batch: Sequence[Any]) -> None:
        """
        Let the watcher keep its place.

        :param batch: what Airflow is done with, oldest first, each with how it went
        """
        for delivery, outcome in batch:
            if not outcome.is_clean:
                return  # the watcher begins anew at the place that it kept last
            if delivery.when_stored is not None:
                await delivery.when_stored()

    async def aclose(self) -> None:
        """Stop looking."""
        await self._looks.aclose()  # type: ignore[attr-defined]  # an async generator
