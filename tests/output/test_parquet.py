"""Output as Parquet: what is in the tables, all or nothing, whatever the output holds."""

from __future__ import annotations

import io
import itertools
import json
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.config import Config
from fakes import TaskInstance
from output.s3_proxy import S3Proxy

from airflow_provider_personalize_segments.airflow_compat import make_storage_path
from airflow_provider_personalize_segments.errors import (
    ExtraNotInstalledError,
    InvalidParameterError,
    PersonalizeJobFailedError,
    PersonalizeOutputError,
    S3RefusedError,
    S3UnavailableError,
)
from airflow_provider_personalize_segments.hooks import PersonalizeHook
from airflow_provider_personalize_segments.operators import (
    PersonalizeRecommendationsToParquetOperator,
    PersonalizeSegmentsToParquetOperator,
)
from airflow_provider_personalize_segments.output import parquet, s3_folder
from airflow_provider_personalize_segments.output.publishing import write_tables

log = logging.getLogger("parquet")
BUCKET = "example-bucket"
TABLES = f"s3://{BUCKET}/tables/"


def record(query, users, **more):
    return {"input": {"itemId": query}, "output": {"usersList": users}, "error": None} | more


def lines(*records):
    return b"".join(json.dumps(each).encode() + b"\n" for each in records)


