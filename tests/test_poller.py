"""The shared poller over real HTTP: one client, one call per job, nothing blocked and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import threading
import time
from collections import Counter
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from airflow_provider_personalize_segments import connections
from airflow_provider_personalize_segments.bounded_calls import LONGEST_LIMIT
from airflow_provider_personalize_segments.connection_settings import ConnectionSettings
from airflow_provider_personalize_segments.connections import MAX_CONCURRENT_CALLS
from airflow_provider_personalize_segments.hooks import PersonalizeHook
from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.triggers import PersonalizeBatchJobTrigger
from airflow_provider_personalize_segments.waiting import poller as polling
from airflow_provider_personalize_segments.waiting.poller import shared_poller

ARN_OF_JOB = "arn:aws:personalize:us-east-1:123456789012:batch-segment-job/job-"
DEFAULT = ConnectionSettings("aws_default", "us-east-1", None, None)


@pytest.fixture(autouse=True)
def _seed():
    random.seed(0)


@pytest.fixture
def add_jobs(local_personalize, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", local_personalize.airflow_connection())
    version = local_personalize.add_solution_version("polled")

    def add(number, status="CREATE IN_PROGRESS"):
        return [
            local_personalize.add_job(
                BatchJobKind.SEGMENT, f"job-{i}", solution_version_arn=version, status=status
            )
            for i in range(number)
        ]

    return add


async def wait_for(trigger):
    async with aclosing(trigger.run()) as events:
        async for event in events:
            return event.payload


def start(arns, **options):
    options = {"poke_interval": 0.2, **options}
    return [asyncio.create_task(wait_for(PersonalizeBatchJobTrigger(arn, **options))) for arn in arns]


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def outcomes(payloads):
    return Counter(payload["outcome"] for payload in payloads)


def threads():
    return [each for each in threading.enumerate() if each.name.startswith("personalize-caller")]


async def left_behind_nothing():
    # A cancelled task ends in the loop's next round.
    await until(lambda: not threads() and len(asyncio.all_tasks()) == 1)
    assert connections._connections == {}


def count_waiting_objects():
    """What there is of triggers, subscriptions and this loop's futures; other loops have theirs."""
    gc.collect()
    loop = asyncio.get_running_loop()
    # By type, not isinstance: some objects of other packages do things when they are asked for their class.
    return sum(
        issubclass(type(each), (PersonalizeBatchJobTrigger, polling.Subscription))
        or (issubclass(type(each), asyncio.Future) and each.get_loop() is loop)
        for each in gc.get_objects()
    )


