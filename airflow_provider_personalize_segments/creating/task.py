"""The task that creates a job once and waits for it; ``operators.py`` has one for each kind."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Never

from airflow_provider_personalize_segments.airflow_compat import (
    AirflowTaskTimeout,
    conf,
    renders_natively,
)
from airflow_provider_personalize_segments.errors import (
    PersonalizeNewJobFailedError,
    PersonalizeNoSlotError,
    PersonalizeUnavailableError,
    fail_on_invalid_parameters,
    load_error,
)
from airflow_provider_personalize_segments.jobs import (
    JobState,
    classify_status,
    is_job_arn,
    parse_solution_version_arn,
)
from airflow_provider_personalize_segments.links import has_links
from airflow_provider_personalize_segments.parameters import (
    read_bool,
    read_choice,
    read_seconds,
    restore_text,
)
from airflow_provider_personalize_segments.tasks import CONNECTION_FIELDS
from airflow_provider_personalize_segments.waiting.task import JobWaitingTask, Pace, seconds_until
from airflow_provider_personalize_segments.waiting.verdicts import CANNOT_CANCEL

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.airflow_compat import Context
    from airflow_provider_personalize_segments.creating.lineage import TaskTries
    from airflow_provider_personalize_segments.creating.once import Attempt, JobCreation

QUICK_ATTEMPTS = 3
"""How often a fault is tried to be outlasted on the worker before the task defers."""


class CreateBatchJobOperator(JobWaitingTask):
    """
    Create a batch job once, and wait until it is ACTIVE; base of the operators for the two kinds.

    XCom ``return_value`` is the job's ARN, pushed as soon as the job exists.

    **Once.** A job's name is taken for ever, so the name tells whether the job exists: it is looked up before
    each Create. Whatever dies when, the task's next try finds the job and adopts it. Without ``job_name`` it
    follows from DAG, task, run and map index, and so is the same at every try. A job that ended in
    CREATE FAILED is no use any more: the next try creates ``<name>-2``, and so on, as long as there are
    ``retries``; the last try fails with :class:`~.errors.PersonalizeJobFailedError`, those before it with
    :class:`~.errors.PersonalizeNewJobFailedError`.

    **Cleared.** A task that is cleared adopts the job that it created before, even one that has long been
    ACTIVE, and starts another only when that one failed. To run a job on purpose a second time, set
    ``if_exists="new"``.

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
    :param if_exists: what to do when there is a job of that name that the task did not create itself:
        ``adopt`` (the default) it if it is the same in everything but tags, and fail otherwise; ``fail``;
        or create a ``new`` one under the next number
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
        "wait_for_completion",
        "deferrable",
        "poll_interval",
        "timeout",
        *CONNECTION_FIELDS,
    )
    _has_created = True

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
        wait_for_completion: bool = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float | str | timedelta = 60,
        timeout: float | str | timedelta | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
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
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.timeout = timeout
        self._job_arn: str | None = None
        self._creation: JobCreation | None = None
        self._tries: TaskTries | None = None

    @property
    def arn_region(self) -> str:
        """The region in ``solution_version_arn``."""
        return parse_solution_version_arn(
            self.solution_version_arn, source=self.source_of("solution_version_arn")
        )

    @property
    def awaited_arn(self) -> str:
        """The ARN of the job that was created or adopted."""
        return self._job_arn or f"a {self.kind.title} of task {self.task_id!r}"

    @property
    def pace(self) -> Pace:
        """What ``poll_interval`` and ``timeout`` say."""
        interval = read_seconds(self.poll_interval, self.source_of("poll_interval"))
        timeout = read_seconds(self.timeout, self.source_of("timeout"))
        return Pace(
            60.0 if interval is None else interval,
            conf.getfloat("sensors", "default_timeout", fallback=604800.0) if timeout is None else timeout,
        )

    def build_request(self) -> dict[str, Any]:
        """
        Return the members of the Create request but its name, as rendered.

        :raises ValueError: when one cannot be right
        """
        from airflow_provider_personalize_segments.creating.requests import build_request

        return build_request(self.kind, self.source_of, **self._request_parameters())

    def _request_parameters(self) -> dict[str, Any]:
        return {
            "solution_version_arn": self.solution_version_arn,
            "role_arn": self.role_arn,
            "input_path": self.input_path,
            "output_path": self.output_path,
            "filter_arn": self.filter_arn,
            "num_results": self.num_results,
            "input_kms_key_arn": self.input_kms_key_arn,
            "output_kms_key_arn": self.output_kms_key_arn,
            "tags": self._text(self.tags),
        }

    def _text(self, value: Any) -> Any:
        """Return what is to be text as text, also where templates are rendered as native objects."""
        return restore_text(value) if renders_natively(self) else value

    def execute(self, context: Context) -> str:
        """Check what was rendered, have a job, and wait until it is done."""
        from airflow_provider_personalize_segments.creating.requests import find_path_warnings

        with fail_on_invalid_parameters():
            creation = self._make_creation(context)
            deadline = self._deadline(context)
            read_bool(self.wait_for_completion, self.source_of("wait_for_completion"))
            deferrable = read_bool(self.deferrable, self.source_of("deferrable"))
        for warning in find_path_warnings(creation.request):
            self.log.warning(warning)
        attempt = self._attempt(context, creation, deadline, deferrable)
        return self._go_on(context, attempt, deadline)

    def on_kill(self) -> None:
        """Say what becomes of the job when the task is ended on a worker."""
        if self._job_arn:
            self.log.warning(CANNOT_CANCEL, self._job_arn)
        elif self._creation:
            self.log.warning(CANNOT_CANCEL, f"If it was just being created, {self._creation.job_arn}")

    # --- Creating ---------------------------------------------------------------------------------

    def _make_creation(self, context: Context, *, resumed: bool = False) -> JobCreation:
        """Return the way to the job; what was kept by an earlier try, or before deferring, is taken up."""
        # Not at the top, as in every DAG file they would cost time, and only a task that runs needs them.
        from airflow_provider_personalize_segments.creating.names import derive_job_name
        from airflow_provider_personalize_segments.creating.once import ADOPT, IF_EXISTS, JobCreation
        from airflow_provider_personalize_segments.creating.requests import read_job_name

        ti, tries = context["ti"], self._find_tries(context)
        name = read_job_name(self._text(self.job_name), self.source_of("job_name"))
        request = self.build_request()
        kept = tries.recall(self.kind, self.arn_region) if resumed or ti.try_number > 1 else {}
        may_have_made = bool(kept) or resumed or not tries.is_first
        if_exists = read_choice(self.if_exists, IF_EXISTS, self.source_of("if_exists")) or ADOPT
        self._creation = JobCreation(
            self.kind,
            request,
            name
            or derive_job_name(
                ti.dag_id, ti.task_id, ti.run_id, -1 if ti.map_index is None else ti.map_index
            ),
            if_exists,
            since=tries.find_start() if may_have_made else None,
            made_arn=kept.get("job_arn"),
            made_request=kept.get("request"),
            is_derived=not name and (resumed or tries.is_start_known),
            # Only adopt finds the job by its name alone.
            before_create=lambda arn: tries.keep(arn, request, is_needed=if_exists != ADOPT),
            log=self.log,
        )
        return self._creation

    def _find_tries(self, context: Context) -> TaskTries:
        from airflow_provider_personalize_segments.creating.lineage import TaskTries

        if self._tries is None:
            self._tries = TaskTries(context, self.retries or 0, self.log)
        return self._tries

    def _attempt(
        self, context: Context, creation: JobCreation, deadline: datetime, deferrable: bool
    ) -> Attempt:
        """Attempt to have a job until there is one, or the time is over; or leave that to the triggerer."""
        from airflow_provider_personalize_segments.creating.once import find_delay

        # Not in a thread that is given up: half an attempt, finished later, could meet with the next one.
        limit = max(1.0, min(self.call_limit, seconds_until(deadline)))
        hook = self.hook.with_limit(limit).without_retries()
        counts = {True: 0, False: 0}
        while True:
            attempt = creation.attempt(hook)
            if attempt.job_arn:
                return attempt
            self.log.warning("Not yet: %s", attempt.reason)
            if attempt.is_full:
                self._push_links(context, creation.request)
            if (left := seconds_until(deadline)) <= 0:
                raise PersonalizeNoSlotError(creation.job_arn, attempt.reason, self.pace.timeout)
            counts[attempt.is_full] += 1
            if deferrable and (attempt.is_full or counts[False] >= QUICK_ATTEMPTS):
                self._defer_creation(context, creation, deadline, attempt.reason)
            time.sleep(min(left, find_delay(attempt, counts[attempt.is_full], self.pace.interval)))

    def _defer_creation(
        self, context: Context, creation: JobCreation, deadline: datetime, reason: str | None
    ) -> Never:
        # Not at the top: only a task that defers needs asyncio, and what comes with it.
        from airflow_provider_personalize_segments.creating.trigger import PersonalizeCreateBatchJobTrigger

        tries = self._find_tries(context)
        tries.keep(creation.job_arn, creation.request)
        self.defer(
            trigger=PersonalizeCreateBatchJobTrigger(
                kind=self.kind.name,
                request=creation.request,
                job_name=creation.job_name,
                if_exists=creation.if_exists,
                number=creation.number,
                is_derived=creation.is_derived,
                is_first_try=creation.since is None,
                is_free=creation.is_free,
                # A triggerer that dies leaves the next one with nothing but this to know its job by.
                made_since=(creation.since or tries.start).isoformat(),
                waiting_since=tries.start.isoformat(),
                reason=reason,
                poke_interval=self.pace.interval,
                **self._trigger_arguments(deadline),
            ),
            method_name="execute_created",
            timeout=self._deferral_timeout(deadline),
        )

    def execute_created(self, context: Context, event: dict[str, Any] | None = None) -> str:
        """
        Go on with the job that the trigger created.

        :param event: the event; whatever is not one of our trigger's is an error
        """
        from airflow_provider_personalize_segments.creating.once import Attempt
        from airflow_provider_personalize_segments.waiting.events import Outcome, read_creation_event

        ending = read_creation_event(event, self.kind)
        if ending["outcome"] == Outcome.TIMEOUT:
            arn: str = self._ask_last(context, ending["reason"])
            return arn
        if ending["outcome"] == Outcome.EXECUTION_TIMEOUT:
            raise AirflowTaskTimeout(
                f"The task's execution_timeout was over before {self.awaited_arn} could be created."
            )
        if ending["outcome"] == Outcome.ERROR:
            raise load_error(ending["error"])
        attempt = Attempt(ending["job_arn"], ending["job"])
        self.log.info("The triggerer has %s %s.", "found" if attempt.job else "created", attempt.job_arn)
        self._has_links = has_links(context)
        self._find_tries(context).recall(self.kind, self.arn_region)  # so that only what is new is kept
        deadline = self._deadline(context)
        if ending["deadline"]:
            deadline = datetime.fromisoformat(ending["deadline"])
        return self._go_on(context, attempt, deadline)

    # --- Waiting ----------------------------------------------------------------------------------

    def _go_on(self, context: Context, attempt: Attempt, deadline: datetime) -> str:
        """Tell of the job, now that there is one, and wait for it when that is asked for."""
        arn = self._take(context, attempt)
        if not read_bool(self.wait_for_completion, self.source_of("wait_for_completion")):
            return arn
        state = classify_status((attempt.job or {}).get("status"))
        if state is JobState.FAILED:
            raise self._job_failure(context, attempt.job or {})
        if state is JobState.ACTIVE:
            return arn
        if read_bool(self.deferrable, self.source_of("deferrable")):
            self._defer(context, deadline)
        result: str = self._wait_here(context, deadline)
        return result

    def _take(self, context: Context, attempt: Attempt) -> str:
        arn = self._job_arn = str(attempt.job_arn)
        tries = self._find_tries(context)
        # As it was asked for, which is not what templates render to when the task is resumed.
        request = tries.kept.get("request") or (self._creation and self._creation.request)
        if request and arn != tries.kept.get("job_arn"):
            tries.keep(arn, request)
        if self.do_xcom_push:
            context["ti"].xcom_push(key="return_value", value=arn)
        target = {"s3DataDestination": {"path": self.output_path}}
        known = {"solutionVersionArn": self.solution_version_arn, "jobOutput": target}
        self._push_links(context, attempt.job or known)
        return arn

    def _result(self, job: dict[str, Any] | None) -> str:
        return self.awaited_arn

    def _job_failure(self, context: Context, job: dict[str, Any]) -> Exception:
        ti = context["ti"]
        if ti.try_number <= (getattr(ti, "max_tries", None) or 0):
            return PersonalizeNewJobFailedError.from_job(self.awaited_arn, job)
        return super()._job_failure(context, job)

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """
        End the way the trigger's event says.

        :param event: the event; whatever is not one of our trigger's is an error
        :returns: the job's ARN, when it is ACTIVE
        """
        arn = event.get("job_arn") if isinstance(event, dict) else None
        self._job_arn = arn if is_job_arn(arn, self.kind) else None
        return super().execute_complete(context, event)

    def _ask_last(self, context: Context, status: str | None) -> Any:
        if self._job_arn is None:
            # Nobody knows how far the triggerer came; the name does.
            creation = self._make_creation(context, resumed=True)
            try:
                found = creation.find(self.hook.with_limit(self.call_limit).without_retries())
            except PersonalizeUnavailableError as error:
                status, found = str(error), None
            if found is None and creation.failed and self._find_tries(context).has_seen(creation.failed[1]):
                self._job_arn, job = creation.failed
                raise self._job_failure(context, job)
            if found is None:
                raise PersonalizeNoSlotError(creation.job_arn, status, self.pace.timeout)
            arn = self._take(context, found)
            if not read_bool(self.wait_for_completion, self.source_of("wait_for_completion")):
                return arn
            status = None
        return super()._ask_last(context, status)
