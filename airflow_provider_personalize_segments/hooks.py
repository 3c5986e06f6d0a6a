"""The hook: Personalize batch jobs of any kind, described, listed and created on boto3 alone."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import IncompleteRead
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    PaginationError,
    ResponseStreamingError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.parsers import ResponseParserError

from airflow_provider_personalize_segments.airflow_compat import AirflowNotFoundException
from airflow_provider_personalize_segments.errors import (
    ConnectionNotFoundError,
    PersonalizeRequestError,
    PersonalizeUnavailableError,
)
from airflow_provider_personalize_segments.jobs import (
    BatchJobKind,
    parse_job_arn,
    parse_solution_version_arn,
    resolve_region,
)

if TYPE_CHECKING:
    from mypy_boto3_personalize import PersonalizeClient

    from airflow_provider_personalize_segments.airflow_compat import Connection

Answer = TypeVar("Answer")

_TRANSIENT_CODES = frozenset(
    # The service's common errors (https://docs.aws.amazon.com/personalize/latest/dg/CommonErrors.html), the
    # throttling codes that botocore retries, and two of Personalize's own: LimitExceededException means too
    # many requests or too many unfinished jobs, and a resource in use will not stay so.
    {
        "InternalFailure",
        "InternalFailureException",
        "InternalServerError",
        "InternalServerException",
        "LimitExceededException",
        "PriorRequestNotComplete",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestTimeout",
        "RequestTimeoutException",
        "ResourceInUseException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "SlowDown",
        "Throttling",
        "ThrottledException",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_TRANSIENT_ERRORS = (
    BotoConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteRead,
    IncompleteReadError,
    MetadataRetrievalError,
    PaginationError,
    ResponseParserError,
    ResponseStreamingError,
)
_WRONG_CREDENTIALS_CODES = {
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "NoCredentialsError",
    "PartialCredentialsError",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
_ACCESS_DENIED_CODES = frozenset(
    {"AccessDenied", "AccessDeniedException", "NotAuthorized", "UnauthorizedOperation"}
)


class PersonalizeHook(AwsGenericHook["PersonalizeClient"]):
    """
    Describe, list and create Personalize batch jobs, whatever their kind.

    Credentials, assumed roles, endpoints, proxies and everything else an AWS connection can say work as
    in the amazon provider, with one difference: a named connection that does not exist is an error, never
    a silent switch to other credentials.

    Its methods raise :class:`~.errors.PersonalizeRequestError` for what AWS refuses for good,
    :class:`~.errors.PersonalizeUnavailableError` for what may work the next time, and
    :class:`~.errors.ConnectionNotFoundError`. :attr:`conn` raises botocore's own.

    :param aws_conn_id: the Airflow connection; ``None`` or empty means the credentials boto3 finds by itself
    :param region_name: the AWS region; ``None`` (the default) means the region of the ARN that a call is
        about where there is one, then the connection's, then boto3's
    :param verify: whether to verify TLS certificates, or the path of a CA bundle; ``None`` means the
        connection's setting
    :param config: botocore configuration, as a ``Config`` or its arguments in a dict; ``None`` means the
        connection's ``config_kwargs``

    .. seealso:: https://airflow.apache.org/docs/apache-airflow-providers-amazon/stable/connections/aws.html
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

    if TYPE_CHECKING:

        @property
        def conn(self) -> PersonalizeClient:
            """The boto3 client for Personalize, in the region of the hook or its connection (cached)."""

    @classmethod
    def get_connection(cls, conn_id: str) -> Connection:
        """
        Return the Airflow connection of that ID.

        The base class would go on without credentials of its own when there is none; this raises.

        :param conn_id: the connection's ID
        :raises ConnectionNotFoundError: when there is no such connection
        """
        try:
            return super().get_connection(conn_id)
        except AirflowNotFoundException as error:
            raise ConnectionNotFoundError(conn_id) from error

    def describe_job(self, job_arn: str) -> dict[str, Any]:
        """
        Return the batch job of that ARN, as Describe gives it, times as ``datetime``.

        :param job_arn: a batch segment or a batch inference job's ARN; it names kind and region
        :raises ValueError: when it is no batch job's ARN, or in another region than the hook's

        .. seealso:: https://docs.aws.amazon.com/personalize/latest/dg/API_DescribeBatchSegmentJob.html
        """
        arn = parse_job_arn(job_arn)
        kind, region = arn.kind, resolve_region(self._region_name, arn.region)

        def describe(client: PersonalizeClient) -> dict[str, Any]:
            response = getattr(client, kind.describe_method)(**{kind.arn_member: job_arn})
            job: dict[str, Any] = _member(response, kind.job_member)
            if not job.get("status"):
                raise ResponseParserError(f"the {kind.job_member} in the response has no status")
            return job

        return self._call(kind.describe_operation, job_arn, region, describe)

    def list_jobs(
        self, kind: BatchJobKind, solution_version_arn: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """
        Yield the summaries of all batch jobs of a kind, each job once, page by page as they are consumed.

        The order is AWS's, which it does not document. A job that slips onto a second page while others
        are being created is left out the second time.

        :param kind: ``BatchJobKind.SEGMENT`` or ``BatchJobKind.INFERENCE``
        :param solution_version_arn: only this solution version's jobs; ``None`` means all jobs of the
            account in the region
        :raises ValueError: when the ARN is no solution version's, or in another region than the hook's

        .. seealso:: https://docs.aws.amazon.com/personalize/latest/dg/API_ListBatchSegmentJobs.html
        """
        region, request, subject = self._region_name, {}, f"all {kind.title}s"
        if solution_version_arn is not None:
            region = resolve_region(region, parse_solution_version_arn(solution_version_arn))
            request, subject = {"solutionVersionArn": solution_version_arn}, solution_version_arn

        def start(client: PersonalizeClient) -> Iterator[dict[str, Any]]:
            # The stubs know paginators by literal names only.
            return iter(client.get_paginator(kind.list_method).paginate(**request))  # type: ignore[call-overload]

        pages = self._call(kind.list_operation, subject, region, start)
        seen = set()
        while True:
            with self._explained(kind.list_operation, subject, region):
                page = next(pages, None)
                summaries = None if page is None else _member(page, kind.jobs_member)
            if summaries is None:
                return
            for summary in summaries:
                if summary[kind.arn_member] not in seen:
                    seen.add(summary[kind.arn_member])
                    yield summary

    def describe_solution_version(self, solution_version_arn: str) -> dict[str, Any]:
        """
        Return the solution version of that ARN, as Describe gives it, times as ``datetime``.

        :param solution_version_arn: the solution version's ARN
        :raises ValueError: when it is no solution version's ARN, or in another region than the hook's

        .. seealso:: https://docs.aws.amazon.com/personalize/latest/dg/API_DescribeSolutionVersion.html
        """
        region = resolve_region(self._region_name, parse_solution_version_arn(solution_version_arn))

        def describe(client: PersonalizeClient) -> dict[str, Any]:
            response = client.describe_solution_version(solutionVersionArn=solution_version_arn)
            version: dict[str, Any] = _member(response, "solutionVersion")
            return version

        return self._call("DescribeSolutionVersion", solution_version_arn, region, describe)

    def create_job(self, kind: BatchJobKind, **request: Any) -> str:
        """
        Create a batch job and return its ARN.

        AWS offers no idempotency token here: calling twice under two names makes, and bills, two jobs.

        :param kind: ``BatchJobKind.SEGMENT`` or ``BatchJobKind.INFERENCE``
        :param request: the members of the Create request under the API's own names, such as
            ``jobName``, ``solutionVersionArn``, ``jobInput``, ``jobOutput``, ``roleArn``
        :returns: the job's ARN
        :raises ValueError: when ``solutionVersionArn`` is no solution version's ARN, or in another region
            than the hook's

        .. seealso:: https://docs.aws.amazon.com/personalize/latest/dg/API_CreateBatchSegmentJob.html
        """
        solution_version_arn = request.get("solutionVersionArn")
        region = resolve_region(
            self._region_name, parse_solution_version_arn(solution_version_arn, source="solutionVersionArn")
        )
        subject = f"{kind.title} {request.get('jobName')!r} of {solution_version_arn}"

        def create(client: PersonalizeClient) -> str:
            return str(_member(getattr(client, kind.create_method)(**request), kind.arn_member))

        return self._call(kind.create_operation, subject, region, create)

    def without_retries(self) -> PersonalizeHook:
        """
        Return a hook of the same settings whose client repeats nothing by itself, unless configured to.

        For callers that repeat calls themselves: botocore doing so, too, would multiply them just when AWS
        asks for fewer. Who configured ``retries``, here or in the connection, gets them.
        """
        if self.config.retries:
            return self
        config = self.config.merge(Config(retries={"total_max_attempts": 1}))
        return PersonalizeHook(self.aws_conn_id, self._region_name, self._verify, config)

    def close(self) -> None:
        """Close the connections of its clients; the hook makes new clients when it is used again."""
        clients = list(self._clients.values())
        if "conn" in self.__dict__:
            clients.append(self.__dict__.pop("conn"))
        self._clients.clear()
        for client in clients:
            client.close()

    def _client_in(self, region: str | None) -> PersonalizeClient:
        """Return the client for a region, made on first use; ``None`` means the hook's own."""
        with self._making:  # one client, however many threads ask for it first
            if region is None or region == self.region_name:
                return self.conn
            client = self._clients.get(region)
            if client is None:
                client = self._clients[region] = self.get_client_type(region_name=region)
            return client

    def _call(
        self, operation: str, subject: str, region: str | None, ask: Callable[[PersonalizeClient], Answer]
    ) -> Answer:
        """Call AWS once, or twice when credentials are refused and the connection may hold newer ones."""
        try:
            with self._explained(operation, subject, region):
                return ask(self._client_in(region))
        except PersonalizeRequestError as error:
            if error.code not in _WRONG_CREDENTIALS_CODES:
                raise
        self.close()
        self.__dict__.pop("conn_config", None)
        with self._explained(operation, subject, region):
            return ask(self._client_in(region))

    @contextmanager
    def _explained(self, operation: str, subject: str, region: str | None) -> Iterator[None]:
        """Turn what boto3 raises into our errors, which say what it was about and what to do."""
        try:
            yield
        except (ClientError, BotoCoreError, ResponseParserError, IncompleteRead) as error:
            code, detail = type(error).__name__, str(error)
            if isinstance(error, ClientError):
                code = error.response.get("Error", {}).get("Code") or code
                detail = error.response.get("Error", {}).get("Message") or detail
                if error.operation_name != operation:
                    detail = f"{detail} (calling {error.operation_name})"
            about = (operation, subject, self._region_of(region), self.aws_conn_id, code, detail)
            if is_transient(error):
                raise PersonalizeUnavailableError(*about) from error
            raise PersonalizeRequestError(*about, _advise(code, operation, detail)) from error

    def _region_of(self, region: str | None) -> str | None:
        """Return the region that a call went to, without making a client for the sake of a message."""
        if region is None and "conn" in self.__dict__:
            return str(self.conn.meta.region_name)
        return region or self.region_name


def _member(response: Mapping[str, Any], name: str) -> Any:
    """
    Return a member that the API always sends.

    botocore makes an empty dict of a body that is not JSON, such as a proxy's error page under status 200:
    without this check that would pass for a list without jobs.
    """
    if name not in response:
        raise ResponseParserError(f"the response has no {name}")
    return response[name]


def is_transient(error: Exception) -> bool:
    """
    Tell whether a call that ended in this error may succeed when it is made again.

    True for throttling, 5xx, network faults, credentials that could not be fetched, and answers that are
    no answers. Whatever is not known to pass is permanent: waiting for it would hide it until the timeout.

    :param error: what boto3 raised
    """
    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return code in _TRANSIENT_CODES or status >= 500 or status == 429
    return isinstance(error, _TRANSIENT_ERRORS)


def _advise(code: str, operation: str, detail: str) -> str:
    if code in _ACCESS_DENIED_CODES:
        # What is denied may be another action that the call needs, such as iam:PassRole or sts:AssumeRole.
        denied = re.search(r"perform: ([\w-]+:\w+)", detail)
        action = denied[1] if denied else f"personalize:{operation}"
        return f"Allow {action} in that identity's IAM policy."
    if code in _WRONG_CREDENTIALS_CODES:
        return "Correct or renew the credentials of that connection."
    if code == "ResourceNotFoundException":
        return "Check the ARNs that the request names; the credentials must be those of the account in them."
    if code in ("NoRegionError", "InvalidRegionError"):
        return "Pass region_name, or set region_name in the connection's extra."
    return ""
