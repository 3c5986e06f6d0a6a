"""Watchers over real HTTP: each job arrives, whatever AWS does, for as few calls as it takes."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from contextlib import aclosing, contextmanager
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from listing_service import ORDERS, ListingService, next_looks, until
from scripted_endpoint import SOLUTION_VERSION_ARN, Answer, ScriptedEndpoint, error, job_arn

from airflow_provider_personalize_segments import connections
from airflow_provider_personalize_segments.airflow_compat import has_asset_watchers
from airflow_provider_personalize_segments.connection_settings import ConnectionSettings
from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.triggers import PersonalizeBatchJobEventTrigger
from airflow_provider_personalize_segments.watching import lister, listing, place
from airflow_provider_personalize_segments.watching import trigger as watcher_module
from airflow_provider_personalize_segments.watching.lister import watch

pytestmark = pytest.mark.skipif(
    not has_asset_watchers(), reason="Airflow 2 has no watchers, see test_trigger.py"
)

PAST = 60 * 60 * 24 * 365.0
"""The service's clock begins a year ago, so that no job is from the future."""
DEFAULT = ConnectionSettings("aws_default", "us-east-1", None, None)
OTHER_VERSION = SOLUTION_VERSION_ARN.replace("shop", "other")


@contextmanager
def serving(service):
    with ScriptedEndpoint(service.answer) as endpoint, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_AWS_DEFAULT", endpoint.connection)
        yield endpoint


