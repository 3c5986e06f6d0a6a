"""Airflow's names for tests and their DAG files, from where the running Airflow has them."""

from __future__ import annotations

try:
    from airflow.sdk import DAG, Asset, AssetAlias, BaseOperator, TaskGroup, task
except ImportError:  # Airflow 2.11
    from airflow.datasets import Dataset as Asset
    from airflow.datasets import DatasetAlias as AssetAlias
    from airflow.decorators import task
    from airflow.models import DAG, BaseOperator
    from airflow.utils.task_group import TaskGroup
try:
    from airflow.sdk.exceptions import TaskDeferred
except ImportError:  # before Airflow 3.2
    from airflow.exceptions import TaskDeferred

__all__ = ["DAG", "Asset", "AssetAlias", "BaseOperator", "TaskDeferred", "TaskGroup", "task"]