class TestSharing:
    def test_one_call_per_job_for_all_who_wait(self, add_jobs, local_personalize):
        arns = add_jobs(5)

        async def main():
            tasks = start(arns * 40)
            await until(lambda: local_personalize.calls.count() >= 15)
            counted = Counter(call.parameters["batchSegmentJobArn"] for call in local_personalize.calls)
            assert max(counted.values()) - min(counted.values()) <= 2
            local_personalize.clear_calls()
            for arn in arns:
                local_personalize.set_status(arn, "ACTIVE")
            payloads = await asyncio.gather(*tasks)
            # One more call about each job was enough to tell forty triggers.
            assert local_personalize.calls.count() <= 10
            await left_behind_nothing()
            return payloads

        assert outcomes(asyncio.run(main())) == {"active": 200}

    def test_few_connections_however_many_jobs(self, add_jobs, local_personalize, monkeypatch):
        # On a busy machine every call is slow, and would make room for another.
        monkeypatch.setattr(connections, "SLOW_CALL", 60.0)
        arns = add_jobs(60, "ACTIVE")
        local_personalize.faults.slow(0.05)
        most = 0

        async def main():
            nonlocal most
            tasks = start(arns)
            while not all(task.done() for task in tasks):
                most = max(most, len(local_personalize._server._connections))
                await asyncio.sleep(0.005)
            await left_behind_nothing()

        asyncio.run(main())
        # The server may hear of a connection's end a moment after its successor began.
        assert 1 < most <= MAX_CONCURRENT_CALLS + 2

    def test_jobs_that_begin_together_are_spread_over_the_interval(self, add_jobs, local_personalize):
        arns = add_jobs(40, "ACTIVE")

        async def main():
            poller, begin_time = shared_poller(DEFAULT), time.time()
            begin = asyncio.get_running_loop().time()
            waiting = {arn: poller.subscribe(arn, 2) for arn in arns}
            # What is planned, not what arrives, tells of the spread: a busy machine sends several at once.
            planned = {arn: each.due - begin for arn, each in waiting.items()}
            await asyncio.gather(*(each.future for each in waiting.values()))
            for arn, each in waiting.items():
                poller.unsubscribe(arn, each)
            await left_behind_nothing()
            return planned, begin_time

        planned, begin_time = asyncio.run(main())
        slots = Counter(int(delay / 0.2) for delay in planned.values())
        assert max(slots.values()) <= 12
        assert len(slots) >= 7
        asked = {
            call.parameters["batchSegmentJobArn"]: call.time.timestamp() - begin_time
            for call in local_personalize.calls
        }
        assert len(asked) == local_personalize.calls.count() == 40
        # None before its turn; the two clocks may differ by a little.
        assert min(asked[arn] - planned[arn] for arn in arns) > -0.05

    def test_different_settings_never_share_a_client(self, add_jobs, local_personalize, monkeypatch):
        (arn,) = add_jobs(1)
        monkeypatch.setenv("AIRFLOW_CONN_OTHER", local_personalize.airflow_connection())
        options = [
            {},
            {"aws_conn_id": "other"},
            {"verify": False},
            {"botocore_config": {"read_timeout": 7}},
            {"botocore_config": {"read_timeout": 8}},
            {"region_name": "us-east-1", "poke_interval": 0.1},
        ]

        async def main():
            tasks = [task for each in options for task in start([arn], **each)]
            await until(lambda: local_personalize.calls.count() >= 8)
            (shared,) = connections._connections.values()
            hooks = [each._reading.result() for each in shared.values()]
            local_personalize.set_status(arn, "ACTIVE")
            await asyncio.gather(*tasks)
            await left_behind_nothing()
            return len(shared), len({id(hook) for hook in hooks})

        # The last of them has the settings of the first, if another interval.
        assert asyncio.run(main()) == (0, 5)

    def test_settings_are_compared_by_what_they_say(self):
        one = ConnectionSettings.of("a", "r", None, {"x": 1, "y": {"b": 1, "a": 2}})
        two = ConnectionSettings.of("a", "r", None, {"y": {"a": 2, "b": 1}, "x": 1})
        assert one == two
        assert one != ConnectionSettings.of("a", "r", None, {"x": 1})

    @pytest.mark.parametrize(
        ("config", "extra", "attempts"),
        [
            (None, {}, 1),
            ({"read_timeout": 9}, {}, 1),
            ({"retries": {"total_max_attempts": 4}}, {}, 4),
            (None, {"config_kwargs": {"retries": {"total_max_attempts": 3}}}, 3),
        ],
    )
    def test_botocore_repeats_nothing_unless_told_to(self, monkeypatch, config, extra, attempts):
        monkeypatch.setenv("AIRFLOW_CONN_RETRYING", json.dumps({"conn_type": "aws", "extra": extra}))
        hook = ConnectionSettings.of("retrying", "us-east-1", None, config).make_hook()
        assert hook.config.retries["total_max_attempts"] == attempts
        if config:
            assert hook.config.read_timeout == config.get("read_timeout", LONGEST_LIMIT)


