"""What a Create request is made of: judged in words, taken by AWS, and compared with jobs that exist."""

from __future__ import annotations

import itertools
import string

import boto3
import pytest
from botocore.exceptions import ParamValidationError
from hypothesis import given
from hypothesis import strategies as st
from lines import KNOWS_RANKING_INFLUENCE as KNOWN

from airflow_provider_personalize_segments.creating.differences import find_differences
from airflow_provider_personalize_segments.creating.extra_members import THEME_REGIONS
from airflow_provider_personalize_segments.creating.requests import (
    MAX_PATH_LENGTH,
    MAX_SEGMENT_USERS,
    build_request,
    find_path_warnings,
    read_job_name,
)
from airflow_provider_personalize_segments.jobs import BATCH_JOB_KINDS
from airflow_provider_personalize_segments.plain_json import make_json_safe
from airflow_provider_personalize_segments.testing import LocalPersonalize

SEGMENT, INFERENCE = BATCH_JOB_KINDS
ACCOUNT = "123456789012"
VERSION_ARN = f"arn:aws:personalize:us-east-1:{ACCOUNT}:solution/shop/1a2b3c4d"
ROLE_ARN = f"arn:aws:iam::{ACCOUNT}:role/PersonalizeS3Access"
FILTER_ARN = f"arn:aws:personalize:us-east-1:{ACCOUNT}:filter/in-stock"
KEY_ARN = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
OTHER_KEY_ARN = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/mrk-1234abcd12ab34cd56ef1234567890ab"
THEMES = {"fieldsForThemeGeneration": {"itemName": "TITLE"}}
REQUIRED = {
    "solution_version_arn": VERSION_ARN,
    "role_arn": ROLE_ARN,
    "input_path": "s3://shop/in/items.json",
    "output_path": "s3://shop/out/",
}
NAMES = {  # what the operator calls them
    "config": "batch_inference_job_config",
    "mode": "batch_inference_job_mode",
    "themes": "theme_generation_config",
}
UNFIT = "holds a character or a number that JSON, UTF-8 or Airflow's database does not carry"
TEMPLATE = (
    " A template always renders to text: set render_template_as_native_obj=True on the DAG, or write the "
    "dict here and templates into its values."
)
EXPECTED_PATH = "Expected s3://<bucket>/<folder>/, or an object's path."
EXPECTED_ROLE = (
    "Expected arn:aws:iam::<account>:role/<name>, the role that Personalize reads and writes S3 with."
)
EXPECTED_KEY = "arn:aws:kms:<region>:<account>:key/<key ID>."
EXPLORATION = "is not a dict such as {'itemExplorationConfig': {'explorationWeight': '0.3'}}"
EXPECTED_THEMES = "such as {'fieldsForThemeGeneration': {'itemName': 'TITLE'}}"


def source_of(parameter):
    return f"{parameter} of task 't'"


def known(config):
    """Return a job's configuration, without what the installed boto3 does not know."""
    return {name: value for name, value in config.items() if KNOWN or name != "rankingInfluence"}


def shown(value):
    return f"{value!r:.60}"


def build(kind=SEGMENT, **changes):
    return build_request(kind, source_of, **REQUIRED | changes)


def refusal(kind=SEGMENT, **changes):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are compared by the caller
        build(kind, **changes)
    return str(caught.value)


@pytest.fixture(params=BATCH_JOB_KINDS, ids=lambda kind: kind.name)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def local():
    with LocalPersonalize() as local:
        yield local


@pytest.fixture(scope="module")
def client(local):
    session = boto3.session.Session("testing", "testing", region_name="us-east-1")
    client = session.client("personalize", endpoint_url=local.endpoint_url)
    yield client
    client.close()


@pytest.fixture(scope="module")
def versions(local):
    return {
        SEGMENT: local.add_solution_version("segments"),
        INFERENCE: local.add_solution_version("items", "aws-similar-items"),
    }


@pytest.fixture(scope="module")
def create(client):
    """Create a job by boto3, under a name of its own, and return it as Describe gives it."""
    numbers = itertools.count()

    def create(kind, request):
        made = getattr(client, kind.create_method)(jobName=f"job-{next(numbers)}", **request)
        described = getattr(client, kind.describe_method)(**{kind.arn_member: made[kind.arn_member]})
        return make_json_safe(described[kind.job_member])

    return create


