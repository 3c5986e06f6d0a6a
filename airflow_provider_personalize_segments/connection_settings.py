"""What decides how the triggerer reaches AWS, as a key of what triggers share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_personalize_segments.bounded_calls import LONGEST_LIMIT

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.hooks import PersonalizeHook


class ConnectionSettings(NamedTuple):
    """
    What decides with whose credentials, where and how AWS is called; different ones never share a client.

    :param aws_conn_id: the Airflow connection, or ``None``
    :param region_name: the AWS region; ``None`` means the connection's, then boto3's
    :param verify: whether to verify TLS certificates, or a CA bundle's path, or ``None``
    :param botocore_config: botocore configuration as JSON text, which can be compared; or ``None``
    """

    aws_conn_id: str | None
    region_name: str | None
    verify: bool | str | None
    botocore_config: str | None

    @classmethod
    def of(
        cls,
        aws_conn_id: str | None,
        region_name: str | None,
        verify: bool | str | None,
        botocore_config: dict[str, Any] | None,
    ) -> ConnectionSettings:
        """Make it from a hook's parameters."""
        config = json.dumps(botocore_config, sort_keys=True) if botocore_config else None
        return cls(aws_conn_id, region_name, verify, config)

    def make_hook(self) -> PersonalizeHook:
        """Return a hook that has read its connection and repeats nothing by itself; blocks."""
        from airflow_provider_personalize_segments.hooks import PersonalizeHook

        config = json.loads(self.botocore_config) if self.botocore_config else None
        hook = PersonalizeHook(self.aws_conn_id, self.region_name, self.verify, config)
        return hook.with_limit(LONGEST_LIMIT).without_retries().fixed()
