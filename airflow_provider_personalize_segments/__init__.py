"""Airflow operators, sensors and hooks for Amazon Personalize batch jobs."""

__version__ = "0.1.0"
