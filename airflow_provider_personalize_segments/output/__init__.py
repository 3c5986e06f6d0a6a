"""Reading what a batch job reads and writes in S3, in memory that does not grow with it."""
