from __future__ import annotations

import inspect
import json
import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest
from airflow_names import DAG
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_personalize_segments.jobs import BATCH_JOB_KINDS, BatchJobKind
from airflow_provider_personalize_segments.operators import PersonalizeSegmentsToParquetOperator
from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor
from airflow_provider_personalize_segments.testing import (
    LocalPersonalize,
    PersonalizeControl,
    mock_personalize,
)
from airflow_provider_personalize_segments.testing.changes import ChangeFeed

SEGMENT = BatchJobKind.SEGMENT
INPUT_BUCKET = "segments-bucket"
"""Where ``inside.put_input`` puts input."""
RECORDS = [
    {"input": {"itemId": "b1042"}, "output": {"usersList": ["user-\u2028-7", "user-9"]}, "error": None},
    {"input": {"itemId": "b\x85\u2029"}, "output": {"usersList": []}, "error": "User error: no such item"},
]


def read_objects(inside, bucket):
    """Return the text of all objects in a bucket, by key."""
    s3 = inside.client("s3")
    return {
        each["Key"]: s3.get_object(Bucket=bucket, Key=each["Key"])["Body"].read().decode()
        for each in s3.list_objects_v2(Bucket=bucket).get("Contents", [])
    }


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"statuses": "real"}, "statuses: expected one of observed, documented, got 'real'"),
            ({"progress": "slowly"}, "progress: expected one of immediately, by_time, by_call, by_hand"),
            ({"calls": 0}, "calls and users must be 1 or more"),
            ({"users": 0}, "calls and users must be 1 or more"),
            ({"seconds": -1}, "seconds 0 or more"),
        ],
    )
    def test_wrong_ones(self, options, words):
        with pytest.raises(ValueError, match=words):
            PersonalizeControl(**options)


class TestSolutionVersions:
    def test_the_arn_is_the_same_for_the_same(self, inside):
        control = inside.open()
        arn = control.add_solution_version()
        assert arn.rpartition("/")[0] == "arn:aws:personalize:us-east-1:123456789012:solution/demo-solution"
        version = arn.rpartition("/")[2]
        assert len(version) == 8
        assert int(version, 16) >= 0
        assert control.add_solution_version(status="CREATE FAILED") == arn
        others = {
            control.add_solution_version(recipe="aws-sims"),
            control.add_solution_version(dataset_group="x"),
        }
        assert len(others | {arn}) == 3

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"recipe": "aws-trending-now"}, "recipe: expected one of aws-item-affinity"),
            ({"name": "demo solution"}, "'demo solution' cannot be the name of a solution"),
        ],
    )
    def test_wrong_ones(self, inside, options, words):
        with pytest.raises(ValueError, match=words):
            inside.open().add_solution_version(**options)


