"""The create operators: once, for a slot, to the end, in every mode; Airflow runs them."""

from __future__ import annotations

import inspect
import json
import textwrap
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import ClassVar

import boto3
import pytest
from fakes import TaskInstance
from lines import IS_BETWEEN, KNOWS_RANKING_INFLUENCE

from airflow_provider_personalize_segments.airflow_compat import AirflowFailException, AirflowSensorTimeout
from airflow_provider_personalize_segments.arns import find_job_arn
from airflow_provider_personalize_segments.creating import lineage
from airflow_provider_personalize_segments.errors import (
    InvalidParameterError,
    PersonalizeJobExistsError,
    PersonalizeJobFailedError,
    PersonalizeJobTimeoutError,
    PersonalizeNewJobFailedError,
    PersonalizeNoSlotError,
    PersonalizeOutputError,
    PersonalizeRequestError,
    StateStoreUnavailableError,
    TriggerFailedError,
)
from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.operators import (
    PersonalizeCreateBatchInferenceJobOperator,
    PersonalizeCreateBatchSegmentJobOperator,
)
from airflow_provider_personalize_segments.plain_json import make_json_safe
from airflow_provider_personalize_segments.testing import LocalPersonalize
from airflow_provider_personalize_segments.testing.example_jobs import ExampleJobs

ROLE = "arn:aws:iam::123456789012:role/PersonalizeS3Access"
CREATE, DESCRIBE = "CreateBatchSegmentJob", "DescribeBatchSegmentJob"
ARN = "arn:aws:personalize:us-east-1:123456789012:batch-segment-job/weekly"
ONE_TRY = {"retries": {"total_max_attempts": 1}}

DAG = """
from airflow_names import DAG, task
from airflow_provider_personalize_segments.operators import PersonalizeCreateBatchSegmentJobOperator

with DAG("shop", schedule=None, default_args={"retries": 0}) as dag:

    @task
    def downstream(arn):
        return arn

    @task
    def read(job, path):
        assert job["jobOutput"]["s3DataDestination"]["path"] == path
        return job

    for name, region, bucket, options in TASKS:
        create = PersonalizeCreateBatchSegmentJobOperator(
            task_id=f"create{name}",
            solution_version_arn="{{ dag_run.conf['%s'] }}" % region,
            role_arn="arn:aws:iam::123456789012:role/PersonalizeS3Access",
            input_path=f"s3://{bucket}/input/segment.jsonl",
            output_path=f"s3://{bucket}/output/",
            poll_interval=0.1,
            **options,
        )
        downstream.override(task_id=f"downstream{name}")(create.output)
        path = "{{ ti.xcom_pull('create%s', key='job')['jobOutput']['s3DataDestination']['path'] }}" % name
        read.override(task_id=f"read{name}")(create.output["job"], path)
"""


@pytest.fixture
def local(monkeypatch, _airflow_database):  # Airflow 2 is asked there when earlier tries began
    with LocalPersonalize(progress="by_call", calls=2) as local:
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", local.airflow_connection())
        ExampleJobs(local).put_input(BatchJobKind.SEGMENT)
        local.version = local.add_solution_version("shop")
        yield local


@pytest.fixture
def run(run_dag, local):
    def run(**options):
        tasks = [("", "us-east-1", "demo-bucket", options)]
        return run_dag(f"TASKS = {tasks!r}\n{DAG}", {"us-east-1": local.version})

    return run


def jobs(local, region="us-east-1"):
    return {job.request["jobName"]: job.status for job in local.backend(region).jobs.values()}


def operator(local, **options):
    given = {
        "task_id": "create",
        "solution_version_arn": local.version,
        "role_arn": ROLE,
        "input_path": "s3://demo-bucket/input/segment.jsonl",
        "output_path": "s3://demo-bucket/output/",
        "job_name": "weekly",
        "poll_interval": 0.1,
        "botocore_config": ONE_TRY,
    }
    return PersonalizeCreateBatchSegmentJobOperator(**{**given, **options})


def execute(local, ti=None, context=None, **options):
    """Run one try as a worker does, in any thread: Airflow 2.11 guards `execute` by marks of one thread."""
    ti = ti or TaskInstance()
    dag_run = SimpleNamespace(start_date=datetime.now(UTC) - timedelta(minutes=1))
    task = operator(local, **options)
    unguarded = inspect.unwrap(type(task).execute)
    return unguarded(task, {"ti": ti, "dag_run": dag_run, **(context or {})})


MODES = [
    {"deferrable": deferrable, "wait_for_completion": wait}
    for deferrable in (False, True)
    for wait in (False, True)
]


FAULTS = ["throttle", "server_error", "drop_connection", "drop_answer", "malformed"]
IN_TURNS = [(MODES[number % len(MODES)], fault) for number, fault in enumerate(FAULTS)]


@pytest.mark.parametrize(
    ("mode", "fault"),
    IN_TURNS if IS_BETWEEN else [(mode, fault) for mode in MODES for fault in FAULTS],
    ids=str,
)
def test_faults_are_outlasted_and_make_no_second_job(run, local, mode, fault):
    for operation in (DESCRIBE, CREATE):
        getattr(local.faults, fault)(times=1, operation=operation)
    assert run(botocore_config=ONE_TRY, **mode).states == {
        "create": "success",
        "downstream": "success",
        "read": "success",
    }
    assert len(jobs(local)) == 1


GOOD = ("success",) * 3
BAD = ("failed", "upstream_failed", "upstream_failed")
REGIONS = ("us-east-1", "us-west-2", "eu-west-1", "ap-northeast-1")


class EveryMode:
    """
    All modes as tasks of one DAG, each in a region of its own, where no other takes its names and slots.

    :param local: the local Personalize
    :param run_dag: runs the DAG
    """

    def __init__(self, local, run_dag):
        self.local, self._run_dag = local, run_dag
        self.versions = {region: local.add_solution_version("shop", region_name=region) for region in REGIONS}
        for region in REGIONS:
            session = boto3.session.Session("testing", "testing", region_name=region)
            with closing(session.client("s3", endpoint_url=local.endpoint_url)) as s3:
                where = {"CreateBucketConfiguration": {"LocationConstraint": region}}
                s3.create_bucket(Bucket=f"demo-{region}", **(where if region != "us-east-1" else {}))
                s3.put_object(Bucket=f"demo-{region}", Key="input/segment.jsonl", Body=b'{"itemId": "b1042"}')

    def run(self, **options):
        """Run a DAG with these options in every mode."""
        tasks = [
            (f"-{number}", region, f"demo-{region}", {**options, **mode})
            for number, (mode, region) in enumerate(zip(MODES, REGIONS, strict=True))
        ]
        return self._run_dag(f"TASKS = {tasks!r}\n{DAG}", self.versions)

    @staticmethod
    def ends(done):
        """Return what became of each mode's three tasks."""
        tasks = ("create", "downstream", "read")
        return [tuple(done.states[f"{task}-{number}"] for task in tasks) for number in range(len(MODES))]

    def count(self, operation):
        """Return how many calls each mode made."""
        calls = [call.region_name for call in self.local.calls if call.operation == operation]
        return [calls.count(region) for region in REGIONS]

    def fill(self):
        """Leave no mode a slot; return the ARNs of the jobs that have them, by region."""
        return {
            region: [
                self.local.add_job(
                    BatchJobKind.SEGMENT,
                    f"other-{number}",
                    solution_version_arn=version,
                    status="CREATE PENDING",
                )
                for number in range(5)
            ]
            for region, version in self.versions.items()
        }


@pytest.fixture
def every_mode(local, run_dag):
    return EveryMode(local, run_dag)


