from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto.s3.models import s3_backends

from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.testing.output import Population
from airflow_provider_personalize_segments.testing.recipes import RECIPES

BUCKET = "segments-bucket"


@pytest.fixture
def run(inside, make_request):
    """Run a job on what was put into S3; return it as described, and the records of each output object."""

    def run(recipe, inputs, *, options=None, region_name="us-east-1", **members):
        control = inside.control or inside.open(**(options or {}))
        for key, text in inputs.items():
            inside.put_input(text, key, region_name)
        kind = RECIPES[recipe].kind
        arn = control.add_solution_version(recipe=recipe, region_name=region_name)
        client = inside.client(region_name=region_name)
        created = getattr(client, kind.create_method)(**make_request(arn, **members))[kind.arn_member]
        job = getattr(client, kind.describe_method)(**{kind.arn_member: created})[kind.job_member]
        s3 = inside.client("s3", region_name)
        found = s3.list_objects_v2(Bucket=BUCKET).get("Contents", []) if inputs else []
        written = {}
        for key in {each["Key"] for each in found} - set(inputs):
            body = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode()
            written[key] = [json.loads(line) for line in body.split("\n") if line]
        return job, written

    return run


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


class TestRecords:
    def test_item_affinity(self, run):
        job, written = run("aws-item-affinity", {"input/items.json": lines({"itemId": "105"})}, numResults=5)
        assert job["status"] == "ACTIVE"
        [record] = written["output/items.json.out"]
        users = record["output"]["usersList"]
        assert record == {"input": {"itemId": "105"}, "output": {"usersList": users}, "error": None}
        assert len(set(users)) == 5
        assert all(user.startswith("user-") for user in users)

    def test_item_attribute_affinity(self, run):
        asked = {"itemAttributes": 'ITEMS.genres = "Comedy" AND ITEMS.genres = "Action"'}
        _, written = run("aws-item-attribute-affinity", {"input/items.json": lines(asked)}, numResults=3)
        [record] = written["output/items.json.out"]
        assert (record["input"], len(record["output"]["usersList"])) == (asked, 3)
        assert set(record) == {"input", "output", "error"}

    @pytest.mark.parametrize(
        "recipe",
        [
            "aws-user-personalization",
            "aws-user-personalization-v2",
            "aws-hrnn",
            "aws-hrnn-metadata",
            "aws-hrnn-coldstart",
        ],
    )
    def test_user_personalization_has_scores(self, run, recipe):
        _, written = run(recipe, {"input/users.json": lines({"userId": "7"})}, numResults=4)
        [record] = written["output/users.json.out"]
        output = record["output"]
        assert set(output) == {"recommendedItems", "scores"}
        assert len(output["recommendedItems"]) == len(output["scores"]) == 4
        assert output["scores"] == sorted(output["scores"], reverse=True)
        assert sum(output["scores"]) == pytest.approx(1)

    def test_personalized_ranking_ranks_the_items_given(self, run):
        items = [f"item-{number}" for number in range(30)]
        asked = [{"userId": user, "itemList": items} for user in "ab"]
        _, written = run("aws-personalized-ranking", {"input/users.json": lines(*asked)}, numResults=3)
        ranked = [record["output"]["recommendedItems"] for record in written["output/users.json.out"]]
        assert sorted(ranked[0]) == sorted(ranked[1]) == sorted(items)
        assert items != ranked[0] != ranked[1]
        assert all(len(record["output"]["scores"]) == 30 for record in written["output/users.json.out"])

    def test_popularity_is_the_same_for_all_users(self, run):
        asked = [{"userId": "7"}, {"userId": "8"}]
        _, written = run("aws-popularity-count", {"input/users.json": lines(*asked)}, numResults=4)
        first, second = (record["output"] for record in written["output/users.json.out"])
        assert set(first) == {"recommendedItems"}
        assert len(set(first["recommendedItems"])) == 4
        assert first == second

    @pytest.mark.parametrize("recipe", ["aws-similar-items", "aws-semantic-similarity", "aws-sims"])
    def test_an_item_is_not_similar_to_itself(self, run, recipe):
        asked = [{"itemId": f"item-{1000 + number}"} for number in range(10)]
        _, written = run(recipe, {"input/items.json": lines(*asked)}, options={"users": 10}, numResults=9)
        for record in written["output/items.json.out"]:
            assert set(record["output"]) == {"recommendedItems"}
            assert len(record["output"]["recommendedItems"]) == 9
            assert record["input"]["itemId"] not in record["output"]["recommendedItems"]

    def test_themes(self, run):
        _, written = run(
            "aws-similar-items",
            {"input/items.json": lines({"itemId": "1"})},
            batchInferenceJobMode="THEME_GENERATION",
            themeGenerationConfig={"fieldsForThemeGeneration": {"itemName": "TITLE"}},
            numResults=3,
        )
        [record] = written["output/items.json.out"]
        assert set(record["output"]) == {"recommendedItems", "theme", "itemsThemeRelevanceScores"}
        assert len(record["output"]["itemsThemeRelevanceScores"]) == 3

    def test_conditions_may_have_quotes_in_their_values(self, run):
        asked = {"itemAttributes": r'ITEMS.title = "12\" vinyl, [new]" AND ITEMS.year = 1995'}
        _, written = run("aws-item-attribute-affinity", {"input/items.json": lines(asked)}, numResults=3)
        assert written["output/items.json.out"][0]["error"] is None

    @pytest.mark.parametrize(
        ("recipe", "line", "error"),
        [
            ("aws-item-affinity", '{"userId": "1"}', "Required fields for the provided recipe are itemId"),
            ("aws-item-affinity", '{"itemId": 105}', "Required fields for the provided recipe are itemId"),
            ("aws-item-affinity", '{"itemId": ""}', "Required fields for the provided recipe are itemId"),
            ("aws-item-affinity", '{"itemId": "1"', "The line is not a JSON object"),
            ("aws-item-affinity", '["1"]', "The line is not a JSON object"),
            ("aws-item-affinity", r'{"itemId": "\ud83d"}', "The line is not a JSON object"),
            (
                "aws-item-attribute-affinity",
                '{"itemAttributes": "ITEMS.year > 1999"}',
                'itemAttributes takes conditions such as ITEMS.GENRE = "Comedy", joined by AND',
            ),
            (
                "aws-item-attribute-affinity",
                '{"itemAttributes": "ITEMS.a = \\"x\\" OR ITEMS.a = \\"y\\""}',
                'itemAttributes takes conditions such as ITEMS.GENRE = "Comedy", joined by AND',
            ),
            (
                "aws-user-personalization",
                '{"itemId": "1"}',
                "Required fields for the provided recipe are userId",
            ),
            (
                "aws-personalized-ranking",
                '{"userId": "1", "itemList": [2]}',
                "Required fields for the provided recipe are userId, itemList",
            ),
        ],
    )
    def test_a_bad_record_gets_an_error_and_the_job_succeeds(self, run, recipe, line, error):
        good = {
            "aws-item-affinity": {"itemId": "1"},
            "aws-item-attribute-affinity": {"itemAttributes": 'ITEMS.a = "x"'},
            "aws-user-personalization": {"userId": "1"},
            "aws-personalized-ranking": {"userId": "1", "itemList": ["2"]},
        }[recipe]
        job, written = run(recipe, {"input/in.json": line + "\n" + lines(good)})
        assert job["status"] == "ACTIVE"
        bad, fine = written["output/in.json.out"]
        result = RECIPES[recipe].kind.result_members[0]
        assert bad["error"] == f"User error: {error}"
        assert bad["output"] == {result: []}
        assert fine["error"] is None
        assert fine["output"][result]

    def test_blank_lines_and_a_missing_last_newline_do_not_matter(self, run):
        _, written = run("aws-item-affinity", {"input/items.json": '\n{"itemId": "1"}\n\n{"itemId": "2"}'})
        assert [record["input"]["itemId"] for record in written["output/items.json.out"]] == ["1", "2"]

    @pytest.mark.parametrize("ending", ["\n", "\r\n"])
    def test_only_a_line_feed_ends_a_line(self, run, ending):
        odd = [f"b{character}1" for character in "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"]
        text = ending.join(json.dumps({"itemId": item}, ensure_ascii=False) for item in odd)
        # JSON escapes control characters; the others stand in the file as they are.
        assert "\x85" in text
        _, written = run("aws-item-affinity", {"input/items.json": text})
        records = written["output/items.json.out"]
        assert [record["input"]["itemId"] for record in records] == odd
        assert [record["error"] for record in records] == [None] * len(odd)

    def test_no_record_names_more_users_than_there_are(self, run):
        _, written = run(
            "aws-item-affinity",
            {"input/items.json": lines({"itemId": "1"})},
            options={"users": 8},
            numResults=5_000_000,
        )
        assert len(set(written["output/items.json.out"][0]["output"]["usersList"])) == 8


