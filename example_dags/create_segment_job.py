"""
Create a batch segment job, wait until it is done, and read its user segments.

- `upload_input` writes one line for each item into your bucket.
- `create_job` creates the job once, even if a worker or triggerer dies, and waits for it. As soon as the
  job exists, its ARN is in XCom, and the task has links to the AWS console. When the job ends in CREATE
  FAILED, the task's next try creates another job.
- `show_segments` logs the first users of each segment. Airflow does not start it when the last
  try's job has failed, too.

## Try it

Trigger this DAG with the button at the top right, and enter:

- the ARN of your solution version; its recipe is
  [Item-Affinity](https://docs.aws.amazon.com/personalize/latest/dg/item-affinity-recipe.html),
- the role with which Personalize reads and writes S3 ([how to set it
  up](https://docs.aws.amazon.com/personalize/latest/dg/granting-personalize-s3-access.html)),
- your bucket, and the items whose users you want.

If `make airflow` started this Airflow, leave the values as they are.
"""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from typing import Any

from airflow_provider_personalize_segments.operators import PersonalizeCreateBatchSegmentJobOperator

try:
    from airflow.sdk import DAG, Param, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import task
    from airflow.models import DAG, Param

# Each run has folders of its own, and all tries of a run have the same.
FOLDER = "s3://{{ params.bucket }}/segments/{{ run_id | replace(':', '') | replace('+', '_') }}"

log = logging.getLogger("airflow.task")

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
    def show_segments(job: dict[str, Any]) -> int:
        """Log the first users of each segment, and return how many segments there are."""
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        # Personalize writes the users for items.json to items.json.out.
        folder = job["jobOutput"]["s3DataDestination"]["path"]
        name = job["jobInput"]["s3DataSource"]["path"].rpartition("/")[2]
        s3 = S3Hook()
        bucket, key = S3Hook.parse_s3_url(f"{folder}{name}.out")
        records = [json.loads(line) for line in s3.read_key(key, bucket).rstrip("\n").split("\n")]

        table = [f"{'item':<10} {'users':>5}  the first of them"]
        for record in records:
            # A record that could not be served has an error instead, though the job is ACTIVE.
            users = (record.get("output") or {}).get("usersList") or []
            shown = record.get("error") or ", ".join(users[:4])
            table.append(f"{record['input'].get('itemId', '?'):<10} {len(users):>5}  {shown}")
        for line in table:
            log.info("%s", line)
        return len(records)

    upload_input(f"{FOLDER}/input/items.json", "{{ params['items'] | tojson }}") >> create_job
    show_segments(create_job.output["job"])
