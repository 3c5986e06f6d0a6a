"""The DAG of test_running_triggerer.py, which writes the plan beside it."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

try:
    from airflow.sdk import DAG, BaseOperator
except ImportError:
    from airflow.models import DAG, BaseOperator

from airflow_provider_personalize_segments.operators import PersonalizeCreateBatchSegmentJobOperator
from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor

FOLDER = Path(__file__).parent
PLAN = json.loads((FOLDER / "plan.json").read_text())


def record(word, context, **details):
    error = str(context.get("exception") or "")
    line = {"word": word, "task_id": context["ti"].task_id, "error": error, **details}
    # One write to a file opened for appending is not mixed up with those of other processes.
    descriptor = os.open(FOLDER / "events.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, (json.dumps(line) + "\n").encode())
    os.close(descriptor)


class Neighbour(BaseOperator):
    """Waits in the triggerer with a trigger that is none of ours."""

    def __init__(self, *, seconds, **kwargs):
        super().__init__(**kwargs)
        self.seconds = seconds

    def execute(self, context):
        from neighbours import SleepingTrigger

        self.defer(trigger=SleepingTrigger(self.seconds), method_name="resume")

    def resume(self, context, event):
        record("neighbour", context, **event)


with DAG("beside", schedule="@once", start_date=datetime(2026, 1, 1, tzinfo=UTC), max_active_tasks=64):
    for index, seconds in enumerate(PLAN["neighbours"]):
        Neighbour(task_id=f"neighbour.{index}", seconds=seconds)
    for task_id, options in PLAN["sensors"].items():
        PersonalizeBatchSegmentJobSensor(
            task_id=task_id,
            deferrable=True,
            poke_interval=PLAN["poke_interval"],
            retries=2,
            retry_delay=1,
            on_failure_callback=lambda context: record("failed", context),
            **options,
        )
    for number in range(PLAN["creates"]):
        PersonalizeCreateBatchSegmentJobOperator(
            task_id=f"create.{number}",
            solution_version_arn=PLAN["solution_version_arn"],
            role_arn="arn:aws:iam::123456789012:role/PersonalizeS3Access",
            input_path=f"s3://shop/in/{number}.jsonl",
            output_path="s3://shop/out/",
            job_name=f"created-{number}",
            aws_conn_id=PLAN["connections"][number % len(PLAN["connections"])],
            deferrable=True,
            poll_interval=PLAN["poke_interval"],
            timeout=3600,
            retries=2,
            retry_delay=1,
        )
