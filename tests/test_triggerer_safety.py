"""What the triggerer is spared: endless waits, early events, places nobody needs, secrets in its rows."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from airflow_names import TaskDeferred
from fakes import first_event
from scripted_endpoint import describe, error, job_arn

from airflow_provider_personalize_segments import connections
from airflow_provider_personalize_segments.connection_settings import ConnectionSettings
from airflow_provider_personalize_segments.connections import shared_connection
from airflow_provider_personalize_segments.errors import InvalidParameterError, PersonalizeRequestError
from airflow_provider_personalize_segments.hooks import PersonalizeHook
from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor
from airflow_provider_personalize_segments.triggers import PersonalizeBatchJobTrigger
from airflow_provider_personalize_segments.waiting import trigger
from airflow_provider_personalize_segments.waiting.poller import JobPoller, shared_poller

ARN = job_arn("weekly")


def wait(number=1, **options):
    arguments = {"poke_interval": 0.1} | options
    return [
        asyncio.create_task(first_event(PersonalizeBatchJobTrigger(job_arn=ARN, **arguments)))
        for _ in range(number)
    ]


class TestMistakesOfOurs:
    def test_are_told_to_all_who_wait(self, serve):
        endpoint = serve(describe("weekly", "CREATE IN_PROGRESS"))

        async def main():
            tasks = wait(20)
            while not endpoint.calls:
                await asyncio.sleep(0.01)
            (shared,) = connections._connections.values()
            (connection,) = shared.values()
            connection.part(JobPoller, JobPoller)._pace = None
            payloads = await asyncio.wait_for(asyncio.gather(*tasks), 20)
            assert connections._connections == {}
            # The next one gets a poller that works.
            endpoint.answer = lambda *_: describe("weekly")
            (after,) = await asyncio.gather(*wait())
            return payloads, after

        payloads, after = asyncio.run(main())
        assert {payload["outcome"] for payload in payloads} == {"error"}
        assert {payload["error"]["type"] for payload in payloads} == {"TypeError"}
        assert after["outcome"] == "active"

    def test_a_hook_that_stops_an_iteration_ends_nothing(self, serve, monkeypatch):
        serve(describe("weekly"))

        def stop(self):
            raise StopIteration

        monkeypatch.setattr(PersonalizeHook, "fixed", stop)

        async def main():
            return await asyncio.wait_for(asyncio.gather(*wait(3)), 20)

        for payload in asyncio.run(main()):
            assert payload["outcome"] == "error"
            assert payload["error"]["text"] == "A call ended in StopIteration()"


class TestCancelled:
    def test_triggers_give_their_places_back_at_once(self, serve):
        serve(describe("weekly"))

        async def main():
            poller = shared_poller(ConnectionSettings.of("aws_default", "us-east-1", None, None))
            kept = poller.subscribe(job_arn("kept"), 86_400)
            for number in range(10_000):
                arn = job_arn(f"job-{number}")
                poller.unsubscribe(arn, poller.subscribe(arn, 86_400))
                assert len(poller._queue) <= 3
            poller.unsubscribe(job_arn("kept"), kept)
            assert connections._connections == {}

        asyncio.run(main())

    def test_while_the_connection_is_read_ends_nobody_elses_wait(self, serve, monkeypatch):
        serve(describe("weekly"))
        make_hook = ConnectionSettings.make_hook

        def make_slowly(self):
            time.sleep(0.5)
            return make_hook(self)

        monkeypatch.setattr(ConnectionSettings, "make_hook", make_slowly)

        async def main():
            one, other = wait(2)
            while not connections._connections:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            one.cancel()
            return await asyncio.wait_for(other, 20)

        assert asyncio.run(main())["outcome"] == "active"


class TestCredentials:
    def test_that_are_refused_are_read_once_more_for_all_calls_together(self, serve, monkeypatch):
        read = []
        make_hook = ConnectionSettings.make_hook
        monkeypatch.setattr(ConnectionSettings, "make_hook", lambda self: read.append(1) or make_hook(self))
        # The second connection that is read has the new credentials.
        serve(lambda *_: describe("weekly") if len(read) > 1 else error("ExpiredTokenException"))

        async def main():
            connection = shared_connection(ConnectionSettings.of("aws_default", "us-east-1", None, None))
            calls = []
            for _ in range(5):
                await connection.acquire()
                calls.append(connection.call(lambda hook: hook.describe_job(ARN)["status"]))
            statuses = await asyncio.gather(*calls)
            connection._close()
            return statuses

        assert asyncio.run(main()) == ["ACTIVE"] * 5
        assert len(read) == 2


class TestEarlyEvents:
    @pytest.mark.parametrize(
        ("answer", "outcome"),
        [(describe("weekly"), "active"), (error("AccessDeniedException"), "error")],
    )
    def test_are_held_back(self, serve, monkeypatch, answer, outcome):
        monkeypatch.setattr(trigger, "EARLIEST_EVENT", 1.5)
        monkeypatch.setattr(trigger, "LONGEST_PAUSE", 3.0)
        endpoint = serve(answer)

        async def main():
            start = time.monotonic()
            (payload,) = await asyncio.gather(*wait())
            return payload, time.monotonic() - start, endpoint.calls[0][0] - start

        payload, fired, asked = asyncio.run(main())
        assert payload["outcome"] == outcome
        assert fired >= 1.5
        assert asked < fired

    def test_are_held_back_when_the_time_is_over_too(self, serve, monkeypatch):
        monkeypatch.setattr(trigger, "EARLIEST_EVENT", 1.5)
        monkeypatch.setattr(trigger, "LONGEST_PAUSE", 3.0)
        serve(describe("weekly", "CREATE PENDING"))

        async def main():
            start = time.monotonic()
            deadline = (datetime.now(UTC) + timedelta(seconds=0.3)).isoformat()
            (payload,) = await asyncio.gather(*wait(deadline=deadline))
            return payload["outcome"], time.monotonic() - start

        outcome, fired = asyncio.run(main())
        assert outcome == "timeout"
        assert fired >= 1.5

    def test_are_held_back_longer_where_the_interval_is_long(self, serve, monkeypatch):
        # A scheduler that is busy hears late that the worker has left, and nobody asked for an early end.
        monkeypatch.setattr(trigger, "EARLIEST_EVENT", 0.0)
        monkeypatch.setattr(trigger, "LONGEST_PAUSE", 30.0)
        serve(error("AccessDeniedException"))

        async def main():
            start = time.monotonic()
            (payload,) = await asyncio.gather(*wait(poke_interval=3.0))
            return payload["outcome"], time.monotonic() - start

        outcome, fired = asyncio.run(main())
        assert outcome == "error"
        assert fired >= 1.5

    def test_are_held_back_for_half_an_interval_within_bounds(self, monkeypatch):
        monkeypatch.setattr(trigger, "LONGEST_PAUSE", 30.0)
        assert [trigger.find_pause(each) for each in (0, 5, 14, 20, 60, 600)] == [7, 7, 7, 10, 30, 30]


class TestSettings:
    @pytest.mark.parametrize("content", [None, "no certificate", "a folder"])
    @pytest.mark.parametrize("where", ["task", "connection", "environment"])
    def test_a_ca_bundle_that_cannot_be_loaded_is_said_at_once(
        self, serve, monkeypatch, tmp_path, content, where
    ):
        endpoint = serve(describe("weekly"))
        path = tmp_path / "bundle.pem"
        if content == "a folder":
            path.mkdir()
        elif content:
            path.write_text(content)
        options = {"verify": str(path)}
        if where == "connection":
            connection = json.loads(endpoint.connection)
            connection["extra"] |= options
            monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
            options = {}
        if where == "environment":
            monkeypatch.setenv("AWS_CA_BUNDLE", str(path))
            options = {}
        words = f"InvalidCABundleError: verify is '{path}', which cannot be loaded: .*Set verify, here or in"
        task = PersonalizeBatchSegmentJobSensor(task_id="wait", job_arn=ARN, **options)
        with pytest.raises(PersonalizeRequestError, match=words):
            task.poke({})
        (payload,) = asyncio.run(asyncio.wait_for(_gather(**options), 20))
        assert payload["error"]["type"] == "PersonalizeRequestError"
        assert endpoint.calls == []

    @pytest.mark.parametrize("timeout", [1e12, 1e300, float("inf")])
    def test_a_timeout_beyond_the_calendar_is_a_hundred_years(self, serve, timeout):
        serve(describe("weekly", "CREATE PENDING"))
        task = PersonalizeBatchSegmentJobSensor(task_id="wait", job_arn=ARN, deferrable=True, timeout=3600)
        task.timeout = timeout
        with pytest.raises(TaskDeferred) as caught:
            task.execute({})
        deadline = datetime.fromisoformat(caught.value.trigger.deadline)
        assert 99 * 365 < (deadline - datetime.now(UTC)).days <= 100 * 365

    @pytest.mark.parametrize("deferrable", [False, True])
    @pytest.mark.parametrize(
        ("config", "path"),
        [
            ({"proxies": {"https": "http://user:s3cret@proxy:3128"}}, "proxies.https"),
            ({"proxies": {"https": "user:s3cret@proxy:3128"}}, "proxies.https"),
            ({"proxies": {"https": "http://user:s3cret/more@proxy:3128"}}, "proxies.https"),
            ({"proxies": {"http": "http://s3cret@proxy:3128"}}, "proxies.http"),
            (
                {"proxies_config": {"proxy_ca_bundle": ["http://u:s3cret@p"]}},
                "proxies_config.proxy_ca_bundle[0]",
            ),
        ],
    )
    def test_a_password_in_the_configuration_is_refused(self, serve, deferrable, config, path):
        endpoint = serve(describe("weekly"))
        task = PersonalizeBatchSegmentJobSensor(
            task_id="wait", job_arn=ARN, botocore_config=config, deferrable=deferrable
        )
        with pytest.raises(InvalidParameterError) as caught:
            task.execute({})
        assert str(caught.value).startswith(
            f"botocore_config of task 'wait' holds a password, which Airflow stores and shows as plain "
            f"text: {path}"
        )
        assert "Put it into the connection's extra instead" in str(caught.value)
        assert "s3cret" not in str(caught.value)
        assert endpoint.calls == []

    def test_a_proxy_without_a_password_is_taken(self, serve):
        serve(describe("weekly"))
        config = {"proxies": {"https": "http://proxy:3128"}, "read_timeout": 7}
        task = PersonalizeBatchSegmentJobSensor(task_id="wait", job_arn=ARN, botocore_config=config)
        assert task.hook.config.proxies == {"https": "http://proxy:3128"}


async def _gather(**options):
    return await asyncio.gather(*wait(**options))
