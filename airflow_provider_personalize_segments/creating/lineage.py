"""What a try of a task knows about those before it: when they began, and which job they may have created."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_personalize_segments.airflow_compat import find_start_of_try, find_task_state_store
from airflow_provider_personalize_segments.jobs import BatchJobKind, parse_job_arn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_personalize_segments.airflow_compat import Context
    from airflow_provider_personalize_segments.waiting.verdicts import Log

STATE_KEY = "personalize_batch_job"


class TaskTries:
    """
    The tries of a task instance since it was last cleared.

    From Airflow 3.3 on, the ARN of a job and what it is made of are kept in the task state store before the
    job is created. Before, nothing outlives a try, and the job's name and the time it was created tell whose
    it is.

    :param context: the task's context
    :param retries: how many retries the task has
    :param log: the task's log
    """

    def __init__(self, context: Context, retries: int, log: Log) -> None:
        self._context = context
        self._ti = context["ti"]
        self._log = log
        self._store = find_task_state_store(context)
        self.kept: dict[str, Any] = {}
        """What these tries kept: ``job_arn``, ``request``, and ``since`` when they began."""
        # Airflow counts tries on when a task is cleared, and allows as many again.
        self._max_tries = getattr(self._ti, "max_tries", None)
        self.first = (
            1 if self._max_tries is None else max(1, min(self._max_tries - retries + 1, self._ti.try_number))
        )
        """The number of the first of these tries."""

    @property
    def start(self) -> datetime:
        """When this try began."""
        return _start_of(self._ti)

    @property
    def is_first(self) -> bool:
        """Whether there was none before."""
        return bool(self._ti.try_number == self.first)

    def has_seen(self, job: Mapping[str, Any]) -> bool:
        """
        Tell whether a job was created since this try began.

        :param job: the job as Describe gives it, as plain JSON
        """
        created = job.get("creationDateTime")
        return created is not None and datetime.fromisoformat(created) >= self.start

    def keep(self, job_arn: str, request: Mapping[str, Any], *, is_needed: bool = False) -> None:
        """
        Keep a job for later tries; only where Airflow has a place for it.

        :param job_arn: the ARN that the job will have, or has
        :param request: the members of the Create request but its name
        :param is_needed: whether to raise Airflow's error when it cannot be kept
        """
        kept = {
            "job_arn": job_arn,
            "request": {name: value for name, value in request.items() if name != "tags"},
            "since": self.kept.get("since") or self.start.isoformat(),
            "max_tries": self._max_tries,
        }
        if self._store is None or kept == self.kept:
            return
        try:
            self._store.set(STATE_KEY, kept)
        except Exception as error:
            if is_needed:
                raise
            # The name leads to the job all the same, as it does on every Airflow before 3.3.
            self._log.warning("The job's ARN could not be kept in Airflow's task state store: %s", error)
        else:
            self.kept = kept

    def recall(self, kind: BatchJobKind, region: str) -> dict[str, Any]:
        """
        Return what these tries kept, see :attr:`kept`; empty when there is nothing of use.

        An error of Airflow's own is raised: whoever does not know about the last try should not create.

        :param kind: the kind of job that the task creates
        :param region: the region that it creates it in
        """
        kept = None if self._store is None else self._store.get(STATE_KEY)
        # Clearing a task raises the number of tries that it may have.
        if not isinstance(kept, dict) or kept.get("max_tries") != self._max_tries:
            return {}
        try:
            arn = parse_job_arn(kept.get("job_arn"), kind)
            datetime.fromisoformat(str(kept.get("since")))
        except ValueError:
            return {}
        if arn.region != region or not isinstance(kept.get("request"), dict):
            return {}
        self.kept = kept
        return kept

    @property
    def is_start_known(self) -> bool:
        """Whether :meth:`find_start` is exact, which it may not be from Airflow 3.0 to 3.2."""
        return self._store is not None or self.is_first or self._first_start is not None

    def find_start(self) -> datetime | None:
        """
        Return since when a job may be these tries'; ``None`` when none of them can have created one.

        From Airflow 3.0 to 3.2 only the run is known, which may have begun before the task was cleared.
        """
        if self.kept:
            return datetime.fromisoformat(self.kept["since"])
        if self.is_first:
            return self.start
        if self._store is not None:
            return None  # what is to be created is kept before
        return self._first_start or _start_of(self._context.get("dag_run") or self._ti)

    @cached_property
    def _first_start(self) -> datetime | None:
        return find_start_of_try(self._context, self.first)


def _start_of(instance: Any) -> datetime:
    start: datetime | None = getattr(instance, "start_date", None)
    return start or datetime.now(UTC)
