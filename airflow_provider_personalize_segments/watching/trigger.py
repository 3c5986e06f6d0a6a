"""The trigger of an asset's watcher: one event for each look that finds jobs that ended."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator, Hashable
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import TriggerEvent

from airflow_provider_personalize_segments.airflow_compat import (
    find_asset_stores,
    find_event_trigger,
    has_asset_watchers,
    read_asset_state,
    write_asset_state,
)
from airflow_provider_personalize_segments.arns import parse_solution_version_arn, resolve_region
from airflow_provider_personalize_segments.base_trigger import StoredTrigger
from airflow_provider_personalize_segments.errors import InvalidWatcherError
from airflow_provider_personalize_segments.jobs import BatchJobKind, JobState
from airflow_provider_personalize_segments.parameters import (
    read_choice,
    read_config,
    read_connection_id,
    read_seconds,
    read_text,
    read_verify,
)
from airflow_provider_personalize_segments.plain_json import make_json_safe
from airflow_provider_personalize_segments.watching.lister import watch
from airflow_provider_personalize_segments.watching.listing import Job, Look
from airflow_provider_personalize_segments.watching.place import (
    Place,
    Settling,
    SignOfLife,
    Step,
    join_places,
)

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.watching.deliveries import Delivery

ENDINGS = {
    "active": (JobState.ACTIVE,),
    "failed": (JobState.FAILED,),
    "all": (JobState.ACTIVE, JobState.FAILED),
}
SHORTEST_INTERVAL = 0.1
"""Seconds between two looks, whatever ``poll_interval`` says."""
SETTLING = 10.0
"""Seconds that a watcher must outlive a stored event. Airflow ends a removed watcher within about two."""
ALIVE_KEY = "personalize-watchers-alive"
"""Where an asset's state store has the last sign of life that any of the asset's watchers gave."""
HEARTBEAT = 600.0
"""Seconds after which a watcher says again that it is alive."""
ABANDONED = 3600.0
"""
Seconds, unless ``look_back`` is longer: a place counts no more when its watcher was not there for so long
while the asset had another watcher.
"""
MANY_JOBS = 1_000
"""Jobs in a look that are judged in a thread."""

log = logging.getLogger(__name__)


class PersonalizeBatchJobEventTrigger(StoredTrigger, find_event_trigger()):  # type: ignore[misc]  # by version
    """
    Fire an event when batch jobs have ended, for an ``AssetWatcher``: DAGs scheduled on its asset then run.

    ::

        segments = Asset(
            "user_segments",
            watchers=[AssetWatcher(name="jobs", trigger=PersonalizeBatchJobEventTrigger(kind="segment"))],
        )

    The event's payload is a list of the jobs that ended since the last event, plain JSON under the API's own
    names: ``batchSegmentJobArn`` or ``batchInferenceJobArn``, ``jobName``, ``status``,
    ``solutionVersionArn``, ``creationDateTime``, ``lastUpdatedDateTime`` and, of a failed job,
    ``failureReason``. Each job arrives at least once. After a restart of the triggerer one may arrive again:
    tell it by its ARN.

    From Airflow 3.3 on the watcher keeps its place in the asset's state store, and moves it when Airflow has
    stored the event, and 10 seconds are over. Before, at its very first start, and when its connection leads
    to another account or region, it begins with the jobs that ended within ``look_back``. It needs Airflow
    3.0 or later.

    Watchers with the same connection settings and kind share their calls. The trigger never ends, and a fault
    does not end it.

    :param kind: ``BatchJobKind.SEGMENT`` or ``BatchJobKind.INFERENCE``, or its name, ``"segment"`` or
        ``"inference"``
    :param solution_version_arn: only jobs of this solution version; ``None`` (the default) means all jobs of
        the account in the region
    :param poll_interval: seconds between two looks, 60 by default
    :param endings: which jobs to tell of: ``"active"`` (the default), ``"failed"``, or ``"all"``, which is
        both
    :param look_back: seconds, 3,600 by default; see above
    :param aws_conn_id: the Airflow connection, ``aws_default`` unless given; ``None`` means the credentials
        that boto3 finds by itself
    :param region_name: the AWS region; ``None`` (the default) means the region in ``solution_version_arn``,
        then the connection's, then boto3's
    :param verify: whether to verify TLS certificates, or the path of a CA bundle; ``None`` (the default)
        means the connection's setting
    :param botocore_config: arguments of ``botocore.config.Config`` in a dict; ``None`` (the default) means
        the connection's ``config_kwargs``
    :raises InvalidWatcherError: when a parameter cannot be right, or Airflow is older than 3.0

    .. seealso:: https://airflow.apache.org/docs/apache-airflow/stable/authoring-and-scheduling/event-scheduling.html
    """

    def __init__(
        self,
        kind: BatchJobKind | str,
        solution_version_arn: str | None = None,
        poll_interval: float = 60.0,
        endings: str = "active",
        look_back: float = 3600.0,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        verify: bool | str | None = None,
        botocore_config: dict[str, Any] | str | None = None,
    ) -> None:
        if not has_asset_watchers():
            raise InvalidWatcherError(
                "PersonalizeBatchJobEventTrigger needs asset watchers, which Airflow has from 3.0 on. On "
                "Airflow 2, let a sensor wait for the job instead."
            )
        try:
            kind = kind if isinstance(kind, BatchJobKind) else BatchJobKind.named(kind)
            region = solution_version_arn and parse_solution_version_arn(solution_version_arn)
            resolve_region(read_text(region_name, "region_name"), region or None)
            read_choice(endings, tuple(ENDINGS), "endings")
            seconds = {
                name: read_seconds(value, name) or _refuse(name)
                for name, value in (("poll_interval", poll_interval), ("look_back", look_back))
            }
            read_connection_id(aws_conn_id, "aws_conn_id")
            read_verify(verify, "verify")
            config = read_config(
                json.loads(botocore_config) if isinstance(botocore_config, str) else botocore_config,
                "botocore_config",
            )
        except ValueError as error:
            raise InvalidWatcherError(f"PersonalizeBatchJobEventTrigger: {error}") from None
        super().__init__(aws_conn_id, region_name, verify, config)
        self.kind = kind.name
        self.solution_version_arn = solution_version_arn
        self.poll_interval = seconds["poll_interval"]
        self.endings = endings
        self.look_back = seconds["look_back"]
        self._start = time.time()
        self._place: Place | None = None
        self._others: list[Place] = []
        """The places that its other assets have, until a look joins them."""
        self._rest: dict[str, Job] = {}
        self._kept: Place | None = None
        self._settling = Settling(SETTLING)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the parameters from which Airflow makes this trigger anew."""
        path, parameters = super().serialize()
        if self.botocore_config:
            # Airflow compares a watcher in a DAG file with the one in its database by a hash of these
            # parameters, and a dict comes back from there in another form.
            parameters["botocore_config"] = json.dumps(self.botocore_config, sort_keys=True)
        return path, parameters

    # --- How Airflow runs it ----------------------------------------------------------------------

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield an event whenever jobs have ended; Airflow calls this where it keeps no place."""
        self._place = self._first_place()
        async for look in self._looks():
            events, _ = await self._take(look)
            for event in events:
                yield event

    def shared_stream_key(self) -> Hashable | None:
        """Return what tells this watcher from others; Airflow 3.3 then says when it has stored an event."""
        if getattr(self, "asset_state_store", None) is None:
            return None
        return json.dumps(self.serialize(), sort_keys=True)

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> Any:
        """
        Return what hands looks to this watcher.

        :param kwargs: the watcher's parameters
        """
        # Not at the top: only a triggerer needs it.
        from airflow_provider_personalize_segments.watching.deliveries import Deliveries

        return Deliveries(cls(**kwargs)._looks())

    async def filter_shared_stream(
        self, shared_stream: AsyncIterator[Delivery]
    ) -> AsyncIterator[TriggerEvent]:
        """
        Yield an event whenever jobs have ended; Airflow 3.3 calls this in place of :meth:`run`.

        :param shared_stream: the looks
        """
        missed: Look | None = None
        await self._find_place()
        heartbeat = asyncio.create_task(self._stay_alive())
        try:
            async for delivery in shared_stream:
                look = missed.followed_by(delivery.look) if missed else delivery.look
                if self._place is None and not await self._find_place():
                    missed = look
                    continue
                missed = None
                events, place = await self._take(look)
                delivery.when_stored = partial(self._settle, place)
                for event in events:
                    yield event
        finally:
            heartbeat.cancel()

    # --- What it does -----------------------------------------------------------------------------

    def _looks(self) -> AsyncIterator[Look]:
        region = self.solution_version_arn and parse_solution_version_arn(self.solution_version_arn)
        interval = max(self.poll_interval, SHORTEST_INTERVAL)
        return watch(self._settings(region or None), BatchJobKind.named(self.kind), interval)

    def _first_place(self) -> Place:
        return Place(self._start - self.look_back)

    async def _take(self, look: Look) -> tuple[list[TriggerEvent], Place]:
        """Move on to a look; return the event to yield, if there is one, and the place after it."""
        places = [self._place or self._first_place(), *self._others]
        look = look._replace(jobs={**self._rest, **look.jobs})
        now = time.time()

        def judge(place: Place) -> Step:
            return place.after(look, ENDINGS[self.endings], self.solution_version_arn, now, self.look_back)

        def find() -> Step:
            return judge(join_places(places, judge) if self._others else places[0])

        # A long history takes longer than a trigger may hold the event loop.
        step = find() if len(look.jobs) <= MANY_JOBS else await asyncio.to_thread(find)
        self._place, self._others, self._rest = step.place, [], step.rest
        owners = frozenset[str]().union(*(place.owners for place in places))
        if owners and owners.isdisjoint(step.place.owners):
            log.warning(
                "The connection %r leads to %s now, and led to %s before. The watcher begins anew, with the "
                "jobs that ended in the last %g s.",
                self.aws_conn_id,
                ", ".join(sorted(step.place.owners)),
                ", ".join(sorted(owners)),
                self.look_back,
            )
        kind = BatchJobKind.named(self.kind)
        payload = [job.dump(kind) for job in step.ended]
        events = [TriggerEvent(payload)] if payload else []  # type: ignore[no-untyped-call]  # not annotated
        return events, step.place

    # --- Its place, which Airflow 3.3 keeps -------------------------------------------------------

    @property
    def _key(self) -> str:
        """Where the asset's state store keeps the place; how often the watcher looks is no part of it."""
        watched = (self.kind, self.solution_version_arn, self.endings, self.aws_conn_id, self.region_name)
        digest = hashlib.sha256(json.dumps(watched).encode()).hexdigest()[:12]
        return f"personalize-{self.kind}-jobs-{digest}"

    async def _find_place(self) -> bool:
        """Read where the watcher was; tell whether that is known now."""
        keys = (self._key, self._own_alive_key, ALIVE_KEY)
        try:
            stores = self._stores
            stored = [[await read_asset_state(each, key) for key in keys] for each in stores]
        except Exception as error:
            log.warning("The watcher could not read its place, and tries again with its next look: %s", error)
            return False
        found = [self._load_place(*each) for each in stored]
        self._place, *self._others = [place or self._first_place() for place in found]
        self._kept = None if self._others else found[0]
        # At once: what ends until the first look is not to depend on when that is.
        new = [store for store, place in zip(stores, found, strict=True) if place is None]
        await self._keep_place(self._first_place(), new)
        await self._say_alive()
        return True

    def _load_place(self, stored: object, own: object, others: object) -> Place | None:
        """Return the place that an asset has; ``None`` when there is none to go on at."""
        if stored is None:
            return None
        sign, newest = SignOfLife.load(own), SignOfLife.load(others)
        limit = max(self.look_back, ABANDONED)
        if sign is not None and newest is not None and newest.watched - sign.watched > limit:
            log.warning(
                "The watcher does not go on at its place, where it was until %s: the asset has had "
                "another watcher since. It begins with the jobs that ended in the last %g s.",
                sign.dump()["at"],
                self.look_back,
            )
            return None
        try:
            return Place.load(stored)
        except ValueError as error:
            log.error(
                "The watcher cannot read its place, which its asset's state store has under %s: %s. "
                "It begins with the jobs that ended in the last %g s.",
                self._key,
                error,
                self.look_back,
            )
            return None

    @property
    def _stores(self) -> list[Any]:
        return find_asset_stores(getattr(self, "asset_state_store", None))

    @property
    def _own_alive_key(self) -> str:
        return f"{self._key}-alive"

    async def _stay_alive(self) -> None:
        """Say again and again that the watcher is there, whether AWS answers or not."""
        while True:
            await asyncio.sleep(HEARTBEAT)
            if self._place is not None:
                # A conversation with Airflow must not end half-way.
                await asyncio.shield(asyncio.ensure_future(self._say_alive()))

    async def _say_alive(self) -> None:
        try:
            for store in self._stores:
                last = SignOfLife.load(await read_asset_state(store, ALIVE_KEY))
                sign = SignOfLife.after(last, time.time(), 2 * HEARTBEAT)
                for key in (self._own_alive_key, ALIVE_KEY):
                    await write_asset_state(store, key, sign.dump())
        except Exception as error:
            log.warning("The watcher could not say that it is alive, and tries again: %s", error)

    async def _settle(self, place: Place) -> None:
        settled = self._settling.settle(place, time.monotonic())
        if settled is None or settled == self._kept:
            return
        if await self._keep_place(settled, self._stores):
            self._kept = settled

    async def _keep_place(self, place: Place, stores: list[Any]) -> bool:
        """Keep a place with each of the assets; tell whether that is done."""
        try:
            for store in stores:
                await write_asset_state(store, self._key, make_json_safe(place.dump()))
        except Exception as error:
            log.warning(
                "The watcher could not keep its place; after a restart of the triggerer, jobs may arrive "
                "again: %s",
                error,
            )
            return False
        return True


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is empty. Expected seconds.")