@pytest.fixture
def proxy(local_personalize):
    """What the tasks take for S3."""
    with S3Proxy(local_personalize.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def s3(local_personalize, proxy, monkeypatch):
    connection = json.loads(local_personalize.airflow_connection())
    connection["extra"]["service_config"]["s3"] = {"endpoint_url": proxy.url}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
    client = boto3.client(
        "s3",
        region_name="us-east-1",
        endpoint_url=local_personalize.endpoint_url,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        # moto gives a copy the checksum of its source's parts.
        config=Config(response_checksum_validation="when_required"),
    )
    client.create_bucket(Bucket=BUCKET)
    yield client
    client.close()


@pytest.fixture
def add_job(local_personalize, s3):
    """Return a function that adds a job with its output, and returns its ARN."""

    def add(files, kind="segment", name="weekly", status="ACTIVE"):
        job_arn = local_personalize.add_job(
            kind,
            name,
            solution_version_arn=local_personalize.add_solution_version(
                "made", recipe="aws-user-personalization" if kind == "inference" else "aws-item-affinity"
            ),
            status=status,
            created=datetime.now(UTC) - timedelta(hours=1),
            updated=datetime.now(UTC),
            input_path=f"s3://{BUCKET}/input-{name}/",
            output_path=f"s3://{BUCKET}/output-{name}/",
        )
        for key, body in files.items():
            s3.put_object(Bucket=BUCKET, Key=f"output-{name}/{key}", Body=body)
        return job_arn

    return add


@pytest.fixture
def names(s3):
    """Return a function that lists the folder of the result."""

    def names():
        found = s3.list_objects_v2(Bucket=BUCKET, Prefix="tables/").get("Contents", ())
        return [each["Key"].removeprefix("tables/") for each in found]

    return names


@pytest.fixture
def read(s3, names):
    """Return a function that reads a table of the result: its rows, and its columns' types."""

    def read(folder=""):
        tables = [
            pq.read_table(io.BytesIO(s3.get_object(Bucket=BUCKET, Key=f"tables/{name}")["Body"].read()))
            for name in names()
            if name.rpartition("/")[0] == folder and name.endswith((".parquet", ".errors"))
        ]
        return pa.concat_tables(tables)

    return read


def convert(job_arn, operator=PersonalizeSegmentsToParquetOperator, **options):
    task = operator(task_id="convert", job_arn=job_arn, **{"output_path": TABLES, **options})
    return task.execute({"ti": TaskInstance()})


def segments(number, users=2):
    return lines(record(f"item-{number}", [f"user-{each}" for each in range(users)]))


def visible(names):
    """Return what readers of a folder see."""
    return [name for name in names if name[0] not in "_."]


class TestResult:
    def test_is_a_row_for_each_user_of_a_segment_in_one_file(self, add_job, read, names):
        job_arn = add_job({"a.json.out": lines(record("i1", ["u1", "u2"]), record("i2", ["u1"]))})
        result = convert(job_arn)
        assert read().to_pylist() == [
            {"query": "i1", "user_id": "u1", "rank": 1, "job_arn": job_arn},
            {"query": "i1", "user_id": "u2", "rank": 2, "job_arn": job_arn},
            {"query": "i2", "user_id": "u1", "rank": 1, "job_arn": job_arn},
        ]
        assert result == {
            "outputPath": TABLES,
            "errorsPath": None,
            "rows": 3,
            "files": 1,
            "bytes": result["bytes"],
            "records": 2,
            "errors": 0,
            "errorRate": 0.0,
            "firstErrors": [],
            "isComplete": True,
        }
        assert len(visible(names())) == 1
        assert set(names()) - set(visible(names())) == {"_SUCCESS"}

    def test_holds_all_files_of_the_job_and_no_others(self, add_job, read, s3):
        job_arn = add_job({f"{number}.json.out": segments(number) for number in range(3)} | {"_CHECK": b""})
        result = convert(job_arn, output_path="s3://example-bucket/tables")  # the slash is no matter
        assert (result["files"], result["rows"], result["outputPath"]) == (3, 6, TABLES)
        assert [row["query"] for row in read().to_pylist()][::2] == ["item-0", "item-1", "item-2"]

    def test_says_in_success_what_it_holds(self, add_job, s3, names):
        job_arn = add_job({"a.json.out": segments(1)})
        result = convert(job_arn)
        said = json.loads(s3.get_object(Bucket=BUCKET, Key="tables/_SUCCESS")["Body"].read())
        assert said["jobArn"] == job_arn
        assert said["tables"].keys() == set(visible(names()))
        assert {name: said[name] for name in ("rows", "records", "files")} == {
            name: result[name] for name in ("rows", "records", "files")
        }

    def test_of_an_inference_job_has_items(self, add_job, read):
        good = {"input": {"userId": "u"}, "output": {"recommendedItems": ["a", "b"], "scores": [0.5, 0.25]}}
        job_arn = add_job({"a.json.out": lines(good)}, kind="inference")
        result = convert(job_arn, PersonalizeRecommendationsToParquetOperator)
        assert result["rows"] == 2
        assert [(row["item_id"], row["rank"], row["score"]) for row in read().to_pylist()] == [
            ("a", 1, 0.5),
            ("b", 2, 0.25),
        ]

    def test_keeps_records_with_errors_in_a_table_of_their_own(self, add_job, read, names):
        bad = record("i2", [], error="User error: no such item")
        job_arn = add_job({"a.json.out": lines(record("i1", ["u1"]), bad)})
        result = convert(job_arn, max_error_rate="0.5")
        assert (result["errors"], result["errorRate"], result["errorsPath"]) == (1, 0.5, f"{TABLES}_errors/")
        assert result["firstErrors"] == ["a.json.out line 2: User error: no such item"]
        assert read().num_rows == 1
        assert read("_errors").to_pylist() == [
            {
                "file": f"s3://{BUCKET}/output-weekly/a.json.out",
                "line": 2,
                "offset": len(lines(record("i1", ["u1"]))),
                "error": "User error: no such item",
                "input": '{"itemId": "i2"}',
                "job_arn": job_arn,
            }
        ]

    @pytest.mark.parametrize("limit", [0.0, 0.3, "0.49"])
    def test_is_not_there_when_too_many_records_have_errors(self, limit, add_job, names):
        job_arn = add_job({"a.json.out": lines(record("i1", ["u1"]), record("i2", [], error="no"))})
        with pytest.raises(PersonalizeOutputError, match="1 of 2 records have an error, more than"):
            convert(job_arn, max_error_rate=limit)
        assert visible(names()) == []
        assert "_SUCCESS" not in names()
        # With more patience, the part that was converted is used.
        assert convert(job_arn, max_error_rate=0.5)["rows"] == 1

    def test_is_written_once(self, add_job, proxy, names, read):
        job_arn = add_job({"a.json.out": segments(1)})
        first = convert(job_arn)
        del proxy.requests[:]
        assert convert(job_arn) == first
        assert not [each for each in proxy.requests if not each.startswith("GET ")]
        with pytest.raises(PersonalizeOutputError):
            convert(add_job({"b.json.out": lines(record("", [], error="no"))}, name="other"))
        assert read().num_rows == 2  # the other job's failure leaves it as it was

    def test_replaces_that_of_another_job(self, add_job, read, names):
        convert(add_job({"a.json.out": segments(1)}))
        old = visible(names())
        second = add_job({"b.json.out": segments(2)}, name="second")
        convert(second)
        assert {row["job_arn"] for row in read().to_pylist()} == {second}
        assert not set(old) & set(names())

    def test_is_made_anew_when_a_part_of_it_is_gone(self, add_job, s3, names, read):
        job_arn = add_job({"a.json.out": segments(1)})
        convert(job_arn)
        s3.delete_object(Bucket=BUCKET, Key=f"tables/{visible(names())[0]}")
        assert convert(job_arn)["isComplete"]
        assert read().num_rows == 2

    # Airflow 2.11.0 loads all providers first, with the oldest Flask.
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    @pytest.mark.parametrize(
        "make_path",
        [
            lambda folder: f"file://{folder}/tables/",
            lambda folder: folder / "tables",
            lambda folder: make_storage_path(f"file://{folder}/tables"),
        ],
        ids=["text", "path", "ObjectStoragePath"],
    )
    def test_is_written_wherever_airflows_object_storage_reaches(self, make_path, add_job, tmp_path):
        bad = record("i2", [], error="no")
        job_arn = add_job({"a.json.out": lines(record("i1", ["u1", "u2"]), bad)})
        for _ in range(2):
            result = convert(job_arn, output_path=make_path(tmp_path), max_error_rate=1.0)
            assert result["isComplete"]
            found = {
                str(each.relative_to(tmp_path / "tables")) for each in tmp_path.rglob("*") if each.is_file()
            }
            [_, errors, part] = sorted(found)
            assert found == {part, "_SUCCESS", errors}
            assert part.startswith("part-")
            assert errors == f"_errors/_{part.removesuffix('.parquet')}.errors"
            assert pq.read_table(tmp_path / "tables" / part).num_rows == 2
            # How readers are pointed at a table; none meets the errors.
            assert pq.read_table(tmp_path / "tables").num_rows == 2
            for pattern in ("*.parquet", "**/*.parquet", "*/*.parquet"):
                matches = {
                    str(each.relative_to(tmp_path / "tables")) for each in (tmp_path / "tables").glob(pattern)
                }
                assert matches <= {part}
            assert pq.read_table(tmp_path / "tables" / errors).num_rows == 1

    # Airflow 2.11.0 loads all providers first, with the oldest Flask.
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_is_written_to_path_objects_in_a_dag(self, add_job, tmp_path, run_dag):
        job_arn = add_job({"a.json.out": segments(1)})
        run = run_dag(
            "from pathlib import Path\n"
            "from airflow_names import DAG\n"
            "from airflow_provider_personalize_segments.airflow_compat import make_storage_path\n"
            "from airflow_provider_personalize_segments.operators import (\n"
            "    PersonalizeSegmentsToParquetOperator as Convert)\n"
            "with DAG('convert', schedule=None) as dag:\n"
            f"    folder = Path({str(tmp_path)!r})\n"
            f"    Convert(task_id='path', job_arn={job_arn!r}, output_path=folder / 'a')\n"
            f"    Convert(task_id='object', job_arn={job_arn!r},\n"
            "        output_path=make_storage_path(f'file://{folder}/b'))\n"
            f"    Convert(task_id='nothing', job_arn={job_arn!r}, output_path='{{{{ none }}}}')\n",
        )
        # Airflow 3.0 and 3.1 take a path of pathlib's for an XCom, as both can be resolved.
        takes_paths = not version("apache-airflow").startswith(("3.0.", "3.1."))
        assert {name: run.states[name] for name in ("path", "object", "nothing")} == {
            "path": "success" if takes_paths else "failed",
            "object": "success",
            "nothing": "failed",
        }
        assert str(run.errors["nothing"]).endswith("for a folder on the worker itself. Got 'None'.")
        for task_id, name in (("path", "a"), ("object", "b")):
            if run.states[task_id] == "success":
                assert run.xcom(task_id)["outputPath"] == f"file://{tmp_path}/{name}/"
            assert (tmp_path / name / "_SUCCESS").exists() is (run.states[task_id] == "success")

    @pytest.mark.parametrize("is_object", [False, True])
    def test_is_written_with_the_connection_that_the_path_names(
        self, is_object, add_job, proxy, read, local_personalize, monkeypatch
    ):
        monkeypatch.setenv("AIRFLOW_CONN_OTHER", local_personalize.airflow_connection())
        job_arn = add_job({"a.json.out": segments(1)})
        path = f"s3://other@{BUCKET}/tables/"
        output_path = StoragePath("s3", f"other@{BUCKET}/tables") if is_object else path
        for _ in range(2):
            result = convert(job_arn, output_path=output_path)
            assert (result["outputPath"], result["rows"], result["isComplete"]) == (path, 2, True)
        assert read().num_rows == 2
        assert not [each for each in proxy.requests if not each.startswith("GET ") or "tables" in each]


class StoragePath:
    """Airflow's ObjectStoragePath as far as its words go; for S3 it needs s3fs."""

    def __init__(self, protocol, path):
        self.protocol, self.path = protocol, path

    def __str__(self):
        return f"{self.protocol}://{self.path}"


class TestMapped:
    """A task for each file of the job, as Airflow maps them."""

    FILES = 4

    def make_job(self, add_job, **changes):
        return add_job({f"{number}.json.out": segments(number) for number in range(self.FILES)} | changes)

    def test_the_task_that_converts_the_last_file_completes_the_result(self, add_job, names, read):
        job_arn = self.make_job(add_job)
        files = PersonalizeHook().list_output_files(job_arn)
        assert files == [f"s3://{BUCKET}/output-weekly/{number}.json.out" for number in range(self.FILES)]
        for number, file in enumerate(files):
            assert visible(names()) == []
            assert "_SUCCESS" not in names()
            result = convert(job_arn, output_file=file)
            is_last = number == self.FILES - 1
            assert (result["isComplete"], result["rows"]) == (is_last, 8 if is_last else 2)
        assert len(visible(names())) == self.FILES
        assert set(names()) - set(visible(names())) == {"_SUCCESS"}
        assert sorted(row["query"] for row in read().to_pylist())[::2] == [f"item-{n}" for n in range(4)]

    def test_the_order_does_not_matter_and_a_retry_does_nothing_again(self, add_job, names, proxy):
        job_arn = self.make_job(add_job)
        files = PersonalizeHook().list_output_files(job_arn)
        for file in [files[2], files[2], files[0], files[3], files[0]]:
            assert not convert(job_arn, output_file=file)["isComplete"]
        assert sum("PUT" in each and each.endswith(".parquet") for each in proxy.requests) == 3
        assert convert(job_arn, output_file=files[1])["isComplete"]
        before = names()
        for file in files:
            assert convert(job_arn, output_file=file)["rows"] == 8
        assert names() == before

    def test_all_at_the_same_time_make_one_result(self, add_job, names, read):
        job_arn = self.make_job(add_job)
        files = PersonalizeHook().list_output_files(job_arn)
        with ThreadPoolExecutor(self.FILES) as threads:
            # Not as tasks: Airflow 2.11 knows only one of them in a process.
            results = list(
                threads.map(
                    lambda file: write_tables(PersonalizeHook(), job_arn, TABLES, file, 0.0, log), files * 2
                )
            )
        assert any(each["isComplete"] for each in results)
        assert len(visible(names())) == self.FILES
        assert set(names()) - set(visible(names())) == {"_SUCCESS"}
        assert read().num_rows == 8

    def test_a_task_that_is_overtaken_at_its_end_succeeds(self, add_job, proxy, names, read):
        """Both have seen that no part is missing, and the other one publishes first."""
        job_arn = self.make_job(add_job)
        files = PersonalizeHook().list_output_files(job_arn)
        for file in files[:-1]:
            convert(job_arn, output_file=file)
        seen = []

        def overtake(request):
            is_listing = "list-type" in request and "tables" in request and not seen
            if is_listing and sum(name.endswith(".json") for name in names()) == self.FILES:
                seen.append(request)
                assert convert(job_arn, output_file=files[0])["isComplete"]

        proxy.after = overtake
        assert convert(job_arn, output_file=files[-1])["isComplete"]
        assert seen
        assert set(names()) - set(visible(names())) == {"_SUCCESS"}
        assert read().num_rows == 8

    def test_the_error_rate_is_that_of_the_whole(self, add_job, names):
        job_arn = self.make_job(add_job, **{"1.json.out": lines(record("", [], error="no"))})
        files = PersonalizeHook().list_output_files(job_arn)
        for file in files[:-1]:
            convert(job_arn, output_file=file, max_error_rate=0.2)
        with pytest.raises(PersonalizeOutputError, match="1 of 4 records have an error, more than max"):
            convert(job_arn, output_file=files[-1], max_error_rate=0.2)
        assert visible(names()) == []
        assert convert(job_arn, output_file=files[0], max_error_rate=0.25)["isComplete"]

    def test_a_file_that_the_job_did_not_write_is_refused(self, add_job):
        job_arn = self.make_job(add_job)
        with pytest.raises(InvalidParameterError) as caught:
            convert(job_arn, output_file="s3://example-bucket/other.out")
        assert str(caught.value) == (
            "output_file is no file that the job wrote: 's3://example-bucket/other.out'. Expected one of "
            "those that PersonalizeHook.list_output_files returns, such as "
            f"s3://{BUCKET}/output-weekly/0.json.out. ({job_arn})"
        )

    @pytest.mark.parametrize("nothing", ["", None])
    def test_a_template_that_finds_nothing_does_not_mean_all_files(self, nothing, add_job):
        job_arn = self.make_job(add_job)
        task = PersonalizeSegmentsToParquetOperator(
            task_id="t", job_arn=job_arn, output_path=TABLES, output_file="{{ x }}"
        )
        task.output_file = nothing  # as rendered
        with pytest.raises(
            InvalidParameterError,
            match="output_file of task 't' is empty. Expected a file of the job's output",
        ):
            task.execute({"ti": TaskInstance()})


class TestRefusals:
    def test_a_folder_that_holds_something_else(self, add_job, s3, names):
        job_arn = add_job({"a.json.out": segments(1)})
        s3.put_object(Bucket=BUCKET, Key="tables/old.csv", Body=b"1")
        with pytest.raises(InvalidParameterError) as caught:
            convert(job_arn)
        assert str(caught.value) == (
            "output_path holds 'old.csv', which readers would take for a part of the result. "
            f"Choose a folder that holds nothing else. Got {TABLES!r}."
        )
        assert names() == ["old.csv"]

    @pytest.mark.parametrize(
        ("path", "words"),
        [
            ("", "output_path of task 'convert' is empty. Expected a folder"),
            ("nonsense://x/y", "output_path cannot be written to: "),
            ("s3:///x", "output_path cannot be written to: 's3:///x/' is no path in S3"),
            ("None", "output_path of task 'convert' has no scheme, and would be a folder on the worker. Exp"),
            ("tables/", "has no scheme.* Expected s3://<bucket>/<folder>/, another path that Air.*'tables/'"),
            ("/tmp/tables", "has no scheme.* or file:///<folder>/ for a folder on the worker.*'/tmp/tables'"),
            (Path("tables"), "has no scheme, and would be a folder on the worker.* Got 'tables'"),
            ("file://tables/x", "is relative to wherever the worker is. Expected s3://.* 'file://tables/x'"),
            ("s3a://b/x", "is not how S3 is written here: write s3://, not s3a://: 's3a://b/x'"),
            ("s3n://b/x", "is not how S3 is written here: write s3://, not s3n://: 's3n://b/x'"),
            ("S3://b/x", "is not how S3 is written here: write s3://, not S3://: 'S3://b/x'"),
            (7, "output_path of task 'convert' is not text, but of type int: 7"),
        ],
    )
    def test_a_path_that_leads_nowhere(self, path, words, add_job, tmp_path, monkeypatch):
        job_arn = add_job({"a.json.out": segments(1)})
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InvalidParameterError, match=words):
            convert(job_arn, output_path=path)
        assert list(tmp_path.iterdir()) == []

    def test_a_job_that_is_not_done(self, add_job):
        job_arn = add_job({}, status="CREATE IN_PROGRESS")
        with pytest.raises(PersonalizeOutputError) as caught:
            convert(job_arn)
        assert str(caught.value) == (
            "The job is 'CREATE IN_PROGRESS', so its output is not complete. Let a sensor wait for the job "
            "before this task, and clear it. (batch-segment-job/weekly, us-east-1)"
        )

    def test_a_job_that_failed(self, add_job):
        with pytest.raises(PersonalizeJobFailedError, match="CREATE FAILED"):
            convert(add_job({}, status="CREATE FAILED"))

    def test_a_job_of_the_other_kind(self, add_job):
        job_arn = add_job({"a.json.out": segments(1)})
        with pytest.raises(InvalidParameterError, match="not of a batch inference job"):
            convert(job_arn, PersonalizeRecommendationsToParquetOperator)

    def test_a_missing_library(self, add_job, monkeypatch):
        job_arn = add_job({"a.json.out": segments(1)})
        for name in [each for each in sys.modules if "personalize_segments.output." in each]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(ExtraNotInstalledError) as caught:
            convert(job_arn)
        assert str(caught.value) == (
            "No module named 'pyarrow'. Install the extra where tasks run: "
            "pip install 'airflow-provider-personalize-segments[parquet]'"
        )
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


