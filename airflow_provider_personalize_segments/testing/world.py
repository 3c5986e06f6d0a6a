"""A small world of batch jobs: some wait to be asked about, others begin and end, and some of them fail."""

from __future__ import annotations

import contextlib
import itertools
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from airflow_provider_personalize_segments.jobs import (
    BATCH_JOB_KINDS,
    BatchJobKind,
    JobState,
    classify_status,
)
from airflow_provider_personalize_segments.testing.example_jobs import BUCKET, ExampleJobs

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.testing.server import LocalPersonalize

SECONDS_PER_STATUS = 15.0
"""How long the jobs that tasks create stay in each of their two statuses."""
SECONDS_AFTER_QUESTION = 90.0
"""How long a job goes on that waited for a task to ask about it."""
SECONDS_BETWEEN_JOBS = 45.0
"""How often a job of another team begins."""
TURNS_PER_RUSH = 8
"""At every eighth beginning another team takes all slots for segment jobs."""
SECONDS_OF_RUSH = 40.0
"""How long this team takes every slot that becomes free."""
MOST_JOBS = 400
"""What other teams begin in about three and a half hours; no more, as no job is ever forgotten."""
MOST_CALLS = 1000
DOOMED_REASON = "Invalid S3 output path"
# What AWS has been seen to say.
REASONS = (
    "Invalid S3 input path",
    "Insufficient privileges for accessing data in S3. Please look at https://docs.aws.amazon.com/personalize"
    f"/latest/dg/granting-personalize-s3-access.html#attach-bucket-policy and fix bucket policy on {BUCKET}.",
    DOOMED_REASON,
)
TEAMS = {
    BatchJobKind.SEGMENT: ("newsletter", "aws-item-affinity"),
    BatchJobKind.INFERENCE: ("shop-page", "aws-user-personalization"),
}


@dataclass
class _Life:
    """How long a job stays in its statuses; times in seconds since the world began."""

    seconds: float = SECONDS_PER_STATUS
    until_asked: bool = False
    """Whether it runs until a task asks about it, and a while longer."""
    due: float = math.inf
    """When its next status is due."""


