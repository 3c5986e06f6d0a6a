"""A running Airflow whose triggerer dies again and again while jobs end; each arrives, and starts a DAG."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import airflow
import pytest
from listing_service import ListingService
from running_airflow.harness import IS_AIRFLOW_3, run_airflow
from scripted_endpoint import SOLUTION_VERSION_ARN, Answer, ScriptedEndpoint, error

pytestmark = pytest.mark.skipif(not IS_AIRFLOW_3, reason="Airflow 2 has no watchers")

DAG_FILE = Path(__file__).parent / "running_airflow" / "watching.py"
KEEPS_PLACE = not airflow.__version__.startswith(("3.0.", "3.1.", "3.2."))
JOBS = 100
KILLS = 20 if KEEPS_PLACE else 2
POLL_INTERVAL = 1.0
OTHER_VERSION = SOLUTION_VERSION_ARN.replace("shop", "other")
IS_PLACE = "key NOT LIKE '%-alive'"
WATCHERS = {
    "segments": {"kind": "segment", "poll_interval": POLL_INTERVAL},
    "all_endings": {"kind": "segment", "poll_interval": POLL_INTERVAL, "endings": "all"},
    "other_version": {
        "kind": "segment",
        "poll_interval": POLL_INTERVAL,
        "solution_version_arn": OTHER_VERSION,
    },
}


class Endings:
    """Ends jobs one after the other, and kills the triggerer at the worst moments while it tells of them."""

    def __init__(self, database, service):
        self.database = database
        self.service = service
        self.unfinished = [f"job-{number}" for number in reversed(range(JOBS))]
        self.ended = []
        self.kills = Counter()

    def end(self, number):
        self.service.now = time.time()
        for _ in range(min(number, len(self.unfinished))):
            name = self.unfinished.pop()
            failed = int(name.partition("-")[2]) % 10 == 0
            self.service.end(name, "CREATE FAILED" if failed else "ACTIVE")
            self.ended.append(name)

    def stored_events(self):
        return self.database.execute("SELECT count(*) FROM asset_event").fetchall()[0][0]

    def places(self):
        if not KEEPS_PLACE:
            return []
        return self.database.execute(f"SELECT key, value FROM asset_state_store WHERE {IS_PLACE}").fetchall()

    def looks(self):
        return self.service.calls["ListBatchSegmentJobs"]

    def wait(self, moment):
        """Wait until the triggerer is just where its death does the most harm."""
        looks, events, places = self.looks(), self.stored_events(), self.places()
        {
            # It may have read the end, and told nobody.
            "while it lists": lambda: self.spin(lambda: self.looks() > looks),
            # Airflow has the event, and the watcher has not kept its place.
            "when an event is stored": lambda: self.spin(lambda: self.stored_events() > events),
            "when a place is kept": lambda: self.spin(lambda: self.places() != places),
        }[moment]()
        self.kills[moment] += 1

    def spin(self, condition):
        """Without the pauses of the harness, which are longer than these moments."""
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline, "the triggerer did nothing for two minutes"
            time.sleep(0.005)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    home = tmp_path_factory.mktemp("watching")
    service = ListingService(page_size=20, now=time.time())
    for number in range(300):
        service.create(f"history-{number}", age=9_000_000 - number)
        service.end(f"history-{number}", age=8_000_000 - number)
    for number in range(JOBS):
        version = OTHER_VERSION if number % 4 == 3 else SOLUTION_VERSION_ARN
        service.create(f"job-{number}", age=7_000_000 - number, solutionVersionArn=version)
    moments = ["while it lists", "when an event is stored"]
    if KEEPS_PLACE:
        # A watcher keeps a place seconds after its event, and its death then does the least harm.
        moments = [*moments * 2, "when a place is kept"]
    with (
        ScriptedEndpoint(service.answer) as endpoint,
        run_airflow(home, DAG_FILE, {"watchers": WATCHERS}, endpoint.connection, SETTINGS) as running,
        # One for all questions: a new one for each takes longer than some of the moments.
        closing(sqlite3.connect(running.database, timeout=60)) as database,
    ):
        endings = Endings(database, service)
        running.wait_until(lambda: service.calls["ListBatchSegmentJobs"] > 20, "the watchers look")
        if KEEPS_PLACE:
            running.wait_until(
                lambda: sum("job-99" in value for _, value in endings.places()) == len(WATCHERS),
                "the watchers have kept their first places",
            )
        for number in range(KILLS):
            endings.end(JOBS // KILLS)
            endings.wait(moments[number % len(moments)])
            running.kill("triggerer")
            if number % 5 == 4:
                service.faults = [error("ThrottlingException"), Answer(b"<html>", 502)]
            running.start_triggerer()
        endings.end(JOBS)
        running.wait_until(lambda: has_arrived(running, endings), "all jobs arrive")
        yield running, endings


SETTINGS = {
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "2",
    # Airflow 3.0 makes a watcher's trigger when it parses the file for the second time.
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "60" if KEEPS_PLACE else "15",
}


def stored_events(running, name):
    """Return the events that Airflow has stored for an asset, each as the names of its jobs."""
    statement = "SELECT asset_event.extra FROM asset_event JOIN asset ON asset.id = asset_id WHERE name = ?"
    rows = running.query(f"{statement} ORDER BY asset_event.id", name)
    return [{job["jobName"] for job in json.loads(extra)["payload"]} for (extra,) in rows]


def consumed_jobs(running, name):
    """Return the names of the jobs that the runs of an asset's DAG were started by."""
    lines = [line for line in running.events() if line["run_id"] in runs_of(running, f"on_{name}")]
    return [job["jobName"] for line in lines for event in line["events"] for job in event]


