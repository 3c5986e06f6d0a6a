"""A task's lineage: which names are its own, and what it records; test_creating.py shows the outcome."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import airflow
import pytest

from airflow_provider_personalize_segments.airflow_compat import keep_for_ever
from airflow_provider_personalize_segments.creating import lineage
from airflow_provider_personalize_segments.creating.lineage import (
    STATE_KEY,
    Record,
    TaskRecord,
    make_wanted,
)
from airflow_provider_personalize_segments.creating.names import (
    TaskLineage,
    derive_job_name,
    extend_job_name,
)
from airflow_provider_personalize_segments.creating.once import ADOPT, FAIL, MAX_LOOKS_BACK, NEW, Plan
from airflow_provider_personalize_segments.errors import StateStoreUnavailableError
from airflow_provider_personalize_segments.jobs import BatchJobKind

VERSION = "arn:aws:personalize:us-east-1:123456789012:solution/shop/4aa8f2c1"
REQUEST = {"solutionVersionArn": VERSION, "tags": [{"tagKey": "a", "tagValue": ""}]}
PLAN = Plan(BatchJobKind.SEGMENT, "weekly", REQUEST)
UNNAMED = PLAN._replace(job_name="")
LINEAGE = TaskLineage("shop", "create", "run", -1, 3)
log = logging.getLogger("lineage")


class Store(dict):
    def set(self, key, value, *, retention):
        self[key] = json.loads(json.dumps(value))
        self.retention = retention


class BrokenStore:
    def get(self, key):
        raise RuntimeError("the API server is restarting")

    def set(self, key, value, *, retention):
        raise RuntimeError("the API server is restarting")


def record(store=None, **fields):
    ti = {"dag_id": "shop", "task_id": "create", "run_id": "run", "map_index": -1, "max_tries": 3}
    return TaskRecord({"ti": SimpleNamespace(**ti | fields), "task_state_store": store}, log)


class TestNames:
    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({}, LINEAGE),
            ({"map_index": None}, LINEAGE),
            ({"map_index": 4}, LINEAGE._replace(map_index=4)),
            ({"max_tries": None}, LINEAGE._replace(max_tries=0)),
        ],
        ids=str,
    )
    def test_come_from_the_task_instance(self, fields, expected):
        assert record(**fields).lineage == expected

    def test_without_one_of_the_users_are_the_lineages_alone(self):
        wanted = make_wanted(LINEAGE, UNNAMED, ADOPT, None, has_run=False, is_first=True)
        assert wanted.plan == PLAN._replace(job_name=derive_job_name(LINEAGE))
        assert (wanted.is_own, wanted.kept, wanted.earlier) == (True, None, ())

    @pytest.mark.parametrize("if_exists", [ADOPT, FAIL])
    def test_of_the_users_are_anybodys(self, if_exists):
        wanted = make_wanted(LINEAGE, PLAN, if_exists, None, has_run=False, is_first=True)
        assert (wanted.plan, wanted.if_exists, wanted.is_own, wanted.earlier) == (PLAN, if_exists, False, ())

    def test_of_new_jobs_are_the_users_and_the_lineages(self):
        wanted = make_wanted(LINEAGE, PLAN, NEW, None, has_run=False, is_first=True)
        assert wanted.plan.job_name == extend_job_name("weekly", LINEAGE)
        assert wanted.is_own

    @pytest.mark.parametrize("name", ["", "weekly"])
    def test_of_earlier_lineages_are_known_newest_first(self, name):
        wanted = make_wanted(LINEAGE, PLAN._replace(job_name=name), NEW, None)
        earlier = [LINEAGE._replace(max_tries=each) for each in (2, 1, 0)]
        names = [extend_job_name(name, each) if name else derive_job_name(each) for each in earlier]
        assert list(wanted.earlier) == names

    def test_of_earlier_lineages_are_known_whatever_retries_says(self):
        """A clear may set ``max_tries`` to an edited ``retries``, as if the task never was cleared."""
        wanted = make_wanted(LINEAGE, UNNAMED, ADOPT, None)
        assert len(wanted.earlier) == LINEAGE.max_tries

    def test_of_earlier_lineages_are_not_without_end(self):
        wanted = make_wanted(LINEAGE._replace(max_tries=500), UNNAMED, ADOPT, None)
        assert len(wanted.earlier) == MAX_LOOKS_BACK


class TestRecord:
    def test_comes_back_whole_and_does_not_expire(self):
        store = Store()
        record(store).keep(PLAN)
        assert record(store).recall() == Record(PLAN, 3, has_delivered=False)
        assert store[STATE_KEY] == {
            "kind": "segment",
            "job_name": "weekly",
            "request": REQUEST,
            "max_tries": 3,
            "has_delivered": False,
            "earlier_requests": [],
        }
        if tuple(map(int, airflow.__version__.split(".")[:2])) >= (3, 3):
            from airflow.sdk.execution_time.context import NEVER_EXPIRE

            assert store.retention is NEVER_EXPIRE

    def test_is_resumed_by_the_same_lineage(self):
        wanted = make_wanted(LINEAGE, UNNAMED, ADOPT, Record(PLAN, 3))
        assert (wanted.kept, wanted.earlier) == (PLAN, ())

    @pytest.mark.parametrize(
        ("plan", "if_exists", "earlier"),
        [
            (UNNAMED, ADOPT, ("weekly",)),
            (PLAN, NEW, ("weekly",)),
            (PLAN, FAIL, ("weekly",)),
            (PLAN, ADOPT, ()),
        ],
        ids=["derived", "new", "fail", "adopt"],
    )
    def test_tells_a_later_lineage_the_name(self, plan, if_exists, earlier):
        wanted = make_wanted(LINEAGE, plan, if_exists, Record(PLAN, 1))
        assert (wanted.kept, wanted.earlier) == (None, earlier)

    @pytest.mark.parametrize(
        "plan",
        [
            PLAN._replace(kind=BatchJobKind.INFERENCE),
            PLAN._replace(request={"solutionVersionArn": VERSION.replace("us-east-1", "eu-west-1")}),
        ],
        ids=["of the other kind", "of another region"],
    )
    def test_does_not_count_when_it_is(self, plan):
        assert make_wanted(LINEAGE, PLAN, FAIL, Record(plan, 3)).kept is None

    @pytest.mark.parametrize(
        "change",
        [
            {"kind": "other"},
            {"job_name": None},
            {"job_name": "a b"},
            {"request": "x"},
            {"request": {}},
            {"max_tries": None},
        ],
        ids=str,
    )
    def test_does_not_count_when_it_makes_no_sense(self, change):
        store = Store()
        record(store).keep(PLAN)
        store[STATE_KEY] |= change
        assert record(store).recall() is None

    @pytest.mark.parametrize("kept", [None, "x", [], {}])
    def test_does_not_count_when_it_is_something_else(self, kept):
        assert record(Store({STATE_KEY: kept})).recall() is None

    def test_is_nothing_where_there_is_no_store(self):
        record().keep(PLAN)
        assert record().recall() is None

    def test_of_a_release_that_did_not_tell_whether_it_delivered_is_read(self):
        kept = {"kind": "segment", "job_name": "weekly", "request": REQUEST, "max_tries": 3}
        assert record(Store({STATE_KEY: kept})).recall() == Record(PLAN, 3)

    def test_tells_an_empty_store_from_one_that_was_not_asked(self):
        asked, not_asked, full = record(Store()), record(Store()), record(Store({STATE_KEY: "x"}))
        assert (asked.recall(), full.recall()) == (None, None)
        assert (asked.is_empty, not_asked.is_empty, full.is_empty) == (True, False, False)

    def test_is_written_once(self):
        store = Store()
        first = record(store)
        first.keep(PLAN)
        store.clear()
        first.keep(PLAN)
        assert store == {}

    @pytest.mark.parametrize(
        ("action", "ask"),
        [("read", TaskRecord.recall), ("written", lambda broken: broken.keep(PLAN))],
        ids=["read", "written"],
    )
    def test_that_is_out_of_reach_ends_the_try_after_a_while(self, monkeypatch, caplog, action, ask):
        pauses = []
        monkeypatch.setattr(lineage, "time", SimpleNamespace(sleep=pauses.append))
        words = f"Airflow's task state store could not be {action}: the API server is restarting"
        with (
            caplog.at_level(logging.WARNING),
            pytest.raises(StateStoreUnavailableError, match=f"^{words}"),
        ):
            ask(record(BrokenStore()))
        assert pauses == list(lineage.PAUSES)
        assert caplog.text.count(f"Not yet: {words}") == len(pauses)


def test_a_value_is_kept_for_ever():
    store = Store()
    keep_for_ever(store, "key", 1)
    assert store == {"key": 1}
