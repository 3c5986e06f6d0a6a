"""
Tell people why a batch segment job failed.

- `wait_for_job` waits in the triggerer until the job is ACTIVE. When the job ends in CREATE FAILED, the
  task fails, and Airflow calls the function `alert` with the exception. The exception has the job's ARN,
  its status and Personalize's reason. This `alert` writes them at the end of the task's log.
- `use_segments` stands for what you do with the segments. Airflow does not start it when the job has
  failed.

## Try it

Trigger this DAG with the button at the top right, and enter the ARN of your job.

If `make airflow` started this Airflow, leave the value as it is: that job is going to fail.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from airflow_provider_personalize_segments.errors import PersonalizeJobFailedError
from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor

try:
    from airflow.sdk import DAG, Param, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import task
    from airflow.models import DAG, Param

log = logging.getLogger("airflow.task")


def alert(context: Any) -> None:
    """Tell what happened; yours may write to a chat, or open a ticket."""
    error = context.get("exception")
    if isinstance(error, PersonalizeJobFailedError):
        log.error("ALERT: %s is %s, because: %s", error.job_arn, error.status, error.failure_reason)
    else:
        log.error("ALERT: nobody knows how the job ended: %s", error)


with DAG(
    dag_id="alert_when_job_fails",
    schedule=None,
    tags=["example", "personalize"],
    doc_md=__doc__,
    params={
        "job_arn": Param(
            "arn:aws:personalize:us-east-1:123456789012:batch-segment-job/doomed-segments",
            type="string",
            description="The batch segment job to wait for.",
        )
    },
) as dag:
    wait_for_job = PersonalizeBatchSegmentJobSensor(
        task_id="wait_for_job",
        job_arn="{{ params.job_arn }}",
        deferrable=True,
        poke_interval=60,
        timeout=timedelta(hours=6),
        on_failure_callback=alert,
    )

    @task
    def use_segments(job: dict[str, Any]) -> str:
        """Return where the segments are."""
        folder: str = job["jobOutput"]["s3DataDestination"]["path"]
        log.info("Segments are in %s", folder)
        return folder

    use_segments(wait_for_job.output)