class TestFaults:
    """What S3 may do while a result is written."""

    @pytest.fixture
    def job_arn(self, add_job):
        return add_job({"a.json.out": segments(1), "b.json.out": segments(2)})

    @pytest.mark.parametrize(
        ("request_", "words"),
        [
            ("PUT .*_part.*parquet$", "Allow s3:PutObject on the object"),
            ("PUT .*_part.*json$", "Allow s3:PutObject on the object"),
            ("PUT .*/tables/part.*", "s3:GetObject and s3:PutObject on the object"),
            ("DELETE .*_part.*", "Allow s3:DeleteObject on the object"),
            ("PUT .*_SUCCESS", "Allow s3:PutObject on the object"),
            ("GET .*b.json.out", "Allow s3:GetObject on the object"),
            ("GET .*list-type.*tables.*", "Allow s3:ListBucket on the bucket"),
        ],
    )
    def test_what_is_not_allowed_is_named_and_there_is_no_success(
        self, request_, words, job_arn, proxy, names
    ):
        proxy.refuse = lambda request: (403, "AccessDenied") if re.fullmatch(request_, request) else None
        with pytest.raises(S3RefusedError, match="AccessDenied: It says no") as caught:
            convert(job_arn)
        assert words in str(caught.value)
        assert str(caught.value).endswith(")")
        assert f"(s3://{BUCKET}/" in str(caught.value)
        assert "_SUCCESS" not in names()
        proxy.refuse = lambda _: None
        assert convert(job_arn)["rows"] == 4

    def test_an_outage_is_waited_out_by_boto3_and_then_by_retries(self, job_arn, proxy, names, monkeypatch):
        monkeypatch.setattr("time.sleep", lambda _: None)
        left = [2]

        def refuse(request):
            if request.startswith("PUT ") and left[0]:
                left[0] -= 1
                return 503, "SlowDown"
            return None

        proxy.refuse = refuse
        assert convert(job_arn)["rows"] == 4

        proxy.refuse = lambda request: (503, "SlowDown") if request.startswith("PUT ") else None
        with pytest.raises(S3UnavailableError, match="retry the task"):
            convert(job_arn, output_path=f"s3://{BUCKET}/others/")

    def test_an_object_that_changes_while_it_is_read_makes_no_result(self, job_arn, proxy, s3, names):
        def replace(request):
            if "list-type" not in request and "a.json.out" in request:
                proxy.after = lambda _: None
                s3.put_object(Bucket=BUCKET, Key="output-weekly/b.json.out", Body=segments(3))

        proxy.after = replace
        with pytest.raises(S3UnavailableError, match="The object changed while it was read"):
            convert(job_arn)
        assert names() == []

    def test_a_part_that_vanishes_before_the_end_is_no_success(self, job_arn, proxy, s3, names):
        def remove(request):
            if request.startswith("PUT ") and request.endswith(".json"):
                for name in names():
                    if name.endswith(".parquet"):
                        s3.delete_object(Bucket=BUCKET, Key=f"tables/{name}")

        proxy.after = remove
        with pytest.raises(S3UnavailableError, match="A part of the result vanished before"):
            convert(job_arn)
        assert "_SUCCESS" not in names()

    def test_an_error_while_reading_leaves_no_upload_behind(self, add_job, proxy, s3, names, monkeypatch):
        monkeypatch.setattr(s3_folder, "UPLOAD_SIZE", 64 * 1024)
        monkeypatch.setattr(parquet, "GROUP_ROWS", 1000)
        users = [str(uuid.UUID(int=number**20 % 2**128)) for number in range(6_000)]
        body = lines(*[record(str(number), users) for number in range(2)])
        job_arn = add_job({"a.json.out": body, "b.json.out": segments(2)[:-20]})
        with pytest.raises(PersonalizeOutputError, match="cut off"):
            convert(job_arn)
        assert not [each for each in proxy.requests if not each.startswith("GET ")]
        assert names() == []
        assert not [each for each in threading.enumerate() if each.name.startswith("parquet")]

    def test_an_upload_that_is_refused_is_not_left_behind(self, job_arn, proxy, s3, monkeypatch):
        monkeypatch.setattr(s3_folder, "UPLOAD_SIZE", 500)
        proxy.refuse = lambda request: (403, "AccessDenied") if "partNumber" in request else None
        with pytest.raises(S3RefusedError, match="AccessDenied: It says no"):
            convert(job_arn)
        assert any("uploads" in each and each.startswith("POST ") for each in proxy.requests)
        assert "Uploads" not in s3.list_multipart_uploads(Bucket=BUCKET)

    @pytest.mark.parametrize("times", [1, 2, 3])
    def test_an_upload_that_is_gone_is_begun_again(self, job_arn, proxy, names, monkeypatch, times):
        monkeypatch.setattr(s3_folder, "UPLOAD_SIZE", 500)
        left = [times]

        def refuse(request):
            if request.startswith("POST ") and "uploadId" in request and left[0]:
                left[0] -= 1
                return 404, "NoSuchUpload"
            return None

        proxy.refuse = refuse
        if times < 3:
            assert convert(job_arn)["isComplete"]
        else:
            with pytest.raises(S3UnavailableError, match="NoSuchUpload: It says no.* retry the task"):
                convert(job_arn)
            assert "_SUCCESS" not in names()

    def test_two_tasks_of_one_result_both_succeed_whenever_the_second_comes(
        self, job_arn, proxy, s3, names, read, monkeypatch
    ):
        """The second runs from its beginning to its end while the first waits for the answer to a request."""
        monkeypatch.setattr(s3_folder, "UPLOAD_SIZE", 500)

        def run(number):
            seen = []

            def overtake(request):
                seen.append(request)
                if len(seen) == number:
                    proxy.after = lambda _: None
                    other = write_tables(PersonalizeHook(), job_arn, TABLES, None, 0.0, log)
                    assert other["isComplete"]
                    proxy.after = overtake

            proxy.after = overtake
            # Not as tasks: Airflow 2.11 knows only one of them in a process.
            assert write_tables(PersonalizeHook(), job_arn, TABLES, None, 0.0, log)["isComplete"]
            proxy.after = lambda _: None
            return len(seen)

        for number in itertools.count(1):
            TestKilled.empty(s3, names)
            requests = run(number)
            assert len(visible(names())) == 1
            assert set(names()) - set(visible(names())) == {"_SUCCESS"}
            assert read().num_rows == 4
            if requests < number:
                break
        assert number > 15


