"""The gate that reads a job's output before it opens: each file there, new and whole, few errors."""

from __future__ import annotations

import json
import logging
import pickle
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from fakes import TaskInstance
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_personalize_segments.errors import (
    InvalidParameterError,
    PersonalizeOutputError,
    S3RefusedError,
)
from airflow_provider_personalize_segments.hooks import PersonalizeHook
from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.operators import PersonalizeCreateBatchSegmentJobOperator
from airflow_provider_personalize_segments.output.checking import check_output
from airflow_provider_personalize_segments.output.judging import judge
from airflow_provider_personalize_segments.output.objects import S3Object
from airflow_provider_personalize_segments.output.reading import OutputSummary
from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor

BUCKET = "example-bucket"
INPUT, OUTPUT = f"s3://{BUCKET}/input/", f"s3://{BUCKET}/output/"
GOOD = {"input": {"itemId": "1"}, "output": {"usersList": ["a", "b"]}, "error": None}
BAD = {"input": {"itemId": "2"}, "output": {"usersList": []}, "error": "User error: no such item"}

FILE = S3Object(BUCKET, "output/a.out", 1, '"1"', datetime.now(UTC))

log = logging.getLogger("checking")


def lines(*records):
    return b"".join(json.dumps(each).encode() + b"\n" for each in records)


@pytest.fixture
def s3(local_personalize):
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
def put(s3):
    """Return a function that writes files: ``put({"output/a.json.out": b"..."})``."""

    def put(files):
        for key, body in files.items():
            s3.put_object(Bucket=BUCKET, Key=key, Body=body)

    return put