class TestRequest:
    def test_of_what_is_required_has_nothing_else(self, kind):
        assert build(kind) == {
            "solutionVersionArn": VERSION_ARN,
            "jobInput": {"s3DataSource": {"path": "s3://shop/in/items.json"}},
            "jobOutput": {"s3DataDestination": {"path": "s3://shop/out/"}},
            "roleArn": ROLE_ARN,
        }

    def test_has_every_member_that_is_given(self):
        request = build(
            INFERENCE,
            filter_arn=FILTER_ARN,
            num_results=" 50 ",
            input_kms_key_arn=KEY_ARN,
            output_kms_key_arn=OTHER_KEY_ARN,
            tags={"team": "growth", "empty": ""},
            config={"itemExplorationConfig": {"explorationWeight": "0.5"}},
            mode="THEME_GENERATION",
            themes=THEMES,
        )
        assert request == {
            "solutionVersionArn": VERSION_ARN,
            "jobInput": {"s3DataSource": {"path": "s3://shop/in/items.json", "kmsKeyArn": KEY_ARN}},
            "jobOutput": {"s3DataDestination": {"path": "s3://shop/out/", "kmsKeyArn": OTHER_KEY_ARN}},
            "roleArn": ROLE_ARN,
            "filterArn": FILTER_ARN,
            "numResults": 50,
            "tags": [{"tagKey": "team", "tagValue": "growth"}, {"tagKey": "empty", "tagValue": ""}],
            "batchInferenceJobConfig": {"itemExplorationConfig": {"explorationWeight": "0.5"}},
            "batchInferenceJobMode": "THEME_GENERATION",
            "themeGenerationConfig": THEMES,
        }

    @pytest.mark.parametrize("nothing", [None, ""])
    def test_has_nothing_of_what_a_template_left_empty(self, nothing):
        texts = ("filter_arn", "num_results", "input_kms_key_arn", "output_kms_key_arn", "mode")
        dicts = ("tags", "config", "themes")
        assert build(INFERENCE, **dict.fromkeys((*texts, *dicts), nothing)) == build(INFERENCE)
        assert build(INFERENCE, **{name: {} for name in dicts}) == build(INFERENCE)

    @pytest.mark.parametrize(
        "changes",
        [
            {"input_path": "s3://shop"},
            {"input_path": "s3://a.b-c_D/"},
            {"input_path": "s3://shop/in put/日本.json"},
            {"input_path": "s3://shop/" + "i" * (MAX_PATH_LENGTH - len("s3://shop/"))},
            {"input_path": "s3://shop/out/in/"},
            {"input_path": "s3://shop/out/items.json"},
            {"output_path": "s3://elsewhere/in/items.json"},
            {"output_path": "s3://shop/in/"},
            {"role_arn": f"arn:aws:iam::{ACCOUNT}:role/service-role/Some+Role=,.@-_"},
            {"role_arn": f"arn:aws-cn:iam::{ACCOUNT}:role/x"},
            {"num_results": 1},
            {"num_results": MAX_SEGMENT_USERS},
            {"num_results": "100"},
            {"tags": {f"key-{i}": "v" * 256 for i in range(50)}},
            {"tags": {"k" * 128: "Größe 1_2.:/=+-@"}},
        ],
        ids=shown,
    )
    def test_is_built_and_taken(self, changes, versions, create):
        changes |= {"solution_version_arn": versions[SEGMENT]}
        if "input_path" in changes and changes["input_path"].count("/") < 3:
            changes["output_path"] = "s3://elsewhere/"
        assert create(SEGMENT, build(SEGMENT, **changes))["status"]

    @pytest.mark.parametrize(
        "changes",
        [
            {"num_results": MAX_SEGMENT_USERS + 1},
            {"config": {"itemExplorationConfig": {"explorationWeight": "0.0"}}},
            {"config": {"itemExplorationConfig": {}}},
            {"config": known({"rankingInfluence": {"POPULARITY": 0, "FRESHNESS": 1.0}})},
            {"mode": "BATCH_INFERENCE"},
            {"mode": "THEME_GENERATION", "themes": THEMES},
            {"mode": "THEME_GENERATION", "themes": {"fieldsForThemeGeneration": {"itemName": "_" * 150}}},
        ],
        ids=shown,
    )
    def test_for_inference_is_built_and_taken(self, changes, versions, create):
        changes |= {"solution_version_arn": versions[INFERENCE]}
        assert create(INFERENCE, build(INFERENCE, **changes))["status"]

    @pytest.mark.parametrize("region", THEME_REGIONS)
    def test_may_be_for_themes_in_the_regions_that_have_them(self, region):
        version_arn = VERSION_ARN.replace("us-east-1", region)
        request = build(INFERENCE, solution_version_arn=version_arn, mode="THEME_GENERATION", themes=THEMES)
        assert request["themeGenerationConfig"] == THEMES


