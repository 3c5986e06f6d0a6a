"""The hook: Personalize batch jobs of any kind, described, listed and created on boto3 alone."""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook
from airflow.providers.amazon.aws.utils.connection_wrapper import AwsConnectionWrapper
from botocore.config import Config
from botocore.exceptions import PaginationError
from botocore.parsers import ResponseParserError

from airflow_provider_personalize_segments.airflow_compat import AirflowException, AirflowNotFoundException
from airflow_provider_personalize_segments.arns import (
    is_job_arn,
    parse_job_arn,
    parse_solution_version_arn,
    resolve_region,
)
from airflow_provider_personalize_segments.aws_errors import (
    InvalidCABundleError,
    are_credentials_refused,
    explain,
)
from airflow_provider_personalize_segments.errors import ConnectionNotFoundError, PersonalizeRequestError
from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.plain_json import show

if TYPE_CHECKING:
    from mypy_boto3_personalize import PersonalizeClient

    from airflow_provider_personalize_segments.airflow_compat import Connection

Answer = TypeVar("Answer")


class JobsPage(NamedTuple):
    """
    One page of a listing.

    :param summaries: the jobs' summaries, times as ``datetime``
    :param next_token: what the next page is asked for with; ``None`` on the last
    """

    summaries: list[dict[str, Any]]
    next_token: str | None