class TestInEveryMode:
    def test_the_arn_is_what_comes_out(self, every_mode, local):
        done = every_mode.run()
        assert every_mode.ends(done) == [GOOD] * 4
        for number, (mode, region) in enumerate(zip(MODES, REGIONS, strict=True)):
            job, arn = done.xcom(f"read-{number}"), done.xcom(f"create-{number}")
            assert job["batchSegmentJobArn"] == arn
            assert job["jobOutput"] == {"s3DataDestination": {"path": f"s3://demo-{region}/output/"}}
            assert (job.get("status") == "ACTIVE") is mode["wait_for_completion"]
            ((name, status),) = jobs(local, region).items()
            assert arn == f"arn:aws:personalize:{region}:123456789012:batch-segment-job/{name}"
            assert done.xcom(f"downstream-{number}") == arn
            assert (status == "ACTIVE") is mode["wait_for_completion"]
        assert every_mode.count(CREATE) == [1] * 4

    def test_a_job_of_that_name_is_adopted_when_it_is_the_same(self, every_mode, local):
        made = [
            execute(
                local,
                solution_version_arn=version,
                input_path=f"s3://demo-{region}/input/segment.jsonl",
                output_path=f"s3://demo-{region}/output/",
                wait_for_completion=False,
            )
            for region, version in every_mode.versions.items()
        ]
        done = every_mode.run(job_name="weekly")
        assert every_mode.ends(done) == [GOOD] * 4
        assert [done.xcom(f"create-{number}") for number in range(4)] == made
        assert every_mode.count(CREATE) == [1] * 4

    def test_a_different_one_is_an_error_that_says_in_what(self, every_mode, local):
        for version in every_mode.versions.values():
            local.add_job(BatchJobKind.SEGMENT, "weekly", solution_version_arn=version, num_results=7)
        done = every_mode.run(job_name="weekly")
        assert every_mode.ends(done) == [BAD] * 4
        for number in range(4):
            error = done.errors[f"create-{number}"]
            assert isinstance(error, PersonalizeJobExistsError)
            assert error.differences[0].startswith(
                "jobInput.s3DataSource.path is 's3://example-bucket/input/"
            )
            assert (
                error.differences[-1]
                == f"roleArn is 'arn:aws:iam::123456789012:role/personalize' instead of '{ROLE}'"
            )
            assert "numResults is 7 instead of 25" in str(error)
            assert "Nothing was created: choose another job_name, or set if_exists='new'" in str(error)
        assert every_mode.count(CREATE) == [0] * 4

    def test_access_denied_ends_it_at_once(self, every_mode, local):
        local.faults.deny_access(operation=CREATE)
        done = every_mode.run()
        assert every_mode.ends(done) == [BAD] * 4
        for number in range(4):
            error = done.errors[f"create-{number}"]
            assert isinstance(error, PersonalizeRequestError)
            assert "Allow personalize:CreateBatchSegmentJob in that" in str(error)
        assert every_mode.count(CREATE) == [1] * 4

    def test_a_full_quota_is_waited_out(self, every_mode, local):
        others = every_mode.fill()
        append = local.calls.append

        def append_and_act(call):
            append(call)
            if every_mode.count(CREATE)[REGIONS.index(call.region_name)] == 3:
                local.set_status(others[call.region_name][0], "ACTIVE")

        local.calls.append = append_and_act
        assert every_mode.ends(every_mode.run()) == [GOOD] * 4
        assert [len(jobs(local, region)) for region in REGIONS] == [6] * 4
        assert max(every_mode.count(CREATE)) <= 5

    def test_a_quota_that_stays_full_ends_with_the_reason(self, every_mode, local):
        every_mode.fill()
        done = every_mode.run(timeout=3)  # long enough for one attempt on a busy machine
        assert every_mode.ends(done) == [BAD] * 4
        for number in range(4):
            error = done.errors[f"create-{number}"]
            assert isinstance(error, PersonalizeNoSlotError)
            assert str(error).startswith(
                "Not created when the timeout of 3 s was over: LimitExceededException: "
            )
            assert "(CreateBatchSegmentJob did not succeed for " in str(error)
            assert "let fewer jobs run at a time, such as with an Airflow pool of five slots" in str(error)
        assert [len(jobs(local, region)) for region in REGIONS] == [5] * 4


@pytest.mark.parametrize("deferrable", [False, True])
class TestWaiting:
    def test_a_failed_job_fails_the_task_with_its_reason(self, run, local, deferrable):
        local.fail_job("weekly", "Invalid S3 output path")
        done = run(job_name="weekly", deferrable=deferrable)
        assert done.states == {"create": "failed", "downstream": "upstream_failed", "read": "upstream_failed"}
        assert isinstance(done.errors["create"], PersonalizeJobFailedError)
        assert done.errors["create"].failure_reason == "Invalid S3 output path"

    def test_the_arn_is_there_even_when_the_job_failed(self, run, local, deferrable):
        local.fail_job("weekly", "Invalid S3 output path")
        assert run(job_name="weekly", deferrable=deferrable).xcom("create") == ARN

    def test_the_time_is_over_for_both_alike(self, run, local, deferrable):
        local._settings.progress = "by_hand"
        done = run(job_name="weekly", deferrable=deferrable, timeout=1)
        assert isinstance(done.errors["create"], PersonalizeJobTimeoutError)
        assert str(done.errors["create"]).startswith("Not ACTIVE when the timeout of 1 s was over: ")

    def test_never_waits_when_told_not_to(self, run, local, deferrable):
        local._settings.progress = "by_hand"
        done = run(wait_for_completion=False, deferrable=deferrable)
        assert done.states == {"create": "success", "downstream": "success", "read": "success"}
        # Once to see that the name is free, and never to see how the job is.
        assert local.calls.count(DESCRIBE) == 1


