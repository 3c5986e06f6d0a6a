"""The create operators but their kind: their parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_personalize_segments.tasks import CONNECTION_FIELDS, DEFAULT_DEFERRABLE
from airflow_provider_personalize_segments.waiting.task import JobWaitingTask

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.airflow_compat import Context
    from airflow_provider_personalize_segments.creating.steps import CreatingSteps


_EACH_MEMBER = "each member of the Create request has a parameter, such as num_results, filter_arn and tags"


class CreateBatchJobOperator(JobWaitingTask):
    """
    Create a batch job once, and wait until it is ACTIVE; base of the operators for the two kinds.

    XCom ``return_value`` is the job's ARN, pushed as soon as the job exists. XCom ``job`` is the job as
    Describe gives it, as plain JSON, with ``jobOutput`` and ``status``; until AWS describes it, its ARN, its
    name and the request.

    **Once.** AWS gives a name to one job, for ever, so the name tells whether the job exists. Without
    ``job_name`` it is made of DAG, task, run and map index, and of the task's clears: the same at every
    retry, and another after a clear. Even if a worker or triggerer dies, a retry finds the job and takes it.
    A job that ended in CREATE FAILED is passed by: the next try creates ``<name>-2``, and so on, as long as
    there are ``retries``; the last try fails with :class:`~.errors.PersonalizeJobFailedError`, those before
    it with :class:`~.errors.PersonalizeNewJobFailedError`.

    **Cleared.** To clear a task that succeeded, without ``job_name`` or with ``if_exists="new"``, means to do
    it again: the task creates a new job. To clear one that failed means to take up its job, if that is the
    same: while it is unfinished on every Airflow, and from 3.3 on, where a record tells, also when it is
    ACTIVE by now. With a ``job_name``, ``if_exists`` decides: ``adopt`` takes the job of that name, even an
    ACTIVE one, and computes nothing.

    **Found by the first try.** A job that has the task's own name before the task has tried is a deleted
    run's, or another Airflow's. It is waited for while it is unfinished and the same in everything but tags;
    else the task fails with :class:`~.errors.PersonalizeJobExistsError`. ``[personalize] job_name_prefix``
    keeps the names of two Airflows apart.

    **No slot.** When as many jobs run as AWS allows, five of a kind and region, the task waits for a slot
    until ``timeout``, in the triggerer when it is deferrable. Throttling, 5xx and network faults are waited
    out as well; after an answer that never came, the name tells whether the job exists. What AWS refuses for
    good, and a parameter that cannot be right, fail the task at once and without retries.

    **Killed.** Personalize cannot cancel a batch job: ending the task leaves the job running.

    :param solution_version_arn: the ARN of the solution version that makes the segments or recommendations
    :param role_arn: the ARN of the IAM role that Personalize reads the input and writes the output with
    :param input_path: the S3 path of the input, ``s3://...``, at most 256 characters. It is a prefix: end a
        folder with a slash
    :param output_path: the S3 path of the output folder, neither the input's nor under it
    :param job_name: the job's name, 1 to 63 letters, digits, ``-`` and ``_``; ``None`` (the default) derives
        it from the task instance. It must be the same at every try: before Airflow 3.3 a retry under another
        name creates a second job, which is billed, too
    :param filter_arn: the ARN of a filter; ``None`` (the default) means no filter
    :param num_results: how many users or items each line of input gets, 1 or more, 5,000,000 users at most;
        ``None`` (the default) means 25
    :param input_kms_key_arn: the ARN of the KMS key that the input is encrypted with, no alias
    :param output_kms_key_arn: the ARN of the KMS key to encrypt the output with, no alias
    :param tags: at most 50 tags, in a dict; an adopted job keeps those it has
    :param if_exists: what to do when a job has the explicit ``job_name`` and is not the task's own:
        ``adopt`` (the default) it if it is the same in everything but tags, and fail otherwise; ``fail``;
        or create a ``new`` one, under that name with a few characters behind it that are the task's alone
    :param check_input: whether to read the input in S3 before the job is created, and to fail with
        :class:`~.errors.PersonalizeInputError` on what Personalize would refuse; ``False`` unless given
    :param max_error_rate: the largest share of records with an error that the job's output may hold, 0.0
        to 1.0. Once the job is ACTIVE, the worker reads the output in S3, and the task fails with
        :class:`~.errors.PersonalizeOutputError` when the share is larger, or when a file is missing, empty,
        old or cut off. XCom ``counts`` then holds ``files``, ``bytes``, ``records``, ``errors``,
        ``errorRate`` and ``firstErrors``. ``None`` (the default) means not to look. It needs
        ``wait_for_completion``
    :param wait_for_completion: whether to wait until the job is ACTIVE, ``True`` unless given. ``False``
        never does, however ``deferrable`` is set; a slot is waited for all the same
    :param deferrable: whether to wait in the triggerer instead of on a worker; the default is
        ``[operators] default_deferrable``
    :param poll_interval: seconds between two calls about the job, or a ``timedelta``; 60 unless given
    :param timeout: seconds from the start of the try until the task gives up, or a ``timedelta``; ``None``
        (the default) means ``[sensors] default_timeout``, seven days
    :param kwargs: the connection parameters of :class:`~.tasks.PersonalizeTask`, and everything that
        Airflow's ``BaseOperator`` takes. All parameters above are templated. With an ``AssetAlias`` among its
        ``outlets``, the task emits the job's output folder as an asset once the job is ACTIVE.

    .. seealso:: https://docs.aws.amazon.com/personalize/latest/dg/API_CreateBatchSegmentJob.html
    """

    template_fields: Sequence[str] = (
        "solution_version_arn",
        "role_arn",
        "input_path",
        "output_path",
        "job_name",
        "filter_arn",
        "num_results",
        "input_kms_key_arn",
        "output_kms_key_arn",
        "tags",
        "if_exists",
        "check_input",
        "max_error_rate",
        "wait_for_completion",
        "deferrable",
        "poll_interval",
        "timeout",
        *CONNECTION_FIELDS,
    )
    own_request_parameters: ClassVar[dict[str, str]] = {}
    """The parameters that only this kind has, by their names in :func:`~.creating.requests.build_request`."""
    _named_otherwise: ClassVar[Mapping[str, str]] = {
        "poke_interval": "write poll_interval, in seconds",
        "waiter_delay": "write poll_interval, in seconds",
        "check_interval": "write poll_interval, in seconds",
        "waiter_max_attempts": "write timeout, in seconds; it alone ends the wait",
        "max_attempts": "write timeout, in seconds; it alone ends the wait",
        "max_ingestion_time": "write timeout, in seconds; it alone ends the wait",
        "action_if_job_exists": "write if_exists, 'adopt', 'fail' or 'new'",
        "check_if_job_exists": "the operator always looks for its job, and if_exists says what to do",
        "data_access_role_arn": "write role_arn",
        "input_uri": "write input_path, and input_kms_key_arn for a key",
        "input_data_config": "write input_path, and input_kms_key_arn for a key",
        "output_uri": "write output_path, and output_kms_key_arn for a key",
        "output_data_config": "write output_path, and output_kms_key_arn for a key",
        "config": _EACH_MEMBER,
        "invoke_kwargs": _EACH_MEMBER,
        "start_pii_entities_kwargs": _EACH_MEMBER,
        "mode": "write deferrable=True to wait in the triggerer",
    }

    def __init__(
        self,
        *,
        solution_version_arn: str,
        role_arn: str,
        input_path: str,
        output_path: str,
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
        super().__init__(
            aws_conn_id=aws_conn_id,
            region_name=region_name,
            verify=verify,
            botocore_config=botocore_config,
            **kwargs,
        )
        self.solution_version_arn = solution_version_arn
        self.role_arn = role_arn
        self.input_path = input_path
        self.output_path = output_path
        self.job_name = job_name
        self.filter_arn = filter_arn
        self.num_results = num_results
        self.input_kms_key_arn = input_kms_key_arn
        self.output_kms_key_arn = output_kms_key_arn
        self.tags = tags
        self.if_exists = if_exists
        self.check_input = check_input
        self.max_error_rate = max_error_rate
        self.has_error_limit = max_error_rate is not None
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.timeout = timeout
        # Airflow may render these as native objects, which are not always the text that was written.
        self.written_texts: dict[str, Any] = {"job_name": job_name, "tags": tags}

    @property
    def arn_region(self) -> str:
        """The region in ``solution_version_arn``."""
        from airflow_provider_personalize_segments.arns import parse_solution_version_arn

        return parse_solution_version_arn(
            self.solution_version_arn, source=self.source_of("solution_version_arn")
        )

    @property
    def worker_steps(self) -> CreatingSteps:
        """What a worker does for this operator."""
        from airflow_provider_personalize_segments.creating.steps import CreatingSteps

        return self._keep_steps(CreatingSteps)

    def execute(self, context: Context) -> str:
        """Check what was rendered, have a job, and wait until it is done."""
        with self.told_failure():
            return self.worker_steps.execute(context)

    def execute_created(
        self,
        context: Context,
        event: dict[str, Any] | None = None,
        job_name: str | None = None,
        request: dict[str, Any] | None = None,
    ) -> str:
        """
        Go on with the job that the trigger created.

        :param context: the task's context
        :param event: the event; any other than our trigger's is an error
        :param job_name: the name under which the trigger created the job
        :param request: the members of the Create request but the name
        """
        return self.worker_steps.execute_created(context, event, job_name, request)

    def on_kill(self) -> None:
        """Say what becomes of the job when the task is ended on a worker."""
        # Airflow calls this from a signal handler, which may have interrupted the import of the steps.
        if (steps := self._kept_steps()) is not None:
            steps.tell_kill()