class PersonalizeHook(AwsGenericHook["PersonalizeClient"]):
    """
    Describe, list and create Personalize batch jobs of either kind.

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
        self._is_fixed = False

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
            if job.get(kind.arn_member) != job_arn:
                # A proxy or a cache that answers about another job opens no gate.
                raise ResponseParserError(f"the response is about {show(job.get(kind.arn_member))}")
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
        seen: set[str] = set()
        next_token = None
        while True:
            page = self.list_jobs_page(kind, solution_version_arn, next_token)
            for summary in page.summaries:
                arn = summary[kind.arn_member]
                if arn not in seen:
                    seen.add(arn)
                    yield summary
            next_token = page.next_token
            if next_token is None:
                return

    def list_jobs_page(
        self, kind: BatchJobKind, solution_version_arn: str | None = None, next_token: str | None = None
    ) -> JobsPage:
        """
        Return one page of the summaries of all batch jobs of a kind, with one call.

        :param kind: ``BatchJobKind.SEGMENT`` or ``BatchJobKind.INFERENCE``
        :param solution_version_arn: as for :meth:`list_jobs`
        :param next_token: the ``next_token`` of the page before; ``None`` means the first page
        :raises ValueError: when the ARN is no solution version's, or in another region than the hook's

        .. seealso:: https://docs.aws.amazon.com/personalize/latest/dg/API_ListBatchSegmentJobs.html
        """
        region, request, subject = self._region_name, {}, f"all {kind.title}s"
        if solution_version_arn is not None:
            region = resolve_region(region, parse_solution_version_arn(solution_version_arn))
            request, subject = {"solutionVersionArn": solution_version_arn}, solution_version_arn
        if next_token is not None:
            request["nextToken"] = next_token

        def list_page(client: PersonalizeClient) -> JobsPage:
            response = getattr(client, kind.list_method)(**request)
            summaries = {_member(each, kind.arn_member): each for each in _member(response, kind.jobs_member)}
            if not all(isinstance(arn, str) for arn in summaries):
                raise ResponseParserError(f"the response has an odd {kind.arn_member}")
            token = response.get("nextToken") or None
            if token is not None and token == next_token:
                # Following it again would never end.
                raise PaginationError(message="AWS sent the same nextToken twice")
            return JobsPage(list(summaries.values()), token)

        return self._call(kind.list_operation, subject, region, list_page)

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

    def describe_filter(self, filter_arn: str) -> dict[str, Any]:
        """
        Return the filter of that ARN, as Describe gives it, times as ``datetime``.

        :param filter_arn: the filter's ARN
        :raises ValueError: when it is no ARN, or in another region than the hook's

        .. seealso:: https://docs.aws.amazon.com/personalize/latest/dg/API_DescribeFilter.html
        """
        parts = filter_arn.split(":", 5)
        if len(parts) < 6:
            raise ValueError(f"Expected the ARN of a filter, got {show(filter_arn)}.")
        region = resolve_region(self._region_name, parts[3] or None)

        def describe(client: PersonalizeClient) -> dict[str, Any]:
            found: dict[str, Any] = _member(client.describe_filter(filterArn=filter_arn), "filter")
            return found

        return self._call("DescribeFilter", filter_arn, region, describe)

    def check_input(self, kind: BatchJobKind, **request: Any) -> dict[str, int]:
        """
        Read the input of a job in S3, and refuse what Personalize would refuse after the job has run a while.

        :param kind: ``BatchJobKind.SEGMENT`` or ``BatchJobKind.INFERENCE``
        :param request: the members of the Create request, as for :meth:`create_job`; of these,
            ``solutionVersionArn``, ``jobInput``, ``filterArn`` and ``batchInferenceJobMode`` matter
        :returns: how many ``files``, ``bytes`` and ``records`` the job would read
        :raises PersonalizeInputError: when the input cannot be right; it names the object and the line
        :raises ValueError: when ``solutionVersionArn`` or ``filterArn`` is no such ARN

        .. seealso:: https://docs.aws.amazon.com/personalize/latest/dg/batch-data-upload.html
        """
        # Not at the top: only this needs them.
        from airflow_provider_personalize_segments.output.inputs import check_input, find_placeholders

        version = parse_solution_version_arn(request.get("solutionVersionArn"), source="solutionVersionArn")
        placeholders: frozenset[str] = frozenset()
        if request.get("filterArn"):
            expression = self.describe_filter(request["filterArn"]).get("filterExpression")
            placeholders = find_placeholders(str(expression or ""))
        region = resolve_region(self._region_name, version) or self.region_name
        with closing(self.make_s3_client(str(region))) as client:
            return check_input(
                client,
                request["jobInput"]["s3DataSource"]["path"],
                kind,
                placeholders=placeholders,
                has_themes=request.get("batchInferenceJobMode") == "THEME_GENERATION",
            )

    def list_output_files(self, job_arn: str) -> list[str]:
        """
        Return the files that a job wrote, such as to map a task over them.

        :param job_arn: the job's ARN; the job must be ACTIVE
        :returns: their paths, ``s3://bucket/key``, in an order that stays
        :raises PersonalizeOutputError: when one is missing, empty, or was not written while the job ran
        """
        from airflow_provider_personalize_segments.output.checking import find_outputs

        job = self.describe_job(job_arn)
        with closing(self.make_s3_client(parse_job_arn(job_arn).region)) as client:
            return [each.path for each in find_outputs(client, job_arn, job, self.log)]

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
            arn = _member(getattr(client, kind.create_method)(**request), kind.arn_member)
            if not is_job_arn(arn, kind) or parse_job_arn(arn).job_name != request.get("jobName"):
                raise ResponseParserError(f"the response names another job: {show(arn)}")
            return str(arn)

        return self._call(kind.create_operation, subject, region, create)

    def without_retries(self) -> PersonalizeHook:
        """
        Return a hook of the same settings whose client repeats nothing by itself, unless configured to.

        For callers that repeat calls themselves: botocore doing so, too, would multiply them just when AWS
        asks for fewer. Retries that are configured, here or in the connection, stay.
        """
        if self.config.retries:
            return self
        return self._with_config(retries={"total_max_attempts": 1})

    def with_limit(self, seconds: float) -> PersonalizeHook:
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

    def fixed(self) -> PersonalizeHook:
        """
        Return this hook after it has read its connection, which it never reads again.

        For threads that must not ask Airflow for anything. A fixed hook takes refused credentials for final;
        a new hook may find others.
        """
        _ = self.conn_config
        self._is_fixed = True
        return self

    def _with_config(self, **options: Any) -> PersonalizeHook:
        config = self.config.merge(Config(**options))
        hook = PersonalizeHook(self.aws_conn_id, self._region_name, self._verify, config)
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

    def _client_in(self, region: str | None) -> PersonalizeClient:
        """Return the client for a region, made on first use; ``None`` means the hook's own."""
        region = None if region == self.region_name else region
        with self._making:  # one client, however many threads ask for it first
            client = self._clients.get(region)
            if client is None:
                self._check_certificates()
                client = self._clients[region] = self.get_client_type(region_name=region)
            return client

    def _check_certificates(self) -> None:
        """Load the CA bundle: botocore does so at each call, and takes a wrong one for a network fault."""
        path = os.environ.get("AWS_CA_BUNDLE") if self.verify is None else self.verify
        if not isinstance(path, str):
            return
        try:
            ssl.create_default_context(cafile=path)
        except OSError as error:  # ssl.SSLError is one
            raise InvalidCABundleError(path=path, reason=error) from None

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
            return ask(client)

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


def _member(response: object, name: str) -> Any:
    """
    Return a member that the API always sends.

    botocore makes an empty dict of a body that is not JSON, such as a proxy's error page under status 200:
    without this check that would pass for a list without jobs.
    """
    if not isinstance(response, Mapping) or name not in response:
        raise ResponseParserError(f"the response has no {name}")
    return response[name]


def is_configured(config: Config, option: str) -> bool:
    """
    Tell whether an option of botocore's configuration was set, even if to its default.

    :param config: the configuration
    :param option: the option's name
    """
    return option in config._user_provided_options