class TestObjects:
    def test_every_object_of_the_prefix_and_only_those(self, run):
        text = lines({"itemId": "1"})
        inputs = {"in": text, "inputs_of_others/b.json": text, "input/a.json": text, "input/deep/c": text}
        job, written = run(
            "aws-item-affinity",
            {**inputs, "input/": ""},
            jobInput={"s3DataSource": {"path": f"s3://{BUCKET}/input"}},
        )
        assert job["status"] == "ACTIVE"
        assert set(written) == {"output/_CHECK", "output/a.json.out", "output/b.json.out", "output/c.out"}

    def test_markers_and_empty_files_are_no_input(self, run):
        files = dict.fromkeys(["_SUCCESS", "_committed_1", ".a.json.crc", "b.manifest", "c.metadata"], "{}")
        files |= {"a.json": lines({"itemId": "1"}), "empty.json": ""}
        job, written = run("aws-item-affinity", {f"input/{name}": text for name, text in files.items()})
        assert job["status"] == "ACTIVE"
        assert set(written) == {"output/_CHECK", "output/a.json.out"}

    def test_the_output_of_a_job_is_no_input_of_the_next(self, run):
        root = {
            "jobInput": {"s3DataSource": {"path": f"s3://{BUCKET}/users.json"}},
            "jobOutput": {"s3DataDestination": {"path": f"s3://{BUCKET}/"}},
        }
        files = {"users.json": GOOD_LINE, "users.json.out": "{}"}
        job, written = run("aws-item-affinity", files, **root)
        assert job["status"] == "ACTIVE"
        assert set(written) == {"_CHECK"}  # beside the output, which was there

    def test_the_output_prefix_is_only_a_prefix(self, run):
        _, written = run(
            "aws-item-affinity",
            {"input/a.json": lines({"itemId": "1"})},
            jobOutput={"s3DataDestination": {"path": f"s3://{BUCKET}/output/run-7-"}},
        )
        assert set(written) == {"output/run-7-_CHECK", "output/run-7-a.json.out"}

    def test_a_bucket_without_prefix(self, run):
        _, written = run(
            "aws-item-affinity",
            {"a.json": lines({"itemId": "1"})},
            jobInput={"s3DataSource": {"path": f"s3://{BUCKET}"}},
            jobOutput={"s3DataDestination": {"path": f"s3://{BUCKET}"}},
        )
        assert set(written) == {"_CHECK", "a.json.out"}

    def test_the_key_of_the_output(self, run, inside):
        key = "arn:aws:kms:us-east-1:123456789012:key/1234"
        run(
            "aws-item-affinity",
            {"input/a.json": lines({"itemId": "1"})},
            jobOutput={"s3DataDestination": {"path": f"s3://{BUCKET}/output/", "kmsKeyArn": key}},
        )
        head = inside.client("s3").head_object(Bucket=BUCKET, Key="output/a.json.out")
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", key)

    def test_other_regions(self, run):
        job, written = run(
            "aws-item-affinity", {"input/a.json": lines({"itemId": "1"})}, region_name="eu-west-1"
        )
        assert job["status"] == "ACTIVE"
        assert "output/a.json.out" in written


