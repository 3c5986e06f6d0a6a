"""DAGs that start by themselves when jobs are done: watchers of jobs, and assets."""
