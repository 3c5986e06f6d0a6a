"""
Run a task when all of a solution version's recent batch segment jobs are done.

The list has as many jobs as there are, so the sensor is mapped over it: one task instance per job, each with
its own log and its own end. ``report`` runs when every one of them is ACTIVE; a single failed job stops it.
No recent job at all skips the sensor, and ``report`` with it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG, Param, task

from airflow_provider_personalize_segments.operators import PersonalizeListBatchSegmentJobsOperator
from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor

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
            print(f"Segments are in {folder}", flush=True)
        return folders

    report(wait_for_jobs.output)