KILLED = """
import os, sys
answers = os.dup(1)
os.dup2(2, 1)  # what Airflow logs would come between
from airflow_provider_personalize_segments.operators import PersonalizeSegmentsToParquetOperator
from airflow_provider_personalize_segments.output import publishing, s3_folder
s3_folder.UPLOAD_SIZE = 64 * 1024

def answer(number):
    os.write(answers, f"{number}\\n".encode())

for _ in sys.stdin:
    child = os.fork()
    if not child:
        answer(os.getpid())
        sys.stdin.readline()
        options = {"job_arn": sys.argv[1], "output_path": sys.argv[2]}
        task = PersonalizeSegmentsToParquetOperator(task_id="convert", **options)
        task.execute({})
        os._exit(0)
    answer(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
"""Forks before it has threads, as Airflow's worker does: a process that is to be killed is there at once."""


class TestKilled:
    """A worker that is killed after each request that changes something, before it gets the answer."""

    @staticmethod
    def ask(process, word):
        """Tell the process something, and return its answer."""
        process.stdin.write(f"{word}\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    def test_a_retry_leaves_exactly_one_complete_result(self, add_job, proxy, s3, names, read, monkeypatch):
        # S3 takes no smaller part of an upload than 5 MiB, and each would take this test a second.
        monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)
        users = [str(uuid.UUID(int=number**20 % 2**128)) for number in range(6_000)]
        job_arn = add_job({"a.json.out": lines(record("1", users))})
        convert(job_arn)
        expected = read()
        task = [sys.executable, "-c", KILLED, job_arn, TABLES]
        with subprocess.Popen(task, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

            def run(number):
                """Run the task, and kill it with a request; return its exit code and what was changed."""
                pid = self.ask(process, "run")
                changes = []

                def note(request):
                    if not request.startswith(("GET ", "HEAD ")):
                        changes.append(request)
                        if len(changes) == number:
                            os.kill(pid, signal.SIGKILL)

                proxy.after = note
                code = self.ask(process, "go")
                proxy.after = lambda _: None
                return code, changes

            kills = 0
            for number in itertools.count(1):
                self.empty(s3, names)
                code, changes = run(number)
                if code == 0:
                    break
                assert code == -signal.SIGKILL
                kills += 1
                if visible(names()):
                    assert read().equals(expected)
                assert "_SUCCESS" not in names() or visible(names())
                assert run(0)[0] == 0
                assert len(visible(names())) == 1, changes
                assert set(names()) - set(visible(names())) == {"_SUCCESS"}
                assert read().equals(expected)
            process.stdin.close()
        assert kills >= 8, kills  # begin, part, complete, note, copy, 2 deletions, success

    @staticmethod
    def empty(s3, names):
        for name in names():
            s3.delete_object(Bucket=BUCKET, Key=f"tables/{name}")
