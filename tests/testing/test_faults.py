from __future__ import annotations

import threading

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.testing.faults import Faults

NOW_AND_THEN = ["throttle", "server_error", "drop_connection", "drop_answer", "deny_access", "expired_token"]


@pytest.fixture
def job(stage):
    control = stage.open()
    arn = control.add_solution_version()
    return control.add_job(BatchJobKind.SEGMENT, "nightly", solution_version_arn=arn)


@pytest.fixture
def describe(stage, job):
    client = stage.client()
    return lambda: client.describe_batch_segment_job(batchSegmentJobArn=job)


class TestKinds:
    @pytest.mark.parametrize(
        ("fault", "options", "code", "status", "words"),
        [
            ("throttle", {}, "ThrottlingException", 400, "Rate exceeded"),
            ("server_error", {}, "InternalFailure", 500, "unknown error"),
            ("server_error", {"status": 503}, "ServiceUnavailable", 503, "temporary failure"),
            (
                "expired_token",
                {},
                "ExpiredTokenException",
                400,
                "security token included in the request is expired",
            ),
        ],
    )
    def test_answers(self, stage, describe, fault, options, code, status, words):
        getattr(stage.control.faults, fault)(times=1, **options)
        with pytest.raises(ClientError, match=words) as caught:
            describe()
        answer = caught.value.response
        assert (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]) == (code, status)
        assert stage.control.calls[0].faults == (fault,)
        assert describe()["batchSegmentJob"]["jobName"] == "nightly"

    @pytest.mark.parametrize(
        ("method", "asked", "action", "resource"),
        [
            (
                "describe_batch_segment_job",
                {"batchSegmentJobArn": "arn:aws:personalize:us-east-1:123456789012:batch-segment-job/any"},
                "DescribeBatchSegmentJob",
                "arn:aws:personalize:us-east-1:123456789012:batch-segment-job/any",
            ),
            ("list_batch_inference_jobs", {}, "ListBatchInferenceJobs", "*"),
            (
                "create_batch_inference_job",
                {
                    "jobName": "new",
                    "solutionVersionArn": "arn:aws:personalize:us-east-1:123456789012:solution/a/b",
                    "jobInput": {"s3DataSource": {"path": "s3://a/b"}},
                    "jobOutput": {"s3DataDestination": {"path": "s3://a/c"}},
                    "roleArn": "arn:aws:iam::123456789012:role/a",
                },
                "CreateBatchInferenceJob",
                "arn:aws:personalize:us-east-1:123456789012:batch-inference-job/new",
            ),
        ],
    )
    def test_access_denied_names_action_and_resource(self, stage, method, asked, action, resource):
        stage.open().faults.deny_access()
        with pytest.raises(ClientError) as caught:
            getattr(stage.client(), method)(**asked)
        assert caught.value.response["Error"] == {
            "Code": "AccessDeniedException",
            "Message": "User: arn:aws:sts::123456789012:assumed-role/airflow/worker is not authorized to "
            f"perform: personalize:{action} on resource: {resource}",
        }

    def test_dropped_connection(self, stage, describe):
        stage.control.faults.drop_connection(times=1)
        with pytest.raises(ConnectionClosedError, match="Connection was closed"):
            describe()
        assert describe()["batchSegmentJob"]["jobName"] == "nightly"

    @pytest.mark.parametrize(("fault", "created"), [("drop_connection", False), ("drop_answer", True)])
    def test_only_a_dropped_answer_did_what_was_asked(self, stage, make_request, fault, created):
        control = stage.open(progress="by_hand")
        client = stage.client()
        request = make_request(control.add_solution_version())
        getattr(control.faults, fault)(times=1, operation="CreateBatchSegmentJob")
        with pytest.raises(ConnectionClosedError):
            client.create_batch_segment_job(**request)
        names = [job["jobName"] for job in client.list_batch_segment_jobs()["batchSegmentJobs"]]
        assert names == (["nightly"] if created else [])
        if created:
            with pytest.raises(client.exceptions.ResourceAlreadyExistsException):
                client.create_batch_segment_job(**request)

    def test_boto3_itself_retries_a_create_whose_answer_was_dropped(self, inside, make_request):
        control = inside.open(progress="by_hand")
        client = inside.client(attempts=3)
        control.faults.drop_answer(times=1)
        with pytest.raises(client.exceptions.ResourceAlreadyExistsException):
            client.create_batch_segment_job(**make_request(control.add_solution_version()))
        assert control.calls.count("CreateBatchSegmentJob") == 2

    def test_a_body_that_is_not_json(self, stage, describe):
        stage.control.faults.malformed(times=1)
        answer = describe()
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
        assert "batchSegmentJob" not in answer

    def test_slow(self, stage, describe, monkeypatch):
        waited = []
        monkeypatch.setattr(stage.control._stopping, "wait", waited.append)
        stage.control.faults.slow(30, times=1)
        assert describe()["batchSegmentJob"]["jobName"] == "nightly"
        describe()
        assert waited == [30]

    def test_slow_lets_others_pass(self, served, make_request):
        control = served.open()
        arn = control.add_solution_version()
        control.faults.slow(60, times=1)
        client, other = served.client(), served.client()
        slow = threading.Thread(target=lambda: client.describe_solution_version(solutionVersionArn=arn))
        slow.start()
        while not control.calls.count():
            slow.join(0.01)
        assert (
            other.describe_solution_version(solutionVersionArn=arn)["solutionVersion"]["status"] == "ACTIVE"
        )
        assert slow.is_alive()
        # Whoever stops does not wait for what is slow.
        control._stopping.set()
        slow.join(10)
        assert not slow.is_alive()


