"""Waits for a batch segment job the way the amazon provider's own deferrable operators wait.

One hook, one aiobotocore client and one Describe per trigger, driven by a custom waiter: what a
``PersonalizeBatchJobTrigger`` in that provider would look like, to compare ours with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.providers.amazon.aws.triggers.base import AwsBaseWaiterTrigger


class AmazonPatternHook(AwsBaseHook):
    """Interact with Personalize, with a waiter that boto3 does not have."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "client_type": "personalize"})

    @property
    def waiter_path(self) -> Path:
        """Where the waiters are; the amazon provider has no file for Personalize in its own folder."""
        return Path(__file__).with_name("personalize_waiters.json")


class AmazonPatternTrigger(AwsBaseWaiterTrigger):
    """
    Fire when a batch segment job is complete.

    :param job_arn: the job's ARN
    :param waiter_delay: seconds between two calls
    :param waiter_max_attempts: how many calls to make
    :param aws_conn_id: the Airflow connection
    :param region_name: the AWS region
    """

    aws_hook_class = AmazonPatternHook

    def __init__(
        self,
        *,
        job_arn: str,
        waiter_delay: int = 60,
        waiter_max_attempts: int = 75,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
    ) -> None:
        super().__init__(
            serialized_fields={"job_arn": job_arn},
            waiter_name="batch_segment_job_complete",
            waiter_args={"batchSegmentJobArn": job_arn},
            failure_message="Personalize batch segment job failed.",
            status_message="Status of Personalize batch segment job is",
            status_queries=["batchSegmentJob.status", "batchSegmentJob.failureReason"],
            return_key="job_arn",
            return_value=job_arn,
            waiter_delay=waiter_delay,
            waiter_max_attempts=waiter_max_attempts,
            aws_conn_id=aws_conn_id,
            region_name=region_name,
        )
