"""How the hook reaches AWS: its clients, what they are set to, and one way to call them.

Every call goes through :meth:`PersonalizeClients._call`, which reads refused credentials anew once, and turns
what boto3 raises into our errors.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeVar

from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook
from airflow.providers.amazon.aws.utils.connection_wrapper import AwsConnectionWrapper
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError

from airflow_provider_personalize_segments.airflow_compat import AirflowException, AirflowNotFoundException
from airflow_provider_personalize_segments.aws_errors import (
    InvalidCABundleError,
    are_credentials_refused,
    explain,
    explain_lack,
)
from airflow_provider_personalize_segments.errors import (
    ConnectionNotFoundError,
    InvalidParameterError,
    PersonalizeRequestError,
    fail_on_invalid_parameters,
)
from airflow_provider_personalize_segments.lacks import is_about_file
from airflow_provider_personalize_segments.parameters import read_connection_id
from airflow_provider_personalize_segments.regions import is_unknown, resolves
from airflow_provider_personalize_segments.sessions import SharingSessionFactory

if TYPE_CHECKING:
    from mypy_boto3_personalize import PersonalizeClient

    from airflow_provider_personalize_segments.airflow_compat import Connection

Answer = TypeVar("Answer")

UNKNOWN_REGION = (
    "botocore knows no Amazon Personalize in the region %r. If that is a typing error, correct it in the "
    "ARN, in region_name or in the connection. If the region is new, ignore this, or update botocore."
)
"""What is logged when a client is made, unless the connection has an endpoint_url."""


class PersonalizeClients(AwsGenericHook["PersonalizeClient"]):
    """
    The clients of a hook, one for each region that it calls; base of :class:`~.hooks.PersonalizeHook`.

    :param aws_conn_id: as all parameters: see :class:`~.hooks.PersonalizeHook`
    """

    def __init__(
        self,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        verify: bool | str | None = None,
        config: Config | dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            aws_conn_id=aws_conn_id,
            region_name=region_name,
            verify=verify,
            client_type="personalize",
            config=config,
        )
        self._clients: dict[str | None, PersonalizeClient] = {}
        self._making = threading.RLock()
        self._warned_about: set[str] = set()
        self._is_fixed = False
        self._repeating_nothing: Self | None = None

    # The base class has a cached property: of these, Python 3.11 computes one at a time for a whole class, so
    # a hook whose credentials hang would hold up all others in the process.
    @property
    def conn(self) -> PersonalizeClient:
        """The boto3 client for Personalize, in the hook's or its connection's region, made on first use."""
        return self._client_in(None)

    @classmethod
    def get_connection(cls, conn_id: str) -> Connection:
        """
        Return the Airflow connection of that ID.

        The base class would go on without credentials of its own when there is none; this raises.

        :param conn_id: the connection's ID
        :raises ConnectionNotFoundError: when there is no such connection
        :raises InvalidParameterError: when it is of another type than ``aws``
        :raises PersonalizeUnavailableError: when this process lacks what looking for it needs
        """
        try:
            connection = super().get_connection(conn_id)
        except AirflowNotFoundException as error:
            about = ("Reading the Airflow connection", "AWS", None, conn_id)
            raise explain_lack(error, *about) or ConnectionNotFoundError(conn_id) from error
        # A secrets backend may leave the type out, which the amazon provider takes for its own.
        if connection.conn_type and connection.conn_type != "aws":
            raise InvalidParameterError(
                f"The Airflow connection {conn_id!r} is of the type {connection.conn_type!r}, not 'aws'. "
                "Correct aws_conn_id, or the connection's type. AWS was not called."
            )
        return connection

    @cached_property
    def conn_config(self) -> AwsConnectionWrapper:
        """The Airflow connection and what it is set to, read on first use."""
        with fail_on_invalid_parameters():
            read_connection_id(self.aws_conn_id, "aws_conn_id")
        return super().conn_config

    def get_session(self, region_name: str | None = None, deferrable: bool = False) -> Any:
        """
        Return a boto3 session with the connection's credentials, which shares what botocore reads of APIs.

        :param region_name: the AWS region; ``None`` means the connection's
        :param deferrable: as in the amazon provider; ours has no use for it
        """
        factory = SharingSessionFactory(conn=self.conn_config, region_name=region_name, config=self.config)
        return factory.create_session(deferrable=deferrable)

    def without_retries(self) -> Self:
        """
        Return a hook of the same settings whose client repeats nothing by itself, unless configured to.

        For callers that repeat calls themselves: botocore doing so, too, would multiply them just when AWS
        asks for fewer. Retries that are configured, here or in the connection, stay.
        """
        if self.config.retries:
            return self
        return self._with_config(retries={"total_max_attempts": 1})

    def repeating_nothing(self) -> Self:
        """
        Return a hook of the same settings whose client repeats nothing, whatever is configured.

        For Create: when botocore repeats a Create that AWS has carried out, AWS answers that the job exists,
        and nobody can tell whose it is.
        """
        with self._making:
            if (self.config.retries or {}).get("total_max_attempts") == 1:
                return self
            if self._repeating_nothing is None:
                hook = self._with_config(retries={"total_max_attempts": 1})
                hook._is_fixed = self._is_fixed
                self._repeating_nothing = hook
            return self._repeating_nothing

    def with_limit(self, seconds: float) -> Self:
        """
        Return a hook of the same settings whose client waits so long for AWS, unless configured otherwise.

        botocore's own limit is 60 seconds for the connection and as many for each part of an answer. Limits
        that are configured, here or in the connection, stay.

        :param seconds: how long to wait for the connection, and for the next part of an answer
        """
        limits = {
            name: seconds
            for name in ("connect_timeout", "read_timeout")
            if not is_configured(self.config, name)
        }
        return self._with_config(**limits) if limits else self

    def fixed(self) -> Self:
        """
        Return this hook after it has read its connection, which it never reads again.

        For threads that must not ask Airflow for anything. A fixed hook takes refused credentials for final;
        a new hook may find others.
        """
        _ = self.conn_config
        self._is_fixed = True
        return self

    def _with_config(self, **options: Any) -> Self:
        config = self.config.merge(Config(**options))
        hook = type(self)(self.aws_conn_id, self._region_name, self._verify, config)
        hook._warned_about = self._warned_about
        # The connection is read once, and its credentials are told of once.
        hook.__dict__["conn_config"] = AwsConnectionWrapper(
            conn=self.conn_config,
            region_name=self._region_name,
            botocore_config=config,
            verify=self._verify,
        )
        return hook

    def make_client(self, region_name: str | None) -> None:
        """
        Make the client for a region ahead of its first call, so that a limit can be set for the call alone.

        :param region_name: the AWS region; ``None`` means the hook's own
        """
        self._client_in(region_name)

    def make_s3_client(self, region_name: str) -> Any:
        """
        Return a new boto3 client for S3, with the connection's credentials and settings; close it.

        :param region_name: the AWS region, which is the job's: Personalize reads and writes no other
        """
        with self._explained("ListObjectsV2", "a client for S3", region_name):
            self._check_certificates()
            return self.get_session(region_name=region_name).client(
                "s3",
                endpoint_url=self.conn_config.get_service_endpoint_url("s3"),
                config=self.config,
                verify=self.verify,
            )

    def close(self) -> None:
        """Close the connections of its clients; the hook makes new clients when it is used again."""
        clients = set(self._clients.values())
        self._clients.clear()
        for client in clients:
            client.close()
        if self._repeating_nothing is not None:
            self._repeating_nothing.close()

    def _client_in(self, region: str | None) -> PersonalizeClient:
        """Return the client for a region, made on first use; ``None`` means the hook's own."""
        region = None if region == self.region_name else region
        with self._making:  # one client, however many threads ask for it first
            client = self._clients.get(region)
            if client is None:
                self._check_certificates()
                client = self._clients[region] = self.get_client_type(region_name=region)
                self._warn_about_region(client)
            return client

    def _warn_about_region(self, client: PersonalizeClient) -> None:
        name = client.meta.region_name
        if name not in self._warned_about and is_unknown(name, client.meta.endpoint_url):
            self._warned_about.add(name)
            self.log.warning(UNKNOWN_REGION, name)

    def _check_certificates(self) -> None:
        """Load the CA bundle: botocore does so at each call, and takes a wrong one for a network fault."""
        path = os.environ.get("AWS_CA_BUNDLE") if self.verify is None else self.verify
        if not isinstance(path, str):
            return
        try:
            ssl.create_default_context(cafile=path)
        except OSError as error:
            if isinstance(error, ssl.SSLError) or is_about_file(error):
                raise InvalidCABundleError(path=path, reason=error) from None
            raise

    def _call(
        self, operation: str, subject: str, region: str | None, ask: Callable[[PersonalizeClient], Answer]
    ) -> Answer:
        """Call AWS once, or twice when credentials are refused and the connection may hold newer ones."""
        try:
            return self._call_once(operation, subject, region, ask)
        except PersonalizeRequestError as error:
            if self._is_fixed or not are_credentials_refused(error):
                raise
        self.close()
        self.__dict__.pop("conn_config", None)
        return self._call_once(operation, subject, region, ask)

    def _call_once(
        self, operation: str, subject: str, region: str | None, ask: Callable[[PersonalizeClient], Answer]
    ) -> Answer:
        with self._explained(operation, subject, region):
            client = self._client_in(region)
        with self._explained(operation, subject, region, is_called=True):
            try:
                return ask(client)
            except EndpointConnectionError:
                # Where botocore knows the region, this is an outage, and passes.
                url = client.meta.endpoint_url
                if not is_unknown(client.meta.region_name, url) or resolves(url):
                    raise
            raise PersonalizeRequestError(
                operation,
                subject,
                client.meta.region_name,
                self.aws_conn_id,
                "UnknownRegion",
                f"botocore knows no Amazon Personalize in {client.meta.region_name!r}, and {url} does not "
                f"resolve",
                "Correct the region: in the ARN, in region_name or in the connection.",
            )

    @contextmanager
    def _explained(
        self, operation: str, subject: str, region: str | None, *, is_called: bool = False
    ) -> Iterator[None]:
        """
        Turn what boto3 raises into our errors, which say what it was about and what to do.

        :param is_called: whether AWS is called: then every error that is not botocore's own comes from an
            answer that botocore could not read, and which was none
        """
        try:
            yield
        except AirflowException:
            raise  # ours, and Airflow's own
        except Exception as error:
            about = (operation, subject, self._region_of(region), self.aws_conn_id)
            if (explained := explain(error, *about, is_called=is_called)) is None:
                raise
            # Without its cause, which holds AWS's text as it came: Airflow 3's worker writes the whole chain
            # to its log, and ends when UTF-8 does not carry it.
            raise explained from None

    def _region_of(self, region: str | None) -> str | None:
        """Return the region that a call went to, without making a client for the sake of a message."""
        if region is None and None in self._clients:
            return str(self._clients[None].meta.region_name)
        return region or self.region_name


def is_configured(config: Config, option: str) -> bool:
    """
    Tell whether an option of botocore's configuration was set, even if to its default.

    :param config: the configuration
    :param option: the option's name
    """
    return option in config._user_provided_options
