"""ARNs, statuses and JSON: the judgments that everything else asks for."""

from __future__ import annotations

import json
import string
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_personalize_segments.arns import (
    MAX_JOB_NAME_LENGTH,
    JobArn,
    find_job_arn,
    is_job_arn,
    parse_filter_arn,
    parse_job_arn,
    parse_solution_version_arn,
    resolve_region,
)
from airflow_provider_personalize_segments.jobs import (
    BATCH_JOB_KINDS,
    KNOWN_STATUSES,
    BatchJobKind,
    JobState,
    classify_status,
    is_known_status,
    normalize_status,
)
from airflow_provider_personalize_segments.plain_json import make_json_safe

SEGMENT_ARN = "arn:aws:personalize:us-east-1:123456789012:batch-segment-job/weekly"
INFERENCE_ARN = "arn:aws:personalize:us-east-1:123456789012:batch-inference-job/weekly"
VERSION_ARN = "arn:aws:personalize:us-east-1:123456789012:solution/shop/1a2b3c4d"
FILTER_ARN = "arn:aws:personalize:us-east-1:123456789012:filter/in-stock"

kinds = st.sampled_from(BATCH_JOB_KINDS)
job_names = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,62}", fullmatch=True)
regions = st.sampled_from(["us-east-1", "eu-west-1", "ap-northeast-2", "cn-north-1", "us-gov-west-1"])
partitions = st.sampled_from(["aws", "aws-cn", "aws-us-gov", "aws-iso-b"])
accounts = st.text(string.digits, min_size=12, max_size=12)
arns = st.builds(JobArn, kinds, partitions, regions, accounts, job_names)


class TestKinds:
    def test_a_kind_is_found_by_its_name(self):
        assert BatchJobKind.named("segment") is BatchJobKind.SEGMENT
        assert BatchJobKind.named("inference") is BatchJobKind.INFERENCE

    def test_an_unknown_kind_is_refused_by_name(self):
        with pytest.raises(ValueError, match=r"'segment' or 'inference', got 'theme'"):
            BatchJobKind.named("theme")


