"""Whatever AWS, or somebody on the way to it, sends: no gate opens by it, and all of it can travel."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import pickle
import traceback
import unicodedata
from datetime import UTC, datetime, timedelta

import airflow
import pytest
from botocore.retries import standard
from fakes import first_event
from hypothesis import given
from hypothesis import strategies as st
from scripted_endpoint import SOLUTION_VERSION_ARN, Answer, describe, error, job_arn

from airflow_provider_personalize_segments import aws_errors
from airflow_provider_personalize_segments.errors import (
    PersonalizeJobFailedError,
    PersonalizeRequestError,
    PersonalizeUnavailableError,
)
from airflow_provider_personalize_segments.hooks import PersonalizeHook
from airflow_provider_personalize_segments.jobs import BatchJobKind, JobState
from airflow_provider_personalize_segments.links import LINKS, push_links
from airflow_provider_personalize_segments.plain_json import (
    MAX_DEPTH,
    MAX_JOB_SIZE,
    MAX_MEMBERS,
    MAX_TEXT_LENGTH,
    clean_line,
    clean_text,
    make_job_safe,
    make_json_safe,
)
from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor
from airflow_provider_personalize_segments.triggers import PersonalizeBatchJobTrigger
from airflow_provider_personalize_segments.waiting.events import dump_error, load_error
from airflow_provider_personalize_segments.waiting.verdicts import ask

ARN = job_arn("weekly")
LATIN_1 = "<html>Accès refusé</html>".encode("latin-1")
HTML = {"Content-Type": "text/html"}


def job_with(**members):
    return json.loads(describe("weekly", "ACTIVE", **members).body)


def encode_chain(error):
    """Encode an error with what led to it, as Airflow 3's worker does when it writes that to its log."""
    if airflow.__version__.startswith("2."):
        "".join(traceback.format_exception(error)).encode()
        return
    import msgspec
    import structlog

    trace = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    msgspec.json.encode(trace((type(error), error, error.__traceback__)))


@pytest.mark.parametrize("code", ["AccessDeniedException", "ThrottlingException", "cut \ud83d off"])
def test_an_error_can_be_logged_with_what_led_to_it(serve, code):
    serve(error(code, 400, "cut \ud83d off"))
    with pytest.raises((PersonalizeRequestError, PersonalizeUnavailableError)) as caught:
        PersonalizeHook().describe_job(ARN)
    encode_chain(caught.value)


UNREADABLE = {
    **{f"Latin-1 under {status}": Answer(LATIN_1, status, HTML) for status in (200, 403, 429, 503)},
    "UTF-16": Answer("<html/>".encode("utf-16")),
    "gzip": Answer(gzip.compress(b"{}"), headers={"Content-Encoding": "gzip"}),
    "broken gzip": Answer(b"no gzip", headers={"Content-Encoding": "gzip"}),
    **{
        f"{body!r} under {status}": Answer(body, status)
        for body in (b"[]", b"null", b'"text"', b"1", b"", b"{", b"{}")
        for status in (200, 403, 503)
    },
    "a job that is a list": Answer({"batchSegmentJob": []}),
    "a job that is text": Answer({"batchSegmentJob": "ACTIVE"}),
    "a job that is nothing": Answer({"batchSegmentJob": None}),
    "a job without a status": describe("weekly", None),
    "a date that is none": describe("weekly", creationDateTime="yesterday"),
    "a date that is a list": describe("weekly", creationDateTime=[]),
    "an output that is text": describe("weekly", jobOutput="s3://shop"),
    "nested too deep": Answer(b'{"batchSegmentJob": ' + b"[" * 100_000),
    "another job": describe("another"),
    "a job without an ARN": describe("weekly", batchSegmentJobArn=None),
    "408": Answer(b"", 408),
    "302 without a code": Answer(b"", 302),
    "307 without a code": Answer(b"<html>", 307, HTML),
    "404 of a proxy": Answer(b"<html>", 404, HTML),
    **{
        code: error(code)
        for code in (
            "RequestTimeTooSkewed",
            "RequestExpired",
            "BandwidthLimitExceeded",
            "EC2ThrottledException",
            "ProvisionedThroughputExceededException",
            "TransactionInProgressException",
        )
    },
}


