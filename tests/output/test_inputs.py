"""Input that is judged before a job is created from it: good input passes, each refusal by its words."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_personalize_segments.errors import PersonalizeInputError, PersonalizeRequestError
from airflow_provider_personalize_segments.hooks import PersonalizeHook
from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.output import inputs
from airflow_provider_personalize_segments.output.inputs import RecordShape, _Checker, find_placeholders
from airflow_provider_personalize_segments.output.objects import S3Object

SEGMENT, INFERENCE = BatchJobKind.SEGMENT, BatchJobKind.INFERENCE
BUCKET = "example-bucket"
FOLDER = f"s3://{BUCKET}/input/"
ITEMS = b'{"itemId": "1"}\n{"itemId": "2"}\n'
ROLE = "arn:aws:iam::123456789012:role/PersonalizeS3Access"


@pytest.fixture
def put(local_personalize, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", local_personalize.airflow_connection())
    session = boto3.session.Session("testing", "testing", region_name="us-east-1")
    client = session.client("s3", endpoint_url=local_personalize.endpoint_url)
    client.create_bucket(Bucket=BUCKET)

    def put(files):
        for key, body in files.items():
            client.put_object(Bucket=BUCKET, Key=key, Body=body)

    yield put
    client.close()


@pytest.fixture
def check(local_personalize, put):
    """Return a function that writes the files of an input, and checks it as a hook's user does."""

    def check(files, kind=SEGMENT, path=FOLDER, **members):
        put(files)
        return PersonalizeHook().check_input(
            kind,
            solutionVersionArn=local_personalize.add_solution_version("checked"),
            jobInput={"s3DataSource": {"path": path}},
            **members,
        )

    return check


def check_file(content, kind=SEGMENT, placeholders=(), piece=7):
    """Check a file without S3, in pieces of so many bytes."""
    shapes = [RecordShape(*each) for each in kind.input_records]
    checker = _Checker(shapes, frozenset(placeholders))
    file = S3Object(BUCKET, "input/a.json", len(content), '"tag"', datetime.now(UTC))
    checker.check_file(file, [content[at : at + piece] for at in range(0, len(content), piece)])
    return checker.records