class TestRefusal:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("input_path", "s3://shop/cut \ud83d off"),
            ("input_path", "s3://shop/cut \ud83d off/"),
            ("output_path", "s3://shop/cut \ud83d off/"),
            ("config", {"\0": ""}),
            ("config", {"itemExplorationConfig": {"explorationWeight": "\ud83d"}}),
        ],
    )
    def test_of_what_airflows_database_does_not_carry(self, name, value):
        message = refusal(INFERENCE, **{name: value})
        assert message.startswith(f"{NAMES.get(name, name)} of task 't' {UNFIT}. Remove it. Got ")
        message.encode()

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (None, f" is empty. {EXPECTED_PATH}"),
            ("", f" is empty. {EXPECTED_PATH}"),
            *(
                (value, f" is not an S3 path. {EXPECTED_PATH} Got {value!r}.")
                for value in (
                    "shop/in/",
                    "https://shop.s3.amazonaws.com/in",
                    "s3:/shop/in/",
                    "S3://shop/in/",
                    "s3:///in/",
                    "s3://",
                    "s3://ab/in/",
                    "s3://-shop/in/",
                    "s3://sh op/in/",
                    "s3://bücher/in/",
                    "s3://" + "b" * 64,
                )
            ),
            (" s3://shop/in/", " begins or ends with white space; remove it: ' s3://shop/in/'"),
            ("s3://shop/in/\n", r" begins or ends with white space; remove it: 's3://shop/in/\n'"),
            (["s3://shop/in/"], " is not text, but of type list: ['s3://shop/in/']"),
            (
                "s3://shop/" + "i" * 247,
                f" has 257 characters; Personalize takes at most 256: 's3://shop/{'i' * 247}'",
            ),
        ],
    )
    @pytest.mark.parametrize("parameter", ["input_path", "output_path"])
    def test_of_a_path(self, parameter, value, words):
        assert refusal(**{parameter: value}) == f"{parameter} of task 't'{words}"

    @pytest.mark.parametrize("parameter", ["input_path", "output_path"])
    def test_of_a_path_over_two_lines(self, parameter):
        with pytest.raises(
            ValueError, match=f"^{parameter} of task 't' has a control character in it; remove it: "
        ):
            build(**{parameter: "s3://shop/a\nb/"})

    @pytest.mark.parametrize(
        ("input_path", "output_path"),
        [
            ("s3://shop/in/", "s3://shop/in/"),
            ("s3://shop/in/", "s3://shop/in"),
            ("s3://shop/in/", "s3://shop/in/out/"),
            ("s3://shop/in", "s3://shop/in/"),
            ("s3://shop/in/items.json", "s3://shop/in/items.json/"),
            ("s3://shop/", "s3://shop/out/"),
            ("s3://shop", "s3://shop/out/"),
            ("s3://shop", "s3://shop"),
        ],
    )
    def test_of_output_that_would_be_input_the_next_time(self, input_path, output_path):
        assert refusal(input_path=input_path, output_path=output_path) == (
            "output_path of task 't' is equal to or under the input path. The output would be read as input "
            "the "
            f"next time: keep it apart from {input_path!r}. Got {output_path!r}."
        )

    @pytest.mark.parametrize(
        ("input_path", "output_path"),
        [("s3://shop", "s3://shop-output/segments/"), ("s3://shop/2026", "s3://shop/2026-output/")],
    )
    def test_not_of_output_that_only_begins_like_the_input(self, input_path, output_path):
        request = build(input_path=input_path, output_path=output_path)
        assert request["jobOutput"]["s3DataDestination"]["path"] == output_path

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (None, " is empty. "),
            ("", " is empty. "),
            *(
                (value, f" is not the ARN of an IAM role. {EXPECTED_ROLE} Got ")
                for value in (
                    "PersonalizeS3Access",
                    ROLE_ARN + " ",
                    ROLE_ARN.replace("role", "user"),
                    ROLE_ARN.replace(ACCOUNT, "1234"),
                    ROLE_ARN + "é",
                    ROLE_ARN + "x" * 256,
                )
            ),
            (7, " is not text, but of type int: 7"),
        ],
    )
    def test_of_a_role(self, value, words):
        message = refusal(role_arn=value)
        assert message.startswith(f"role_arn of task 't'{words}")
        assert repr(value)[:200] in message or not value

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            *(
                (
                    value,
                    "is an alias; Personalize takes only the ARN of the key itself. "
                    f"Expected {EXPECTED_KEY} Got {value!r}.",
                )
                for value in ("alias/shop", f"arn:aws:kms:us-east-1:{ACCOUNT}:alias/shop")
            ),
            *(
                (value, f"is not the ARN of a KMS key. Expected {EXPECTED_KEY} Got {value!r}.")
                for value in (
                    KEY_ARN.rpartition("/")[2],
                    KEY_ARN + "\n",
                    KEY_ARN.replace("kms", "iam"),
                )
            ),
            ({}, "is not text, but of type dict: {}"),
        ],
    )
    @pytest.mark.parametrize("parameter", ["input_kms_key_arn", "output_kms_key_arn"])
    def test_of_a_key(self, parameter, value, words):
        assert refusal(**{parameter: value}) == f"{parameter} of task 't' {words}"

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (VERSION_ARN, f" is the ARN of a solution version, not of a filter: {VERSION_ARN!r}"),
            ("in-stock", " is not an Amazon Personalize ARN. Expected "),
            (
                FILTER_ARN.replace("us-east-1", "eu-west-1"),
                " is in the region 'eu-west-1', the solution version in 'us-east-1': "
                f"{FILTER_ARN.replace('us-east-1', 'eu-west-1')!r}",
            ),
            ([FILTER_ARN], f" is not text, but of type list: [{FILTER_ARN!r}]"),
        ],
    )
    def test_of_a_filter(self, value, words):
        assert refusal(filter_arn=value).startswith(f"filter_arn of task 't'{words}")

    def test_of_a_solution_version(self):
        assert refusal(solution_version_arn="shop").startswith(
            "solution_version_arn of task 't' is not an Amazon Personalize ARN. Expected "
        )
        assert refusal(solution_version_arn=None).startswith("solution_version_arn of task 't' is empty. ")

    @pytest.mark.parametrize("value", [0, -5, "many", True, 2.5, "2.5", [25]])
    def test_of_a_number_of_results(self, value, kind):
        assert refusal(kind, num_results=value) == (
            f"num_results of task 't' is not a count. Expected a whole number of 1 or more. Got {value!r}."
        )

    def test_of_more_users_than_a_segment_has(self):
        assert refusal(num_results="5000001") == (
            "num_results of task 't' is too many; a segment has at most 5000000 users: 5000001"
        )

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            ("team=growth", f"is not a dict such as {{'team': 'growth'}}.{TEMPLATE} Got 'team=growth'."),
            (
                [{"tagKey": "team", "tagValue": "growth"}],
                "is not a dict such as {'team': 'growth'}: [{'tagKey': 'team', 'tagValue': 'growth'}]",
            ),
            ({str(i): "" for i in range(51)}, "has 51 tags; a job has at most 50."),
            ({"cost": 7}, "has a key of type str, whose value is of type int; both must be text: 'cost'"),
            ({7: "cost"}, "has a key of type int, whose value is of type str; both must be text: 7"),
            (
                {"cost": None},
                "has a key of type str, whose value is of type NoneType; both must be text: 'cost'",
            ),
            *(
                (
                    {key: value},
                    "has a key or a value that is too long or empty. A key has 1 to 128 characters, a value "
                    "at "
                    f"most 256. Got {key!r}.",
                )
                for key, value in (("", "growth"), ("k" * 129, ""), ("team", "v" * 257))
            ),
            *(
                (
                    {key: value},
                    "has a key or a value with characters that tags cannot have. Expected letters, digits, "
                    f"spaces and _.:/=+-@. Got {key!r}.",
                )
                for key, value in (("team", "growth!"), ("team?", "growth"))
            ),
            *(
                ({key: "growth"}, f"has a key that begins with 'aws:', which AWS keeps for itself: {key!r}")
                for key in ("aws:team", "AWS:team")
            ),
        ],
        ids=shown,
    )
    def test_of_tags(self, value, words):
        assert refusal(tags=value) == f"tags of task 't' {words}"

    @pytest.mark.parametrize("character", ["\n", "\t", "\x1f"])
    def test_of_control_characters_in_a_tag(self, character):
        assert "with characters that tags cannot have" in refusal(tags={"team": f"growth{character}hacking"})

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            ("0.3", f" {EXPLORATION}.{TEMPLATE} Got '0.3'."),
            (["x"], f" {EXPLORATION}: ['x']"),
            (
                {"itemExplorationConfig": {"explorationWeight": 0.3}},
                "explorationWeight of itemExplorationConfig in  is not text. Expected text, such as '0.3'. "
                "Got "
                "0.3.",
            ),
            (
                {"itemExplorationConfig": "0.3"},
                f"itemExplorationConfig in  is not a dict of text by text.{TEMPLATE} Got '0.3'.",
            ),
            (
                {"rankingInfluence": [0.3]},
                "rankingInfluence in  is not a dict such as {'POPULARITY': 0.5}: [0.3]",
            ),
            (
                {"rankingInfluence": {"PRICE": 0.3}},
                "rankingInfluence in  has a key that is neither POPULARITY nor FRESHNESS: 'PRICE'",
            ),
            *(
                (
                    {"rankingInfluence": {"POPULARITY": weight}},
                    f"POPULARITY of rankingInfluence in  is not a number from 0.0 to 1.0: {weight!r}",
                )
                for weight in ("half", "1.1", "nan", "", 1.1, -0.1, True, None, float("nan"))
            ),
        ],
        ids=shown,
    )
    def test_of_a_configuration(self, value, words):
        message = refusal(INFERENCE, config=value)
        assert message.replace("batch_inference_job_config of task 't'", "", 1) == words

    def test_not_of_an_influence_in_the_text_that_a_template_leaves(self):
        request = build(INFERENCE, config={"rankingInfluence": {"POPULARITY": "0.5", "FRESHNESS": 1}})
        assert request["batchInferenceJobConfig"] == {"rankingInfluence": {"POPULARITY": 0.5, "FRESHNESS": 1}}

    @pytest.mark.parametrize("value", ["THEMES", "theme_generation", 1, ["THEME_GENERATION"]])
    def test_of_a_mode(self, value):
        assert refusal(INFERENCE, mode=value) == (
            f"batch_inference_job_mode of task 't' is not 'BATCH_INFERENCE' or 'THEME_GENERATION': {value!r}"
        )

    def test_of_themes_without_their_mode(self):
        for mode in (None, "BATCH_INFERENCE"):
            assert refusal(INFERENCE, mode=mode, themes=THEMES) == (
                "theme_generation_config of task 't' only counts with "
                "batch_inference_job_mode='THEME_GENERATION'; set both or none."
            )

    def test_of_the_mode_without_themes(self):
        assert refusal(INFERENCE, mode="THEME_GENERATION") == (
            "batch_inference_job_mode of task 't' is THEME_GENERATION, which needs theme_generation_config="
            "{'fieldsForThemeGeneration': {'itemName': '<column of the items dataset>'}}."
        )

    def test_of_themes_in_a_region_without(self):
        version_arn = VERSION_ARN.replace("us-east-1", "eu-west-1")
        assert refusal(
            INFERENCE, solution_version_arn=version_arn, mode="THEME_GENERATION", themes=THEMES
        ) == (
            "batch_inference_job_mode of task 't' is THEME_GENERATION, which is only in us-east-1, "
            "us-west-2, "
            "ap-northeast-1, the solution version in eu-west-1."
        )

    @pytest.mark.parametrize("value", ["TITLE", ["TITLE"]])
    def test_of_themes_that_are_no_dict(self, value):
        assert refusal(INFERENCE, mode="THEME_GENERATION", themes=value) == (
            f"theme_generation_config of task 't' is not a dict {EXPECTED_THEMES}"
            f"{f'.{TEMPLATE} Got {value!r}.' if isinstance(value, str) else f': {value!r}'}"
        )

    @pytest.mark.parametrize(
        "value",
        [
            {"itemName": "TITLE"},
            {"fieldsForThemeGeneration": "TITLE"},
            {"fieldsForThemeGeneration": {"itemName": ""}},
            {"fieldsForThemeGeneration": {"itemName": 1}},
            {"fieldsForThemeGeneration": {"itemName": "1ST"}},
            {"fieldsForThemeGeneration": {"itemName": "TITEL_Ü"}},
            {"fieldsForThemeGeneration": {"itemName": "T" * 151}},
        ],
        ids=shown,
    )
    def test_of_themes_without_a_column(self, value):
        assert refusal(INFERENCE, mode="THEME_GENERATION", themes=value) == (
            f"theme_generation_config of task 't' does not name a column, {EXPECTED_THEMES}: {value!r:.200}"
        )


