"""The example DAGs: Airflow runs each on a local job that succeeds, and on one that fails."""

from __future__ import annotations

import io
import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import airflow
import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_provider_personalize_segments.errors import PersonalizeJobFailedError
from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.testing import LocalPersonalize
from airflow_provider_personalize_segments.testing.example_jobs import EXAMPLE_INPUT, ExampleJobs
from airflow_provider_personalize_segments.testing.world import World

# Airflow 2 looks an alias up in its database while it loads a DAG that is scheduled on it.
pytestmark = pytest.mark.usefixtures("_airflow_database")

EXAMPLES = Path(__file__).parent.parent / "example_dags"
RECIPES = {BatchJobKind.SEGMENT: "aws-item-affinity", BatchJobKind.INFERENCE: "aws-user-personalization"}


@pytest.fixture
def start_job(monkeypatch):
    """Start a job as somebody else's code would: boto3, and input in S3."""
    with LocalPersonalize(progress="by_call", calls=2) as local:
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", local.airflow_connection())
        jobs = ExampleJobs(local)

        def start(kind, name="weekly", failure_reason=None):
            version = local.add_solution_version("shop", RECIPES[kind])
            if failure_reason:
                local.fail_job(name, failure_reason)
            arn = jobs.start(kind, name, version, jobs.put_input(kind), num_results=7)
            return {"solution_version_arn": version, "job_arn": arn}

        start.local, start.jobs = local, jobs
        yield start


def lines_after(lines, head):
    """Return the log's lines behind one."""
    return lines[next(number for number, line in enumerate(lines) if head in line) + 1 :]


def test_no_example_prints():
    """Airflow 3.3 shows what a task prints in a group that is closed."""
    for path in EXAMPLES.glob("*.py"):
        assert "print(" not in path.read_text(), path


def fail_while_running(local, arn_member, reason):
    """Let every job fail in the second half of its life, whatever its name is."""

    def fail(job, old, new, when):
        if new == "CREATE IN_PROGRESS":
            local.set_status(job[arn_member], "CREATE FAILED", reason)

    local.on_status_change(fail)


class TestCreateSegmentJob:
    PATH = EXAMPLES / "create_segment_job.py"

    def run(self, run_dag, local, conf=None, **options):
        version = local.add_solution_version("shop")
        conf = {"solution_version_arn": version, **(conf or {})}
        run = run_dag(self.PATH, conf, poke_interval=0.1, **options)
        (call,) = [call for call in local.calls if call.operation == "CreateBatchSegmentJob"]
        return run, call.parameters

    def test_logs_the_segments_of_the_job_it_created(self, start_job, run_dag, read_log):
        run, request = self.run(run_dag, start_job.local)
        assert run.states == {"upload_input": "success", "create_job": "success", "show_segments": "success"}
        assert run.xcom("show_segments") == 5
        assert run.xcom("create_job").endswith(f":batch-segment-job/{request['jobName']}")
        assert request["jobName"].startswith("create_segment_job-create_job-")
        table = lines_after(read_log(), "item       users  the first of them")
        items = [record["itemId"] for record in EXAMPLE_INPUT[BatchJobKind.SEGMENT]]
        for item, line in zip(items, table[:5], strict=True):
            assert f"{item:<10}   100  user-" in line

    def test_logs_the_errors_of_records_that_could_not_be_served(self, start_job, run_dag, read_log):
        run, _ = self.run(run_dag, start_job.local, {"items": ["b1042", ""]})
        assert run.xcom("show_segments") == 2
        table = lines_after(read_log(), "item       users  the first of them")
        assert "b1042        100  user-" in table[0]
        assert "               0  User error: Required fields for the provided" in table[1]

    def test_logs_nothing_when_the_job_failed(self, start_job, run_dag, read_log):
        fail_while_running(start_job.local, "batchSegmentJobArn", "No access to the bucket")
        run, _ = self.run(run_dag, start_job.local, retries=0)
        assert run.states == {
            "upload_input": "success", "create_job": "failed", "show_segments": "upstream_failed"
        }  # fmt: skip
        assert isinstance(run.errors["create_job"], PersonalizeJobFailedError)
        assert "No access to the bucket" in str(run.errors["create_job"])
        assert "the first of them" not in "".join(read_log())


