"""
Start a DAG when the segments of a job are there, whichever DAG waited for the job.

- `wait_for_job` waits in the triggerer until the job is ACTIVE. Then the output folder of the job is an
  updated asset, through the alias `segments`. A job that fails updates nothing.

The DAG `segments_as_assets_reader` in the same file is scheduled on the alias. Its task `count_segments`
reads which job it is about from the event, and counts the segments in the folder.

## Try it

Trigger this DAG with the button at the top right, and enter the ARN of your job. Unpause
`segments_as_assets_reader` before: it starts by itself.

If `make airflow` started this Airflow, leave the value as it is.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor

try:
    from airflow.sdk import DAG, AssetAlias, Param, task
except ImportError:  # Airflow 2.11
    from airflow.datasets import DatasetAlias as AssetAlias
    from airflow.decorators import task
    from airflow.models import DAG, Param

SEGMENTS = AssetAlias("segments")

log = logging.getLogger("airflow.task")

with DAG(
    dag_id="segments_as_assets",
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
    PersonalizeBatchSegmentJobSensor(
        task_id="wait_for_job",
        job_arn="{{ params.job_arn }}",
        outlets=[SEGMENTS],
        deferrable=True,
        poke_interval=60,
        timeout=timedelta(hours=6),
    )

with DAG(
    dag_id="segments_as_assets_reader",
    schedule=[SEGMENTS],
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    tags=["example", "personalize"],
) as reader:

    @task
    def count_segments(
        triggering_asset_events: Any = None, triggering_dataset_events: Any = None
    ) -> dict[str, int]:
        """Return how many segments each job has that this run is about."""
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        # Airflow gives the first to the task, and Airflow 2 the second.
        events_by_asset = triggering_asset_events or triggering_dataset_events or {}
        # Several jobs may have ended since the last run, and Airflow 3 has each event by asset and by alias.
        events = {each.extra["jobArn"]: each for found in events_by_asset.values() for each in found}

        s3, counts = S3Hook(), {}
        for job_arn, event in events.items():
            uri = event.asset.uri if hasattr(event, "asset") else event.uri
            # The URI of an asset has no slash at its end; the folder has.
            bucket, prefix = S3Hook.parse_s3_url(f"{uri}/")
            keys = [key for key in s3.list_keys(bucket, prefix) if key.endswith(".out")]
            counts[job_arn] = sum(len(s3.read_key(key, bucket).rstrip("\n").split("\n")) for key in keys)
            log.info("%s job %s: %d records in %s", event.extra["kind"], job_arn, counts[job_arn], uri)
        return counts

    count_segments()
