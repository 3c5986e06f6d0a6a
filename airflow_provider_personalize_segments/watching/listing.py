"""What AWS lists, and how much of it must be read again: rules, without input and output.

AWS lists jobs page by page, a hundred at a time, and never takes one off the list. It documents no order. A
listing that was read to its end shows its order, and then a part is enough: the jobs that are new are on the
first page or on the last.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any, NamedTuple

from airflow_provider_personalize_segments.jobs import BatchJobKind, JobState, classify_status
from airflow_provider_personalize_segments.plain_json import clean_text, make_json_safe

OVERLAP = 6 * 60 * 60.0
"""
Seconds. Jobs that were created within so long before the newest job are looked at again: a listing may be
late, and the clocks that set the times may disagree.
"""
SWEEP_SHARE = 10
"""A listing is read to its end again once the short looks have cost so many times its pages."""
MAX_REASON_LENGTH = 1_000
"""Characters of the reason of a failure that an event repeats."""


class Job(NamedTuple):
    """
    A job as AWS lists it, in so little memory that a long history fits.

    :param arn: the job's ARN
    :param name: ``jobName``
    :param status: ``status``
    :param created: ``creationDateTime`` in seconds since the epoch; ``None`` when AWS sends no time
    :param changed: ``lastUpdatedDateTime`` in the same form; of a job that is over, when it ended
    :param solution_version_arn: ``solutionVersionArn``; ``None`` when AWS leaves it out
    :param failure_reason: ``failureReason``
    """

    arn: str
    name: Any
    status: Any
    created: float | None
    changed: float | None
    solution_version_arn: str | None
    failure_reason: Any

    @classmethod
    def read(cls, kind: BatchJobKind, job: Mapping[str, Any]) -> Job:
        """
        Make it of a summary, or of a job as Describe gives it.

        :param kind: the kind of job
        :param job: the summary, times as ``datetime``
        """
        version = job.get("solutionVersionArn")
        return cls(
            job[kind.arn_member],
            job.get("jobName"),
            job.get("status"),
            _read_time(job.get("creationDateTime")),
            _read_time(job.get("lastUpdatedDateTime")),
            version if isinstance(version, str) else None,
            job.get("failureReason"),
        )

    @property
    def state(self) -> JobState:
        """What the status means."""
        return classify_status(self.status)

    @property
    def is_half(self) -> bool:
        """Whether a member is missing without which nobody can judge the job."""
        return not isinstance(self.status, str) or not self.status or self.solution_version_arn is None

    @property
    def ended(self) -> float | None:
        """When it ended, if it is over; when it was created, if AWS does not say more."""
        return self.created if self.changed is None else self.changed

    @property
    def size(self) -> int:
        """How many bytes it takes in an event, names of members included, or a few more."""
        return 200 + len(json.dumps(make_json_safe([*self[:-1], self._reason])))

    @property
    def _reason(self) -> str | None:
        return clean_text(self.failure_reason, MAX_REASON_LENGTH) if self.failure_reason else None

    def dump(self, kind: BatchJobKind) -> dict[str, Any]:
        """
        Return it as plain JSON, under the API's own names.

        :param kind: the kind of job
        """
        members = {
            kind.arn_member: self.arn,
            "jobName": self.name,
            "status": self.status,
            "solutionVersionArn": self.solution_version_arn,
            "creationDateTime": _show_time(self.created),
            "lastUpdatedDateTime": _show_time(self.changed),
            "failureReason": self._reason,
        }
        dumped: dict[str, Any] = make_json_safe({name: each for name, each in members.items() if each})
        return dumped


class Look(NamedTuple):
    """
    What one look at the listing saw.

    :param jobs: the jobs by their ARNs
    :param is_complete: whether these are all jobs that there are
    :param date: when AWS sent the last page, by its own clock, in seconds since the epoch; ``None`` when it
        did not say
    """

    jobs: Mapping[str, Job]
    is_complete: bool
    date: float | None = None

    def followed_by(self, later: Look) -> Look:
        """
        Return what both looks saw; of a job that both saw, the later word counts.

        :param later: the later look
        """
        is_complete = self.is_complete or later.is_complete
        return Look({**self.jobs, **later.jobs}, is_complete, later.date or self.date)


class Order(Enum):
    """The order in which AWS lists jobs, as a complete listing shows it."""

    NEWEST_FIRST = "newest first"
    OLDEST_FIRST = "oldest first"
    NONE = "none"


class ListedPage(NamedTuple):
    """
    A page that was read.

    :param token: what it was asked for with; ``None`` on the first page
    :param jobs: its jobs in AWS's order
    :param next_token: what the next page is asked for with; ``None`` on the last
    :param odd_arns: what stands in the place of an ARN and is none, shown
    :param date: when AWS sent it, in seconds since the epoch; ``None`` when it did not say
    """

    token: str | None
    jobs: list[Job]
    next_token: str | None
    odd_arns: tuple[str, ...] = ()
    date: float | None = None


def find_order(jobs: Iterable[Job]) -> Order:
    """
    Return the order of a listing that was read in one go.

    :param jobs: the jobs in AWS's order
    """
    times = [job.created for job in jobs]
    known = [time for time in times if time is not None]
    if len(known) < len(times):
        return Order.NONE
    if all(one >= other for one, other in itertools.pairwise(known)):
        return Order.NEWEST_FIRST
    if all(one <= other for one, other in itertools.pairwise(known)):
        return Order.OLDEST_FIRST
    return Order.NONE


class Reading:
    """
    Pages that are read one after the other, and kept until the last of them is there.

    :param token: what the first page is asked for with; ``None`` means the first page of the listing
    :param until: the listing has the newest jobs first, and is read to the jobs that were created before this
        moment, in seconds since the epoch; ``None`` means to its end
    """

    def __init__(self, token: str | None, until: float | None) -> None:
        self.token = token
        """What the next page is asked for with."""
        self.pages: list[ListedPage] = []
        self.jobs: dict[str, Job] = {}
        """What is known of the jobs by now, by their ARNs; of each job the last word."""
        self._until = until

    def take(self, page: ListedPage) -> bool:
        """
        Take the next page; tell whether there is one more to be read.

        :param page: the page
        """
        self.pages.append(page)
        self.jobs |= {job.arn: job for job in page.jobs}
        self.token = page.next_token
        if page.next_token is None:
            return False
        if self._until is None or not page.jobs:
            return True
        if find_order(job for each in self.pages for job in each.jobs) is not Order.NEWEST_FIRST:
            return True
        return (page.jobs[-1].created or 0.0) >= self._until

    @property
    def is_complete(self) -> bool:
        """Whether the pages are the whole listing."""
        return bool(self.pages) and self.pages[0].token is None and self.pages[-1].next_token is None


class Course:
    """
    Decides which pages are read.

    A sweep reads all pages. It shows the order of the listing, and then a look need only read the pages at
    that end of the listing where new jobs appear, back to the jobs that were created :data:`OVERLAP` before
    the newest. A listing in no order is read by sweeps alone. There is a sweep of any listing from time to
    time, since AWS promises no order, and for each watcher that joins.
    """

    def __init__(self) -> None:
        self.order = Order.NONE
        self.frontier: float | None = None
        self._wants_sweep = True
        self._tokens: list[tuple[str | None, float]] = []
        self.sweep_cost = 0
        self._cost_since = 0

    def want_sweep(self) -> None:
        """Let all pages be read again."""
        self._wants_sweep = True

    def doubt_tokens(self) -> None:
        """Let all pages be read again, and none be asked for with a token from before: AWS may forget it."""
        self._wants_sweep = True
        if self.order is Order.OLDEST_FIRST:
            self.order = Order.NONE

    @property
    def has_order(self) -> bool:
        """Whether a look at a part of the listing shows all jobs that are new."""
        return self.order is not Order.NONE

    @property
    def needs_sweep(self) -> bool:
        """Whether all pages are to be read."""
        return self._wants_sweep or not self.has_order or self._cost_since >= SWEEP_SHARE * self.sweep_cost

    def begin_sweep(self) -> Reading:
        """Begin to read all pages."""
        return Reading(None, None)

    def begin_look(self) -> Reading:
        """Begin to read the pages where new jobs appear, in a listing that has an order."""
        frontier = self.frontier or 0.0
        if self.order is Order.NEWEST_FIRST:
            return Reading(None, frontier)
        # From the first page that holds a job from behind the frontier, or from the last.
        tokens = (token for token, newest in self._tokens if newest >= frontier)
        return Reading(next(tokens, self._tokens[-1][0]), None)

    def end(self, reading: Reading, now: float) -> None:
        """
        Learn from a reading that has all its pages.

        :param reading: the reading
        :param now: the time, in seconds since the epoch
        """
        pages = reading.pages
        jobs = [job for page in pages for job in page.jobs]
        order = find_order(jobs)
        if reading.is_complete:
            self.order = order
            self._wants_sweep = False
            self.sweep_cost, self._cost_since = len(pages), 0
        else:
            self._cost_since += len(pages)
            if order is not self.order and len({job.created for job in jobs}) > 1:
                self._wants_sweep = True  # the order that this look relied on does not hold
        # A job that AWS dates into the future must not make all others seem old.
        newest = max((min(job.created, now) for job in jobs if job.created is not None), default=None)
        if newest is not None:
            self.frontier = max(self.frontier or newest - OVERLAP, newest - OVERLAP)
        if self.order is Order.OLDEST_FIRST:
            known = {} if reading.is_complete else dict(self._tokens)
            known |= {page.token: page.jobs[-1].created or 0.0 for page in pages if page.jobs}
            recent = [(token, at) for token, at in known.items() if at >= (self.frontier or 0.0)]
            self._tokens = recent or list(known.items())[-1:]


def _read_time(value: object) -> float | None:
    try:
        return value.timestamp() if isinstance(value, datetime) else None
    except (OverflowError, ValueError):
        return None


def _show_time(moment: float | None) -> str | None:
    try:
        return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat()
    except (OverflowError, ValueError, OSError):  # a moment at either end of the calendar
        return None
