"""Scheduling DAGs when jobs are done."""