class TestFaults:
    def test_a_throttled_job_slows_down_alone(self, add_jobs, local_personalize):
        fast, slow = add_jobs(2)
        receive = local_personalize.receive

        def throttle_one(operation, parameters, *more):
            if parameters["batchSegmentJobArn"] == slow:
                local_personalize.faults.throttle(times=1)
            return receive(operation, parameters, *more)

        local_personalize.receive = throttle_one

        async def main():
            tasks = start([fast, slow], poke_interval=0.1)
            await until(lambda: local_personalize.calls.count() >= 30)
            local_personalize.receive = receive
            for arn in (fast, slow):
                local_personalize.set_status(arn, "ACTIVE")
            return await asyncio.gather(*tasks)

        assert outcomes(asyncio.run(main())) == {"active": 2}
        counted = Counter(call.parameters["batchSegmentJobArn"] for call in local_personalize.calls)
        assert counted[slow] * 3 < counted[fast]

    def test_a_permanent_error_ends_only_those_who_wait_for_that_job(self, add_jobs, local_personalize):
        (arn,) = add_jobs(1)
        unknown = arn + "-unknown"

        async def main():
            tasks = start([arn, unknown, unknown])
            await until(lambda: sum(task.done() for task in tasks) == 2)
            local_personalize.set_status(arn, "ACTIVE")
            return await asyncio.gather(*tasks)

        payloads = asyncio.run(main())
        assert [payload["outcome"] for payload in payloads] == ["active", "error", "error"]
        assert payloads[1]["error"]["fields"][4] == "ResourceNotFoundException"
        assert local_personalize.calls.count() >= 2

    def test_the_loop_goes_on_while_aws_is_slow(self, add_jobs, local_personalize):
        arns = add_jobs(8, "ACTIVE")
        local_personalize.faults.slow(1.0)
        beats = 0

        async def beat():
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0.01)

        async def main():
            heart = asyncio.create_task(beat())
            payloads = await asyncio.gather(*start(arns))
            heart.cancel()
            return payloads

        assert outcomes(asyncio.run(main())) == {"active": 8}
        assert beats > 50

    def test_when_planning_breaks_all_are_told(self, add_jobs, local_personalize):
        arns = add_jobs(3)

        async def main():
            tasks = start(arns)
            await until(lambda: local_personalize.calls.count() >= 3)
            (shared,) = connections._connections.values()
            # As when the interpreter shuts down: no thread takes a call any more.
            for each in shared.values():
                each._threads.shutdown(wait=False)
            payloads = await asyncio.gather(*tasks)
            await left_behind_nothing()
            return payloads

        payloads = asyncio.run(main())
        assert outcomes(payloads) == {"error": 3}
        assert payloads[0]["error"]["type"] == "RuntimeError"

    def test_eight_first_calls_make_one_client(self, add_jobs, local_personalize, monkeypatch):
        arns = add_jobs(8, "ACTIVE")
        made = []
        original = PersonalizeHook.get_client_type

        def watched(self, *args, **kwargs):
            made.append(self)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(PersonalizeHook, "get_client_type", watched)

        async def main():
            return await asyncio.gather(*start(arns, poke_interval=0.01))

        assert outcomes(asyncio.run(main())) == {"active": 8}
        assert len(made) == 1

    def test_no_client_is_made_and_no_call_sent_on_the_loop(self, add_jobs, monkeypatch):
        arns = add_jobs(3, "ACTIVE")
        callers = set()
        # Watched, not replaced: everything that makes a client or sends a call goes through these.
        for name in ("__init__", "describe_job"):
            original = getattr(PersonalizeHook, name)

            def watched(self, *args, original=original, **kwargs):
                callers.add(threading.current_thread().name.rpartition("-")[0])
                return original(self, *args, **kwargs)

            monkeypatch.setattr(PersonalizeHook, name, watched)

        async def main():
            return await asyncio.gather(*start(arns))

        assert outcomes(asyncio.run(main())) == {"active": 3}
        assert callers == {"personalize-caller"}


