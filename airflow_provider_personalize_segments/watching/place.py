"""How far a watcher has come: which jobs it has told of, and which it has yet to. Rules on frozen data."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from airflow_provider_personalize_segments.jobs import JobState
from airflow_provider_personalize_segments.watching.listing import OVERLAP, Job, Look

PLACE_VERSION = 1
MAX_JOBS = 200
"""Jobs that one event tells of; the next event tells of more."""
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
    :param known_until: when the newest job was created that the watcher knows; ``None`` before its first look
    :param unfinished: the ARNs of jobs that the watcher has yet to tell of
    :param told: the ARNs of jobs that are done with, and when each was created. Those that are so old that
        their age alone tells it are left out
    """

    since: float
    known_until: float | None = None
    unfinished: frozenset[str] = frozenset()
    told: Mapping[str, float | None] = field(default_factory=dict)

    def after(
        self, look: Look, states: Collection[JobState], solution_version_arn: str | None, now: float
    ) -> Step:
        """
        Return which jobs a watcher tells of after a look, and its place then.

        :param look: the look; a watcher's first must be complete
        :param states: the endings to tell of
        :param solution_version_arn: the only solution version whose jobs count; ``None`` means all
        :param now: the time
        """
        unfinished, told = set(self.unfinished), dict(self.told)
        ended: list[Job] = []
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
            if job.state in states and (job.arn in unfinished or self._is_new(job)):
                ended.append(job)
            unfinished.discard(job.arn)
            told[job.arn] = job.created
        ended.sort(key=lambda job: job.ended or 0.0)
        rest = {job.arn: job for job in ended[MAX_JOBS:]}
        # A job that AWS dates into the future must not make all others seem old.
        created = [min(job.created, now) for job in jobs if job.created is not None]
        known_until = max(created, default=self.since)
        if self.known_until is not None:
            known_until = max(known_until, self.known_until)
        place = Place(
            self.since,
            known_until,
            frozenset(unfinished | rest.keys()),
            _forget_old({arn: at for arn, at in told.items() if arn not in rest}, known_until),
        )
        return Step(ended[:MAX_JOBS], rest, place)

    def _is_new(self, job: Job) -> bool:
        """Tell whether a watcher that never saw this job, which is over, tells of it."""
        if self.known_until is None:
            return job.ended is None or job.ended >= self.since
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
            return cls(
                _read_time(dumped["since"]),  # type: ignore[index]
                None if known_until is None else _read_time(known_until),
                frozenset(str(arn) for arn in dumped["unfinished"]),  # type: ignore[index]
                {str(arn): at if at is None else float(at) for arn, at in dumped["told"].items()},  # type: ignore[index]
            )
        except (TypeError, LookupError, AttributeError) as error:
            raise ValueError(f"no place of a watcher: {error}") from None


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