@pytest.fixture
def serve(serve):
    """Return a function that serves an answer and returns a hook for it."""

    def make(answer):
        serve(answer)
        return PersonalizeHook().without_retries()

    return make


class TestUnreadable:
    @pytest.mark.parametrize("answer", UNREADABLE.values(), ids=UNREADABLE.keys())
    def test_is_not_yet_in_words(self, serve, answer):
        verdict = ask(serve(answer), ARN)
        assert (verdict.state, verdict.job) == (JobState.WAITING, None)
        for word in ("DescribeBatchSegmentJob did not succeed for", ARN, "region us-east-1", "'aws_default'"):
            assert word in verdict.no_answer
        verdict.no_answer.encode()

    @pytest.mark.parametrize(
        "page", [[], "text", [None], [{}], [{"batchSegmentJobArn": 1}], [[]], None], ids=repr
    )
    def test_list_is_no_empty_list(self, serve, page):
        hook = serve(Answer({"batchSegmentJobs": page} if page != [] else {}))
        with pytest.raises(PersonalizeUnavailableError, match="ListBatchSegmentJobs did not succeed for"):
            list(hook.list_jobs(BatchJobKind.SEGMENT))

    @pytest.mark.parametrize(
        "arn", [None, 1, "", "arn", job_arn("another"), ARN.replace("segment", "inference")]
    )
    def test_answer_to_create_names_no_job(self, serve, arn):
        with pytest.raises(PersonalizeUnavailableError, match="CreateBatchSegmentJob did not succeed for"):
            serve(Answer({"batchSegmentJobArn": arn})).create_job(
                BatchJobKind.SEGMENT,
                jobName="weekly",
                solutionVersionArn=SOLUTION_VERSION_ARN,
                jobInput={"s3DataSource": {"path": "s3://shop/in"}},
                jobOutput={"s3DataDestination": {"path": "s3://shop/out"}},
                roleArn="arn:aws:iam::123456789012:role/r",
            )

    def test_refusal_stays_final(self, serve):
        with pytest.raises(PersonalizeRequestError, match="AccessDeniedException"):
            ask(serve(error("AccessDeniedException", 403)), ARN)

    def test_codes_hold_all_that_botocore_repeats(self):
        throttled = standard.ThrottledRetryableChecker._THROTTLED_ERROR_CODES
        transient = standard.TransientRetryableChecker._TRANSIENT_ERROR_CODES
        assert {*throttled, *transient} <= aws_errors._TRANSIENT_CODES


class TestOddMembers:
    @pytest.mark.parametrize(
        "status", [["ACTIVE"], {"ACTIVE": 1}, 1, True, "active", " ACTIVE", "ACTIVE\0"], ids=repr
    )
    def test_a_status_that_is_none_opens_nothing(self, serve, status):
        verdict = ask(serve(describe("weekly", status)), ARN)
        assert verdict.state is JobState.WAITING
        json.dumps(verdict.job, allow_nan=False).encode()

    @pytest.mark.parametrize(
        ("reason", "words"),
        [
            (17, "17"),
            (["a", 1], "['a', 1]"),
            ({"a": None}, "{'a': None}"),
            ("cut \ud83d off", "cut \ufffd off"),
            ("nul \0 in it", "nul \ufffd in it"),
            ("x" * 4_000_000, "characters in all)"),
            (10**30, str(10**30)),
            (None, "Personalize gave no reason"),
            ("", "Personalize gave no reason"),
        ],
        ids=lambda value: repr(value)[:20],
    )
    def test_a_reason_is_told_as_text(self, serve, reason, words):
        verdict = ask(serve(describe("weekly", "CREATE FAILED", failureReason=reason)), ARN)
        assert verdict.state is JobState.FAILED
        failure = PersonalizeJobFailedError.from_job(ARN, verdict.job)
        assert words in str(failure)
        assert len(str(failure)) < 3_000
        str(failure).encode()
        again = pickle.loads(pickle.dumps(failure))
        assert (str(again), again.fields) == (str(failure), failure.fields)

    @pytest.mark.parametrize(
        "job",
        [
            {"solutionVersionArn": "odd"},
            {"solutionVersionArn": 1},
            {"solutionVersionArn": ["a"]},
            {"solutionVersionArn": SOLUTION_VERSION_ARN, "jobOutput": "odd"},
            {"solutionVersionArn": SOLUTION_VERSION_ARN, "jobOutput": {"s3DataDestination": {"path": 1}}},
            {
                "solutionVersionArn": SOLUTION_VERSION_ARN,
                "jobOutput": {"s3DataDestination": {"path": "\ud83d"}},
            },
        ],
        ids=repr,
    )
    def test_links_of_an_odd_job_fail_no_task(self, serve, job, caplog):
        pushed = {}

        class TaskInstance:
            def xcom_push(self, key, value):
                json.dumps(value).encode()
                pushed[key] = value

        push_links({"ti": TaskInstance()}, serve(error("AccessDenied")), job, logging.getLogger("links"))
        assert set(pushed) <= {link.xcom_key for link in LINKS}
        assert "The link" in caplog.text


