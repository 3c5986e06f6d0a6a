"""The watcher's trigger: what it takes and stores, and that Airflow 3.3 keeps its place, and when."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from contextlib import aclosing
from datetime import timedelta

import airflow
import pytest
from listing_service import ListingService, next_looks, until
from scripted_endpoint import SOLUTION_VERSION_ARN, ScriptedEndpoint, error, job_arn

from airflow_provider_personalize_segments.airflow_compat import has_asset_watchers
from airflow_provider_personalize_segments.errors import InvalidWatcherError
from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.triggers import PersonalizeBatchJobEventTrigger
from airflow_provider_personalize_segments.watching import lister
from airflow_provider_personalize_segments.watching import trigger as watcher_module

HAS_STATE_STORE = not airflow.__version__.startswith(("2.", "3.0.", "3.1.", "3.2."))
needs_watchers = pytest.mark.skipif(not has_asset_watchers(), reason="Airflow 2 has no watchers")
needs_state_store = pytest.mark.skipif(not HAS_STATE_STORE, reason="Airflow keeps a place from 3.3 on")


@pytest.mark.skipif(has_asset_watchers(), reason="the error is for Airflow 2")
def test_airflow_2_says_what_to_do_instead():
    with pytest.raises(InvalidWatcherError) as caught:
        PersonalizeBatchJobEventTrigger("segment")
    assert str(caught.value) == (
        "PersonalizeBatchJobEventTrigger needs asset watchers, which Airflow has from 3.0 on. On Airflow 2, "
        "let a sensor wait for the job instead."
    )


@needs_watchers
class TestParameters:
    @pytest.mark.parametrize(
        ("parameters", "words"),
        [
            ({"kind": "segments"}, "Expected a kind of batch job, 'segment' or 'inference', got 'segments'."),
            (
                {"solution_version_arn": "shop"},
                "solution_version_arn is not an Amazon",
            ),
            (
                {"solution_version_arn": SOLUTION_VERSION_ARN, "region_name": "eu-west-1"},
                "region_name contradicts the region 'us-east-1' in the ARN.",
            ),
            ({"poll_interval": 0}, "poll_interval is not a duration. Expected seconds, more than 0"),
            ({"poll_interval": None}, "poll_interval is empty. Expected seconds."),
            ({"look_back": "an hour"}, "look_back is not a duration."),
            ({"endings": "both"}, "endings is not 'active' or 'failed' or 'all': 'both'"),
            ({"aws_conn_id": 5}, "aws_conn_id is not text, but of type int: 5"),
            ({"botocore_config": "{"}, "Expecting property name"),
            (
                {"botocore_config": {"proxies": {"https": "https://me:pass@proxy"}}},
                "botocore_config holds a password, which Airflow stores and shows as plain text: "
                "proxies.https",
            ),
        ],
    )
    def test_that_cannot_be_right_stop_the_dag_file_and_never_the_triggerer(self, parameters, words):
        with pytest.raises(InvalidWatcherError) as caught:
            PersonalizeBatchJobEventTrigger(**{"kind": "segment", **parameters})
        assert str(caught.value).startswith("PersonalizeBatchJobEventTrigger: ")
        assert words in str(caught.value)
        # Airflow's triggerer takes no other error from a trigger that it makes.
        assert isinstance(caught.value, TypeError)

    @pytest.mark.parametrize(
        "parameters",
        [
            {"kind": BatchJobKind.SEGMENT},
            {"kind": "inference", "solution_version_arn": SOLUTION_VERSION_ARN, "poll_interval": 5},
            {"kind": "segment", "poll_interval": timedelta(minutes=2), "look_back": "60", "endings": "all"},
            {
                "kind": "segment",
                "verify": False,
                "botocore_config": {"retries": {"mode": "standard"}, "tags": [1]},
            },
        ],
    )
    def test_airflow_finds_the_same_trigger_in_the_dag_file_and_in_its_database(self, parameters):
        """A difference would end the watcher at each parse, and start another."""
        from airflow.models.trigger import Trigger

        try:
            from airflow.serialization.encoders import encode_trigger
        except ImportError:  # before Airflow 3.2
            from airflow.serialization.serialized_objects import _encode_trigger as encode_trigger

        made = PersonalizeBatchJobEventTrigger(**parameters)
        encoded = encode_trigger(made)
        in_file = type(made).hash(encoded["classpath"], encoded["kwargs"])
        stored = Trigger(classpath=encoded["classpath"], kwargs=encoded["kwargs"])
        assert type(made).hash(stored.classpath, stored.kwargs) == in_file
        path, plain = made.serialize()
        assert path == "airflow_provider_personalize_segments.triggers.PersonalizeBatchJobEventTrigger"
        assert json.loads(json.dumps(plain)) == plain
        again = PersonalizeBatchJobEventTrigger(**plain)
        assert again.serialize() == (path, plain)
        assert again.botocore_config == made.botocore_config

    def test_the_defaults_are_those_of_the_documentation(self):
        assert PersonalizeBatchJobEventTrigger("segment").serialize()[1] == {
            "kind": "segment",
            "solution_version_arn": None,
            "poll_interval": 60.0,
            "endings": "active",
            "look_back": 3600.0,
            "aws_conn_id": "aws_default",
            "region_name": None,
            "verify": None,
            "botocore_config": None,
        }


class Store:
    """An asset's state store, which a test lets fail."""

    def __init__(self):
        self.values = {}
        self.failures = []

    async def aget(self, key, default=None):
        if self.failures:
            raise self.failures.pop()
        return self.values.get(key, default)

    async def aset(self, key, value):
        if self.failures:
            raise self.failures.pop()
        self.values[key] = json.loads(json.dumps(value))

    @property
    def places(self):
        return {key: value for key, value in self.values.items() if not key.endswith("-alive")}

    @property
    def place(self):
        (place,) = self.places.values()
        return place

    @property
    def told(self):
        return {arn.rpartition("/")[2] for arn in self.place["told"]}