@pytest.fixture
def add_job(local_personalize, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", local_personalize.airflow_connection())

    def add(age=timedelta(hours=1), ended=None, status="ACTIVE", output_path=OUTPUT, **options):
        return local_personalize.add_job(
            "segment",
            "weekly",
            solution_version_arn=local_personalize.add_solution_version("checked"),
            status=status,
            created=datetime.now(UTC) - age,
            updated=datetime.now(UTC) if ended is None else datetime.now(UTC) - ended,
            input_path=INPUT,
            output_path=output_path,
            **options,
        )

    return add


def check(arn, max_error_rate=0.0):
    hook = PersonalizeHook()
    return check_output(hook, arn, hook.describe_job(arn), max_error_rate, log)


@pytest.fixture
def age(s3):
    """Return a function that makes files two hours old; the local S3 takes their time from the clock."""

    def age(*keys):
        from moto.s3.models import s3_backends

        backend = s3_backends["123456789012"]["aws"]
        for key in keys:
            earlier = datetime.now(UTC) - timedelta(hours=2)
            backend.get_object(BUCKET, key).last_modified = earlier.replace(tzinfo=None)

    return age


@pytest.fixture
def replace_input(put, age):
    """Return a function that writes input that is older than the job."""

    def replace(*keys):
        put(dict.fromkeys(keys, b'{"itemId": "1"}\n'))
        age(*keys)

    return replace


class TestCounts:
    def test_are_those_of_all_files(self, add_job, put, replace_input):
        replace_input("input/a.json", "input/sub/b.json")
        files = {
            "output/a.json.out": lines(GOOD, BAD),
            "output/b.json.out": lines(GOOD),
            "output/_CHECK": b"",
        }
        put(files)
        assert check(add_job(), 0.5) == {
            "files": 2,
            "bytes": sum(map(len, files.values())),
            "records": 3,
            "errors": 1,
            "errorRate": 1 / 3,
            "firstErrors": ["a.json.out line 2: User error: no such item"],
        }

    def test_come_from_what_the_local_personalize_writes(self, local_personalize, s3, put, add_job):
        add_job()
        put({"input/items.json": b'{"itemId": "1"}\n{"userId": "no item"}\n'})
        hook = PersonalizeHook()
        arn = hook.create_job(
            BatchJobKind.SEGMENT,
            jobName="made",
            solutionVersionArn=local_personalize.add_solution_version("checked"),
            jobInput={"s3DataSource": {"path": INPUT}},
            jobOutput={"s3DataDestination": {"path": OUTPUT}},
            roleArn="arn:aws:iam::123456789012:role/PersonalizeS3Access",
        )
        summary = check(arn, 0.5)
        assert (summary["records"], summary["errors"]) == (2, 1)
        assert "Required fields for the provided recipe are itemId" in summary["firstErrors"][0]

    @given(
        st.lists(st.sampled_from([GOOD, BAD]), min_size=1, max_size=30),
        st.integers(0, 30).map(lambda number: number / 30),
    )
    def test_are_compared_exactly(self, records, limit):
        summary = OutputSummary(1, 1)
        for number, record in enumerate(records, 1):
            summary.count(judge(BatchJobKind.SEGMENT, json.dumps(record).encode()).error, FILE, number)
        errors = records.count(BAD)
        assert (summary.records, summary.errors) == (len(records), errors)
        assert summary.error_rate == errors / len(records)
        assert len(summary.first_errors) == min(errors, 5)

    @pytest.mark.parametrize(
        ("members", "error"),
        [
            (GOOD, None),
            ({"itemAttributes": "x", "output": {"recommendedUsers": []}}, None),
            ({**GOOD, "input": {}}, "the record does not say for what it was asked"),
            (
                {**GOOD, "output": {"usersList": [1, 2]}},
                "the record's usersList holds something else than text",
            ),
            (
                {**GOOD, "output": {"usersList": ["\ud800"]}},
                "the record's usersList holds half a character, which no table can: '\\ud800'",
            ),
            ({**GOOD, "error": ""}, None),
            (BAD, "User error: no such item"),
            ({**GOOD, "error": {"code": 7}}, "{'code': 7}"),
            ({"input": {}}, "the record has no output"),
            ({"input": {}, "output": None}, "the record has no output"),
            ({"input": {}, "output": {}, "error": None}, "the record's output has no usersList"),
            ({"output": {"usersList": None}}, "the record's output has no usersList"),
            ({"output": {"usersList": "u1,u2"}}, "the record's output has no usersList"),
            (
                {"output": {"usersList": ["u1", None]}},
                "the record's usersList holds something else than text",
            ),
            ({"input": {}, "error": "gone"}, "gone"),
        ],
    )
    def test_know_an_error_in_every_shape(self, put, replace_input, add_job, members, error):
        replace_input("input/a.json")
        put({"output/a.json.out": lines(members)})
        summary = check(add_job(), 1.0)
        assert summary["firstErrors"] == ([f"a.json.out line 1: {error}"] if error else [])


class TestRefusals:
    """Each with its words."""

    @pytest.fixture
    def refused(self, add_job):
        def refused(max_error_rate=0.0, **options):
            with pytest.raises(PersonalizeOutputError) as caught:
                check(add_job(**options), max_error_rate)
            return str(caught.value)

        return refused

    @pytest.mark.parametrize(
        ("files", "options", "advice"),
        [
            ({}, {}, "see whether something has deleted or moved a file of it"),
            (
                {"output/a.json.out": lines(GOOD)},
                {"age": -timedelta(hours=1)},
                "see whether something has deleted",
            ),
            (
                {"output/a.json.out": lines(GOOD)},
                {"ended": timedelta(minutes=30)},
                "see what has written there",
            ),
            (
                {"output/a.json.out": b""},
                {},
                "see what has written there since. A bucket with versions still has",
            ),
            (
                {"output/a.json.out": b"\n"},
                {},
                "see what has written there since. A bucket with versions still has",
            ),
            (
                {"output/a.json.out": lines(GOOD)[:-9]},
                {},
                "see what has written there since. A bucket with versions",
            ),
        ],
    )
    def test_send_nobody_to_pay_for_another_job(self, put, replace_input, refused, files, options, advice):
        replace_input("input/a.json")
        put(files)
        text = refused(1.0, **options)
        assert advice in text
        assert "another job" not in text

    def test_too_many_errors(self, put, replace_input, refused):
        replace_input("input/a.json")
        put({"output/a.json.out": lines(GOOD, *[BAD] * 7)})
        text = refused(0.5)
        assert text.startswith(
            "7 of 8 records have an error, more than max_error_rate 0.5 allows. "
            "a.json.out line 2: User error: no such item; a.json.out line 3"
        )
        assert text.count("no such item") == 5
        assert text.endswith(
            "The job is ACTIVE all the same. Where its input is to blame for the errors, correct that, and "
            "create another job. "
            "(batch-segment-job/weekly, us-east-1)"
        )

    @pytest.mark.parametrize("ending", [b"\n", b""])
    def test_as_many_as_allowed_are_no_reason(self, put, replace_input, add_job, ending):
        replace_input("input/a.json")
        put({"output/a.json.out": lines(GOOD, BAD).rstrip() + ending})
        assert check(add_job(), 0.5)["errors"] == 1

    def test_a_missing_file(self, put, replace_input, refused):
        replace_input("input/a.json", "input/b.json", "input/c.json")
        put({"output/b.json.out": lines(GOOD)})
        assert refused().startswith(
            "2 of 3 output files are missing: s3://example-bucket/output/a.json.out, "
            "s3://example-bucket/output/c.json.out. The job"
        )

    def test_many_missing_files(self, replace_input, refused):
        replace_input(*(f"input/{number}.json" for number in range(10)))
        assert "10 of 10 output files are missing: " in (text := refused())
        assert "/output/2.json.out and 7 more." in text

    def test_an_old_file(self, put, replace_input, refused):
        replace_input("input/a.json")
        put({"output/a.json.out": lines(GOOD)})
        assert refused(age=-timedelta(hours=1)).startswith(
            "1 of 1 output files is older than the job: s3://example-bucket/output/a.json.out."
        )

    def test_an_empty_file(self, put, replace_input, refused):
        replace_input("input/a.json")
        put({"output/a.json.out": b""})
        assert refused().startswith("1 of 1 output files is empty: s3://example-bucket/output/a.json.out.")

    def test_a_file_of_blank_lines(self, put, replace_input, refused):
        replace_input("input/a.json")
        put({"output/a.json.out": b"\n \n"})
        assert refused().startswith("s3://example-bucket/output/a.json.out holds no records.")

    def test_a_file_that_is_cut_off(self, put, replace_input, refused):
        replace_input("input/a.json")
        put({"output/a.json.out": lines(GOOD, GOOD)[:-20]})
        assert refused(1.0).startswith(
            "s3://example-bucket/output/a.json.out is cut off in the middle of a record, in line 2."
        )

    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            (
                {"creationDateTime": None},
                "Old output cannot be told from new: the job's creationDateTime is None.",
            ),
            (
                {"creationDateTime": "soon"},
                "Old output cannot be told from new: the job's creationDateTime is 'so",
            ),
            ({"jobOutput": None}, "The job's jobOutput cannot be read: 'None' is no path in S3."),
            (
                {"jobOutput": {"s3DataDestination": []}},
                "The job's jobOutput cannot be read: 'None' is no path",
            ),
            (
                {"jobInput": {"s3DataSource": {"path": "https://shop/in"}}},
                "The job's jobInput cannot be read: 'https://shop/in' is no path in S3.",
            ),
        ],
    )
    def test_a_job_that_does_not_say_where_or_when(self, put, replace_input, add_job, changed, words):
        replace_input("input/a.json")
        put({"output/a.json.out": lines(GOOD)})
        arn, hook = add_job(), PersonalizeHook()
        with pytest.raises(PersonalizeOutputError) as caught:
            check_output(hook, arn, hook.describe_job(arn) | changed, 1.0, log)
        assert str(caught.value).startswith(words)

    def test_no_file_at_all(self, s3, refused):
        assert refused().startswith("No output of the job is under s3://example-bucket/output/.")

    def test_broken_lines_count_as_errors(self, put, replace_input, refused):
        replace_input("input/a.json")
        put({"output/a.json.out": b"{broken}\n[]\n" + lines(GOOD)})
        assert refused(0.5).startswith("2 of 3 records have an error, more than max_error_rate 0.5 allows.")

    def test_odd_text_in_an_error(self, put, replace_input, refused):
        replace_input("input/a.json")
        put({"output/a.json.out": lines({**BAD, "error": "cut \ud83d off \0 " + "x" * 5000})})
        text = refused()
        text.encode()
        assert "\0" not in text
        assert len(text) < 1000

    def test_survives_pickling(self):
        error = PersonalizeOutputError("arn:aws:personalize:r:1:batch-segment-job/a", "no", 3, 2, ["x"])
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.fields) == (str(error), error.fields)

    def test_a_bucket_that_does_not_exist(self, s3, add_job):
        arn = add_job(output_path="s3://no-such-bucket/output/")
        with pytest.raises(S3RefusedError, match="^NoSuchBucket: .*whether the bucket's name is right"):
            check(arn)


