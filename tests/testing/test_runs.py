"""A DAG or a task in one call: Airflow runs it, here on a database of its own, on both local Personalizes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
from airflow_names import DAG, task

from airflow_provider_personalize_segments.errors import PersonalizeJobFailedError, PersonalizeJobTimeoutError
from airflow_provider_personalize_segments.operators import (
    PersonalizeCreateBatchSegmentJobOperator,
    PersonalizeListBatchSegmentJobsOperator,
    PersonalizeSegmentsToParquetOperator,
)
from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor
from airflow_provider_personalize_segments.testing import LocalPersonalize, mock_personalize

PROJECT = Path(__file__).parents[2]
NOWHERE = json.dumps(
    {"conn_type": "aws", "extra": {"region_name": "us-east-1", "endpoint_url": "http://127.0.0.1:1"}}
)
ONE_TRY = {"retries": {"total_max_attempts": 1}}


@pytest.fixture(params=[mock_personalize, LocalPersonalize], ids=["in_process", "server"])
def control(request):
    with request.param(progress="by_call") as control:
        yield control


@pytest.fixture
def version(control):
    return control.add_solution_version("shop")


@pytest.fixture
def arn(control, version):
    return control.add_job("segment", "weekly", solution_version_arn=version)


@pytest.fixture
def running(control, version):
    return control.add_job("segment", "next", solution_version_arn=version, status="CREATE IN_PROGRESS")


def put_input(control):
    s3 = boto3.client(
        "s3",
        region_name="us-east-1",
        endpoint_url=control.endpoint_url,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    s3.create_bucket(Bucket="shop")
    s3.put_object(Bucket="shop", Key="in/items.json", Body=b'{"itemId": "b1042"}')
    s3.close()


def creator(version, **options):
    return PersonalizeCreateBatchSegmentJobOperator(
        task_id="create",
        solution_version_arn=version,
        role_arn="arn:aws:iam::123456789012:role/PersonalizeS3Access",
        input_path="s3://shop/in/",
        output_path="s3://shop/out/",
        **options,
    )


class TestWhatItRuns:
    @pytest.mark.parametrize("deferrable", [False, True])
    def test_a_sensor(self, control, arn, deferrable):
        sensor = PersonalizeBatchSegmentJobSensor(task_id="wait", job_arn=arn, deferrable=deferrable)
        run = control.run(sensor)
        assert (run.state, run.states, run.errors) == ("success", {"wait": "success"}, {})
        assert run.xcoms["wait"]["jobName"] == "weekly"
        assert control.calls.count("DescribeBatchSegmentJob") == 1

    def test_a_task_that_is_run_twice(self, control, arn):
        sensor = PersonalizeBatchSegmentJobSensor(task_id="wait", job_arn=arn)
        assert control.run(sensor).xcoms == control.run(sensor).xcoms

    @pytest.mark.parametrize("deferrable", [False, True])
    def test_a_job_that_is_created_and_waited_for(self, control, version, deferrable):
        put_input(control)
        run = control.run(creator(version, deferrable=deferrable))
        assert run.states == {"create": "success"}
        assert control.job(run.xcoms["create"])["status"] == "ACTIVE"

    def test_a_dag_with_mapped_tasks(self, control, version, arn):
        other = control.add_job("segment", "other", solution_version_arn=version)
        with DAG("wait_for_all", schedule=None) as dag:
            jobs = PersonalizeListBatchSegmentJobsOperator(task_id="list")
            waits = PersonalizeBatchSegmentJobSensor.partial(task_id="wait").expand(
                job_arn=jobs.output.map(lambda job: job["batchSegmentJobArn"])
            )

            @task
            def report(found):
                return [job["jobName"] for job in found]

            report(waits.output)
        run = control.run(dag)
        assert run.states == dict.fromkeys(["list", "wait[0]", "wait[1]", "report"], "success")
        assert [job["batchSegmentJobArn"] for job in run.xcoms["wait"]] == [
            job["batchSegmentJobArn"] for job in run.xcoms["list"]
        ]
        assert sorted(run.xcoms["report"]) == ["other", "weekly"]
        assert {job["batchSegmentJobArn"] for job in run.xcoms["wait"]} == {arn, other}
        assert run.xcom("wait", map_index=1) == run.xcoms["wait"][1]

    def test_a_task_of_a_dag_without_those_around_it(self, control, arn):
        ran = []
        with DAG("many", schedule=None) as dag:

            @task
            def before():
                ran.append("before")

            @task
            def after():
                ran.append("after")

            wait = PersonalizeBatchSegmentJobSensor(task_id="wait", job_arn=arn)
            before() >> wait >> after()
        assert control.run(wait).states == {"wait": "success"}
        assert ran == []
        assert sorted(control.run(dag).states) == ["after", "before", "wait"]
        assert ran == ["before", "after"]

    def test_what_a_decorated_function_returns(self, control):
        with DAG("decorated", schedule=None):

            @task
            def push(ti=None):
                ti.xcom_push("colour", "blue")
                return {"size": 4}

            pushed = push()
        run = control.run(pushed)
        assert run.xcoms == {"push": {"size": 4}}
        assert run.xcom("push", "colour") == "blue"
        assert run.xcom("push", "other") is None
        with pytest.raises(KeyError):
            run.xcom("pull")

    def test_configuration_and_date(self, control):
        with DAG("asked", schedule=None, params={"size": 1}) as dag:

            @task
            def show(size, day):
                return [size, day]

            show("{{ params.size }}", "{{ ds }}")
        assert control.run(dag).xcoms["show"][0] == "1"
        run = control.run(dag, conf={"size": 2}, logical_date=datetime(2026, 3, 1, tzinfo=UTC))
        assert run.xcoms["show"] == ["2", "2026-03-01"]

    @pytest.mark.parametrize("wrong", [None, "dag", PersonalizeBatchSegmentJobSensor, task(lambda: None)])
    def test_nothing_else(self, wrong):
        with mock_personalize() as control, pytest.raises(TypeError, match="run takes a DAG, or an operator"):
            control.run(wrong)


class TestHowItEnds:
    @pytest.mark.parametrize(
        "mode", [{"mode": "poke"}, {"mode": "reschedule"}, {"deferrable": True}], ids=str
    )
    def test_a_failure_with_its_error(self, control, running, mode):
        control.fail_job(running, "Invalid S3 output path")
        with DAG("gate", schedule=None) as dag:

            @task
            def after(): ...

            PersonalizeBatchSegmentJobSensor(task_id="wait", job_arn=running, retries=1, **mode) >> after()
        run = control.run(dag)
        assert (run.state, run.states) == ("failed", {"wait": "failed", "after": "upstream_failed"})
        assert isinstance(run.errors["wait"], PersonalizeJobFailedError)
        assert run.errors["wait"].failure_reason == "Invalid S3 output path"
        assert (list(run.errors), run.xcoms) == (["wait"], {})

    def test_a_failure_of_one_of_many(self, control, version, arn, running):
        control.set_status(running, "CREATE FAILED", "No access")
        waits = PersonalizeBatchSegmentJobSensor.partial(task_id="wait").expand(job_arn=[arn, running])
        run = control.run(waits)
        assert run.states == {"wait[0]": "success", "wait[1]": "failed"}
        assert list(run.errors) == ["wait[1]"]
        assert [job and job["jobName"] for job in run.xcoms["wait"]] == ["weekly", None]

    def test_another_try(self, control, version):
        put_input(control)
        failed = []

        def fail_the_first(job, old, new, when):
            if new == "CREATE IN_PROGRESS" and not failed:
                failed.append(job["batchSegmentJobArn"])
                control.set_status(failed[0], "CREATE FAILED", "Once")

        control.on_status_change(fail_the_first)
        operator = creator(version, retries=1, retry_delay=timedelta(minutes=5))
        run = control.run(operator)
        assert (run.states, run.errors) == ({"create": "success"}, {})
        assert run.xcoms["create"] not in failed
        assert control.calls.count("CreateBatchSegmentJob") == 2

    def test_waits_are_short_and_the_tasks_get_theirs_back(self, control, running):
        sensor = PersonalizeBatchSegmentJobSensor(task_id="wait", job_arn=running, timeout=24 * 60 * 60)
        mapped = PersonalizeBatchSegmentJobSensor.partial(task_id="map").expand(job_arn=[running])
        for each in (sensor, mapped):
            run = control.run(each, timeout=0.5)
            assert [type(error) for error in run.errors.values()] == [PersonalizeJobTimeoutError]
        assert (sensor.timeout, sensor.poke_interval, sensor.retry_delay) == (
            24 * 60 * 60, 60, timedelta(minutes=5)
        )  # fmt: skip
        assert not {"timeout", "poke_interval"} & mapped.partial_kwargs.keys()

    @pytest.mark.parametrize("are_known", [False, True])
    def test_waits_of_tasks_that_are_mapped_over_dicts(self, control, running, are_known):
        dicts = [{"job_arn": running}, {"job_arn": running, "timeout": 0.3}]
        with DAG("mapped_over_dicts", schedule=None) as dag:

            @task
            def find():
                return dicts

            PersonalizeBatchSegmentJobSensor.partial(task_id="wait").expand_kwargs(
                dicts if are_known else find()
            )
        run = control.run(dag, timeout=1)
        errors = {name: str(error) for name, error in run.errors.items()}
        assert errors.keys() == {"wait[0]", "wait[1]"}
        assert "timeout of 1 s was over" in errors["wait[0]"]
        assert "timeout of 0.3 s was over" in errors["wait[1]"]

    def test_tables_of_dicts(self, control, version):
        record = {"input": {"itemId": "1"}, "output": {"usersList": ["7"]}, "error": None}
        arn = control.add_job("segment", "done", solution_version_arn=version, output=[record])
        with DAG("tables", schedule=None) as dag:

            @task
            def find():
                return [{"job_arn": arn, "output_path": "s3://example-bucket/table/"}]

            PersonalizeSegmentsToParquetOperator.partial(
                task_id="convert", retry_delay=timedelta(minutes=1), retries=2
            ).expand_kwargs(find())
        run = control.run(dag)
        assert run.states == {"find": "success", "convert[0]": "success"}
        assert run.xcoms["convert"][0]["rows"] == 1

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"timeout": "6 hours"}, "timeout of task 'create' is not a duration. .* Got '6 hours'"),
            (
                {"timeout": "{{ params.timeout }}"},
                "timeout of task 'create' is not a duration. .* Got 'soon'",
            ),
            ({"poll_interval": "1 min"}, "poll_interval of task 'create' is not a duration. .* Got '1 min'"),
            ({"poll_interval": 0}, "poll_interval of task 'create' is not a duration. .* Got 0"),
        ],
        ids=str,
    )
    def test_waits_that_cannot_be_read_stay_and_fail(self, control, version, options, words):
        run = control.run(creator(version, params={"timeout": "soon"}, **options))
        assert run.states == {"create": "failed"}
        assert re.search(words, str(run.errors["create"]))
        assert control.calls.count("CreateBatchSegmentJob") == 0

    def test_waits_of_a_mapped_sensor_that_cannot_be_read_stay_and_fail(self, control, arn):
        sensor = PersonalizeBatchSegmentJobSensor.partial(task_id="wait", timeout="6 hours")
        run = control.run(sensor.expand(job_arn=[arn]))
        assert run.states == {"wait[0]": "failed"}

    @pytest.mark.parametrize("timeout", ["{{ params.timeout }}", "86400", timedelta(days=1), None])
    def test_waits_are_short_however_they_are_given(self, control, version, timeout):
        put_input(control)
        control.on_status_change(
            lambda job, old, new, when: new == "CREATE PENDING" and control.set_status(
                job["batchSegmentJobArn"], "SLUMBERING"
            )
        )  # fmt: skip
        run = control.run(creator(version, timeout=timeout, params={"timeout": "86400"}), timeout=0.5)
        assert "when the timeout of 0.5 s was over" in str(run.errors["create"])

    def test_shorter_waits_stay(self, control, running):
        sensor = PersonalizeBatchSegmentJobSensor(task_id="wait", job_arn=running, timeout=0.25)
        assert "timeout of 0.25 s" in str(control.run(sensor).errors["wait"])


class TestWhatItReaches:
    def test_a_connection_that_is_there_is_not_used(self, control, arn, monkeypatch):
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", NOWHERE)
        assert control.run(PersonalizeBatchSegmentJobSensor(task_id="wait", job_arn=arn)).state == "success"
        assert os.environ["AIRFLOW_CONN_AWS_DEFAULT"] == NOWHERE

    @pytest.mark.parametrize("deferrable", [False, True])
    def test_other_connections(self, control, running, deferrable):
        role = "arn:aws:iam::123456789012:role/shop"
        options = {"job_arn": running, "deferrable": deferrable}
        sensor = PersonalizeBatchSegmentJobSensor(task_id="wait", aws_conn_id="shop", **options)
        control.set_status(running, "ACTIVE")
        assert control.run(sensor, connections=["shop"]).state == "success"
        assert control.calls[-1].caller_arn.endswith(":user/moto")
        shop = {"shop": control.airflow_connection(role_arn=role)}
        assert control.run(sensor, connections=shop).state == "success"
        assert ":assumed-role/shop/" in control.calls[-1].caller_arn

    def test_no_connection(self, control, arn):
        sensor = PersonalizeBatchSegmentJobSensor(
            task_id="wait", job_arn=arn, aws_conn_id=None, botocore_config=ONE_TRY
        )
        assert control.run(sensor).state == "success"
        assert control.calls.count("DescribeBatchSegmentJob") == 1


class TestWhatItLeaves:
    def test_environment_and_database_are_as_before(self, control, arn):
        from airflow import settings

        before, engine, sessions = dict(os.environ), settings.engine, settings.Session
        session = sessions()
        with DAG("kept", schedule=None) as dag:
            PersonalizeBatchSegmentJobSensor(task_id="wait", job_arn=arn)
        control.run(dag)
        assert dict(os.environ) == before
        assert (settings.engine, settings.Session) == (engine, sessions)
        assert sessions() is session
        assert str(engine.url) == settings.SQL_ALCHEMY_CONN
        sessions.remove()


SCRIPT = """
import sys
from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor
from airflow_provider_personalize_segments.testing import LocalPersonalize

with LocalPersonalize() as personalize:
    version = personalize.add_solution_version()
    arn = personalize.add_job("segment", "weekly", solution_version_arn=version)
    run = personalize.run(PersonalizeBatchSegmentJobSensor(task_id="wait", job_arn=arn))
    print("ended", run.states, personalize.calls.count("DescribeBatchSegmentJob"))
"""


def test_neither_the_configured_database_nor_a_secrets_backend_is_asked(tmp_path):
    connections = tmp_path / "connections.json"
    connections.write_text(json.dumps({"aws_default": json.loads(NOWHERE)}))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=PROJECT,
        env={
            **os.environ,
            "AIRFLOW_HOME": str(tmp_path / "home"),
            # There is no such folder, so nothing could open it.
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/none/airflow.db",
            "AIRFLOW__SECRETS__BACKEND": "airflow.secrets.local_filesystem.LocalFilesystemBackend",
            "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps({"connections_file_path": str(connections)}),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "ended {'wait': 'success'} 1" in done.stdout, done.stdout + done.stderr
    assert not (tmp_path / "none").exists()
