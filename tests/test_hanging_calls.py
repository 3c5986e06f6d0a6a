"""Calls that hang, or answer by the drop, hold up no other job, not their own task, and no process's end."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fakes import TaskInstance, first_event
from scripted_endpoint import SOLUTION_VERSION_ARN, Answer, describe, error, job_arn

from airflow_provider_personalize_segments import connections
from airflow_provider_personalize_segments.bounded_calls import (
    LONGEST_LIMIT,
    SHORTEST_LIMIT,
    DaemonThreads,
    call_within,
    find_limit,
)
from airflow_provider_personalize_segments.clients import is_configured
from airflow_provider_personalize_segments.connections import SLOW_CALL
from airflow_provider_personalize_segments.creating.queue import PATIENCE
from airflow_provider_personalize_segments.errors import PersonalizeJobTimeoutError, PersonalizeNoSlotError
from airflow_provider_personalize_segments.hooks import PersonalizeHook
from airflow_provider_personalize_segments.operators import PersonalizeCreateBatchSegmentJobOperator
from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor
from airflow_provider_personalize_segments.triggers import (
    PersonalizeBatchJobTrigger,
    PersonalizeCreateBatchJobTrigger,
)

DESCRIBE, CREATE = "DescribeBatchSegmentJob", "CreateBatchSegmentJob"
HANGS = Answer(hangs=True)
DRIPS = Answer(b"{" * 10_000, drips=0.5)
BUSY_MACHINE = 4.0
"""Seconds that a machine with other work may need more."""


def answer_of(parameters):
    """Return what the job's name asks for: it hangs, drips, or is ACTIVE."""
    name = (parameters.get("batchSegmentJobArn") or parameters.get("jobName", "")).rpartition("/")[2]
    return {"hangs": HANGS, "drips": DRIPS}.get(name.partition("-")[0], describe(name))


