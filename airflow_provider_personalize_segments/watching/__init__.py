"""Watching for jobs that end, so that DAGs start by themselves."""