class TestJobName:
    @pytest.mark.parametrize("value", ["weekly", "2026-11-23_a", "w" * 63])
    def test_is_read(self, value):
        assert read_job_name(value, "job_name") == value

    @pytest.mark.parametrize("value", [None, ""])
    def test_none_means_that_one_is_derived(self, value):
        assert read_job_name(value, "job_name") is None

    @pytest.mark.parametrize(
        "value",
        ["_weekly", "-weekly", "week 47", "weekly\n", "2026-11-23T02:00", "a.b", "wöchentlich", "w" * 64],
    )
    def test_what_cannot_be_one_is_refused(self, value):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are compared below
            read_job_name(value, "job_name of task 't'")
        length = ", having 64 characters" if len(value) > 63 else ""
        assert str(caught.value) == (
            f"job_name of task 't' cannot be a job name{length}. Expected 1 to 63 letters, digits, '-' and "
            f"'_', the first a letter or digit. Got {value!r}."
        )

    def test_what_is_no_text_is_refused(self):
        with pytest.raises(ValueError, match="^job_name of task 't' is not text, but of type int: 47$"):
            read_job_name(47, "job_name of task 't'")


BEGINS_LIKE = (
    "The output begins like the input path {}, so the next job with this input would read it, too. Choose an "
    "output path that does not."
)