class TestTriggerer:
    @pytest.mark.parametrize("number", [8, 40])
    @pytest.mark.parametrize("fault", ["hangs", "drips"])
    def test_jobs_whose_calls_hang_hold_up_no_other(self, serve, number, fault):
        endpoint = serve(lambda operation, parameters: answer_of(parameters))
        arns = [job_arn(f"{fault}-{index}") for index in range(number)]

        async def main():
            def wait(arn):
                return asyncio.create_task(first_event(PersonalizeBatchJobTrigger(arn, poke_interval=1)))

            hung = [wait(arn) for arn in arns]
            while len(endpoint.calls) < min(number, 32):
                await asyncio.sleep(0.05)
            # Twice: while all of them hang for the first time, and when they are known for it.
            took = []
            for name in ("one", "two", "three"):
                start = time.monotonic()
                payload = await wait(job_arn(name))
                took.append(time.monotonic() - start)
                assert payload["outcome"] == "active"
                await asyncio.sleep(SHORTEST_LIMIT / 2)
            for task in hung:
                task.cancel()
            await asyncio.gather(*hung, return_exceptions=True)
            assert connections._connections == {}
            return took

        took = asyncio.run(main())
        first = LONGEST_LIMIT if number > 32 else SLOW_CALL
        assert took[0] <= 1 + first + BUSY_MACHINE
        assert max(took[1:]) <= 1 + first + BUSY_MACHINE

    def test_more_jobs_than_threads_that_never_answer_hold_up_no_other(self, serve, monkeypatch):
        monkeypatch.setattr(connections, "GIVEN_UP_CALL", 1.0)
        number = connections.MAX_CONCURRENT_CALLS + connections.MAX_SLOW_CALLS + 6
        endpoint = serve(lambda operation, parameters: answer_of(parameters))

        async def main():
            hung = [
                asyncio.create_task(
                    first_event(PersonalizeBatchJobTrigger(job_arn(f"drips-{index}"), poke_interval=1))
                )
                for index in range(number)
            ]
            while len(endpoint.calls) < number:
                await asyncio.sleep(0.05)
            payload = await asyncio.wait_for(
                first_event(PersonalizeBatchJobTrigger(job_arn("good"), poke_interval=1)), 60
            )
            for task in hung:
                task.cancel()
            await asyncio.gather(*hung, return_exceptions=True)
            return payload

        assert asyncio.run(main())["outcome"] == "active"

    def test_jobs_that_recover_are_asked_though_others_never_do(self, serve, monkeypatch):
        monkeypatch.setattr(connections, "GIVEN_UP_CALL", 8.0)
        counts = Counter()

        def answer(_, parameters):
            name = parameters["batchSegmentJobArn"].rpartition("/")[2]
            counts[name] += 1
            if counts[name] == 1:
                return Answer(b"{" * 12, drips=0.5)  # 6 s, too long for one answer
            return DRIPS if name.startswith("drips") else describe(name)

        serve(answer)

        async def main():
            waiting = {
                name: asyncio.create_task(
                    first_event(PersonalizeBatchJobTrigger(job_arn(name), poke_interval=1))
                )
                for name in ("drips-1", "drips-2", "good-1", "good-2", "good-3")
            }
            good = [task for name, task in waiting.items() if name.startswith("good")]
            payloads = await asyncio.wait_for(asyncio.gather(*good), 90)
            for task in waiting.values():
                task.cancel()
            await asyncio.gather(*waiting.values(), return_exceptions=True)
            return [payload["outcome"] for payload in payloads]

        assert asyncio.run(main()) == ["active"] * 3

    def test_a_job_recovers_with_its_service(self, serve):
        is_down = threading.Event()
        is_down.set()
        endpoint = serve(lambda _, parameters: HANGS if is_down.is_set() else describe("weekly"))

        async def main():
            task = asyncio.create_task(
                first_event(PersonalizeBatchJobTrigger(job_arn("weekly"), poke_interval=1))
            )
            while len(endpoint.calls) < 2:  # asked again although the first call hangs
                await asyncio.sleep(0.05)
            is_down.clear()
            return await task

        assert asyncio.run(main())["outcome"] == "active"

    def test_a_create_that_hangs_holds_up_no_other(self, serve):
        def answer(operation, parameters):
            if operation == DESCRIBE:
                return error("ResourceNotFoundException")
            if parameters["jobName"] == "hangs":
                return HANGS
            return Answer({"batchSegmentJobArn": job_arn(parameters["jobName"])})

        serve(answer)

        def create(name, since):
            return PersonalizeCreateBatchJobTrigger(
                "segment",
                {
                    "solutionVersionArn": SOLUTION_VERSION_ARN,
                    "jobInput": {"s3DataSource": {"path": "s3://shop/in"}},
                    "jobOutput": {"s3DataDestination": {"path": "s3://shop/out"}},
                    "roleArn": "arn:aws:iam::123456789012:role/r",
                },
                name,
                waiting_since=(datetime.now(UTC) - timedelta(seconds=since)).isoformat(),
                poke_interval=0.2,
            )

        async def main():
            hung = asyncio.create_task(first_event(create("hangs", since=60)))
            start = time.monotonic()
            names = [f"job-{number}" for number in range(10)]
            payloads = await asyncio.gather(*(first_event(create(name, 1)) for name in names))
            took = time.monotonic() - start
            assert [payload["job_arn"] for payload in payloads] == [job_arn(name) for name in names]
            hung.cancel()
            await asyncio.gather(hung, return_exceptions=True)
            return took

        assert asyncio.run(main()) <= PATIENCE + 2 + BUSY_MACHINE

    def test_an_end_of_the_process_is_not_held_up(self, serve):
        endpoint = serve(lambda *_: HANGS)
        script = f"""
            import asyncio
            from airflow_provider_personalize_segments.triggers import PersonalizeBatchJobTrigger

            async def first(arn):
                hour = {{"read_timeout": 3600}}
                trigger = PersonalizeBatchJobTrigger(arn, poke_interval=0.1, botocore_config=hour)
                async for event in trigger.run():
                    return event

            async def wait():
                tasks = [asyncio.create_task(first("{job_arn("hangs")}-%d" % i)) for i in range(3)]
                await asyncio.to_thread(input)

            asyncio.run(wait())
        """
        environment = os.environ | {"AIRFLOW_CONN_AWS_DEFAULT": endpoint.connection}
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script)], stdin=subprocess.PIPE, env=environment
        )
        try:
            while len(endpoint.calls) < 3:
                assert process.poll() is None
                time.sleep(0.05)
            process.communicate(b"end\n", timeout=60)
            assert process.returncode == 0
        finally:
            process.kill()