class TestAddJob:
    @pytest.mark.parametrize("kind", BATCH_JOB_KINDS, ids=lambda kind: kind.name)
    @pytest.mark.parametrize("status", ["CREATE PENDING", "ACTIVE", "CREATE FAILED", "CREATE STOPPED", "?"])
    def test_any_status(self, inside, kind, status):
        control = inside.open(progress="by_call")
        moment = datetime(2025, 3, 1, 12, 0, 0, 123000, timezone(timedelta(hours=2)))
        arn = control.add_job(
            kind,
            "seeded",
            solution_version_arn=control.add_solution_version(region_name="eu-west-1"),
            status=status,
            created=moment,
            updated=moment + timedelta(hours=1),
            input_path="s3://in/put",
            num_results=9,
        )
        client = inside.client(region_name="eu-west-1")
        for _ in range(3):
            job = getattr(client, kind.describe_method)(**{kind.arn_member: arn})[kind.job_member]
        assert (job["status"], job["creationDateTime"]) == (status, moment)
        assert job["lastUpdatedDateTime"] - job["creationDateTime"] == timedelta(hours=1)
        assert job["jobInput"] == {"s3DataSource": {"path": "s3://in/put"}}
        assert job["numResults"] == 9

    def test_unfinished_ones_count(self, inside, make_request):
        control = inside.open(progress="by_hand")
        arn = control.add_solution_version()
        for number in range(7):
            control.add_job(SEGMENT, f"job-{number}", solution_version_arn=arn, status="IN PROGRESS")
        client = inside.client()
        with pytest.raises(client.exceptions.LimitExceededException):
            client.create_batch_segment_job(**make_request(arn))

    def test_it_can_be_driven_but_writes_nothing(self, inside):
        control = inside.open(statuses="observed", progress="by_hand")
        arn = control.add_solution_version()
        # Seeded with documented statuses on a service that shows the observed ones.
        job = control.add_job(SEGMENT, "job", solution_version_arn=arn, status="PENDING")
        other = control.add_job(SEGMENT, "other", solution_version_arn=arn, status="SOMETHING NEW")
        control.fail_job("other", "no luck")
        seen = []
        for _ in range(3):
            seen.append((control.job(job)["status"], control.job(other)["status"]))
            control.advance()
        assert seen == [
            ("PENDING", "SOMETHING NEW"), ("CREATE IN_PROGRESS", "CREATE FAILED"), ("ACTIVE", "CREATE FAILED")
        ]  # fmt: skip
        assert control.job(other)["failureReason"] == "no luck"

    def test_output_is_there_when_the_job_is_active(self, inside):
        control = inside.open(progress="by_hand")
        arn = control.add_solution_version()
        options = {"solution_version_arn": arn, "output": RECORDS, "input_path": "s3://shop/in/items.json"}
        control.add_job(SEGMENT, "done", output_path="s3://shop/done/", **options)
        later = control.add_job(
            SEGMENT, "later", status="CREATE IN_PROGRESS", output_path="s3://shop/later/", **options
        )
        assert read_objects(inside, "shop").keys() == {
            "in/items.json", "done/_CHECK", "done/items.json.out"
        }  # fmt: skip
        control.advance(later)
        objects = read_objects(inside, "shop")
        for folder in ("done", "later"):
            lines = objects[f"{folder}/items.json.out"].removesuffix("\n").split("\n")
            assert [json.loads(line) for line in lines] == RECORDS
        assert [json.loads(line) for line in objects["in/items.json"].split("\n") if line] == [
            record["input"] for record in RECORDS
        ]

    def test_output_is_called_after_the_input_that_is_there(self, inside):
        control = inside.open()
        inside.put_input("{}", "in/weekly.jsonl")
        control.add_job(
            SEGMENT,
            "job",
            solution_version_arn=control.add_solution_version(),
            input_path=f"s3://{INPUT_BUCKET}/in/",
            output_path=f"s3://{INPUT_BUCKET}/out/",
            output=RECORDS,
        )
        objects = read_objects(inside, INPUT_BUCKET)
        assert objects.keys() == {"in/weekly.jsonl", "out/_CHECK", "out/weekly.jsonl.out"}
        assert objects["in/weekly.jsonl"] == "{}"

    def test_output_of_a_job_that_fails_is_not_written(self, inside):
        control = inside.open()
        control.fail_job("job", "no luck")
        arn = control.add_solution_version()
        job = control.add_job(
            SEGMENT, "job", solution_version_arn=arn, status="CREATE IN_PROGRESS", output=RECORDS
        )
        assert control.job(job)["status"] == "CREATE FAILED"
        assert inside.client("s3").list_buckets()["Buckets"] == []

    def test_output_without_a_place_is_refused(self, inside):
        control = inside.open()
        arn = control.add_solution_version()
        with pytest.raises(
            ValueError, match=r"^output: it cannot be written. Invalid S3 output path: here is"
        ):
            control.add_job(SEGMENT, "job", solution_version_arn=arn, output_path="here", output=[])
        control.add_job(SEGMENT, "job", solution_version_arn=arn)  # the name is still free

    @pytest.mark.parametrize("deferrable", [False, True])
    def test_output_is_judged_and_converted_behind_a_sensor(self, inside, deferrable):
        control = inside.open()
        control.add_job(
            SEGMENT, "weekly", solution_version_arn=control.add_solution_version(), output=RECORDS
        )
        arn = "arn:aws:personalize:us-east-1:123456789012:batch-segment-job/weekly"
        with DAG("judged", schedule=None) as dag:
            for name, most in (("loose", 0.5), ("strict", 0.1)):
                options = {"task_id": name, "job_arn": arn, "max_error_rate": most, "deferrable": deferrable}
                wait = PersonalizeBatchSegmentJobSensor(**options)
                convert = PersonalizeSegmentsToParquetOperator(
                    task_id=f"convert_{name}",
                    job_arn=arn,
                    output_path=f"s3://example-bucket/tables/{name}/",
                    max_error_rate=most,
                )
                wait >> convert
        run = control.run(dag)
        assert run.states == {
            "loose": "success",
            "convert_loose": "success",
            "strict": "failed",
            "convert_strict": "upstream_failed",
        }
        assert "1 of 2 records have an error" in str(run.errors["strict"])
        assert run.xcom("loose", "counts")["records"] == 2
        assert run.xcoms["convert_loose"]["rows"] == 2

    def test_naive_times_are_utc(self, inside):
        control = inside.open()
        arn = control.add_job(
            SEGMENT, "a", solution_version_arn=control.add_solution_version(), created=datetime(2025, 1, 1)
        )
        assert control.job(arn)["creationDateTime"] == datetime(2025, 1, 1, tzinfo=UTC).timestamp()

    def test_wrong_ones(self, inside):
        control = inside.open()
        arn = control.add_solution_version()
        with pytest.raises(ValueError, match="is unknown; use add_solution_version"):
            control.add_job(SEGMENT, "a", solution_version_arn=arn + "0")
        with pytest.raises(ValueError, match="cannot be a job name"):
            control.add_job(SEGMENT, "a_b!", solution_version_arn=arn)