def runs_of(running, dag_id):
    return {run_id for (run_id,) in running.query("SELECT run_id FROM dag_run WHERE dag_id = ?", dag_id)}


def expected(endings, name):
    numbers = {int(each.partition("-")[2]) for each in endings.ended}
    keep = {
        "segments": lambda number: number % 10,
        "all_endings": lambda number: True,
        "other_version": lambda number: number % 4 == 3 and number % 10,
    }[name]
    return {f"job-{number}" for number in numbers if keep(number)}


def has_arrived(running, endings):
    return all(set(consumed_jobs(running, name)) >= expected(endings, name) for name in WATCHERS)


@pytest.mark.parametrize("name", WATCHERS)
def test_each_job_arrives_and_starts_a_run(watched, name):
    running, endings = watched
    assert set().union(*stored_events(running, name)) == expected(endings, name)
    assert set(consumed_jobs(running, name)) == expected(endings, name)


def test_the_triggerer_died_so_often(watched):
    _, endings = watched
    assert sum(endings.kills.values()) == KILLS
    assert len(endings.ended) == JOBS


@pytest.mark.skipif(not KEEPS_PLACE, reason="before Airflow 3.3 each start tells of look_back again")
def test_only_the_first_event_after_a_death_tells_of_a_job_again(watched, record_property):
    running, _ = watched
    lines = []
    for name in WATCHERS:
        told, doubled, repeating = set(), 0, 0
        events = stored_events(running, name)
        for event in events:
            doubled += len(told & event)
            repeating += bool(told & event)
            told |= event
        lines.append(
            f"{name}: {len(told)} jobs in {len(events)} events; {doubled} came again, in {repeating}"
        )
        assert repeating <= KILLS
    record_property("counted", "\n".join([f"{KILLS} deaths of the triggerer, {JOBS} jobs.", *lines]))


def test_no_watcher_was_made_anew_by_a_parse(watched):
    running, _ = watched
    assert running.query("SELECT count(*), max(id) FROM trigger") == [(len(WATCHERS), len(WATCHERS))]


@pytest.mark.skipif(not KEEPS_PLACE, reason="before Airflow 3.3 each start tells of look_back again")
def test_a_dag_hears_of_the_jobs_that_ended_while_it_was_paused(watched):
    """The last test of this module: it adds jobs that the others do not know."""
    running, endings = watched
    service = endings.service

    def end_a_job(name):
        service.now = time.time()
        service.create(name, solutionVersionArn=OTHER_VERSION)
        service.end(name)

    def pause(is_paused):
        running.ask("PATCH", "/dags/on_other_version", {"is_paused": is_paused})
        watchers = len(WATCHERS) - is_paused
        # Airflow ends or begins a watcher when it parses the file.
        os.utime(running.dags / DAG_FILE.name)
        running.wait_until(
            lambda: running.query("SELECT count(*) FROM trigger") == [(watchers,)], f"{watchers} watchers"
        )

    def is_told(name, asset):
        return name in consumed_jobs(running, asset)

    def keeps_its_place():
        statement = "SELECT value FROM asset_state_store JOIN asset ON asset.id = asset_id"
        ((place,),) = running.query(f"{statement} WHERE {IS_PLACE} AND name = ?", "other_version")
        return json.loads(place)["unfinished"] == []  # it has told of all that it saw

    running.wait_until(keeps_its_place, "the watcher has kept its place")
    running.ask("PATCH", "/dags/on_other_version", {"is_paused": True})
    end_a_job("paused-with-a-watcher")
    running.wait_until(lambda: is_told("paused-with-a-watcher", "segments"), "the others hear of a job")
    pause(True)
    end_a_job("paused-without-a-watcher")
    running.wait_until(lambda: is_told("paused-without-a-watcher", "segments"), "the others hear of a job")
    assert not is_told("paused-with-a-watcher", "other_version")
    assert not set().union(*stored_events(running, "other_version")) & {"paused-without-a-watcher"}
    pause(False)
    running.wait_until(lambda: is_told("paused-without-a-watcher", "other_version"), "it hears of the job")
    assert is_told("paused-with-a-watcher", "other_version")
    # It went on at its place: it tells again of nothing but what it told just before it ended.
    again = stored_events(running, "other_version")[-1] - {"paused-without-a-watcher"}
    assert again <= {"paused-with-a-watcher"}
