"""How far a watcher has come: which jobs it has told of, and which it has yet to. Rules on frozen data."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from airflow_provider_personalize_segments.arns import find_owner
from airflow_provider_personalize_segments.jobs import JobState
from airflow_provider_personalize_segments.watching.listing import OVERLAP, Job, Look

PLACE_VERSION = 1
MAX_JOBS = 200
"""Jobs that one event tells of; the next event tells of more."""
MAX_BYTES = 200_000
"""Bytes of the jobs in one event, but that each event tells of one job at least."""
MAX_UNDATED = 1_000
"""Jobs that AWS gives no date, and that a watcher remembers as told."""


class Step(NamedTuple):
    """
    What a look means to a watcher.

    :param ended: the jobs to tell of, in the order in which they ended
    :param rest: jobs to tell of after the next look, as one event does not hold them
    :param place: the watcher's place once it has told of ``ended``
    """

    ended: list[Job]
    rest: dict[str, Job]
    place: Place


@dataclass(frozen=True, slots=True)
class Place:
    """
    A watcher's place in a history without end.

    AWS dates a job when it is created, and that date stays. So a job is new to a watcher that saw it
    unfinished, and to a watcher that knew only older ones. When a job ended plays a part only once, at the
    watcher's first look. Times are seconds since the epoch.

    :param since: the first look tells of jobs that ended then or later
    :param known_until: when the newest job was created that the watcher knows, or when it saw last that there
        is none; ``None`` before its first look
    :param unfinished: the ARNs of jobs that the watcher has yet to tell of
    :param told: the ARNs of jobs that are done with, and when each was created. Those that are so old that
        their age alone tells it are left out
    :param owners: the accounts and regions whose jobs the watcher knows, as ``us-east-1:123456789012``; none
        when it knows no job. Of another account or region it tells what its first look would
    """

    since: float
    known_until: float | None = None
    unfinished: frozenset[str] = frozenset()
    told: Mapping[str, float | None] = field(default_factory=dict)
    owners: frozenset[str] = frozenset()

    def after(
        self,
        look: Look,
        states: Collection[JobState],
        solution_version_arn: str | None,
        now: float,
        look_back: float,
    ) -> Step:
        """
        Return which jobs a watcher tells of after a look, and its place then.

        :param look: the look; a watcher's first must be complete, also its first of an account or a region
        :param states: the endings to tell of
        :param solution_version_arn: the only solution version whose jobs count; ``None`` means all
        :param now: the time by the clock of this machine
        :param look_back: seconds before the first look in which jobs ended that it tells of
        """
        unfinished, told = set(self.unfinished), dict(self.told)
        ended: list[Job] = []
        now = _find_time(look, now)
        since = now - look_back
        if self.known_until is None:
            since = min(self.since, since)
        elif not self.owners:
            # Whether these jobs are the first of a new account, or the history of another, nothing tells.
            since = min(self.known_until - OVERLAP, since)
        seen = frozenset(map(find_owner, look.jobs))
        jobs = [
            job
            for job in look.jobs.values()
            if solution_version_arn is None or job.solution_version_arn == solution_version_arn
        ]
        for job in jobs:
            if job.arn in told:
                continue
            if job.state is JobState.WAITING:
                unfinished.add(job.arn)
                continue
            if job.state in states and (job.arn in unfinished or self._is_new(job, since)):
                ended.append(job)
            unfinished.discard(job.arn)
            told[job.arn] = job.created
        owners = self.owners | seen
        if look.is_complete and seen:
            # What is of another account or region is over: the connection leads there no more.
            owners = seen
            unfinished = {arn for arn in unfinished if find_owner(arn) in owners}
            told = {arn: at for arn, at in told.items() if find_owner(arn) in owners}
        ended.sort(key=lambda job: job.ended or 0.0)
        number = _count_fitting(ended)
        rest = {job.arn: job for job in ended[number:]}
        # A job that AWS dates into the future must not make all others seem old, nor must our own clock.
        created = [min(job.created, now) for job in jobs if job.created is not None]
        if self.known_until is not None:
            created.append(min(self.known_until, now))
        if look.is_complete and not owners:
            created.append(now)
        known_until = max(created, default=since)
        place = Place(
            self.since,
            known_until,
            frozenset(unfinished | rest.keys()),
            _forget_old({arn: at for arn, at in told.items() if arn not in rest}, known_until),
            owners,
        )
        return Step(ended[:number], rest, place)

    def _is_new(self, job: Job, since: float) -> bool:
        """Tell whether a watcher that never saw this job, which is over, tells of it."""
        if self.known_until is None or find_owner(job.arn) not in self.owners:
            return job.ended is None or job.ended >= since
        return job.created is None or job.created >= self.known_until - OVERLAP

    def dump(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            "version": PLACE_VERSION,
            "since": _show_time(self.since),
            "knownUntil": None if self.known_until is None else _show_time(self.known_until),
            "unfinished": sorted(self.unfinished),
            # There may be hundreds, so each takes little room.
            "told": {arn: at if at is None else int(at) for arn, at in self.told.items()},
            "owners": sorted(self.owners),
        }

    @classmethod
    def load(cls, dumped: object) -> Place:
        """
        Return the place that :meth:`dump` made JSON of.

        :param dumped: the JSON
        :raises ValueError: when it is something else, such as a later release's
        """
        try:
            if dumped["version"] != PLACE_VERSION:  # type: ignore[index]  # what it is comes out here
                raise ValueError("another version")
            known_until = dumped["knownUntil"]  # type: ignore[index]
            unfinished = frozenset(str(arn) for arn in dumped["unfinished"])  # type: ignore[index]
            told = {str(arn): at if at is None else float(at) for arn, at in dumped["told"].items()}  # type: ignore[index]
            # A place that an earlier release kept has its owners in its ARNs alone.
            owners = dumped.get("owners", {find_owner(arn) for arn in (*unfinished, *told)})  # type: ignore[attr-defined]
            return cls(
                _read_time(dumped["since"]),  # type: ignore[index]
                None if known_until is None else _read_time(known_until),
                unfinished,
                told,
                frozenset(str(each) for each in owners),
            )
        except (TypeError, LookupError, AttributeError) as error:
            raise ValueError(f"no place of a watcher: {error}") from None


def join_places(places: Sequence[Place], judge: Callable[[Place], Step]) -> Place:
    """
    Return the place of a watcher that has several, as each asset whose watcher it is keeps one.

    With its next look the watcher tells of each job that it would tell of at any of the places, once.

    :param places: the places, one or more
    :param judge: returns what the next look means to a watcher at a place; the look must be complete
    """
    steps = [judge(place) for place in places]
    to_tell = {job.arn for step in steps for job in step.ended}.union(
        *(step.place.unfinished for step in steps)
    )
    # Each place knows all that a complete look shows, so any will do.
    place = places[0]
    told = {arn: created for arn, created in place.told.items() if arn not in to_tell}
    return replace(place, unfinished=place.unfinished | to_tell, told=told)


@dataclass(frozen=True, slots=True)
class SignOfLife:
    """
    Says that a watcher is there, and how old its asset is in time that was watched.

    Each watcher keeps its own last one, and the asset keeps the last one of any. So a watcher sees for how
    long the asset had others without it. While none runs, as no triggerer does or a DAG is paused, nothing
    ages.

    :param at: when it was, in seconds since the epoch
    :param watched: how many seconds the asset has had a watcher by then
    """

    at: float
    watched: float = 0.0

    @classmethod
    def after(cls, last: SignOfLife | None, now: float, pause: float) -> SignOfLife:
        """
        Return the sign of life that a watcher gives now.

        :param last: the asset's last one
        :param now: seconds since the epoch
        :param pause: seconds; after more without any sign no watcher was there
        """
        if last is None:
            return cls(now)
        passed = now - last.at
        return cls(now, last.watched + (passed if 0 < passed <= pause else 0.0))

    def dump(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {"at": _show_time(self.at), "watchedSeconds": self.watched}

    @classmethod
    def load(cls, dumped: object) -> SignOfLife | None:
        """
        Return the sign of life that :meth:`dump` made JSON of; ``None`` for anything else.

        :param dumped: the JSON
        """
        try:
            found = cls(_read_time(dumped["at"]), float(dumped["watchedSeconds"]))  # type: ignore[index]
        except (TypeError, ValueError, LookupError, OverflowError):
            return None
        return found if math.isfinite(found.watched) else None


class Settling:
    """
    The places whose events Airflow has reported as stored, until the watcher may keep them.

    Airflow reports an event as stored even if it has just removed the watcher, as when a DAG was paused. No
    DAG hears of such an event, and Airflow ends the watcher soon after. So a place counts once the watcher
    has outlived the event for a while.

    :param seconds: how long
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._places: deque[tuple[float, Place]] = deque()

    def settle(self, place: Place, now: float) -> Place | None:
        """
        Add a place, and return the newest one that has come to count since the last time; or ``None``.

        :param place: the place after an event that was stored just now, or after a look without an event
        :param now: seconds, of any clock that never goes back
        """
        settled = None
        if not self._places or self._places[-1][1] != place:
            self._places.append((now, place))
        while self._places and self._places[0][0] <= now - self._seconds:
            settled = self._places.popleft()[1]
        return settled


def _count_fitting(jobs: list[Job]) -> int:
    """Return how many jobs one event holds."""
    sizes = itertools.accumulate(job.size for job in jobs[:MAX_JOBS])
    return max(sum(size <= MAX_BYTES for size in sizes), min(len(jobs), 1))


def _find_time(look: Look, now: float) -> float:
    """
    Return the time by AWS's clock, which dates the jobs, unless ours is behind it.

    The date of an answer may be a proxy's, so it is not taken to be before the newest job.
    """
    if look.date is None:
        return now
    newest = max((job.created for job in look.jobs.values() if job.created is not None), default=look.date)
    return min(now, max(look.date, newest))


def _forget_old(told: Mapping[str, float | None], known_until: float) -> dict[str, float | None]:
    """Keep what the jobs' dates do not tell."""
    undated = [arn for arn, created in told.items() if created is None]
    forgotten = set(undated[:-MAX_UNDATED])
    return {
        arn: created
        for arn, created in told.items()
        if arn not in forgotten and (created is None or created >= known_until - OVERLAP - 1)
    }


def _show_time(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat()


def _read_time(text: Any) -> float:
    return datetime.fromisoformat(text).timestamp()
