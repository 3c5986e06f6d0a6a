"""The trigger that creates a batch job when AWS lets it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from airflow_provider_personalize_segments.creating.once import JobCreation
from airflow_provider_personalize_segments.creating.queue import shared_queue
from airflow_provider_personalize_segments.jobs import BatchJobKind, parse_solution_version_arn
from airflow_provider_personalize_segments.waiting.events import Outcome
from airflow_provider_personalize_segments.waiting.trigger import PersonalizeTrigger


class PersonalizeCreateBatchJobTrigger(PersonalizeTrigger):
    """
    Create a batch job in the triggerer when AWS lets it, and fire one event with its ARN.

    For the create operators, when no more jobs may run. All triggers of a triggerer that have the same
    connection settings and create jobs of one kind take turns; see :mod:`~.creating.queue`. When the
    triggerer dies between the call and its answer, the next finds the job by its name.

    The event's ``outcome`` is ``created``, ``timeout``, ``execution_timeout`` or ``error``.

    :param kind: the kind's name, ``segment`` or ``inference``
    :param request: the members of the Create request but its name
    :param job_name: the job's name, without a number
    :param if_exists: ``adopt``, ``fail`` or ``new``
    :param number: the number of the name to attempt
    :param is_derived: whether the name follows from the task instance
    :param is_first_try: whether no earlier try can have created a job
    :param is_free: whether the task saw this name to be free
    :param made_since: a job created later than this, in ISO 8601, may be an earlier try's; ``None`` means
        that there is none
    :param waiting_since: since when the task waits, in the same form; those who wait longest come first
    :param reason: why the task itself could not create the job
    :param deadline: when to give up, as ISO 8601 with an offset; a triggerer's restart does not move it.
        ``None`` means never
    :param execution_deadline: when the task's ``execution_timeout`` is over, in the same form
    :param poke_interval: seconds between two attempts when AWS refuses
    :param aws_conn_id: the Airflow connection; ``None`` means the credentials that boto3 finds by itself
    :param region_name: the AWS region; ``None`` means the one in the solution version's ARN
    :param verify: whether to verify TLS certificates, or the path of a CA bundle
    :param botocore_config: arguments of ``botocore.config.Config`` in a dict
    """

    def __init__(
        self,
        kind: str,
        request: dict[str, Any],
        job_name: str,
        if_exists: str = "adopt",
        number: int = 1,
        is_derived: bool = False,
        is_first_try: bool = False,
        is_free: bool = False,
        made_since: str | None = None,
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
        self.if_exists = if_exists
        self.number = number
        self.is_derived = is_derived
        self.is_first_try = is_first_try
        self.is_free = is_free
        self.made_since = made_since
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
        creation = JobCreation(
            BatchJobKind.named(self.kind),
            self.request,
            self.job_name,
            self.if_exists,
            since=None if self.made_since is None else datetime.fromisoformat(self.made_since),
            number=self.number,
            is_derived=self.is_derived,
            is_first_try=self.is_first_try,
            is_free=self.is_free,
            log=self.log,
        )
        region = parse_solution_version_arn(self.request["solutionVersionArn"])
        queue = shared_queue(self._settings(region), self.kind)
        since = datetime.fromisoformat(self.waiting_since) if self.waiting_since else datetime.now(UTC)
        ticket = queue.join(creation, since, self.poke_interval, self.reason)
        left, ending = self._time_left()
        try:
            limit = None if left == float("inf") else max(0.0, left)
            await asyncio.wait([ticket.future], timeout=limit)
            # A call that is under way when the time is over may create the job all the same.
            answer = await queue.last_answer(ticket)
        finally:
            self._reason = ticket.reason
            queue.leave(ticket)
        if answer is None:
            return ending
        if isinstance(answer, BaseException):
            raise answer.with_traceback(None)
        self._job_arn, self._last_job = answer.job_arn, answer.job
        return Outcome.CREATED