class TestOnce:
    """Tries of one task instance, one after the other; test_running_creation.py kills them."""

    def test_the_name_says_where_it_comes_from(self, local):
        name = execute(local, job_name=None).rpartition("/")[2]
        assert name.startswith("shop-create-20261123T020000-")
        assert list(jobs(local)) == [name]

    def test_the_next_try_adopts_the_job(self, local):
        local._settings.progress = "by_hand"
        first = execute(local, TaskInstance(max_tries=1), job_name=None, wait_for_completion=False)
        again = execute(
            local,
            TaskInstance(try_number=2, max_tries=1),
            job_name=None,
            wait_for_completion=False,
            retries=1,
        )
        assert again == first
        assert local.calls.count(CREATE) == 1

    @pytest.mark.parametrize("has_store", [True, False])
    @pytest.mark.parametrize("if_exists", ["adopt", "fail", "new"])
    def test_whatever_if_exists_says(self, local, if_exists, has_store):
        context = {"task_state_store": Store() if has_store else None}
        first = execute(local, TaskInstance(max_tries=2), context, if_exists=if_exists, retries=2)
        for try_number in (2, 3):
            ti = TaskInstance(try_number=try_number, max_tries=2)
            if if_exists == "fail" and not has_store:
                with pytest.raises(PersonalizeJobExistsError, match="if_exists is 'fail'"):
                    execute(local, ti, context, if_exists=if_exists, retries=2)
            else:
                assert execute(local, ti, context, if_exists=if_exists, retries=2) == first
        assert local.calls.count(CREATE) == 1

    @pytest.mark.parametrize("has_store", [True, False])
    @pytest.mark.parametrize("job_name", [None, "weekly"])
    def test_a_cleared_task_does_it_again(self, local, job_name, has_store):
        context = {"task_state_store": Store() if has_store else None}
        options = {"job_name": job_name, "if_exists": "new"}
        first = execute(local, None, context, **options)
        # Airflow counts on, and allows as many tries again.
        cleared = TaskInstance(try_number=2, max_tries=1)
        again = execute(local, cleared, context, **options)
        assert again != first
        assert local.calls.count(CREATE) == 2
        retried = TaskInstance(try_number=3, max_tries=1)
        assert execute(local, retried, context, **options) == again
        assert local.calls.count(CREATE) == 2

    @pytest.mark.parametrize("has_store", [True, False])
    @pytest.mark.parametrize("job_name", [None, "weekly"])
    def test_unless_its_job_still_runs_and_is_the_same(self, local, job_name, has_store):
        local._settings.progress = "by_hand"
        context = {"task_state_store": Store() if has_store else None}
        options = {"job_name": job_name, "if_exists": "new", "wait_for_completion": False}
        first = execute(local, None, context, **options)
        cleared = TaskInstance(try_number=2, max_tries=1)
        assert execute(local, cleared, context, **options) == first
        other = TaskInstance(try_number=3, max_tries=2)
        assert execute(local, other, context, **options, num_results=7) != first
        assert local.calls.count(CREATE) == 2

    @pytest.mark.parametrize("job_name", [None, "weekly"])
    def test_the_job_of_a_task_that_failed_is_taken_when_it_went_well_meanwhile(
        self, local, read_log, job_name
    ):
        """A timeout at night, the job ACTIVE an hour later, a clear in the morning: nobody pays twice."""
        local._settings.progress = "by_hand"
        context, options = {"task_state_store": Store()}, {"job_name": job_name, "if_exists": "new"}
        with pytest.raises(PersonalizeJobTimeoutError) as caught:
            execute(local, None, context, timeout=0.2, **options)
        local.set_status(caught.value.job_arn, "ACTIVE")
        cleared = TaskInstance(try_number=2, max_tries=1)
        assert execute(local, cleared, context, timeout=5, **options) == caught.value.job_arn
        assert local.calls.count(CREATE) == 1
        assert any("Adopting the job that exists already" in line for line in read_log())
        # That has succeeded, and the next clear does it again.
        local._settings.progress = "by_call"
        again = TaskInstance(try_number=3, max_tries=2)
        assert execute(local, again, context, **options) != caught.value.job_arn
        assert local.calls.count(CREATE) == 2

    @pytest.mark.parametrize("job_name", [None, "weekly"])
    def test_without_a_record_a_cleared_task_says_which_job_it_leaves(self, local, read_log, job_name):
        first = execute(local, None, job_name=job_name, if_exists="new")
        again = execute(local, TaskInstance(try_number=2, max_tries=1), job_name=job_name, if_exists="new")
        assert again != first
        (line,) = [line for line in read_log() if "from before it was cleared is ACTIVE" in line]
        assert "warning" in line.lower()
        assert "so the task does it again, and creates another. To take such a job, do not clear the" in line
        assert f"({first})" in line

    def test_a_cleared_task_that_refused_its_output_creates_another_job(self, local):
        """It would read the same output again, and refuse it again."""
        context = {"task_state_store": Store()}
        options = {"job_name": None, "max_error_rate": 0.0}
        session = boto3.session.Session("testing", "testing", region_name="us-east-1")
        with closing(session.client("s3", endpoint_url=local.endpoint_url)) as s3:
            s3.put_object(Bucket="demo-bucket", Key="input/segment.jsonl", Body=b'{"userId": "4711"}')
        with pytest.raises(PersonalizeOutputError):
            execute(local, None, context, **options)
        with pytest.raises(PersonalizeOutputError):
            execute(local, TaskInstance(try_number=2, max_tries=1), context, **options)
        assert local.calls.count(CREATE) == 2

    @pytest.mark.parametrize("if_exists", ["adopt", "fail", "new"])
    def test_a_task_whose_retries_were_lowered_before_the_clear_does_it_again(self, local, if_exists):
        """Its lineage has the number of the one before, and so its names; the record tells them apart."""
        context, options = {"task_state_store": Store()}, {"job_name": None, "if_exists": if_exists}
        first = execute(local, TaskInstance(max_tries=2), context, retries=2, **options)
        cleared = TaskInstance(try_number=2, max_tries=2)
        assert execute(local, cleared, context, retries=1, **options) == f"{first}-2"
        # And a retry of that finds what it has created.
        retried = TaskInstance(try_number=3, max_tries=2)
        assert execute(local, retried, context, retries=1, **options) == f"{first}-2"
        assert local.calls.count(CREATE) == 2

    def test_without_a_record_it_does_not_take_the_old_job_for_a_result(self, local):
        first = execute(local, TaskInstance(max_tries=2), retries=2, job_name=None)
        with pytest.raises(PersonalizeJobExistsError) as caught:
            execute(local, TaskInstance(try_number=2, max_tries=2), retries=1, job_name=None)
        assert caught.value.job_arn == first
        assert "was ACTIVE before the task's first try, so it is no result of this run" in str(caught.value)
        # As the message says.
        again = execute(local, TaskInstance(try_number=3, max_tries=3), retries=1, job_name=None)
        assert again != first

    def test_whose_job_failed_to_be_delivered_it_takes_up_that_job(self, local):
        local._settings.progress = "by_hand"
        context = {"task_state_store": Store()}
        with pytest.raises(PersonalizeJobTimeoutError) as caught:
            execute(local, TaskInstance(max_tries=2), context, retries=2, job_name=None, timeout=0.2)
        local.set_status(caught.value.job_arn, "ACTIVE")
        options = {"retries": 1, "job_name": None, "timeout": 5}
        cleared = TaskInstance(try_number=2, max_tries=2)
        assert execute(local, cleared, context, **options) == caught.value.job_arn

    def test_under_an_explicit_name_a_delivered_job_is_told_of_when_retries_were_lowered(
        self, local, read_log
    ):
        context = {"task_state_store": Store()}
        execute(local, TaskInstance(max_tries=2), context, retries=2)
        execute(local, TaskInstance(try_number=2, max_tries=2), context, retries=1)
        assert any("this try computes nothing" in line for line in read_log())

    def test_under_an_explicit_name_a_cleared_task_adopts_and_says_that_nothing_is_computed(
        self, local, read_log
    ):
        execute(local)
        assert execute(local, TaskInstance(try_number=2, max_tries=1)) == ARN
        (line,) = [line for line in read_log() if "this try computes nothing" in line]
        assert "warning" in line.lower()
        assert "The job was ACTIVE before this try began" in line
        assert f"({ARN})" in line
        assert (
            "To compute anew, clear the task if it has no job_name; else choose another job_name, or" in line
        )

    def test_a_cleared_task_that_may_not_find_a_job_fails(self, local):
        execute(local, if_exists="fail")
        with pytest.raises(
            PersonalizeJobExistsError, match="exists already, and if_exists is 'fail'. Nothing"
        ):
            execute(local, TaskInstance(try_number=2, max_tries=1), if_exists="fail")

    def test_never_adopts_after_a_clear_what_another_task_created_first(self, local):
        local._settings.progress = "by_hand"
        context = {"task_state_store": Store()}
        # The other task takes all its steps while this Create waits for its answer.
        patient = {**ONE_TRY, "read_timeout": 60}
        options = {"if_exists": "fail", "wait_for_completion": False, "botocore_config": patient}
        note, begun, created = local.calls.append, [], []

        def create_first(call):
            note(call)
            if call.operation == CREATE and not begun:
                begun.append(call)
                created.append(execute(local, TaskInstance(task_id="first"), **options))

        local.calls.append = create_first
        for try_number in (1, 2):
            ti = TaskInstance(try_number=try_number, max_tries=try_number - 1)
            with pytest.raises(PersonalizeJobExistsError, match="if_exists is 'fail'"):
                execute(local, ti, context, **options)
        assert created == [ARN]

    def test_waits_for_its_own_running_job_after_a_clear_when_airflow_recorded_it(self, local):
        local._settings.progress = "by_hand"
        context = {"task_state_store": Store()}
        options = {"if_exists": "fail", "wait_for_completion": False}
        execute(local, None, context, **options)
        assert execute(local, TaskInstance(try_number=2, max_tries=1), context, **options) == ARN

    def test_the_try_after_a_failed_job_creates_the_next(self, local):
        local.fail_job("weekly", "Invalid S3 output path")
        with pytest.raises(
            PersonalizeNewJobFailedError, match="The task's next try creates another job"
        ) as caught:
            execute(local, TaskInstance(max_tries=1), retries=1)
        assert (caught.value.job_arn, caught.value.failure_reason) == (ARN, "Invalid S3 output path")
        assert not isinstance(caught.value, AirflowFailException)
        assert execute(local, TaskInstance(try_number=2, max_tries=1), retries=1) == f"{ARN}-2"
        assert jobs(local) == {"weekly": "CREATE FAILED", "weekly-2": "ACTIVE"}

    @pytest.mark.parametrize("has_store", [True, False])
    def test_unless_the_next_try_could_not_tell_it_from_anothers(self, local, has_store):
        """Before Airflow 3.3 a retry of `fail` refuses the job, and would hide Personalize's reason."""
        local.fail_job("weekly", "No")
        error = PersonalizeNewJobFailedError if has_store else PersonalizeJobFailedError
        context = {"task_state_store": Store() if has_store else None}
        with pytest.raises(error, match="CREATE FAILED: No"):
            execute(local, TaskInstance(max_tries=1), context, retries=1, if_exists="fail")

    def test_a_job_name_that_renders_to_nothing_is_the_tasks_own_name_with_fail_too(self, local):
        def fail(job, old, new, when):
            if old is None:
                local.set_status(job["batchSegmentJobArn"], "CREATE FAILED", "No")

        local.on_status_change(fail)
        with pytest.raises(PersonalizeNewJobFailedError, match="The task's next try creates another job"):
            execute(local, TaskInstance(max_tries=1), retries=1, job_name="", if_exists="fail")

    def test_a_timeout_says_when_a_clear_would_create_another(self, local):
        local._settings.progress = "by_hand"
        with pytest.raises(PersonalizeJobTimeoutError, match="do not clear the task, which may then create"):
            execute(local, timeout=0.2)

    @pytest.mark.parametrize("has_answer", [True, False])
    def test_says_that_the_job_may_exist_when_aws_did_not_answer_create(self, local, has_answer):
        note = local.calls.append

        def note_and_throttle(call):
            note(call)
            if call.operation == CREATE:
                local.faults.throttle(operation="DescribeBatchSegmentJob")

        local.calls.append = note_and_throttle
        (local.faults.throttle if has_answer else local.faults.drop_answer)(operation=CREATE)
        words = "Not created when" if has_answer else "Not known to be created when"
        with pytest.raises(PersonalizeNoSlotError, match=words):
            execute(local, timeout=1.5)

    def test_the_last_try_says_that_it_is_final(self, local):
        local.fail_job("weekly", "No")
        local.fail_job("weekly-2", "No")
        with pytest.raises(PersonalizeNewJobFailedError):
            execute(local, TaskInstance(max_tries=1), retries=1)
        with pytest.raises(PersonalizeJobFailedError, match="CREATE FAILED: No. .*/weekly-2, us-east-1"):
            execute(local, TaskInstance(try_number=2, max_tries=1), retries=1)

    def test_a_failed_job_is_no_obstacle_for_another_request(self, local):
        local.fail_job("weekly", "The role may not")
        with pytest.raises(PersonalizeJobFailedError):
            execute(local)
        corrected = execute(local, TaskInstance(try_number=2, max_tries=1), role_arn=f"{ROLE}Corrected")
        assert corrected == f"{ARN}-2"

    def test_what_the_state_store_knows_outlives_another_name(self, local):
        store = Store()
        context = {"task_state_store": store}
        execute(local, TaskInstance(max_tries=1), context, retries=1, wait_for_completion=False)
        # Such as a template with the time of the try in it.
        ti = TaskInstance(try_number=2, max_tries=1)
        assert (
            execute(local, ti, context, retries=1, job_name="weekly-late", output_path="s3://b2b/x/") == ARN
        )
        assert list(jobs(local)) == ["weekly"]

    def test_what_it_kept_before_a_create_that_nobody_heard_of_counts(self, local, monkeypatch):
        context = {"task_state_store": Store()}
        local.faults.drop_answer(times=1, operation=CREATE)
        with monkeypatch.context() as patch:
            patch.setattr(time, "sleep", end_the_process)
            with pytest.raises(KeyboardInterrupt):
                execute(local, TaskInstance(max_tries=1), context, retries=1)
        ti = TaskInstance(try_number=2, max_tries=1)
        assert execute(local, ti, context, retries=1, job_name="late", if_exists="new") == ARN
        assert list(jobs(local)) == ["weekly"]

    def test_under_the_name_that_it_kept_the_corrected_parameters_count(self, local):
        context = {"task_state_store": (store := Store())}
        local.faults.deny_access(times=1, operation=CREATE)
        with pytest.raises(PersonalizeRequestError):
            execute(local, TaskInstance(max_tries=1), context, retries=1, num_results=7)
        ti = TaskInstance(try_number=2, max_tries=1)
        assert execute(local, ti, context, retries=1, job_name="late", num_results=8) == ARN
        assert local.job(ARN)["numResults"] == 8
        kept = json.loads(store.kept["personalize_batch_job"])
        assert kept["request"]["numResults"] == 8
        assert [each["numResults"] for each in kept["earlier_requests"]] == [7]

    @pytest.mark.parametrize("job_name", [None, "weekly"])
    @pytest.mark.parametrize("if_exists", ["adopt", "fail", "new"])
    def test_a_create_that_was_under_way_makes_the_job_as_it_was_asked_for_then(
        self, local, read_log, job_name, if_exists
    ):
        """The corrected Create meets it: the name is the lock."""
        local._settings.progress = "by_hand"
        context, backend = {"task_state_store": Store()}, local.backend("us-east-1")
        options = {"job_name": job_name, "if_exists": if_exists, "retries": 1, "wait_for_completion": False}
        first = execute(local, TaskInstance(max_tries=1), context, num_results=7, **options)
        hidden, append = {first: backend.jobs.pop(first)}, local.calls.append

        def append_and_show(call):
            append(call)
            if call.operation == CREATE:
                backend.jobs.update(hidden)

        local.calls.append = append_and_show
        ti = TaskInstance(try_number=2, max_tries=1)
        assert execute(local, ti, context, num_results=8, **options) == first
        assert local.calls.count(CREATE) == 2
        assert list(backend.jobs) == [first]
        (line,) = [line for line in read_log() if "differs from the parameters as they are now" in line]
        assert "its numResults is 7 instead of 8" in line

    @pytest.mark.parametrize("action", ["read", "written"])
    @pytest.mark.parametrize("if_exists", ["adopt", "fail", "new"])
    def test_a_store_that_does_not_answer_ends_the_try_which_airflow_retries(
        self, local, read_log, patience, if_exists, action
    ):
        store = Store(broken=[action])
        with pytest.raises(StateStoreUnavailableError) as caught:
            execute(
                local,
                TaskInstance(try_number=2, max_tries=2),
                {"task_state_store": store},
                if_exists=if_exists,
                retries=2,
            )
        assert not isinstance(caught.value, AirflowFailException)
        assert str(caught.value).startswith(
            f"Airflow's task state store could not be {action}: the API server is restarting. The task's "
            "record of its job keeps a retry from creating a second one, so this try ends here"
        )
        assert patience == [1.0, 2.0, 4.0, 8.0]
        told = [
            line
            for line in read_log()
            if f"Not yet: Airflow's task state store could not be {action}" in line
        ]
        assert len(told) == 4
        assert local.calls.count(CREATE) == 0

    def test_one_that_answers_after_a_while_is_asked_again(self, local, patience):
        """A retry of `fail` takes its own job, though its record could not be read at first."""
        store, options = Store(), {"if_exists": "fail", "retries": 1, "wait_for_completion": False}
        context = {"task_state_store": store}
        store.broken, store.times = ["written"], 4
        assert execute(local, TaskInstance(max_tries=1), context, **options) == ARN
        store.broken, store.times = ["read"], 4
        assert execute(local, TaskInstance(try_number=2, max_tries=1), context, **options) == ARN
        assert local.calls.count(CREATE) == 1
        assert patience == [1.0, 2.0, 4.0, 8.0] * 2

    def test_what_was_kept_of_a_job_of_the_other_kind_or_region_does_not_count(self, local):
        context = {"task_state_store": Store()}
        execute(local, TaskInstance(max_tries=2), context, retries=2, wait_for_completion=False)
        version = local.add_solution_version("shop", region_name="eu-west-1")
        ti = TaskInstance(try_number=2, max_tries=2)
        elsewhere = execute(
            local, ti, context, retries=2, wait_for_completion=False, solution_version_arn=version
        )
        assert elsewhere == ARN.replace("us-east-1", "eu-west-1")
        similar = PersonalizeCreateBatchInferenceJobOperator(
            task_id="create",
            solution_version_arn=local.add_solution_version("similar", "aws-similar-items"),
            role_arn=ROLE,
            input_path="s3://demo-bucket/input/segment.jsonl",
            output_path="s3://demo-bucket/output/",
            job_name="weekly",
            retries=2,
            wait_for_completion=False,
        )
        ti = TaskInstance(try_number=3, max_tries=2)
        assert similar.execute({"ti": ti, **context}) == ARN.replace("segment", "inference")

    def test_a_record_that_makes_no_sense_leaves_it_to_the_names(self, local):
        first = execute(local, TaskInstance(max_tries=2), retries=2, job_name=None)
        store = Store()
        store.kept["personalize_batch_job"] = json.dumps({"job_name": 7})
        ti = TaskInstance(try_number=2, max_tries=2)
        assert execute(local, ti, {"task_state_store": store}, retries=2, job_name=None) == first

    def test_a_task_whose_retries_were_lowered_still_finds_its_job(self, local):
        execute(local, TaskInstance(max_tries=2), retries=2)
        assert execute(local, TaskInstance(try_number=2, max_tries=2), retries=0) == ARN
        assert local.calls.count(CREATE) == 1

    def test_a_job_that_aws_does_not_show_yet_is_waited_for(self, local):
        append, hidden = local.calls.append, []
        backend = local.backend("us-east-1")

        def append_and_hide(call):
            append(call)
            if call.operation == DESCRIBE and ARN in backend.jobs and not hidden:
                hidden.append(backend.jobs.pop(ARN))
            elif hidden and ARN not in backend.jobs:
                backend.jobs[ARN] = hidden[0]

        local.calls.append = append_and_hide
        assert execute(local) == ARN
        assert hidden


