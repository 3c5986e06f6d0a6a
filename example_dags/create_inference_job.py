"""
Create a batch inference job, and wait in the triggerer until it is done.

- `create_job` creates the job once, even if a worker or triggerer dies, and holds no worker while the job
  runs. When as many jobs run as AWS allows, the task waits for its turn. When the job ends in CREATE
  FAILED, the task's next try creates another job.
- `announce` logs where the recommendations are.

## Try it

Trigger this DAG with the button at the top right, and enter:

- the ARN of your solution version; its recipe is
  [User-Personalization](https://docs.aws.amazon.com/personalize/latest/dg/native-recipe-new-item-USER_PERSONALIZATION.html),
- the role with which Personalize reads and writes S3,
- the input in S3, a line such as `{"userId": "u17"}` for each user, and a folder for the output.

If `make airflow` started this Airflow, leave the values as they are.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from airflow_provider_personalize_segments.operators import PersonalizeCreateBatchInferenceJobOperator

try:
    from airflow.sdk import DAG, Param, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import task
    from airflow.models import DAG, Param

# Each run has a folder of its own, and all tries of a run have the same.
OUTPUT = "{{ params.output_path }}{{ run_id | replace(':', '') | replace('+', '_') }}/"

log = logging.getLogger("airflow.task")

with DAG(
    dag_id="create_inference_job",
    schedule=None,
    tags=["example", "personalize"],
    doc_md=__doc__,
    params={
        "solution_version_arn": Param(
            "arn:aws:personalize:us-east-1:123456789012:solution/demo-recommendations/d1649711",
            type="string",
            description="Makes the recommendations; its recipe is User-Personalization.",
        ),
        "role_arn": Param(
            "arn:aws:iam::123456789012:role/PersonalizeS3Access",
            type="string",
            description="The role that Personalize reads the input and writes the output with.",
        ),
        "input_path": Param(
            "s3://demo-bucket/input/inference.jsonl", type="string", description="One user on each line."
        ),
        "output_path": Param(
            "s3://demo-bucket/recommendations/",
            type="string",
            description="The folder that gets a folder for each run; it ends in a slash.",
        ),
    },
) as dag:
    create_job = PersonalizeCreateBatchInferenceJobOperator(
        task_id="create_job",
        solution_version_arn="{{ params.solution_version_arn }}",
        role_arn="{{ params.role_arn }}",
        input_path="{{ params.input_path }}",
        output_path=OUTPUT,
        num_results=10,
        batch_inference_job_config={"itemExplorationConfig": {"explorationWeight": "0.3"}},
        deferrable=True,
        timeout=timedelta(hours=6),
        retries=2,
        retry_delay=timedelta(minutes=1),
    )

    @task
    def announce(job: dict[str, Any]) -> str:
        """Return where the recommendations are."""
        path: str = job["jobOutput"]["s3DataDestination"]["path"]
        log.info("Recommendations are in %s", path)
        return path

    announce(create_job.output["job"])
