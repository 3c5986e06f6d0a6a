"""The DAG of test_running_watcher.py, which writes the plan beside it: a consumer that events start."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.sdk import DAG, Asset, AssetWatcher, BaseOperator

from airflow_provider_personalize_segments.triggers import PersonalizeBatchJobEventTrigger

FOLDER = Path(__file__).parent
PLAN = json.loads((FOLDER / "plan.json").read_text())


class Record(BaseOperator):
    """Writes down which jobs the events that started this run tell of."""

    def execute(self, context):
        found = [event for events in context["triggering_asset_events"].values() for event in events]
        line = {"run_id": context["run_id"], "events": [event.extra["payload"] for event in found]}
        # One write to a file opened for appending is not mixed up with those of other processes.
        descriptor = os.open(FOLDER / "events.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, (json.dumps(line) + "\n").encode())
        os.close(descriptor)


for name, options in PLAN["watchers"].items():
    asset = Asset(
        name, watchers=[AssetWatcher(name=name, trigger=PersonalizeBatchJobEventTrigger(**options))]
    )
    with DAG(f"on_{name}", schedule=[asset], start_date=datetime(2026, 1, 1, tzinfo=UTC), max_active_runs=64):
        # Airflow itself fails a task now and then, see `lost_tasks` of the harness.
        Record(task_id="record", retries=3, retry_delay=timedelta(seconds=1))