@pytest.fixture
def service():
    service = ListingService(now=time.time())
    with serving(service):
        yield service


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(lister, "SECONDS_PER_PAGE", 0.0)
    monkeypatch.setattr(lister, "SHORTEST_PACE", 0.01)
    monkeypatch.setattr(lister, "LONGEST_PACE", 0.2)
    monkeypatch.setattr(lister, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(lister, "MAX_BACKOFF", 0.2)


class Watched:
    """Runs a trigger as Airflow does where it keeps no place, and collects what arrives."""

    def __init__(self, **options):
        options = {"kind": "segment", "poll_interval": 0.1, "endings": "all", **options}
        self.trigger = PersonalizeBatchJobEventTrigger(**options)
        self.events = []
        self.task = asyncio.create_task(self.collect())

    async def collect(self):
        async with aclosing(self.trigger.run()) as events:
            async for event in events:
                self.events.append(event.payload)

    @property
    def names(self):
        return [job["jobName"] for event in self.events for job in event]

    async def stop(self):
        self.task.cancel()
        await asyncio.wait([self.task])


async def left_behind_nothing():
    await until(lambda: len(asyncio.all_tasks()) == 1)
    assert connections._connections == {}


class TestEvents:
    def test_one_event_for_a_look_with_all_jobs_that_ended_as_the_api_names_them(self, service):
        async def main():
            watched = Watched()
            await next_looks(service)
            for name in ("one", "two"):
                service.create(name)
            await next_looks(service)
            with service.lock:
                service.jobs["one"] |= {"status": "ACTIVE", "lastUpdatedDateTime": 1_790_000_000.25}
                service.jobs["two"] |= {
                    "status": "CREATE FAILED",
                    "failureReason": "Invalid S3 path \ud83d\0",
                }
                service.jobs["two"]["lastUpdatedDateTime"] = 1_790_000_001
            await until(lambda: watched.events)
            await next_looks(service)
            await watched.stop()
            await left_behind_nothing()
            return watched.events

        (event,) = asyncio.run(main())
        assert json.loads(json.dumps(event)) == event
        created = event[0].pop("creationDateTime")
        assert event[1].pop("creationDateTime") == created
        assert created.endswith("+00:00")
        assert event == [
            {
                "batchSegmentJobArn": job_arn("one"),
                "jobName": "one",
                "status": "ACTIVE",
                "solutionVersionArn": SOLUTION_VERSION_ARN,
                "lastUpdatedDateTime": "2026-09-21T14:13:20.250000+00:00",
            },
            {
                "batchSegmentJobArn": job_arn("two"),
                "jobName": "two",
                "status": "CREATE FAILED",
                "failureReason": "Invalid S3 path \ufffd\ufffd",
                "solutionVersionArn": SOLUTION_VERSION_ARN,
                "lastUpdatedDateTime": "2026-09-21T14:13:21+00:00",
            },
        ]

    def test_the_first_look_tells_of_look_back_and_no_more(self, service):
        service.create("long-ago", age=9000)
        service.end("long-ago", age=700)
        service.create("just", age=9000)
        service.end("just", age=500)

        async def main():
            watched = Watched(look_back=600)
            await next_looks(service, 3)
            await watched.stop()
            return watched.names

        assert asyncio.run(main()) == ["just"]

    def test_what_ends_before_the_first_answer_is_told_of(self, service):
        """AWS does not answer the first calls; a job's end is older than ``look_back`` when it does."""
        service.create("under-way", age=9000)
        service.faults = [error("ThrottlingException")] * 8

        async def main():
            watched = Watched(look_back=0.1)
            service.now = time.time()
            service.end("under-way")
            await until(lambda: watched.events)
            await watched.stop()
            return watched.names

        assert asyncio.run(main()) == ["under-way"]

    def test_a_clock_ahead_of_aws_hides_no_job(self, service, monkeypatch):
        """Its first look sees an empty region; the answers' Date is what AWS dates jobs by."""
        ahead = SimpleNamespace(time=lambda: time.time() + 86_400, monotonic=time.monotonic)
        monkeypatch.setattr(watcher_module, "time", ahead)

        async def main():
            watched = Watched()
            await until(lambda: watched.trigger._place and watched.trigger._place.known_until)
            service.now = time.time()
            service.create("first")
            service.end("first")
            await until(lambda: watched.events)
            await watched.stop()
            return watched.names

        assert asyncio.run(main()) == ["first"]

    def test_only_jobs_of_the_solution_version(self, service):
        service.create("ours")
        service.create("theirs", solutionVersionArn=OTHER_VERSION)

        async def main():
            watched = Watched(solution_version_arn=SOLUTION_VERSION_ARN)
            await next_looks(service)
            service.end("theirs")
            service.end("ours")
            await until(lambda: watched.events)
            await next_looks(service)
            await watched.stop()
            return watched.names

        assert asyncio.run(main()) == ["ours"]


class TestCalls:
    @pytest.mark.parametrize("order", ORDERS)
    def test_a_look_costs_no_more_as_the_history_grows(self, order):
        service = ListingService(order, now=time.time() - PAST)
        service.create("slow")
        for number in range(1000):
            service.now += 3600
            service.create(f"old-{number}")
            service.end(f"old-{number}")

        async def main():
            async with aclosing(watch(DEFAULT, BatchJobKind.SEGMENT, 0.0)) as looks:
                first = await anext(looks)
                assert len(first.jobs) == 1001
                costs = [dict(service.calls)]
                for number in range(5):
                    service.now += 60
                    service.create(f"new-{number}")
                    # A look that had begun before may not have seen it.
                    while job_arn(f"new-{number}") not in (await anext(looks)).jobs:
                        pass
                    service.calls.clear()
                    await anext(looks)
                    costs.append(dict(service.calls))
            await left_behind_nothing()
            return costs

        with serving(service):
            first, *others = asyncio.run(main())
        assert first["ListBatchSegmentJobs"] == 11
        for cost in others:
            # The next look may have begun by now.
            assert cost["ListBatchSegmentJobs"] <= 2 * (11 if order == "none" else 1)
            assert cost.get("DescribeBatchSegmentJob", 0) <= 2

    def test_watchers_share_their_calls(self, service):
        for number in range(250):
            service.create(f"job-{number}", age=9000)
            service.end(f"job-{number}", age=8000)

        async def main():
            watched = [Watched(poll_interval=3600) for _ in range(20)]
            version = {"solution_version_arn": SOLUTION_VERSION_ARN, "endings": "failed"}
            watched += [Watched(poll_interval=3600, **version) for _ in range(5)]
            await until(
                lambda: all(each.trigger._place and each.trigger._place.known_until for each in watched)
            )
            calls = dict(service.calls)
            for each in watched:
                await each.stop()
            await left_behind_nothing()
            return calls

        # Three pages. The watchers with an ARN name a region, and the others leave it to the connection.
        assert asyncio.run(main()) == {"ListBatchSegmentJobs": 6}


class TestOrders:
    @pytest.mark.parametrize("before", ORDERS)
    @pytest.mark.parametrize("after", ORDERS)
    def test_a_listing_that_changes_its_order_hides_no_job(self, before, after):
        service = ListingService(before, page_size=5, now=time.time() - PAST)
        for number in range(40):
            service.now += 7200
            service.create(f"old-{number}")
            service.end(f"old-{number}")

        async def main():
            watched = Watched()
            await next_looks(service, 10)
            service.order = after
            for number in range(12):
                service.now += 1000
                service.create(f"new-{number}")
                service.end(f"new-{number}")
            await until(lambda: len(set(watched.names)) == 12)
            await watched.stop()
            return watched.names

        with serving(service):
            names = asyncio.run(main())
        assert sorted(names) == sorted(f"new-{number}" for number in range(12))

    def test_a_token_that_aws_forgot_is_not_asked_for_again(self, caplog):
        service = ListingService("oldest first", page_size=5, now=time.time() - PAST)
        for number in range(12):
            service.now += 7200
            service.create(f"old-{number}")
        answer, refused = service.answer, []

        def forget(operation, parameters):
            if parameters.get("nextToken") and not refused and service.calls["ListBatchSegmentJobs"] > 3:
                refused.append(parameters)
                return error("InvalidNextTokenException")
            return answer(operation, parameters)

        service.answer = forget

        async def main():
            watched = Watched()
            await until(lambda: refused)
            service.end("old-0")
            await until(lambda: watched.events)
            await watched.stop()
            return watched.names

        with serving(service):
            assert asyncio.run(main()) == ["old-0"]
        assert "InvalidNextTokenException" in caplog.text


def long_history(jobs, page_size=100):
    """Return a service with a history of jobs that are over, one an hour until two hours ago."""
    service = ListingService(page_size=page_size, now=time.time() - 3600 * (jobs + 2))
    for number in range(jobs):
        service.now += 3600
        service.create(f"old-{number}")
        service.end(f"old-{number}", age=-60)
    service.now = time.time()
    return service


def first_pages(service):
    """Count how often a listing was begun."""
    return service.calls["ListBatchSegmentJobs"] - service.later_pages


class TestLongListings:
    def test_get_through_where_aws_allows_five_calls_a_second(self, monkeypatch, caplog):
        paces = {"SHORTEST_PACE": 0.25, "LONGEST_PACE": 10.0, "FIRST_PAUSE": 0.5, "MAX_BACKOFF": 300.0}
        for name, seconds in paces.items():
            monkeypatch.setattr(lister, name, seconds)
        service = long_history(3_000)
        service.rate = 5.0

        async def main():
            watched = Watched(poll_interval=5)
            await until(lambda: watched.trigger._place and watched.trigger._place.known_until)
            begun = first_pages(service)
            service.create("new")
            service.end("new")
            await until(lambda: watched.events)
            await watched.stop()
            await left_behind_nothing()
            return begun, watched.names

        with serving(service):
            assert asyncio.run(main()) == (1, ["new"])
        assert service.throttled > 0

    @pytest.mark.parametrize("seed", range(3))
    def test_get_through_single_faults(self, seed):
        service = long_history(500, page_size=5)
        answer, chance = service.answer, random.Random(seed)

        def fail_now_and_then(operation, parameters):
            if chance.random() < 0.05:
                service.calls["faults"] += 1
                return error("InternalServerException", 500)
            return answer(operation, parameters)

        service.answer = fail_now_and_then

        async def main():
            watched = Watched(poll_interval=60)
            await until(lambda: watched.trigger._place and watched.trigger._place.known_until)
            await watched.stop()

        with serving(service):
            asyncio.run(main())
        assert service.calls["faults"] > 0
        assert service.calls["ListBatchSegmentJobs"] == 100

    def test_of_a_watcher_that_joins_deafen_no_other(self):
        """AWS answers for the first page alone, for as long as it takes to hear of three jobs."""
        service = long_history(50, page_size=10)
        answer, refused = service.answer, []

        def refuse(operation, parameters):
            if parameters.get("nextToken") and service.only_first_page:
                refused.append(parameters)
                return error("ThrottlingException")
            return answer(operation, parameters)

        service.answer, service.only_first_page = refuse, False

        async def main():
            first = Watched()
            await until(lambda: first.trigger._place and first.trigger._place.known_until)
            await next_looks(service, 2)
            service.only_first_page = True
            second = Watched(solution_version_arn=None, endings="active")
            await until(lambda: refused)
            for number in range(3):
                service.create(f"new-{number}")
                service.end(f"new-{number}")
                await until(lambda number=number: len(first.names) == number + 1)
            assert second.names == []
            service.only_first_page = False
            await until(lambda: len(second.names) == 3)
            names = first.names, sorted(second.names)
            for each in (first, second):
                await each.stop()
            return names

        news = [f"new-{number}" for number in range(3)]
        with serving(service):
            assert asyncio.run(main()) == (news, news)

    @pytest.mark.parametrize(
        "refusal", [error("InvalidNextTokenException"), error("InternalServerException", 500)]
    )
    def test_begin_anew_when_aws_has_forgotten_the_token(self, refusal, monkeypatch):
        monkeypatch.setattr(lister, "MAX_TRIES", 3)
        service = long_history(30, page_size=5)
        answer, forgotten = service.answer, []

        def forget(operation, parameters):
            if first_pages(service) == 1 and parameters.get("nextToken") == "15":
                forgotten.append(parameters)
                return refusal
            return answer(operation, parameters)

        service.answer = forget

        async def main():
            watched = Watched(poll_interval=60)
            await until(lambda: watched.trigger._place and watched.trigger._place.known_until)
            await watched.stop()

        with serving(service):
            asyncio.run(main())
        assert len(forgotten) == (1 if refusal.status == 400 else 3)
        assert service.calls["ListBatchSegmentJobs"] == 3 + 6


@pytest.mark.parametrize("to", ["us-east-1:210987654321", "eu-west-1:123456789012"])
def test_a_connection_that_leads_elsewhere_brings_no_history(to, caplog):
    """While the triggerer runs: it reads the connection anew when its credentials are refused."""
    here, there = long_history(30, page_size=5), long_history(1_800)
    for service in (here, there):
        service.create("just", age=60)
        service.end("just")
    there.odd = lambda summary: {
        **summary, "batchSegmentJobArn": job_arn(summary["jobName"]).replace("us-east-1:123456789012", to)
    }  # fmt: skip
    services = [here]
    switch = SimpleNamespace(answer=lambda *asked: services[-1].answer(*asked))

    async def main():
        watched = Watched()
        await until(lambda: watched.events)
        await next_looks(here)
        services.append(there)
        await until(lambda: len(watched.events) == 2)
        await next_looks(there)
        there.create("new")
        there.end("new")
        await until(lambda: len(watched.events) == 3)
        await watched.stop()
        return watched.names

    with serving(switch):
        assert asyncio.run(main()) == ["just", "just", "new"]
    assert f"The connection 'aws_default' leads to {to} now, and led to us-east-1:123456789012" in caplog.text


FAULTS = {
    "throttled": error("ThrottlingException"),
    "denied": error("AccessDeniedException", 403, "not you \ud83d"),
    "down": Answer(b"<html>", 503),
    "a page of a proxy": Answer(b"<html>", 200, {"Content-Type": "text/html"}),
    "no jobs": Answer({}),
    "no list": Answer({"batchSegmentJobs": 5}),
    "half": Answer(b'{"batchSegmentJobs": [{"batchSegmentJobArn": "ar'),
    "no ARN": Answer({"batchSegmentJobs": [{"status": "ACTIVE"}]}),
    "a list for an ARN": Answer({"batchSegmentJobs": [{"batchSegmentJobArn": ["x"]}]}),
    "a number for a token": Answer({"batchSegmentJobs": [], "nextToken": 5}),
    "expired": error("ExpiredTokenException"),
}


class TestFaults:
    @pytest.mark.parametrize("fault", FAULTS)
    def test_are_waited_out_and_nothing_is_missed(self, service, fault, caplog):
        caplog.set_level("INFO")

        async def main():
            watched = Watched()
            await next_looks(service)
            service.faults = [FAULTS[fault]] * 4
            service.create("meanwhile")
            service.end("meanwhile")
            await until(lambda: watched.events)
            await watched.stop()
            await left_behind_nothing()
            return watched.names

        assert asyncio.run(main()) == ["meanwhile"]
        assert (
            "Listing batch segment jobs failed; the watchers look again in 0 s, and miss nothing: "
            in caplog.text
        )
        assert "(connection 'aws_default', region of the connection)" in caplog.text
        assert "Listing batch segment jobs works again." in caplog.text

    def test_calls_that_hang_are_left_to_themselves(self, service, monkeypatch, caplog):
        monkeypatch.setattr(lister, "CALL_LIMIT", 0.3)

        async def main():
            watched = Watched()
            await next_looks(service)
            service.faults = [Answer(hangs=True)] * 2
            await until(lambda: not service.faults)
            service.create("meanwhile")
            service.end("meanwhile")
            await until(lambda: watched.events)
            await watched.stop()
            return watched.names

        assert asyncio.run(main()) == ["meanwhile"]
        assert "no answer within 0.3 s" in caplog.text

    @pytest.mark.parametrize("allowed", [20, 3])
    def test_answers_that_drip_for_ever_stop_nothing(self, service, monkeypatch, caplog, allowed):
        monkeypatch.setattr(lister, "CALL_LIMIT", 0.3)
        monkeypatch.setattr(lister, "MAX_SILENT_CALLS", allowed)

        async def main():
            watched = Watched()
            await next_looks(service)
            service.faults = [Answer(b"x" * 100_000, drips=0.05)] * 5
            await until(lambda: not service.faults)
            service.create("meanwhile")
            service.end("meanwhile")
            await until(lambda: watched.events)
            await watched.stop()
            return watched.names

        assert asyncio.run(main()) == ["meanwhile"]
        told = [line for line in caplog.messages if "no answer within 0.3 s" in line]
        assert len(told) >= 5  # a slow machine's other calls may take as long

    def test_a_connection_without_room_for_a_call_is_waited_for(self, service, monkeypatch, caplog):
        """Triggers that wait for jobs share it, and their calls may all hang."""
        monkeypatch.setattr(lister, "CALL_LIMIT", 0.3)

        async def main():
            connection = connections.shared_connection(ConnectionSettings("aws_default", None, None, None))
            for _ in range(connections.MAX_CONCURRENT_CALLS):
                await connection.acquire()
            watched = Watched()
            await until(lambda: "no call could be begun within 0.3 s" in caplog.text)
            service.create("meanwhile")
            service.end("meanwhile")
            for _ in range(connections.MAX_CONCURRENT_CALLS):
                connection.release()
            await until(lambda: watched.events)
            await watched.stop()
            return watched.names

        assert asyncio.run(main()) == ["meanwhile"]

    def test_a_connection_that_does_not_exist_is_waited_for(self, service, monkeypatch, caplog):
        service.create("there")
        service.end("there")

        async def main():
            watched = Watched(aws_conn_id="later")
            await until(lambda: "The Airflow connection 'later' does not exist" in caplog.text)
            monkeypatch.setenv("AIRFLOW_CONN_LATER", os.environ["AIRFLOW_CONN_AWS_DEFAULT"])
            await until(lambda: watched.events)
            await watched.stop()
            return watched.names

        assert asyncio.run(main()) == ["there"]

    def test_a_mistake_of_ours_ends_no_watcher(self, service, monkeypatch, caplog):
        monkeypatch.setattr(lister, "RESTART_PAUSE", 0.1)
        find_pause, mistakes = lister.JobLister._find_pause, iter([ZeroDivisionError("ours")])

        def fail_once(self):
            for mistake in mistakes:
                raise mistake
            return find_pause(self)

        monkeypatch.setattr(lister.JobLister, "_find_pause", fail_once)
        service.create("there", age=9000)
        service.create("later")

        async def main():
            watched = Watched()
            await next_looks(service)
            service.end("later")
            await until(lambda: watched.events)
            await watched.stop()
            return watched.names

        assert asyncio.run(main()) == ["later"]
        assert "The watchers of batch segment jobs begin anew" in caplog.text


class TestOddAnswers:
    def test_a_summary_that_lacks_what_it_must_have_is_made_up_for(self, service):
        missing = ("solutionVersionArn", "status")
        service.odd = lambda summary: {name: value for name, value in summary.items() if name not in missing}
        service.create("half")

        async def main():
            watched = Watched(solution_version_arn=SOLUTION_VERSION_ARN)
            await next_looks(service)
            service.end("half")
            await until(lambda: watched.events)
            await watched.stop()
            return watched.events[0]

        (job,) = asyncio.run(main())
        assert (job["jobName"], job["status"]) == ("half", "ACTIVE")

    @pytest.mark.parametrize(
        "odd",
        [error("AccessDeniedException"), Answer(b"<html>"), Answer(hangs=True)],
        ids=["denied", "no answer of AWS's", "hangs"],
    )
    def test_one_jobs_trouble_is_never_anothers(self, odd, monkeypatch):
        """An old job is on no page that is read, and nobody describes it; all jobs arrive."""
        monkeypatch.setattr(lister, "CALL_LIMIT", 0.3)
        service = ListingService(page_size=5, now=time.time() - PAST)
        service.create("slow")
        for number in range(20):
            service.now += 7200
            service.create(f"old-{number}")
            service.end(f"old-{number}")
        answer, described = service.answer, []

        def refuse(operation, parameters):
            if operation.startswith("Describe"):
                described.append(parameters)
                return odd
            return answer(operation, parameters)

        service.answer = refuse

        async def main():
            watched = Watched()
            await until(lambda: described)
            service.create("new")
            service.end("new")
            await until(lambda: "new" in watched.names)
            service.end("slow")
            await until(lambda: "slow" in watched.names)
            await watched.stop()
            return watched.names

        with serving(service):
            assert asyncio.run(main()) == ["new", "slow"]

    def test_a_job_that_vanished_is_asked_about_once(self, service, caplog):
        service.create("gone")

        async def main():
            watched = Watched()
            await next_looks(service)
            with service.lock:
                del service.jobs["gone"]
            await until(lambda: service.calls["DescribeBatchSegmentJob"])
            await next_looks(service, 5)
            await watched.stop()
            return watched.names

        assert asyncio.run(main()) == []
        assert service.calls["DescribeBatchSegmentJob"] == 1
        assert "Asking about a batch segment job failed: ResourceNotFoundException" in caplog.text

    def test_a_job_of_another_region_holds_up_no_other(self, service, caplog):
        service.create("abroad", batchSegmentJobArn=job_arn("abroad").replace("us-east-1", "eu-west-1"))
        service.odd = lambda summary: summary if summary["jobName"] != "abroad" else summary | {"status": ""}
        service.create("here")

        async def main():
            watched = Watched(region_name="us-east-1")
            await next_looks(service)
            service.end("here")
            await until(lambda: watched.events)
            await watched.stop()
            return watched.names

        assert asyncio.run(main()) == ["here"]
        assert "contradicts the region 'eu-west-1' in the ARN" in caplog.text

    def test_a_look_that_fails_after_its_pages_is_made_again_in_full(self, monkeypatch, caplog):
        service = ListingService(page_size=5, now=time.time() - PAST)
        service.create("slow")
        for number in range(12):
            service.now += 7200
            service.create(f"old-{number}")
            service.end(f"old-{number}")
        service.odd = lambda summary: summary if summary["jobName"] != "old-0" else summary | {"status": ""}
        answer, described = service.answer, []

        def refuse_once(operation, parameters):
            if operation.startswith("Describe"):
                described.append(parameters)
                if len(described) == 1:
                    monkeypatch.delenv("AIRFLOW_CONN_AWS_DEFAULT")  # as when its secrets backend is away
                    return error("ExpiredTokenException")
            return answer(operation, parameters)

        service.answer = refuse_once

        async def main():
            connection = os.environ["AIRFLOW_CONN_AWS_DEFAULT"]
            watched = Watched()
            await until(lambda: "The Airflow connection 'aws_default' does not exist" in caplog.text)
            monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", connection)
            await until(lambda: watched.trigger._place.known_until)
            # Two times three pages, and not as many looks as pass until all pages are read anyway.
            assert service.calls["ListBatchSegmentJobs"] < 15
            await watched.stop()
            return watched.trigger._place

        with serving(service):
            assert job_arn("slow") in asyncio.run(main()).unfinished

    def test_what_nobody_documented_is_told_once_and_opens_nothing(self, service, caplog):
        service.create("odd", status="CREATE RESTING \ud83d")
        service.create("no-job", batchSegmentJobArn="arn:aws:personalize:::other/\0", status="ACTIVE")

        async def main():
            watched = Watched()
            await next_looks(service, 5)
            await watched.stop()
            return watched.names

        assert asyncio.run(main()) == []
        assert caplog.text.count("The status 'CREATE RESTING") == 1
        assert caplog.text.count("is not documented. Watching on: only ACTIVE and failures are endings.") == 1
        assert caplog.text.count("The listing has a job that no task can wait for, as its ARN is ") == 1


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("create"), st.integers(0, 40)),
        st.tuples(st.just("end"), st.integers(0, 30)),
        st.sampled_from([("look",), ("fault",), ("page fault",), ("token",), ("join",), ("restart",)]),
    ),
    max_size=40,
)