class TestJobArn:
    @given(arns)
    def test_survives_a_round_trip(self, arn):
        assert parse_job_arn(str(arn)) == arn
        assert parse_job_arn(str(arn), arn.kind) == arn

    @given(arns)
    def test_of_the_other_kind_is_refused(self, arn):
        (other,) = (kind for kind in BATCH_JOB_KINDS if kind != arn.kind)
        with pytest.raises(
            ValueError, match=f"is the ARN of a {arn.kind.title}, not of a {other.title}: '{arn}'$"
        ):
            parse_job_arn(str(arn), other)

    @given(st.one_of(st.none(), st.integers(), st.text(max_size=300), st.lists(st.text(max_size=5))))
    def test_anything_else_is_a_value_error_that_names_its_source(self, value):
        with pytest.raises(ValueError, match="^job_arn of task 'x'"):
            parse_job_arn(value, source="job_arn of task 'x'")

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            ("", "is empty. Expected arn:aws:personalize:<region>:<account>:batch-segment-job/<job name>"),
            (None, "is empty. Expected"),
            (SEGMENT_ARN + " ", "contains white space; remove it"),
            (" ", "contains white space; remove it"),
            (SEGMENT_ARN + "\n", "contains white space; remove it"),
            ("weekly", "is not an Amazon Personalize ARN. Expected"),
            (INFERENCE_ARN, "is the ARN of a batch inference job, not of a batch segment job: 'arn"),
            (VERSION_ARN, "is the ARN of a solution version, not of a batch segment job: 'arn"),
            (VERSION_ARN.rpartition("/")[0], "is the ARN of a solution, not of a batch segment job: 'arn"),
            (
                "arn:aws:personalize:us-east-1:123456789012:event-tracker/web",
                "is the ARN of an event tracker, not of a batch segment job: 'arn",
            ),
            (
                "arn:aws:personalize:::recipe/aws-item-affinity",
                "is the ARN of a recipe, not of a batch segment job: 'arn",
            ),
            (SEGMENT_ARN.rpartition("/")[0], "is not the ARN of a batch segment job: 'arn"),
            ("arn:aws:s3:::bucket/key", "is an ARN of the service 's3', not of Amazon Personalize"),
            (SEGMENT_ARN + "/x", "does not end in a job's name. Expected 1 to 63 letters"),
            (SEGMENT_ARN.replace("weekly", "_weekly"), "does not end in a job's name"),
            (SEGMENT_ARN.replace("weekly", "w" * 64), "does not end in a job's name"),
            (SEGMENT_ARN.replace("weekly", "w" * 300), "characters, an ARN at most 256"),
            (SEGMENT_ARN.replace("weekly", "wöchentlich"), "does not end in a job's name"),
            (SEGMENT_ARN.replace("us-east-1", ""), "is not an Amazon Personalize ARN"),
            (SEGMENT_ARN.replace("123456789012", "1234"), "is not an Amazon Personalize ARN"),
            (
                {"batchSegmentJobArn": SEGMENT_ARN},
                "is a dict, not the ARN in it. Let a function with @task take it and return the ARN, such as "
                "job['batchSegmentJobArn']. Got {'batch",
            ),
            (
                [SEGMENT_ARN],
                "is a list, not one ARN. Map the task over it with .partial(...).expand(...), or let a "
                "function "
                "with @task return one of it. Got ['arn:",
            ),
            (7, "is not text, but of type int. Expected arn:"),
        ],
    )
    def test_says_what_is_wrong(self, value, words):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are compared below
            parse_job_arn(value, BatchJobKind.SEGMENT)
        assert str(caught.value).startswith("job_arn")
        assert words in str(caught.value)

    def test_without_a_kind_both_are_named_as_expected(self):
        with pytest.raises(ValueError, match="batch-segment-job/<job name>.*batch-inference-job/<job name>"):
            parse_job_arn("weekly")
        with pytest.raises(ValueError, match="not of a batch segment job or a batch inference job: 'arn"):
            parse_job_arn(VERSION_ARN)

    @given(arns)
    def test_is_one_of_its_kind_only(self, arn):
        assert [kind for kind in BATCH_JOB_KINDS if is_job_arn(str(arn), kind)] == [arn.kind]

    @pytest.mark.parametrize("value", [None, "", 1, [SEGMENT_ARN], VERSION_ARN, SEGMENT_ARN + " ", "weekly"])
    def test_anything_else_is_none(self, value):
        assert not is_job_arn(value, BatchJobKind.SEGMENT)

    @given(arns, st.from_regex(r"[a-z0-9-]{1,63}/[a-f0-9]{8}", fullmatch=True))
    def test_follows_from_the_solution_version_and_the_name(self, arn, solution_version):
        version_arn = (
            f"arn:{arn.partition}:personalize:{arn.region}:{arn.account_id}:solution/{solution_version}"
        )
        assert find_job_arn(arn.kind, version_arn, arn.job_name) == str(arn)

    def test_takes_a_name_of_so_many_characters_and_no_more(self):
        longest = find_job_arn(BatchJobKind.SEGMENT, VERSION_ARN, "w" * MAX_JOB_NAME_LENGTH)
        assert is_job_arn(longest, BatchJobKind.SEGMENT)
        assert not is_job_arn(longest + "w", BatchJobKind.SEGMENT)


class TestSolutionVersionArn:
    def test_gives_its_region(self):
        assert parse_solution_version_arn(VERSION_ARN) == "us-east-1"

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (VERSION_ARN.rpartition("/")[0], "is the ARN of a solution, not of one of its versions"),
            (VERSION_ARN + "/more", "is not the ARN of a solution version"),
            (VERSION_ARN + "/", "is not the ARN of a solution version"),
            (SEGMENT_ARN, "is the ARN of a batch segment job, not of a solution version: 'arn"),
            (
                "shop",
                "Expected arn:aws:personalize:<region>:<account>:solution/<solution name>/<version id>.",
            ),
            ("", "is empty"),
            ("arn:aws:sagemaker:us-east-1:123456789012:model/x", "is an ARN of the service 'sagemaker'"),
        ],
    )
    def test_says_what_is_wrong(self, value, words):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are compared below
            parse_solution_version_arn(value)
        assert words in str(caught.value)


class TestFilterArn:
    def test_gives_its_region(self):
        assert parse_filter_arn(FILTER_ARN) == "us-east-1"

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (VERSION_ARN, f"filter_arn is the ARN of a solution version, not of a filter: {VERSION_ARN!r}"),
            (FILTER_ARN + "/more", "is not the ARN of a filter"),
            (FILTER_ARN.rpartition("/")[0], "is not the ARN of a filter"),
            (FILTER_ARN.replace("in-stock", ""), "is not the ARN of a filter"),
            ("in-stock", "filter_arn is not an Amazon Personalize ARN. Expected arn:aws:personalize:"),
            (FILTER_ARN + " ", "contains white space; remove it"),
            ("", "filter_arn is empty"),
            (FILTER_ARN.replace("in-stock", "f" * 300), "characters, an ARN at most 256"),
            (FILTER_ARN.replace("personalize", "events"), "is an ARN of the service 'events'"),
        ],
    )
    def test_says_what_is_wrong(self, value, words):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are compared below
            parse_filter_arn(value)
        assert words in str(caught.value)


