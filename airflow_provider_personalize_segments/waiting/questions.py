"""Asking about a task's job on a worker, once: the question, the log, the links, and the output."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_personalize_segments.airflow_compat import PokeReturnValue
from airflow_provider_personalize_segments.aws_errors import are_credentials_refused, explain_lack
from airflow_provider_personalize_segments.bounded_calls import OneCall, call_within, find_limit
from airflow_provider_personalize_segments.errors import (
    PersonalizeJobFailedError,
    PersonalizeJobTimeoutError,
    PersonalizeOutputError,
    PersonalizeRequestError,
    PersonalizeUnavailableError,
    fail_on_invalid_parameters,
)
from airflow_provider_personalize_segments.jobs import JobState
from airflow_provider_personalize_segments.links import push_links
from airflow_provider_personalize_segments.parameters import MAX_SECONDS, read_share
from airflow_provider_personalize_segments.waiting.verdicts import Reporter, Verdict, ask, make_silence

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_personalize_segments.airflow_compat import Context
    from airflow_provider_personalize_segments.hooks import PersonalizeHook
    from airflow_provider_personalize_segments.waiting.pace import Pace
    from airflow_provider_personalize_segments.waiting.task import JobWaitingTask

Answer = TypeVar("Answer")

COUNTS_KEY = "counts"
"""The XCom that holds the counts of a job's output, once it was read."""
LAST_QUESTION = 3.0
"""Seconds that a question may take even when the time is nearly over: a busy worker needs some."""