class World:
    """
    What happens on a local Personalize beside a person's own tasks.

    The jobs that the example DAGs wait for by default run until a task has asked about them, and
    :data:`SECONDS_AFTER_QUESTION` longer, so that every one of these DAGs waits when it is triggered for
    the first time, however late. ``weekly-segments-1`` is followed by ``weekly-segments-2`` as soon as it is
    done, so that its solution version has a running job at any time. Other teams' jobs begin and end by the
    clock; :data:`REASONS` has why some of them fail.

    :param local: a running local Personalize whose progress is ``by_hand``
    :param tell: called with one line for each job that begins or ends
    :param most_jobs: how many jobs other teams begin at most
    """

    def __init__(
        self, local: LocalPersonalize, tell: Callable[[str], object], most_jobs: int = MOST_JOBS
    ) -> None:
        self._local = local
        self._tell = tell
        self._most_jobs = most_jobs
        self._jobs = ExampleJobs(local)
        self._inputs = {kind: self._jobs.put_input(kind) for kind in BATCH_JOB_KINDS}
        self._segments = local.add_solution_version("demo-segments")
        self._versions = {
            kind: local.add_solution_version(name, recipe) for kind, (name, recipe) in TEAMS.items()
        }
        self._lives: dict[str, _Life] = {}
        # Whichever thread makes a change notes it; the world's own thread reads it.
        self._changes: queue.SimpleQueue[tuple[dict[str, Any], str | None, str]] = queue.SimpleQueue()
        self._turns = itertools.count(1)
        self._next_turn = 0.0
        self._end_of_rush = 0.0
        self._backfills = itertools.count(1)
        self._begun = 0
        self._week = 0
        local.on_status_change(self._note_change)
        self._begin_defaults()

    def go_on(self, now: float) -> None:
        """
        Do all that is due.

        :param now: seconds since the world began; never less than the last time
        """
        self._read_changes(now)
        self._read_questions(now)
        for arn, life in list(self._lives.items()):
            if life.due <= now:
                life.due = math.inf
                self._local.advance(arn)
        self._read_changes(now)
        if not any(arn.endswith(f"/weekly-segments-{self._week}") for arn in self._lives):
            self._begin_next_week()
        if now >= self._next_turn:
            self._next_turn = now + SECONDS_BETWEEN_JOBS
            self._take_turn(next(self._turns), now)
        while now < self._end_of_rush:
            if not self._begin_for_others(BatchJobKind.SEGMENT, f"backfill-{next(self._backfills)}", 20.0):
                break
        self._read_changes(now)

    # --- Beginnings -------------------------------------------------------------------------------

    def _begin_defaults(self) -> None:
        """Begin what the example DAGs wait for by default."""
        segment, inference = BatchJobKind.SEGMENT, BatchJobKind.INFERENCE
        self._begin(segment, "monthly-segments", self._segments, _Life(20.0))
        self._begin_next_week()
        self._local.fail_job("doomed-segments", DOOMED_REASON)
        failing = self._local.add_solution_version("demo-failing")
        self._begin(segment, "doomed-segments", failing, _Life(until_asked=True))
        version = self._local.add_solution_version("demo-recommendations", TEAMS[inference][1])
        self._begin(inference, "demo-recommendations", version, _Life(until_asked=True))
        self._read_changes(0.0)

    def _begin_next_week(self) -> None:
        week = self._week + 1
        name = f"weekly-segments-{week}"
        if self._begin(BatchJobKind.SEGMENT, name, self._segments, _Life(until_asked=True)):
            self._week = week

    def _take_turn(self, turn: int, now: float) -> None:
        """
        Begin a job of another team, or a rush.

        :param turn: which turn it is, from 1 on
        :param now: seconds since the world began
        """
        if turn % TURNS_PER_RUSH == 0:
            self._end_of_rush = now + SECONDS_OF_RUSH
            return
        kind = BATCH_JOB_KINDS[turn % len(BATCH_JOB_KINDS)]
        name = f"{TEAMS[kind][0]}-{turn}"
        if turn % 3 == 0:
            self._local.fail_job(name, REASONS[turn // 3 % len(REASONS)])
        self._begin_for_others(kind, name, 30.0 + 10.0 * (turn % 4))

    def _begin_for_others(self, kind: BatchJobKind, name: str, seconds: float) -> bool:
        if self._begun >= self._most_jobs:
            return False
        begun = self._begin(kind, name, self._versions[kind], _Life(seconds))
        self._begun += begun
        return begun

    def _begin(self, kind: BatchJobKind, name: str, solution_version_arn: str, life: _Life) -> bool:
        """Begin a job, unless a person has made one of this name; return whether one more may run."""
        try:
            arn = self._jobs.start(kind, name, solution_version_arn, self._inputs[kind], num_results=100)
        except ClientError as error:
            code: str = error.response["Error"]["Code"]
            if code not in ("LimitExceededException", "ResourceAlreadyExistsException"):
                raise
            return code == "ResourceAlreadyExistsException"
        self._lives[arn] = life
        return True

    # --- What happened ----------------------------------------------------------------------------

    def _note_change(self, job: dict[str, Any], old: str | None, new: str, _: datetime) -> None:
        self._changes.put((job, old, new))

    def _read_changes(self, now: float) -> None:
        while not self._changes.empty():
            job, old, new = self._changes.get()
            kind = next(kind for kind in BATCH_JOB_KINDS if kind.arn_member in job)
            arn, name = job[kind.arn_member], job["jobName"]
            life = self._lives.setdefault(arn, _Life())  # the jobs that tasks create are met here first
            if old is None:
                self._tell(f"{kind.title} {name} begins")
            if classify_status(new) is JobState.WAITING:
                life.due = math.inf if life.until_asked and old is not None else now + life.seconds
            else:
                del self._lives[arn]
                reason = f": {job['failureReason']}" if "failureReason" in job else ""
                self._tell(f"{kind.title} {name} is {new}{reason}")

    def _read_questions(self, now: float) -> None:
        """Let the jobs end, in a while, that a task has asked about."""
        arns = {arn for call in self._local.calls for arn in call.parameters.values() if isinstance(arn, str)}
        for arn in arns & self._lives.keys():
            life = self._lives[arn]
            if life.until_asked:
                life.until_asked, life.due = False, now + SECONDS_AFTER_QUESTION
        if len(self._local.calls) > MOST_CALLS:
            self._local.clear_calls()


@contextlib.contextmanager
def living(world: World, speed: float = 1.0) -> Iterator[None]:
    """
    Let a world go on in a thread, until the block ends.

    :param world: the world
    :param speed: how many times as fast as the clock its time goes
    """
    stopping = threading.Event()

    def live() -> None:
        start = time.monotonic()
        while not stopping.wait(1 / speed):
            world.go_on((time.monotonic() - start) * speed)

    thread = threading.Thread(target=live, name="world")
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
