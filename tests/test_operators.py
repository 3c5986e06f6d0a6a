"""The list operators: what they find, what they refuse, and what mapped sensors make of it."""

from __future__ import annotations

import json
import textwrap
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_personalize_segments.airflow_compat import AirflowSkipException
from airflow_provider_personalize_segments.errors import (
    InvalidParameterError,
    PersonalizeNoJobsError,
    PersonalizeRequestError,
    PersonalizeUnavailableError,
)
from airflow_provider_personalize_segments.jobs import BATCH_JOB_KINDS, BatchJobKind, normalize_status
from airflow_provider_personalize_segments.operators import (
    PersonalizeListBatchInferenceJobsOperator,
    PersonalizeListBatchSegmentJobsOperator,
)

OPERATORS = {
    BatchJobKind.SEGMENT: PersonalizeListBatchSegmentJobsOperator,
    BatchJobKind.INFERENCE: PersonalizeListBatchInferenceJobsOperator,
}
STATUSES = ["CREATE PENDING", "CREATE IN_PROGRESS", "IN PROGRESS", "ACTIVE", "CREATE FAILED", "SLUMBERING"]
START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(params=BATCH_JOB_KINDS, ids=lambda kind: kind.name)
def kind(request):
    return request.param


@pytest.fixture
def version(personalize, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", personalize.airflow_connection())
    return personalize.add_solution_version("listed")


def list_jobs(kind=BatchJobKind.SEGMENT, **options):
    return OPERATORS[kind](task_id="list", **options).execute({})


def names(jobs):
    return [job["jobName"] for job in jobs]


@pytest.fixture
def jobs(personalize, version, kind):
    """Twelve jobs, an hour apart, in every status, and in no order that could be taken for one."""
    for i in (5, 3, 11, 0, 8, 1, 10, 2, 9, 4, 7, 6):
        personalize.add_job(
            kind,
            f"{'night' if i % 3 else 'day'}-{i}",
            solution_version_arn=version,
            status=STATUSES[i % len(STATUSES)],
            created=START + timedelta(hours=i),
            failure_reason="Out of luck" if STATUSES[i % len(STATUSES)] == "CREATE FAILED" else None,
        )


class TestResult:
    def test_is_newest_first_and_plain_json(self, jobs, kind, version):
        listed = list_jobs(kind, solution_version_arn=version)
        assert [int(name.partition("-")[2]) for name in names(listed)] == list(range(11, -1, -1))
        assert json.loads(json.dumps(listed)) == listed
        assert listed[0]["creationDateTime"] == "2026-01-01T11:00:00+00:00"
        assert listed[1]["failureReason"] == "Out of luck"
        times = {"creationDateTime", "lastUpdatedDateTime"}
        assert set(listed[0]) == {kind.arn_member, "jobName", "status", "solutionVersionArn"} | times

    def test_of_nothing_is_an_empty_list(self, version, kind):
        assert list_jobs(kind) == []

    def test_without_a_solution_version_has_every_job_of_the_region(self, personalize, jobs, kind):
        other = personalize.add_solution_version("other")
        elsewhere = personalize.add_solution_version("elsewhere", region_name="eu-west-1")
        personalize.add_job(kind, "other", solution_version_arn=other)
        personalize.add_job(kind, "elsewhere", solution_version_arn=elsewhere)
        assert len(list_jobs(kind)) == 13
        assert names(list_jobs(kind, region_name="eu-west-1")) == ["elsewhere"]
        assert names(list_jobs(kind, solution_version_arn=elsewhere)) == ["elsewhere"]

    def test_has_a_job_once_that_two_pages_list(self, personalize, version):
        for i in range(250):
            personalize.add_job(BatchJobKind.SEGMENT, f"job-{i}", solution_version_arn=version)
        personalize.duplicate_across_pages()
        assert sorted(names(list_jobs())) == sorted(f"job-{i}" for i in range(250))


class TestFilters:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"statuses": ["ACTIVE"]}, [9, 3]),
            ({"statuses": "ACTIVE"}, [9, 3]),
            ({"statuses": ["IN PROGRESS"]}, [8, 7, 2, 1]),
            ({"statuses": ["CREATE IN_PROGRESS"]}, [8, 7, 2, 1]),
            ({"statuses": ["PENDING", "CREATE FAILED"]}, [10, 6, 4, 0]),
            ({"created_after": START + timedelta(hours=9)}, [11, 10, 9]),
            ({"created_before": START + timedelta(hours=2)}, [1, 0]),
            ({"created_after": "2026-01-01T03:00:00", "created_before": "2026-01-01T05:00:00Z"}, [4, 3]),
            ({"created_after": "2026-01-01T12:00:00+09:00", "created_before": "2026-01-01 04:00"}, [3]),
            ({"created_after": "2026-02-01"}, []),
            ({"job_name_prefix": "day-"}, [9, 6, 3, 0]),
            ({"max_items": 2}, [11, 10]),
            ({"max_items": "2", "job_name_prefix": "day-"}, [9, 6]),
            ({"max_items": 99}, list(range(11, -1, -1))),
            (
                {"statuses": "", "created_after": "", "job_name_prefix": "", "max_items": ""},
                list(range(11, -1, -1)),
            ),
        ],
    )
    def test_narrow_the_list(self, jobs, options, expected):
        listed = list_jobs(BatchJobKind.SEGMENT, **options) or list_jobs(BatchJobKind.INFERENCE, **options)
        assert [int(name.partition("-")[2]) for name in names(listed)] == expected

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
    @given(
        statuses=st.none() | st.sets(st.sampled_from(STATUSES[:-1]), min_size=1),
        after=st.none() | st.integers(0, 11),
        before=st.none() | st.integers(0, 11),
        prefix=st.sampled_from(["", "day", "night-1", "x"]),
        max_items=st.none() | st.integers(1, 15),
    )
    def test_combine_as_a_plain_filter_would(self, jobs, kind, statuses, after, before, prefix, max_items):
        if after is not None and before is not None and after >= before:
            before = None

        def moment(hour):
            return None if hour is None else START + timedelta(hours=hour)

        listed = list_jobs(
            kind,
            statuses=statuses,
            created_after=moment(after),
            created_before=moment(before),
            job_name_prefix=prefix,
            max_items=max_items,
        )
        expected = [
            i
            for i in range(11, -1, -1)
            if (statuses is None or normalize_status(STATUSES[i % 6]) in map(normalize_status, statuses))
            and (after is None or i >= after)
            and (before is None or i < before)
            and f"{'night' if i % 3 else 'day'}-{i}".startswith(prefix)
        ][:max_items]
        assert [int(name.partition("-")[2]) for name in names(listed)] == expected


