"""Input that is judged before a job is created from it: good input passes, each refusal by its words."""

from __future__ import annotations

import json
import logging
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
from airflow_provider_personalize_segments.output.inputs import _Checker, _find_shapes, find_placeholders
from airflow_provider_personalize_segments.output.objects import S3Object
from airflow_provider_personalize_segments.recipes import RECIPES

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

    def check(files, kind=SEGMENT, path=FOLDER, recipe=None, **members):
        put(files)
        recipe = recipe or {SEGMENT: "aws-item-affinity", INFERENCE: "aws-similar-items"}[kind]
        # Not by way of the control, which adds no recipe that is of no use to a batch job.
        store = local_personalize.backend("us-east-1", None)
        return PersonalizeHook().check_input(
            kind,
            solutionVersionArn=store.add_solution_version("checked", recipe, "demo", "ACTIVE"),
            jobInput={"s3DataSource": {"path": path}},
            **members,
        )

    return check


def check_file(content, kind=SEGMENT, placeholders=(), piece=7, recipe=None):
    """Check a file without S3, in pieces of so many bytes."""
    shapes = _find_shapes(kind, recipe, FOLDER, has_themes=False)
    checker = _Checker(shapes, frozenset(placeholders), logging.getLogger("inputs"), recipe)
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
            (SEGMENT, {"itemAttributes": r'ITEMS.title = "Heat (1995), \"the\" one"'}),
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

    @given(
        st.lists(
            st.text(st.characters() | st.sampled_from("\ud83d\ude00"), min_size=1, max_size=8),
            min_size=1,
            max_size=20,
        ),
        st.integers(1, 40),
    )
    def test_is_read_alike_however_it_is_cut(self, users, piece):
        lines = [json.dumps({"userId": user}, ensure_ascii=bool(len(user) % 2)) for user in users]
        content = "\n".join(lines).encode("utf-8", "surrogatepass")
        halves = json.dumps([json.loads(line) for line in lines], ensure_ascii=False)
        if any("\ud800" <= each <= "\udfff" for each in halves):
            with pytest.raises(PersonalizeInputError, match="not UTF-8|half a character"):
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
        words = st.sampled_from(["a", "", "ü", 'say "x"', "back\\slash", "1", "tab\t", "\U0001f600"])
        quoted = st.lists(words, min_size=1, max_size=3).map(
            lambda each: ",".join(f'"{word}"' for word in each)
        )
        texts = words | quoted | st.none() | st.integers()
        record = st.fixed_dictionaries(
            {"userId": texts},
            optional={
                "itemList": st.lists(texts, max_size=3),
                "filterValues": st.dictionaries(st.sampled_from(["A", "B"]), texts, max_size=2),
                "context": st.dictionaries(st.just("DEVICE"), texts),
            },
        )
        # A text of one half of a character, and a member twice, which a dict does not hold.
        spoil = st.sampled_from(
            [("", ""), ("", ""), ('"a"', r'"\ud83d"'), ('"a"', r'"\uDE00x"'), ("{", '{"userId": "1", ')]
        )
        dump = st.tuples(
            record, st.sampled_from([None, (",", ":"), (" ,\t", ": ")]), st.booleans(), spoil
        ).map(lambda each: json.dumps(each[0], separators=each[1], ensure_ascii=each[2]).replace(*each[3], 1))
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
                ITEMS + b'{"itemAttributes": "ITEMS.a = 1"}\n',
                "Line 3 of the input is wrong: it has itemAttributes, instead of itemId, as the records",
            ),
            (
                b'{"itemAttributes": "ITEMS.year > 1999"}\n',
                "Line 1 of the input is wrong: its itemAttributes is 'ITEMS.year > 1999', and AWS takes "
                'conditions such as ITEMS.genres = "Comedy", with only = in them and only AND between them. '
                'Quotes inside a value need a backslash: "12\\" vinyl".',
            ),
            (
                b'{"itemAttributes": "ITEMS.a = 1"}\n{"itemAttributes": "comedies"}\n',
                "Line 2 of the input is wrong: its itemAttributes is 'comedies', and AWS takes conditions",
            ),
            (
                ITEMS + b'{"itemId": "a\\ud83d"}\n',
                "Line 3 of the input is wrong: it has half a character, \\ud83d without its other half.",
            ),
            (b'{"itemId": "\\uDE00\\ud83d"}\n', "it has half a character, \\ude00 without its other half."),
            (
                b'{"itemId": "1", "filterValues": {"A": "\\"\\ud83d\\""}}\n',
                "it has half a character, \\ud83d without its other half.",
            ),
            (
                ITEMS + b'{"itemId": "1", "itemId": "1"}\n',
                "Line 3 of the input is wrong: it has 'itemId' more than once.",
            ),
            (
                b'{"itemId": "1", "filterValues": {"A": "1", "A": "2"}}\n',
                "Line 1 of the input is wrong: it has 'A' more than once.",
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
            (
                {"itemId": "1", "context": {}},
                "it has context, itemId, instead of userId or itemId or userId and itemList.",
            ),
            (
                {"userId": "1", "filterValues": {"A": "horror"}},
                "A = 'horror', and AWS wants each word in quotes",
            ),
            ({"userId": "1", "filterValues": {"A": '"a", b'}}, "A = '\"a\", b', and AWS wants each word"),
            ({"userId": "1", "filterValues": {"A": "'a'"}}, "A = \"'a'\", and AWS wants each word in quotes"),
            ({"userId": "1", "filterValues": {"A": '"'}}, "A = '\"', and AWS wants each word in quotes"),
            ({"userId": "1", "filterValues": {"A": "1e"}}, "A = '1e', and AWS wants each word in quotes"),
            ({"userId": "1", "filterValues": {"A": "\u0661"}}, "A = '\u0661', and AWS wants each word"),
            ({"userId": "1", "filterValues": {"A": ""}}, "A = '', and AWS wants each word in quotes"),
        ],
    )
    def test_of_inference_jobs(self, record, words):
        with pytest.raises(PersonalizeInputError) as caught:
            check_file(json.dumps(record).encode(), INFERENCE)
        assert words in str(caught.value)

    def test_in_a_second_file_are_compared_with_the_first(self, check):
        with pytest.raises(PersonalizeInputError, match="as the records before it.*input/b.json"):
            check(
                {"input/a.json": b'{"userId": "1"}', "input/b.json": b'{"itemId": "1"}'},
                INFERENCE,
                recipe="aws-unheard-of",
            )

    def test_are_told_with_the_recipe(self, check):
        with pytest.raises(PersonalizeInputError) as caught:
            check({"input/a.json": ITEMS}, INFERENCE, recipe="aws-user-personalization")
        assert (
            "Line 1 of the input is wrong: it has itemId, instead of userId, which is what the recipe "
            "aws-user-personalization takes. Nothing was created."
        ) in str(caught.value)

    def test_of_attributes_are_ten(self, check):
        lines = b'{"itemAttributes": "ITEMS.A = 1"}\n'
        recipe = "aws-item-attribute-affinity"
        assert check({"input/a.json": lines * 10}, recipe=recipe)["records"] == 10
        with pytest.raises(
            PersonalizeInputError,
            match="more than 10 records, which is all that a job takes with aws-item-attribute-affinity",
        ):
            check({"input/a.json": lines * 400}, recipe=recipe)

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


