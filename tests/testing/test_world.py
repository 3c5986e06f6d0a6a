"""The world of ``make airflow``, hours of it in no time: its time is a number."""

from __future__ import annotations

import re
import threading
from collections import Counter

import boto3
import pytest

from airflow_provider_personalize_segments.jobs import BATCH_JOB_KINDS
from airflow_provider_personalize_segments.testing import LocalPersonalize
from airflow_provider_personalize_segments.testing import world as module
from airflow_provider_personalize_segments.testing.example_jobs import ROLE_ARN
from airflow_provider_personalize_segments.testing.world import World, living

SEGMENT, INFERENCE = BATCH_JOB_KINDS
ARN = "arn:aws:personalize:us-east-1:123456789012:{}/{}"
FIRST_WEEK, SECOND_WEEK = (ARN.format("batch-segment-job", f"weekly-segments-{week}") for week in (1, 2))


class Stage:
    """A world, what it told, and a client like that of a task."""

    def __init__(self, local, **options):
        self.local = local
        self.told = []
        self.now = 0
        self.world = World(local, self.told.append, **options)
        session = boto3.Session("testing", "testing", region_name="us-east-1")
        self.client = session.client("personalize", endpoint_url=local.endpoint_url)

    def until(self, now, step=1):
        while self.now < now:
            self.now += step
            self.world.go_on(self.now)

    def ask(self, arn):
        return self.client.describe_batch_segment_job(batchSegmentJobArn=arn)["batchSegmentJob"]["status"]

    def jobs(self, kind=SEGMENT):
        pages = self.client.get_paginator(kind.list_method).paginate()
        return {job["jobName"]: job for page in pages for job in page[kind.jobs_member]}

    def count_running(self):
        jobs = self.local.backend("us-east-1").jobs.values()
        return sum(job.kind is SEGMENT and not job.is_finished for job in jobs)

    def create(self, name):
        jobs = self.local.backend("us-east-1").jobs
        example = jobs[FIRST_WEEK].request
        return self.client.create_batch_segment_job(
            jobName=name,
            solutionVersionArn=example["solutionVersionArn"],
            jobInput=example["jobInput"],
            jobOutput={"s3DataDestination": {"path": f"s3://demo-bucket/{name}/"}},
            roleArn=ROLE_ARN,
        )["batchSegmentJobArn"]


@pytest.fixture
def local():
    with LocalPersonalize(progress="by_hand") as local:
        yield local


@pytest.fixture
def stage(local):
    return Stage(local)


class TestTheJobsThatExamplesWaitFor:
    def test_run_until_somebody_asks_however_long_that_takes(self, stage):
        stage.until(900, step=15)
        assert stage.jobs()["weekly-segments-1"]["status"] == "CREATE IN_PROGRESS"
        assert stage.jobs()["doomed-segments"]["status"] == "CREATE IN_PROGRESS"
        assert stage.jobs(INFERENCE)["demo-recommendations"]["status"] == "CREATE IN_PROGRESS"

    def test_end_a_while_after_the_first_question(self, stage):
        stage.until(200)
        assert stage.ask(FIRST_WEEK) == "CREATE IN_PROGRESS"
        stage.until(201 + module.SECONDS_AFTER_QUESTION - 2)
        assert stage.ask(FIRST_WEEK) == "CREATE IN_PROGRESS"  # asking again does not prolong it
        stage.until(201 + module.SECONDS_AFTER_QUESTION)
        assert stage.ask(FIRST_WEEK) == "ACTIVE"
        assert "batch segment job weekly-segments-1 is ACTIVE" in stage.told

    def test_are_not_done_in_a_moment_when_somebody_asks_at_once(self, stage):
        stage.ask(FIRST_WEEK)
        stage.until(module.SECONDS_AFTER_QUESTION - 1)
        assert stage.ask(FIRST_WEEK) != "ACTIVE"
        stage.until(120)
        assert stage.ask(FIRST_WEEK) == "ACTIVE"

    def test_the_one_that_is_found_as_the_newest_has_a_successor_at_once(self, stage):
        stage.ask(FIRST_WEEK)
        stage.until(120)
        newest = [job for job in stage.jobs().values() if "demo-segments" in job["solutionVersionArn"]]
        assert max(newest, key=lambda job: job["creationDateTime"])["jobName"] == "weekly-segments-2"
        stage.until(400)
        assert stage.ask(SECOND_WEEK) == "CREATE IN_PROGRESS"

    def test_the_successor_comes_later_when_no_more_jobs_may_run(self, stage):
        stage.ask(FIRST_WEEK)
        stage.until(100)
        while stage.count_running() < 5:
            stage.create(f"mine-{stage.count_running()}")
        stage.local.set_status(FIRST_WEEK, "ACTIVE")
        stage.create("quicker")
        stage.until(101)
        assert "weekly-segments-2" not in stage.jobs()
        stage.until(160)
        assert stage.jobs()["weekly-segments-2"]["status"].startswith("CREATE")

    def test_the_doomed_one_fails_with_its_reason(self, stage):
        arn = ARN.format("batch-segment-job", "doomed-segments")
        stage.until(30)
        stage.ask(arn)
        stage.until(150)
        assert stage.local.job(arn)["status"] == "CREATE FAILED"
        assert stage.local.job(arn)["failureReason"] == "Invalid S3 output path"
        assert "batch segment job doomed-segments is CREATE FAILED: Invalid S3 output path" in stage.told

    def test_write_their_output(self, stage):
        stage.ask(FIRST_WEEK)
        stage.until(120)
        session = boto3.Session("testing", "testing", region_name="us-east-1")
        s3 = session.client("s3", endpoint_url=stage.local.endpoint_url)
        found = s3.get_object(Bucket="demo-bucket", Key="output/weekly-segments-1/segment.jsonl.out")
        assert len(found["Body"].read().splitlines()) == 5


