"""What a test holds in its hand: seeds the local Personalize, drives its jobs, breaks it, reads its calls."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_personalize_segments.arns import JOB_NAME_PATTERN
from airflow_provider_personalize_segments.jobs import (
    ACTIVE_STATUS,
    BatchJobKind,
    JobState,
    classify_status,
)
from airflow_provider_personalize_segments.testing.changes import StatusChange
from airflow_provider_personalize_segments.testing.recipes import RECIPES
from airflow_provider_personalize_segments.testing.records import (
    BatchJob,
    read_clock,
)
from airflow_provider_personalize_segments.testing.service import PersonalizeService

if TYPE_CHECKING:
    from airflow.sdk import DAG, BaseOperator, XComArg
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    from airflow_provider_personalize_segments.testing.runs import DagRunResult

DEFAULT_REGION = "us-east-1"


class PersonalizeControl(PersonalizeService):
    """
    The hand on a local Personalize; ``mock_personalize()`` and ``LocalPersonalize()`` both give one.

    :param seed: decides the users and items in output, version identifiers and chance; the same seed gives
        the same
    :param statuses: ``observed`` for the statuses real jobs have shown, CREATE PENDING, CREATE IN_PROGRESS
        and ACTIVE; ``documented`` for those of the API reference, PENDING, IN PROGRESS and ACTIVE. A job
        that fails is CREATE FAILED either way.
    :param progress: ``immediately``, a job is finished when Create returns; ``by_time``, every ``seconds``
        one step; ``by_call``, each status is seen ``calls`` times by Describe or List; ``by_hand``, only
        :meth:`advance` and :meth:`set_status` move it
    :param seconds: how long a job stays in each status, with ``by_time``
    :param calls: how often each status is seen, with ``by_call``
    :param users: how many users there are, and how many items; no record names more
    """

    # --- Seeding ----------------------------------------------------------------------------------

    @property
    def endpoint_url(self) -> str | None:
        """Where it answers over HTTP; ``None`` when only boto3 in this process reaches it."""
        return None

    def airflow_connection(self, region_name: str = DEFAULT_REGION, *, role_arn: str | None = None) -> str:
        """
        Return the JSON of an Airflow connection to it, for ``AIRFLOW_CONN_AWS_DEFAULT``.

        :param region_name: the connection's region
        :param role_arn: the role that the connection assumes; ``None`` (the default) means none. Any role is
            there to be assumed, in any account, until ``faults.deny_role()`` refuses it.
        """
        extra: dict[str, Any] = {"region_name": region_name}
        if role_arn:
            extra["role_arn"] = role_arn
        if self.endpoint_url:
            extra["endpoint_url"] = self.endpoint_url
            # The amazon provider asks AWS for a role, unless told otherwise for STS in particular.
            extra["service_config"] = {"sts": {"endpoint_url": self.endpoint_url}}
        return json.dumps({"conn_type": "aws", "login": "testing", "password": "testing", "extra": extra})

    def add_solution_version(
        self,
        name: str = "demo-solution",
        recipe: str = "aws-item-affinity",
        region_name: str = DEFAULT_REGION,
        dataset_group: str = "demo",
        status: str = ACTIVE_STATUS,
        account_id: str | None = None,
    ) -> str:
        """
        Add a solution version and return its ARN; the same parameters give the same ARN.

        :param name: name of the solution
        :param recipe: name of its recipe, which decides the kind of job it runs and the records it takes
        :param region_name: the region it is in
        :param dataset_group: name of its dataset group
        :param status: jobs can only be created when it is ``ACTIVE``
        :param account_id: the account it is in, if not :attr:`account_id`
        """
        if recipe not in RECIPES:
            raise ValueError(f"recipe: expected one of {', '.join(RECIPES)}, got {recipe!r}.")
        if not re.fullmatch(JOB_NAME_PATTERN, name):
            raise ValueError(f"name: {name!r} cannot be the name of a solution.")
        with self.hold():
            backend = self.backend(region_name, account_id)
            return backend.add_solution_version(name, recipe, dataset_group, status)

    def add_filter(
        self,
        name: str,
        expression: str,
        region_name: str = DEFAULT_REGION,
        dataset_group: str = "demo",
        account_id: str | None = None,
    ) -> str:
        """
        Add a filter and return its ARN; ``check_input`` asks for its expression.

        Jobs take the ARN of any filter, added or not, and no filter changes their output.

        :param name: name of the filter
        :param expression: its expression, such as ``INCLUDE UserID WHERE Users.PLAN IN ($PLANS)``
        :param region_name: the region it is in
        :param dataset_group: name of its dataset group
        :param account_id: the account it is in, if not :attr:`account_id`
        """
        with self.hold():
            return self.backend(region_name, account_id).add_filter(name, expression, dataset_group)

    def add_job(
        self,
        kind: BatchJobKind | Literal["segment", "inference"],
        job_name: str,
        *,
        solution_version_arn: str,
        status: str = ACTIVE_STATUS,
        created: datetime | None = None,
        updated: datetime | None = None,
        failure_reason: str | None = None,
        input_path: str = "s3://example-bucket/input/items.json",
        output_path: str = "s3://example-bucket/output/",
        num_results: int = 25,
        output: Sequence[Mapping[str, Any]] | None = None,
        region_name: str | None = None,
        account_id: str | None = None,
    ) -> str:
        """
        Put a job there without creating it, and return its ARN.

        It stays in its status until :meth:`advance`, :meth:`set_status` or :meth:`fail_job`, writes no output
        but ``output``, and is judged by no quota, though an unfinished one counts towards the five that
        Create allows.

        :param kind: the kind of job, also as the text ``segment`` or ``inference``
        :param job_name: name of the job
        :param solution_version_arn: ARN of a solution version that was added
        :param status: any status, known or not
        :param created: when it was created; ``None`` is now
        :param updated: when its status last changed; ``None`` is when it was created
        :param failure_reason: why it failed; ``None`` takes the reason given to :meth:`fail_job`, if any
        :param input_path: the input path it shows
        :param output_path: the output path it shows
        :param num_results: the number of results it shows
        :param output: the records that its one file of output holds, such as ``{"input": {"itemId": "b1042"},
            "output": {"usersList": ["user-7"]}, "error": None}``. They are in S3 when the job is ACTIVE, at
            once or by :meth:`advance`, with ``_CHECK`` beside them; buckets that are not there are made, and
            input of these records where ``input_path`` leads to none. ``None`` (the default) writes nothing
        :param region_name: the region it is in; ``None`` takes the solution version's
        :param account_id: the account it is in; ``None`` takes the solution version's
        :raises ValueError: when it cannot be there, or is ACTIVE though :meth:`fail_job` said it fails
        """
        if isinstance(kind, str):
            kind = BatchJobKind.named(kind)
        _, _, _, region, account, _ = solution_version_arn.split(":", 5)
        with self.hold():
            backend = self.backend(region_name or region, account_id or account)
            if solution_version_arn not in backend.solution_versions:
                raise ValueError(
                    f"solution_version_arn: {solution_version_arn!r} is unknown; use add_solution_version."
                )
            arn = backend.job_arn(kind, job_name)
            if not re.fullmatch(JOB_NAME_PATTERN, job_name):
                raise ValueError(f"job_name: {job_name!r} cannot be a job name.")
            reason = self._settings.failure_of(arn, job_name)
            if reason and classify_status(status) is JobState.ACTIVE:
                raise ValueError(
                    f"status: fail_job says that {job_name!r} fails, so it cannot be {status}; pass another "
                    "status, such as 'CREATE IN_PROGRESS'."
                )
            has_failed = classify_status(status) is JobState.FAILED
            creation = _to_milliseconds(created) if created else read_clock()
            job = BatchJob(
                kind=kind,
                arn=arn,
                request={
                    "jobName": job_name,
                    "solutionVersionArn": solution_version_arn,
                    "numResults": num_results,
                    "jobInput": {"s3DataSource": {"path": input_path}},
                    "jobOutput": {"s3DataDestination": {"path": output_path}},
                    "roleArn": f"arn:{backend.partition}:iam::{backend.account_id}:role/personalize",
                },
                status=status,
                created=creation,
                updated=_to_milliseconds(updated) if updated else creation,
                failure_reason=failure_reason or (reason if has_failed else None),
                on_course=False,
                has_output=False,
                output=output,
            )
            if classify_status(status) is JobState.ACTIVE and (
                fault := backend.write_output(job, job.updated)
            ):
                raise ValueError(f"output: it cannot be written. {fault}")
            backend.put_job(job)
            if reason:
                backend.put_on_course(job)
            return arn

    # --- Driving ----------------------------------------------------------------------------------

    def fail_job(self, job_name_or_arn: str, reason: str) -> None:
        """
        Let a job end in CREATE FAILED instead of ACTIVE, whether it exists yet or not.

        It ends when ``progress`` says so: ``immediately``, in time, after some looks, or by :meth:`advance`.
        So does a job of :meth:`add_job` or :meth:`set_status`, which would stay in its status otherwise.

        :param job_name_or_arn: its ARN, or its name in every account and region and of either kind
        :param reason: its failure reason
        :raises ValueError: when it is finished already
        """
        with self.hold():
            if job_name_or_arn.startswith("arn:"):
                self._backend_of(job_name_or_arn)  # makes the store of a job to come
            backends = self._all_backends()
            named = [job for each in backends for job in each.jobs.values() if job.is_called(job_name_or_arn)]
            if named and all(job.is_finished for job in named):
                raise ValueError(f"{job_name_or_arn} is {named[0].status} already; use set_status.")
            self._settings.failures[job_name_or_arn] = reason
            for backend in backends:
                for job in [each for each in backend.jobs.values() if each.is_called(job_name_or_arn)]:
                    backend.put_on_course(job)

    def set_status(self, job_arn: str, status: str, failure_reason: str | None = None) -> None:
        """
        Give a job a status, known or not, and leave it there; no output is written.

        :param job_arn: ARN of the job
        :param status: the status
        :param failure_reason: why it failed
        """
        with self.hold():
            job = self._find(job_arn)
            job.on_course = False
            self._backend_of(job_arn).set_status(job, status, read_clock(), failure_reason)

    def advance(self, job_arn: str | None = None) -> None:
        """
        Take a job one step further now; a finished one stays as it is.

        :param job_arn: ARN of the job; ``None`` takes every unfinished job
        """
        now = read_clock()
        with self.hold():
            if job_arn:
                self._backend_of(job_arn).advance(self._find(job_arn), now)
                return
            for backend in self._all_backends():
                for job in list(backend.jobs.values()):
                    backend.advance(job, now)

    def job(self, job_arn: str) -> dict[str, Any]:
        """
        Return a job as Describe does, times as seconds since the epoch, without counting as a call.

        :param job_arn: ARN of the job
        """
        with self.hold():
            return self._find(job_arn).describe()

    def on_status_change(self, callback: StatusChange) -> None:
        """
        Call this for every change of status, in order, after it happened.

        A job that advances by time changes when anything looks, here or in S3; the time passed on is when
        the change was due. The old status is ``None`` when the job was created.

        :param callback: called with the job, the old status, the new one, and when it changed
        """
        self._changes.callbacks.append(callback)

    def duplicate_across_pages(self, enabled: bool = True) -> None:
        """
        List the last job of each page again first on the next, as happens when jobs are created meanwhile.

        Pages of one job stay as they are; they could not go on otherwise.

        :param enabled: whether to
        """
        self._settings.duplicate_across_pages = enabled

    def clear_calls(self) -> None:
        """Forget the calls received so far."""
        self.calls.clear()

    # --- Running ----------------------------------------------------------------------------------

    def run(
        self,
        dag_or_task: DAG | BaseOperator | MappedOperator | XComArg,
        *,
        conf: dict[str, Any] | None = None,
        logical_date: datetime | None = None,
        connections: Iterable[str] | Mapping[str, str] = (),
        poke_interval: float | None = 0.1,
        timeout: float | None = 60.0,
    ) -> DagRunResult:
        """
        Run a DAG, or one task, through Airflow in this process, and return how it ended.

        Nothing has to be set up. Airflow gets an empty database of its own for this run, neither reads nor
        writes the configured one, and reaches this service by its connection ``aws_default``. Tasks that are
        deferred wait in this process. Afterwards environment, configuration and tasks are as they were::

            with mock_personalize() as personalize:
                ...
                assert personalize.run(dag).states == {"create": "success", "report": "success"}

        :param dag_or_task: a DAG, or an operator or sensor, mapped or not; or what a function returns that is
            decorated with ``@dag`` or ``@task``. A task of a DAG is run without the tasks around it.
        :param conf: the configuration of the DAG run; it overrides the ``params`` of the DAG
        :param logical_date: the logical date of the DAG run; ``None`` (the default) means now
        :param connections: the IDs of other connections that lead here, too; or a dict of connections by ID,
            such as ``{"shop": personalize.airflow_connection(role_arn=...)}``
        :param poke_interval: the most seconds between two looks of a task that waits, and between two tries
            of a task that has ``retries``; ``None`` leaves what the tasks say, for jobs of half an hour
        :param timeout: the most seconds that a sensor or a create operator waits; ``None`` leaves what the
            tasks say, so a job that never ends may keep the test for days
        :returns: states, XComs and errors of the tasks
        :raises TypeError: when it is neither a DAG nor a task
        """
        from airflow_provider_personalize_segments.testing.runs import run_dag

        others = connections if isinstance(connections, Mapping) else dict.fromkeys(connections)
        environment: dict[str, str | None] = {
            f"AIRFLOW_CONN_{name.upper()}": text or self.airflow_connection()
            for name, text in {"aws_default": None, **others}.items()
        }
        return run_dag(
            dag_or_task,
            environment={**self._aws_environment(), **environment},
            conf=conf,
            logical_date=logical_date,
            poke_interval=poke_interval,
            timeout=timeout,
        )

    def _aws_environment(self) -> dict[str, str | None]:
        """Return what leads boto3 here that uses no connection; in process it is led here anyway."""
        region: dict[str, str | None] = (
            {} if "AWS_REGION" in os.environ else {"AWS_DEFAULT_REGION": DEFAULT_REGION}
        )
        if not self.endpoint_url:
            return region
        hosts = [os.environ.get("NO_PROXY"), "127.0.0.1"]
        return {
            **region,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_SESSION_TOKEN": None,
            "AWS_PROFILE": None,
            "NO_PROXY": ",".join(filter(None, hosts)),
        }

    def _find(self, job_arn: str) -> BatchJob:
        job = self._backend_of(job_arn).jobs.get(job_arn)
        if job is None:
            raise ValueError(f"There is no job {job_arn!r}.")
        return job


def _to_milliseconds(moment: datetime) -> float:
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return int(aware.timestamp() * 1000) / 1000
