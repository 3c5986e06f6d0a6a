"""What all our triggers share: how Airflow stores them, and how they reach AWS."""

from __future__ import annotations

import inspect
from typing import Any

from airflow.triggers.base import BaseTrigger

from airflow_provider_personalize_segments.connection_settings import ConnectionSettings

TRIGGERS = "airflow_provider_personalize_segments.triggers"
"""Where Airflow finds all our triggers, wherever their classes live."""


class StoredTrigger(BaseTrigger):
    """
    Base of all our triggers. Each parameter of a trigger's class is an attribute of the same name.

    What a trigger leaves in Airflow's database loads in later releases: new parameters get defaults, and none
    is taken away.

    :param aws_conn_id: the Airflow connection; ``None`` means the credentials that boto3 finds by itself
    :param region_name: the AWS region; ``None`` means the one in the ARN that the trigger is about
    :param verify: whether to verify TLS certificates, or the path of a CA bundle
    :param botocore_config: arguments of ``botocore.config.Config`` in a dict
    """

    def __init__(
        self,
        aws_conn_id: str | None,
        region_name: str | None,
        verify: bool | str | None,
        botocore_config: dict[str, Any] | None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's own is not annotated
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self.verify = verify
        self.botocore_config = botocore_config

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the parameters from which Airflow makes this trigger anew."""
        names = inspect.signature(type(self)).parameters
        # The path outlives this module: triggers that wait are made anew by the next release.
        return f"{TRIGGERS}.{type(self).__qualname__}", {name: getattr(self, name) for name in names}

    def _settings(self, arn_region: str | None) -> ConnectionSettings:
        return ConnectionSettings.of(
            self.aws_conn_id, self.region_name or arn_region, self.verify, self.botocore_config
        )
