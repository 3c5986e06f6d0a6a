"""Creating a job once, whatever dies in between."""