class TestChoice:
    def outcomes(self, faults, count, operation="DescribeBatchSegmentJob"):
        return [[fault.name for fault in faults.draw(operation)] for _ in range(count)]

    @pytest.mark.parametrize("fault", NOW_AND_THEN)
    def test_for_the_next_calls(self, fault):
        faults = Faults()
        getattr(faults, fault)(times=2)
        assert self.outcomes(faults, 4) == [[fault], [fault], [], []]

    @pytest.mark.parametrize("fault", NOW_AND_THEN)
    def test_until_cleared(self, fault):
        faults = Faults()
        getattr(faults, fault)()
        assert self.outcomes(faults, 10) == [[fault]] * 10
        faults.clear()
        assert self.outcomes(faults, 2) == [[], []]

    def test_only_one_operation(self):
        faults = Faults()
        faults.throttle(times=1, operation="ListBatchSegmentJobs")
        assert self.outcomes(faults, 2) == [[], []]
        assert self.outcomes(faults, 2, "ListBatchSegmentJobs") == [["throttle"], []]

    def test_one_after_the_other(self):
        faults = Faults()
        faults.throttle(times=1)
        faults.drop_connection(times=1)
        assert self.outcomes(faults, 3) == [["throttle"], ["drop_connection"], []]

    def test_slowness_comes_besides(self):
        faults = Faults()
        faults.throttle(times=1)
        faults.slow(1, times=2)
        assert self.outcomes(faults, 3) == [["slow", "throttle"], ["slow"], []]

    @settings(max_examples=30)
    @given(seed=st.integers(0, 1000), share=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    def test_a_share_by_seeded_chance(self, seed, share):
        runs = []
        for _ in range(2):
            faults = Faults(seed)
            faults.throttle(share=share)
            runs.append(self.outcomes(faults, 400))
        assert runs[0] == runs[1]
        assert sum(map(bool, runs[0])) == pytest.approx(400 * share, abs=80 if 0 < share < 1 else 0)

    def test_a_share_until_so_many(self):
        faults = Faults()
        faults.throttle(times=3, share=0.5)
        outcomes = self.outcomes(faults, 100)
        assert sum(map(bool, outcomes)) == 3
        assert [] in outcomes[:20]

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"times": 0}, "times: expected 1 or more, got 0"),
            ({"share": 1.5}, "share: expected 0.0 to 1.0, got 1.5"),
            ({"status": 418}, "status: expected 500 or 503, got 418"),
            (
                {"operation": "describe_batch_segment_job"},
                "operation: expected the name of a Personalize operation, such as DescribeBatchSegmentJob, "
                "got 'describe_batch_segment_job'",
            ),
        ],
    )
    def test_what_cannot_be(self, options, words):
        with pytest.raises(ValueError, match=words):
            Faults().server_error(**options)