class TestPathWarnings:
    @pytest.mark.parametrize(
        ("input_path", "output_path", "warnings"),
        [
            ("s3://shop/in/", "s3://shop/out/", []),
            ("s3://shop/in/items.json", "s3://shop/out/", []),
            ("s3://shop/", "s3://elsewhere/", []),
            ("s3://shop", "s3://elsewhere", []),
            (
                "s3://shop/in",
                "s3://shop/out/",
                [
                    "The input path s3://shop/in is a prefix: besides s3://shop/in/, a job reads everything "
                    "else that begins so, such as s3://shop/in_old/. If it is a folder, write s3://shop/in/."
                ],
            ),
            (
                "s3://shop/in/",
                "s3://shop/out",
                [
                    "The output path s3://shop/out is a prefix: a job that reads items.json writes "
                    "s3://shop/outitems.json.out. If it is a folder, write s3://shop/out/."
                ],
            ),
            ("s3://shop/in/items.json", "s3://shop/in/", [BEGINS_LIKE.format("s3://shop/in/items.json")]),
            ("s3://shop/a.json", "s3://shop/", [BEGINS_LIKE.format("s3://shop/a.json")]),
            ("s3://shop/a.json", "s3://shop/a.json.out/", [BEGINS_LIKE.format("s3://shop/a.json")]),
            ("s3://shop/2026.11", "s3://shop/2026.11-out/", [BEGINS_LIKE.format("s3://shop/2026.11")]),
            ("s3://shop/in/a.json", "s3://elsewhere/in/", []),
        ],
    )
    def test_tell_of_what_is_rarely_meant(self, input_path, output_path, warnings):
        request = build(input_path=input_path, output_path=output_path)
        assert list(find_path_warnings(request)) == warnings

    def test_are_two_when_both_are(self):
        assert len(list(find_path_warnings(build(input_path="s3://a-b/in", output_path="s3://a-b/out")))) == 2


