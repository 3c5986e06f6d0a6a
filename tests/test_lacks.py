"""A process that runs out of file descriptors or threads for a while: "not yet" in every mode, and on."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import subprocess
import sys
import threading
from contextlib import contextmanager
from importlib import import_module

import certifi
import pytest
from fakes import first_event
from scripted_endpoint import SOLUTION_VERSION_ARN, Answer, describe, job_arn

from airflow_provider_personalize_segments import connections, sessions
from airflow_provider_personalize_segments.bounded_calls import DaemonThreads
from airflow_provider_personalize_segments.creating.once import Creation, Plan
from airflow_provider_personalize_segments.errors import ConnectionNotFoundError, PersonalizeUnavailableError
from airflow_provider_personalize_segments.hooks import PersonalizeHook
from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor
from airflow_provider_personalize_segments.triggers import (
    PersonalizeBatchJobTrigger,
    PersonalizeCreateBatchJobTrigger,
)

ARN = job_arn("weekly")
ADVICE = "This process, or its machine, has no more file descriptors, threads or memory just now"


@contextmanager
def no_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The three numbers below are always taken; what is open stays open.
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def no_threads():
    def refuse(self):
        raise RuntimeError("can't start new thread")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        yield


LACKS = [no_descriptors, no_threads]


@pytest.fixture(params=["nothing", "bundle", "credentials file", "models"])
def needed(request, serve, monkeypatch, tmp_path):
    """Serve an ACTIVE job to a connection that needs a file; return the parameters of a task."""
    endpoint = serve(describe("weekly"))
    if request.param == "bundle":
        return {"verify": certifi.where()}
    if request.param == "credentials file":
        connection = json.loads(endpoint.connection)
        del connection["login"], connection["password"]
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
        credentials = tmp_path / "credentials"
        credentials.write_text("[default]\naws_access_key_id = AKIA\naws_secret_access_key = made-up\n")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    if request.param == "models":
        monkeypatch.setattr(sessions, "_loaders", {})
    return {}


class TestWaiting:
    @pytest.mark.parametrize("lack", LACKS)
    def test_in_the_triggerer_goes_on(self, needed, lack, read_log):
        async def main():
            trigger = PersonalizeBatchJobTrigger(job_arn=ARN, poke_interval=0.1, **needed)
            log = []
            with lack():
                waiting = asyncio.create_task(first_event(trigger))
                async with asyncio.timeout(30):
                    while not any("Not yet: " in line for line in log):
                        await asyncio.sleep(0.05)
                        log += read_log()
                assert not waiting.done()
            return await asyncio.wait_for(waiting, 60), log

        payload, log = asyncio.run(main())
        assert payload["outcome"] == "active"
        assert any(ADVICE in line or "EndpointConnectionError" in line for line in log)

    @pytest.mark.parametrize("lack", LACKS)
    def test_on_a_worker_goes_on(self, needed, lack, read_log):
        task = PersonalizeBatchSegmentJobSensor(task_id="wait", job_arn=ARN, poke_interval=0.1, **needed)
        import_module("airflow_provider_personalize_segments.waiting.sensing")  # which needs files, too
        with lack():
            assert not task.poke({}).is_done
        log = read_log()
        assert any("Not yet: " in line for line in log)
        assert any(ADVICE in line or "EndpointConnectionError" in line for line in log)
        assert task.poke({}).is_done


class TestConnections:
    def test_that_are_looked_for_meanwhile_may_exist(self, monkeypatch):
        with no_descriptors(), pytest.raises(PersonalizeUnavailableError, match=ADVICE):
            PersonalizeHook.get_connection("absent")
        with pytest.raises(ConnectionNotFoundError):
            PersonalizeHook.get_connection("absent")


class TestCreating:
    def test_without_a_call_is_no_create_without_an_answer(self, serve, caplog):
        endpoint = serve(describe("weekly"))
        plan = Plan(BatchJobKind.SEGMENT, "weekly", {"solutionVersionArn": SOLUTION_VERSION_ARN})
        creation = Creation(plan, PersonalizeHook().log)
        hook = PersonalizeHook(verify=certifi.where()).fixed()
        with no_descriptors():
            attempt = creation.attempt(hook)
        assert ADVICE in attempt.reason
        assert attempt.job_arn is None
        assert not creation.is_unanswered
        assert endpoint.calls == []

    @pytest.mark.parametrize("lack", LACKS)
    def test_in_the_triggerer_goes_on(self, serve, lack):
        endpoint = serve(Answer({"batchSegmentJobArn": ARN}))
        request = {"solutionVersionArn": SOLUTION_VERSION_ARN}
        request["jobInput"] = {"s3DataSource": {"path": "s3://shop/in"}}
        request["jobOutput"] = {"s3DataDestination": {"path": "s3://shop/out/"}}
        request["roleArn"] = "arn:aws:iam::123456789012:role/r"

        async def main():
            trigger = PersonalizeCreateBatchJobTrigger(
                "segment", request, "weekly", poke_interval=0.1, verify=certifi.where()
            )
            with lack():
                waiting = asyncio.create_task(first_event(trigger))
                async with asyncio.timeout(30):
                    while not any(each.faults for each in self.tickets()):
                        await asyncio.sleep(0.05)
                assert not waiting.done()
                (reason,) = (each.reason for each in self.tickets())
            return await asyncio.wait_for(waiting, 60), reason

        payload, reason = asyncio.run(main())
        assert ADVICE in reason
        assert (payload["outcome"], payload["job_arn"]) == ("created", ARN)
        assert len(endpoint.calls) == 1

    def tickets(self):
        shared = connections._connections.get(asyncio.get_running_loop(), {})
        return [each for it in shared.values() for queue in it._parts.values() for each in queue._tickets]


class TestFiles:
    @pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
    def test_on_a_disk_that_does_not_answer_are_not_final(self, serve, monkeypatch, tmp_path, number):
        serve(describe("weekly"))

        def fail(**_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr("ssl.create_default_context", fail)
        with pytest.raises(
            PersonalizeUnavailableError, match="Look at the machine that calls: what it reads"
        ):
            PersonalizeHook(verify=str(tmp_path / "bundle.pem")).describe_job(ARN)


class TestThreads:
    def test_that_are_there_do_the_work_of_those_that_are_not(self):
        pool = DaemonThreads(3, "personalize-test")
        begun, go_on = threading.Event(), threading.Event()

        def wait():
            begun.set()
            return go_on.wait(30)

        try:
            first = pool.submit(wait)
            assert begun.wait(30)
            with no_threads():
                second = pool.submit(lambda: "done")
                go_on.set()
                assert first.result(30)
                assert second.result(30) == "done"
        finally:
            pool.shutdown()


IN_A_NEW_TRIGGERER = """
import asyncio, os, resource, sys
from datetime import UTC, datetime, timedelta
from airflow_provider_personalize_segments.triggers import PersonalizeBatchJobTrigger
from airflow_provider_personalize_segments.waiting import trigger as module

async def main():
    module.LONGEST_PAUSE = 0.0
    deadline = (datetime.now(UTC) + timedelta(seconds=4)).isoformat()
    trigger = PersonalizeBatchJobTrigger(sys.argv[1], deadline=deadline, poke_interval=0.5)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    asyncio.get_running_loop().call_later(2, resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
    async for event in trigger.run():
        print("botocore" in sys.modules, event.payload["outcome"], event.payload["error"])

print("botocore" in sys.modules)
asyncio.run(main())
"""


def test_a_triggerer_that_has_loaded_nothing_yet_goes_on():
    """A module that explains the lack cannot be loaded while it lasts."""
    connection = {
        "conn_type": "aws",
        "login": "a",
        "password": "b",
        "extra": {"endpoint_url": "http://127.0.0.1:1"},
    }
    done = subprocess.run(
        [sys.executable, "-c", IN_A_NEW_TRIGGERER, ARN],
        env={**os.environ, "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(connection)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.splitlines()[0] == "False"
    assert done.stdout.splitlines()[-1] == "True timeout None", done.stdout + done.stderr