GOOD_LINE = lines({"itemId": "1", "userId": "1"})


class TestFailures:
    @pytest.mark.parametrize(
        ("members", "reason"),
        [
            (
                {"jobInput": {"s3DataSource": {"path": f"s3://{BUCKET}/nothing"}}},
                f"Invalid S3 input path: no object begins with s3://{BUCKET}/nothing.",
            ),
            (
                {"jobInput": {"s3DataSource": {"path": "s3://no-bucket/input/"}}},
                "Invalid S3 input path: the bucket of s3://no-bucket/input/ does not exist.",
            ),
            (
                {"jobInput": {"s3DataSource": {"path": "https://example.com/input"}}},
                "Invalid S3 input path: https://example.com/input is not s3://bucket/prefix.",
            ),
            (
                {"jobOutput": {"s3DataDestination": {"path": "s3://no-bucket/output/"}}},
                "Invalid S3 output path: the bucket of s3://no-bucket/output/ does not exist.",
            ),
        ],
    )
    def test_paths_that_lead_nowhere(self, run, members, reason):
        job, written = run("aws-item-affinity", {"input/a.json": lines({"itemId": "1"})}, **members)
        assert (job["status"], job["failureReason"]) == ("CREATE FAILED", reason)
        assert written == {}

    @pytest.mark.parametrize(
        ("files", "size"),
        [({"input/b.json": ""}, 0), ({"input/a.json": GOOD_LINE, "input/b.json": "\n \n"}, 3)],
    )
    @pytest.mark.parametrize("recipe", ["aws-item-affinity", "aws-user-personalization"])
    def test_a_file_without_records(self, run, recipe, files, size):
        job, written = run(recipe, files)
        assert (job["status"], job["failureReason"]) == (
            "CREATE FAILED",
            f"Invalid input file input/b.json: it has no records ({size} bytes); "
            "expected one JSON object a line.",
        )
        assert written == {}

    @pytest.mark.parametrize(
        ("recipe", "record", "limit", "members"),
        [
            ("aws-item-affinity", {"itemId": "1"}, 500, {}),
            ("aws-item-attribute-affinity", {"itemAttributes": 'ITEMS.a = "x"'}, 10, {}),
            (
                "aws-similar-items",
                {"itemId": "1"},
                100,
                {
                    "batchInferenceJobMode": "THEME_GENERATION",
                    "themeGenerationConfig": {"fieldsForThemeGeneration": {"itemName": "TITLE"}},
                },
            ),
        ],
    )
    def test_too_many_lines(self, run, recipe, record, limit, members):
        text = lines(*[record] * limit)
        job, _ = run(recipe, {"input/full.json": text}, jobName="full", numResults=1, **members)
        assert job["status"] == "ACTIVE"
        job, _ = run(recipe, {"input/over.json": text + lines(record)}, jobName="over", **members)
        assert job["status"] == "CREATE FAILED"
        assert f"input/over.json: it has {limit + 1} lines" in job["failureReason"]

    def test_too_many_files(self, run, inside):
        inside.open()
        inside.put_input(lines({"itemId": "1"}), "input/0.json")
        for number in range(1, 1001):
            s3_backends[inside.control.account_id]["aws"].put_object(BUCKET, f"input/{number}.json", b" ")
        job, _ = run("aws-item-affinity", {})
        assert "begins 1001 objects; at most 1000 may" in job["failureReason"]

    def test_a_bucket_of_another_region(self, run, inside):
        inside.open()
        inside.put_input(lines({"itemId": "1"}), region_name="eu-west-1")
        job, _ = run("aws-item-affinity", {})
        assert "is in eu-west-1, the job in us-east-1" in job["failureReason"]

    def test_a_deleted_object_is_no_input(self, run, inside):
        inside.open()
        s3 = inside.put_input(lines({"itemId": "1"}), "input/a.json")
        s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        s3.delete_object(Bucket=BUCKET, Key="input/a.json")
        job, _ = run("aws-item-affinity", {})
        assert "no object begins with" in job["failureReason"]