# --- Comparing ------------------------------------------------------------------------------------

FULL = REQUIRED | {
    "filter_arn": FILTER_ARN,
    "num_results": 50,
    "input_kms_key_arn": KEY_ARN,
    "output_kms_key_arn": KEY_ARN,
    "tags": {"team": "growth"},
}
FULL_INFERENCE = FULL | {
    "config": known(
        {
            "itemExplorationConfig": {"explorationWeight": "0.5", "explorationItemAgeCutOff": "20"},
            "rankingInfluence": {"POPULARITY": 0.5},
        }
    ),
    "mode": "THEME_GENERATION",
    "themes": THEMES,
}
EXPLORATION = "batchInferenceJobConfig.itemExplorationConfig.exploration"
OTHER_FILTER_ARN = FILTER_ARN + "-now"


def exploration(weight="0.5", age="20", influence=0.5):
    return known(
        {
            "itemExplorationConfig": {"explorationWeight": weight, "explorationItemAgeCutOff": age},
            "rankingInfluence": {"POPULARITY": influence},
        }
    )


class TestDifferences:
    @pytest.fixture
    def full(self, kind, versions):
        full = FULL if kind is SEGMENT else FULL_INFERENCE
        return full | {"solution_version_arn": versions[kind]}

    @pytest.mark.parametrize(
        ("changes", "differences"),
        [
            ({"role_arn": ROLE_ARN + "2"}, [f"roleArn is '{ROLE_ARN}' instead of '{ROLE_ARN}2'"]),
            (
                {"input_path": "s3://shop/in/"},
                ["jobInput.s3DataSource.path is 's3://shop/in/items.json' instead of 's3://shop/in/'"],
            ),
            (
                {"output_path": "s3://shop/out"},
                ["jobOutput.s3DataDestination.path is 's3://shop/out/' instead of 's3://shop/out'"],
            ),
            (
                {"input_kms_key_arn": OTHER_KEY_ARN},
                [f"jobInput.s3DataSource.kmsKeyArn is '{KEY_ARN}' instead of '{OTHER_KEY_ARN}'"],
            ),
            (
                {"output_kms_key_arn": OTHER_KEY_ARN},
                [f"jobOutput.s3DataDestination.kmsKeyArn is '{KEY_ARN}' instead of '{OTHER_KEY_ARN}'"],
            ),
            (
                {"input_kms_key_arn": None},
                [f"jobInput.s3DataSource.kmsKeyArn is '{KEY_ARN}' instead of none"],
            ),
            (
                {"output_kms_key_arn": ""},
                [f"jobOutput.s3DataDestination.kmsKeyArn is '{KEY_ARN}' instead of none"],
            ),
            (
                {"filter_arn": OTHER_FILTER_ARN},
                [f"filterArn is '{FILTER_ARN}' instead of '{OTHER_FILTER_ARN}'"],
            ),
            ({"filter_arn": None}, [f"filterArn is '{FILTER_ARN}' instead of none"]),
            ({"num_results": "49"}, ["numResults is 50 instead of 49"]),
            ({"num_results": None}, ["numResults is 50 instead of 25"]),
            ({"num_results": "50"}, []),
            ({"tags": {"team": "other"}}, []),
            ({"tags": None}, []),
            (
                {"num_results": 1, "role_arn": ROLE_ARN + "2", "filter_arn": OTHER_FILTER_ARN},
                [
                    f"filterArn is '{FILTER_ARN}' instead of '{OTHER_FILTER_ARN}'",
                    "numResults is 50 instead of 1",
                    f"roleArn is '{ROLE_ARN}' instead of '{ROLE_ARN}2'",
                ],
            ),
        ],
        ids=shown,
    )
    def test_are_what_was_changed_and_nothing_else(self, kind, full, create, changes, differences):
        job = create(kind, build(kind, **full))
        assert find_differences(kind, build(kind, **full | changes), job) == differences

    def test_have_the_solution_version_too(self, local, kind, full, create):
        recipe = "aws-item-affinity" if kind is SEGMENT else "aws-similar-items"
        other = local.add_solution_version("other", recipe)
        job = create(kind, build(kind, **full))
        assert find_differences(kind, build(kind, **full | {"solution_version_arn": other}), job) == [
            f"solutionVersionArn is '{full['solution_version_arn']}' instead of '{other}'"
        ]

    @pytest.mark.parametrize(
        ("changes", "differences"),
        [
            ({"config": exploration(weight="0.4")}, [f"{EXPLORATION}Weight is '0.5' instead of '0.4'"]),
            ({"config": exploration(weight="0.50")}, []),
            ({"config": exploration(weight=".5")}, []),
            ({"config": exploration(age="21")}, [f"{EXPLORATION}ItemAgeCutOff is '20' instead of '21'"]),
            ({"config": exploration(age="20.0")}, []),
            (
                {"config": exploration(influence=0.25)},
                ["batchInferenceJobConfig.rankingInfluence.POPULARITY is 0.5 instead of 0.25"] * KNOWN,
            ),
            (
                {"config": {"itemExplorationConfig": exploration()["itemExplorationConfig"]}},
                ["batchInferenceJobConfig.rankingInfluence.POPULARITY is 0.5 instead of 0.0"] * KNOWN,
            ),
            (
                {"config": known({"rankingInfluence": {"POPULARITY": 0.5}})},
                [
                    f"{EXPLORATION}ItemAgeCutOff is '20' instead of '30'",
                    f"{EXPLORATION}Weight is '0.5' instead of '0.3'",
                ],
            ),
            (
                {"themes": {"fieldsForThemeGeneration": {"itemName": "NAME"}}},
                ["themeGenerationConfig.fieldsForThemeGeneration.itemName is 'TITLE' instead of 'NAME'"],
            ),
            (
                {"mode": None, "themes": None},
                [
                    "batchInferenceJobMode is 'THEME_GENERATION' instead of 'BATCH_INFERENCE'",
                    "themeGenerationConfig.fieldsForThemeGeneration.itemName is 'TITLE' instead of none",
                ],
            ),
        ],
        ids=shown,
    )
    def test_of_inference_are_what_was_changed_and_nothing_else(self, versions, create, changes, differences):
        full = FULL_INFERENCE | {"solution_version_arn": versions[INFERENCE]}
        job = create(INFERENCE, build(INFERENCE, **full))
        assert find_differences(INFERENCE, build(INFERENCE, **full | changes), job) == differences

    def test_name_what_the_job_lacks(self, kind, full, versions, create):
        job = create(kind, build(kind, solution_version_arn=versions[kind]))
        differences = find_differences(kind, build(kind, **full), job)
        assert f"filterArn is none instead of '{FILTER_ARN}'" in differences
        assert "numResults is 25 instead of 50" in differences

    @pytest.mark.parametrize(
        "explicit",
        [
            {"num_results": 25},
            {"mode": "BATCH_INFERENCE"},
            {"config": {"itemExplorationConfig": {"explorationWeight": "0.3"}}},
            {"config": {"itemExplorationConfig": {"explorationWeight": "0.30"}}},
            {"config": {"itemExplorationConfig": {"explorationItemAgeCutOff": "30"}}},
            {"config": {"itemExplorationConfig": {}}},
            {"config": {"rankingInfluence": {"POPULARITY": 0}}},
            {"config": {"rankingInfluence": {"FRESHNESS": 0.0, "POPULARITY": 0.0}}},
        ],
        ids=shown,
    )
    def test_are_none_between_a_default_and_nothing(self, explicit):
        without, with_it = build(INFERENCE), build(INFERENCE, **explicit)
        for one, other in itertools.product((without, with_it), repeat=2):
            assert find_differences(INFERENCE, one, other) == []

    def test_are_none_in_what_only_describe_has(self, kind):
        job = build(kind) | {"status": "ACTIVE", "creationDateTime": "2026-11-23", "failureReason": None}
        assert find_differences(kind, build(kind), job | {"filterArn": None, "numResults": None}) == []
        assert find_differences(kind, build(kind), job | {"filterArn": ""}) == []