class TestManyJobs:
    def test_twelve_thousand_are_listed_and_warned_about(self, personalize, version, read_log):
        for i in range(12_000):
            personalize.add_job(
                BatchJobKind.SEGMENT,
                f"job-{i}",
                solution_version_arn=version,
                created=START + timedelta(seconds=i),
            )
        listed = list_jobs()
        assert names(listed) == [f"job-{i}" for i in range(11_999, -1, -1)]
        assert personalize.calls.count("ListBatchSegmentJobs") == 120
        assert (
            "12000 jobs are more than [core] max_map_length = 1024: a task mapped over this list would fail. "
            "Narrow the list with max_items, created_after, statuses or job_name_prefix, or raise "
            "max_map_length."
        ) in "\n".join(read_log())
        assert len(list_jobs(max_items=1024)) == 1024
        assert "max_map_length" not in "\n".join(read_log())


class TestIfEmpty:
    """What becomes of the task when no job matches."""

    @pytest.mark.parametrize("if_empty", ["succeed", "", None])
    def test_succeeds_unless_told_otherwise(self, version, kind, if_empty):
        assert list_jobs(kind, if_empty=if_empty) == []

    def test_skips_in_words(self, jobs, kind):
        with pytest.raises(AirflowSkipException) as caught:
            list_jobs(kind, job_name_prefix="dawn", if_empty="skip")
        assert str(caught.value) == (f"No {kind.title} matches, so the task is skipped: if_empty is 'skip'.")

    def test_fails_in_words_that_count(self, jobs, kind, version, read_log):
        with pytest.raises(PersonalizeNoJobsError) as caught:
            list_jobs(kind, job_name_prefix="dawn", if_empty="fail", solution_version_arn=version)
        assert caught.value.fields == (kind.title, 12, version)
        assert "AWS lists 12, which the filters leave out. Widen the filters" in str(caught.value)
        (line,) = (line for line in read_log() if "and if_empty is 'fail'" in line)
        assert "error" in line.lower()

    @pytest.mark.parametrize("if_empty", ["succeed", "skip", "fail"])
    def test_changes_nothing_when_a_job_matches(self, jobs, kind, if_empty):
        assert len(list_jobs(kind, if_empty=if_empty)) == 12

    def test_decides_for_the_tasks_after_it(self, local_personalize, monkeypatch, run_dag):
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", local_personalize.airflow_connection())
        version = local_personalize.add_solution_version("empty")
        tasks = "".join(
            f"    jobs = PersonalizeListBatchSegmentJobsOperator(task_id={word!r}, if_empty={word!r}, "
            f"solution_version_arn={version!r})\n"
            f"    count.override(task_id='after_{word}')(jobs.output)\n"
            for word in ("succeed", "skip", "fail")
        )
        run = run_dag(
            "from airflow_names import DAG, task\n"
            "from airflow_provider_personalize_segments.operators import "
            "PersonalizeListBatchSegmentJobsOperator\n"
            "@task\n"
            "def count(jobs):\n"
            "    return len(jobs)\n"
            f"with DAG('empty', schedule=None) as dag:\n{tasks}"
        )
        assert run.states == {
            "succeed": "success",
            "after_succeed": "success",
            "skip": "skipped",
            "after_skip": "skipped",
            "fail": "failed",
            "after_fail": "upstream_failed",
        }
        assert isinstance(run.errors["fail"], PersonalizeNoJobsError)


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (
                {"created_after": "yesterday"},
                "created_after of task 'list' is not a date. Expected",
            ),
            ({"created_before": "31.01.2026"}, "created_before of task 'list' is not a date"),
            (
                {"created_after": "2026-01-02", "created_before": "2026-01-01"},
                "is not before created_before, 2026-01-01T00:00:00+00:00, so no job could match: "
                "'2026-01-02T",
            ),
            (
                {"statuses": ["ACTVE"]},
                "statuses of task 'list' is not a status of a batch job. Expected any",
            ),
            ({"max_items": 0}, "max_items of task 'list' is not a count"),
            ({"max_items": "few"}, "more. Got 'few'."),
            ({"job_name_prefix": 3}, "job_name_prefix of task 'list' is not text, but of type int: 3"),
            (
                {"solution_version_arn": "shop"},
                "solution_version_arn of task 'list' is not an Amazon",
            ),
            (
                {"solution_version_arn": "arn:aws:personalize:us-east-1:123456789012:solution/shop"},
                "is the ARN of a solution, not of one of its versions",
            ),
            (
                {
                    "solution_version_arn": "arn:aws:personalize:us-east-1:123456789012:solution/shop/1",
                    "region_name": "eu-west-1",
                },
                "region_name of task 'list' contradicts the region 'us-east-1' in the ARN",
            ),
        ],
    )
    def test_is_refused_before_any_call(self, personalize, version, options, words):
        with pytest.raises(InvalidParameterError) as caught:
            list_jobs(**options)
        assert words in str(caught.value)
        assert len(personalize.calls) == 0

    def test_an_unknown_solution_version_is_final(self, version):
        with pytest.raises(PersonalizeRequestError, match=r"for arn:aws:.*, region us-east-1, connection"):
            list_jobs(solution_version_arn=version.replace("listed", "unlisted"))

    def test_denied_access_is_final(self, personalize, version):
        personalize.faults.deny_access()
        with pytest.raises(PersonalizeRequestError, match="Allow personalize:ListBatchSegmentJobs in that"):
            list_jobs()

    def test_throttling_that_outlasts_botocore_is_left_to_retries(self, personalize, version):
        personalize.faults.throttle()
        with pytest.raises(
            PersonalizeUnavailableError, match="ThrottlingException: .* for all batch segment jobs"
        ):
            list_jobs(botocore_config={"retries": {"total_max_attempts": 2}})
        assert len(personalize.calls) == 2