class JobQuestions:
    """
    Asks about the job of a task that runs.

    :param task: the task, as rendered
    """

    has_created = False
    """Whether the task creates its job, which AWS may show late."""

    def __init__(self, task: JobWaitingTask) -> None:
        self.task = task
        self.log = task.log
        self.has_links = False
        self.last_job: Mapping[str, Any] | None = None
        """The task's job as it was seen last."""
        self._counts: Mapping[str, Any] | None = None
        self._reporter: Reporter | None = None
        self._one_call = OneCall()

    @property
    @abstractmethod
    def awaited_arn(self) -> str:
        """The ARN of the job that is waited for."""

    @property
    @abstractmethod
    def pace(self) -> Pace:
        """How often to ask, and how long to wait, as rendered."""

    @property
    def known_job(self) -> Mapping[str, Any]:
        """The members of the job that the task knows before it has seen the job, as Describe names them."""
        return {}

    # --- Calls ------------------------------------------------------------------------------------

    @property
    def call_limit(self) -> float:
        """How many seconds a call about the job may take."""
        return find_limit(self.pace.interval)

    def call_within(self, seconds: float, ask_aws: Callable[[PersonalizeHook], Answer]) -> Answer:
        """
        Call AWS in a thread that is given up when there is no answer in time.

        :param seconds: how long to wait for the answer
        :param ask_aws: makes the call, with a hook that asks Airflow for nothing
        :returns: its answer
        :raises TimeoutError: when there is no answer in time
        """
        call = self._one_call.within
        try:
            return call(seconds, partial(ask_aws, self._bounded_hook))
        except PersonalizeRequestError as error:
            if not are_credentials_refused(error):
                raise
        # The connection may hold newer credentials.
        self._bounded_hook.close()
        del self._bounded_hook, self.task.hook
        return call(seconds, partial(ask_aws, self._bounded_hook))

    @cached_property
    def _bounded_hook(self) -> PersonalizeHook:
        """The hook for bounded calls, which has read its connection and repeats nothing by itself."""
        hook = self.task.hook.with_limit(self.call_limit).without_retries().fixed()
        # Making the client takes a busy machine seconds, which are not to count as the first call's.
        with suppress(Exception):  # raised again by the call, in words
            call_within(self.call_limit, partial(hook.make_client, self.task.arn_region))
        return hook

    # --- The question -----------------------------------------------------------------------------

    def poke(self, context: Context) -> PokeReturnValue:
        """
        Ask Personalize once; done when the job is ACTIVE.

        :param context: the task's context
        """
        verdict = self._ask(context)
        if verdict.job:
            self.last_job = verdict.job
            self.push_links(context, verdict.job)
        if verdict.state is JobState.FAILED:
            raise self.job_failure(context, verdict.job or {})
        self.report().tell(verdict)
        done = verdict.state is JobState.ACTIVE
        result = self.result(context, verdict.job or {}) if done else None
        return PokeReturnValue(is_done=done, xcom_value=result)

    def _ask(self, context: Context) -> Verdict:
        """Ask in a thread that is given up when AWS does not answer in time."""
        limit = min(self.call_limit, max(LAST_QUESTION, seconds_until(self.deadline(context))))
        try:
            return self.call_within(
                limit, lambda hook: ask(hook, self.awaited_arn, is_created=self.has_created)
            )
        except TimeoutError:
            return make_silence(self.awaited_arn, self.task.hook.aws_conn_id, limit)
        except PersonalizeUnavailableError as error:
            return Verdict(JobState.WAITING, no_answer=str(error))
        except Exception as error:
            task = self.task
            about = (task.kind.describe_operation, self.awaited_arn, task.arn_region, task.hook.aws_conn_id)
            if (lack := explain_lack(error, *about)) is None:
                raise
            return Verdict(JobState.WAITING, no_answer=str(lack))

    def report(self, since: datetime | None = None, told_until: datetime | None = None) -> Reporter:
        """
        Return what tells this task's log about its wait, made on first use.

        :param since: since when the task waits; ``None`` means from now on
        :param told_until: see :class:`~.waiting.verdicts.Reporter`
        """
        if self._reporter is None:
            self._reporter = Reporter(self.log, self.awaited_arn, since, told_until)
        return self._reporter

    def push_links(self, context: Context, job: Mapping[str, Any]) -> None:
        """
        Make the links visible; once, as they do not change.

        :param context: the task's context
        :param job: the job, or the request that it is made by
        """
        if not self.has_links:
            self.has_links = True  # also when that fails, as it would the next time
            try:
                hook = self._bounded_hook
            except Exception as error:
                # Calls about the job tell of it, too, where it matters.
                self.log.warning("The links to the AWS console could not be made: %s", error)
            else:
                push_links(context, hook, job, self.log)

    # --- The end ----------------------------------------------------------------------------------

    def result(self, context: Context, job: dict[str, Any]) -> Any:
        """
        Return what the task returns when its job is ACTIVE, and its output good enough.

        :param context: the task's context
        :param job: the job as Describe gives it
        """
        self.accept(context, job)
        return job

    def accept(self, context: Context, job: dict[str, Any]) -> None:
        """
        Judge the output of a job that is ACTIVE, and emit its folder to whom the task's outlets name.

        :param context: the task's context
        :param job: the job as Describe gives it
        """
        self._check_output(context, job)
        if self.task.outlets:
            # Not at the top: few tasks have outlets.
            from airflow_provider_personalize_segments.watching.assets import emit_output

            emit_output(context, self.task.outlets, self.awaited_arn, job, self.log)

    @property
    def error_limit(self) -> float | None:
        """What ``max_error_rate`` says."""
        task = self.task
        limit = read_share(task.max_error_rate, task.source_of("max_error_rate"))
        if limit is None and task.has_error_limit:
            # The gate would open without a look, though the DAG asks for one.
            raise ValueError(
                f"{task.source_of('max_error_rate')} is {task.max_error_rate!r}: the XCom or the template "
                "that it comes from is empty. Leave max_error_rate out to open the gate without a look."
            )
        return limit

    def _check_output(self, context: Context, job: Mapping[str, Any]) -> None:
        """Read the output, when ``max_error_rate`` asks for it, and tell its counts."""
        with fail_on_invalid_parameters():
            limit = self.error_limit
        if limit is None:
            return
        # Not at the top: only a task that reads output needs it.
        from airflow_provider_personalize_segments.output.checking import check_output

        try:
            self._counts = summary = check_output(self.task.hook, self.awaited_arn, job, limit, self.log)
        except PersonalizeOutputError as error:
            self._counts = {"records": error.records} if error.records else None
            raise
        if self.task.do_xcom_push and "ti" in context:
            context["ti"].xcom_push(key=COUNTS_KEY, value=summary)

    def job_failure(self, context: Context, job: dict[str, Any]) -> Exception:
        """
        Return what the task raises when its job failed.

        :param context: the task's context
        :param job: the job as Describe gives it
        """
        return PersonalizeJobFailedError.from_job(self.awaited_arn, job)

    def deadline(self, context: Context) -> datetime:
        """
        Return when the task gives up; it counts from the start of this try, however often the task defers.

        :param context: the task's context
        """
        return self.start(context) + timedelta(seconds=min(self.pace.timeout, MAX_SECONDS))

    @staticmethod
    def start(context: Context) -> datetime:
        """
        Return when this try began.

        :param context: the task's context
        """
        start: datetime | None = getattr(context.get("ti"), "start_date", None)
        return start or datetime.now(UTC)

    def timeout_error(self, status: str | None = None) -> PersonalizeJobTimeoutError:
        """
        Return what the task raises when its time is over.

        :param status: the status that the triggerer saw last
        """
        report = self.report()
        return PersonalizeJobTimeoutError(
            self.awaited_arn, report.status or status, self.pace.timeout, report.fault, self.has_created
        )

    def tell_lineage(self) -> OperatorLineage[Any, Any] | None:
        """Return what OpenLineage is told: what the task knows of its job by now."""
        try:
            # Not at the top: it is there for OpenLineage alone.
            from airflow_provider_personalize_segments.lineage import add_declared, build_lineage

            job = {**self.known_job, **(self.last_job or {})}
            lineage = build_lineage(self.task.kind, job, self._counts)
            add_declared(lineage, self.task.inlets, self.task.outlets)
            return lineage
        except Exception as error:
            # No event is worth a task.
            self.log.warning("OpenLineage is told nothing about the job: %s", error)
            return None


def seconds_until(moment: datetime) -> float:
    """
    Return how many seconds there are left; less than 0 when it is over.

    :param moment: until when
    """
    return (moment - datetime.now(UTC)).total_seconds()
