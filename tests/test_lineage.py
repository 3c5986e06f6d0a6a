"""What a try knows about those before it, and on which Airflow; test_creating.py shows what comes of it."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import airflow
import pytest

from airflow_provider_personalize_segments.airflow_compat import find_start_of_try
from airflow_provider_personalize_segments.creating.lineage import STATE_KEY, TaskTries
from airflow_provider_personalize_segments.jobs import BatchJobKind

IS_AIRFLOW_3 = not airflow.__version__.startswith("2.")
ARN = "arn:aws:personalize:us-east-1:123456789012:batch-segment-job/weekly"
REQUEST = {"roleArn": "arn:aws:iam::123456789012:role/personalize", "tags": [{"tagKey": "a", "tagValue": ""}]}
START = datetime(2026, 11, 23, 2, tzinfo=UTC)
RUN_START = START - timedelta(hours=3)
log = logging.getLogger("tries")

DAG = """
from airflow.providers.common.compat.sdk import DAG, task

with DAG("shop", schedule=None) as dag:
    @task
    def create():
        pass

    create()
"""


class Store(dict):
    def set(self, key, value):
        self[key] = value


def tries(try_number=1, max_tries=0, retries=0, store=None, start=START):
    ti = SimpleNamespace(
        dag_id="shop",
        task_id="create",
        run_id="run",
        map_index=-1,
        try_number=try_number,
        max_tries=max_tries,
        start_date=start,
    )
    dag_run = SimpleNamespace(start_date=RUN_START)
    return TaskTries({"ti": ti, "dag_run": dag_run, "task_state_store": store}, retries, log)


@pytest.mark.parametrize(
    ("try_number", "max_tries", "retries", "first"),
    [
        (1, 0, 0, 1),
        (2, 2, 2, 1),
        (2, 1, 0, 2),  # cleared
        (3, 3, 2, 2),  # cleared after the first, and tried again
        (2, 2, 0, 2),  # retries were lowered: nobody knows better
        (1, None, 2, 1),
    ],
)
def test_the_first_try_since_the_task_was_cleared(try_number, max_tries, retries, first):
    each = tries(try_number, max_tries, retries)
    assert each.first == first
    assert each.is_first == (try_number == first)


@pytest.mark.usefixtures("_airflow_database")
@pytest.mark.parametrize(
    ("try_number", "store", "start", "is_known"),
    [(1, None, START, True), (2, Store(), None, True), (2, None, RUN_START, False)],
    ids=["the first", "nothing was kept", "Airflow does not tell"],
)
def test_since_when_a_job_may_be_theirs(try_number, store, start, is_known):
    each = tries(try_number, 1, 1, store)
    assert each.find_start() == start
    assert each.is_start_known == is_known


class TestKept:
    def recall(self, store, max_tries=1, kind=BatchJobKind.SEGMENT, region="us-east-1"):
        later = tries(2, max_tries, 1, store, START + timedelta(hours=1))
        kept = later.recall(kind, region)
        assert later.kept == kept
        return kept, later

    def test_comes_back_without_tags_and_with_the_first_start(self):
        store = Store()
        tries(1, 1, 1, store).keep(ARN, REQUEST)
        kept, later = self.recall(store)
        request = {"roleArn": REQUEST["roleArn"]}
        assert kept == {
            "job_arn": ARN, "request": request, "since": START.isoformat(), "max_tries": 1
        }  # fmt: skip
        assert later.find_start() == START
        later.keep(f"{ARN}-2", REQUEST)
        assert store[STATE_KEY] == {**kept, "job_arn": f"{ARN}-2"}

    @pytest.mark.parametrize(
        "other", [{"max_tries": 2}, {"kind": BatchJobKind.INFERENCE}, {"region": "eu-west-1"}], ids=str
    )
    def test_does_not_count_when_it_is_not_about_this(self, other):
        store = Store()
        tries(1, 1, 1, store).keep(ARN, REQUEST)
        assert self.recall(store, **other)[0] == {}

    @pytest.mark.parametrize(
        "change",
        [{"job_arn": "weekly"}, {"job_arn": None}, {"since": "yesterday"}, {"since": None}, {"request": "x"}],
        ids=str,
    )
    def test_does_not_count_when_it_makes_no_sense(self, change):
        store = Store()
        tries(1, 1, 1, store).keep(ARN, REQUEST)
        store[STATE_KEY] |= change
        assert self.recall(store)[0] == {}

    @pytest.mark.parametrize("kept", [None, "x", [], {}])
    def test_does_not_count_when_it_is_something_else(self, kept):
        assert self.recall(Store({STATE_KEY: kept}))[0] == {}

    def test_is_nothing_where_there_is_no_store(self):
        tries().keep(ARN, REQUEST, is_needed=True)
        assert self.recall(None)[0] == {}


def test_airflow_tells_when_an_earlier_try_began(run_dag):
    (ti,) = run_dag(DAG)._dag_run.get_task_instances()
    context = {"ti": ti}
    assert find_start_of_try(context, ti.try_number) is None
    if IS_AIRFLOW_3:
        return  # no task may ask the database
    from airflow.models.taskinstancehistory import TaskInstanceHistory

    TaskInstanceHistory.record_ti(ti)  # as when it is cleared
    assert find_start_of_try(context, ti.try_number) == ti.start_date
    assert find_start_of_try(context, ti.try_number + 1) is None