def end_the_process(seconds):
    raise KeyboardInterrupt


class Store:
    """
    As Airflow's task state store, which needs a supervisor; test_running_creation.py uses that one.

    :param broken: what it does not let itself be, ``read`` or ``written``
    """

    def __init__(self, broken=()):
        self.kept, self.broken = {}, broken
        self.times = float("inf")
        """How often it is broken."""

    def get(self, key):
        self._answer("read")
        return json.loads(self.kept[key]) if key in self.kept else None

    def set(self, key, value, *, retention):
        self._answer("written")
        self.kept[key] = json.dumps(value)

    def delete(self, key):
        self._answer("written")
        self.kept.pop(key, None)

    def _answer(self, action):
        if action in self.broken and self.times > 0:
            self.times -= 1
            raise RuntimeError("the API server is restarting")


@pytest.fixture
def patience(monkeypatch):
    """The pauses that a record's store is given, in no time."""
    pauses = []
    monkeypatch.setattr(lineage, "time", SimpleNamespace(sleep=pauses.append))
    return pauses


class TestOtherAirflows:
    """What has a task's own name, and was there before its first try."""

    @pytest.fixture(params=[None, "weekly"], ids=["derived", "new"])
    def options(self, request):
        return {"job_name": request.param, "if_exists": "new"}

    @pytest.mark.parametrize("has_store", [True, False])
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"num_results": 1000}, "its numResults is 25 instead of 1000"),
            (
                {"output_kms_key_arn": "arn:aws:kms:us-east-1:123456789012:key/1"},
                "its jobOutput.s3DataDestination.kmsKeyArn is none instead of",
            ),
            ({}, "The job of this name was ACTIVE before the task's first try"),
        ],
        ids=["number", "key", "same"],
    )
    def test_a_run_that_was_deleted_and_made_anew_is_not_green_with_the_old_job(
        self, local, options, change, words, has_store
    ):
        first = execute(local, None, {"task_state_store": Store() if has_store else None}, **options)
        context = {"task_state_store": Store() if has_store else None}  # it goes with the run
        with pytest.raises(PersonalizeJobExistsError) as caught:
            execute(local, None, context, **{**options, **change})
        assert caught.value.job_arn == first
        assert words in str(caught.value)
        assert "[personalize] job_name_prefix" in str(caught.value)
        assert local.calls.count(CREATE) == 1
        # As the message says.
        cleared = TaskInstance(try_number=2, max_tries=1)
        assert execute(local, cleared, context, **{**options, **change}) != first

    def test_nor_is_a_retry_whose_first_try_ended_before_it_looked(self, local, options):
        execute(local, TaskInstance(max_tries=2), {"task_state_store": Store()}, retries=2, **options)
        for try_number in (2, 3):  # the run was deleted and made anew, with an empty store
            ti, context = TaskInstance(try_number=try_number, max_tries=2), {"task_state_store": Store()}
            with pytest.raises(PersonalizeJobExistsError, match="was ACTIVE before the task's first try"):
                execute(local, ti, context, retries=2, **options)
        assert local.calls.count(CREATE) == 1

    def test_one_that_is_unfinished_and_the_same_is_waited_for(self, local, options):
        local._settings.progress = "by_hand"
        first = execute(local, wait_for_completion=False, **options)
        assert execute(local, wait_for_completion=False, **options) == first

    def test_what_is_created_at_that_very_moment_is_compared_as_well(self, local, options):
        name = execute(local, wait_for_completion=False, **options).rpartition("/")[2]
        backend, note = local.backend("us-east-1"), local.calls.append
        hidden = dict(backend.jobs)
        backend.jobs.clear()

        def note_and_show(call):
            note(call)
            if call.operation == CREATE:
                backend.jobs.update(hidden)

        local.calls.append = note_and_show
        with pytest.raises(PersonalizeJobExistsError, match="numResults is 25 instead of 7"):
            execute(local, num_results=7, **options)
        assert list(backend.jobs) == [ARN.replace("weekly", name)]

    def test_a_prefix_keeps_two_airflows_apart(self, local, options, monkeypatch):
        first = execute(local, **options)
        monkeypatch.setenv("AIRFLOW__PERSONALIZE__JOB_NAME_PREFIX", "prod")
        second = execute(local, num_results=7, **options)
        name = second.rpartition("/")[2]
        assert name.startswith("weekly-prod-" if options["job_name"] else "prod-shop-create-20261123T020000-")
        assert first != second
        assert local.calls.count(CREATE) == 2
        # And a retry finds what it has created.
        assert execute(local, TaskInstance(try_number=2), num_results=7, **options) == second

    def test_a_prefix_is_no_part_of_a_name_that_the_user_chose(self, local, monkeypatch):
        monkeypatch.setenv("AIRFLOW__PERSONALIZE__JOB_NAME_PREFIX", "prod")
        assert execute(local) == ARN

    @pytest.mark.parametrize(
        ("prefix", "length"),
        [("-prod", ""), ("prod eu", ""), ("p" * 17, ", having 17 characters"), ("日本", "")],
    )
    def test_a_prefix_that_fits_no_name_is_told_in_a_sentence(self, local, monkeypatch, prefix, length):
        monkeypatch.setenv("AIRFLOW__PERSONALIZE__JOB_NAME_PREFIX", prefix)
        with pytest.raises(InvalidParameterError) as caught:
            execute(local)
        assert str(caught.value) == (
            f"[personalize] job_name_prefix cannot begin a job name{length}. Expected at most 16 letters, "
            "digits, '-' and '_', the first a letter or a digit. Correct the setting, or the variable "
            f"AIRFLOW__PERSONALIZE__JOB_NAME_PREFIX, where tasks run. Got {prefix!r}."
        )
        assert len(local.calls) == 0