# --- For every parameter --------------------------------------------------------------------------

buckets = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,61}[a-zA-Z0-9]", fullmatch=True)
keys = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=100).map(str.rstrip)
hex_digits = st.text(string.hexdigits, min_size=1, max_size=36)
kms_keys = st.builds(
    "arn:{}:kms:{}:{}:key/{}".format,
    st.sampled_from(["aws", "aws-cn"]),
    st.sampled_from(["us-east-1", "cn-north-1"]),
    st.text(string.digits, min_size=12, max_size=12),
    hex_digits,
)
storable = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
"""What Airflow's database takes; ``TestRefusal`` has the rest."""
tag_text = st.text(st.sampled_from("aZ09 _.:/=+-@äß日٣ⅷ\u00a0\u2003"), max_size=60)
weights = st.floats(min_value=0, max_value=1)
given_values = {
    "solution_version_arn": st.just(VERSION_ARN),
    "role_arn": st.from_regex(r"arn:aws:iam::[0-9]{12}:role/[a-zA-Z0-9+=,.@/_-]{1,64}", fullmatch=True),
    "input_path": st.one_of(st.builds("s3://{}/in/{}".format, buckets, keys), buckets.map("s3://{}/".format)),
    "output_path": st.builds("s3://elsewhere/out/{}".format, keys),
    "filter_arn": st.one_of(st.none(), hex_digits.map(lambda name: FILTER_ARN + name)),
    "num_results": st.one_of(
        st.none(), st.integers(1, MAX_SEGMENT_USERS), st.integers(1, MAX_SEGMENT_USERS).map(str)
    ),
    "input_kms_key_arn": st.one_of(st.none(), kms_keys),
    "output_kms_key_arn": st.one_of(st.none(), kms_keys),
    "tags": st.one_of(st.none(), st.dictionaries(tag_text.filter(len), tag_text, max_size=50)),
}
only_inference = {
    "config": st.one_of(
        st.none(),
        st.fixed_dictionaries(
            {},
            optional={
                "itemExplorationConfig": st.dictionaries(
                    st.sampled_from(["explorationWeight", "explorationItemAgeCutOff", "more"]),
                    st.one_of(weights.map(str), st.text(storable, max_size=5)),
                ),
                "rankingInfluence": st.dictionaries(st.sampled_from(["POPULARITY", "FRESHNESS"]), weights),
            },
        ).map(known),
    ),
}
themes = st.fixed_dictionaries(
    {
        "mode": st.just("THEME_GENERATION"),
        "themes": st.from_regex("[A-Za-z_][A-Za-z0-9_]{0,149}", fullmatch=True).map(
            lambda column: {"fieldsForThemeGeneration": {"itemName": column}}
        ),
    }
)
no_themes = st.fixed_dictionaries({"mode": st.sampled_from([None, "BATCH_INFERENCE"]), "themes": st.none()})
anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=50),
    st.lists(st.text(max_size=5), max_size=3),
    st.dictionaries(st.text(max_size=5), st.one_of(st.text(max_size=5), st.integers()), max_size=3),
)


