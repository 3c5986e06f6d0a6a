"""The example DAGs: Airflow runs each on a local job that succeeds, and on one that fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_personalize_segments.errors import PersonalizeJobFailedError
from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.testing import LocalPersonalize
from airflow_provider_personalize_segments.testing.demo import EXAMPLE_INPUT, ExampleJobs

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

        start.local = local
        yield start


class TestCreateSegmentJob:
    PATH = EXAMPLES / "create_segment_job.py"

    def run(self, run_dag, local, conf=None, **options):
        version = local.add_solution_version("shop")
        conf = {"solution_version_arn": version, **(conf or {})}
        run = run_dag(self.PATH, conf, poke_interval=0.1, **options)
        (call,) = [call for call in local.calls if call.operation == "CreateBatchSegmentJob"]
        return run, call.parameters

    def test_prints_the_segments_of_the_job_it_created(self, start_job, run_dag, capsys):
        run, request = self.run(run_dag, start_job.local)
        assert run.states == {"upload_input": "success", "create_job": "success", "show_segments": "success"}
        assert run.xcom("show_segments") == 5
        assert run.xcom("create_job").endswith(f":batch-segment-job/{request['jobName']}")
        assert request["jobName"].startswith("create_segment_job-create_job-")
        table = capsys.readouterr().out.partition("item       users  the first of them\n")[2].splitlines()
        items = [record["itemId"] for record in EXAMPLE_INPUT[BatchJobKind.SEGMENT]]
        assert [line.split()[:2] for line in table[:5]] == [[item, "100"] for item in items]

    def test_prints_the_errors_of_records_that_could_not_be_served(self, start_job, run_dag, capsys):
        run, _ = self.run(run_dag, start_job.local, {"items": ["b1042", ""]})
        assert run.xcom("show_segments") == 2
        table = capsys.readouterr().out.partition("item       users  the first of them\n")[2].splitlines()
        assert table[0].startswith("b1042        100  user-")
        assert table[1].startswith("               0  User error: Required fields for the provided")

    def test_prints_nothing_when_the_job_failed(self, start_job, run_dag, capsys):
        # The second half of the job's life is the worse one, whatever it is called.
        start_job.local.on_status_change(
            lambda job, old, new, when: (
                start_job.local.set_status(
                    job["batchSegmentJobArn"], "CREATE FAILED", "No access to the bucket"
                )
                if new == "CREATE IN_PROGRESS"
                else None
            )
        )
        run, _ = self.run(run_dag, start_job.local, retries=0)
        assert run.states == {
            "upload_input": "success", "create_job": "failed", "show_segments": "upstream_failed"
        }  # fmt: skip
        assert isinstance(run.errors["create_job"], PersonalizeJobFailedError)
        assert "No access to the bucket" in str(run.errors["create_job"])
        assert "the first of them" not in capsys.readouterr().out


class TestWaitForSegmentJob:
    PATH = EXAMPLES / "wait_for_segment_job.py"

    def test_prints_the_segments_when_the_job_is_active(self, start_job, run_dag, capsys):
        run = run_dag(self.PATH, start_job(BatchJobKind.SEGMENT), poke_interval=0.1)
        assert run.states == {"list_jobs": "success", "wait_for_job": "success", "show_segments": "success"}
        items = [record["itemId"] for record in EXAMPLE_INPUT[BatchJobKind.SEGMENT]]
        assert run.xcom("show_segments") == len(items)
        table = capsys.readouterr().out.partition("item       users  the first of them\n")[2].splitlines()
        assert [line.split()[:2] for line in table[: len(items)]] == [[item, "7"] for item in items]
        assert start_job.local.calls.count("DescribeBatchSegmentJob") > 1

    def test_prints_nothing_when_the_job_failed(self, start_job, run_dag, capsys):
        conf = start_job(BatchJobKind.SEGMENT, failure_reason="Invalid S3 output path")
        run = run_dag(self.PATH, conf, poke_interval=0.1)
        assert run.states == {
            "list_jobs": "success", "wait_for_job": "failed", "show_segments": "upstream_failed"
        }  # fmt: skip
        assert isinstance(run.errors["wait_for_job"], PersonalizeJobFailedError)
        assert "Invalid S3 output path" in str(run.errors["wait_for_job"])
        assert "the first of them" not in capsys.readouterr().out


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
    tests = (TestCreateSegmentJob, TestWaitForSegmentJob, TestWaitForAllSegmentJobs, TestWaitForInferenceJob)
    tested = {each.PATH for each in tests}
    assert tested == set(EXAMPLES.glob("*.py"))


def test_every_example_reads_like_documentation():
    for path in EXAMPLES.glob("*.py"):
        source = path.read_text()
        assert source.startswith('"""\n'), path.name
        assert "doc_md=__doc__" in source
        assert f'dag_id="{path.stem}"' in source


def test_the_default_of_the_examples_is_what_make_airflow_offers(start_job):
    local = start_job.local
    version = local.add_solution_version("demo-segments")
    for name in ("create_segment_job", "wait_for_segment_job", "wait_for_all_segment_jobs"):
        assert f'"{version}"' in (EXAMPLES / f"{name}.py").read_text()
