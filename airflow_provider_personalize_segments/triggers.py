"""Triggers: what deferrable sensors and operators wait with.

Airflow stores a trigger under the path of its class here, so these names stay.
"""

from __future__ import annotations

from airflow_provider_personalize_segments.creating.trigger import PersonalizeCreateBatchJobTrigger
from airflow_provider_personalize_segments.waiting.trigger import PersonalizeBatchJobTrigger

__all__ = ["PersonalizeBatchJobTrigger", "PersonalizeCreateBatchJobTrigger"]
