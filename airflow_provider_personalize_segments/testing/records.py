"""What the stores keep: solution versions, batch jobs, and what the caller chose."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from airflow_provider_personalize_segments.jobs import BatchJobKind, JobState, classify_status
from airflow_provider_personalize_segments.testing.output import Population

StatusNames = Literal["observed", "documented"]
ProgressMode = Literal["immediately", "by_time", "by_call", "by_hand"]


@dataclass
class Settings:
    """What the caller chose; shared by the stores of all accounts and regions."""

    steps: tuple[str, ...]
    """The statuses of a job that succeeds, in order."""
    progress: ProgressMode
    seconds: float
    calls: int
    population: Population
    on_change: Callable[[dict[str, Any], str | None, str, float], None]
    """Told of every change: the job, the old status, the new one, when."""
    failures: dict[str, str] = field(default_factory=dict)
    """Failure reasons by the name or ARN of the job that is to fail."""
    duplicate_across_pages: bool = False

    def failure_of(self, arn: str, job_name: str) -> str | None:
        """
        Return the reason why a job is to fail; ``None`` when it is not.

        :param arn: the job's ARN
        :param job_name: its name
        """
        return self.failures.get(arn) or self.failures.get(job_name)


@dataclass(slots=True)
class SolutionVersion:
    """A trained solution, so far as batch jobs care."""

    arn: str
    name: str
    recipe: str
    dataset_group_arn: str
    recipe_arn: str
    status: str
    created: float

    def describe(self) -> dict[str, Any]:
        """Return it as DescribeSolutionVersion does."""
        return {
            "solutionVersionArn": self.arn,
            "solutionArn": self.arn.rpartition("/")[0],
            "name": self.name,
            "performHPO": False,
            "performAutoML": False,
            "recipeArn": self.recipe_arn,
            "datasetGroupArn": self.dataset_group_arn,
            "trainingMode": "FULL",
            "status": self.status,
            "creationDateTime": self.created,
            "lastUpdatedDateTime": self.created,
        }


@dataclass(slots=True)
class BatchJob:
    """A batch job of either kind."""

    kind: BatchJobKind
    arn: str
    request: Mapping[str, Any]
    """The members of the Create request that Describe shows again."""
    status: str
    created: float
    updated: float
    failure_reason: str | None = None
    on_course: bool = True
    """Whether it advances by itself: seeded jobs, and those whose status was set by hand, do not."""
    has_output: bool = True
    """Whether it reads its input and writes output when it succeeds: seeded jobs do not."""
    output: Sequence[Mapping[str, Any]] | None = None
    """The records that a seeded job writes when it succeeds; ``None`` when it writes none."""
    looks: int = 0
    due: float | None = None

    @property
    def is_finished(self) -> bool:
        """Whether it can no longer change by itself."""
        return classify_status(self.status) is not JobState.WAITING

    def is_called(self, name_or_arn: str) -> bool:
        """
        Tell whether this is its name or its ARN.

        :param name_or_arn: a name or an ARN
        """
        return name_or_arn in (self.arn, self.request["jobName"])

    def describe(self) -> dict[str, Any]:
        """Return it as Describe does."""
        return {**self.request, **self._state()}

    def summarize(self) -> dict[str, Any]:
        """Return it as List does."""
        return {
            "jobName": self.request["jobName"],
            "solutionVersionArn": self.request["solutionVersionArn"],
            **self._state(),
        }

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            self.kind.arn_member: self.arn,
            "status": self.status,
            "creationDateTime": self.created,
            "lastUpdatedDateTime": self.updated,
        }
        if self.failure_reason is not None:
            state["failureReason"] = self.failure_reason
        return state


def read_clock() -> float:
    """Return the time in seconds since the epoch, to the millisecond that answers carry."""
    return int(time.time() * 1000) / 1000