class TestWorker:
    @pytest.mark.parametrize("fault", [HANGS, DRIPS], ids=["hangs", "drips"])
    @pytest.mark.parametrize("deferrable", [False, True])
    def test_a_sensor_ends_at_its_timeout(self, serve, fault, deferrable):
        serve(lambda *_: fault)
        task = PersonalizeBatchSegmentJobSensor(
            task_id="wait", job_arn=job_arn("hangs"), timeout=3, poke_interval=1, deferrable=deferrable
        )
        start = time.monotonic()
        with pytest.raises(PersonalizeJobTimeoutError):
            task.execute({"ti": TaskInstance()})
        assert 3 <= time.monotonic() - start <= 3 + 1 + BUSY_MACHINE

    def test_a_create_operator_ends_soon_after_its_timeout(self, serve):
        serve(lambda *_: HANGS)
        task = PersonalizeCreateBatchSegmentJobOperator(
            task_id="create",
            solution_version_arn=SOLUTION_VERSION_ARN,
            role_arn="arn:aws:iam::123456789012:role/r",
            input_path="s3://shop/in/",
            output_path="s3://shop/out/",
            job_name="weekly",
            timeout=3,
            poll_interval=1,
            deferrable=False,
        )
        start = time.monotonic()
        with pytest.raises(PersonalizeNoSlotError, match="ReadTimeoutError"):
            task.execute({"ti": TaskInstance()})
        assert time.monotonic() - start <= 2 * 3 + BUSY_MACHINE

    def test_pokes_at_an_answer_that_never_ends_share_one_thread(self, serve):
        endpoint = serve(lambda *_: DRIPS)
        before = threading.active_count()
        task = PersonalizeBatchSegmentJobSensor(
            task_id="wait", job_arn=job_arn("drips"), poke_interval=1, timeout=1
        )
        ti = TaskInstance()
        ti.start_date -= timedelta(seconds=60)  # so that each poke waits a second at most
        for _ in range(3):
            assert not task.poke({"ti": ti}).is_done
        assert len(endpoint.calls) == 1
        assert threading.active_count() <= before + 3  # the call's, the endpoint's, and its own

    def test_a_poke_makes_one_call_whatever_comes_of_it(self, serve):
        endpoint = serve(error("ThrottlingException"))
        task = PersonalizeBatchSegmentJobSensor(task_id="wait", job_arn=job_arn("throttled"))
        assert not task.poke({}).is_done
        assert len(endpoint.calls) == 1

    def test_credentials_that_hang_hold_up_no_other_connection(self, serve, monkeypatch):
        endpoint = serve(describe("weekly"))
        home = Path(os.environ["AIRFLOW_HOME"])
        released = home / "released"
        process = home / "slow_credentials.py"
        process.write_text(
            "import json, pathlib, time\n"
            f"while not pathlib.Path({str(released)!r}).exists():\n"
            "    time.sleep(0.1)\n"
            "print(json.dumps({'Version': 1, 'AccessKeyId': 'late', 'SecretAccessKey': 'late'}))\n"
        )
        config = home / "slow-credentials"
        config.write_text(
            f"[profile slow]\ncredential_process = {sys.executable} {process}\nregion = us-east-1\n"
        )
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
        extra = json.loads(endpoint.connection)["extra"] | {"profile_name": "slow"}
        monkeypatch.setenv("AIRFLOW_CONN_SLOW", json.dumps({"conn_type": "aws", "extra": extra}))
        slow = PersonalizeHook("slow").fixed()
        thread = threading.Thread(target=slow.make_client, args=(None,))
        thread.start()
        try:
            start = time.monotonic()
            while slow._making.acquire(blocking=False):  # until the thread makes its client
                slow._making.release()
                assert time.monotonic() - start < 10
            assert PersonalizeHook().describe_job(job_arn("weekly"))["status"] == "ACTIVE"
            assert slow._clients == {}
        finally:
            released.touch()
            thread.join()
        assert slow.describe_job(job_arn("weekly"))["status"] == "ACTIVE"

    def test_a_link_costs_a_second(self, serve):
        endpoint = serve(
            lambda operation, parameters: HANGS if "SolutionVersion" in operation else describe("weekly")
        )
        ti = TaskInstance()
        task = PersonalizeBatchSegmentJobSensor(task_id="wait", job_arn=job_arn("weekly"))
        start = time.monotonic()
        assert task.poke({"ti": ti}).is_done
        assert time.monotonic() - start <= 1 + BUSY_MACHINE
        assert ti.xcoms["_link_PersonalizeConsoleLink"].endswith("region=us-east-1")
        assert [operation for _, operation, _ in endpoint.calls] == [DESCRIBE, "DescribeSolutionVersion"]

    def test_a_call_that_hangs_does_not_keep_the_process(self, serve):
        endpoint = serve(lambda *_: HANGS)
        script = f"""
            from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor
            task = PersonalizeBatchSegmentJobSensor(task_id="w", job_arn="{job_arn("hangs")}", timeout=1)
            assert not task.poke({{}}).is_done
        """
        environment = os.environ | {"AIRFLOW_CONN_AWS_DEFAULT": endpoint.connection}
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)], env=environment, check=True, timeout=50
        )