ODD_TEXT = st.text(st.characters(exclude_categories=()))
SENT = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | ODD_TEXT
    | st.datetimes()
    | st.binary(max_size=5)
    | st.integers(min_value=10**30, max_value=10**31),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ODD_TEXT, inner, max_size=4),
    max_leaves=12,
)


def travel(value):
    """Send something through all that an event passes on its way: JSON, UTF-8, msgpack, and Airflow's own."""
    from airflow.serialization.serialized_objects import BaseSerialization

    text = json.dumps(value, allow_nan=False)
    assert "\\u0000" not in text  # PostgreSQL refuses it
    assert json.loads(text.encode("utf-8")) == value
    if not airflow.__version__.startswith("2."):  # whose processes speak msgpack with each other
        import msgspec.msgpack

        assert msgspec.msgpack.decode(msgspec.msgpack.encode(value)) == value
    assert BaseSerialization.deserialize(BaseSerialization.serialize(value)) == value


class TestTravel:
    @given(SENT)
    def test_whatever_is_sent_travels(self, value):
        safe = make_json_safe(value)
        travel(safe)
        assert make_json_safe(safe) == safe

    @given(ODD_TEXT, ODD_TEXT)
    def test_errors_travel(self, code, detail):
        for kind in (PersonalizeRequestError, PersonalizeUnavailableError):
            raised = kind("DescribeBatchSegmentJob", ARN, "us-east-1", "aws_default", code, detail)
            str(raised).encode()
            travel(dump_error(raised))
        assert (
            load_error(dump_error(PersonalizeRequestError("o", "s", "r", "c", code, detail))).fields[0] == "o"
        )

    def test_what_is_too_large_is_cut_and_says_so(self):
        text = make_json_safe("x" * 8_000_000)
        assert len(text) == MAX_TEXT_LENGTH
        assert text.endswith("(cut here; 8000000 characters in all)")
        assert len(make_json_safe({str(number): 1 for number in range(5_000)})) == MAX_MEMBERS
        assert make_json_safe(10**5_000) == "a int too large to be written"
        deep = value = []
        for _ in range(50_000):
            value.append([])
            value = value[0]
        travel(make_json_safe(deep))
        assert f"nested more than {MAX_DEPTH} levels deep" in json.dumps(make_json_safe(deep))
        assert len(make_json_safe(list(range(5_000)))) == 5_000

    @given(st.dictionaries(ODD_TEXT, SENT, max_size=20), st.integers(0, 20_000))
    def test_a_job_is_bounded_as_a_whole(self, job, length):
        long = {"failureReason": "x" * 5_000, "filterArn": "\0" * 20_000, "many": ["é" * 9] * length}
        safe = make_job_safe({**job, **long, "status": "ACTIVE"})
        travel(safe)
        assert safe["status"] == "ACTIVE"
        assert len(json.dumps(list(safe.values()))) < MAX_JOB_SIZE + 2_000
        assert safe["failureReason"] == "x" * 5_000
        assert make_job_safe(safe) == safe

    @given(ODD_TEXT, st.integers(100, 200))
    def test_cleaning_twice_changes_nothing(self, text, length):
        cleaned = clean_text(text, length)
        assert len(cleaned) <= length
        assert clean_text(cleaned, length) == cleaned


CONTROLS = "\x1b[31mred\x07 \r\nnext\u2028line\x85 \x9b \u202eback"


