"""
Turn the segments of a job into a table, and ask the table.

- `wait_for_job` waits in the triggerer until the job is ACTIVE. Then it reads the output in S3, and fails
  when more than one record in twenty has an error, or when a file is missing, old or cut off.
- `convert` writes the segments as Parquet, with a row for each user of each segment. The table is complete,
  or it is not there.
- `show_segments` reads the table, and logs how many users each segment has, and the first of them.

## Try it

Trigger this DAG with the button at the top right, and enter the ARN of your job, and a folder for tables.
Workers need the extra `parquet` of this package.

If `make airflow` started this Airflow, leave the values as they are.
"""

from __future__ import annotations

import io
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
    dag_id="segments_to_parquet",
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
            "s3://demo-bucket/tables/",
            type="string",
            description="The folder that gets a folder for each run; it ends in a slash.",
        ),
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

    convert = PersonalizeSegmentsToParquetOperator(
        task_id="convert",
        job_arn="{{ params.job_arn }}",
        output_path=OUTPUT,
        max_error_rate=0.05,
        retries=2,
        retry_delay=timedelta(minutes=1),
    )

    @task
    def show_segments(result: dict[str, Any]) -> int:
        """Log the first users of each segment, and return how many rows the table has."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        s3 = S3Hook()
        bucket, prefix = S3Hook.parse_s3_url(result["outputPath"])
        # The folder's own files only: the table of errors is in a folder below.
        keys = [key for key in s3.list_keys(bucket, prefix, delimiter="/") if key.endswith(".parquet")]
        files = [io.BytesIO(s3.get_key(key, bucket).get()["Body"].read()) for key in keys]
        segments = pa.concat_tables(pq.read_table(file) for file in files)

        counts = segments.group_by("query", use_threads=False).aggregate([("user_id", "count")])
        table = [f"{'segment':<10} {'users':>5}  the first of them"]
        for row in counts.to_pylist():
            first = (pc.field("query") == row["query"]) & (pc.field("rank") <= 4)
            users = segments.filter(first).sort_by("rank")["user_id"].to_pylist()
            table.append(f"{row['query']:<10} {row['user_id_count']:>5}  {', '.join(users)}")
        for line in table:
            log.info("%s", line)
        return segments.num_rows

    wait_for_job >> convert
    show_segments(convert.output)
