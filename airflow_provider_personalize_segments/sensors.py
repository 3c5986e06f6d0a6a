"""Sensors: a task that is done when a Personalize batch job is, and fails with the reason when it failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_personalize_segments.airflow_compat import BaseSensorOperator
from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.tasks import CONNECTION_FIELDS, DEFAULT_DEFERRABLE
from airflow_provider_personalize_segments.waiting.task import JobWaitingTask

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.airflow_compat import Context
    from airflow_provider_personalize_segments.waiting.sensing import SensorSteps


class BatchJobSensor(JobWaitingTask, BaseSensorOperator):
    """
    Wait until a batch job is ACTIVE; base of the sensors for the two kinds.

    - ACTIVE: done. XCom ``return_value`` is the job as Describe gives it, as plain JSON.
    - CREATE FAILED, or any other status that ends in FAILED or STOPPED: the task fails with
      :class:`~.errors.PersonalizeJobFailedError` and Personalize's reason, without retries.
    - Any other status, known or not: not yet. An undocumented one is warned about.
    - Throttling, 5xx, network faults and unreadable answers: not yet, until ``timeout``.
    - Access denied, invalid input, a job or a connection that does not exist: the task fails at once,
      without retries, naming the ARN, the region and the connection.

    A wrong ``job_arn`` or ``region_name`` fails the task before anything is called, and neither
    ``soft_fail`` nor ``never_fail`` hides it: it is a mistake in the DAG, not news about the job.

    :param job_arn: the ARN of the job
    :param deferrable: whether to wait in the triggerer instead of on a worker, in every ``mode``; the
        default is ``[operators] default_deferrable``. Every other parameter means the same there.
    :param max_error_rate: the largest share of records with an error that the job's output may hold, 0.0
        to 1.0. Once the job is ACTIVE, the worker reads the output in S3, and the task fails with
        :class:`~.errors.PersonalizeOutputError` when the share is larger, or when a file is missing, empty,
        old or cut off. XCom ``counts`` then holds ``files``, ``bytes``, ``records``, ``errors``,
        ``errorRate`` and ``firstErrors``. ``None`` (the default) means not to look
    :param kwargs: the connection parameters of :class:`~.tasks.PersonalizeTask`, and everything that
        Airflow's ``BaseSensorOperator`` takes: ``mode`` (``poke`` or ``reschedule``), ``poke_interval``
        (seconds or a ``timedelta``, more than 0; 60 unless given), ``timeout`` (the same;
        ``[sensors] default_timeout``, seven days, unless given), ``exponential_backoff``, ``max_wait``,
        ``soft_fail``, ``silent_fail``, ``never_fail``. The parameters above and the connection's are
        templated, Airflow's are not. With an ``AssetAlias`` among its ``outlets``, the sensor emits the
        job's output folder as an asset once the job is ACTIVE

    .. seealso:: https://docs.aws.amazon.com/personalize/latest/dg/API_DescribeBatchSegmentJob.html
    """

    template_fields: Sequence[str] = ("job_arn", "deferrable", "max_error_rate", *CONNECTION_FIELDS)
    _named_otherwise: ClassVar[Mapping[str, str]] = {
        "poll_interval": "write poke_interval, in seconds",
        "waiter_delay": "write poke_interval, in seconds",
        "check_interval": "write poke_interval, in seconds",
        "waiter_max_attempts": "write timeout, in seconds; it alone ends the wait",
        "max_retries": "write timeout, in seconds; it alone ends the wait",
        "max_attempts": "write timeout, in seconds; it alone ends the wait",
        "wait_for_completion": "a sensor always waits",
        "success_state": "only ACTIVE is success",
        "job_name": "write job_arn, the job's ARN",
        "job_id": "write job_arn, the job's ARN",
    }

    def __init__(
        self,
        *,
        job_arn: str,
        deferrable: bool = DEFAULT_DEFERRABLE,
        max_error_rate: float | str | None = None,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        verify: bool | str | None = None,
        botocore_config: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        # Airflow refuses an interval below 0 here, and names no task; the task itself does, when it runs.
        interval = kwargs.get("poke_interval")
        seconds: Any = interval.total_seconds() if isinstance(interval, timedelta) else interval
        if is_negative := isinstance(seconds, (int, float)) and seconds < 0:
            del kwargs["poke_interval"]
        super().__init__(
            aws_conn_id=aws_conn_id,
            region_name=region_name,
            verify=verify,
            botocore_config=botocore_config,
            **kwargs,
        )
        if is_negative:
            self.poke_interval = seconds
        self.job_arn = job_arn
        self.deferrable = deferrable
        self.max_error_rate = max_error_rate
        self.has_error_limit = max_error_rate is not None

    @property
    def arn_region(self) -> str:
        """The region in ``job_arn``."""
        from airflow_provider_personalize_segments.arns import parse_job_arn

        return parse_job_arn(self.job_arn, self.kind, source=self.source_of("job_arn")).region

    def execute(self, context: Context) -> Any:
        """Check what was rendered, then wait until the job is done."""
        with self.told_failure():
            return self.worker_steps.execute(context)

    @property
    def worker_steps(self) -> SensorSteps:
        """What a worker does for this sensor."""
        from airflow_provider_personalize_segments.waiting.sensing import SensorSteps

        return self._keep_steps(SensorSteps)


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
