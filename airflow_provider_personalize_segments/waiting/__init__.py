"""Waiting for a job: one judgment, on a worker and in the triggerer."""
