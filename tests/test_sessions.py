"""boto3's sessions of our hooks: models are read once a process, answers end, no other session is touched."""

from __future__ import annotations

import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest
from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from botocore.exceptions import ClientError, HTTPClientError
from botocore.loaders import JSONFileLoader, Loader
from botocore.parsers import ResponseParserError
from scripted_endpoint import Answer, describe, error, job_arn

from airflow_provider_personalize_segments import sessions
from airflow_provider_personalize_segments.errors import PersonalizeUnavailableError
from airflow_provider_personalize_segments.hooks import PersonalizeHook
from airflow_provider_personalize_segments.jobs import BatchJobKind, JobState
from airflow_provider_personalize_segments.waiting.verdicts import ask

ARN = job_arn("weekly")
PIECE = b"x" * 64 * 1024


@pytest.fixture
def read_models(monkeypatch):
    """Count the model files that botocore reads in threads named asks, as if no session had read any."""
    read = Counter()
    load = JSONFileLoader.load_file

    def count(path):
        data = load(path)
        # The local Personalize, which lives in this process, reads models for itself.
        if data is not None and threading.current_thread().name.startswith("asks"):
            read[path] += 1
        return data

    # The tests' own sparing of botocore has made it a function without a loader.
    monkeypatch.setattr(JSONFileLoader, "load_file", staticmethod(count))
    monkeypatch.setattr(sessions, "_loaders", {})
    return read


class TestModels:
    def test_are_read_once_for_all_connections(self, local_personalize, monkeypatch, read_models):
        plain = local_personalize.airflow_connection()
        role = local_personalize.airflow_connection(role_arn="arn:aws:iam::123456789012:role/shop")
        for number in range(10):
            monkeypatch.setenv(f"AIRFLOW_CONN_SHOP_{number}", role if number % 2 else plain)
        together = threading.Barrier(10)

        def list_jobs(number):
            hook = PersonalizeHook(f"shop_{number}")
            together.wait(60)
            return list(hook.list_jobs(BatchJobKind.SEGMENT))

        with ThreadPoolExecutor(10, "asks") as threads:
            assert list(threads.map(list_jobs, range(10))) == [[]] * 10
        assert any("/personalize/" in path for path in read_models)
        assert any("/sts/" in path for path in read_models)
        assert {path: times for path, times in read_models.items() if times > 1} == {}

    def test_of_another_place_are_read_from_there(self, monkeypatch, tmp_path, read_models):
        hook = PersonalizeHook(None, "us-east-1")
        one, same = (hook.get_session()._session.get_component("data_loader") for _ in range(2))
        monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))
        other = hook.get_session()._session.get_component("data_loader")
        assert one is same
        assert one is not other
        assert other.search_paths[0] == str(tmp_path)
        # boto3 adds its own place to each new session's.
        assert one.search_paths == boto3.Session()._session.get_component("data_loader").search_paths[1:]

    def test_of_other_sessions_stay_theirs(self, local_personalize, monkeypatch, read_models):
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", local_personalize.airflow_connection())
        _ = PersonalizeHook().conn
        for session in (boto3.Session(), AwsBaseHook(client_type="personalize").get_session()):
            assert type(session._session.get_component("data_loader")) is Loader
            client = session.client("personalize", region_name="us-east-1")
            assert not isinstance(client, sessions._BoundedClient)

    def test_of_a_loader_that_somebody_chose_stay_there(self):
        chosen = type("ChosenLoader", (Loader,), {})()
        assert sessions._share(chosen) is chosen


class TestAnswers:
    @pytest.fixture
    def hook(self, serve):
        def make(answer):
            self.endpoint = serve(answer)
            return PersonalizeHook().without_retries()

        return make

    @pytest.mark.parametrize("status", [200, 400, 503])
    @pytest.mark.parametrize("is_endless", [False, True])
    def test_end_at_a_few_megabytes(self, hook, status, is_endless):
        body = PIECE if is_endless else PIECE * 80
        hook = hook(Answer(body, status, is_endless=is_endless))
        verdict = ask(hook, ARN)
        assert verdict.state is JobState.WAITING
        assert verdict.no_answer == (
            "ResponseParserError: the answer is longer than 4 MB. That is no answer of Amazon Personalize's: "
            "look for a proxy, or a wrong endpoint_url. (DescribeBatchSegmentJob did not succeed for "
            f"{ARN}, region us-east-1, connection 'aws_default')"
        )
        if is_endless:
            # What was not read lay in the buffers of two sockets; the connection is closed.
            assert self.endpoint.left.wait(30)
            assert self.endpoint.endless_bytes < 16 * 1024**2
        # The next call has a connection that works.
        self.endpoint.answer = lambda *_: describe("weekly")
        assert ask(hook, ARN).state is JobState.ACTIVE

    def test_of_the_longest_length_are_read(self, hook):
        answer = describe("weekly", failureReason="x" * 4_000_000)
        assert len(answer.body) < sessions.MAX_ANSWER
        assert ask(hook(answer), ARN).state is JobState.ACTIVE

    def test_of_a_listing_end_too(self, hook):
        with pytest.raises(PersonalizeUnavailableError, match=r"longer than 4 MB.*ListBatchSegmentJobs did"):
            list(hook(Answer(PIECE, is_endless=True)).list_jobs(BatchJobKind.SEGMENT))

    def test_about_a_role_end_too(self, serve, monkeypatch):
        endpoint = serve(Answer(PIECE, is_endless=True))
        connection = json.loads(endpoint.connection)
        connection["extra"] |= {
            "role_arn": "arn:aws:iam::123456789012:role/shop",
            "service_config": {"sts": {"endpoint_url": endpoint.url}},
        }
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
        verdict = ask(PersonalizeHook(), ARN)
        assert verdict.state is JobState.WAITING
        assert "the answer is longer than 4 MB" in verdict.no_answer

    def test_that_are_errors_of_an_object_end_and_objects_do_not(self, hook):
        client = hook(Answer(PIECE * 80)).make_s3_client("us-east-1")
        assert len(client.get_object(Bucket="shop", Key="out")["Body"].read()) == len(PIECE) * 80
        self.endpoint.answer = lambda *_: Answer(PIECE, 403, is_endless=True)
        with pytest.raises(ResponseParserError, match="longer than 4 MB"):
            client.get_object(Bucket="shop", Key="out")
        client.close()

    def test_that_break_off_are_repeated_as_botocore_repeats_them(self, serve):
        broken = Answer(b"64\r\n{", headers={"Transfer-Encoding": "chunked", "Connection": "close"})
        endpoint = serve(lambda *_: describe("weekly") if len(endpoint.calls) > 1 else broken)
        # A mode that repeats few errors; an answer that broke off is among them.
        hook = PersonalizeHook(config={"retries": {"total_max_attempts": 2, "mode": "legacy"}})
        assert ask(hook, ARN).state is JobState.ACTIVE
        assert len(endpoint.calls) == 2

    def test_that_hang_are_read_timeouts_of_that_address(self, hook):
        hook = hook(Answer(b"{}", drips=30))
        with pytest.raises(HTTPClientError, match=r'Read timeout on endpoint URL: "http://127\.0\.0\.1'):
            hook.with_limit(0.5).conn.describe_batch_segment_job(batchSegmentJobArn=ARN)

    def test_that_are_aws_errors_stay_what_they_are(self, hook):
        with pytest.raises(ClientError, match="AccessDeniedException"):
            hook(error("AccessDeniedException")).conn.describe_batch_segment_job(batchSegmentJobArn=ARN)