class Triggerer:
    """Runs a watcher on Airflow's own streams, as its triggerer does; the test stores its events."""

    def __init__(self, store, ack_timeout=60.0, **options):
        import structlog
        from airflow.triggers.shared_stream import SharedStreamManager

        self.trigger = PersonalizeBatchJobEventTrigger("segment", **{"poll_interval": 0.1, **options})
        self.trigger.asset_state_store = store
        self.streams = SharedStreamManager(log=structlog.get_logger(), ack_timeout=ack_timeout)
        self.key = self.trigger.shared_stream_key()
        self.events, self.unstored = [], []
        self.task = asyncio.create_task(self.run())

    async def run(self):
        stream = self.streams.subscribe(trigger_id=1, trigger=self.trigger, key=self.key)
        try:
            async with aclosing(self.trigger.filter_shared_stream(stream)) as events:
                async for event in events:
                    self.events.append(event.payload)
                    self.unstored.append(self.streams.bind_pending_event(trigger_id=1, key=self.key))
        finally:
            await self.streams.unsubscribe(1, self.key)

    def store_events(self):
        self.streams.confirm_persisted(self.unstored)

    @property
    def names(self):
        return [job["jobName"] for event in self.events for job in event]

    async def stop(self):
        self.task.cancel()
        await asyncio.wait([self.task])
        await self.streams.stop_all()


async def tell_of_one(service, store, name="one"):
    """Return a watcher that has told of a job that ended while it watched."""
    watcher = Triggerer(store)
    await next_looks(service)
    service.end(name)
    await until(lambda: watcher.events)
    return watcher