class TestOtherTeams:
    def test_begin_jobs_of_both_kinds_that_end_and_some_of_which_fail(self, stage):
        stage.until(1200, step=15)
        for kind in BATCH_JOB_KINDS:
            jobs = [job for name, job in stage.jobs(kind).items() if re.match(r"newsletter|shop-page", name)]
            ends = Counter(job["status"] for job in jobs)
            assert ends["ACTIVE"] > ends["CREATE FAILED"] > 2
            assert len(jobs) - ends["ACTIVE"] - ends["CREATE FAILED"] <= 2
            reasons = {job["failureReason"] for job in jobs if "failureReason" in job}
            assert len(reasons) > 1
            assert reasons <= set(module.REASONS)

    def test_take_all_slots_at_times_and_give_them_back(self, stage):
        full = []
        for now in range(1, 1000):
            stage.until(now)
            full.append(stage.count_running() == 5)
        assert not any(full[:300])  # not before the first clicks
        assert 2 * module.SECONDS_OF_RUSH <= sum(full) < 4 * module.SECONDS_OF_RUSH
        assert not full[-1]

    def test_ask_once_a_turn_for_a_slot_that_is_not_there(self, stage):
        while stage.count_running() < 5:
            stage.until(stage.now + 1)
        for _ in range(3):
            stage.local.clear_calls()
            stage.until(stage.now + 1)
            refused = [each for each in stage.local.calls if each.operation == "CreateBatchSegmentJob"]
            assert len(refused) == 1

    def test_begin_no_more_after_so_many(self, local):
        stage = Stage(local, most_jobs=12)
        stage.until(45 * 20, step=15)
        begun = [line for line in stage.told if line.endswith(" begins")]
        teams = [line for line in begun if re.search("newsletter|shop-page|backfill", line)]
        assert len(teams) == 12
        assert len(begun) == len(teams) + 4
        assert len(stage.jobs()) + len(stage.jobs(INFERENCE)) == len(begun)

    def test_leave_room_for_a_task(self, stage):
        stage.until(60)
        assert stage.create("mine")

    def test_do_without_a_name_that_somebody_has_used(self, stage):
        stage.create("newsletter-2")
        stage.create("weekly-segments-2")
        stage.ask(FIRST_WEEK)
        stage.until(200)
        assert stage.told.count("batch segment job newsletter-2 begins") == 1
        assert "batch segment job newsletter-4 begins" in stage.told
        assert "batch segment job weekly-segments-3 begins" in stage.told


class TestTheJobsOfTasks:
    def test_take_half_a_minute(self, stage):
        stage.until(10)
        arn = stage.create("mine")
        stage.until(11)
        assert "batch segment job mine begins" in stage.told
        stage.until(38)
        assert stage.ask(arn) == "CREATE IN_PROGRESS"
        stage.until(45)
        assert stage.ask(arn) == "ACTIVE"
        assert "batch segment job mine is ACTIVE" in stage.told


def test_calls_are_not_kept_for_ever(stage):
    for _ in range(module.MOST_CALLS + 1):
        stage.local.calls.append(stage.local.calls[0])
    stage.until(1)
    assert len(stage.local.calls) < 20


class TestLiving:
    def test_goes_on_by_itself_until_it_is_over(self, stage):
        begun = threading.Event()
        stage.world._tell = lambda line: begun.set() if "newsletter" in line else None
        with living(stage.world, speed=1000):
            assert begun.wait(60)
            (thread,) = [each for each in threading.enumerate() if each.name == "world"]
        assert not thread.is_alive()
