"""Operators: create Personalize batch jobs, list them, and make tables of their output."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_personalize_segments.creating.task import CreateBatchJobOperator
from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.output.task import OutputToParquetOperator
from airflow_provider_personalize_segments.tasks import CONNECTION_FIELDS, DEFAULT_DEFERRABLE, PersonalizeTask

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.airflow_compat import Context


class ListBatchJobsOperator(PersonalizeTask):
    """
    List batch jobs, newest first; base of the operators for the two kinds.

    XCom ``return_value`` is a list of summaries as List gives them, as plain JSON: ARN, name, status,
    creation and last update (ISO 8601 with an offset), solution version, and the reason of a failure.
    Each job is in it once. AWS filters by solution version only; the other filters are applied here, so
    every call reads all pages. No match is an empty list, and a task mapped over it is skipped, unless
    ``if_empty`` says otherwise.

    Throttling, 5xx and network faults outlast botocore's own retries as
    :class:`~.errors.PersonalizeUnavailableError`, which the task's ``retries`` cover. What AWS refuses for
    good, and a parameter that cannot be right, fail the task without retries.

    :param solution_version_arn: only this solution version's jobs; ``None`` (the default) means every job
        of the account in the region
    :param statuses: only jobs in these statuses, one or several, as documented (``IN PROGRESS``) or as
        observed (``CREATE IN_PROGRESS``), which match each other; ``None`` (the default) means all
    :param created_after: only jobs created at this moment or later: a ``datetime`` or ISO 8601 text; naive
        means UTC
    :param created_before: only jobs created before this moment, in the same forms
    :param job_name_prefix: only jobs whose name starts so
    :param max_items: at most so many, the newest; 1 or more
    :param if_empty: what becomes of the task when no job matches: it is to ``succeed`` (the default) with an
        empty list; to ``skip`` itself, and with it the tasks after it; or to ``fail`` with
        :class:`~.errors.PersonalizeNoJobsError`, which the task's ``retries`` cover
    :param kwargs: the connection parameters of :class:`~.tasks.PersonalizeTask`, and everything that
        Airflow's ``BaseOperator`` takes. All parameters above are templated.

    .. seealso:: https://docs.aws.amazon.com/personalize/latest/dg/API_ListBatchSegmentJobs.html
    """

    template_fields: Sequence[str] = (
        "solution_version_arn",
        "statuses",
        "created_after",
        "created_before",
        "job_name_prefix",
        "max_items",
        "if_empty",
        *CONNECTION_FIELDS,
    )

    def __init__(
        self,
        *,
        solution_version_arn: str | None = None,
        statuses: str | Sequence[str] | None = None,
        created_after: datetime | str | None = None,
        created_before: datetime | str | None = None,
        job_name_prefix: str | None = None,
        max_items: int | str | None = None,
        if_empty: str = "succeed",
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        verify: bool | str | None = None,
        botocore_config: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            aws_conn_id=aws_conn_id,
            region_name=region_name,
            verify=verify,
            botocore_config=botocore_config,
            **kwargs,
        )
        self.solution_version_arn = solution_version_arn
        self.statuses = statuses
        self.created_after = created_after
        self.created_before = created_before
        self.job_name_prefix = job_name_prefix
        self.max_items = max_items
        self.if_empty = if_empty

    @property
    def arn_region(self) -> str | None:
        """The region in ``solution_version_arn``, if there is one."""
        if not self.solution_version_arn:
            return None
        from airflow_provider_personalize_segments.arns import parse_solution_version_arn

        return parse_solution_version_arn(
            self.solution_version_arn, source=self.source_of("solution_version_arn")
        )

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """List, filter and sort."""
        from airflow_provider_personalize_segments.listed_jobs import list_jobs

        with self.told_failure():
            return list_jobs(self)


class PersonalizeListBatchSegmentJobsOperator(ListBatchJobsOperator):
    """
    List batch segment jobs, newest first, such as to wait for each of them.

    ::

        jobs = PersonalizeListBatchSegmentJobsOperator(
            task_id="list_jobs",
            solution_version_arn="arn:aws:personalize:us-east-1:123456789012:solution/shop/4aa8f2c1",
            max_items=100,
        )
        PersonalizeBatchSegmentJobSensor.partial(task_id="wait").expand(
            job_arn=jobs.output.map(lambda job: job["batchSegmentJobArn"])
        )

    Parameters and XCom: see :class:`ListBatchJobsOperator`.
    """

    kind = BatchJobKind.SEGMENT


class PersonalizeListBatchInferenceJobsOperator(ListBatchJobsOperator):
    """List batch inference jobs; all else as :class:`PersonalizeListBatchSegmentJobsOperator`."""

    kind = BatchJobKind.INFERENCE


class PersonalizeCreateBatchSegmentJobOperator(CreateBatchJobOperator):
    """
    Create a batch segment job once, and wait until its user segments are in S3.

    ::

        PersonalizeCreateBatchSegmentJobOperator(
            task_id="create_segments",
            solution_version_arn="arn:aws:personalize:us-east-1:123456789012:solution/shop/4aa8f2c1",
            role_arn="arn:aws:iam::123456789012:role/PersonalizeS3Access",
            input_path="s3://shop/segments/input/{{ ds }}.json",
            output_path="s3://shop/segments/output/{{ ds }}/",
            num_results=1000,
            deferrable=True,
            retries=2,
        )

    Parameters and XCom: see :class:`~.creating.task.CreateBatchJobOperator`.
    """

    kind = BatchJobKind.SEGMENT


class PersonalizeCreateBatchInferenceJobOperator(CreateBatchJobOperator):
    """
    Create a batch inference job; all else as :class:`PersonalizeCreateBatchSegmentJobOperator`.

    :param batch_inference_job_config: ``{"itemExplorationConfig": {"explorationWeight": "0.3",
        "explorationItemAgeCutOff": "30"}}``, whose values are text, a number from 0.0 to 1.0 and days, and
        ``{"rankingInfluence": {"POPULARITY": 0.5, "FRESHNESS": 0.5}}``, whose values are 0.0 to 1.0;
        ``None`` (the default) means Personalize's own: 0.3, 30 days, and 0.0
    :param batch_inference_job_mode: ``BATCH_INFERENCE`` or ``THEME_GENERATION``; ``None`` (the default) means
        the first. Themes are available in us-east-1, us-west-2 and ap-northeast-1 only
    :param theme_generation_config: with ``THEME_GENERATION``, and only then, the column of the items dataset
        that names the items: ``{"fieldsForThemeGeneration": {"itemName": "TITLE"}}``
    :param solution_version_arn: and all others: see :class:`~.creating.task.CreateBatchJobOperator`

    .. seealso:: https://docs.aws.amazon.com/personalize/latest/dg/API_CreateBatchInferenceJob.html
    """

    kind = BatchJobKind.INFERENCE
    template_fields: Sequence[str] = (
        *CreateBatchJobOperator.template_fields,
        "batch_inference_job_config",
        "batch_inference_job_mode",
        "theme_generation_config",
    )
    own_request_parameters: ClassVar[dict[str, str]] = {
        "config": "batch_inference_job_config",
        "mode": "batch_inference_job_mode",
        "themes": "theme_generation_config",
    }

    def __init__(
        self,
        *,
        solution_version_arn: str,
        role_arn: str,
        input_path: str,
        output_path: str,
        batch_inference_job_config: dict[str, Any] | None = None,
        batch_inference_job_mode: str | None = None,
        theme_generation_config: dict[str, Any] | None = None,
        job_name: str | None = None,
        filter_arn: str | None = None,
        num_results: int | str | None = None,
        input_kms_key_arn: str | None = None,
        output_kms_key_arn: str | None = None,
        tags: dict[str, str] | None = None,
        if_exists: str = "adopt",
        check_input: bool = False,
        max_error_rate: float | str | None = None,
        wait_for_completion: bool = True,
        deferrable: bool = DEFAULT_DEFERRABLE,
        poll_interval: float | str | timedelta = 60,
        timeout: float | str | timedelta | None = None,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        verify: bool | str | None = None,
        botocore_config: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        # Editors show what is written here, so the segment operator's parameters stand here once more.
        super().__init__(
            solution_version_arn=solution_version_arn,
            role_arn=role_arn,
            input_path=input_path,
            output_path=output_path,
            job_name=job_name,
            filter_arn=filter_arn,
            num_results=num_results,
            input_kms_key_arn=input_kms_key_arn,
            output_kms_key_arn=output_kms_key_arn,
            tags=tags,
            if_exists=if_exists,
            check_input=check_input,
            max_error_rate=max_error_rate,
            wait_for_completion=wait_for_completion,
            deferrable=deferrable,
            poll_interval=poll_interval,
            timeout=timeout,
            aws_conn_id=aws_conn_id,
            region_name=region_name,
            verify=verify,
            botocore_config=botocore_config,
            **kwargs,
        )
        self.batch_inference_job_config = batch_inference_job_config
        self.batch_inference_job_mode = batch_inference_job_mode
        self.theme_generation_config = theme_generation_config
        self.written_texts["batch_inference_job_config"] = batch_inference_job_config


class PersonalizeSegmentsToParquetOperator(OutputToParquetOperator):
    """
    Write the user segments of a batch segment job as Parquet: a row for each user of each segment.

    ::

        PersonalizeSegmentsToParquetOperator(
            task_id="convert",
            job_arn="arn:aws:personalize:us-east-1:123456789012:batch-segment-job/weekly",
            output_path="s3://shop/segments/tables/{{ ds }}/",
        )

    The columns are ``query`` (text: the item, or the expression of attributes), ``user_id`` (text), ``rank``
    (int32, 1 is the most likely user) and ``job_arn`` (text).

    Parameters and XCom: see :class:`~.output.task.OutputToParquetOperator`.
    """

    kind = BatchJobKind.SEGMENT


class PersonalizeRecommendationsToParquetOperator(OutputToParquetOperator):
    """
    Write the output of a batch inference job as Parquet: a row for each item that is recommended.

    The columns are ``query`` (text: the user, or the item), ``item_id`` (text), ``rank`` (int32, 1 is the
    best item), ``score`` (float64), ``theme`` (text), ``theme_relevance_score`` (float64) and ``job_arn``
    (text). Scores and themes are null where the job gives none.

    Parameters and XCom: see :class:`~.output.task.OutputToParquetOperator`.
    """

    kind = BatchJobKind.INFERENCE
