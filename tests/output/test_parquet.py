"""Output as Parquet: what is in the tables, all or nothing, whatever the output holds."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import TaskInstance

from airflow_provider_personalize_segments.operators import (
    PersonalizeSegmentsToParquetOperator,
)

BUCKET = "example-bucket"
TABLES = f"s3://{BUCKET}/tables/"


def record(query, users, **more):
    return {"input": {"itemId": query}, "output": {"usersList": users}, "error": None} | more


def lines(*records):
    return b"".join(json.dumps(each).encode() + b"\n" for each in records)


@pytest.fixture
def s3(local_personalize, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", local_personalize.airflow_connection())
    client = boto3.client(
        "s3",
        region_name="us-east-1",
        endpoint_url=local_personalize.endpoint_url,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
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
            if name.rpartition("/")[0] == folder and name.endswith(".parquet")
        ]
        return pa.concat_tables(tables)

    return read


def convert(job_arn, operator=PersonalizeSegmentsToParquetOperator, **options):
    task = operator(task_id="convert", job_arn=job_arn, **{"output_path": TABLES, **options})
    return task.execute({"ti": TaskInstance()})


class TestTables:
    def test_have_a_row_for_each_user_of_a_segment(self, add_job, read, names):
        job_arn = add_job({"a.json.out": lines(record("i1", ["u1", "u2"]), record("i2", ["u1"]))})
        result = convert(job_arn)
        table = read()
        assert table.schema.equals(
            pa.schema(
                {"query": pa.string(), "user_id": pa.string(), "rank": pa.int32(), "job_arn": pa.string()}
            )
        )
        assert table.to_pylist() == [
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
        assert [name for name in names() if not name.startswith("part-00000-")] == ["_SUCCESS"]