@settings(max_examples=20)
@given(order=st.sampled_from(list(ORDERS)), page_size=st.integers(1, 4), actions=ACTIONS)
def test_every_job_arrives_exactly_once_while_its_place_is_kept(order, page_size, actions):
    """Whatever happens between two looks. A restart goes on at the place of the last event."""
    service = ListingService(order, page_size, now=time.time() - PAST)
    service.create("slow")
    for number in range(12):
        service.now += 1000
        service.create(f"old-{number}")
        service.end(f"old-{number}")
    service.now += 1000
    expected, waiting = [], ["slow"]

    async def main():
        watched = Watched()
        told, joined = [], []
        # Later jobs end within seconds, a year ago.
        await until(lambda: watched.trigger._place and watched.trigger._place.known_until)
        for action, *argument in actions:
            if action == "create":
                service.now += argument[0]
                waiting.append(f"job-{len(service.jobs)}")
                service.create(waiting[-1])
            elif action == "end" and waiting:
                expected.append(waiting.pop(argument[0] % len(waiting)))
                service.end(expected[-1])
            elif action == "look":
                await next_looks(service, 1)
            elif action == "fault":
                service.faults = [error("ThrottlingException")] * 2
            elif action == "page fault":
                service.faults = [error("InternalServerException", 500)]
            elif action == "token":
                service.faults = [error("InvalidNextTokenException")]
            elif action == "join":
                joined.append(Watched(endings="failed"))
            elif action == "restart":
                for each in (watched, *joined):
                    await each.stop()
                told += watched.names
                # One that was stopped before it began has no place of its own.
                last = watched.trigger._place or watched.trigger._first_place()
                watched = Watched()
                watched.trigger._first_place = lambda last=last: last
        # Not long, as each try to make a failing case smaller waits for it.
        await until(lambda: len(told + watched.names) >= len(expected), seconds=20)
        await next_looks(service)
        for each in (watched, *joined):
            await each.stop()
        await left_behind_nothing()
        return told + watched.names

    with serving(service), pytest.MonkeyPatch.context() as patch:
        patch.setattr(lister, "SECONDS_PER_PAGE", 0.0)
        patch.setattr(lister, "SHORTEST_PACE", 0.01)
        patch.setattr(lister, "FIRST_PAUSE", 0.05)
        patch.setattr(lister, "MAX_BACKOFF", 0.1)
        for module in (listing, place):
            patch.setattr(module, "OVERLAP", 2000)
        assert sorted(asyncio.run(main())) == sorted(expected)
