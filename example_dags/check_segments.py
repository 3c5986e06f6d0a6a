"""
Open the gate only for segments of which nearly all are good.

- `wait_for_job` waits in the triggerer until the job is ACTIVE. Then it reads the output in S3, and fails
  when more than one record in twenty has an error, or when a file is missing, old or cut off.
- `report` logs how many records there are, and the first errors. Airflow does not start it when the
  output is not good enough.

## Try it

Trigger this DAG with the button at the top right, and enter the ARN of your job.

If `make airflow` started this Airflow, leave the value as it is.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor

try:
    from airflow.sdk import DAG, Param, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import task
    from airflow.models import DAG, Param

log = logging.getLogger("airflow.task")

with DAG(
    dag_id="check_segments",
    schedule=None,
    tags=["example", "personalize"],
    doc_md=__doc__,
    params={
        "job_arn": Param(
            "arn:aws:personalize:us-east-1:123456789012:batch-segment-job/monthly-segments",
            type="string",
            description="The batch segment job to wait for.",
        )
    },
) as dag:
    wait_for_job = PersonalizeBatchSegmentJobSensor(
        task_id="wait_for_job",
        job_arn="{{ params.job_arn }}",
        max_error_rate=0.05,
        deferrable=True,
        poke_interval=60,
        timeout=timedelta(hours=6),
    )

    @task
    def report(counts: dict[str, Any]) -> str:
        """Say how good the output is."""
        said = f"{counts['records']} segments, {counts['errors']} of them with an error"
        for line in (said, *counts["firstErrors"]):
            log.info("%s", line)
        return said

    report(wait_for_job.output["counts"])