class TestDriving:
    @pytest.fixture
    def control(self, inside):
        return inside.open()

    @pytest.fixture
    def job(self, control):
        return control.add_job(SEGMENT, "job", solution_version_arn=control.add_solution_version())

    def test_a_finished_job_cannot_be_told_to_fail(self, control, job):
        with pytest.raises(ValueError, match="is ACTIVE already; use set_status"):
            control.fail_job(job, "too late")

    @pytest.mark.parametrize("method", ["set_status", "advance", "job"])
    def test_a_job_that_is_not_there(self, control, method):
        arn = "arn:aws:personalize:us-east-1:123456789012:batch-segment-job/never"
        with pytest.raises(ValueError, match="There is no job"):
            getattr(control, method)(*([arn, "ACTIVE"] if method == "set_status" else [arn]))

    def test_nothing_moves_a_finished_job_but_set_status(self, control, job):
        control.advance(job)
        control.advance()
        assert control.job(job)["status"] == "ACTIVE"
        control.set_status(job, "CREATE FAILED", "after all")
        assert control.job(job)["failureReason"] == "after all"


# How a job that is to fail gets there, and the statuses it is seen in on the way, from CREATE PENDING on.
ON_THE_WAY = {
    "immediately": ["CREATE FAILED"],
    "by_time": ["CREATE PENDING", "CREATE IN_PROGRESS", "CREATE FAILED"],
    "by_call": ["CREATE PENDING", "CREATE IN_PROGRESS", "CREATE FAILED"],
    "by_hand": ["CREATE PENDING", "CREATE IN_PROGRESS", "CREATE FAILED"],
}