class TestRecipes:
    RECORDS = (
        {"userId": "1"},
        {"itemId": "1"},
        {"userId": "1", "itemList": ["2", "3"]},
        {"itemAttributes": 'ITEMS.genres = "Comedy"'},
    )

    @pytest.mark.parametrize("recipe", RECIPES)
    def test_take_their_own_records_and_no_others(self, recipe):
        known = RECIPES[recipe]
        for record in self.RECORDS:
            content = json.dumps(record).encode()
            if tuple(record) == known.members:
                assert check_file(content, known.kind, recipe=recipe) == 1
            else:
                with pytest.raises(PersonalizeInputError, match=f"what the recipe {recipe} takes"):
                    check_file(content, known.kind, recipe=recipe)

    @pytest.mark.parametrize("recipe", [name for name, each in RECIPES.items() if each.lines <= 500])
    def test_take_so_many_lines(self, recipe):
        known = RECIPES[recipe]
        [record] = [each for each in self.RECORDS if tuple(each) == known.members]
        line = json.dumps(record).encode() + b"\n"
        assert check_file(line * known.lines, recipe=recipe, piece=10_000) == known.lines
        with pytest.raises(PersonalizeInputError, match=f"more than {known.lines} records.* with {recipe}"):
            check_file(line * (known.lines + 1), recipe=recipe, piece=10_000)

    @pytest.mark.parametrize(
        ("kind", "recipe", "words"),
        [
            (
                INFERENCE,
                "aws-trending-now",
                "The solution version's recipe is aws-trending-now, which serves no batch inference "
                "job. Nothing was created. Choose a solution version of the recipe "
                "aws-user-personalization-v2 or aws-user-personalization or aws-popularity-count or ",
            ),
            (
                INFERENCE,
                "aws-next-best-action",
                "is aws-next-best-action, which serves no batch inference job.",
            ),
            (
                SEGMENT,
                "aws-sims",
                "The solution version's recipe is aws-sims, which serves no batch segment job. Nothing was "
                "created. Choose a solution version of the recipe aws-item-affinity or "
                "aws-item-attribute-affinity.",
            ),
        ],
    )
    def test_that_serve_no_such_job_are_refused(self, check, kind, recipe, words):
        with pytest.raises(PersonalizeInputError) as caught:
            check({"input/a.json": ITEMS}, kind, recipe=recipe)
        assert words in str(caught.value)

    def test_that_generate_no_themes_are_refused(self, check):
        with pytest.raises(
            PersonalizeInputError,
            match="recipe is aws-sims, which generates no themes. Nothing was created. Choose a solution "
            "version of the recipe aws-similar-items, or another batch_inference_job_mode",
        ):
            check(
                {"input/a.json": ITEMS},
                INFERENCE,
                recipe="aws-sims",
                batchInferenceJobMode="THEME_GENERATION",
            )

    def test_that_are_new_are_warned_of(self, check, read_log):
        files = {"input/a.json": b'{"userId": "1"}\n' * 2}
        assert check(files, INFERENCE, recipe="aws-unheard-of")["records"] == 2
        [warning] = [each for each in read_log() if "The input is checked" in each]
        assert (
            "without the solution version's recipe, so input for another recipe may pass: This release does "
            "not know the recipe 'arn:aws:personalize:::recipe/aws-unheard-of'."
        ) in warning

    def test_that_may_not_be_asked_for_are_warned_of(self, check, local_personalize, read_log):
        local_personalize.faults.deny_access(operation="DescribeSolutionVersion")
        users = {"input/a.json": b'{"userId": "1"}\n'}
        assert check(users, INFERENCE, recipe="aws-sims")["records"] == 1
        [warning] = [each for each in read_log() if "The input is checked" in each]
        assert "so input for another recipe may pass: AccessDeniedException: " in warning
        assert "Allow personalize:DescribeSolutionVersion in that identity's IAM policy." in warning
        with pytest.raises(
            PersonalizeInputError, match="it has x, instead of userId or itemId or userId and"
        ):
            check({"input/a.json": b'{"x": "1"}\n'}, INFERENCE)
        with pytest.raises(PersonalizeInputError, match="more than 10 records.*takes with itemAttributes"):
            check({"input/a.json": b'{"itemAttributes": "ITEMS.A = 1"}\n' * 11})
        with pytest.raises(PersonalizeInputError, match="more than 100 records"):
            check({"input/a.json": ITEMS * 51}, INFERENCE, batchInferenceJobMode="THEME_GENERATION")

    def test_of_solution_versions_that_are_not_there_are_left_to_create(self, put, read_log):
        put({"input/a.json": ITEMS})
        counts = PersonalizeHook().check_input(
            SEGMENT,
            solutionVersionArn="arn:aws:personalize:us-east-1:123456789012:solution/none/1",
            jobInput={"s3DataSource": {"path": FOLDER}},
        )
        assert counts["records"] == 2
        assert any("may pass: ResourceNotFoundException: " in each for each in read_log())


