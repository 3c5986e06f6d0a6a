"""The sensors: judged by poking them, and by Airflow running them against the local Personalize."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_personalize_segments.errors import (
    InvalidParameterError,
    PersonalizeJobFailedError,
    PersonalizeJobTimeoutError,
    PersonalizeRequestError,
)
from airflow_provider_personalize_segments.hooks import PersonalizeHook
from airflow_provider_personalize_segments.jobs import BATCH_JOB_KINDS, BatchJobKind
from airflow_provider_personalize_segments.sensors import (
    PersonalizeBatchInferenceJobSensor,
    PersonalizeBatchSegmentJobSensor,
)

SENSORS = {
    BatchJobKind.SEGMENT: PersonalizeBatchSegmentJobSensor,
    BatchJobKind.INFERENCE: PersonalizeBatchInferenceJobSensor,
}
ONE_TRY = {"retries": {"total_max_attempts": 1}}
NO_JOB = "arn:aws:personalize:us-east-1:123456789012:batch-segment-job/none"


@pytest.fixture(params=BATCH_JOB_KINDS, ids=lambda kind: kind.name)
def kind(request):
    return request.param


@pytest.fixture
def add_job(personalize, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", personalize.airflow_connection())

    def add(kind=BatchJobKind.SEGMENT, status="CREATE PENDING", **options):
        recipe = "aws-item-affinity" if kind is BatchJobKind.SEGMENT else "aws-sims"
        version = personalize.add_solution_version("watched", recipe)
        return personalize.add_job(kind, "weekly", solution_version_arn=version, status=status, **options)

    return add


def make_sensor(job_arn, kind=BatchJobKind.SEGMENT, **options):
    return SENSORS[kind](task_id="wait", job_arn=job_arn, **{"botocore_config": ONE_TRY, **options})


class TestPoke:
    @pytest.mark.parametrize(
        "status", ["PENDING", "IN PROGRESS", "CREATE PENDING", "CREATE IN_PROGRESS", "NEW"]
    )
    def test_is_not_done_before_active(self, add_job, kind, status):
        assert not make_sensor(add_job(kind, status), kind).poke({}).is_done

    def test_is_done_when_active_and_gives_the_job_as_json(self, add_job, kind):
        arn = add_job(kind, "ACTIVE")
        result = make_sensor(arn, kind).poke({})
        assert result.is_done
        job = json.loads(json.dumps(result.xcom_value))
        assert job[kind.arn_member] == arn
        assert job["jobOutput"] == {"s3DataDestination": {"path": "s3://example-bucket/output/"}}
        assert datetime.fromisoformat(job["creationDateTime"]).utcoffset() is not None

    @pytest.mark.parametrize("status", ["CREATE FAILED", "CREATE STOPPED"])
    def test_a_failed_job_raises_its_reason(self, add_job, kind, status):
        arn = add_job(kind, status, failure_reason="Invalid S3 input path")
        with pytest.raises(PersonalizeJobFailedError) as caught:
            make_sensor(arn, kind).poke({})
        assert caught.value.fields == (arn, status, "Invalid S3 input path")

    @pytest.mark.parametrize("fault", ["throttle", "server_error", "drop_connection", "malformed"])
    def test_a_fault_that_may_pass_is_not_yet(self, personalize, add_job, fault, read_log):
        sensor = make_sensor(add_job(status="ACTIVE"))
        getattr(personalize.faults, fault)(times=1)
        assert not sensor.poke({}).is_done
        (line,) = (line for line in read_log() if "Not yet: " in line)
        assert "(DescribeBatchSegmentJob did not succeed for arn:aws:personalize" in line
        assert sensor.poke({}).is_done

    def test_denied_access_ends_it(self, personalize, add_job):
        sensor = make_sensor(add_job())
        personalize.faults.deny_access()
        with pytest.raises(PersonalizeRequestError, match="AccessDeniedException"):
            sensor.poke({})

    def test_a_job_that_does_not_exist_ends_it(self, add_job):
        add_job()
        with pytest.raises(PersonalizeRequestError, match="ResourceNotFoundException"):
            make_sensor(NO_JOB).poke({})

    def test_an_undocumented_status_is_warned_about_once(self, personalize, add_job, read_log):
        arn = add_job(status="SLUMBERING")
        sensor = make_sensor(arn)
        for _ in range(3):
            assert not sensor.poke({}).is_done
        (warning,) = (line for line in read_log() if "SLUMBERING" in line and "warning" in line)
        assert (
            f"The status 'SLUMBERING' is not documented. Waiting on: only ACTIVE is success. ({arn})"
        ) in warning
        personalize.set_status(arn, "ACTIVE")
        assert sensor.poke({}).is_done

    def test_each_status_is_logged_when_it_is_new(self, personalize, add_job, read_log):
        arn = add_job(status="CREATE PENDING")
        sensor = make_sensor(arn)
        for status in ("CREATE PENDING", "CREATE IN_PROGRESS", "CREATE IN_PROGRESS", "ACTIVE"):
            personalize.set_status(arn, status)
            sensor.poke({})
        logged = re.findall(r"The job is (.+?)\. \(", "\n".join(read_log()))
        assert logged == ["CREATE PENDING", "CREATE IN_PROGRESS", "ACTIVE"]

    def test_pokes_share_one_client_and_one_call_each(self, personalize, add_job):
        sensor = make_sensor(add_job())
        for _ in range(5):
            sensor.poke({})
        assert personalize.calls.count("DescribeBatchSegmentJob") == 5
        assert sensor.hook is sensor.hook

    @pytest.mark.parametrize("make_copy", [copy.copy, copy.deepcopy])
    def test_a_copy_of_a_sensor_that_has_run_asks_for_itself(self, personalize, add_job, make_copy):
        sensor, other = make_sensor(add_job(status="ACTIVE")), NO_JOB
        assert sensor.poke({}).is_done
        copied = make_copy(sensor)
        copied.job_arn = other
        with pytest.raises(PersonalizeRequestError, match="batch-segment-job/none"):
            copied.poke({})
        assert sensor.poke({}).is_done


class TestDeferring:
    """What reaches the triggerer, and what does not."""

    def deferred(self, sensor):
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - Airflow's TaskDeferred is no Exception
            sensor.execute({})
        assert type(caught.value).__name__ == "TaskDeferred"
        return caught.value

    def test_a_finished_job_never_reaches_the_triggerer(self, personalize, add_job):
        arn = add_job(status="ACTIVE")
        assert make_sensor(arn, deferrable=True).execute({})["status"] == "ACTIVE"
        assert personalize.calls.count("DescribeBatchSegmentJob") == 1
        personalize.set_status(arn, "CREATE FAILED", "why")
        with pytest.raises(PersonalizeJobFailedError):
            make_sensor(arn, deferrable=True).execute({})

    def test_everything_the_sensor_was_told_reaches_the_trigger(self, add_job):
        arn = add_job()
        sensor = make_sensor(
            arn,
            deferrable="true",
            poke_interval=7,
            exponential_backoff=True,
            max_wait=timedelta(minutes=2),
            timeout=90,
            execution_timeout=timedelta(seconds=30),
            silent_fail=True,
            region_name="us-east-1",
            verify="false",
            botocore_config={"read_timeout": 9},
        )
        before = datetime.now(UTC)
        deferral = self.deferred(sensor)
        after = datetime.now(UTC)
        kwargs = deferral.trigger.serialize()[1]
        deadline = datetime.fromisoformat(kwargs.pop("deadline"))
        execution_deadline = datetime.fromisoformat(kwargs.pop("execution_deadline"))
        since = datetime.fromisoformat(kwargs.pop("waiting_since"))
        assert kwargs == {
            "job_arn": arn,
            "poke_interval": 7,
            "exponential_backoff": True,
            "max_wait": 120,
            "silent_fail": True,
            "is_created": False,
            "aws_conn_id": "aws_default",
            "region_name": "us-east-1",
            "verify": False,
            "botocore_config": {"read_timeout": 9},
        }
        assert before <= deadline - timedelta(seconds=90) <= after
        assert before <= since <= after
        assert deadline - execution_deadline == timedelta(seconds=60)
        assert deferral.method_name == "execute_complete"
        # Airflow's own limit is a backstop behind the trigger's.
        assert deferral.timeout > timedelta(seconds=90)

    def test_the_deadline_counts_from_the_start_of_the_task(self, add_job):
        class TaskInstance:
            start_date = datetime.now(UTC) - timedelta(seconds=50)

        sensor = make_sensor(add_job(), deferrable=True, timeout=60)
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - Airflow's TaskDeferred is no Exception
            sensor.execute({"ti": TaskInstance})
        deadline = datetime.fromisoformat(caught.value.trigger.deadline)
        assert deadline == TaskInstance.start_date + timedelta(seconds=60)

    def test_a_deadline_that_is_over_is_a_timeout(self, add_job):
        with pytest.raises(PersonalizeJobTimeoutError):
            make_sensor(add_job(), deferrable=True, timeout=0).execute({})

    def test_a_task_that_does_not_defer_says_so(self, add_job):
        sensor = make_sensor(add_job(), deferrable="perhaps")
        with pytest.raises(
            InvalidParameterError, match="deferrable of task 'wait' is neither true nor false"
        ):
            sensor.execute({})

    @pytest.mark.parametrize("default", [True, False])
    def test_the_default_is_airflows(self, default):
        code = (
            "from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor as S;"
            "from airflow_provider_personalize_segments.operators import "
            "PersonalizeCreateBatchSegmentJobOperator as O;"
            "names = ('solution_version_arn', 'role_arn', 'input_path', 'output_path');"
            "print('deferrable:', S(task_id='t', job_arn='a').deferrable,"
            " O(task_id='o', **dict.fromkeys(names, 'x')).deferrable)"
        )
        environment = {**os.environ, "AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE": str(default)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert f"deferrable: {default} {default}" in done.stdout


class TestBadInput:
    """Each is refused before AWS is called, whatever soft_fail and never_fail say, and never retried."""

    @pytest.mark.parametrize(
        "options", [{}, {"soft_fail": True}, {"never_fail": True}, {"silent_fail": True}]
    )
    @pytest.mark.parametrize(
        ("job_arn", "region_name", "words"),
        [
            ("", None, "job_arn of task 'wait' is empty. Expected arn:aws:personalize:"),
            (NO_JOB + " ", None, "contains white space; remove it"),
            (NO_JOB.replace("segment", "inference"), None, "is the ARN of a batch inference job, not"),
            ("arn:aws:s3:::bucket", None, "of the service 's3', not of Amazon Personalize"),
            (
                NO_JOB,
                "eu-west-1",
                "region_name of task 'wait' contradicts the region 'us-east-1' in the ARN. Leave region_name",
            ),
        ],
    )
    def test_is_refused(self, personalize, options, job_arn, region_name, words):
        sensor = make_sensor(job_arn, region_name=region_name, **options)
        with pytest.raises(InvalidParameterError) as caught:
            sensor.execute({})
        assert words in str(caught.value)
        assert isinstance(caught.value, ValueError)
        assert len(personalize.calls) == 0

    @pytest.mark.parametrize(
        "config", [{"nope": 1}, {"retries": 5}, {"s3": 3}, {"retries": {"mode": "foo"}}], ids=str
    )
    def test_a_wrong_botocore_configuration_is_refused(self, config):
        (key,) = config
        with pytest.raises(
            InvalidParameterError,
            match=rf"botocore_config of task 'wait' with the keys \['{key}'\] is not a botocore",
        ):
            make_sensor(NO_JOB, botocore_config=config).execute({})

    def test_nothing_is_checked_before_it_is_rendered(self):
        sensor = make_sensor("{{ params.arn }}", region_name="{{ params.region }}", verify="{{ params.v }}")
        assert sensor.job_arn == "{{ params.arn }}"

    def test_the_parameters_reach_the_client(self):
        sensor = make_sensor(NO_JOB, aws_conn_id=None, verify="false", botocore_config={"read_timeout": 9})
        hook = sensor.hook
        assert isinstance(hook, PersonalizeHook)
        assert (hook.aws_conn_id, hook._region_name, hook.verify) == (None, "us-east-1", False)
        assert hook.config.read_timeout == 9


GATE = """
from airflow_names import DAG, task
from airflow_provider_personalize_segments.sensors import *
from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor as Sensor

