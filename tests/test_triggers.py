"""The trigger: what it leaves in the database, what it says, and that nothing else passes for success."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_personalize_segments import connections
from airflow_provider_personalize_segments.airflow_compat import (
    AirflowFailException,
    AirflowTaskTimeout,
    has_asset_watchers,
)
from airflow_provider_personalize_segments.errors import (
    InvalidParameterError,
    PersonalizeJobFailedError,
    PersonalizeJobTimeoutError,
    PersonalizeRequestError,
    TriggerFailedError,
)
from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor
from airflow_provider_personalize_segments.testing import LocalPersonalize
from airflow_provider_personalize_segments.testing.ports import hold_port
from airflow_provider_personalize_segments.triggers import (
    PersonalizeBatchJobEventTrigger,
    PersonalizeBatchJobTrigger,
    PersonalizeCreateBatchJobTrigger,
)
from airflow_provider_personalize_segments.waiting.events import (
    EVENT_VERSION,
    Outcome,
    load_error,
    read_creation_event,
    read_event,
)
from airflow_provider_personalize_segments.waiting.poller import JobPoller

ARN = "arn:aws:personalize:us-east-1:123456789012:batch-segment-job/weekly"
SERIALIZED = sorted((Path(__file__).parent / "serialized_triggers").glob("*.json"))

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def in_seconds(seconds):
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def run(trigger):
    """Run a trigger to its end, as the triggerer does, after a trip through the database."""
    path, kwargs = trigger.serialize()
    module, _, name = path.rpartition(".")
    again = getattr(import_module(module), name)(**json.loads(json.dumps(kwargs)))

    async def collect():
        return [event.payload async for event in again.run()]

    (payload,) = asyncio.run(collect())
    assert json.loads(json.dumps(payload)) == payload
    return payload


@pytest.fixture
def port():
    with hold_port() as port:
        yield port


@pytest.fixture
def add_job(local_personalize, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", local_personalize.airflow_connection())
    version = local_personalize.add_solution_version("triggered")

    def add(status, **options):
        return local_personalize.add_job(
            BatchJobKind.SEGMENT, "weekly", solution_version_arn=version, status=status, **options
        )

    return add


class TestSerialization:
    @given(
        deadline=st.none() | st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
        poke_interval=st.floats(0, 1e6),
        exponential_backoff=st.booleans(),
        max_wait=st.none() | st.floats(0, 1e6),
        silent_fail=st.booleans(),
        aws_conn_id=st.none() | st.text(max_size=20),
        verify=st.none() | st.booleans() | st.text(min_size=1, max_size=20),
        botocore_config=st.none() | st.dictionaries(st.text(max_size=8), json_values, max_size=3),
    )
    def test_survives_a_round_trip_through_json(self, **options):
        path, kwargs = PersonalizeBatchJobTrigger(ARN, **options).serialize()
        assert path == "airflow_provider_personalize_segments.triggers.PersonalizeBatchJobTrigger"
        again = PersonalizeBatchJobTrigger(**json.loads(json.dumps(kwargs)))
        assert again.serialize() == (path, kwargs)
        assert {name: kwargs[name] for name in options} == options

    @pytest.mark.parametrize("path", SERIALIZED, ids=lambda path: path.stem)
    def test_what_every_release_wrote_still_loads(self, path):
        for class_path, kwargs in json.loads(path.read_text()):
            module, _, name = class_path.rpartition(".")
            if name.endswith("EventTrigger") and not has_asset_watchers():
                continue  # Airflow 2 wrote none
            loaded = getattr(import_module(module), name)(**kwargs).serialize()[1]
            assert {key: loaded[key] for key in kwargs} == kwargs

    def test_what_this_release_writes_is_kept(self):
        kept = {path: set(kwargs) for path, kwargs in json.loads(SERIALIZED[-1].read_text())}
        written = [
            PersonalizeBatchJobTrigger(ARN).serialize(),
            PersonalizeCreateBatchJobTrigger("segment", {}, "weekly").serialize(),
        ]
        if has_asset_watchers():
            written.append(PersonalizeBatchJobEventTrigger("segment").serialize())
        else:
            kept = {path: names for path, names in kept.items() if not path.endswith("EventTrigger")}
        assert {path: set(kwargs) for path, kwargs in written} == kept

    def test_carries_no_secret(self, local_personalize, monkeypatch, add_job):
        sensor = PersonalizeBatchSegmentJobSensor(
            task_id="t", job_arn=add_job("CREATE PENDING"), deferrable=True
        )
        with pytest.raises(BaseException) as deferred:  # noqa: PT011 - TaskDeferred is none of Exception's
            sensor.execute({})
        assert type(deferred.value).__name__ == "TaskDeferred"
        assert "testing" not in json.dumps(deferred.value.trigger.serialize())


class TestKilling:
    """From Airflow 3.3 on it calls this when a person ends a task that is deferred."""

    def test_says_that_the_job_goes_on(self, read_log):
        asyncio.run(PersonalizeBatchJobTrigger(ARN).on_kill())
        (line,) = [line for line in read_log() if "Personalize cannot cancel a batch job" in line]
        assert "The job goes on, and is billed" in line
        assert f"({ARN})" in line

    def test_says_that_there_may_be_no_job(self, read_log):
        asyncio.run(PersonalizeCreateBatchJobTrigger("segment", {}, "weekly").on_kill())
        (line,) = [line for line in read_log() if "Personalize cannot cancel a batch job" in line]
        assert "No longer waiting to create weekly. If AWS was being asked at this very moment" in line


class TestEvents:
    def test_active(self, add_job):
        payload = run(PersonalizeBatchJobTrigger(add_job("ACTIVE"), poke_interval=0.1))
        assert (payload["version"], payload["outcome"]) == (EVENT_VERSION, "active")
        assert payload["job"]["batchSegmentJobArn"] == payload["job_arn"] == ARN

    def test_failed(self, add_job):
        arn = add_job("CREATE FAILED", failure_reason="Invalid S3 input path")
        payload = run(PersonalizeBatchJobTrigger(arn, poke_interval=0.1))
        assert payload["outcome"] == "failed"
        assert payload["job"]["failureReason"] == "Invalid S3 input path"

    def test_timeout_with_the_last_status(self, add_job):
        arn = add_job("CREATE IN_PROGRESS")
        payload = run(PersonalizeBatchJobTrigger(arn, deadline=in_seconds(0.4), poke_interval=0.1))
        assert (payload["outcome"], payload["job"]["status"]) == ("timeout", "CREATE IN_PROGRESS")

    def test_the_last_question_is_asked_when_the_time_is_over(self, add_job, local_personalize):
        # The interval is far longer than the time left, and the job is done in between.
        trigger = PersonalizeBatchJobTrigger(add_job("ACTIVE"), deadline=in_seconds(0.3), poke_interval=9999)
        assert run(trigger)["outcome"] == "active"
        assert local_personalize.calls.count() == 1

    def test_execution_timeout_when_it_comes_first(self, add_job):
        trigger = PersonalizeBatchJobTrigger(
            add_job("CREATE PENDING"),
            deadline=in_seconds(60),
            execution_deadline=in_seconds(0.2),
            poke_interval=0.1,
        )
        assert run(trigger)["outcome"] == "execution_timeout"

    def test_a_refused_request_with_its_fields(self, add_job, local_personalize):
        local_personalize.faults.deny_access()
        payload = run(PersonalizeBatchJobTrigger(add_job("ACTIVE"), poke_interval=0.1))
        error = load_error(payload["error"])
        assert isinstance(error, PersonalizeRequestError)
        assert (error.code, error.subject, error.region) == ("AccessDeniedException", ARN, "us-east-1")

    def test_a_connection_that_does_not_exist_by_name(self, add_job, local_personalize):
        payload = run(PersonalizeBatchJobTrigger(add_job("ACTIVE"), aws_conn_id="nope", poke_interval=0.1))
        error = load_error(payload["error"])
        # Final on a worker; here it may be a secrets backend's moment of weakness.
        assert isinstance(error, TriggerFailedError)
        assert "The Airflow connection 'nope' does not exist, or cannot be read just now." in str(error)
        assert local_personalize.calls.count() == 0

    def test_whatever_else_goes_wrong(self):
        payload = run(PersonalizeBatchJobTrigger("weekly", poke_interval=0.1))
        assert payload["outcome"] == "error"
        assert payload["error"]["type"] == "ValueError"
        assert "is not an Amazon Personalize ARN" in str(load_error(payload["error"]))

    def test_refused_connections_are_waited_out(self, monkeypatch, port):
        local = LocalPersonalize(port=port)
        extra = {"region_name": "us-east-1", "endpoint_url": f"http://127.0.0.1:{port}"}
        connection = {"conn_type": "aws", "login": "a", "password": "b", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
        refused = []

        async def main():
            trigger = PersonalizeBatchJobTrigger(ARN, deadline=in_seconds(60), poke_interval=0.1)
            events = trigger.run()
            waiting = asyncio.create_task(anext(events))
            while not refused:
                await asyncio.sleep(0.01)
                shared = [one for each in connections._connections.values() for one in each.values()]
                pollers = [each.part(JobPoller, JobPoller) for each in shared]
                watches = [watch for poller in pollers for watch in poller._watches.values()]
                refused.extend(watch for watch in watches if watch.failures)
            local.start()
            version = local.add_solution_version("triggered")
            local.add_job(BatchJobKind.SEGMENT, "weekly", solution_version_arn=version, status="ACTIVE")
            return (await waiting).payload

        try:
            assert asyncio.run(main())["outcome"] == "active"
        finally:
            local.stop()

    def test_an_assumed_role_that_cannot_be_had_is_waited_for_or_said(self, add_job, monkeypatch):
        # Nothing answers for STS at this address, as when it is down for a moment.
        extra = {
            "region_name": "us-east-1",
            "role_arn": "arn:aws:iam::123456789012:role/reader",
            "service_config": {"sts": {"endpoint_url": "http://127.0.0.1:1"}},
            "config_kwargs": {"retries": {"total_max_attempts": 1}},
        }
        connection = {"conn_type": "aws", "login": "a", "password": "b", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_ROLE", json.dumps(connection))
        trigger = PersonalizeBatchJobTrigger(
            add_job("ACTIVE"), deadline=in_seconds(0.5), poke_interval=0.1, aws_conn_id="role"
        )
        assert run(trigger)["outcome"] == "timeout"

    @pytest.mark.parametrize("fault", ["throttle", "server_error", "drop_connection", "malformed"])
    def test_a_fault_that_may_pass_is_waited_out(self, add_job, local_personalize, fault):
        getattr(local_personalize.faults, fault)(times=1)
        trigger = PersonalizeBatchJobTrigger(add_job("ACTIVE"), deadline=in_seconds(60), poke_interval=0.1)
        assert run(trigger)["outcome"] == "active"
        assert local_personalize.calls.count() == 2


GOOD = {
    "version": EVENT_VERSION,
    "job_arn": ARN,
    "outcome": "active",
    "deadline": None,
    "job": {"status": "ACTIVE"},
    "error": None,
}


class TestResuming:
    """Nothing but our own event about an ACTIVE job is success."""

    def resume(self, event, method="execute_complete", **options):
        sensor = PersonalizeBatchSegmentJobSensor(task_id="t", job_arn=ARN, **options)
        return sensor.resume_execution(method, {"event": event} if method != "__fail__" else event, {})

    def test_our_event_about_an_active_job_is(self):
        assert self.resume(GOOD) == {"status": "ACTIVE"}

    @given(json_values)
    def test_no_other_json_is(self, event):
        with pytest.raises(TriggerFailedError, match="The trigger's event is unknown, which is no success"):
            self.resume(event)

    @given(st.sampled_from(sorted(GOOD)), json_values)
    def test_nor_one_with_anything_else_in_a_place_that_counts(self, member, value):
        changed = {**GOOD, member: value}
        if member in ("deadline", "error") or value == GOOD[member]:
            return
        with pytest.raises(
            (TriggerFailedError, AirflowFailException, PersonalizeJobTimeoutError, AirflowTaskTimeout)
        ):
            self.resume(changed)

    @pytest.mark.parametrize("status", ["CREATE IN_PROGRESS", "CREATE FAILED", "active", "", None])
    def test_nor_one_that_calls_another_status_active(self, status):
        with pytest.raises(TriggerFailedError):
            self.resume({**GOOD, "job": {"status": status}})

    def test_nor_none(self):
        sensor = PersonalizeBatchSegmentJobSensor(task_id="t", job_arn=ARN)
        for arguments in ({}, None, {"event": None}):
            with pytest.raises(TriggerFailedError):
                sensor.resume_execution("execute_complete", arguments, {})

    def test_nor_one_about_another_job(self):
        with pytest.raises(TriggerFailedError):
            self.resume({**GOOD, "job_arn": ARN + "2"})

    def test_a_failed_job_is_its_error(self):
        job = {"status": "CREATE FAILED", "failureReason": "why"}
        with pytest.raises(PersonalizeJobFailedError) as caught:
            self.resume({**GOOD, "outcome": "failed", "job": job})
        assert caught.value.fields == (ARN, "CREATE FAILED", "why")

    def test_a_timeout_says_arn_status_and_timeout(self, add_job):
        add_job("CREATE IN_PROGRESS")
        job = {"status": "CREATE IN_PROGRESS"}
        with pytest.raises(PersonalizeJobTimeoutError) as caught:
            self.resume({**GOOD, "outcome": "timeout", "job": job}, timeout=90)
        assert str(caught.value) == (
            "Not ACTIVE when the timeout of 90 s was over: its last known status is CREATE IN_PROGRESS. The "
            "job goes on by itself: clear the task to wait on, and raise timeout if it may take longer. "
            "(batch-segment-job/weekly, us-east-1)"
        )

    def test_an_execution_timeout_is_airflows(self):
        with pytest.raises(AirflowTaskTimeout, match="execution_timeout was over"):
            self.resume({**GOOD, "outcome": "execution_timeout", "job": None})

    @pytest.mark.parametrize("method", ["execute_complete", "__fail__"])
    def test_a_job_that_is_done_by_then_is_no_timeout(self, add_job, method):
        add_job("ACTIVE")
        late = {**GOOD, "outcome": "timeout", "job": {"status": "CREATE IN_PROGRESS"}}
        job = self.resume({"error": "Trigger timeout"} if method == "__fail__" else late, method)
        assert job["status"] == "ACTIVE"

    def test_a_mistake_in_the_dag_is_never_skipped(self, add_job):
        sensor = PersonalizeBatchSegmentJobSensor(
            task_id="t", job_arn=ARN, region_name="eu-west-1", soft_fail=True
        )
        with pytest.raises(InvalidParameterError, match="region_name of task 't' contradicts the region"):
            sensor.resume_execution("__fail__", {"error": "Trigger timeout"}, {})

    def test_the_triggers_trace_reaches_the_log(self, read_log):
        with pytest.raises(TriggerFailedError):
            self.resume({"error": "Trigger failure", "traceback": ["ModuleNotFoundError: gone"]}, "__fail__")
        assert "ModuleNotFoundError: gone" in "\n".join(read_log())

    @pytest.mark.parametrize(
        ("reason", "error"),
        [
            ("Trigger timeout", PersonalizeJobTimeoutError),
            ("Trigger/execution timeout", PersonalizeJobTimeoutError),
            ("Trigger failure", TriggerFailedError),
        ],
    )
    def test_airflows_own_ends_of_a_deferral(self, add_job, reason, error):
        add_job("CREATE IN_PROGRESS")
        with pytest.raises(error):
            self.resume({"error": reason}, "__fail__")

    def test_every_outcome_is_known(self):
        outcomes = {value for name, value in vars(Outcome).items() if name.isupper()}
        for outcome in outcomes - {"active", "failed", "created", "exists"}:
            assert read_event({**GOOD, "outcome": outcome}, ARN).outcome == outcome
        for outcome in outcomes - {"active", "failed"}:
            assert read_creation_event({**GOOD, "outcome": outcome}, BatchJobKind.SEGMENT).outcome == outcome