MAPPED = """
from airflow_names import DAG, task
from airflow_provider_personalize_segments.operators import {kind.list_class}
from airflow_provider_personalize_segments.sensors import {kind.sensor_class}

with DAG("mapped", schedule=None) as dag:
    jobs = {kind.list_class}(task_id="list", created_after="{{{{ dag_run.conf['after'] }}}}")
    wait = {kind.sensor_class}.partial(task_id="wait", poke_interval=0.1, aws_conn_id="aws_default").expand(
        job_arn=jobs.output.map(lambda job: job["{kind.arn}"])
    )

    @task
    def downstream(jobs):
        return sorted(job["jobName"] for job in jobs)

    downstream(wait.output)
"""


class TestMapping:
    class Names:
        def __init__(self, kind):
            noun = f"Batch{kind.name.capitalize()}Job"
            self.list_class = f"PersonalizeList{noun}sOperator"
            self.sensor_class = f"Personalize{noun}Sensor"
            self.arn = kind.arn_member

    @pytest.fixture
    def run(self, run_dag, local_personalize, monkeypatch, kind):
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", local_personalize.airflow_connection())
        version = local_personalize.add_solution_version("mapped")

        def run(*statuses):
            for i, status in enumerate(statuses):
                local_personalize.add_job(
                    kind, f"job-{i}", solution_version_arn=version, status=status, failure_reason="Bad luck"
                )
            source = textwrap.dedent(MAPPED.format(kind=self.Names(kind)))
            return run_dag(source, {"after": "2020-01-01"})

        return run

    def test_one_sensor_per_listed_job(self, run):
        ended = run("ACTIVE", "ACTIVE", "ACTIVE")
        assert [ended.states[f"wait[{i}]"] for i in range(3)] == ["success"] * 3
        assert ended.xcom("downstream") == ["job-0", "job-1", "job-2"]

    def test_one_failed_job_stops_what_comes_after(self, run):
        ended = run("ACTIVE", "CREATE FAILED")
        assert sorted(ended.states[f"wait[{i}]"] for i in range(2)) == ["failed", "success"]
        assert ended.states["downstream"] == "upstream_failed"

    def test_no_job_skips_the_sensor_and_what_comes_after(self, run):
        ended = run()
        assert (ended.states["wait"], ended.states["downstream"]) == ("skipped", "skipped")
