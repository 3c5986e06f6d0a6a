"""
Run a task when a batch inference job is done, without holding a worker while it runs.

- `wait_for_job` asks about the job every two minutes. Between two questions it is *up for reschedule*, and
  no worker is needed. When the job ends in CREATE FAILED, the task fails with Personalize's reason.
- `announce` logs where the recommendations are.

## Try it

Trigger this DAG with the button at the top right, and enter the ARN of your job.

If `make airflow` started this Airflow, leave the value as it is.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from airflow_provider_personalize_segments.sensors import PersonalizeBatchInferenceJobSensor

try:
    from airflow.sdk import DAG, Param, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import task
    from airflow.models import DAG, Param

log = logging.getLogger("airflow.task")

with DAG(
    dag_id="wait_for_inference_job",
    schedule=None,
    tags=["example", "personalize"],
    doc_md=__doc__,
    params={
        "job_arn": Param(
            "arn:aws:personalize:us-east-1:123456789012:batch-inference-job/demo-recommendations",
            type="string",
        )
    },
) as dag:
    wait_for_job = PersonalizeBatchInferenceJobSensor(
        task_id="wait_for_job",
        job_arn="{{ params.job_arn }}",
        mode="reschedule",
        poke_interval=120,
        timeout=timedelta(hours=6),
    )

    @task
    def announce(job: dict[str, Any]) -> str:
        """Return where the recommendations are."""
        folder: str = job["jobOutput"]["s3DataDestination"]["path"]
        log.info("%s is %s: its recommendations are in %s", job["jobName"], job["status"], folder)
        return folder

    announce(wait_for_job.output)
