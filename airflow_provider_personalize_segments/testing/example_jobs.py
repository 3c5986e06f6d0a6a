"""Jobs on a local Personalize, started the way a user's code would: boto3, with real input in S3."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from airflow_provider_personalize_segments.jobs import BatchJobKind

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.testing.server import LocalPersonalize

BUCKET = "demo-bucket"
ROLE_ARN = "arn:aws:iam::123456789012:role/PersonalizeS3Access"
EXAMPLE_INPUT: Mapping[BatchJobKind, Sequence[dict[str, str]]] = {
    BatchJobKind.SEGMENT: [{"itemId": item} for item in ("b1042", "b2177", "b3301", "b4008", "b5590")],
    BatchJobKind.INFERENCE: [{"userId": user} for user in ("u17", "u42", "u99")],
}


class ExampleJobs:
    """
    Starts jobs, and reads what became of them.

    :param local: the running local Personalize
    """

    def __init__(self, local: LocalPersonalize) -> None:
        import boto3
        from botocore.config import Config

        session = boto3.session.Session("testing", "testing", region_name="us-east-1")
        self._local = local
        # botocore would repeat a Create for seconds while the quota is full, and nothing else would go on.
        once = Config(retries={"total_max_attempts": 1})
        self._personalize = session.client("personalize", endpoint_url=local.endpoint_url, config=once)
        self._s3 = session.client("s3", endpoint_url=local.endpoint_url)
        self._s3.create_bucket(Bucket=BUCKET)

    def put_input(self, kind: BatchJobKind) -> str:
        """
        Put an input file into S3 and return its path.

        :param kind: the kind of job that is to read it
        """
        key = f"input/{kind.name}.jsonl"
        body = "\n".join(json.dumps(record) for record in EXAMPLE_INPUT[kind])
        self._s3.put_object(Bucket=BUCKET, Key=key, Body=body.encode())
        return f"s3://{BUCKET}/{key}"

    def start(
        self, kind: BatchJobKind, job_name: str, solution_version_arn: str, input_path: str, num_results: int
    ) -> str:
        """
        Create a batch job and return its ARN.

        :param kind: the kind of job
        :param job_name: its name
        :param solution_version_arn: the solution version it uses
        :param input_path: where its input is
        :param num_results: how many users or items each record is to name
        """
        response: dict[str, str] = getattr(self._personalize, kind.create_method)(
            jobName=job_name,
            solutionVersionArn=solution_version_arn,
            jobInput={"s3DataSource": {"path": input_path}},
            jobOutput={"s3DataDestination": {"path": f"s3://{BUCKET}/output/{job_name}/"}},
            numResults=num_results,
            roleArn=ROLE_ARN,
        )
        return response[kind.arn_member]

    def read_segments(self, path: str) -> dict[str, set[str]]:
        """
        Return the users of each segment that Parquet files hold.

        :param path: the folder of the files
        """
        import pyarrow.parquet as pq

        segments: dict[str, set[str]] = {}
        prefix = path.removeprefix(f"s3://{BUCKET}/")
        # What is in folders below are no segments.
        found = self._s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix, Delimiter="/")["Contents"]
        for key in [each["Key"] for each in found if each["Key"].endswith(".parquet")]:
            content = self._s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            table = pq.read_table(io.BytesIO(content), columns=["query", "user_id"])
            for query, user in zip(*(column.to_pylist() for column in table.columns), strict=True):
                segments.setdefault(query, set()).add(user)
        return segments
