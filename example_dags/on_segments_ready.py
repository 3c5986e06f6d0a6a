"""
Run when batch segment jobs are ready, whoever created them, and make a table of each job's segments.

The asset `user_segments` has a watcher. Once a minute it looks for batch segment jobs of the account that
have become ACTIVE, and starts this DAG with a list of them.

- `list_tables` reads from the events which jobs are ready, and chooses a folder for each.
- `make_table` is mapped over the jobs. It converts the segments of each to Parquet.

A job may arrive twice, such as when the triggerer was restarted. The second run makes the same table in the
same folder.

## Try it

Unpause this DAG, and wait until a job is ACTIVE. On AWS, put the name of a bucket of yours into `BUCKET`
first. Workers need the extra `parquet` of this package. Asset watchers need Airflow 3; on Airflow 2 this DAG
is not there.

If `make airflow` started this Airflow, the DAG starts by itself within a minute.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

try:
    from airflow.sdk import DAG, Asset, AssetWatcher, task
except ImportError:
    HAS_WATCHERS = False
else:
    HAS_WATCHERS = True

from airflow_provider_personalize_segments.operators import PersonalizeSegmentsToParquetOperator

if HAS_WATCHERS:
    from airflow_provider_personalize_segments.triggers import PersonalizeBatchJobEventTrigger

    BUCKET = "demo-bucket"
    SEGMENTS = Asset(
        "user_segments",
        watchers=[
            AssetWatcher(
                name="segment_jobs",
                trigger=PersonalizeBatchJobEventTrigger(kind="segment", poll_interval=60),
            )
        ],
    )

    with DAG(
        dag_id="on_segments_ready",
        schedule=[SEGMENTS],
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        tags=["example", "personalize"],
        doc_md=__doc__,
    ) as dag:

        @task
        def list_tables(triggering_asset_events: Any) -> list[dict[str, str]]:
            """Return the jobs that the events tell of, each once, with the folder of its table."""
            events = [event for found in triggering_asset_events.values() for event in found]
            # An event that a person makes has no payload, or one that is null.
            jobs = [job for event in events for job in event.extra.get("payload") or ()]
            folders = {job["batchSegmentJobArn"]: f"s3://{BUCKET}/ready/{job['jobName']}/" for job in jobs}
            return [{"job_arn": arn, "output_path": folder} for arn, folder in folders.items()]

        PersonalizeSegmentsToParquetOperator.partial(
            task_id="make_table",
            map_index_template="{{ task.job_arn.split('/')[-1] }}",
            max_error_rate=0.05,
            retries=2,
            retry_delay=timedelta(minutes=1),
        ).expand_kwargs(list_tables())