@needs_state_store
class TestPlace:
    @pytest.fixture
    def service(self, monkeypatch):
        monkeypatch.setattr(lister, "MAX_BACKOFF", 0.2)
        monkeypatch.setattr(lister, "FIRST_PAUSE", 0.05)
        monkeypatch.setattr(watcher_module, "SETTLING", 0.2)
        service = ListingService(now=time.time())
        with ScriptedEndpoint(service.answer) as endpoint:
            monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", endpoint.connection)
            yield service

    def test_moves_when_airflow_has_stored_the_event_and_not_before(self, service):
        store = Store()
        service.create("one")

        async def main():
            first = await tell_of_one(service, store)
            await next_looks(service)
            assert store.told == set()
            await first.stop()
            # Killed before Airflow stored the event: it comes again.
            second = Triggerer(store)
            await until(lambda: second.events)
            second.store_events()
            await until(lambda: store.told == {"one"})
            await second.stop()
            third = Triggerer(store)
            await next_looks(service)
            await third.stop()
            return first.names, second.names, third.names

        assert asyncio.run(main()) == (["one"], ["one"], [])

    def test_an_event_that_airflow_stored_for_nobody_comes_again(self, service, monkeypatch):
        """It was stored just when the DAG was paused; see test_airflow_does_not_say_so below."""
        monkeypatch.setattr(watcher_module, "SETTLING", 60.0)
        store = Store()
        service.create("one")

        async def main():
            first = await tell_of_one(service, store)
            first.store_events()
            await next_looks(service)
            await first.stop()
            assert store.told == set()
            second = Triggerer(store)
            await until(lambda: second.events)
            await second.stop()
            return second.names

        assert asyncio.run(main()) == ["one"]

    @pytest.mark.usefixtures("_airflow_database")
    def test_airflow_does_not_say_so(self):
        from airflow.models.asset import AssetEvent
        from airflow.models.trigger import Trigger
        from airflow.triggers.base import TriggerEvent
        from airflow.utils.session import create_session

        Trigger.submit_event(trigger_id=999_999, event=TriggerEvent([{"jobName": "one"}]))
        with create_session() as session:
            assert session.query(AssetEvent).count() == 0

    def test_what_ends_while_no_triggerer_runs_arrives_however_long_that_takes(self, service):
        store = Store()
        service.create("slow", age=99 * 3600)

        async def main():
            first = Triggerer(store, look_back=1)
            await until(lambda: store.places and store.place["unfinished"])
            await first.stop()
            service.end("slow", age=50 * 3600)
            service.create("quick", age=-1)
            service.end("quick")
            second = Triggerer(store, look_back=1)
            await until(lambda: second.events)
            await second.stop()
            return second.names

        assert sorted(asyncio.run(main())) == ["quick", "slow"]

    def test_is_kept_at_once_so_that_what_ends_until_the_first_look_is_told_of(self, service):
        store = Store()

        async def main():
            first = Triggerer(store, look_back=2)
            await until(lambda: store.places)
            await first.stop()
            return store.place["since"]

        since = asyncio.run(main())
        assert since < time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())

    def test_an_event_that_airflow_never_stores_comes_again(self, service):
        """Airflow then fails the watcher, and starts it anew."""
        store = Store()
        service.create("one")

        async def main():
            first = Triggerer(store, ack_timeout=1.0)
            await next_looks(service)
            service.end("one")
            await until(lambda: first.task.done())
            assert store.told == set()
            second = Triggerer(store)
            await until(lambda: second.events)
            await second.stop()
            await first.streams.stop_all()
            return type(first.task.exception()).__name__, second.names

        assert asyncio.run(main()) == ("AckTimeout", ["one"])

    def test_a_store_that_fails_loses_nothing(self, service, caplog):
        store = Store()
        service.create("one", age=9000)
        service.end("one")
        store.failures = [RuntimeError("the API is away")] * 3

        async def main():
            watcher = Triggerer(store)
            await until(lambda: watcher.events)
            store.failures = [RuntimeError("the API is away")]
            watcher.store_events()
            await until(lambda: not store.failures)
            service.create("two")
            service.end("two")
            await until(lambda: len(watcher.events) == 2)
            watcher.store_events()
            await until(lambda: store.told == {"one", "two"})
            await watcher.stop()
            return watcher.names

        assert asyncio.run(main()) == ["one", "two"]
        assert (
            "The watcher could not read its place, and tries again with its next look: the API" in caplog.text
        )
        assert (
            "The watcher could not keep its place; after a restart of the triggerer, jobs may " in caplog.text
        )
        assert "arrive again: the API is away" in caplog.text

    def test_a_place_that_cannot_be_read_is_told_and_begun_anew(self, service, caplog):
        store = Store()
        service.create("long-ago", age=9000)
        service.end("long-ago", age=8000)
        service.create("just", age=9000)
        service.end("just", age=5)
        key = PersonalizeBatchJobEventTrigger("segment")._key
        store.values = {key: {"version": 99}}

        async def main():
            watcher = Triggerer(store)
            await until(lambda: watcher.events)
            await watcher.stop()
            return watcher.names

        assert asyncio.run(main()) == ["just"]
        assert f"cannot read its place, which its asset's state store has under {key}: another" in caplog.text
        assert "It begins with the jobs that ended in the last 3600 s." in caplog.text

    def test_two_assets_with_equal_watchers_have_it_both(self, service):
        """They have one trigger, and Airflow's own call for its store fails (issue 71460)."""
        from airflow.sdk import Asset
        from airflow.sdk.execution_time.context import AssetStateStoreAccessors

        stores = AssetStateStoreAccessors(inlets=[Asset("one"), Asset("two")])
        fakes = {"one": Store(), "two": Store()}
        stores._by_name = fakes
        service.create("under-way")

        async def main():
            watcher = Triggerer(stores)
            await until(lambda: all(each.places and each.place["unfinished"] for each in fakes.values()))
            await watcher.stop()
            fakes["one"].values.clear()
            service.end("under-way")
            again = Triggerer(stores)
            await until(lambda: again.events)
            await again.stop()
            return again.names

        assert asyncio.run(main()) == ["under-way"]

    def test_of_two_assets_the_one_that_was_paused_misses_nothing(self, service):
        """Airflow ran the watcher for the other asset alone, which was told of a job."""
        from airflow.sdk import Asset
        from airflow.sdk.execution_time.context import AssetStateStoreAccessors

        fakes = {"one": Store(), "two": Store()}

        def stores(*names):
            found = AssetStateStoreAccessors(inlets=[Asset(name) for name in names])
            found._by_name = {name: fakes[name] for name in names}
            return found

        service.create("meanwhile")

        async def main():
            both = Triggerer(stores("one", "two"))
            await until(lambda: all(each.places and each.place["unfinished"] for each in fakes.values()))
            await both.stop()
            service.end("meanwhile")
            alone = Triggerer(stores("one"))
            await until(lambda: alone.events)
            alone.store_events()
            await until(lambda: fakes["one"].told == {"meanwhile"})
            await alone.stop()
            assert fakes["two"].told == set()
            again = Triggerer(stores("one", "two"))
            await until(lambda: again.events)
            again.store_events()
            await until(lambda: all(each.told == {"meanwhile"} for each in fakes.values()))
            await again.stop()
            return again.names

        assert asyncio.run(main()) == ["meanwhile"]

    def test_of_two_assets_a_new_one_is_told_of_look_back_and_the_other_misses_nothing(self, service):
        """A second DAG was added, whose asset is new."""
        from airflow.sdk import Asset
        from airflow.sdk.execution_time.context import AssetStateStoreAccessors

        fakes = {"new": Store(), "old": Store()}

        def stores(*names):
            found = AssetStateStoreAccessors(inlets=[Asset(name) for name in names])
            found._by_name = {name: fakes[name] for name in names}
            return found

        service.create("slow", age=99 * 3600)
        service.create("past", age=9000)
        service.create("recent", age=900)

        async def main():
            alone = Triggerer(stores("old"))
            await next_looks(service)
            service.end("past", age=8000)
            service.end("recent", age=600)
            await until(lambda: len(alone.names) == 2)
            alone.store_events()
            await until(lambda: fakes["old"].told == {"past", "recent"})
            await alone.stop()
            service.end("slow", age=8000)
            names = []
            for is_stored in (False, True):
                # The first triggerer dies before Airflow has stored the event.
                both = Triggerer(stores("new", "old"))
                await until(lambda both=both: both.events)
                if is_stored:
                    both.store_events()
                    await until(lambda: all("recent" in each.told for each in fakes.values()))
                    assert not any(each.place["unfinished"] for each in fakes.values())
                await both.stop()
                names.append(sorted(both.names))
            return names

        assert asyncio.run(main()) == [["recent", "slow"]] * 2

    @pytest.mark.parametrize("is_other_first", [False, True])
    @pytest.mark.parametrize("is_begun_anew", [True, False])
    def test_that_was_abandoned_is_begun_anew(
        self, service, monkeypatch, caplog, is_begun_anew, is_other_first
    ):
        """For 20 days the asset watched for something else, or for nothing; for 20 more no triggerer ran."""
        store, days = Store(), 20 * 86_400
        clock, ahead = time.time, 0.0
        monkeypatch.setattr(time, "time", lambda: clock() + ahead)
        service.create("before", age=9000)
        service.end("before", age=8000)

        async def watch(seconds=0, **options):
            nonlocal ahead
            watcher = Triggerer(store, **options)
            await until(lambda: f"{watcher.trigger._key}-alive" in store.values)
            for _ in range(0, seconds, 600):
                ahead += 600
                await watcher.trigger._say_alive()
            await next_looks(service)
            watcher.store_events()
            await next_looks(service)
            await watcher.stop()
            return watcher.names

        async def main():
            nonlocal ahead
            await watch(endings="failed")
            await watch()
            await watch(days if is_begun_anew else 0, endings="failed")
            ahead = 2 * days
            service.now = time.time()
            if is_other_first:
                await watch(endings="failed")
            for number in range(9):
                service.create(f"meanwhile-{number}", age=86_400 * (number + 1))
                service.end(f"meanwhile-{number}", age=86_400 * (number + 1))
            service.create("just", age=9000)
            service.end("just", age=60)
            return await watch()

        told = asyncio.run(main())
        assert len(told) == (1 if is_begun_anew else 10)
        assert told[-1] == "just"
        words = "The watcher does not go on at its place, where it was until "
        assert (words in caplog.text) is is_begun_anew
        assert ("It begins with the jobs that ended in the last 3600 s." in caplog.text) is is_begun_anew

    def test_goes_on_beside_signs_of_life_that_nobody_can_read(self, service):
        """They are what something else wrote; the watcher replaces them."""
        store = Store()
        service.create("one")

        async def main():
            first = Triggerer(store)
            await until(lambda: store.places and store.place["unfinished"])
            await first.stop()
            keys = [watcher_module.ALIVE_KEY, f"{first.trigger._key}-alive"]
            names = []
            for odd in (1_790_000_000.0, "2026-09-21T10:00:00+00:00", {"at": "now"}, []):
                store.values |= dict.fromkeys(keys, odd)
                again = Triggerer(store)
                await until(lambda odd=odd: all(store.values[key] != odd for key in keys))
                service.end("one")
                await until(lambda again=again: again.events)
                await again.stop()
                names += again.names
            return names, [store.values[key]["watchedSeconds"] for key in keys]

        assert asyncio.run(main()) == (["one"] * 4, [0.0, 0.0])

    def test_is_not_abandoned_while_aws_does_not_answer(self, service, monkeypatch):
        monkeypatch.setattr(watcher_module, "HEARTBEAT", 0.1)
        store = Store()

        async def main():
            first = Triggerer(store)
            await until(lambda: store.places)
            service.faults = [error("AccessDeniedException")] * 1_000
            alive = dict(store.values)
            keys = [watcher_module.ALIVE_KEY, f"{first.trigger._key}-alive"]
            await until(lambda: all(store.values[key]["at"] > alive[key]["at"] for key in keys))
            await until(lambda: all(store.values[key]["watchedSeconds"] > 0 for key in keys))
            await first.stop()
            stopped = dict(store.values)
            await asyncio.sleep(0.3)
            assert store.values == stopped
            assert len(asyncio.all_tasks()) == 1

        asyncio.run(main())

    def test_of_another_account_is_told_and_begun_anew(self, service, caplog):
        store = Store()
        theirs = {
            name: job_arn(name).replace("123456789012", "210987654321")
            for name in ("old-1", "old-2", "just", "new")
        }
        service.create("ours")

        async def main():
            first = await tell_of_one(service, store, "ours")
            first.store_events()
            await until(lambda: store.told == {"ours"})
            await first.stop()
            service.jobs.clear()
            for number in (1, 2):
                service.create(f"old-{number}", age=7300, batchSegmentJobArn=theirs[f"old-{number}"])
                service.end(f"old-{number}", age=7200)
            service.create("just", age=7300, batchSegmentJobArn=theirs["just"])
            service.end("just", age=60)
            second = Triggerer(store)
            await until(lambda: second.events)
            await next_looks(service)
            service.create("new", batchSegmentJobArn=theirs["new"])
            service.end("new")
            await until(lambda: len(second.events) == 2)
            await second.stop()
            return second.names

        assert asyncio.run(main()) == ["just", "new"]
        assert (
            "The connection 'aws_default' leads to us-east-1:210987654321 now, and led to "
            "us-east-1:123456789012 before. The watcher begins anew, with the jobs that ended in the last "
            "3600 s."
        ) in caplog.text

    def test_its_key_says_what_is_watched_and_not_how_often(self):
        def key(**parameters):
            return PersonalizeBatchJobEventTrigger(**{"kind": "segment", **parameters})._key

        watched = [
            {},
            {"kind": "inference"},
            {"solution_version_arn": SOLUTION_VERSION_ARN},
            {"endings": "all"},
            {"aws_conn_id": None},
            {"region_name": "eu-west-1"},
        ]
        for one, other in itertools.combinations(watched, 2):
            assert key(**one) != key(**other)
        assert key(poll_interval=5, look_back=60, verify=False, botocore_config={"x": 1}) == key()
        # What is stored today is found by later releases.
        assert key() == "personalize-segment-jobs-e3a3811e7177"
