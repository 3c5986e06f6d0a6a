"""The create operators but their kind: parameters, and what they are rendered to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_personalize_segments.airflow_compat import conf, find_text_renderer
from airflow_provider_personalize_segments.creating.steps import JobCreatingTask
from airflow_provider_personalize_segments.parameters import (
    read_bool,
    read_choice,
    read_seconds,
)
from airflow_provider_personalize_segments.tasks import CONNECTION_FIELDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_personalize_segments.airflow_compat import Context
    from airflow_provider_personalize_segments.creating.lineage import TaskRecord
    from airflow_provider_personalize_segments.creating.once import Wanted
    from airflow_provider_personalize_segments.waiting.pace import Pace


class CreateBatchJobOperator(JobCreatingTask):
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

    **Cleared.** To clear the task means to do it again: it creates a new job, unless its last one is
    unfinished and the same; that one is waited for.

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
        it from the task instance
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
        old or cut off. ``None`` (the default) means not to look. It needs ``wait_for_completion``
    :param wait_for_completion: whether to wait until the job is ACTIVE, ``True`` unless given. ``False``
        never does, however ``deferrable`` is set; a slot is waited for all the same
    :param deferrable: whether to wait in the triggerer instead of on a worker; the default is
        ``[operators] default_deferrable``
    :param poll_interval: seconds between two calls about the job, or a ``timedelta``; 60 unless given
    :param timeout: seconds from the start of the try until the task gives up, or a ``timedelta``; ``None``
        (the default) means ``[sensors] default_timeout``, seven days
    :param kwargs: the connection parameters of :class:`~.tasks.PersonalizeTask`, and everything that
        Airflow's ``BaseOperator`` takes. All parameters above are templated.

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
    _named_otherwise: ClassVar[Mapping[str, str]] = {
        "poke_interval": "write poll_interval, in seconds",
        "waiter_delay": "write poll_interval, in seconds",
        "check_interval": "write poll_interval, in seconds",
        "waiter_max_attempts": "write timeout, in seconds; it alone ends the wait",
        "max_attempts": "write timeout, in seconds; it alone ends the wait",
        "action_if_job_exists": "write if_exists, 'adopt', 'fail' or 'new'",
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
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
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
        self._has_error_limit = max_error_rate is not None
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.timeout = timeout
        # Airflow may render these as native objects, which are not always the text that was written.
        self._written: dict[str, Any] = {"job_name": job_name, "tags": tags}

    @property
    def arn_region(self) -> str:
        """The region in ``solution_version_arn``."""
        from airflow_provider_personalize_segments.arns import parse_solution_version_arn

        return parse_solution_version_arn(
            self.solution_version_arn, source=self.source_of("solution_version_arn")
        )

    @property
    def known_job(self) -> Mapping[str, Any]:
        """What its parameters say, as rendered; its ARN as soon as the job exists."""
        job = {
            "jobName": self.job_name,
            "solutionVersionArn": self.solution_version_arn,
            "jobInput": {"s3DataSource": {"path": self.input_path}},
            "jobOutput": {"s3DataDestination": {"path": self.output_path}},
            "numResults": self.num_results,
        }
        return {**job, self.kind.arn_member: self._job_arn}

    @property
    def pace(self) -> Pace:
        """What ``poll_interval`` and ``timeout`` say."""
        from airflow_provider_personalize_segments.waiting.pace import Pace

        interval = read_seconds(self.poll_interval, self.source_of("poll_interval"))
        timeout = read_seconds(self.timeout, self.source_of("timeout"))
        return Pace(
            60.0 if interval is None else interval,
            conf.getfloat("sensors", "default_timeout", fallback=604800.0) if timeout is None else timeout,
        )

    def build_request(self, context: Context) -> dict[str, Any]:
        """
        Return the members of the Create request but its name, as rendered.

        :param context: the task's context
        :raises ValueError: when one cannot be right
        """
        from airflow_provider_personalize_segments.creating.requests import build_request

        return build_request(self.kind, self.source_of, **self._request_parameters(context))

    def _request_parameters(self, context: Context) -> dict[str, Any]:
        return {
            "solution_version_arn": self.solution_version_arn,
            "role_arn": self.role_arn,
            "input_path": self.input_path,
            "output_path": self.output_path,
            "filter_arn": self.filter_arn,
            "num_results": self.num_results,
            "input_kms_key_arn": self.input_kms_key_arn,
            "output_kms_key_arn": self.output_kms_key_arn,
            "tags": self._render_text("tags", dict, context),
        }

    def _render_text(self, parameter: str, kind_of_text: type, context: Context) -> Any:
        """Return a parameter with its texts rendered as text, also where Airflow renders native objects."""
        written, rendered = self._written[parameter], getattr(self, parameter)
        renderer = find_text_renderer(self, parameter) if isinstance(written, kind_of_text) else None
        if renderer is None:
            return rendered
        return _render(written, rendered, lambda text: renderer(text, context))

    def find_wanted(self, context: Context, *, is_resumed: bool = False) -> tuple[Wanted, TaskRecord]:
        """Return the job that the task wants, and where its plan is recorded."""
        # Not at the top, as in every DAG file they would cost time, and only a task that runs needs them.
        from airflow_provider_personalize_segments.creating.lineage import TaskRecord, make_wanted
        from airflow_provider_personalize_segments.creating.once import ADOPT, IF_EXISTS, Plan
        from airflow_provider_personalize_segments.creating.requests import read_job_name

        record = TaskRecord(context, self.log)
        if self.job_name is None and self._written["job_name"] is not None:
            raise ValueError(
                f"{self.source_of('job_name')} is None: the XCom that it comes from is empty. Leave job_name "
                "out to derive it from the task."
            )
        name = read_job_name(self._render_text("job_name", str, context), self.source_of("job_name"))
        plan = Plan(self.kind, name or "", self.build_request(context))
        if_exists = read_choice(self.if_exists, IF_EXISTS, self.source_of("if_exists")) or ADOPT
        is_first_try = context["ti"].try_number <= 1
        known = record.recall() if is_resumed or not is_first_try else None
        wanted = make_wanted(record.lineage, plan, if_exists, known, is_first_try=is_first_try)
        self._plan = self._plan or wanted.kept or wanted.plan
        return wanted, record

    @property
    def may_wait(self) -> bool:
        """What ``wait_for_completion`` says."""
        return read_bool(self.wait_for_completion, self.source_of("wait_for_completion"))

    @property
    def may_check_input(self) -> bool:
        """What ``check_input`` says."""
        return read_bool(self.check_input, self.source_of("check_input"))

    @property
    def may_defer(self) -> bool:
        """What ``deferrable`` says."""
        return read_bool(self.deferrable, self.source_of("deferrable"))


def _render(written: Any, rendered: Any, render: Callable[[str], str]) -> Any:
    """Render all texts in a value, except keys, which Airflow does not render; XComs stay what they are."""
    if isinstance(written, str):
        return render(written)
    if isinstance(written, dict) and isinstance(rendered, dict):
        return {key: _render(each, rendered.get(key), render) for key, each in written.items()}
    if isinstance(written, (list, tuple)) and isinstance(rendered, (list, tuple)):
        return [_render(*both, render) for both in zip(written, rendered, strict=True)]
    return rendered