class TestNotWaiting:
    def test_is_done_with_a_job_that_its_triggerer_created_and_told_nobody_of(self, local):
        context = {"task_state_store": Store()}
        options = {"job_name": None, "wait_for_completion": False}
        dag_run = SimpleNamespace(start_date=datetime.now(UTC))
        waiting = [
            local.add_job("segment", f"other-{number}", solution_version_arn=local.version, status="PENDING")
            for number in range(5)
        ]
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - Airflow's TaskDeferred is no Exception
            execute(local, None, context, deferrable=True, **options)
        trigger = caught.value.trigger
        for arn in waiting:
            local.set_status(arn, "ACTIVE")
        resumed = operator(local, deferrable=True, **options)
        made = resumed.hook.create_job(BatchJobKind.SEGMENT, jobName=trigger.job_name, **trigger.request)
        steps, given = resumed.worker_steps, {"ti": TaskInstance(), "dag_run": dag_run, **context}
        assert steps.resume("__fail__", {"error": "Trigger timeout"}, given) == made
        local.set_status(made, "ACTIVE")
        # Cleared after it succeeded, the task does it again.
        cleared = TaskInstance(try_number=2, max_tries=1)
        assert execute(local, cleared, context, **options) != made


class TestFailAfterAClear:
    """With a record, `fail` goes on at the number that the lineage before had come to."""

    OPTIONS: ClassVar = {"if_exists": "fail", "retries": 1}

    def test_the_second_job_is_waited_for_and_taken(self, local):
        context = {"task_state_store": Store()}
        local.fail_job("weekly", "No")
        with pytest.raises(PersonalizeNewJobFailedError):
            execute(local, TaskInstance(max_tries=1), context, **self.OPTIONS)
        local._settings.progress = "by_hand"
        with pytest.raises(PersonalizeJobTimeoutError) as caught:
            execute(local, TaskInstance(try_number=2, max_tries=1), context, timeout=0.3, **self.OPTIONS)
        second = caught.value.job_arn
        cleared = TaskInstance(try_number=3, max_tries=3)
        with pytest.raises(PersonalizeJobTimeoutError) as caught:
            execute(local, cleared, context, timeout=0.3, **self.OPTIONS)
        assert caught.value.job_arn == second
        local.set_status(second, "ACTIVE")
        assert execute(local, TaskInstance(try_number=4, max_tries=5), context, **self.OPTIONS) == second

    def test_after_two_that_failed_the_third_is_created(self, local):
        context = {"task_state_store": Store()}
        for name in ("weekly", "weekly-2"):
            local.fail_job(name, "No")
        with pytest.raises(PersonalizeNewJobFailedError):
            execute(local, TaskInstance(max_tries=1), context, **self.OPTIONS)
        with pytest.raises(PersonalizeJobFailedError):
            execute(local, TaskInstance(try_number=2, max_tries=1), context, **self.OPTIONS)
        third = execute(local, TaskInstance(try_number=3, max_tries=3), context, **self.OPTIONS)
        assert third.endswith("/weekly-3")


class TestChangingNames:
    """Before Airflow 3.3 nothing but the name leads a retry to its job."""

    CHANGING = (
        "weekly-{{ ti.try_number }}",
        "weekly-{{ macros.datetime.now().strftime('%H%M%S') }}",
        "{% set now = macros.datetime.utcnow() %}weekly-{{ now.second }}",
        "weekly-{{ macros.uuid.uuid4() }}",
        "weekly-{{ macros.random() }}",
        "weekly-{{ macros.time.time() | int }}",
        "weekly-{{ task_instance.start_date | ts_nodash }}",
    )
    STAYING = (
        "weekly-{{ ds_nodash }}",
        "now-try_number-uuid4",
        "weekly-{{ dag_run.start_date | ts_nodash }}",
        "weekly-{{ ti.map_index }}",
        "weekly-{{ params.now }}",
        None,
    )

    def warnings(self, local, read_log, written, has_store=False):
        task = operator(local, job_name=written, wait_for_completion=False)
        task.job_name = "weekly"  # as rendered
        context = {"ti": TaskInstance(), "task_state_store": Store() if has_store else None}
        inspect.unwrap(type(task).execute)(task, context)
        return [line for line in read_log() if "changes from try to try" in line]

    @pytest.mark.parametrize("written", CHANGING)
    def test_are_warned_about(self, local, read_log, written):
        (line,) = self.warnings(local, read_log, written)
        assert "warning" in line.lower()
        assert "job_name of task 'create' changes from try to try, by " in line
        assert "a retry looks for the job under another name, and creates a second one" in line

    @pytest.mark.parametrize("written", STAYING)
    def test_are_not_what_stays_the_same(self, local, read_log, written):
        assert self.warnings(local, read_log, written) == []

    def test_do_not_matter_where_airflow_keeps_a_record(self, local, read_log):
        assert self.warnings(local, read_log, self.CHANGING[0], has_store=True) == []


