"""
Upload input, create a batch segment job, and read its user segments when they are there.

``create_job`` creates the job once, whatever happens to the worker meanwhile, and waits for it. Its ARN is
in XCom, and its links lead to the AWS console, as soon as it exists. When the job ends in CREATE FAILED,
a retry of the task creates the next one; when the last one failed, too, ``show_segments`` never runs.

Trigger it with your solution version, of the recipe Item-Affinity, your bucket, and the role that
Personalize may use it with; or try it without an AWS account: ``make demo``.
"""

from __future__ import annotations

import json
from datetime import timedelta

# Works on Airflow 2.11 and 3.x alike. On 3.x alone: from airflow.sdk import DAG, Param, task
from airflow.providers.common.compat.sdk import DAG, Param, task

from airflow_provider_personalize_segments.operators import PersonalizeCreateBatchSegmentJobOperator

# Each run has folders of its own, and all tries of a run have the same.
FOLDER = "s3://{{ params.bucket }}/segments/{{ run_id | replace(':', '') | replace('+', '_') }}"

with DAG(
    dag_id="create_segment_job",
    schedule=None,
    tags=["example", "personalize"],
    doc_md=__doc__,
    params={
        "solution_version_arn": Param(
            "arn:aws:personalize:us-east-1:123456789012:solution/demo-segments/69b4b68a",
            type="string",
            description="Makes the segments; its recipe is Item-Affinity.",
        ),
        "role_arn": Param(
            "arn:aws:iam::123456789012:role/PersonalizeS3Access",
            type="string",
            description="The role that Personalize reads and writes the bucket with.",
        ),
        "bucket": Param("demo-bucket", type="string", description="Holds input and output."),
        "items": Param(
            ["b1042", "b2177", "b3301", "b4008", "b5590"],
            type="array",
            description="Each item gets the segment of users who like it best; at most 500.",
        ),
    },
) as dag:

    @task
    def upload_input(path: str, items: str) -> None:
        """Write one line for each item."""
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        bucket, key = S3Hook.parse_s3_url(path)
        lines = [json.dumps({"itemId": item}) for item in json.loads(items)]
        # A retry writes it again.
        S3Hook().load_string("\n".join(lines), key, bucket, replace=True)

    create_job = PersonalizeCreateBatchSegmentJobOperator(
        task_id="create_job",
        solution_version_arn="{{ params.solution_version_arn }}",
        role_arn="{{ params.role_arn }}",
        input_path=f"{FOLDER}/input/items.json",
        output_path=f"{FOLDER}/output/",
        num_results=100,
        timeout=timedelta(hours=6),
        retries=2,
        retry_delay=timedelta(minutes=1),
    )

    @task
    def show_segments(path: str) -> int:
        """Print the first users of each segment, and return how many segments there are."""
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        s3 = S3Hook()
        bucket, key = S3Hook.parse_s3_url(path)
        records = [json.loads(line) for line in s3.read_key(key, bucket).splitlines()]

        table = [f"{'item':<10} {'users':>5}  the first of them"]
        for record in records:
            # A record that could not be served has an error instead, though the job is ACTIVE.
            users = (record.get("output") or {}).get("usersList") or []
            shown = record.get("error") or ", ".join(users[:4])
            table.append(f"{record['input'].get('itemId', '?'):<10} {len(users):>5}  {shown}")
        print("\n".join(table), flush=True)
        return len(records)

    (
        upload_input(f"{FOLDER}/input/items.json", "{{ params['items'] | tojson }}")
        >> create_job
        >> show_segments(f"{FOLDER}/output/items.json.out")
    )
