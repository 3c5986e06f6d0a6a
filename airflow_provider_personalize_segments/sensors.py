"""Sensors: a task that is done when a Personalize batch job is, and fails with the reason when it failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_personalize_segments.airflow_compat import BaseSensorOperator, PokeReturnValue
from airflow_provider_personalize_segments.errors import (
    PersonalizeJobFailedError,
    PersonalizeUnavailableError,
)
from airflow_provider_personalize_segments.jobs import (
    BatchJobKind,
    JobState,
    classify_status,
    is_known_status,
    make_json_safe,
    parse_job_arn,
)
from airflow_provider_personalize_segments.tasks import CONNECTION_FIELDS, PersonalizeTask

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.airflow_compat import Context


class BatchJobSensor(PersonalizeTask, BaseSensorOperator):
    """
    Wait until a batch job is ACTIVE; base of the sensors for the two kinds.

    - ACTIVE: done. XCom ``return_value`` is the job as Describe gives it, as plain JSON.
    - CREATE FAILED, or any other status that ends in FAILED or STOPPED: the task fails with
      :class:`~.errors.PersonalizeJobFailedError` and Personalize's reason, without retries.
    - Any other status, known or not: not yet. One that nobody documented is warned about.
    - Throttling, 5xx, network faults and unreadable answers: not yet, until ``timeout``.
    - Access denied, invalid input, a job or a connection that does not exist: the task fails at once,
      without retries, naming the ARN, the region and the connection.

    A wrong ``job_arn`` or ``region_name`` fails the task before anything is called, and neither
    ``soft_fail`` nor ``never_fail`` hides it: it is a mistake in the DAG, not news about the job.

    :param job_arn: the ARN of the job (templated)
    :param kwargs: the connection parameters of :class:`~.tasks.PersonalizeTask`, and everything that
        Airflow's ``BaseSensorOperator`` takes: ``mode`` (``poke`` or ``reschedule``), ``poke_interval`` and
        ``timeout`` in seconds, ``exponential_backoff``, ``max_wait``, ``soft_fail``, ``silent_fail``,
        ``never_fail``

    .. seealso:: https://docs.aws.amazon.com/personalize/latest/dg/API_DescribeBatchSegmentJob.html
    """

    template_fields: Sequence[str] = ("job_arn", *CONNECTION_FIELDS)

    def __init__(self, *, job_arn: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.job_arn = job_arn
        self._seen_status: str | None = None

    @property
    def arn_region(self) -> str:
        """The region in ``job_arn``."""
        return parse_job_arn(self.job_arn, self.kind, source=self.source_of("job_arn")).region

    def execute(self, context: Context) -> Any:
        """Check what was rendered, then poke until the job is done."""
        _ = self.hook  # raises what is wrong outside poke, where soft_fail and never_fail would hide it
        return super().execute(context)

    def poke(self, context: Context) -> PokeReturnValue:
        """Ask Personalize once; done when the job is ACTIVE."""
        try:
            job = self.hook.describe_job(self.job_arn)
        except PersonalizeUnavailableError as error:
            self.log.warning("Not yet: %s", error)
            return PokeReturnValue(is_done=False)
        self._report(job)
        state = classify_status(job["status"])
        if state is JobState.FAILED:
            raise PersonalizeJobFailedError.from_job(self.job_arn, job)
        return PokeReturnValue(is_done=state is JobState.ACTIVE, xcom_value=make_json_safe(job))

    def _report(self, job: dict[str, Any]) -> None:
        """Log a status when it is new, and warn when it is one that nobody documented."""
        status = job["status"]
        if status == self._seen_status:
            return
        self._seen_status = status
        self.log.info("%s is %s.", self.job_arn, status)
        if not is_known_status(status):
            self.log.warning(
                "%s has the status %r, which is not documented. Waiting on: only ACTIVE is success.",
                self.job_arn,
                status,
            )


class PersonalizeBatchSegmentJobSensor(BatchJobSensor):
    """
    Wait until a batch segment job is ACTIVE: its user segments are then in S3.

    ::

        PersonalizeBatchSegmentJobSensor(
            task_id="wait_for_segments",
            job_arn="arn:aws:personalize:us-east-1:123456789012:batch-segment-job/weekly",
            mode="reschedule",
            poke_interval=300,
            timeout=6 * 60 * 60,
        )
    """

    kind = BatchJobKind.SEGMENT


class PersonalizeBatchInferenceJobSensor(BatchJobSensor):
    """Wait until a batch inference job is ACTIVE; all else as :class:`PersonalizeBatchSegmentJobSensor`."""

    kind = BatchJobKind.INFERENCE