class TestCreateInferenceJob:
    PATH = EXAMPLES / "create_inference_job.py"

    def run(self, run_dag, start_job, **options):
        start_job.jobs.put_input(BatchJobKind.INFERENCE)
        version = start_job.local.add_solution_version("shop", RECIPES[BatchJobKind.INFERENCE])
        run = run_dag(self.PATH, {"solution_version_arn": version}, poke_interval=0.1, **options)
        (call,) = [call for call in start_job.local.calls if call.operation == "CreateBatchInferenceJob"]
        return run, call.parameters

    def test_announces_where_the_recommendations_of_the_job_it_created_are(self, start_job, run_dag):
        run, request = self.run(run_dag, start_job)
        assert run.states == {"create_job": "success", "announce": "success"}
        assert run.xcom("create_job").endswith(f":batch-inference-job/{request['jobName']}")
        folder = request["jobOutput"]["s3DataDestination"]["path"]
        assert run.xcom("announce") == folder
        assert folder.startswith("s3://demo-bucket/recommendations/manual__")
        session = boto3.Session("testing", "testing", region_name="us-east-1")
        s3 = session.client("s3", endpoint_url=start_job.local.endpoint_url)
        found = s3.list_objects_v2(Bucket="demo-bucket", Prefix=folder.removeprefix("s3://demo-bucket/"))
        assert [each["Key"].rpartition("/")[2] for each in found["Contents"]] == [
            "_CHECK", "inference.jsonl.out"
        ]  # fmt: skip

    def test_stays_silent_when_the_job_failed(self, start_job, run_dag):
        fail_while_running(start_job.local, "batchInferenceJobArn", "No access to the bucket")
        run, _ = self.run(run_dag, start_job, retries=0)
        assert run.states == {"create_job": "failed", "announce": "upstream_failed"}
        assert "No access to the bucket" in str(run.errors["create_job"])


class TestWaitForSegmentJob:
    PATH = EXAMPLES / "wait_for_segment_job.py"

    def test_logs_the_segments_when_the_job_is_active(self, start_job, run_dag, read_log):
        run = run_dag(self.PATH, start_job(BatchJobKind.SEGMENT), poke_interval=0.1)
        assert set(run.states.values()) == {"success"}
        assert run.states.keys() == {"list_jobs", "take_newest", "wait_for_job", "show_segments"}
        items = [record["itemId"] for record in EXAMPLE_INPUT[BatchJobKind.SEGMENT]]
        assert run.xcom("show_segments") == len(items)
        table = lines_after(read_log(), "item       users  the first of them")
        for item, line in zip(items, table[: len(items)], strict=True):
            assert f"{item:<10}     7  user-" in line
        assert start_job.local.calls.count("DescribeBatchSegmentJob") > 1

    def test_logs_nothing_when_the_job_failed(self, start_job, run_dag, read_log):
        conf = start_job(BatchJobKind.SEGMENT, failure_reason="Invalid S3 output path")
        run = run_dag(self.PATH, conf, poke_interval=0.1)
        assert run.states == {
            "list_jobs": "success",
            "take_newest": "success",
            "wait_for_job": "failed",
            "show_segments": "upstream_failed",
        }
        assert isinstance(run.errors["wait_for_job"], PersonalizeJobFailedError)
        assert "Invalid S3 output path" in str(run.errors["wait_for_job"])
        assert "the first of them" not in "".join(read_log())

    def test_is_skipped_when_there_is_no_job(self, start_job, run_dag):
        conf = {"solution_version_arn": start_job.local.add_solution_version("unused")}
        run = run_dag(self.PATH, conf, poke_interval=0.1)
        assert set(run.states.values()) == {"skipped"}
        assert run.state == "success"


