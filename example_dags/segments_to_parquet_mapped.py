"""
Turn the segments of a job into a table, with a task for each file of its output.

A job writes a file for each file of its input. When all of them are too much for one worker, or take one
worker too long, several workers share them. They make one result.

- `wait_for_job` waits in the triggerer until the job is ACTIVE.
- `list_files` lists the files that the job wrote.
- `convert` is mapped over the files, and bears their names. Each task writes a part of the table where no
  reader looks. The task that converts the last file makes all parts visible. When a worker dies, Airflow
  retries its task, which converts its own file again and nothing else.
- `report` logs where the table is, and how large. Airflow starts it when all parts are there.

## Try it

Trigger this DAG with the button at the top right, and enter the ARN of your job, and a folder for tables.
Workers need the extra `parquet` of this package.

If `make airflow` started this Airflow, leave the values as they are.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from airflow_provider_personalize_segments.operators import PersonalizeSegmentsToParquetOperator
from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor

try:
    from airflow.sdk import DAG, Param, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import task
    from airflow.models import DAG, Param

# Each run has a folder of its own, and all tries of a run have the same.
OUTPUT = "{{ params.output_path }}{{ run_id | replace(':', '') | replace('+', '_') }}/"

log = logging.getLogger("airflow.task")

with DAG(
    dag_id="segments_to_parquet_mapped",
    schedule=None,
    tags=["example", "personalize"],
    doc_md=__doc__,
    params={
        "job_arn": Param(
            "arn:aws:personalize:us-east-1:123456789012:batch-segment-job/monthly-segments",
            type="string",
            description="The batch segment job to wait for.",
        ),
        "output_path": Param(
            "s3://demo-bucket/mapped-tables/",
            type="string",
            description="The folder that gets a folder for each run; it ends in a slash.",
        ),
    },
) as dag:
    # Without max_error_rate: the tasks that convert the output read it, and judge it.
    wait_for_job = PersonalizeBatchSegmentJobSensor(
        task_id="wait_for_job",
        job_arn="{{ params.job_arn }}",
        deferrable=True,
        poke_interval=60,
        timeout=timedelta(hours=6),
    )

    @task
    def list_files(job: dict[str, Any]) -> list[str]:
        """Return the files that the job wrote."""
        from airflow_provider_personalize_segments.hooks import PersonalizeHook

        return PersonalizeHook().list_output_files(job["batchSegmentJobArn"])

    convert = PersonalizeSegmentsToParquetOperator.partial(
        task_id="convert",
        map_index_template="{{ task.output_file.split('/')[-1] }}",
        job_arn="{{ params.job_arn }}",
        output_path=OUTPUT,
        max_error_rate=0.05,
        retries=2,
        retry_delay=timedelta(minutes=1),
    ).expand(output_file=list_files(wait_for_job.output))

    @task
    def report(results: list[dict[str, Any]]) -> int:
        """Log where the table is, and return how many rows it has."""
        # At least one task has seen all parts, and knows the counts of the whole.
        whole = next(result for result in results if result["isComplete"])
        log.info("%d rows are in %s", whole["rows"], whole["outputPath"])
        log.info("%d of %d records have an error", whole["errors"], whole["records"])
        return whole["rows"]

    report(convert.output)
