"""What Airflow calls of a task that waits for a job."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

from airflow_provider_personalize_segments.links import LINKS
from airflow_provider_personalize_segments.tasks import PersonalizeTask

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_personalize_segments.airflow_compat import Context, PokeReturnValue
    from airflow_provider_personalize_segments.waiting.steps import WaitingSteps

    Steps = TypeVar("Steps", bound=WaitingSteps)


class JobWaitingTask(PersonalizeTask):
    """Base of the sensors and operators that wait for a job; not for use in a DAG by itself."""

    operator_extra_links = LINKS
    shallow_copy_attrs: Sequence[str] = (*PersonalizeTask.shallow_copy_attrs, "_steps")
    max_error_rate: float | str | None = None
    has_error_limit = False
    """Whether the DAG file gives ``max_error_rate``, whatever it is rendered to."""

    @property
    @abstractmethod
    def worker_steps(self) -> WaitingSteps:
        """What a worker does for this task; imported and made on first use."""

    def _kept_steps(self) -> Any:
        """Return this task's own steps, if it has run; not those of a task that it was copied from."""
        steps = vars(self).get("_steps")
        return steps if steps is not None and steps.task is self else None

    def _keep_steps(self, make: Callable[[Self], Steps]) -> Steps:
        """Return this task's own steps, made on first use."""
        steps: Steps | None = self._kept_steps()
        if steps is None:
            vars(self)["_steps"] = steps = make(self)
        return steps

    def poke(self, context: Context) -> PokeReturnValue:
        """Ask Personalize once; done when the job is ACTIVE."""
        return self.worker_steps.poke(context)

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """
        End the way the trigger's event says.

        :param context: the task's context
        :param event: the event; any other than our trigger's is an error
        :returns: what the task returns when the job is ACTIVE
        """
        return self.worker_steps.execute_complete(context, event)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """
        Resume after deferral, and end every error the way it would end on a worker.

        Airflow's own version of this makes soft_fail and never_fail mean something else after deferral, and
        something else again on Airflow 2.
        """
        with self.told_failure():
            return self.worker_steps.resume(next_method, next_kwargs, context)

    def get_openlineage_facets_on_start(self) -> OperatorLineage[Any, Any] | None:
        """Tell OpenLineage what the task waits for or creates; it asks again when the task resumes."""
        return self.worker_steps.tell_lineage()

    def get_openlineage_facets_on_complete(self, ti: Any) -> OperatorLineage[Any, Any] | None:
        """
        Tell OpenLineage of the job that the task has seen.

        :param ti: the task's instance
        """
        return self.worker_steps.tell_lineage()

    def get_openlineage_facets_on_failure(self, ti: Any) -> OperatorLineage[Any, Any] | None:
        """
        Tell OpenLineage what is known of the job of a task that failed.

        :param ti: the task's instance
        """
        return self.worker_steps.tell_lineage()