class TestFiles:
    def test_of_an_earlier_job_are_not_taken_for_the_jobs_own(self, put, replace_input, age, add_job):
        replace_input("input/a.json")
        put({"output/a.json.out": lines(GOOD), "output/earlier.json.out": lines(BAD)})
        age("output/earlier.json.out")
        assert check(add_job())["files"] == 1

    def test_are_known_by_their_time_when_the_input_is_gone(self, s3, put, age, add_job):
        put({f"output/{name}.json.out": lines(GOOD) for name in ("a", "b", "old")})
        age("output/old.json.out")
        assert check(add_job())["files"] == 2

    def test_of_input_that_came_after_the_job_are_not_expected(
        self, put, replace_input, add_job, caplog, local_personalize
    ):
        caplog.set_level(logging.WARNING)
        replace_input("input/a.json")
        put({"input/later.json": b"{}", "output/a.json.out": lines(GOOD)})
        assert check(add_job())["files"] == 1
        assert "1 of 2 files of the input came, or were replaced, after the job was created" in caplog.text

    def test_of_input_that_was_replaced_are_read(self, put, replace_input, add_job):
        replace_input("input/a.json")
        put({"input/b.json": b"{}", "output/a.json.out": lines(GOOD), "output/b.json.out": lines(BAD)})
        with pytest.raises(PersonalizeOutputError, match="1 of 2 records have an error"):
            check(add_job())

    def test_of_input_that_came_just_after_the_job_may_be_missing(self, put, add_job):
        put({"input/a.json": b"{}", "input/b.json": b"{}", "output/a.json.out": lines(GOOD)})
        assert check(add_job(age=timedelta(seconds=10)))["files"] == 1

    def test_of_a_later_job_are_not_taken_for_the_jobs_own(self, put, replace_input, add_job):
        replace_input("input/a.json")
        put({"output/a.json.out": lines(GOOD)})
        with pytest.raises(PersonalizeOutputError, match="1 of 1 output files is newer than the job: s3:"):
            check(add_job(ended=timedelta(minutes=30)))

    def test_of_empty_input_are_not_expected(self, put, replace_input, age, add_job):
        replace_input("input/a.json")
        put({"input/_SUCCESS": b"", "output/a.json.out": lines(GOOD)})
        age("input/_SUCCESS")
        assert check(add_job())["files"] == 1

    def test_of_two_inputs_of_one_name_are_one(self, put, replace_input, add_job):
        replace_input("input/1/a.json", "input/2/a.json")
        put({"output/a.json.out": lines(GOOD)})
        assert check(add_job())["files"] == 1

    @pytest.mark.parametrize("output_path", [OUTPUT, OUTPUT.rstrip("/")])
    @pytest.mark.parametrize(
        "stranger",
        [
            "output/neighbour.json.out",
            "output/note.out",
            "output/europe/a.json.out",
            "output_of_others/a.json.out",
            "output_of_others.out",
        ],
    )
    def test_of_another_job_do_not_count(self, put, replace_input, add_job, output_path, stranger):
        replace_input("input/a.json")
        put({"output/a.json.out": lines(*[BAD] * 10), stranger: lines(*[GOOD] * 490)})
        arn = add_job(output_path=output_path)
        with pytest.raises(PersonalizeOutputError, match="^10 of 10 records have an error"):
            check(arn, 0.05)
        put({"output/a.json.out": lines(GOOD), stranger: b"{broken"})
        assert check(arn)["records"] == 1

    def test_of_input_that_came_late_are_the_jobs_own(self, put, replace_input, add_job):
        replace_input("input/a.json")
        put(
            {
                "input/late.json": b"{}",
                "output/a.json.out": lines(GOOD),
                "output/late.json.out": lines(GOOD, BAD),
            }
        )
        assert check(add_job(), 0.5)["records"] == 3

    @pytest.mark.parametrize("output_path", [OUTPUT, OUTPUT.rstrip("/")])
    @pytest.mark.parametrize("gone", [True, False])
    def test_of_input_that_is_gone_are_those_in_the_folder_itself_with_a_warning(
        self, put, add_job, caplog, gone, output_path
    ):
        if not gone:
            put({"input/of the next day.json": b"{}"})
        put(
            {
                "output/a.json.out": lines(GOOD),
                "output/europe/a.json.out": lines(BAD),
                "output_of_others/a.json.out": lines(BAD),
            }
        )
        assert check(add_job(output_path=output_path))["records"] == 1
        assert (
            "Nothing is left of the job's input in s3://example-bucket/input/, which would name its output: "
            f"the 1 files count that were written to {output_path} while the job ran, whichever job wrote "
            "them."
        ) in caplog.text

    @pytest.mark.parametrize("content", [lines(BAD), b""])
    def test_of_another_job_do_not_count_where_ones_own_was_overwritten(self, put, age, add_job, content):
        # Input and output of the next day have the names of the day before; a neighbour wrote meanwhile.
        put({"input/a.json": b"{}", "output/a.json.out": content, "output/neighbour.json.out": lines(GOOD)})
        age("output/neighbour.json.out")
        problem, ended = ("newer than the job", timedelta(minutes=30)) if content else ("empty", None)
        with pytest.raises(PersonalizeOutputError, match=f"1 of 1 output files is {problem}: s3://exam"):
            check(add_job(age=timedelta(hours=3), ended=ended))

    def test_of_another_job_in_a_folder_do_not_count_for_one_with_the_documented_name(
        self, put, replace_input, add_job
    ):
        replace_input("input/eu/a.json")
        put({"output/a.json.out": lines(BAD), "output/eu/a.json.out": lines(GOOD)})
        with pytest.raises(PersonalizeOutputError, match="^1 of 1 records have an error"):
            check(add_job())

    @pytest.mark.parametrize("name", ["output/sub/b.json.out", "output/b.json.out"])
    def test_may_be_in_folders_like_the_inputs(self, put, replace_input, add_job, name):
        replace_input("input/a.json", "input/sub/b.json")
        put({"output/a.json.out": lines(GOOD), name: lines(GOOD)})
        assert check(add_job())["files"] == 2

    def test_in_folders_may_have_one_name(self, put, replace_input, add_job):
        replace_input("input/a.json", "input/sub/a.json")
        put({"output/a.json.out": lines(GOOD), "output/sub/a.json.out": lines(BAD)})
        assert check(add_job(), 0.5)["records"] == 2

    @pytest.mark.parametrize("name", ["output/a.json.out", "outputa.json.out"])
    def test_of_a_path_without_a_slash_have_one_or_none(self, put, replace_input, add_job, name):
        replace_input("input/a.json")
        put({name: lines(GOOD)})
        assert check(add_job(output_path=OUTPUT.rstrip("/")))["records"] == 1

    @pytest.mark.parametrize(
        "marker",
        [
            "_SUCCESS",
            "_committed_123",
            "_CHECK",
            "manifest",
            "unload-manifest.csv",
            "items.manifest",
            "items.csv.metadata",
            ".items.json.crc",
            "part.json.crc",
            "sub_$folder$",
            "sub/",
        ],
    )
    def test_of_markers_may_be_there_or_not(self, put, replace_input, add_job, marker):
        replace_input("input/a.json", f"input/{marker}")
        put({"output/a.json.out": lines(GOOD)})
        arn = add_job()
        assert check(arn)["files"] == 1
        put({f"output/{marker}.out": lines(GOOD)})
        assert check(arn)["files"] == 1 + (marker != "sub/")

    def test_of_empty_input_are_read_if_there_are_some(self, put, replace_input, age, add_job):
        replace_input("input/a.json")
        put({"input/b.json": b"", "output/a.json.out": lines(GOOD), "output/b.json.out": lines(GOOD)})
        age("input/b.json")
        arn = add_job()
        assert check(arn)["files"] == 2
        put({"output/b.json.out": b""})
        assert check(arn)["files"] == 1

    @pytest.mark.parametrize("source", ["users.json", ""])
    def test_beside_the_input_are_no_input(self, local_personalize, s3, put, add_job, source):
        """The layout of AWS's proof of concept: ``s3://bucket/users.json`` to ``s3://bucket/``."""
        add_job()
        put({"users.json": b'{"itemId": "1"}\n'})
        hook = PersonalizeHook()
        for name in ("first", "second"):
            request = {
                "solutionVersionArn": local_personalize.add_solution_version("checked"),
                "jobInput": {"s3DataSource": {"path": f"s3://{BUCKET}/{source}"}},
                "jobOutput": {"s3DataDestination": {"path": f"s3://{BUCKET}/"}},
            }
            assert hook.check_input(BatchJobKind.SEGMENT, **request)["files"] == 1
            arn = hook.create_job(
                BatchJobKind.SEGMENT,
                jobName=name,
                roleArn="arn:aws:iam::123456789012:role/PersonalizeS3Access",
                **request,
            )
            assert check(arn)["records"] == 1
            assert hook.list_output_files(arn) == [f"s3://{BUCKET}/users.json.out"]

    def test_may_have_odd_names(self, put, replace_input, add_job):
        replace_input("input/a \u00fc +%0.json")
        put({"output/a \u00fc +%0.json.out": lines(BAD)})
        assert check(add_job(), 1.0)["firstErrors"] == [
            "a \u00fc +%0.json.out line 1: User error: no such item"
        ]

    def test_of_a_naive_time_are_compared_in_utc(self, put, replace_input, add_job):
        replace_input("input/a.json")
        put({"output/a.json.out": lines(GOOD)})
        hook, arn = PersonalizeHook(), add_job()
        job = hook.describe_job(arn)
        job["creationDateTime"] = job["creationDateTime"].astimezone(UTC).replace(tzinfo=None)
        assert check_output(hook, arn, job, 0.0, log)["files"] == 1


