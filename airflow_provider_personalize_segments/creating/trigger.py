"""The trigger that creates a batch job when AWS lets it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from airflow_provider_personalize_segments.arns import parse_solution_version_arn
from airflow_provider_personalize_segments.creating.once import Creation, Plan
from airflow_provider_personalize_segments.creating.queue import shared_queue
from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.waiting.events import Outcome
from airflow_provider_personalize_segments.waiting.trigger import PersonalizeTrigger
from airflow_provider_personalize_segments.waiting.verdicts import Reporter


class PersonalizeCreateBatchJobTrigger(PersonalizeTrigger):
    """
    Create one batch job in the triggerer when AWS lets it, and fire one event with its ARN.

    For the create operators, when no more jobs may run. All triggers of a triggerer that have the same
    connection settings and create jobs of one kind take turns; see :mod:`~.creating.queue`. The trigger
    creates a job of this name and no other. When the triggerer dies between the call and its answer, the
    next one is told by AWS that the job exists.

    The event's ``outcome`` is ``created``, ``exists``, ``timeout``, ``execution_timeout`` or ``error``. With
    ``exists``, AWS says that the name was taken; the task judges by whom.

    :param kind: the kind's name, ``segment`` or ``inference``
    :param request: the members of the Create request but its name
    :param job_name: the job's final name
    :param waiting_since: since when the task waits, as ISO 8601 with an offset; the longest wait comes first
    :param reason: why the task itself could not create the job
    :param deadline: as all that follow: see :class:`~.waiting.trigger.PersonalizeTrigger`
    """

    def __init__(
        self,
        kind: str,
        request: dict[str, Any],
        job_name: str,
        waiting_since: str | None = None,
        reason: str | None = None,
        deadline: str | None = None,
        execution_deadline: str | None = None,
        poke_interval: float = 60.0,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        verify: bool | str | None = None,
        botocore_config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            deadline, execution_deadline, poke_interval, aws_conn_id, region_name, verify, botocore_config
        )
        self.kind = kind
        self.request = request
        self.job_name = job_name
        self.waiting_since = waiting_since
        self.reason = reason

    async def on_kill(self) -> None:
        """Say what becomes of the job when a person ends the task; Airflow calls this from 3.3 on."""
        self.log.warning(
            "No longer waiting to create %s. If AWS was being asked at this very moment, it may exist: "
            "Personalize cannot cancel a batch job.",
            self.job_name,
        )

    async def _wait(self) -> str:
        plan = Plan(BatchJobKind.named(self.kind), self.job_name, self.request)
        region = parse_solution_version_arn(self.request["solutionVersionArn"])
        queue = shared_queue(self._settings(region), self.kind)
        since = datetime.fromisoformat(self.waiting_since) if self.waiting_since else datetime.now(UTC)
        reporter = Reporter(self.log, f"a slot to create {plan.job_arn}", since, is_told=True)
        ticket = queue.join(Creation(plan, self.log), since, self.poke_interval, self.reason)
        try:
            while not ticket.future.done() and self._time_left()[0] > 0:
                pause = min(self._time_left()[0], reporter.seconds_to_tell)
                await asyncio.wait([ticket.future], timeout=max(0.0, pause))
                reporter.tell_time(ticket.reason or "AWS was not asked yet")
            # A call that is under way when the time is over may create the job all the same.
            answer = await queue.last_answer(ticket)
        finally:
            self._reason = ticket.reason
            self._is_unanswered = ticket.creation.is_unanswered
            queue.leave(ticket)
        if answer is None:
            return self._time_left()[1]
        if isinstance(answer, BaseException):
            raise answer.with_traceback(None)
        self._job_arn, self._last_job, self._may_be_own = answer.job_arn, answer.job, answer.may_be_own
        return Outcome.CREATED if answer.is_own else Outcome.EXISTS