class TestPopulation:
    @given(seed=st.integers(), size=st.integers(1, 2000), short=st.integers(0, 300), more=st.integers(0, 300))
    def test_different_ones_best_first(self, seed, size, short, more):
        population = Population(seed, size)
        long = list(population.draw("user", {"itemId": "1"}, short + more))
        assert len(long) == len(set(long)) == min(short + more, size)
        assert long[:short] == list(population.draw("user", {"itemId": "1"}, short))

    def test_the_same_for_the_same_seed_and_record_only(self):
        def draw(seed, item):
            return list(Population(seed, 1000).draw("user", {"itemId": item}, 10))

        assert draw(1, "105") == draw(1, "105")
        assert draw(1, "105") != draw(2, "105")
        assert draw(1, "105") != draw(1, "106")

    def test_users_of_a_seed_never_change_between_releases(self):
        # Whoever compares output with a file of theirs relies on it.
        drawn = list(Population(0, 1000).draw("user", {"itemId": "105"}, 5))
        assert drawn == ["user-1620", "user-1227", "user-1915", "user-1876", "user-1506"]


def test_the_recipes_divide_between_the_kinds():
    segment = {name for name, recipe in RECIPES.items() if recipe.kind is BatchJobKind.SEGMENT}
    assert segment == {"aws-item-affinity", "aws-item-attribute-affinity"}