class TestTasks:
    """Every mode asks the same; each row is run by Airflow itself in test_parity.py."""

    @pytest.mark.parametrize("value", ["lots", -0.1, 1.1, True, "nan"])
    def test_a_wrong_rate_is_refused_before_anything_is_called(self, local_personalize, add_job, value):
        arn = add_job()
        local_personalize.clear_calls()
        for deferrable in (False, True):
            task = PersonalizeBatchSegmentJobSensor(
                task_id="wait", job_arn=arn, max_error_rate=value, deferrable=deferrable
            )
            with pytest.raises(
                InvalidParameterError,
                match=r"max_error_rate of task 'wait' is not a share\. .* from 0\.0 to 1\.0",
            ):
                task.execute({"ti": TaskInstance()})
        assert len(local_personalize.calls) == 0

    @pytest.mark.parametrize("value", [None, "", "{{ none }}"])
    @pytest.mark.parametrize("deferrable", [False, True])
    def test_a_rate_that_a_template_lost_opens_no_gate(self, add_job, value, deferrable):
        task = PersonalizeBatchSegmentJobSensor(
            task_id="wait", job_arn=add_job(), max_error_rate="{{ rate }}", deferrable=deferrable
        )
        task.max_error_rate = value if value != "{{ none }}" else None  # as Airflow renders it
        with pytest.raises(
            InvalidParameterError, match="max_error_rate of task 'wait' is (None|''): the XCom or"
        ):
            task.execute({"ti": TaskInstance()})

    def test_a_sensor_tells_the_counts(self, put, replace_input, add_job):
        replace_input("input/a.json")
        put({"output/a.json.out": lines(GOOD, BAD)})
        ti = TaskInstance()
        task = PersonalizeBatchSegmentJobSensor(task_id="wait", job_arn=add_job(), max_error_rate="0.5")
        assert task.poke({"ti": ti}).xcom_value["status"] == "ACTIVE"
        assert (ti.xcoms["counts"]["records"], ti.xcoms["counts"]["errors"]) == (2, 1)

    def test_a_sensor_without_a_rate_reads_nothing(self, add_job):
        ti = TaskInstance()
        assert PersonalizeBatchSegmentJobSensor(task_id="wait", job_arn=add_job()).poke({"ti": ti}).is_done
        assert "counts" not in ti.xcoms

    def test_a_create_operator_needs_to_wait_for_it(self, add_job, local_personalize):
        add_job()
        task = PersonalizeCreateBatchSegmentJobOperator(
            task_id="create",
            solution_version_arn=local_personalize.add_solution_version("checked"),
            role_arn="arn:aws:iam::123456789012:role/PersonalizeS3Access",
            input_path=INPUT,
            output_path=OUTPUT,
            max_error_rate=0.1,
            wait_for_completion=False,
        )
        with pytest.raises(InvalidParameterError, match="max_error_rate .* needs wait_for_completion=True"):
            task.execute({"ti": TaskInstance()})

    @pytest.mark.parametrize(
        "local_personalize", [{"progress": "immediately"}, {"progress": "by_call"}], indirect=True
    )
    def test_a_create_operator_fails_in_every_mode(self, local_personalize, put, run_dag, monkeypatch):
        put({"input/a.json": b'{"itemId": "1"}\n{"userId": "x"}\n'})
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", local_personalize.airflow_connection())
        version = local_personalize.add_solution_version("checked")
        run = run_dag(
            "from airflow_names import DAG\n"
            "from airflow_provider_personalize_segments.operators import (\n"
            "    PersonalizeCreateBatchSegmentJobOperator as Create)\n"
            "with DAG('checked', schedule=None, default_args={'retries': 2}) as dag:\n"
            "    for name, rate, deferrable in (('strict-here', 0.4, False), ('lenient-here', 0.5, False),\n"
            "            ('strict-deferred', 0.4, True), ('lenient-deferred', 0.5, True)):\n"
            f"        Create(task_id=name, solution_version_arn={version!r},\n"
            "            role_arn='arn:aws:iam::123456789012:role/PersonalizeS3Access',\n"
            f"            input_path={INPUT!r}, output_path={OUTPUT!r} + name + '/',\n"
            f"            max_error_rate=rate, poll_interval=0.1, deferrable=deferrable)\n",
        )
        for mode in ("here", "deferred"):
            assert run.states[f"strict-{mode}"] == "failed"
            error = str(run.errors[f"strict-{mode}"])
            assert "1 of 2 records have an error, more than max_error_rate 0.4 allows" in error
            assert run.states[f"lenient-{mode}"] == "success"
            assert run.xcom(f"lenient-{mode}", "counts")["errors"] == 1
        # Not retried, as another job from the same input would be no better.
        assert local_personalize.calls.count("CreateBatchSegmentJob") == 4