class TestDeferring:
    """What the triggerer is told, and what is kept for when it dies."""

    def defer(self, local, **options):
        ti, store = TaskInstance(start_date=datetime.now(UTC) - timedelta(seconds=5)), Store()
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - Airflow's TaskDeferred is no Exception
            execute(local, ti, {"task_state_store": store}, deferrable=True, **options)
        assert type(caught.value).__name__ == "TaskDeferred"
        assert caught.value.method_name == "execute_created"
        told = caught.value.trigger.serialize()[1]
        # What templates render to when the task resumes does not matter.
        assert caught.value.kwargs == {"job_name": told["job_name"], "request": told["request"]}
        return ti, json.loads(store.kept["personalize_batch_job"]), told

    def test_for_a_slot(self, local, read_log):
        others = [
            local.add_job(
                BatchJobKind.SEGMENT, f"other-{i}", solution_version_arn=local.version, status="PENDING"
            )
            for i in range(5)
        ]
        options = {"timeout": 60, "execution_timeout": timedelta(seconds=30), "tags": {"team": "growth"}}
        ti, kept, told = self.defer(local, **options)
        start = ti.start_date
        # The worker's last lines: the trigger writes only what is new.
        arn = find_job_arn(BatchJobKind.SEGMENT, local.version, "weekly")
        until = f"{start + timedelta(seconds=60):%Y-%m-%d %H:%M:%S} UTC"
        told_last = read_log()[-2:]
        assert f"Waiting in the triggerer for a slot to create {arn}: asking AWS every " in told_last[0]
        assert f", until {until}." in told_last[0]
        assert "The triggerer goes on. If no line of its own follows here within 2 min, see" in told_last[1]
        request = operator(local, tags={"team": "growth"}).worker_steps.parameters.build_request({})
        assert "LimitExceededException" in told.pop("reason")
        assert told == {
            "kind": "segment",
            "request": request,
            "job_name": "weekly",
            "waiting_since": start.isoformat(),
            "deadline": (start + timedelta(seconds=60)).isoformat(),
            "execution_deadline": (start + timedelta(seconds=30)).isoformat(),
            "poke_interval": 0.1,
            "aws_conn_id": "aws_default",
            "region_name": "us-east-1",
            "verify": None,
            "botocore_config": ONE_TRY,
        }
        assert kept == {
            "kind": "segment",
            "job_name": "weekly",
            "request": request,
            "max_tries": 0,
            "has_delivered": False,
            "earlier_requests": [],
        }
        assert len(others) == 5
        assert local.calls.count(CREATE) == 1

    def test_for_faults_of_a_creation_that_last(self, local):
        local.faults.throttle(operation=CREATE)
        _, kept, told = self.defer(local, job_name=None)
        assert "ThrottlingException" in told["reason"]
        assert kept["job_name"] == told["job_name"]
        assert (local.calls.count(DESCRIBE), local.calls.count(CREATE)) == (1, 3)

    def test_under_the_name_that_is_free(self, local):
        local.add_job(
            BatchJobKind.SEGMENT, "weekly", solution_version_arn=local.version, status="CREATE FAILED"
        )
        local.faults.throttle(operation=CREATE)
        _, kept, told = self.defer(local)
        assert told["job_name"] == kept["job_name"] == "weekly-2"

    def test_never_while_aws_does_not_answer_the_look(self, local):
        """Nothing is decided then, so there is nothing that the triggerer could do."""
        local.faults.throttle(operation=DESCRIBE)
        with pytest.raises(PersonalizeNoSlotError, match="ThrottlingException"):
            execute(local, deferrable=True, timeout=1)
        assert local.calls.count(CREATE) == 0

    def test_never_with_fail_after_a_create_without_an_answer(self, local):
        """Only this process knows that the job of this name is its own."""
        local.faults.drop_connection(operation=CREATE)
        with pytest.raises(PersonalizeNoSlotError, match="ConnectionClosedError"):
            execute(local, deferrable=True, timeout=1, if_exists="fail")


class TestEarly:
    """What a person sees while the job runs."""

    def test_arn_and_links_are_pushed_before_the_wait(self, local):
        ti, seen = TaskInstance(), []
        local.on_status_change(lambda job, old, new, when: seen.append((new, sorted(ti.xcoms))))
        execute(local, ti)
        keys = ["_link_PersonalizeConsoleLink", "_link_S3OutputLink", "job", "return_value"]
        assert seen[1:] == [("CREATE IN_PROGRESS", keys), ("ACTIVE", keys)]
        assert ti.xcoms["return_value"] == ARN
        assert ti.xcoms["_link_PersonalizeConsoleLink"] == (
            "https://console.aws.amazon.com/personalize/home?region=us-east-1"
            "#arn:aws:personalize:us-east-1:123456789012:dataset-group$demo/setup"
        )
        assert ti.xcoms["_link_S3OutputLink"] == (
            "https://console.aws.amazon.com/s3/buckets/demo-bucket?region=us-east-1&prefix=output%2F"
        )

    def test_the_job_is_what_was_asked_for_until_aws_describes_it(self, local):
        ti, seen = TaskInstance(), []
        local.on_status_change(lambda *_: seen.append(dict(ti.xcoms.get("job") or {})))
        execute(local, ti)
        assert (seen[-1]["batchSegmentJobArn"], seen[-1]["jobName"]) == (ARN, "weekly")
        assert seen[-1]["jobOutput"] == {"s3DataDestination": {"path": "s3://demo-bucket/output/"}}
        assert "status" not in seen[-1]
        job = json.loads(json.dumps(ti.xcoms["job"]))
        assert job == seen[-1] | job
        assert job["status"] == "ACTIVE"

    def test_links_do_not_need_do_xcom_push(self, local):
        ti = TaskInstance()
        execute(local, ti, do_xcom_push=False)
        assert sorted(ti.xcoms) == ["_link_PersonalizeConsoleLink", "_link_S3OutputLink"]

    def test_links_are_there_while_a_slot_is_waited_for(self, local):
        for i in range(5):
            local.add_job(
                BatchJobKind.SEGMENT,
                f"other-{i}",
                solution_version_arn=local.version,
                status="CREATE PENDING",
            )
        ti = TaskInstance()
        with pytest.raises(AirflowSensorTimeout):
            execute(local, ti, timeout=0.3)
        assert sorted(ti.xcoms) == ["_link_PersonalizeConsoleLink", "_link_S3OutputLink"]


class TestKilled:
    def test_on_a_worker_it_says_that_the_job_goes_on(self, local, read_log):
        task = operator(local, wait_for_completion=False)
        task.execute({"ti": TaskInstance()})
        task.on_kill()
        lines = [line for line in read_log() if "Personalize cannot cancel a batch job" in line]
        assert len(lines) == 1
        assert "The job goes on, and is billed" in lines[0]
        assert f"({ARN})" in lines[0]
        assert "warning" in lines[0].lower()
        assert jobs(local) == {"weekly": "CREATE PENDING"}

    def test_before_there_is_an_arn_it_says_which_it_would_be(self, local, read_log):
        task = operator(local)
        local.faults.deny_access()
        with pytest.raises(PersonalizeRequestError):
            task.execute({"ti": TaskInstance()})
        task.on_kill()
        assert any(f"(if it was just being created: {ARN})" in line for line in read_log())

    def test_before_it_has_begun_it_says_nothing(self, local, read_log):
        operator(local).on_kill()
        assert not any("cannot cancel" in line for line in read_log())


