"""What several test files put in place of what needs a database, a supervisor or a triggerer of Airflow's."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace


class TaskInstance(SimpleNamespace):
    """What a task knows of its own instance."""

    def __init__(self, **fields):
        given = {
            "dag_id": "shop",
            "task_id": "create",
            "run_id": "manual__2026-11-23T02:00:00+00:00",
            "map_index": -1,
            "try_number": 1,
            "max_tries": 0,
            "start_date": datetime.now(UTC),
            "xcoms": {},
        }
        super().__init__(**{**given, **fields})

    def xcom_push(self, key, value):
        self.xcoms[key] = value

    def xcom_pull(self, task_ids, key, map_indexes):
        return self.xcoms.get(key)


async def first_event(trigger):
    """Return what a trigger fires first."""
    async for event in trigger.run():
        return event.payload
