"""Creating a job once, even if a worker or triggerer dies."""