class TestGoodInput:
    def test_is_counted(self, check):
        files = {"input/a.json": ITEMS, "input/sub/b.json": ITEMS.rstrip(), "input/sub/": b""}
        assert check(files) == {"files": 2, "bytes": len(ITEMS) * 2 - 1, "records": 4}

    def test_may_lie_beside_markers_and_empty_files(self, check):
        markers = ("_SUCCESS", "_committed_1", "a-manifest.csv", "a.metadata", ".a.json.crc", "sub_$folder$")
        files = {f"input/{name}": b"no record" for name in markers}
        files |= {"input/a.json": ITEMS, "input/empty.json": b"", "input/sub/": b""}
        assert check(files) == {"files": 1, "bytes": len(ITEMS), "records": 2}

    def test_may_have_a_markers_name_where_it_is_all_there_is(self, check):
        assert check({"input/manifest.json": ITEMS})["records"] == 2

    def test_may_be_one_file(self, check):
        assert check({"input/a.json": ITEMS}, path=f"{FOLDER}a.json")["records"] == 2

    def test_may_be_a_folder_without_its_slash(self, check):
        assert check({"input/a.json": ITEMS}, path=FOLDER.rstrip("/"))["records"] == 2

    @pytest.mark.parametrize(
        ("kind", "record"),
        [
            (SEGMENT, {"itemId": "105"}),
            (SEGMENT, {"itemAttributes": 'ITEMS.genres = "Comedy" AND ITEMS.genres = "Action"'}),
            (INFERENCE, {"userId": "ü \U0001f600"}),
            (INFERENCE, {"itemId": "a\\b"}),
            (INFERENCE, {"userId": "1", "itemList": ["1", "2"]}),
            (INFERENCE, {"userId": "1", "filterValues": {"GENRES": '"horror","comedy"', "YEAR": "1999"}}),
        ],
    )
    @pytest.mark.parametrize("ends", ["\n", "\r\n", "\n\n", " \t\n"])
    @pytest.mark.parametrize("ascii_only", [True, False])
    def test_has_any_of_the_known_shapes(self, kind, record, ends, ascii_only):
        line = json.dumps(record, ensure_ascii=ascii_only)
        assert check_file((f"{line}{ends}" * 5).encode(), kind) == 5

    @given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=20), st.integers(1, 40))
    def test_is_read_alike_however_it_is_cut(self, users, piece):
        lines = [json.dumps({"userId": user}, ensure_ascii=bool(len(user) % 2)) for user in users]
        content = "\n".join(lines).encode("utf-8", "surrogatepass")
        if any("\ud800" <= each <= "\udfff" for line in lines for each in line):
            with pytest.raises(PersonalizeInputError, match="not UTF-8"):
                check_file(content, INFERENCE, piece=piece)
        else:
            assert check_file(content, INFERENCE, piece=piece) == len(users)

    @given(st.lists(st.binary(max_size=12) | st.just(b'{"itemId": "7"}'), max_size=6), st.integers(1, 40))
    def test_is_what_json_says_it_is(self, middle, piece):
        """The quick pattern agrees with the parser about every line."""
        content = b"\n".join([b'{"itemId": "1"}', *middle, b'{"itemId": "2"}'])

        def is_good(line):
            try:
                record = json.loads(line.decode())
            except ValueError:
                return False
            return isinstance(record, dict) and record.keys() == {"itemId"} and bool(record["itemId"])

        lines = [line for line in content.split(b"\n") if line.strip(b" \t\r")]
        if all(map(is_good, lines)):
            assert check_file(content, piece=piece) == len(lines)
        else:
            with pytest.raises(PersonalizeInputError):
                check_file(content, piece=piece)

    @given(st.data(), st.integers(1, 60))
    def test_is_judged_alike_by_the_pattern_and_the_parser(self, data, piece):
        words = st.sampled_from(["a", "", "ü", 'say "x"', "back\\slash", "1", "tab\t"])
        quoted = st.lists(words, min_size=1, max_size=3).map(
            lambda each: ",".join(f'"{word}"' for word in each)
        )
        texts = words | quoted | st.none() | st.integers()
        record = st.fixed_dictionaries(
            {"userId": texts},
            optional={
                "itemList": st.lists(texts, max_size=3),
                "filterValues": st.dictionaries(st.sampled_from(["A", "B"]), texts, max_size=2),
            },
        )
        dump = st.tuples(record, st.sampled_from([None, (",", ":"), (" ,\t", ": ")]), st.booleans()).map(
            lambda each: json.dumps(each[0], separators=each[1], ensure_ascii=each[2])
        )
        content = "\n".join(data.draw(st.lists(dump, min_size=1, max_size=6))).encode()

        def judge():
            try:
                return check_file(content, INFERENCE, piece=piece)
            except PersonalizeInputError as error:
                return str(error)

        quickly = judge()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(inputs, "_make_pattern", lambda record: None)
            assert quickly == judge()


