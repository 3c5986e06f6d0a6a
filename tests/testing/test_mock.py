from __future__ import annotations

import inspect
import os

import boto3
import moto.personalize
import pytest
from moto import mock_aws
from moto.core.models import botocore_stubber

from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.testing import (
    LocalPersonalize,
    PersonalizeControl,
    mock_personalize,
)


def job_names():
    client = boto3.client("personalize", region_name="us-east-1")
    return [job["jobName"] for job in client.list_batch_segment_jobs()["batchSegmentJobs"]]


class TestContextManager:
    def test_boto3_and_dummy_credentials(self, monkeypatch):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "real")
        with mock_personalize() as personalize:
            assert os.environ["AWS_ACCESS_KEY_ID"] != "real"
            assert job_names() == []
            assert boto3.client("s3").list_buckets()["Buckets"] == []
            assert personalize.endpoint_url is None
        assert os.environ["AWS_ACCESS_KEY_ID"] == "real"

    def test_moto_is_as_before_afterwards(self):
        backends = moto.personalize.personalize_backends
        with mock_personalize():
            assert moto.personalize.personalize_backends is not backends
        assert moto.personalize.personalize_backends is backends
        assert "process_request" not in vars(botocore_stubber)
        with mock_aws():
            client = boto3.client("personalize", region_name="us-east-1")
            assert client.list_schemas()["schemas"] == []
            with pytest.raises(NotImplementedError):
                client.list_batch_segment_jobs()

    def test_also_after_an_error(self):
        with pytest.raises(LookupError), mock_personalize():
            raise LookupError
        with mock_personalize():
            assert job_names() == []

    def test_nothing_is_left_for_the_next(self):
        mock = mock_personalize(progress="by_hand")
        for _ in range(2):
            with mock as personalize:
                assert job_names() == []
                personalize.faults.throttle(operation="CreateSchema")
                version = personalize.add_solution_version()
                personalize.add_job(BatchJobKind.SEGMENT, "a", solution_version_arn=version)
                assert job_names() == ["a"]
                assert len(personalize.calls) == 2

    def test_inside_mock_aws_its_data_stays(self):
        with mock_aws():
            s3 = boto3.client("s3", region_name="us-east-1")
            s3.create_bucket(Bucket="kept")
            with mock_personalize():
                assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["kept"]
            assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["kept"]

    @pytest.mark.parametrize("second", [mock_personalize, LocalPersonalize])
    def test_only_one_at_a_time(self, second):
        with mock_personalize():
            with pytest.raises(RuntimeError, match="use one at a time"), second():
                pass
            assert job_names() == []

    def test_wrong_options_show_where_they_are_written(self):
        with pytest.raises(ValueError, match="statuses"):
            mock_personalize(statuses="wrong")
        with pytest.raises(TypeError, match="speed"):
            mock_personalize(speed=1)


class TestDecorator:
    def test_without_parentheses(self):
        @mock_personalize
        def inside(value, personalize):
            assert job_names() == []
            return value, personalize

        value, control = inside(5)
        assert value == 5
        assert isinstance(control, PersonalizeControl)

    def test_with_options_and_without_the_parameter(self):
        @mock_personalize(seed=3)
        def inside(*, value):
            return value, job_names()

        assert inside(value=5) == (5, [])

    def test_every_call_begins_empty(self):
        @mock_personalize
        def inside(personalize):
            job_names()
            return len(personalize.calls)

        assert [inside(), inside()] == [1, 1]

    def test_pytest_does_not_look_for_a_fixture(self):
        @mock_personalize
        def test_something(tmp_path, personalize):
            """Words."""

        assert list(inspect.signature(test_something).parameters) == ["tmp_path"]
        assert (test_something.__name__, test_something.__doc__) == ("test_something", "Words.")

    def test_methods(self):
        class Suite:
            @mock_personalize()
            def check(self, personalize):
                return self, personalize.account_id

        suite = Suite()
        assert suite.check() == (suite, "123456789012")

    def test_nothing_that_runs_later(self):
        async def coroutine(personalize):
            """Run when it is awaited."""

        def fixture(personalize):
            yield personalize

        async def generator(personalize):
            yield personalize

        for each in (coroutine, fixture, generator):
            with pytest.raises(TypeError, match="Use it as a context manager inside, or take the fixture"):
                mock_personalize(each)

    def test_no_classes(self):
        with pytest.raises(TypeError, match="decorates functions"):
            mock_personalize(type("Suite", (), {}))