class TestJobsThatAreToFail:
    def go_on(self, control, clock, client, arn):
        """Do what moves a job one step, whatever the progress; return its status."""
        clock.forward(5)
        client.describe_batch_segment_job(batchSegmentJobArn=arn)
        if control._settings.progress == "by_hand":
            control.advance(arn)
        return control.job(arn)["status"]

    @pytest.mark.parametrize("by", ["name", "arn"])
    @pytest.mark.parametrize("order", ["added, told", "told, added", "added, set, told"])
    @pytest.mark.parametrize("progress", ON_THE_WAY)
    def test_they_fail_when_progress_says_so(self, inside, clock, progress, order, by):
        control = inside.open(progress=progress, seconds=5)
        client = inside.client()
        version = control.add_solution_version()
        named = "arn:aws:personalize:us-east-1:123456789012:batch-segment-job/job" if by == "arn" else "job"
        for step in order.split(", "):
            if step == "added":
                status = "ACTIVE" if "set" in order else "CREATE PENDING"
                arn = control.add_job("segment", "job", solution_version_arn=version, status=status)
            elif step == "set":
                control.set_status(arn, "CREATE PENDING")
            else:
                control.fail_job(named, "no luck")
        seen = [control.job(arn)["status"]]
        while len(seen) < 10 and seen[-1] != "CREATE FAILED":
            seen.append(self.go_on(control, clock, client, arn))
        # Those who count the looks see each status once more.
        assert list(dict.fromkeys(seen)) == ON_THE_WAY[progress]
        assert control.job(arn)["failureReason"] == "no luck"

    @pytest.mark.parametrize("progress", ON_THE_WAY)
    def test_others_do_not_move(self, inside, clock, progress):
        control = inside.open(progress=progress, seconds=5)
        client = inside.client()
        version = control.add_solution_version()
        arn = control.add_job("segment", "kept", solution_version_arn=version, status="CREATE PENDING")
        control.add_job("segment", "job", solution_version_arn=version, status="CREATE PENDING")
        control.fail_job("job", "no luck")
        for _ in range(3):
            clock.forward(5)
            client.describe_batch_segment_job(batchSegmentJobArn=arn)
        assert control.job(arn)["status"] == "CREATE PENDING"

    @pytest.mark.parametrize("status", ["ACTIVE", "CREATE FAILED"])
    def test_a_finished_one_is_refused_by_name_too(self, inside, status):
        control = inside.open()
        control.add_job("segment", "a", solution_version_arn=control.add_solution_version(), status=status)
        with pytest.raises(ValueError, match=f"a is {status} already; use set_status"):
            control.fail_job("a", "too late")

    def test_one_that_is_to_fail_cannot_be_active(self, inside):
        control = inside.open()
        version = control.add_solution_version()
        control.fail_job("a", "no luck")
        with pytest.raises(ValueError, match="fail_job says that 'a' fails, so it cannot be ACTIVE; pass"):
            control.add_job("segment", "a", solution_version_arn=version)
        failed = control.add_job("segment", "a", solution_version_arn=version, status="CREATE FAILED")
        assert control.job(failed)["failureReason"] == "no luck"

    def test_of_several_of_one_name_those_that_are_unfinished_fail(self, inside):
        control = inside.open(progress="by_hand")
        arns = {}
        for region, status in {"us-east-1": "ACTIVE", "eu-west-1": "CREATE PENDING"}.items():
            version = control.add_solution_version(region_name=region)
            arns[region] = control.add_job("segment", "a", solution_version_arn=version, status=status)
        control.fail_job("a", "no luck")
        for _ in range(2):
            control.advance()
        assert control.job(arns["us-east-1"])["status"] == "ACTIVE"
        assert control.job(arns["eu-west-1"])["status"] == "CREATE FAILED"


@pytest.mark.parametrize("kind", BATCH_JOB_KINDS, ids=lambda kind: kind.name)
def test_a_kind_is_also_a_text(inside, kind):
    control = inside.open()
    version = control.add_solution_version()
    by_text = control.add_job(kind.name, "text", solution_version_arn=version)
    by_kind = control.add_job(kind, "kind", solution_version_arn=version)
    assert by_text.replace("/text", "/kind") == by_kind
    with pytest.raises(ValueError, match="'segment' or 'inference', got 'segments'"):
        control.add_job("segments", "wrong", solution_version_arn=version)


def test_editors_see_the_same_parameters_everywhere():
    control = inspect.signature(PersonalizeControl).parameters
    for each in (mock_personalize, LocalPersonalize):
        parameters = dict(inspect.signature(each).parameters)
        parameters.pop("port", None)
        parameters.pop("function", None)
        assert parameters == control
    assert not [each for each in control.values() if each.kind is not inspect.Parameter.KEYWORD_ONLY]