with DAG("gate", schedule=None, default_args={{"retries": 3}}) as dag:
    wait = Sensor(task_id="wait", job_arn="{{{{ dag_run.conf['arn'] }}}}", poke_interval=0.1, {options})

    @task(retries=0)
    def downstream():
        pass

    wait >> downstream()
"""
MODES = ["poke", "reschedule", "deferrable"]


@pytest.mark.parametrize("mode", MODES)
class TestInAirflow:
    """Airflow runs the gate: only an ACTIVE job lets the task behind it run."""

    @pytest.fixture
    def gate(self, run_dag, local_personalize, monkeypatch, mode):
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", local_personalize.airflow_connection())
        version = local_personalize.add_solution_version("gated")

        def run(status, *, arn=None, failure_reason=None, **options):
            arn = arn or local_personalize.add_job(
                BatchJobKind.SEGMENT,
                "gated",
                solution_version_arn=version,
                status=status,
                failure_reason=failure_reason,
            )
            chosen = {"deferrable": True} if mode == "deferrable" else {"mode": mode, "deferrable": False}
            options = {**chosen, "botocore_config": ONE_TRY, **options}
            source = GATE.format(options=", ".join(f"{key}={value!r}" for key, value in options.items()))
            return run_dag(textwrap.dedent(source), {"arn": arn})

        return run

    def after_calls(self, local_personalize, number, action):
        """Do something when so many calls were made; the job changes while it is being watched."""
        append = local_personalize.calls.append

        def append_and_act(call):
            append(call)
            if local_personalize.calls.count("DescribeBatchSegmentJob") == number:
                action()

        local_personalize.calls.append = append_and_act

    def test_opens_when_the_job_becomes_active(self, gate, local_personalize):
        arn = "arn:aws:personalize:us-east-1:123456789012:batch-segment-job/gated"
        self.after_calls(local_personalize, 3, lambda: local_personalize.set_status(arn, "ACTIVE"))
        run = gate("CREATE IN_PROGRESS")
        assert run.states == {"wait": "success", "downstream": "success"}
        job = run.xcom("wait")
        assert (job["batchSegmentJobArn"], job["status"]) == (arn, "ACTIVE")
        assert local_personalize.calls.count("DescribeBatchSegmentJob") == 3

    def test_stays_shut_when_the_job_failed_and_does_not_retry(self, gate, local_personalize):
        run = gate("CREATE FAILED", failure_reason="Invalid S3 input path")
        assert run.states == {"wait": "failed", "downstream": "upstream_failed"}
        assert isinstance(run.errors["wait"], PersonalizeJobFailedError)
        assert run.errors["wait"].failure_reason == "Invalid S3 input path"
        assert local_personalize.calls.count("DescribeBatchSegmentJob") == 1

    def test_stays_shut_when_the_time_is_over(self, gate):
        run = gate("SLUMBERING", timeout=0.3)
        assert run.states == {"wait": "failed", "downstream": "upstream_failed"}
        assert isinstance(run.errors["wait"], PersonalizeJobTimeoutError)

    def test_outlasts_faults_that_pass(self, gate, local_personalize):
        local_personalize.faults.throttle(times=1)
        local_personalize.faults.server_error(times=1)
        local_personalize.faults.drop_connection(times=1)
        local_personalize.faults.malformed(times=1)
        assert gate("ACTIVE").states == {"wait": "success", "downstream": "success"}
        assert local_personalize.calls.count("DescribeBatchSegmentJob") == 5

    def test_gives_up_on_denied_access_at_once(self, gate, local_personalize):
        local_personalize.faults.deny_access()
        run = gate("ACTIVE")
        assert run.states == {"wait": "failed", "downstream": "upstream_failed"}
        assert isinstance(run.errors["wait"], PersonalizeRequestError)
        assert local_personalize.calls.count("DescribeBatchSegmentJob") == 1

    def test_gives_up_on_a_wrong_arn_without_retries(self, gate, local_personalize):
        run = gate(None, arn="weekly", soft_fail=True)
        assert run.states == {"wait": "failed", "downstream": "upstream_failed"}
        assert "job_arn of task 'wait' is not an Amazon Personalize ARN" in str(run.errors["wait"])
        assert local_personalize.calls.count() == 0

    def test_gives_up_on_a_connection_that_does_not_exist(self, gate, local_personalize):
        run = gate("ACTIVE", aws_conn_id="no_such_connection")
        assert run.states == {"wait": "failed", "downstream": "upstream_failed"}
        assert "'no_such_connection' does not exist, or cannot be read just now. Create it" in str(
            run.errors["wait"]
        )
        assert local_personalize.calls.count() == 0

    def test_gives_up_on_a_connection_of_another_type(self, gate, local_personalize, monkeypatch):
        monkeypatch.setenv("AIRFLOW_CONN_SHOP", "postgres://me:secret@db/shop")
        run = gate("ACTIVE", aws_conn_id="shop", retries=2)
        assert run.states == {"wait": "failed", "downstream": "upstream_failed"}
        assert "The Airflow connection 'shop' is of the type 'postgres', not 'aws'" in str(run.errors["wait"])
        assert local_personalize.calls.count() == 0

    @pytest.mark.parametrize("option", ["soft_fail", "never_fail"])
    def test_skips_a_failed_job_when_asked_to(self, gate, option):
        assert gate("CREATE FAILED", **{option: True}).states == {"wait": "skipped", "downstream": "skipped"}

    def test_waits_while_nothing_answers(self, gate, local_personalize):
        extra = {"region_name": "us-east-1", "endpoint_url": "http://127.0.0.1:1"}
        connection = {"conn_type": "aws", "login": "a", "password": "b", "extra": extra}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AIRFLOW_CONN_CLOSED_PORT", json.dumps(connection))
            run = gate("ACTIVE", aws_conn_id="closed_port", timeout=0.3)
        assert run.states == {"wait": "failed", "downstream": "upstream_failed"}
        assert isinstance(run.errors["wait"], PersonalizeJobTimeoutError)