class TestLimits:
    @pytest.mark.parametrize(
        ("interval", "seconds"), [(0.1, 5), (30, 5), (48, 8), (60, 10), (300, 10), (float("inf"), 10)]
    )
    def test_are_in_proportion_to_the_interval(self, interval, seconds):
        assert find_limit(interval) == seconds
        assert SHORTEST_LIMIT <= seconds <= LONGEST_LIMIT

    @pytest.mark.parametrize("where", ["task", "connection"])
    def test_that_a_user_configured_stay(self, monkeypatch, where):
        config = {"read_timeout": 60, "connect_timeout": 33}
        extra = {"config_kwargs": config} if where == "connection" else {}
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps({"conn_type": "aws", "extra": extra}))
        hook = PersonalizeHook(config=config if where == "task" else None, region_name="us-east-1")
        assert is_configured(hook.config, "read_timeout")
        limited = hook.with_limit(5).config
        assert (limited.read_timeout, limited.connect_timeout) == (60, 33)

    def test_are_botocores_where_nobody_set_any(self, monkeypatch):
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps({"conn_type": "aws"}))
        hook = PersonalizeHook(region_name="us-east-1")
        assert not is_configured(hook.config, "read_timeout")
        assert hook.with_limit(5).conn.meta.config.read_timeout == 5


class TestThreads:
    def test_are_as_many_as_are_needed(self):
        threads = DaemonThreads(3, "counted")
        for number in range(20):
            assert threads.submit(lambda number=number: number).result() == number
        assert sum(each.name.startswith("counted") for each in threading.enumerate()) <= 2
        gate = threading.Event()
        waiting = [threads.submit(gate.wait) for _ in range(10)]
        assert sum(each.name.startswith("counted") for each in threading.enumerate()) == 3
        gate.set()
        assert all(each.result() for each in waiting)
        threads.change_size(2)
        gate.clear()
        waiting = [threads.submit(gate.wait) for _ in range(10)]
        assert sum(each.name.startswith("counted") for each in threading.enumerate()) == 5
        threads.change_size(-2)
        gate.set()
        assert all(each.result() for each in waiting)
        threads.shutdown()
        assert not [each for each in threading.enumerate() if each.name.startswith("counted")]
        with pytest.raises(RuntimeError, match="These threads were given up"):
            threads.submit(print)

    @pytest.mark.parametrize(
        "raised", [StopIteration("a"), StopIteration(), ValueError("a"), KeyboardInterrupt()]
    )
    def test_tell_every_error(self, raised):
        def fail():
            raise raised

        expected = RuntimeError if isinstance(raised, StopIteration) else type(raised)
        with pytest.raises(expected):
            call_within(10, fail)
        if not isinstance(raised, KeyboardInterrupt):

            async def main():
                threads = DaemonThreads(1, "told")
                await asyncio.get_running_loop().run_in_executor(threads, fail)

            with pytest.raises(expected):
                asyncio.run(asyncio.wait_for(main(), 10))