# To render `map_index_template`, Airflow 2.11 hands on all of its context, of which it warns by itself.
@pytest.mark.filterwarnings("ignore:Accessing .* from the template is deprecated")
class TestWaitForAllSegmentJobs:
    PATH = EXAMPLES / "wait_for_all_segment_jobs.py"

    def test_reports_when_all_are_active(self, start_job, run_dag):
        start_job(BatchJobKind.SEGMENT, "one")
        run = run_dag(self.PATH, start_job(BatchJobKind.SEGMENT, "two"), poke_interval=0.1)
        assert [run.states[f"wait_for_jobs[{i}]"] for i in range(2)] == ["success", "success"]
        assert sorted(run.xcom("report")) == ["s3://demo-bucket/output/one/", "s3://demo-bucket/output/two/"]

    def test_one_failed_job_stops_the_report(self, start_job, run_dag):
        start_job(BatchJobKind.SEGMENT, "one", "Invalid S3 output path")
        run = run_dag(self.PATH, start_job(BatchJobKind.SEGMENT, "two"), poke_interval=0.1)
        assert sorted(run.states[f"wait_for_jobs[{i}]"] for i in range(2)) == ["failed", "success"]
        assert run.states["report"] == "upstream_failed"

    def test_a_mapped_task_bears_the_name_of_its_job(self, start_job, run_dag):
        start_job(BatchJobKind.SEGMENT, "one", "Invalid S3 output path")
        run = run_dag(self.PATH, start_job(BatchJobKind.SEGMENT, "two"), poke_interval=0.1)
        assert run.map_names == {"wait_for_jobs[0]": "two", "wait_for_jobs[1]": "one"}


class TestAlertWhenJobFails:
    PATH = EXAMPLES / "alert_when_job_fails.py"

    def test_uses_the_segments_when_the_job_is_active(self, start_job, run_dag):
        run = run_dag(self.PATH, start_job(BatchJobKind.SEGMENT), poke_interval=0.1)
        assert run.states == {"wait_for_job": "success", "use_segments": "success"}
        assert run.xcom("use_segments") == "s3://demo-bucket/output/weekly/"

    def test_tells_why_when_the_job_failed(self, start_job, run_dag, read_log):
        conf = start_job(BatchJobKind.SEGMENT, failure_reason="Invalid S3 output path")
        run = run_dag(self.PATH, conf, poke_interval=0.1)
        assert run.states == {"wait_for_job": "failed", "use_segments": "upstream_failed"}
        dag = runpy.run_path(str(self.PATH))
        callback = dag["wait_for_job"].on_failure_callback
        assert callback in (dag["alert"], [dag["alert"]])  # on Airflow 2, and 3
        read_log()
        dag["alert"]({"exception": run.errors["wait_for_job"]})
        arn = conf["job_arn"]
        (line,) = read_log()
        assert f"ALERT: {arn} is CREATE FAILED, because: Invalid S3 output path" in line

    def test_tells_when_nobody_knows(self, read_log):
        alert = runpy.run_path(str(self.PATH))["alert"]
        alert({"exception": TimeoutError("no answer")})
        alert({})
        for line, error in zip(read_log(), ("no answer", "None"), strict=True):
            assert f"ALERT: nobody knows how the job ended: {error}" in line


class TestCheckSegments:
    PATH = EXAMPLES / "check_segments.py"

    def test_reports_good_output(self, start_job, run_dag):
        run = run_dag(self.PATH, start_job(BatchJobKind.SEGMENT), poke_interval=0.1)
        assert run.states == {"wait_for_job": "success", "report": "success"}
        assert run.xcom("report") == "5 segments, 0 of them with an error"

    def test_stays_shut_when_too_many_records_have_an_error(self, start_job, run_dag):
        conf = start_job(BatchJobKind.SEGMENT)
        s3 = boto3.session.Session("x", "x", region_name="us-east-1").client(
            "s3", endpoint_url=start_job.local.endpoint_url
        )
        # The job reads its input when it ends.
        (key,) = (each["Key"] for each in s3.list_objects_v2(Bucket="demo-bucket")["Contents"])
        s3.put_object(Bucket="demo-bucket", Key=key, Body=b'{"itemId": "b1042"}\n{"itemId": ""}\n')
        run = run_dag(self.PATH, conf, poke_interval=0.1)
        assert run.states == {"wait_for_job": "failed", "report": "upstream_failed"}
        assert "1 of 2 records have an error, more than max_error_rate 0.05 allows" in str(
            run.errors["wait_for_job"]
        )


