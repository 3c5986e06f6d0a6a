"""What other teams have in a managed Airflow goes on working beside us: aiobotocore, and s3fs on it."""

from __future__ import annotations

import asyncio
from importlib import import_module

import boto3
import pytest
from lines import IS_MANAGED

from airflow_provider_personalize_segments.testing import LocalPersonalize

pytestmark = pytest.mark.skipif(not IS_MANAGED, reason="only official constraint files bring aiobotocore")

CREDENTIALS = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}


@pytest.fixture
def client_options():
    with LocalPersonalize() as local:
        options = {"endpoint_url": local.endpoint_url, "region_name": "us-east-1"}
        s3 = boto3.client("s3", **options, **CREDENTIALS)
        s3.create_bucket(Bucket="theirs")
        s3.put_object(Bucket="theirs", Key="report.csv", Body=b"a,b\n")
        s3.close()
        yield options


def test_an_asynchronous_client_reads_s3(client_options):
    async def read():
        session = import_module("aiobotocore.session").get_session()
        async with session.create_client("s3", **client_options, **CREDENTIALS) as client:
            answer = await client.get_object(Bucket="theirs", Key="report.csv")
            async with answer["Body"] as body:
                return await body.read()

    assert asyncio.run(read()) == b"a,b\n"


def test_a_file_system_on_it_lists_and_reads_s3(client_options):
    file_system = import_module("s3fs").S3FileSystem(
        key="x", secret="x", client_kwargs=client_options, skip_instance_cache=True
    )
    assert file_system.ls("theirs") == ["theirs/report.csv"]
    assert file_system.cat("theirs/report.csv") == b"a,b\n"