class TestResuming:
    """Nothing but our own events is success, and what nobody told, the name does."""

    def resume(self, local, method, payload, ti=None, name="weekly", context=None, **options):
        task = operator(local, **options)
        kwargs = payload if method == "__fail__" else {"event": payload}
        if method == "execute_created":
            kwargs |= {"job_name": name, "request": task.worker_steps.parameters.build_request({})}
        return task.resume_execution(method, kwargs, {"ti": ti or TaskInstance(), **(context or {})})

    def event(self, **members):
        given = {
            "version": 1, "job_arn": ARN, "outcome": "created", "deadline": None, "job": None, "error": None
        }  # fmt: skip
        return {**given, **members}

    def test_a_created_job_is_gone_on_with(self, local):
        local.add_job(BatchJobKind.SEGMENT, "weekly", solution_version_arn=local.version)
        assert self.resume(local, "execute_created", self.event()) == ARN

    def test_a_created_job_is_not_lost_to_a_template_that_renders_to_nonsense_now(self, local):
        local.add_job(BatchJobKind.SEGMENT, "weekly", solution_version_arn=local.version)
        task = operator(local, num_results="none any more")
        request = operator(local).worker_steps.parameters.build_request({})
        kwargs = {"event": self.event(), "job_name": "weekly", "request": request}
        assert task.resume_execution("execute_created", kwargs, {"ti": TaskInstance()}) == ARN

    @pytest.mark.parametrize(
        ("if_exists", "job_name", "is_taken"),
        [("adopt", "weekly", True), ("fail", "weekly", False), ("new", "weekly", True), ("fail", None, True)],
    )
    def test_a_job_that_exists_is_judged(self, local, if_exists, job_name, is_taken):
        execute(local)
        job = make_json_safe(local.job(ARN))
        event = self.event(outcome="exists", job=job)
        options = {"if_exists": if_exists, "job_name": job_name}
        if is_taken:
            assert self.resume(local, "execute_created", event, **options) == ARN
        else:
            with pytest.raises(PersonalizeJobExistsError, match="if_exists is 'fail'"):
                self.resume(local, "execute_created", event, **options)

    @pytest.mark.parametrize("outcome", ["exists", "created"])
    def test_a_different_job_that_exists_is_an_error(self, local, outcome):
        """Even after a Create without an answer, which another task's Create may have overtaken."""
        local.add_job(BatchJobKind.SEGMENT, "weekly", solution_version_arn=local.version, num_results=7)
        event = self.event(outcome=outcome, job=make_json_safe(local.job(ARN)))
        with pytest.raises(PersonalizeJobExistsError, match="numResults is 7 instead of 25"):
            self.resume(local, "execute_created", event)

    @pytest.mark.parametrize("wait", [True, False])
    @pytest.mark.parametrize("outcome", ["created", "exists"])
    def test_a_job_that_failed_by_now_fails_the_task_whether_or_not_it_waits(self, local, outcome, wait):
        execute(local, wait_for_completion=False)
        local.set_status(ARN, "CREATE FAILED", "The role may not")
        event = self.event(outcome=outcome, job=make_json_safe(local.job(ARN)))
        with pytest.raises(PersonalizeJobFailedError, match="The role may not"):
            self.resume(local, "execute_created", event, wait_for_completion=wait)

    @pytest.mark.parametrize(
        "members",
        [
            {"version": 2},
            {"outcome": "active"},
            {"outcome": "success"},
            {"outcome": None},
            {"job_arn": None},
            {"job_arn": ARN.replace("segment", "inference")},
            {"job": "ACTIVE"},
            {"outcome": "exists"},
        ],
        ids=str,
    )
    def test_another_event_is_an_error(self, local, members):
        with pytest.raises(TriggerFailedError, match="event is unknown, .* creates a batch segment job"):
            self.resume(local, "execute_created", self.event(**members))

    @pytest.mark.parametrize("event", [None, {}, "created", {"outcome": "created"}])
    def test_no_event_is_an_error_too(self, local, event):
        for method in ("execute_created", "execute_complete"):
            with pytest.raises(
                TriggerFailedError, match="If the package was just updated, restart the triggerer"
            ):
                self.resume(local, method, event)

    @pytest.mark.parametrize("options", [{}, {"if_exists": "new"}, {"job_name": None}], ids=str)
    def test_when_no_triggerer_ran_the_name_tells_how_far_it_came(self, local, options):
        arn = execute(local, **options)
        assert self.resume(local, "__fail__", {"error": "Trigger timeout"}, **options) == arn
        assert local.calls.count(CREATE) == 1

    @pytest.mark.parametrize("may_be_own", [True, False])
    @pytest.mark.parametrize("has_store", [True, False])
    def test_with_fail_the_record_tells_the_job_of_a_triggerer_that_died(self, local, has_store, may_be_own):
        """No Create of the next triggerer went unanswered; that another task waits for the name, it knows."""
        local._settings.progress = "by_hand"
        context = {"task_state_store": (store := Store()) if has_store else None}
        options = {"if_exists": "fail", "wait_for_completion": False, "context": context}
        busy = [
            local.add_job(
                BatchJobKind.SEGMENT, f"o-{i}", solution_version_arn=local.version, status="PENDING"
            )
            for i in range(5)
        ]
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - Airflow's TaskDeferred is no Exception
            execute(local, None, deferrable=True, **options)
        assert type(caught.value).__name__ == "TaskDeferred"
        local.set_status(busy[0], "ACTIVE")
        request = operator(local).worker_steps.parameters.build_request({})
        operator(local).hook.create_job(BatchJobKind.SEGMENT, jobName="weekly", **request)
        event = self.event(outcome="exists", job=make_json_safe(local.job(ARN)), may_be_own=may_be_own)
        if has_store and may_be_own:
            assert self.resume(local, "execute_created", event, **options) == ARN
            assert json.loads(store.kept["personalize_batch_job"])["job_name"] == "weekly"
        else:
            with pytest.raises(PersonalizeJobExistsError, match="if_exists is 'fail'"):
                self.resume(local, "execute_created", event, **options)
            assert not has_store or store.kept == {}

    @pytest.mark.parametrize("has_store", [True, False])
    def test_with_fail_only_the_record_does(self, local, has_store):
        context = {"task_state_store": Store() if has_store else None}
        execute(local, None, context, if_exists="fail")
        options = {"if_exists": "fail", "context": context}
        if has_store:
            assert self.resume(local, "__fail__", {"error": "Trigger timeout"}, **options) == ARN
        else:
            with pytest.raises(PersonalizeJobExistsError, match="if_exists is 'fail'"):
                self.resume(local, "__fail__", {"error": "Trigger timeout"}, **options)

    def test_and_without_a_job_it_says_so(self, local):
        with pytest.raises(PersonalizeNoSlotError, match="Not created when the timeout .*/weekly, us-east-1"):
            self.resume(local, "__fail__", {"error": "Trigger timeout"})
        assert local.calls.count(CREATE) == 0

    def test_a_job_that_it_created_and_that_failed_is_told_with_its_reason(self, local):
        ti, context = TaskInstance(max_tries=1), {"task_state_store": Store()}
        execute(local, ti, context, wait_for_completion=False)
        local.set_status(ARN, "CREATE FAILED", "The role may not")
        told = {"error": "Trigger timeout"}
        with pytest.raises(PersonalizeNewJobFailedError, match="CREATE FAILED: The role may not"):
            self.resume(local, "__fail__", told, ti=ti, context=context, retries=1)
        event = self.event(outcome="timeout", job_arn=None, reason="full")
        for wait in (True, False):
            with pytest.raises(PersonalizeJobFailedError, match="CREATE FAILED: The role may not"):
                self.resume(local, "execute_created", event, wait_for_completion=wait)

    def test_one_that_failed_before_is_not(self, local):
        execute(local, wait_for_completion=False)
        local.set_status(ARN, "CREATE FAILED", "The role may not")
        event = self.event(outcome="timeout", job_arn=None, reason="full")
        with pytest.raises(PersonalizeNoSlotError, match="Not created .*: full. .*/weekly-2, us-east-1"):
            self.resume(local, "execute_created", event, name="weekly-2")

    def test_a_template_that_renders_to_nonsense_by_then_is_final(self, local):
        with pytest.raises(InvalidParameterError, match="num_results of task 'create' is not a count"):
            self.resume(local, "__fail__", {"error": "Trigger timeout"}, num_results="x")

    def test_who_does_not_wait_for_the_job_does_not_then_either(self, local):
        local._settings.progress = "by_hand"
        ti = TaskInstance()
        execute(local, ti, wait_for_completion=False)
        assert (
            self.resume(local, "__fail__", {"error": "Trigger timeout"}, ti=ti, wait_for_completion=False)
            == ARN
        )

    def test_when_aws_does_not_tell_how_far_it_came_the_time_is_over_all_the_same(self, local):
        local.faults.throttle()
        with pytest.raises(
            PersonalizeNoSlotError, match="Not known to be created when the timeout .*ThrottlingException"
        ):
            self.resume(local, "__fail__", {"error": "Trigger timeout"})

    def test_a_trigger_that_broke_is_retried(self, local):
        with pytest.raises(TriggerFailedError, match="Waiting in the triggerer failed: it broke"):
            self.resume(local, "__fail__", {"error": "it broke"})

    def test_a_refusal_in_the_triggerer_is_final(self, local):
        error = {
            "type": "PersonalizeJobExistsError",
            "text": "x",
            "fields": [ARN, "ACTIVE", ["numResults is 7"]],
        }
        with pytest.raises(PersonalizeJobExistsError, match="numResults is 7"):
            self.resume(local, "execute_created", self.event(outcome="error", job_arn=None, error=error))


