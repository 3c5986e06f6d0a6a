"""
Run a task when all of a solution version's recent batch segment jobs are done.

- `list_jobs` lists the jobs, however many there are.
- `wait_for_jobs` is mapped over the list: each job has a task instance, which bears its name and has a log
  of its own. They wait in the triggerer, and hold no worker. Without any job Airflow skips it, and
  `report`, too.
- `report` logs where the segments are. Airflow starts it when every job is ACTIVE; a single job that ends
  in CREATE FAILED keeps it from running.

## Try it

Trigger this DAG with the button at the top right, and enter the ARN of your solution version, and since
when a job counts.

If `make airflow` started this Airflow, leave the values as they are.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from airflow_provider_personalize_segments.operators import PersonalizeListBatchSegmentJobsOperator
from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor

try:
    from airflow.sdk import DAG, Param, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import task
    from airflow.models import DAG, Param

log = logging.getLogger("airflow.task")

with DAG(
    dag_id="wait_for_all_segment_jobs",
    schedule=None,
    tags=["example", "personalize"],
    doc_md=__doc__,
    params={
        "solution_version_arn": Param(
            "arn:aws:personalize:us-east-1:123456789012:solution/demo-segments/69b4b68a", type="string"
        ),
        "created_after": Param(
            "2026-01-01", type="string", description="Older jobs do not count. ISO 8601; UTC unless it says."
        ),
    },
) as dag:
    list_jobs = PersonalizeListBatchSegmentJobsOperator(
        task_id="list_jobs",
        solution_version_arn="{{ params.solution_version_arn }}",
        created_after="{{ params.created_after }}",
        max_items=100,
    )

    wait_for_jobs = PersonalizeBatchSegmentJobSensor.partial(
        task_id="wait_for_jobs",
        # Airflow's UI shows the job's name in place of the map index.
        map_index_template="{{ task.job_arn.split('/')[-1] }}",
        # Waits in the triggerer: many sensors on workers would hold a slot each.
        deferrable=True,
        poke_interval=60,
        timeout=timedelta(hours=6),
    ).expand(job_arn=list_jobs.output.map(lambda job: job["batchSegmentJobArn"]))

    @task
    def report(jobs: list[dict[str, Any]]) -> list[str]:
        """Return where the output of each job is."""
        folders = [job["jobOutput"]["s3DataDestination"]["path"] for job in jobs]
        for folder in folders:
            log.info("Segments are in %s", folder)
        return folders

    report(wait_for_jobs.output)
