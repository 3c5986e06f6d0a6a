"""What a try of a task knows about those before it: when they began, and which job they may have created."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_personalize_segments.airflow_compat import find_start_of_try, find_task_state_store
from airflow_provider_personalize_segments.jobs import parse_job_arn

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.airflow_compat import Context
    from airflow_provider_personalize_segments.verdicts import Log

STATE_KEY = "personalize_batch_job"


class TaskTries:
    """
    The tries of a task instance since it was last cleared.

    From Airflow 3.3 on, the ARN of a job is kept in the task state store before the job is created. Before,
    nothing outlives a try, and the job's name and the time it was created tell whose it is.

    :param context: the task's context
    :param retries: how many retries the task has
    :param log: the task's log
    """

    def __init__(self, context: Context, retries: int, log: Log) -> None:
        self._context = context
        self._ti = context["ti"]
        self._log = log
        self._store = find_task_state_store(context)
        self._kept: dict[str, Any] = {}
        max_tries = getattr(self._ti, "max_tries", None)
        # Airflow counts tries on when a task is cleared, and allows as many again.
        self.first = 1 if max_tries is None else max(1, min(max_tries - retries + 1, self._ti.try_number))
        """The number of the first of these tries."""

    @property
    def start(self) -> datetime:
        """When this try began."""
        return _start_of(self._ti)

    @property
    def is_first(self) -> bool:
        """Whether there was none before."""
        return bool(self._ti.try_number == self.first)

    def keep(self, job_arn: str) -> None:
        """
        Keep the ARN of a job for later tries; only where Airflow has a place for it.

        :param job_arn: the ARN that the job will have, or has
        """
        if self._store is None or job_arn == self._kept.get("job_arn"):
            return
        since = self._kept.get("since") or self.start.isoformat()
        self._kept = {"job_arn": job_arn, "first_try": self.first, "since": since}
        try:
            self._store.set(STATE_KEY, self._kept)
        except Exception as error:
            # The name leads to the job all the same, as it does on every Airflow before 3.3.
            self._log.warning("The job's ARN could not be kept in Airflow's task state store: %s", error)

    def recall(self) -> dict[str, Any]:
        """
        Return what these tries kept: ``job_arn``, and ``since`` when they began; empty when there is nothing.

        An error of Airflow's own is raised: whoever does not know about the last try should not create.
        """
        kept = None if self._store is None else self._store.get(STATE_KEY)
        if not isinstance(kept, dict) or kept.get("first_try") != self.first:
            return {}
        try:
            parse_job_arn(kept.get("job_arn"))
            datetime.fromisoformat(str(kept.get("since")))
        except ValueError:
            return {}
        self._kept = kept
        return kept

    def find_start(self) -> datetime | None:
        """
        Return since when a job may be these tries'; ``None`` when none of them can have created one.

        From Airflow 3.0 to 3.2 only the run is known, which may have begun before the task was cleared.
        """
        if self._kept:
            return datetime.fromisoformat(self._kept["since"])
        if self.is_first:
            return self.start
        if self._store is not None:
            return None  # what is to be created is kept before
        return find_start_of_try(self._context, self.first) or _start_of(
            self._context.get("dag_run") or self._ti
        )


def _start_of(instance: Any) -> datetime:
    start: datetime | None = getattr(instance, "start_date", None)
    return start or datetime.now(UTC)
