"""What the parameters of a create operator say once they are rendered."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from airflow_provider_personalize_segments.airflow_compat import (
    conf,
    find_task_state_store,
    find_text_renderer,
)
from airflow_provider_personalize_segments.creating.lineage import TaskRecord, make_wanted
from airflow_provider_personalize_segments.creating.once import ADOPT, FAIL, IF_EXISTS, Plan
from airflow_provider_personalize_segments.creating.requests import (
    build_request,
    read_job_name,
    read_job_name_prefix,
)
from airflow_provider_personalize_segments.parameters import read_bool, read_choice, read_seconds
from airflow_provider_personalize_segments.waiting.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_provider_personalize_segments.airflow_compat import Context
    from airflow_provider_personalize_segments.creating.once import Wanted
    from airflow_provider_personalize_segments.creating.task import CreateBatchJobOperator

REQUEST_PARAMETERS = (
    "solution_version_arn",
    "role_arn",
    "input_path",
    "output_path",
    "filter_arn",
    "num_results",
    "input_kms_key_arn",
    "output_kms_key_arn",
    "tags",
)


_CHANGES_BY_TRY = (
    r"\btry_number\b|\b(?:now|utcnow|today|uuid[1-8])\s*\(|\brandom\b|\btime\.time\b"
    r"|\b(?:ti|task_instance)\.(?:start_date|queued_dttm|hostname|pid|job_id|id)\b"
)
"""What a template may name that is another at the task's next try."""


class RenderedParameters:
    """
    Reads the parameters of a create operator, and raises a ValueError for one that cannot be right.

    :param task: the operator, as rendered
    """

    def __init__(self, task: CreateBatchJobOperator) -> None:
        self._task = task

    @property
    def known_job(self) -> Mapping[str, Any]:
        """The members of the job, but its ARN, as Describe names them."""
        task = self._task
        return {
            "jobName": task.job_name,
            "solutionVersionArn": task.solution_version_arn,
            "jobInput": {"s3DataSource": {"path": task.input_path}},
            "jobOutput": {"s3DataDestination": {"path": task.output_path}},
            "numResults": task.num_results,
        }

    @property
    def pace(self) -> Pace:
        """What ``poll_interval`` and ``timeout`` say."""
        task = self._task
        interval = read_seconds(task.poll_interval, task.source_of("poll_interval"))
        timeout = read_seconds(task.timeout, task.source_of("timeout"))
        return Pace(
            60.0 if interval is None else interval,
            conf.getfloat("sensors", "default_timeout", fallback=604800.0) if timeout is None else timeout,
        )

    @property
    def may_wait(self) -> bool:
        """What ``wait_for_completion`` says."""
        return read_bool(self._task.wait_for_completion, self._task.source_of("wait_for_completion"))

    @property
    def may_check_input(self) -> bool:
        """What ``check_input`` says."""
        return read_bool(self._task.check_input, self._task.source_of("check_input"))

    @property
    def may_defer(self) -> bool:
        """What ``deferrable`` says."""
        return read_bool(self._task.deferrable, self._task.source_of("deferrable"))

    def build_request(self, context: Context) -> dict[str, Any]:
        """
        Return the members of the Create request but its name.

        :param context: the task's context
        :raises ValueError: when one cannot be right
        """
        task = self._task
        parameters = {name: name for name in REQUEST_PARAMETERS} | task.own_request_parameters
        rendered = {name: self._render(parameter, dict, context) for name, parameter in parameters.items()}
        return build_request(task.kind, task.source_of, **rendered)

    def find_wanted(self, context: Context, *, is_resumed: bool = False) -> tuple[Wanted, TaskRecord]:
        """
        Return the job that the task wants, and where its plan is recorded.

        :param context: the task's context
        :param is_resumed: whether this try deferred before
        :raises ValueError: when a parameter cannot be right
        """
        task = self._task
        record = TaskRecord(context, task.log)
        if task.job_name is None and task.written_texts["job_name"] is not None:
            raise ValueError(
                f"{task.source_of('job_name')} is None: the XCom that it comes from is empty. Leave job_name "
                "out to derive it from the task."
            )
        name = read_job_name(self._render("job_name", str, context), task.source_of("job_name"))
        plan = Plan(task.kind, name or "", self.build_request(context))
        if_exists = read_choice(task.if_exists, IF_EXISTS, task.source_of("if_exists")) or ADOPT
        prefix = read_job_name_prefix(conf.get("personalize", "job_name_prefix", fallback=None))
        number = context["ti"].try_number
        has_run = number > 1
        recorded = record.recall() if is_resumed or has_run else None
        # A clear allows `retries` more. Retries edited in between may make a later try look like the first.
        seems_first = number == record.lineage.max_tries - (task.retries or 0) + 1
        wanted = make_wanted(
            record.lineage,
            plan,
            if_exists,
            recorded,
            prefix,
            has_run=has_run,
            # A try that ended before it recorded its plan created nothing.
            is_first=not has_run or record.is_empty or seems_first,
            is_resumed=is_resumed,
        )
        return wanted, record

    def find_name_warning(self, context: Context) -> str | None:
        """
        Return what is wrong with a ``job_name`` that another try renders otherwise; ``None`` when nothing is.

        :param context: the task's context
        """
        written = self._task.written_texts["job_name"]
        if not isinstance(written, str) or find_task_state_store(context) is not None:
            return None
        templates = re.findall(r"{[{%].*?[%}]}", written, re.DOTALL)
        if not (found := next(filter(None, (re.search(_CHANGES_BY_TRY, each) for each in templates)), None)):
            return None
        return (
            f"{self._task.source_of('job_name')} changes from try to try, by {found[0].rstrip('( ')}: before "
            "Airflow 3.3 a retry looks for the job under another name, and creates a second one, which is "
            "billed, too. Leave job_name out, or take what stays the same, such as {{ ts_nodash }}."
        )

    def may_create_next(self, context: Context) -> bool:
        """
        Tell whether a retry passes by this task's own job when it failed, and creates the next.

        With ``fail`` and a ``job_name``, only the record tells the task's own job from another task's.

        :param context: the task's context
        """
        is_shared = bool(self._task.job_name) and self._task.if_exists == FAIL
        return not is_shared or find_task_state_store(context) is not None

    def _render(self, parameter: str, kind_of_text: type, context: Context) -> Any:
        """Return a parameter with its texts rendered as text, also where Airflow renders native objects."""
        task = self._task
        written, rendered = task.written_texts.get(parameter), getattr(task, parameter)
        renderer = find_text_renderer(task, parameter) if isinstance(written, kind_of_text) else None
        if renderer is None:
            return rendered
        return _render_texts(written, rendered, lambda text: renderer(text, context))


def _render_texts(written: Any, rendered: Any, render: Callable[[str], str]) -> Any:
    """Render all texts in a value, except keys, which Airflow does not render; XComs stay what they are."""
    if isinstance(written, str):
        return render(written)
    if isinstance(written, dict) and isinstance(rendered, dict):
        return {key: _render_texts(each, rendered.get(key), render) for key, each in written.items()}
    if isinstance(written, (list, tuple)) and isinstance(rendered, (list, tuple)):
        return [_render_texts(*both, render) for both in zip(written, rendered, strict=True)]
    return rendered