@st.composite
def cases(draw, kind=None):
    kind = kind or draw(st.sampled_from(BATCH_JOB_KINDS))
    parameters = draw(st.fixed_dictionaries(given_values))
    if kind is INFERENCE:
        parameters |= draw(st.fixed_dictionaries(only_inference)) | draw(st.one_of(themes, no_themes))
    return kind, parameters


class TestEveryRequest:
    @given(cases())
    def test_is_taken_by_aws_and_never_differs_from_the_job_it_makes(self, versions, create, case):
        kind, parameters = case
        request = build(kind, **parameters | {"solution_version_arn": versions[kind]})
        assert find_differences(kind, request, create(kind, request)) == []

    @given(cases(), st.data())
    def test_is_taken_by_aws_or_refused_by_the_parameters_name(self, versions, create, case, data):
        kind, parameters = case
        name = data.draw(st.sampled_from(sorted(parameters)))
        parameters |= {"solution_version_arn": versions[kind], name: data.draw(anything)}
        try:
            assert create(kind, build(kind, **parameters))["status"]
            return
        except ParamValidationError:
            assert name in ("config", "themes")  # botocore names the members that it does not know there
            return
        except ValueError as error:
            message = str(error)
        names = {name, *(("mode", "themes") if name in ("mode", "themes") else ())}
        assert message.startswith(tuple(f"{NAMES.get(each, each)} of task 't'" for each in names))
        assert len(message) < 1000

    @given(st.data(), st.sampled_from(BATCH_JOB_KINDS))
    def test_differs_from_another_where_the_other_differs_from_it(self, data, kind):
        one, other = (build(kind, **data.draw(cases(kind))[1]) for _ in range(2))
        here, there = find_differences(kind, one, other), find_differences(kind, other, one)
        assert [each.partition(" is ")[0] for each in here] == [each.partition(" is ")[0] for each in there]
        assert find_differences(kind, one, one) == []