class TestDoubts:
    """What AWS does not document passes, with a warning."""

    WARNING = (
        "Line {} of the input may be wrong: {} The job may give this record an error, or leave that out of"
    )

    def test_about_context_are_told_once(self, caplog):
        records = [{"userId": "1"}, *[{"userId": "1", "context": {"DEVICE": "phone"}}] * 3]
        content = "\n".join(map(json.dumps, records)).encode()
        assert check_file(content, INFERENCE, recipe="aws-user-personalization") == 4
        [message] = caplog.messages
        doubt = "it has context, and AWS does not say that batch jobs take any."
        assert message.startswith(self.WARNING.format(2, doubt))
        assert message.endswith(
            "the check tells only the first of its kind. (s3://example-bucket/input/a.json)"
        )

    def test_about_context_beside_a_list(self, caplog):
        record = {"context": {"DEVICE": "phone"}, "userId": "1", "itemList": ["2"]}
        assert check_file(json.dumps(record).encode(), INFERENCE) == 1
        assert "it has context" in caplog.text

    @pytest.mark.parametrize(
        "value",
        [
            "1e5",
            "-1E-5",
            ".5",
            "5.",
            "+1",
            "1,2",
            "1, 2.5",
            r'"say \"hi\""',
            r'"a\"b","c"',
            '"United States""',
            '1,"a"',
        ],
    )
    def test_about_filter_values(self, caplog, value):
        record = json.dumps({"userId": "1", "filterValues": {"A": value}}).encode() + b"\n"
        assert check_file(record * 3, INFERENCE) == 3
        [message] = caplog.messages
        assert message.startswith("Line 1 of the input may be wrong: its filterValues has A = ")
        assert "and AWS documents only words in quotes of their own, with commas between them." in message

    def test_are_none_about_what_is_documented(self, caplog):
        records = [
            {
                "userId": "1",
                "filterValues": {"A": '"horror", "comedy"', "B": "18", "C": "-1.5", "D": '"a\\b"'},
            },
            {"userId": "1", "itemList": ["1"]},
            {"itemId": "\U0001f600"},
        ]
        for record in records:
            check_file(json.dumps(record).encode(), INFERENCE)
        assert caplog.messages == []


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
from airflow_names import DAG
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

    def test_creates_nothing_from_records_that_the_recipe_cannot_serve(self, put, local_personalize, run_dag):
        put({"items/a.json": ITEMS, "unchecked/a.json": ITEMS})
        options = {"items": {"check_input": True}, "unchecked": {}}
        version = local_personalize.add_solution_version("checked", "aws-item-attribute-affinity")
        run = run_dag(f"OPTIONS, VERSION, ROLE = {options!r}, {version!r}, {ROLE!r}\n{self.DAG}")
        assert run.states == {"items": "failed", "unchecked": "success"}
        assert "it has itemId, instead of itemAttributes, which is what the recipe" in str(
            run.errors["items"]
        )
        assert local_personalize.calls.count("CreateBatchSegmentJob") == 1

    def test_goes_on_without_the_permission_to_ask_for_the_recipe(
        self, put, local_personalize, run_dag, read_log
    ):
        put({"good/a.json": ITEMS})
        local_personalize.faults.deny_access(operation="DescribeSolutionVersion")
        version = local_personalize.add_solution_version("checked")
        options = {"good": {"check_input": True, "retries": 0}}
        run = run_dag(f"OPTIONS, VERSION, ROLE = {options!r}, {version!r}, {ROLE!r}\n{self.DAG}")
        assert run.states == {"good": "success"}
        assert any(
            "The input is checked without the solution version's recipe" in each for each in read_log()
        )

    def test_waits_out_what_may_pass(self, put, local_personalize, run_dag):
        put({"good/a.json": ITEMS})
        filter_arn = local_personalize.add_filter("plans", 'INCLUDE UserID WHERE Users.PLAN IN ("gold")')
        local_personalize.faults.throttle(2, operation="DescribeFilter")
        local_personalize.faults.throttle(1, operation="DescribeSolutionVersion")
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
        assert local_personalize.calls.count("DescribeFilter") == 4
