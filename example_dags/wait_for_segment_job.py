"""
Run a task when a batch segment job is done, and not before.

Another DAG, or a person, has created the job:

- `list_jobs` finds the newest job of a solution version. When there is none, Airflow skips all tasks.
- `take_newest` hands the ARN of this job on.
- `wait_for_job` waits until this job is ACTIVE. When the job ends in CREATE FAILED, the task fails with
  Personalize's reason, and Airflow does not retry it.
- `show_segments` logs the first users of each segment, as they are in S3. Airflow does not
  start it when the job has failed.

## Try it

Trigger this DAG with the button at the top right, and enter the ARN of your solution version.

If `make airflow` started this Airflow, leave the value as it is.
"""

from __future__ import annotations

import json
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
    dag_id="wait_for_segment_job",
    schedule=None,
    tags=["example", "personalize"],
    doc_md=__doc__,
    params={
        "solution_version_arn": Param(
            "arn:aws:personalize:us-east-1:123456789012:solution/demo-segments/69b4b68a",
            type="string",
            description="Its newest batch segment job is waited for; its recipe is Item-Affinity.",
        )
    },
) as dag:

    @task
    def take_newest(jobs: list[dict[str, Any]]) -> str:
        """Return the ARN of the newest job, which is the only one."""
        arn: str = jobs[0]["batchSegmentJobArn"]
        return arn

    list_jobs = PersonalizeListBatchSegmentJobsOperator(
        task_id="list_jobs",
        solution_version_arn="{{ params.solution_version_arn }}",
        max_items=1,
        if_empty="skip",
    )

    wait_for_job = PersonalizeBatchSegmentJobSensor(
        task_id="wait_for_job",
        job_arn=take_newest(list_jobs.output),
        poke_interval=60,
        timeout=timedelta(hours=6),
    )

    # Airflow starts it when the job is ACTIVE, and not before.
    @task
    def show_segments(job: dict[str, Any]) -> int:
        """Log the first users of each segment, and return how many segments there are."""
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        s3 = S3Hook()
        bucket, prefix = S3Hook.parse_s3_url(job["jobOutput"]["s3DataDestination"]["path"])
        # One .out file per input file; _CHECK, which Personalize writes beside them, is not one.
        keys = [key for key in s3.list_keys(bucket, prefix) if key.endswith(".out")]
        records = [
            json.loads(line) for key in keys for line in s3.read_key(key, bucket).rstrip("\n").split("\n")
        ]

        table = [f"{'item':<10} {'users':>5}  the first of them"]
        for record in records:
            # A record that could not be served has an error instead, though the job is ACTIVE.
            users = (record.get("output") or {}).get("usersList") or []
            shown = record.get("error") or ", ".join(users[:4])
            table.append(f"{record['input'].get('itemId', '?'):<10} {len(users):>5}  {shown}")
        for line in table:
            log.info("%s", line)
        return len(records)

    show_segments(wait_for_job.output)
