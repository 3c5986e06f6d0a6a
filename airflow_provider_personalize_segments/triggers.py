"""Triggers: what deferrable sensors and operators wait with, and what watches for jobs that end.

Airflow stores a trigger under the path of its class here, so these names stay.
"""

from __future__ import annotations

from airflow_provider_personalize_segments.creating.trigger import PersonalizeCreateBatchJobTrigger
from airflow_provider_personalize_segments.waiting.trigger import PersonalizeBatchJobTrigger
from airflow_provider_personalize_segments.watching.trigger import PersonalizeBatchJobEventTrigger

__all__ = [
    "PersonalizeBatchJobEventTrigger",
    "PersonalizeBatchJobTrigger",
    "PersonalizeCreateBatchJobTrigger",
]
