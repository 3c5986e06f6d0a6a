"""The hook: Personalize batch jobs of any kind, described, listed and created on boto3 alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from botocore.exceptions import PaginationError
from botocore.parsers import ResponseParserError

from airflow_provider_personalize_segments.arns import (
    is_job_arn,
    parse_job_arn,
    parse_solution_version_arn,
    resolve_region,
)
from airflow_provider_personalize_segments.clients import PersonalizeClients
from airflow_provider_personalize_segments.errors import PersonalizeRequestError
from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.plain_json import show

if TYPE_CHECKING:
    from mypy_boto3_personalize import PersonalizeClient


class JobsPage(NamedTuple):
    """
    One page of a listing.

    :param summaries: the jobs' summaries, times as ``datetime``
    :param next_token: what the next page is asked for with; ``None`` on the last
    :param date: when AWS sent it, in seconds since the epoch; ``None`` when the answer does not say
    """

    summaries: list[dict[str, Any]]
    next_token: str | None
    date: float | None = None


class PersonalizeHook(PersonalizeClients):
    """
    Describe, list and create Personalize batch jobs of either kind.

    Credentials, assumed roles, endpoints, proxies and everything else an AWS connection can say work as
    in the amazon provider, with one difference: a named connection that does not exist is an error, never
    a silent switch to other credentials.

    Its methods raise :class:`~.errors.PersonalizeRequestError` for what AWS refuses for good,
    :class:`~.errors.PersonalizeUnavailableError` for what may work the next time, and
    :class:`~.errors.ConnectionNotFoundError`. Those that read S3 raise :class:`~.errors.S3RefusedError` and
    :class:`~.errors.S3UnavailableError`, too. :attr:`conn` raises botocore's own.

    :param aws_conn_id: the Airflow connection, ``aws_default`` unless given; ``None`` means the credentials
        that boto3 finds by itself, and empty text is an error
    :param region_name: the AWS region; ``None`` (the default) means the region of the ARN that a call is
        about where there is one, then the connection's, then boto3's
    :param verify: whether to verify TLS certificates, or the path of a CA bundle; ``None`` means the
        connection's setting
    :param config: botocore configuration, as a ``Config`` or its arguments in a dict; ``None`` means the
        connection's ``config_kwargs``

    .. seealso:: https://airflow.apache.org/docs/apache-airflow-providers-amazon/stable/connections/aws.html
    """

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
            return JobsPage(list(summaries.values()), token, _read_date(response))

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

        The recipe of the solution version says what the records are to be. Where AWS refuses to describe the
        solution version, this warns, and takes what any recipe of the kind takes.

        :param kind: ``BatchJobKind.SEGMENT`` or ``BatchJobKind.INFERENCE``
        :param request: the members of the Create request, as for :meth:`create_job`; of these,
            ``solutionVersionArn``, ``jobInput``, ``jobOutput``, ``filterArn`` and ``batchInferenceJobMode``
            matter
        :returns: how many ``files``, ``bytes`` and ``records`` the job would read
        :raises PersonalizeInputError: when the input cannot be right, which names the object and the line, or
            when the recipe serves no such job
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
        recipe = self._find_recipe(request["solutionVersionArn"])
        region = resolve_region(self._region_name, version) or self.region_name
        with closing(self.make_s3_client(str(region))) as client:
            return check_input(
                client,
                request["jobInput"]["s3DataSource"]["path"],
                kind,
                log=self.log,
                recipe=recipe,
                output_path=request.get("jobOutput", {}).get("s3DataDestination", {}).get("path"),
                placeholders=placeholders,
                has_themes=request.get("batchInferenceJobMode") == "THEME_GENERATION",
            )

    def _find_recipe(self, solution_version_arn: str) -> str | None:
        """Return the name of a solution version's recipe, or ``None`` where AWS or this release has none."""
        from airflow_provider_personalize_segments.recipes import find_recipe_name

        try:
            arn = self.describe_solution_version(solution_version_arn).get("recipeArn")
        except PersonalizeRequestError as error:
            reason = str(error)
        else:
            if name := find_recipe_name(arn):
                return name
            reason = f"This release does not know the recipe {show(arn)}."
        self.log.warning(
            "The input is checked without the solution version's recipe, so input for another recipe may "
            "pass: %s",
            reason,
        )
        return None

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


def _read_date(response: Mapping[str, Any]) -> float | None:
    """Return when AWS sent an answer, by its own clock."""
    try:
        date = response["ResponseMetadata"]["HTTPHeaders"]["date"]
        return parsedate_to_datetime(date).timestamp()
    except (LookupError, TypeError, ValueError, OverflowError):
        return None


def _member(response: object, name: str) -> Any:
    """
    Return a member that the API always sends.

    botocore makes an empty dict of a body that is not JSON, such as a proxy's error page under status 200:
    without this check that would pass for a list without jobs.
    """
    if not isinstance(response, Mapping) or name not in response:
        raise ResponseParserError(f"the response has no {name}")
    return response[name]