class TestChanges:
    def test_creation_and_every_step(self, stage, make_request, clock):
        control = stage.open(progress="by_time", seconds=10, statuses="documented")
        stage.put_input('{"itemId": "1"}\n')
        told = []
        control.on_status_change(lambda *change: told.append(change))
        client = stage.client()
        arn = client.create_batch_segment_job(**make_request(control.add_solution_version()))[
            "batchSegmentJobArn"
        ]
        start = clock.now
        clock.forward(25)
        assert len(told) == 1
        client.list_batch_segment_jobs()
        assert [(old, new) for _, old, new, _ in told] == [
            (None, "PENDING"), ("PENDING", "IN PROGRESS"), ("IN PROGRESS", "ACTIVE")
        ]  # fmt: skip
        assert [when.timestamp() - start for *_, when in told] == [0, 10, 20]
        assert all(job["batchSegmentJobArn"] == arn and job["status"] == new for job, _, new, _ in told)
        assert all(when.tzinfo is UTC for *_, when in told)

    def test_a_callback_may_call_personalize(self, stage, make_request):
        control = stage.open(progress="by_hand")
        client = stage.client()
        seen = []

        def callback(job, old, new, when):
            described = client.describe_batch_segment_job(batchSegmentJobArn=job["batchSegmentJobArn"])
            seen.append((new, described["batchSegmentJob"]["status"]))
            if old is None:
                control.advance()

        control.on_status_change(callback)
        stage.client().create_batch_segment_job(**make_request(control.add_solution_version()))
        assert seen == [("CREATE PENDING", "CREATE PENDING"), ("CREATE IN_PROGRESS", "CREATE IN_PROGRESS")]

    def test_told_once_each_and_in_order_from_many_threads(self):
        feed = ChangeFeed()
        told = []
        feed.callbacks.append(lambda job, old, new, when: told.append(new))
        noting = threading.Lock()
        numbers = iter(range(2000))

        def work():
            for _ in range(500):
                with noting:
                    feed.note({}, None, str(next(numbers)), 0.0)
                feed.tell()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert told == [str(number) for number in range(2000)]

    def test_an_error_in_a_callback_is_shown_and_blocks_nothing(self, inside):
        control = inside.open()
        job = control.add_job(SEGMENT, "job", solution_version_arn=control.add_solution_version())
        told = []

        def callback(job, old, new, when):
            told.append(new)
            if new == "bad":
                raise LookupError("callback")

        control.on_status_change(callback)
        with pytest.raises(LookupError, match="callback"):
            control.set_status(job, "bad")
        control.set_status(job, "good")
        assert told == ["bad", "good"]


class TestCalls:
    def test_what_was_called(self, stage, clock):
        control = stage.open()
        client = stage.client(region_name="eu-west-1")
        client.list_batch_segment_jobs(maxResults=3)
        client.list_batch_inference_jobs()
        client.list_batch_inference_jobs()
        assert [control.calls.count(name) for name in ("ListBatchSegmentJobs", "ListBatchInferenceJobs")] == [
            1,
            2,
        ]
        assert control.calls.count() == len(control.calls) == 3
        first = control.calls[0]
        assert (first.operation, first.parameters, first.region_name) == (
            "ListBatchSegmentJobs", {"maxResults": 3}, "eu-west-1"
        )  # fmt: skip
        assert first.time.timestamp() == clock.now
        assert "ListBatchSegmentJobs" in repr(control.calls)
        control.clear_calls()
        assert list(control.calls) == []

    def test_s3_does_not_count(self, stage):
        control = stage.open()
        stage.put_input("x")
        assert len(control.calls) == 0

    def test_from_many_threads(self, stage):
        control = stage.open()
        clients = [stage.client() for _ in range(6)]
        threads = [
            threading.Thread(
                target=lambda client=client: [client.list_batch_segment_jobs() for _ in range(10)]
            )
            for client in clients
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            # Read while others write.
            assert 0 <= sum(1 for _ in control.calls) <= 60
            thread.join()
        assert control.calls.count("ListBatchSegmentJobs") == 60


@given(
    names=st.lists(st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9\-_]{0,62}", fullmatch=True), unique=True, max_size=8)
)
def test_every_seeded_job_is_found_again(names):
    control = PersonalizeControl()
    version = control.add_solution_version()
    arns = {name: control.add_job(SEGMENT, name, solution_version_arn=version) for name in names}
    assert {control.job(arn)["jobName"]: arn for arn in arns.values()} == arns


def test_an_airflow_connection(stage):
    control = stage.open()
    connection = json.loads(control.airflow_connection("eu-west-1"))
    assert connection["conn_type"] == "aws"
    assert connection["login"]
    assert connection["password"]
    expected = {"region_name": "eu-west-1"}
    if stage.mode == "server":
        expected["endpoint_url"] = control.endpoint_url
        expected["service_config"] = {"sts": {"endpoint_url": control.endpoint_url}}
    assert connection["extra"] == expected