class TestLog:
    @given(ODD_TEXT, st.integers(100, 200))
    def test_a_line_is_one_without_controls(self, text, length):
        line = clean_line(text, length)
        assert len(line.splitlines()) <= 1
        assert not any(unicodedata.category(each) in ("Cc", "Cs") for each in line)
        assert clean_line(line, length) == line
        assert len(line) <= length

    @pytest.mark.parametrize("status", ["CREATE FAILED", f"CREATE {CONTROLS}"])
    @pytest.mark.parametrize("mode", ["poke", "deferred"])
    def test_controls_that_aws_sends_reach_no_log(self, serve, read_log, status, mode):
        serve(describe("weekly", status, failureReason=CONTROLS))
        task = PersonalizeBatchSegmentJobSensor(task_id="wait", job_arn=ARN)
        if mode == "deferred":
            now = datetime.now(UTC)
            trigger = PersonalizeBatchJobTrigger(
                ARN,
                deadline=(now + timedelta(seconds=1.5)).isoformat(),
                poke_interval=0.1,
                # A status that the worker has told comes with how long it has been.
                waiting_since=(now - timedelta(seconds=59.5)).isoformat(),
            )
            asyncio.run(first_event(trigger))
            lines = read_log()
        elif status == "CREATE FAILED":
            with pytest.raises(PersonalizeJobFailedError) as caught:
                task.poke({})
            lines = [str(caught.value)]  # which Airflow logs
        else:
            task.poke({})
            lines = read_log()
        assert any("\ufffd[31mred\ufffd next line \ufffd \ufffdback" in line for line in lines)
        assert not any(each in line for line in lines for each in "\x07\x85\x9b\u2028\u202e\r\n")

    def test_errors_have_none(self):
        refused = PersonalizeRequestError("o", "s", "r", "c", f"Code{CONTROLS}", CONTROLS)
        for raised in (refused, load_error({"type": "KeyError", "text": CONTROLS})):
            assert not any(each in str(raised) for each in "\x1b\x07\x85\x9b\u2028\u202e\r\n")


class TestModes:
    ODD = (
        ("surrogate", {"status": "CREATE FAILED", "failureReason": "cut \ud83d off"}),
        ("huge", {"status": "CREATE FAILED", "numResults": 10**30, "failureReason": "x" * 100_000}),
        ("nan", {"status": "ACTIVE", "numResults": float("nan")}),
        ("odd key", {"status": "ACTIVE", "filterArn": "\0"}),
    )

    def test_an_event_is_bounded_as_a_whole(self, serve):
        arn = ARN.replace("segment", "inference")
        # Of all members, AWS bounds neither number nor length of these.
        config = {f"{number}" * 20: "x" * 900 for number in range(1_000, 4_000)}
        job = {
            "batchInferenceJobArn": arn,
            "status": "ACTIVE",
            "batchInferenceJobConfig": {"itemExplorationConfig": config},
        }
        serve(Answer({"batchInferenceJob": job}))
        payload = asyncio.run(first_event(PersonalizeBatchJobTrigger(job_arn=arn, poke_interval=0.1)))
        assert payload["outcome"] == "active"
        assert len(json.dumps(payload)) < 2_000
        assert payload["job"]["batchInferenceJobConfig"].startswith("... (cut here; ")

    @pytest.mark.parametrize("members", [members for _, members in ODD], ids=[name for name, _ in ODD])
    def test_poking_and_deferring_end_alike(self, serve, members):
        serve(describe("weekly", **members))
        task = PersonalizeBatchSegmentJobSensor(task_id="wait", job_arn=ARN, timeout=30)
        ends = []
        for mode in ("poke", "deferred"):
            try:
                if mode == "poke":
                    value = task.poke({}).xcom_value
                else:
                    trigger = PersonalizeBatchJobTrigger(job_arn=ARN, poke_interval=0.1)

                    async def wait(trigger=trigger):
                        return [event async for event in trigger.run()]

                    (event,) = asyncio.run(wait())
                    travel(event.payload)
                    value = task.execute_complete({}, event.payload)
                travel(value)
                ends.append(value)
            except PersonalizeJobFailedError as raised:
                ends.append(raised.fields)
        assert ends[0] == ends[1]