class TestRegion:
    @pytest.mark.parametrize(
        ("given", "in_arn", "called"),
        [
            (None, None, None),
            ("", None, None),
            ("eu-west-1", None, "eu-west-1"),
            (None, "us-east-1", "us-east-1"),
            ("us-east-1", "us-east-1", "us-east-1"),
        ],
    )
    def test_the_arn_decides_where_there_is_one(self, given, in_arn, called):
        assert resolve_region(given, in_arn) == called

    def test_a_contradiction_is_refused(self):
        with pytest.raises(
            ValueError, match="contradicts the region 'us-east-1' in the ARN.* Got 'eu-west-1'"
        ):
            resolve_region("eu-west-1", "us-east-1")


class TestStatus:
    @pytest.mark.parametrize(
        ("status", "state", "known"),
        [
            ("ACTIVE", JobState.ACTIVE, True),
            ("PENDING", JobState.WAITING, True),
            ("IN PROGRESS", JobState.WAITING, True),
            ("CREATE PENDING", JobState.WAITING, True),
            ("CREATE IN_PROGRESS", JobState.WAITING, True),
            ("CREATE FAILED", JobState.FAILED, True),
            ("FAILED", JobState.FAILED, True),
            ("UPDATE FAILED", JobState.FAILED, True),
            ("CREATE STOPPED", JobState.FAILED, True),
            ("CREATE STOPPING", JobState.WAITING, False),
            ("INACTIVE", JobState.WAITING, False),
            ("active", JobState.WAITING, False),
            (" ACTIVE", JobState.WAITING, False),
            ("", JobState.WAITING, False),
            (None, JobState.WAITING, False),
            (1, JobState.WAITING, False),
        ],
    )
    def test_is_judged(self, status, state, known):
        assert classify_status(status) is state
        assert is_known_status(status) is known

    @given(st.one_of(st.text(max_size=256), st.none(), st.integers(), st.booleans()))
    def test_nothing_but_active_opens_a_gate(self, status):
        assert (classify_status(status) is JobState.ACTIVE) == (status == "ACTIVE")

    def test_documented_and_observed_spellings_are_one(self):
        assert normalize_status("PENDING") == normalize_status("CREATE PENDING")
        assert normalize_status("IN PROGRESS") == normalize_status("CREATE IN_PROGRESS")
        assert len({normalize_status(status) for status in KNOWN_STATUSES}) == 4


class TestJson:
    @given(
        st.recursive(
            st.one_of(
                st.none(),
                st.booleans(),
                st.integers(),
                st.text(max_size=10),
                st.datetimes(timezones=st.one_of(st.none(), st.timezones())),
                st.binary(max_size=3),
                st.decimals(allow_nan=False),
            ),
            lambda inner: st.one_of(
                st.lists(inner), st.dictionaries(st.text(max_size=5), inner), st.tuples(inner)
            ),
            max_leaves=10,
        )
    )
    def test_can_always_be_written_and_read_back(self, value):
        safe = make_json_safe(value)
        assert json.loads(json.dumps(safe)) == safe

    @given(st.datetimes(timezones=st.one_of(st.none(), st.timezones()), min_value=datetime(1900, 1, 2)))
    def test_times_carry_an_offset_and_stay_the_same_moment(self, moment):
        read = datetime.fromisoformat(make_json_safe(moment))
        assert read.utcoffset() == timedelta(0)
        assert read.timestamp() == (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

    def test_times_come_out_in_utc_whatever_zone_the_machine_is_in(self):
        moment = datetime(2026, 1, 31, 8, tzinfo=timezone(timedelta(hours=9)))
        assert make_json_safe({"at": moment}) == {"at": "2026-01-30T23:00:00+00:00"}

    def test_response_metadata_is_left_out(self):
        assert make_json_safe({"ResponseMetadata": {"RequestId": "1"}, "a": [{"b": 1}]}) == {"a": [{"b": 1}]}
