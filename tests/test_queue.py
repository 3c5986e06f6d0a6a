"""Fifty triggers, five slots: who creates the next job, at what price, and what is left behind."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from importlib import import_module
from types import SimpleNamespace

import pytest
from scripted_endpoint import Answer, error, job_arn

from airflow_provider_personalize_segments import connections
from airflow_provider_personalize_segments.connection_settings import ConnectionSettings
from airflow_provider_personalize_segments.connections import shared_connection
from airflow_provider_personalize_segments.creating.once import Attempt, Creation, Plan
from airflow_provider_personalize_segments.creating.queue import PATIENCE, SlotQueue, shared_queue
from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.testing import LocalPersonalize
from airflow_provider_personalize_segments.triggers import PersonalizeCreateBatchJobTrigger

ROLE = "arn:aws:iam::123456789012:role/PersonalizeS3Access"
CREATE, DESCRIBE = "CreateBatchSegmentJob", "DescribeBatchSegmentJob"
ARN = "arn:aws:personalize:us-east-1:123456789012:batch-segment-job/job-"
START = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.fixture
def local(monkeypatch):
    with LocalPersonalize(progress="by_hand") as local:
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", local.airflow_connection())
        local.version = local.add_solution_version("shop")
        yield local


@pytest.fixture
def make(local):
    def make(number, **options):
        given = {
            "kind": "segment",
            "request": {
                "solutionVersionArn": local.version,
                "jobInput": {"s3DataSource": {"path": "s3://shop/in/"}},
                "jobOutput": {"s3DataDestination": {"path": "s3://shop/out/"}},
                "roleArn": ROLE,
            },
            "job_name": f"job-{number}",
            "waiting_since": (START + timedelta(seconds=number)).isoformat(),
            "poke_interval": 0.1,
        }
        return PersonalizeCreateBatchJobTrigger(**{**given, **options})

    return make


async def wait_for(trigger):
    """Run a trigger to its end, as the triggerer does, after a trip through the database."""
    path, kwargs = trigger.serialize()
    module, _, name = path.rpartition(".")
    again = getattr(import_module(module), name)(**json.loads(json.dumps(kwargs)))
    (payload,) = [event.payload async for event in again.run()]
    assert json.loads(json.dumps(payload)) == payload
    return payload


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


SETTINGS = ConnectionSettings("aws_default", "us-east-1", None, None)


def run(*triggers):
    async def main():
        return await asyncio.gather(*map(wait_for, triggers))

    return asyncio.run(main())


class Held:
    """Keeps a connection open."""

    def __init__(self, connection):
        self.connection = connection

    def close(self):
        self.connection.leave(self)


def run_until(seconds, trigger):
    """Run a trigger that gives up after so many seconds, not counting those that making the client takes."""

    async def main():
        connection = shared_connection(SETTINGS)
        held = connection.part("held", Held)
        await connection.acquire()
        await connection.call(lambda hook: hook.conn)
        trigger.deadline = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
        try:
            return await wait_for(trigger)
        finally:
            held.close()

    return asyncio.run(main())


def fill(local, number=5):
    return [
        local.add_job(
            BatchJobKind.SEGMENT, f"other-{i}", solution_version_arn=local.version, status="CREATE PENDING"
        )
        for i in range(number)
    ]


def created(local):
    """Names of the jobs in the order in which they were created."""
    names = []
    local.on_status_change(lambda job, old, new, when: old is None and names.append(job["jobName"]))
    return names


class TestTurns:
    def test_fifty_share_five_slots_in_the_order_they_came(self, local, make):
        names = created(local)
        most = 0

        def unfinished():
            return [name for name in names if local.job(arn(name))["status"] != "ACTIVE"]

        def arn(name):
            return f"arn:aws:personalize:us-east-1:123456789012:batch-segment-job/{name}"

        async def main():
            nonlocal most
            # They come in another order than that in which they began to wait.
            waiting = asyncio.gather(*(wait_for(make(number)) for number in reversed(range(50))))
            while not waiting.done():
                await until(lambda: len(unfinished()) == 5 or waiting.done())
                most = max(most, len(unfinished()))
                for name in unfinished()[:2]:
                    local.set_status(arn(name), "ACTIVE")
            return await waiting

        payloads = asyncio.run(main())
        assert [payload["outcome"] for payload in payloads] == ["created"] * 50
        assert sorted(payload["job_arn"] for payload in payloads) == sorted(map(arn, names))
        assert names == [f"job-{number}" for number in range(50)]
        assert most <= 5
        # What is more than a Create for each are the questions for a slot.
        assert local.calls.count(DESCRIBE) == 0
        assert local.calls.count(CREATE) <= 50 + 46 / 2 + 50

    def test_one_asks_for_all_while_there_is_no_slot(self, local, make):
        """Now and then the second asks, too, as AWS may refuse the first for a reason of its own."""
        jobs = fill(local)

        async def main():
            waiting = asyncio.gather(*(wait_for(make(number)) for number in range(20)))
            await until(lambda: local.calls.count(CREATE) >= 6)
            asked = [call.parameters["jobName"] for call in local.calls if call.operation == CREATE]
            for job in jobs:
                local.set_status(job, "ACTIVE")
            await until(lambda: local.calls.count(CREATE) >= 11)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            return asked

        asked = asyncio.run(main())
        assert asked[:3] == ["job-0"] * 3
        assert set(asked) == {"job-0", "job-1"}

    def test_the_pace_slows_down_while_there_is_none(self, local, make):
        fill(local)

        async def main():
            waiting = asyncio.create_task(wait_for(make(1)))
            await until(lambda: local.calls.count(CREATE) >= 13)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

        asyncio.run(main())
        times = [call.time for call in local.calls if call.operation == CREATE]
        # An interval of 0.1 s, doubled twice, and halved at most by chance: 0.4 s apart, 0.2 s at least.
        assert (times[12] - times[3]).total_seconds() >= 9 * 0.2 - 0.1

    def test_who_cannot_be_served_yet_does_not_hold_up_the_others(self, local, make):
        busy = local.add_solution_version("training", status="CREATE IN_PROGRESS")
        blocked = make(0)
        blocked.request = {**blocked.request, "solutionVersionArn": busy}

        async def main():
            first = asyncio.create_task(wait_for(blocked))
            others = await asyncio.gather(*(wait_for(make(number)) for number in range(1, 4)))
            assert not first.done()
            local.add_solution_version("training")
            return [*others, await first]

        assert [payload["outcome"] for payload in asyncio.run(main())] == ["created"] * 4

    def test_who_asks_seldom_does_not_hold_up_who_asks_often(self, local, make):
        async def main():
            slow = asyncio.create_task(wait_for(make(1, poke_interval=3600)))
            await until(lambda: connections._connections)
            deadline = (datetime.now(UTC) + timedelta(seconds=20)).isoformat()
            assert (await wait_for(make(2, deadline=deadline)))["outcome"] == "created"
            slow.cancel()
            await asyncio.gather(slow, return_exceptions=True)

        asyncio.run(main())

    def test_who_is_refused_for_good_leaves_the_turn_to_the_next(self, local, make):
        unknown = make(0)
        unknown.request = {**unknown.request, "solutionVersionArn": f"{local.version}0"}
        first, second = run(unknown, make(1))
        assert (first["outcome"], second["outcome"]) == ("error", "created")
        assert first["error"]["type"] == "PersonalizeRequestError"
        assert "CreateBatchSegmentJob was refused for batch segment job 'job-0'" in first["error"]["text"]

    def test_the_two_kinds_do_not_wait_for_each_other(self, local, make):
        fill(local)
        version = local.add_solution_version("recommendations", "aws-user-personalization")
        inference = make(1, kind="inference")
        inference.request = {**inference.request, "solutionVersionArn": version}
        deadline = (datetime.now(UTC) + timedelta(seconds=4)).isoformat()
        segment = make(0, deadline=deadline, poke_interval=60)
        assert [payload["outcome"] for payload in run(segment, inference)] == ["timeout", "created"]


class Quota:
    """
    Five slots, which jobs give back a moment after they were created.

    :param odd: answers for Create calls of some names
    """

    def __init__(self, **odd):
        self.odd = odd
        self.unfinished = {}
        self.most = 0
        self.lock = threading.Lock()

    def __call__(self, operation, parameters):
        name = parameters["jobName"]
        if name in self.odd:
            return self.odd[name]
        with self.lock:
            now = time.monotonic()
            self.unfinished = {each: end for each, end in self.unfinished.items() if end > now}
            if len(self.unfinished) == 5:
                return error("LimitExceededException")
            self.unfinished[name] = now + 0.5
        return Answer({"batchSegmentJobArn": job_arn(name)})


class TestOddOnes:
    def measure(self, serve, make, quota, *odd):
        serve(quota)

        async def main():
            loop = asyncio.get_running_loop()
            begin = loop.time()
            others = [asyncio.ensure_future(wait_for(make(0, job_name=name))) for name in odd]
            even = await asyncio.gather(*(wait_for(make(1 + number)) for number in range(48)))
            seconds = loop.time() - begin
            assert not any(each.done() for each in others)
            for each in others:
                each.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            return seconds, [payload["outcome"] for payload in even]

        seconds, outcomes = asyncio.run(main())
        assert outcomes == ["created"] * 48
        return seconds

    def test_hold_up_nobody(self, serve, make):
        """Forty-eight of fifty get their slots in about the time that they take alone."""
        alone = self.measure(serve, make, Quota())
        quota = Quota(hangs=Answer(hangs=True), refused=error("LimitExceededException"))
        beside = self.measure(serve, make, quota, "hangs", "refused")
        # The call that hangs is waited for once.
        assert beside <= alone * 1.5 + PATIENCE + 2


class TestThrottling:
    def test_slows_all_of_them_down(self, serve, make):
        endpoint = serve(error("ThrottlingException"))

        async def main():
            waiting = [asyncio.ensure_future(wait_for(make(number, poke_interval=1))) for number in range(20)]
            await asyncio.wait(waiting, timeout=4)
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            # The last call and its client end in threads, which the next test must not meet.
            await until(
                lambda: not [each for each in threading.enumerate() if "personalize-caller" in each.name]
            )

        asyncio.run(main())
        # Twenty that each back off by themselves ask about fifty times.
        assert 1 <= len(endpoint.calls) <= 10


class TestTelling:
    def test_a_thread_logs_in_the_context_of_its_trigger(self, local, make):
        """Airflow finds out by it whose log a line belongs to."""
        told, seen = ContextVar("told"), []
        log = SimpleNamespace(info=lambda message, *args: seen.append((told.get(None), message % args)))

        async def create(number):
            told.set(number)
            creation = Creation(Plan(BatchJobKind.SEGMENT, f"job-{number}", make(number).request), log)
            queue = shared_queue(SETTINGS, "segment")
            ticket = queue.join(creation, START, 0.1)
            await ticket.future
            queue.leave(ticket)

        async def main():
            await asyncio.gather(*map(create, range(3)))

        asyncio.run(main())
        assert seen == [(number, f"Created {ARN}{number}.") for number in range(3)]


class TestOnce:
    @pytest.mark.parametrize(
        "fault", ["drop_answer", "drop_connection", "server_error", "throttle", "malformed"]
    )
    @pytest.mark.parametrize("operation", [CREATE, DESCRIBE])
    def test_a_fault_makes_no_second_job(self, local, make, fault, operation):
        names = created(local)
        getattr(local.faults, fault)(times=1, operation=operation)
        (payload,) = run(make(1))
        assert payload["outcome"] == "created"
        assert names == ["job-1"]

    def test_a_triggerer_that_dies_between_call_and_answer_makes_no_second_job(self, local, make):
        names = created(local)
        # As the next triggerer finds it: the job exists, and nobody has told.
        local.faults.drop_answer(times=1, operation=CREATE)

        async def main():
            dying = asyncio.create_task(wait_for(make(1)))
            await until(lambda: names)
            dying.cancel()
            return await wait_for(make(1))

        payload = asyncio.run(main())
        assert (payload["outcome"], payload["job"]["jobName"]) == ("exists", "job-1")
        assert names == ["job-1"]

    @pytest.mark.parametrize("status", ["CREATE PENDING", "CREATE FAILED"])
    def test_nor_does_one_whose_event_was_lost(self, local, make, status):
        names = created(local)
        run(make(1))
        local.set_status(f"{ARN}1", status, "Invalid S3 input path" if "FAILED" in status else None)
        (payload,) = run(make(1))
        assert (payload["outcome"], payload["job"]["status"]) == ("exists", status)
        assert names == ["job-1"]

    def test_three_that_want_one_name_make_one_job_which_is_one_triggers_own(self, local, make):
        names = created(local)
        same = {"job_name": "job-1"}
        payloads = run(make(1, **same), make(2, **same), make(3, **same))
        assert sorted(payload["outcome"] for payload in payloads) == ["created", "exists", "exists"]
        assert names == ["job-1"]


class TestDeadlines:
    @pytest.mark.parametrize(
        ("fault", "outcome"), [(None, "created"), ("deny_access", "error"), ("throttle", "timeout")]
    )
    def test_what_is_under_way_when_the_time_is_over_is_waited_for(self, local, make, fault, outcome):
        local.faults.slow(3, operation=CREATE)
        if fault:
            getattr(local.faults, fault)(operation=CREATE)
        names = created(local)
        payload = run_until(2, make(1))
        assert payload["outcome"] == outcome
        assert local.calls.count(CREATE) == 1
        assert names == (["job-1"] if outcome == "created" else [])

    def test_timeout_says_why_there_is_no_job(self, local, make):
        fill(local)
        payload = run_until(2, make(1))
        assert (payload["outcome"], payload["job_arn"]) == ("timeout", None)
        assert "LimitExceededException" in payload["reason"]

    def test_execution_timeout_comes_first_when_it_is_shorter(self, local, make):
        fill(local)
        now = datetime.now(UTC)
        (payload,) = run(
            make(
                1,
                deadline=(now + timedelta(hours=1)).isoformat(),
                execution_deadline=(now + timedelta(seconds=0.5)).isoformat(),
            )
        )
        assert payload["outcome"] == "execution_timeout"


class TestBreaking:
    def test_an_error_of_the_queues_own_is_told_to_all(self, local, make):
        fill(local)

        async def main():
            deadline = (datetime.now(UTC) + timedelta(seconds=60)).isoformat()
            waiting = asyncio.gather(*(wait_for(make(number, deadline=deadline)) for number in range(3)))
            await until(lambda: local.calls.count(CREATE) >= 1)
            (shared,) = connections._connections.values()
            (connection,) = shared.values()
            # As if memory were short: the queue itself breaks, not a call.
            connection.part((SlotQueue, "segment"), None)._next = None
            return await waiting

        payloads = asyncio.run(main())
        assert [payload["outcome"] for payload in payloads] == ["error"] * 3
        assert {payload["error"]["type"] for payload in payloads} == {"TypeError"}
        assert connections._connections == {}

    def test_who_comes_before_those_have_left_gets_a_queue_that_works(self, local):
        async def main():
            broken = shared_queue(SETTINGS, "segment")
            ticket = broken.join(None, START, 60)
            broken._next = None
            assert isinstance(await ticket.future, TypeError)
            queue = shared_queue(SETTINGS, "segment")
            assert queue is not broken
            other = queue.join(None, START, 60)
            broken.leave(ticket)
            assert shared_queue(SETTINGS, "segment") is queue
            queue.leave(other)
            assert connections._connections == {}

        asyncio.run(main())


class TestLeaving:
    def test_nothing_is_left_of_a_thousand(self, local, make):
        fill(local)

        async def main():
            tasks = [asyncio.create_task(wait_for(make(number, poke_interval=60))) for number in range(1000)]
            await asyncio.sleep(0)
            (shared,) = connections._connections.values()
            assert len(shared) == 1
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            names = "personalize-caller"
            await until(lambda: not [each for each in threading.enumerate() if each.name.startswith(names)])
            assert len(asyncio.all_tasks()) == 1
            assert connections._connections == {}

        asyncio.run(main())

    def test_who_leaves_late_does_not_close_the_next_ones_queue(self, local):
        async def main():
            first = shared_queue(SETTINGS, "segment")
            early, late = (first.join(None, START, 60) for _ in range(2))
            early.future.set_result(Attempt())
            first.leave(early)
            first.leave(late)
            second = shared_queue(SETTINGS, "segment")
            assert second is not first
            ticket = second.join(None, START, 60)
            first.leave(late)
            assert shared_queue(SETTINGS, "segment") is second
            second.leave(ticket)
            assert connections._connections == {}

        asyncio.run(main())
