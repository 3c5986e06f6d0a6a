"""The DAG of test_running_airflow.py, which writes the plan beside it."""

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

try:
    from airflow.sdk import DAG, BaseOperator
except ImportError:
    from airflow.models import DAG, BaseOperator

from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor

FOLDER = Path(__file__).parent
PLAN = json.loads((FOLDER / "plan.json").read_text())


def record(word, context):
    line = {
        "word": word,
        "task_id": context["ti"].task_id,
        "time": datetime.now(UTC).isoformat(),
        "error": str(context.get("exception") or ""),
    }
    # One write to a file opened for appending is not mixed up with those of other processes.
    descriptor = os.open(FOLDER / "events.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, (json.dumps(line) + "\n").encode())
    os.close(descriptor)


class Gate(BaseOperator):
    def execute(self, context):
        while not (FOLDER / "gate").exists():
            time.sleep(0.2)


class Downstream(BaseOperator):
    def execute(self, context):
        record("ran", context)


def sensor(task_id, job_arn, **arguments):
    return PersonalizeBatchSegmentJobSensor(
        task_id=task_id,
        job_arn=job_arn,
        deferrable=True,
        poke_interval=PLAN["poke_interval"],
        retries=2,
        retry_delay=1,
        on_success_callback=lambda context: record("success", context),
        on_failure_callback=lambda context: record("failed", context),
        on_retry_callback=lambda context: record("retry", context),
        **arguments,
    )


with DAG("waiting", schedule="@once", start_date=datetime(2026, 1, 1, tzinfo=UTC), max_active_tasks=64):
    for job, number in PLAN["sensors_by_job"].items():
        done = Downstream(task_id=f"after.{job}")
        for index in range(number):
            sensor(f"wait.{job}.{index}", PLAN["arns"][job], timeout=3600) >> done
    # Begins when the test says so, and comes first when it is over: its time is measured.
    (
        Gate(task_id="gate", priority_weight=100)
        >> sensor(
            f"wait.{PLAN['endless']}.0",
            PLAN["arns"][PLAN["endless"]],
            timeout=PLAN["short_timeout"],
            priority_weight=100,
        )
        >> Downstream(task_id=f"after.{PLAN['endless']}")
    )
