"""
What every sensor and operator here shares: which connection and region it calls, and its hook.

Every DAG file loads the modules that hold tasks, each time Airflow parses it. These modules hold what Airflow
has to know of a task. A task imports what its worker needs when it runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

from airflow_provider_personalize_segments.airflow_compat import BaseOperator, conf
from airflow_provider_personalize_segments.jobs import BatchJobKind

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.hooks import PersonalizeHook

DEFAULT_DEFERRABLE = conf.getboolean("operators", "default_deferrable", fallback=False)
"""Whether a task is deferrable when its DAG file does not say."""
CONNECTION_FIELDS = ("aws_conn_id", "region_name", "verify", "botocore_config")


class PersonalizeTask(BaseOperator):
    """
    Base of our sensors and operators; not for use in a DAG by itself.

    It stands on Airflow's plain base class: the amazon provider's would bring boto3 into every DAG file.

    :param aws_conn_id: the Airflow connection, ``aws_default`` unless given. ``None`` means the credentials
        that boto3 finds by itself. An empty text, and a connection that does not exist or is of another type
        than ``aws``, fail the task.
    :param region_name: the AWS region. ``None`` (the default) means the region in the ARN that the task is
        about where there is one, then the connection's, then boto3's. One that contradicts the ARN fails
        the task.
    :param verify: whether to verify TLS certificates, or the path of a CA bundle. ``None`` (the default)
        means the connection's setting.
    :param botocore_config: arguments of ``botocore.config.Config`` in a dict. ``None`` (the default) means
        the connection's ``config_kwargs``.
    """

    template_fields: Sequence[str] = CONNECTION_FIELDS
    # Clients have locks, which cannot be copied deeply.
    shallow_copy_attrs: Sequence[str] = ("hook",)
    kind: ClassVar[BatchJobKind]
    _named_otherwise: ClassVar[Mapping[str, str]] = {}
    """Parameters that other operators and sensors have, and what a user of this one writes instead."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """
        Answer names that other operators have for a parameter.

        Not in ``__init__``: before that is called, Airflow complains of the parameter that is missing then.
        """
        for name in sorted(kwargs.keys() & cls._named_otherwise.keys()):
            if name not in inspect.signature(cls.__init__).parameters:  # a subclass may have it
                raise TypeError(
                    f"{cls.__name__} has no parameter {name!r}: {cls._named_otherwise[name]}. "
                    f"(task {kwargs.get('task_id')!r})"
                )
        return super().__new__(cls)

    def __init__(
        self,
        *,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        verify: bool | str | None = None,
        botocore_config: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self.verify = verify
        self.botocore_config = botocore_config

    def source_of(self, parameter: str) -> str:
        """Say where a parameter's value came from, for error messages."""
        return f"{parameter} of task {self.task_id!r}"

    @contextmanager
    def told_failure(self) -> Iterator[None]:
        """Log an error of ours in one line: Airflow's log view shows little of a traceback's last line."""
        from airflow_provider_personalize_segments.errors import PersonalizeError

        try:
            yield
        except PersonalizeError as error:
            self.log.error("%s", error)
            raise

    @property
    def arn_region(self) -> str | None:
        """The region in the ARN that the task is about; ``None`` where it is about none."""
        return None

    @cached_property
    def hook(self) -> PersonalizeHook:
        """The hook for the rendered connection and region, made on first use."""
        # Not at the top: with boto3 it would cost every DAG file a quarter of a second at every parse.
        from airflow_provider_personalize_segments.arns import resolve_region
        from airflow_provider_personalize_segments.errors import fail_on_invalid_parameters
        from airflow_provider_personalize_segments.hooks import PersonalizeHook
        from airflow_provider_personalize_segments.parameters import (
            read_config,
            read_connection_id,
            read_text,
            read_verify,
        )

        with fail_on_invalid_parameters():
            arn_region = self.arn_region
            region_name = read_text(self.region_name, self.source_of("region_name"))
            parameters: dict[str, Any] = {
                "aws_conn_id": read_connection_id(self.aws_conn_id, self.source_of("aws_conn_id")),
                "region_name": resolve_region(region_name, arn_region, source=self.source_of("region_name")),
                "verify": read_verify(self.verify, self.source_of("verify")),
                "config": read_config(self.botocore_config, self.source_of("botocore_config")),
            }
            try:
                return PersonalizeHook(**parameters)
            except Exception as error:
                # botocore raises all sorts of errors for wrong types, and nothing else can go wrong here.
                raise ValueError(
                    f"{self.source_of('botocore_config')} with the keys {sorted(self.botocore_config or ())} "
                    f"is not a botocore configuration: {error}. "
                    "Expected a dict of arguments of botocore.config.Config."
                ) from error