class TestLeaving:
    def test_nothing_is_left_after_ten_thousand_triggers(self, add_jobs, local_personalize):
        arns = add_jobs(20)

        def sockets():
            links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
            return sum(os.readlink(link).startswith("socket:") for link in links if os.path.islink(link))

        async def main():
            before, objects_before = sockets(), count_waiting_objects()
            for _ in range(10):
                tasks = start(arns * 50, poke_interval=5)
                await asyncio.sleep(0)
                (shared,) = connections._connections.values()
                assert len(shared) == 1
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await left_behind_nothing()
            await until(lambda: sockets() <= before)
            del tasks, task
            # Less than one a round: what the loop itself waits for.
            assert count_waiting_objects() < objects_before + 10

        asyncio.run(main())

    def test_one_who_leaves_does_not_disturb_the_others(self, add_jobs, local_personalize):
        (arn,) = add_jobs(1)

        async def main():
            tasks = start([arn] * 10)
            await until(lambda: local_personalize.calls.count() >= 2)
            for task in tasks[:9]:
                task.cancel()
            local_personalize.set_status(arn, "ACTIVE")
            payload = await tasks[9]
            await left_behind_nothing()
            return payload

        assert asyncio.run(main())["outcome"] == "active"

    def test_leaving_during_a_call_leaves_nothing(self, add_jobs, local_personalize):
        (arn,) = add_jobs(1)
        local_personalize.faults.slow(0.5)

        async def main():
            (task,) = start([arn], poke_interval=0.01)
            await until(lambda: local_personalize.calls.count() == 1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await left_behind_nothing()

        asyncio.run(main())


class TestLoops:
    def test_two_at_once(self, add_jobs):
        arns = add_jobs(4, "ACTIVE")
        found = []

        def run():
            async def main():
                return await asyncio.gather(*start(arns))

            found.append(outcomes(asyncio.run(main())))

        workers = [threading.Thread(target=run) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert found == [{"active": 4}] * 2
        assert connections._connections == {}

    def test_one_that_was_closed_without_a_goodbye_is_forgotten(self, add_jobs):
        arns = add_jobs(2, "ACTIVE")
        loop = asyncio.new_event_loop()

        async def begin():
            shared_poller(DEFAULT).subscribe(arns[0], 60)

        loop.run_until_complete(begin())
        pending = asyncio.all_tasks(loop)
        loop.close()
        assert connections._connections

        async def main():
            payloads = await asyncio.gather(*start(arns))
            await left_behind_nothing()
            return payloads

        assert outcomes(asyncio.run(main())) == {"active": 2}
        for task in pending:
            # Its loop is gone, and nobody will ever end it; that is not news to warn about.
            task._log_destroy_pending = False


class TestLog:
    def test_says_once_for_all_why_there_is_no_answer(self, add_jobs, local_personalize, read_log):
        arns = add_jobs(3)
        local_personalize.faults.throttle()

        async def main():
            tasks = start(arns * 50, poke_interval=0.1)
            # Each job was asked about again and again, and each of its triggers has heard of it.
            await until(lambda: local_personalize.calls.count() >= 12)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run(main())
        told = Counter(arn for line in read_log() for arn in arns if "Not yet: " in line and arn in line)
        assert told == dict.fromkeys(arns, 1)

    def test_says_it_again_now_and_then_and_at_a_bounded_rate(self, monkeypatch):
        async def main():
            poller, clock = shared_poller(DEFAULT), iter(range(1_000, 4_600, 60))
            looks = SimpleNamespace(now=0.0)
            monkeypatch.setattr(poller, "_loop", SimpleNamespace(time=lambda: looks.now))
            arns = [f"{ARN_OF_JOB}{number}" for number in range(2_000)]
            for arn in arns:
                poller._watches[arn] = polling._Watch(arn)
            told = []
            for looks.now in clock:
                told.append(sum(poller.may_tell_fault(arn) for arn in arns for _ in range(5)))
            poller._watches.clear()
            monkeypatch.undo()
            poller.close()
            return told

        told = asyncio.run(main())
        # About eleven at a time, until each job had its turn.
        assert max(told) <= 12
        assert min(told) >= 10

    def test_of_a_task_says_why_when_it_says_how_long_it_waits(self, add_jobs, local_personalize, read_log):
        (arn,) = add_jobs(1)
        local_personalize.faults.throttle()
        since = (datetime.now(UTC) - timedelta(seconds=59)).isoformat()

        async def main():
            tasks = start([arn] * 5, poke_interval=0.3, waiting_since=since)
            await until(lambda: local_personalize.calls.count() >= 4)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run(main())
        lines = [line for line in read_log() if "Still waiting after 1 min: the job is not known yet" in line]
        assert len(lines) == 5
        assert sum(", and there is no answer: ThrottlingException: " in line for line in lines) >= 4

    def test_of_a_trigger_begins_with_news(self, add_jobs, local_personalize, read_log):
        (arn,) = add_jobs(1)

        async def main():
            tasks = start([arn] * 50, poke_interval=0.1)
            await until(lambda: local_personalize.calls.count() >= 4)
            quiet = read_log()
            local_personalize.set_status(arn, "ACTIVE")
            await asyncio.gather(*tasks)
            return quiet

        quiet = asyncio.run(main())
        assert not any("personalize" in line and arn in line for line in quiet)
        assert sum(f"The job is ACTIVE. ({arn})" in line for line in read_log()) == 50