class TestRefusedLines:
    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"{broken}\n", "Line 1 of the input is wrong: it is not JSON: "),
            (ITEMS + b'{"itemId": "3"', "Line 3 of the input is wrong: it is not JSON: "),
            (ITEMS + b'{"itemId": "\xff"}\n', "Line 3 of the input is wrong: it is not UTF-8."),
            (ITEMS + b"[1]\n", "Line 3 of the input is wrong: it is [1], not a JSON object."),
            (b"[" * 100_000, "Line 1 of the input is wrong: it is not JSON: "),
            (b"\x1f\x8b\x08\x00\n", "Line 1 of the input is wrong: it is compressed with gzip"),
            (b"{}\n", "it has no members, instead of itemId or itemAttributes."),
            (b'{"userId": "1"}\n', "it has userId, instead of itemId or itemAttributes."),
            (b'{"itemId": "1", "x": 1}\n', "it has itemId, x, instead of itemId or itemAttributes."),
            (
                ITEMS + b'{"itemAttributes": "x"}\n',
                "Line 3 of the input is wrong: it has itemAttributes, instead of itemId, as the records",
            ),
            (b'{"itemId": 105}\n', "its itemId is 105, not text."),
            (b'{"itemId": ""}\n', "its itemId is '', not text."),
            (b'{"itemId": null}\n', "its itemId is None, not text."),
            (b'{"itemId": "1", "filterValues": 7}\n', "its filterValues is 7, not an object."),
            (
                b'{"itemId": "1", "filterValues": {"PLAN": "gold"}}\n',
                "its filterValues has PLAN = 'gold', and AWS wants each word in quotes of its own",
            ),
            (b'{"itemId": "1", "filterValues": {"PLAN": ["x"]}}\n', "has PLAN = ['x'], and AWS wants"),
            (b"\n \n", "The file holds no records. Nothing was created. Remove it, or fill it."),
            (b"", "The file holds no records."),
            (b"x" * 1_100_000, "it has more than 1,048,576 bytes."),
            (
                (ITEMS * 251).rstrip(),
                "The file holds more than 500 records, which is all that a job takes with itemId.",
            ),
            (
                b'{"itemAttributes": "ITEMS.A = 1"}\n' * 11,
                "The file holds more than 10 records, which is all that a job takes with itemAttributes.",
            ),
        ],
    )
    @pytest.mark.parametrize("piece", [64, 4 * 1024**2])
    def test_are_named(self, content, words, piece):
        with pytest.raises(PersonalizeInputError) as caught:
            check_file(content, piece=max(piece, len(content) // 50))
        assert words in str(caught.value)
        assert str(caught.value).endswith("(s3://example-bucket/input/a.json)")
        assert "Nothing was created." in str(caught.value)

    @pytest.mark.parametrize(
        ("record", "words"),
        [
            ({"userId": "1", "itemList": "1"}, "its itemList is '1', not a list of texts."),
            ({"userId": "1", "itemList": []}, "its itemList is [], not text."),
            ({"userId": "1", "itemList": ["1", 2]}, "its itemList is ['1', 2], not text."),
            ({"itemList": ["1"]}, "it has itemList, instead of userId or itemId or userId and itemList."),
        ],
    )
    def test_of_inference_jobs(self, record, words):
        with pytest.raises(PersonalizeInputError) as caught:
            check_file(json.dumps(record).encode(), INFERENCE)
        assert words in str(caught.value)

    def test_in_a_second_file_are_compared_with_the_first(self, check):
        with pytest.raises(PersonalizeInputError, match="as the records before it.*input/b.json"):
            check({"input/a.json": ITEMS, "input/b.json": b'{"itemAttributes": "ITEMS.A = 1"}'})

    def test_of_themes_are_fewer(self, check):
        with pytest.raises(PersonalizeInputError, match="more than 100 records"):
            check({"input/a.json": ITEMS * 51}, INFERENCE, batchInferenceJobMode="THEME_GENERATION")


class TestRefusedPaths:
    @pytest.mark.parametrize(
        ("files", "path", "words"),
        [
            ({}, FOLDER, "No object is there, so the job would have no input. Nothing was created. Upload"),
            ({"input/": b""}, FOLDER, "No object is there"),
            (
                {"input/a.json": ITEMS, "input_old/b.json": ITEMS, "input_older/c": ITEMS},
                f"s3://{BUCKET}/input",
                "The path is a prefix, and the job would read s3://example-bucket/input_old/b.json, too, and "
                "1 more. Nothing was created. End a folder with a slash",
            ),
            (
                {"input/a.json": ITEMS, "input/a.json.bak": ITEMS},
                f"{FOLDER}a.json",
                "the job would read s3://example-bucket/input/a.json.bak, too. Nothing",
            ),
        ],
    )
    def test_are_named(self, check, files, path, words):
        with pytest.raises(PersonalizeInputError) as caught:
            check(files, path=path)
        assert words in str(caught.value)
        assert str(caught.value).endswith(f"({path})")

    def test_with_too_many_files(self, check, monkeypatch):
        monkeypatch.setattr(inputs, "MAX_FILES", 2)
        with pytest.raises(PersonalizeInputError, match="more than 2 files, which is all that a job takes"):
            check({f"input/{name}.json": ITEMS for name in "abc"})

    def test_with_too_much(self, check, monkeypatch):
        monkeypatch.setattr(inputs, "MAX_BYTES", 40)
        with pytest.raises(PersonalizeInputError, match="64 bytes are more than the 1 GB that a job takes"):
            check({f"input/{name}.json": ITEMS for name in "ab"})

    def test_survive_pickling(self):
        error = PersonalizeInputError("what", "do", "s3://a/b")
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.fields) == (str(error), error.fields)

    def test_that_are_none(self, check):
        with pytest.raises(
            PersonalizeInputError, match="'https://shop/in/' is no path in S3.*Leave check_input"
        ):
            check({}, path="https://shop/in/")


class TestFilters:
    EXPRESSION = "INCLUDE UserID WHERE Users.PLAN IN ($PLANS) AND Users.AGE > $AGE"

    def test_have_placeholders(self):
        assert find_placeholders(self.EXPRESSION) == {"PLANS", "AGE"}
        assert find_placeholders('INCLUDE UserID WHERE Users.PLAN IN ("$10-$20", $PLANS)') == {"PLANS"}
        assert find_placeholders('EXCLUDE ItemID WHERE Items.GENRE IN ("x")') == set()

    def test_need_a_value_for_each_in_every_record(self, check, local_personalize):
        arn = local_personalize.add_filter("plans", self.EXPRESSION)
        values = {"PLANS": '"gold","silver"', "AGE": "18"}
        good = json.dumps({"itemId": "1", "filterValues": values}).encode() + b"\n"
        assert check({"input/a.json": good * 3}, filterArn=arn)["records"] == 3
        del values["AGE"]
        bad = json.dumps({"itemId": "1", "filterValues": values}).encode()
        with pytest.raises(
            PersonalizeInputError, match="Line 4 .* its filterValues lacks AGE, which the filter asks for"
        ):
            check({"input/a.json": good * 3 + bad}, filterArn=arn)
        with pytest.raises(PersonalizeInputError, match="Line 1 .* its filterValues lacks AGE, PLANS"):
            check({"input/a.json": ITEMS}, filterArn=arn)

    def test_without_placeholders_need_none(self, check, local_personalize):
        arn = local_personalize.add_filter("static", 'INCLUDE UserID WHERE Users.PLAN IN ("gold")')
        assert check({"input/a.json": ITEMS}, filterArn=arn)["records"] == 2

    def test_that_do_not_exist_are_an_error(self, check):
        with pytest.raises(
            PersonalizeRequestError, match="ResourceNotFoundException.*DescribeFilter was refused"
        ):
            check({"input/a.json": ITEMS}, filterArn="arn:aws:personalize:us-east-1:123456789012:filter/none")

    def test_of_no_arn_are_an_error(self, check):
        with pytest.raises(ValueError, match="Expected the ARN of a filter, got 'plans'"):
            check({"input/a.json": ITEMS}, filterArn="plans")


class TestOperator:
    DAG = """
from airflow.providers.common.compat.sdk import DAG
from airflow_provider_personalize_segments.operators import PersonalizeCreateBatchSegmentJobOperator as Create

with DAG("checked", schedule=None, default_args={"retries": 2}) as dag:
    for name, options in OPTIONS.items():
        Create(
            task_id=name,
            solution_version_arn=VERSION,
            role_arn=ROLE,
            input_path=f"s3://example-bucket/{name}/",
            output_path=f"s3://example-bucket/output/{name}/",
            poll_interval=0.1,
            **options,
        )
"""

    def test_creates_nothing_from_input_that_cannot_be_right(self, put, local_personalize, run_dag):
        put({"good/a.json": ITEMS, "bad/a.json": ITEMS + b"{}\n", "unchecked/a.json": ITEMS + b"{}\n"})
        options = {
            "good": {"check_input": "true"},
            "bad": {"check_input": True},
            "deferred": {"check_input": True, "deferrable": True},
            "unchecked": {},
        }
        put({"deferred/a.json": b"[]"})
        version = local_personalize.add_solution_version("checked")
        run = run_dag(f"OPTIONS, VERSION, ROLE = {options!r}, {version!r}, {ROLE!r}\n{self.DAG}")
        ended = {name: run.states[name] == "success" for name in options}
        assert ended == {"good": True, "bad": False, "deferred": False, "unchecked": True}
        assert "Line 3 of the input is wrong: it has no members" in str(run.errors["bad"])
        assert "Line 1 of the input is wrong: it is [], not a JSON object" in str(run.errors["deferred"])
        # Neither is retried, as the input would be the same.
        assert local_personalize.calls.count("CreateBatchSegmentJob") == 2

    def test_waits_out_what_may_pass(self, put, local_personalize, run_dag):
        put({"good/a.json": ITEMS})
        filter_arn = local_personalize.add_filter("plans", 'INCLUDE UserID WHERE Users.PLAN IN ("gold")')
        local_personalize.faults.throttle(2, operation="DescribeFilter")
        one_call = {"retries": {"total_max_attempts": 1}}
        options = {
            "good": {
                "check_input": True,
                "filter_arn": filter_arn,
                "retries": 0,
                "botocore_config": one_call,
            }
        }
        version = local_personalize.add_solution_version("checked")
        run = run_dag(f"OPTIONS, VERSION, ROLE = {options!r}, {version!r}, {ROLE!r}\n{self.DAG}")
        assert run.states == {"good": "success"}
        assert local_personalize.calls.count("DescribeFilter") == 3