class TestChecked:
    """Each mistake is one sentence, before AWS is called, and without retries."""

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (
                {"job_name": "None"},
                "job_name of task 'create' is 'None', which a template makes of",
            ),
            ({"job_name": "weekly job"}, "job_name of task 'create' cannot be a job name. Expected 1"),
            ({"solution_version_arn": "shop"}, "solution_version_arn of task 'create' is not an"),
            (
                {"role_arn": "PersonalizeS3Access"},
                "role_arn of task 'create' is not the ARN of an IAM role.",
            ),
            ({"input_path": "/in/"}, "input_path of task 'create' is not an S3 path"),
            (
                {"output_path": "s3://demo-bucket/input/segment.jsonl/out/"},
                "is equal to or under the input path",
            ),
            ({"if_exists": "ignore"}, "if_exists of task 'create' is not 'adopt' or 'fail' or 'new'"),
            (
                {"wait_for_completion": "perhaps"},
                "wait_for_completion of task 'create' is neither true nor false",
            ),
            ({"deferrable": "perhaps"}, "deferrable of task 'create' is neither true nor false"),
            ({"poll_interval": "0"}, "poll_interval of task 'create' is not a duration"),
            ({"timeout": -1}, "timeout of task 'create' is not a duration"),
            ({"num_results": 5_000_001}, "num_results of task 'create' is too many"),
            (
                {"region_name": "eu-west-1"},
                "region_name of task 'create' contradicts the region 'us-east-1' in the ARN",
            ),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_says_which_and_what_was_expected(self, local, options, words):
        with pytest.raises(InvalidParameterError) as caught:
            execute(local, **options)
        assert words in str(caught.value)
        assert isinstance(caught.value, AirflowFailException)
        assert isinstance(caught.value, ValueError)
        assert len(local.calls) == 0

    def test_a_folder_without_a_slash_is_warned_about(self, local, read_log):
        execute(local, input_path="s3://demo-bucket/input", wait_for_completion=False)
        lines = [line for line in read_log() if "warning" in line.lower()]
        assert any(
            "a job reads everything else that begins so, such as s3://demo-bucket/input_old/" in line
            for line in lines
        )

    def test_multiple_outputs_are_refused_before_anything_is_created(self, local):
        with pytest.raises(
            InvalidParameterError, match="the task returns one ARN, which Airflow cannot split"
        ):
            execute(local, multiple_outputs=True)
        assert len(local.calls) == 0

    def test_templates_leave_text_that_is_read_as_what_was_meant(self, local):
        done = execute(
            local,
            wait_for_completion="True",
            deferrable="false",
            poll_interval="0.1",
            timeout="60",
            num_results="7",
            job_name="",
        )
        assert local.job(done)["numResults"] == 7


NATIVE_DAG = """
from airflow_names import DAG
from airflow_provider_personalize_segments.operators import PersonalizeCreateBatchInferenceJobOperator

with DAG("shop", schedule=None, render_template_as_native_obj={native}) as dag:
    PersonalizeCreateBatchInferenceJobOperator(
        task_id="create",
        solution_version_arn="{{{{ dag_run.conf['version'] }}}}",
        role_arn="arn:aws:iam::123456789012:role/PersonalizeS3Access",
        input_path="s3://demo-bucket/input/segment.jsonl",
        output_path="s3://demo-bucket/output/",
        job_name="{{{{ '20261123_12' }}}}",
        num_results="{{{{ 7 }}}}",
        tags={{"cost-center": "1234", "run": "{{{{ 5 }}}}", "key": "0x10"}},
        batch_inference_job_config={{
            "itemExplorationConfig": {{
                "explorationWeight": "0.3", "explorationItemAgeCutOff": "{{{{ 30 }}}}"
            }},
            {influence}
        }},
        poll_interval=0.1,
        wait_for_completion="{{{{ True }}}}",
    )
"""


def native_dag(native, text=NATIVE_DAG):
    influence = (
        "'rankingInfluence': {'POPULARITY': '{{ 0.5 }}', 'FRESHNESS': 0.25}," * KNOWS_RANKING_INFLUENCE
    )
    return textwrap.dedent(text).format(native=native, influence=influence)


class TestInference:
    @pytest.mark.parametrize("native", [False, True], ids=["text", "native objects"])
    def test_is_the_same_however_airflow_renders_templates(self, run_dag, local, native):
        version = local.add_solution_version("similar", "aws-user-personalization")
        run = run_dag(native_dag(native), {"version": version}, retries=0)
        assert run.states == {"create": "success"}, run.errors
        (call,) = [call for call in local.calls if call.operation == "CreateBatchInferenceJob"]
        assert call.parameters["jobName"] == "20261123_12"
        assert call.parameters["numResults"] == 7
        assert call.parameters["tags"] == [
            {"tagKey": "cost-center", "tagValue": "1234"},
            {"tagKey": "run", "tagValue": "5"},
            {"tagKey": "key", "tagValue": "0x10"},
        ]
        config = call.parameters["batchInferenceJobConfig"]
        assert config["itemExplorationConfig"] == {
            "explorationWeight": "0.3",
            "explorationItemAgeCutOff": "30",
        }
        if KNOWS_RANKING_INFLUENCE:
            assert config["rankingInfluence"] == {"POPULARITY": 0.5, "FRESHNESS": 0.25}

    def test_a_job_name_of_nothing_is_refused_however_airflow_renders_templates(self, run_dag, local):
        text = NATIVE_DAG.replace("'20261123_12'", "none")
        version = local.add_solution_version("similar", "aws-user-personalization")
        run = run_dag(native_dag(True, text), {"version": version}, retries=0)
        assert run.states == {"create": "failed"}
        assert str(run.errors["create"]) == (
            "job_name of task 'create' is None: the XCom that it comes from is empty. Leave job_name out to "
            "derive it from the task."
        )

    @pytest.mark.parametrize("native", [False, True])
    def test_what_comes_from_other_tasks_is_never_taken_for_a_template(self, run_dag, local, native):
        source = f"""
            from airflow_names import DAG, task
            from airflow_provider_personalize_segments.operators import (
                PersonalizeCreateBatchSegmentJobOperator as Create,
            )

            with DAG("told", schedule=None, render_template_as_native_obj={native}) as dag:
                given = {{
                    "solution_version_arn": "{local.version}",
                    "role_arn": "{ROLE}",
                    "input_path": "s3://demo-bucket/input/segment.jsonl",
                    "output_path": "s3://demo-bucket/output/",
                    "wait_for_completion": False,
                    "deferrable": False,
                }}

                @task
                def team():
                    return "growth"

                @task
                def teams():
                    return [{{"team": "{{{{ 7 * 191 }}}}"}}]

                @task
                def nothing():
                    return None

                Create(task_id="member", job_name="member", tags={{"team": team()}}, **given)
                Create.partial(task_id="mapped", job_name="mapped", **given).expand(tags=teams())
                Create(task_id="unnamed", job_name=nothing(), **given)
        """
        run = run_dag(textwrap.dedent(source), {})
        assert run.states["member"] == "success"
        made = {
            call.parameters["jobName"]: call.parameters["tags"]
            for call in local.calls
            if call.operation == CREATE
        }
        assert made == {"member": [{"tagKey": "team", "tagValue": "growth"}]}
        # Rendered, it would be the number 1337, which a tag may have.
        assert "has a key or a value with characters that tags cannot have" in str(run.errors["mapped[0]"])
        assert "job_name of task 'unnamed' is None" in str(run.errors["unnamed"])

    def test_what_an_old_boto3_does_not_know_says_which_one_does(self, local):
        task = PersonalizeCreateBatchInferenceJobOperator(
            task_id="create",
            solution_version_arn=local.add_solution_version("similar", "aws-similar-items"),
            role_arn=ROLE,
            input_path="s3://demo-bucket/input/segment.jsonl",
            output_path="s3://demo-bucket/output/",
            batch_inference_job_config={"rankingInfluence": {"FRESHNESS": 0.5}},
            wait_for_completion=False,
        )
        if KNOWS_RANKING_INFLUENCE:
            arn = task.execute({"ti": TaskInstance()})
            assert local.job(arn)["batchInferenceJobConfig"] == {"rankingInfluence": {"FRESHNESS": 0.5}}
            return
        with pytest.raises(PersonalizeRequestError) as caught:
            task.execute({"ti": TaskInstance()})
        assert (
            f"boto3 {boto3.__version__}, which is installed, does not know rankingInfluence. "
            "Install boto3 1.42 or later, or leave it out."
        ) in str(caught.value)
        assert "CreateBatchInferenceJob" not in [call.operation for call in local.calls]

    def test_has_its_own_members(self, local):
        version = local.add_solution_version("similar", "aws-similar-items")
        task = PersonalizeCreateBatchInferenceJobOperator(
            task_id="create",
            solution_version_arn=version,
            role_arn=ROLE,
            input_path="s3://demo-bucket/input/segment.jsonl",
            output_path="s3://demo-bucket/output/",
            job_name="weekly",
            batch_inference_job_config={"itemExplorationConfig": {"explorationWeight": "0.5"}},
            batch_inference_job_mode="THEME_GENERATION",
            theme_generation_config={"fieldsForThemeGeneration": {"itemName": "TITLE"}},
            tags={"team": "growth"},
            poll_interval=0.1,
        )
        arn = task.execute({"ti": TaskInstance()})
        assert arn == ARN.replace("segment", "inference")
        job = local.job(arn)
        assert job["batchInferenceJobMode"] == "THEME_GENERATION"
        assert job["themeGenerationConfig"] == {"fieldsForThemeGeneration": {"itemName": "TITLE"}}
        assert job["batchInferenceJobConfig"] == {"itemExplorationConfig": {"explorationWeight": "0.5"}}
        (call,) = [call for call in local.calls if call.operation == "CreateBatchInferenceJob"]
        assert call.parameters["tags"] == [{"tagKey": "team", "tagValue": "growth"}]
        # And again: the job that is there is recognized as the same.
        assert task.execute({"ti": TaskInstance(try_number=2)}) == arn