def read_folder(local, path):
    """Return what is in a folder in S3, by name, and the table that its Parquet files are."""
    session = boto3.Session("testing", "testing", region_name="us-east-1")
    s3 = session.client("s3", endpoint_url=local.endpoint_url)
    bucket, _, prefix = path.removeprefix("s3://").partition("/")
    keys = [each["Key"] for each in s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", ())]
    files = {key.removeprefix(prefix): s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}
    tables = [pq.read_table(io.BytesIO(files[name])) for name in files if name.startswith("part-")]
    return files, pa.concat_tables(tables) if tables else None


class TestSegmentsToParquet:
    PATH = EXAMPLES / "segments_to_parquet.py"

    def test_logs_a_table_of_the_rows_that_are_in_parquet(self, start_job, run_dag, read_log):
        run = run_dag(self.PATH, start_job(BatchJobKind.SEGMENT), poke_interval=0.1)
        assert run.states == {"wait_for_job": "success", "convert": "success", "show_segments": "success"}
        folder = run.xcom("convert")["outputPath"]
        assert re.fullmatch(r"s3://demo-bucket/tables/manual__[\w.-]+/", folder)
        files, table = read_folder(start_job.local, folder)
        assert sorted(re.sub("-[0-9a-f]{8}", "", name) for name in files) == [
            "_SUCCESS",
            "part-00000.parquet",
        ]
        items = [record["itemId"] for record in EXAMPLE_INPUT[BatchJobKind.SEGMENT]]
        assert table.num_rows == 7 * len(items) == run.xcom("convert")["rows"] == run.xcom("show_segments")
        rows = table.to_pylist()
        printed = lines_after(read_log(), "segment    users  the first of them")
        for item, line in zip(items, printed[: len(items)], strict=True):
            users = [row["user_id"] for row in rows if row["query"] == item]
            assert f"{item:<10}     7  {', '.join(users[:4])}" in line

    def test_leaves_records_with_an_error_out_of_the_table_it_logs(self, start_job, run_dag):
        kind = BatchJobKind.SEGMENT
        conf = start_job(kind)
        records = [*({"itemId": f"b{number}"} for number in range(30)), {"itemId": ""}]
        session = boto3.Session("testing", "testing", region_name="us-east-1")
        # The job reads its input when it ends.
        session.client("s3", endpoint_url=start_job.local.endpoint_url).put_object(
            Bucket="demo-bucket",
            Key=f"input/{kind.name}.jsonl",
            Body="\n".join(json.dumps(each) for each in records).encode(),
        )
        run = run_dag(self.PATH, conf, poke_interval=0.1)
        assert run.state == "success"
        result = run.xcom("convert")
        assert (result["rows"], result["records"], result["errors"]) == (7 * 30, 31, 1)
        assert run.xcom("show_segments") == 7 * 30
        files, _ = read_folder(start_job.local, result["errorsPath"])
        (name,) = files
        (row,) = pq.read_table(io.BytesIO(files[name])).to_pylist()
        assert row["line"] == 31

    def test_writes_nothing_when_the_job_failed(self, start_job, run_dag, read_log):
        conf = start_job(BatchJobKind.SEGMENT, failure_reason="Invalid S3 output path")
        run = run_dag(self.PATH, conf, poke_interval=0.1)
        assert run.states == {
            "wait_for_job": "failed", "convert": "upstream_failed", "show_segments": "upstream_failed"
        }  # fmt: skip
        assert "Invalid S3 output path" in str(run.errors["wait_for_job"])
        assert read_folder(start_job.local, "s3://demo-bucket/tables/") == ({}, None)
        assert "the first of them" not in "".join(read_log())


# As for the other mapped task: Airflow 2.11 warns of what it does itself.
@pytest.mark.filterwarnings("ignore:Accessing .* from the template is deprecated")
class TestSegmentsToParquetMapped:
    PATH = EXAMPLES / "segments_to_parquet_mapped.py"

    def start(self, start_job, **options):
        """Start a job whose input is three files."""
        kind = BatchJobKind.SEGMENT
        local, version = start_job.local, start_job.local.add_solution_version("shop", RECIPES[kind])
        session = boto3.Session("testing", "testing", region_name="us-east-1")
        s3 = session.client("s3", endpoint_url=local.endpoint_url)
        for name, items in {"a": ("b1", "b2"), "b": ("b3",), "c": ("b4", "b5", "b6")}.items():
            body = "\n".join(json.dumps({"itemId": item}) for item in items)
            s3.put_object(Bucket="demo-bucket", Key=f"three/{name}.json", Body=body.encode())
        if options.get("failure_reason"):
            local.fail_job("weekly", options["failure_reason"])
        return {"job_arn": start_job.jobs.start(kind, "weekly", version, "s3://demo-bucket/three/", 7)}

    def test_a_task_for_each_file_makes_one_table(self, start_job, run_dag, read_log):
        conf = self.start(start_job)
        run = run_dag(self.PATH, conf, poke_interval=0.1)
        names = ("convert[0]", "convert[1]", "convert[2]")
        assert run.states == dict.fromkeys(("wait_for_job", "list_files", *names, "report"), "success")
        assert run.map_names == dict(zip(names, ("a.json.out", "b.json.out", "c.json.out"), strict=True))
        results = run.xcoms["convert"]
        assert sorted(result["isComplete"] for result in results) == [False, False, True]
        folder = results[0]["outputPath"]
        files, table = read_folder(start_job.local, folder)
        assert sorted(re.sub("-[0-9a-f]{8}", "", name) for name in files) == [
            "_SUCCESS", "part-00000.parquet", "part-00001.parquet", "part-00002.parquet"
        ]  # fmt: skip
        assert table.num_rows == 7 * 6 == run.xcom("report")
        assert set(table["query"].to_pylist()) == {f"b{number}" for number in range(1, 7)}
        log = "\n".join(read_log())
        assert f"42 rows are in {folder}" in log
        assert "0 of 6 records have an error" in log

    def test_writes_nothing_when_the_job_failed(self, start_job, run_dag):
        conf = self.start(start_job, failure_reason="Invalid S3 output path")
        run = run_dag(self.PATH, conf, poke_interval=0.1)
        assert run.states.pop("wait_for_job") == "failed"
        assert set(run.states.values()) == {"upstream_failed"}
        assert read_folder(start_job.local, "s3://demo-bucket/mapped-tables/") == ({}, None)


class TestSegmentsAsAssets:
    """That the reader starts by itself is seen where a scheduler runs, in test_standalone.py."""

    PATH = EXAMPLES / "segments_as_assets.py"

    def test_the_folder_is_an_asset_when_the_job_is_active(self, start_job, run_dag):
        conf = start_job(BatchJobKind.SEGMENT)
        run = run_dag(self.PATH, conf, poke_interval=0.1)
        assert run.states == {"wait_for_job": "success"}
        (event,) = run.asset_events
        assert (event.uri, event.aliases) == ("s3://demo-bucket/output/weekly", ("segments",))
        assert event.extra == {"jobArn": conf["job_arn"], "kind": "segment", "numResults": 7}

    def test_nothing_is_when_the_job_failed(self, start_job, run_dag):
        conf = start_job(BatchJobKind.SEGMENT, failure_reason="Invalid S3 output path")
        run = run_dag(self.PATH, conf, poke_interval=0.1)
        assert run.states == {"wait_for_job": "failed"}
        assert list(run.asset_events) == []


@pytest.mark.skipif(airflow.__version__.startswith("2."), reason="Airflow 2 has no watchers")
class TestOnSegmentsReady:
    """That the event starts it is seen where a scheduler and a triggerer run, in test_standalone.py."""

    PATH = EXAMPLES / "on_segments_ready.py"

    def test_a_person_who_starts_it_gets_no_table(self, run_dag):
        run = run_dag(self.PATH)
        assert run.states == {"list_tables": "success", "make_table": "skipped"}

    def test_takes_each_job_of_all_events_once(self):
        dag = runpy.run_path(str(self.PATH))["dag"]
        jobs = [{"batchSegmentJobArn": f"arn:{name}", "jobName": name} for name in ("one", "two", "three")]
        events = [SimpleNamespace(extra={"payload": payload}) for payload in (jobs[:2], None, jobs[1:])]
        events.append(SimpleNamespace(extra={"from_rest_api": True}))
        assert dag.get_task("list_tables").python_callable({"asset": events}) == [
            {"job_arn": f"arn:{name}", "output_path": f"s3://demo-bucket/ready/{name}/"}
            for name in ("one", "two", "three")
        ]


class TestWaitForInferenceJob:
    PATH = EXAMPLES / "wait_for_inference_job.py"

    def test_announces_when_the_job_is_active(self, start_job, run_dag):
        run = run_dag(self.PATH, start_job(BatchJobKind.INFERENCE), poke_interval=0.1)
        assert run.states == {"wait_for_job": "success", "announce": "success"}
        assert run.xcom("announce") == "s3://demo-bucket/output/weekly/"

    def test_stays_silent_when_the_job_failed(self, start_job, run_dag):
        run = run_dag(self.PATH, start_job(BatchJobKind.INFERENCE, failure_reason="No"), poke_interval=0.1)
        assert run.states == {"wait_for_job": "failed", "announce": "upstream_failed"}


def test_every_example_is_tested_here():
    tests = [each for name, each in globals().items() if name.startswith("Test")]
    assert {each.PATH for each in tests} == set(EXAMPLES.glob("*.py"))


def load_dag(path):
    return runpy.run_path(str(path))["dag"]


STARTED_BY_EVENTS = {"on_segments_ready"}
"""Nobody triggers these, and on Airflow 2 they have no DAG."""
every_example = pytest.mark.parametrize(
    "path",
    [
        path
        for path in sorted(EXAMPLES.glob("*.py"))
        if path.stem not in STARTED_BY_EVENTS or not airflow.__version__.startswith("2.")
    ],
    ids=lambda path: path.stem,
)


@every_example
def test_its_page_in_airflow_is_documentation(path):
    dag = load_dag(path)
    assert dag.dag_id == path.stem
    text = dag.doc_md
    assert path.read_text().startswith(f'"""{text}"""\n')
    assert "``" not in text, "reStructuredText"
    assert "this file" not in text
    for task in dag.tasks:
        assert re.search(f"^- `{task.task_id}` ", text, re.MULTILINE)
    doing, trying = "Trigger this DAG with the button at the top right, and enter", "leave the value"
    if path.stem in STARTED_BY_EVENTS:
        doing, trying = "Unpause this DAG, and wait", "the DAG starts by itself"
    lead, _, how = text.partition(f"\n## Try it\n\n{doing}")
    assert lead.count("\n- ") == len(dag.tasks)
    assert f"\n\nIf `make airflow` started this Airflow, {trying}" in how


@every_example
def test_the_defaults_are_there_when_make_airflow_runs(path):
    with LocalPersonalize(progress="by_hand") as local:
        World(local, print)
        backend = local.backend("us-east-1")
        defaults = {name: load_dag(path).params[name] for name in load_dag(path).params}
        assert defaults.get("solution_version_arn") in {None, *backend.solution_versions}
        assert defaults.get("job_arn") in {None, *backend.jobs}
        assert bool(defaults) == (path.stem not in STARTED_BY_EVENTS)
        assert not defaults or defaults.keys() & {"solution_version_arn", "job_arn"}
        objects = boto3.Session("x", "x", region_name="us-east-1").client(
            "s3", endpoint_url=local.endpoint_url
        )
        for bucket, key in re.findall(r"^s3://([^/]+)/(.*[^/])$", defaults.get("input_path", "")):
            assert objects.get_object(Bucket=bucket, Key=key)["ContentLength"]
