from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest
from botocore.exceptions import ClientError
from lines import KNOWS_RANKING_INFLUENCE

from airflow_provider_personalize_segments.jobs import BATCH_JOB_KINDS, BatchJobKind

KEY = "arn:aws:kms:us-east-1:123456789012:key/1234"
ALIAS = "arn:aws:kms:us-east-1:123456789012:alias/mine"
FILTER = "arn:aws:personalize:us-east-1:123456789012:filter/comedy"
TOO_SHORT = "Member must have length greater than or equal to 1"
TOO_LONG = "Member must have length less than or equal to"
RANKING_CONDITIONS = (
    ({"batchInferenceJobConfig": {"rankingInfluence": {"POPULARITY": 1.5}}}, "rankingInfluence.POPULARITY"),
    ({"batchInferenceJobConfig": {"rankingInfluence": {"LUCK": 0.5}}}, "POPULARITY, FRESHNESS"),
)


def make_create(stage, kind, recipe, make_request):
    """Return a function that prepares a Create with members of the request changed, and its client."""

    def create(**members):
        control = stage.control or stage.open(progress="by_hand")
        arn = control.add_solution_version(recipe=recipe)
        # boto3 checks minima itself; here they are to reach the service.
        client = stage.client(parameter_validation=False)
        request = {"solution_version_arn": arn, **members}
        return client, lambda: getattr(client, kind.create_method)(**make_request(**request))

    return create


@pytest.fixture
def create(stage, kind, recipe, make_request):
    return make_create(stage, kind, recipe, make_request)


@pytest.fixture
def create_inside(inside, kind, recipe, make_request):
    return make_create(inside, kind, recipe, make_request)


def refused(create, error, words, **members):
    client, call = create(**members)
    with pytest.raises(getattr(client.exceptions, error)) as caught:
        call()
    assert caught.value.response["Error"]["Code"] == error
    assert words in caught.value.response["Error"]["Message"]


class TestCreateJudges:
    @pytest.mark.parametrize(
        ("members", "words"),
        [
            (
                {"jobName": "x" * 64},
                f"'jobName' failed to satisfy constraint: {TOO_LONG} 63",
            ),
            (
                {"jobName": ""},
                f"'jobName' failed to satisfy constraint: {TOO_SHORT}",
            ),
            ({"jobName": "-nightly"}, "regular expression pattern"),
            ({"jobName": "nightly run"}, "regular expression pattern"),
            ({"jobName": "nächtlich"}, "regular expression pattern"),
            ({"jobName": "nightly\n"}, "regular expression pattern"),
            ({"filterArn": "filter/comedy"}, "'filterArn'"),
            (
                {"filterArn": "arn:aws:personalize:us-east-1:1:filter/" + "x" * 256},
                f"{TOO_LONG} 256",
            ),
            ({"roleArn": "personalize"}, "'roleArn'"),
            ({"roleArn": "arn:aws:iam::12345:role/x"}, "'roleArn'"),
            ({"jobInput": {"s3DataSource": {"path": "bucket/key"}}}, "'jobInput.s3DataSource.path'"),
            ({"jobInput": {"s3DataSource": {"path": "s3://b/" + "x" * 250}}}, f"{TOO_LONG} 256"),
            (
                {"jobOutput": {"s3DataDestination": {"path": "s3://b/o/", "kmsKeyArn": ALIAS}}},
                "'jobOutput.s3DataDestination.kmsKeyArn'",
            ),
            ({"numResults": 0}, "numResults is 0; it must be at least 1"),
            ({"numResults": -3}, "numResults is -3; it must be at least 1"),
            ({"tags": [{"tagKey": "", "tagValue": "x"}]}, "'tags.1.member.tagKey'"),
            ({"tags": [{"tagKey": "a!", "tagValue": "x"}]}, "'tags.1.member.tagKey'"),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_members(self, create_inside, members, words):
        refused(create_inside, "InvalidInputException", words, **members)

    def test_accepted_limits(self, create):
        tags = [{"tagKey": f"Größe {number}", "tagValue": "größer: als/alles=+-@ _"} for number in range(50)]
        for name in ("x" * 63, "0", "A-_9"):
            _, call = create(
                jobName=name,
                tags=tags,
                numResults=5_000_000,
                filterArn=FILTER,
                jobInput={"s3DataSource": {"path": "s3://b/" + "x" * 249, "kmsKeyArn": KEY}},
                roleArn="arn:aws:iam::123456789012:role/service-role/personalize",
            )
            call()

    def test_unknown_solution_version(self, create):
        arn = "arn:aws:personalize:us-east-1:123456789012:solution/demo/00000000"
        refused(create, "ResourceNotFoundException", f"{arn} does not exist", solution_version_arn=arn)

    def test_solution_version_of_another_region(self, create, stage, recipe):
        control = stage.open()
        arn = control.add_solution_version(recipe=recipe, region_name="eu-west-1")
        refused(create, "ResourceNotFoundException", "does not exist", solution_version_arn=arn)

    def test_solution_version_in_training(self, create, stage, recipe):
        arn = stage.open().add_solution_version("new", recipe, status="CREATE IN_PROGRESS")
        refused(create, "ResourceInUseException", "CREATE IN_PROGRESS", solution_version_arn=arn)

    def test_recipe_of_the_other_kind(self, create, stage, kind):
        recipe = {"segment": "aws-sims", "inference": "aws-item-affinity"}[kind.name]
        arn = stage.open().add_solution_version("other", recipe)
        refused(create, "InvalidInputException", f"not supported by a {kind.title}", solution_version_arn=arn)

    def test_too_many_tags(self, create):
        tags = [{"tagKey": f"key-{number}", "tagValue": ""} for number in range(51)]
        refused(create, "TooManyTagsException", "51 tags", tags=tags)

    def test_taken_name(self, create):
        create()[1]()
        refused(create, "ResourceAlreadyExistsException", "/nightly already exists")

    def test_a_sixth_unfinished_job(self, create):
        for number in range(5):
            create(jobName=f"job-{number}")[1]()
        refused(create, "LimitExceededException", "PENDING or IN_PROGRESS", jobName="sixth")


class TestSegmentsAndThemes:
    @pytest.fixture
    def ask(self, inside, make_request):
        def ask(recipe="aws-similar-items", region_name="us-east-1", **members):
            control = inside.control or inside.open(progress="by_hand")
            arn = control.add_solution_version(recipe=recipe, region_name=region_name)
            client = inside.client(region_name=region_name)
            method = "create_batch_segment_job" if "affinity" in recipe else "create_batch_inference_job"
            return lambda **_: (client, lambda: getattr(client, method)(**make_request(arn, **members)))

        return ask

    THEMES = {  # noqa: RUF012
        "batchInferenceJobMode": "THEME_GENERATION",
        "themeGenerationConfig": {"fieldsForThemeGeneration": {"itemName": "TITLE"}},
    }

    def test_five_million_users_are_the_most(self, ask):
        refused(ask("aws-item-affinity", numResults=5_000_001), "InvalidInputException", "at most 5000000")
        ask("aws-user-personalization", numResults=5_000_001)()[1]()

    def test_themes_are_accepted_and_described(self, ask, inside):
        client, call = ask(**self.THEMES)()
        job = client.describe_batch_inference_job(**{k: v for k, v in call().items() if k.endswith("Arn")})
        assert {name: job["batchInferenceJob"][name] for name in self.THEMES} == self.THEMES

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"themeGenerationConfig": None}, "themeGenerationConfig is required"),
            ({"recipe": "aws-sims"}, "needs the recipe aws-similar-items"),
            ({"region_name": "eu-west-1"}, "only in ap-northeast-1, us-east-1, us-west-2"),
            ({"batchInferenceJobMode": "SOMETHING"}, "enum value set: [BATCH_INFERENCE, THEME_GENERATION]"),
            ({"themeGenerationConfig": {"fieldsForThemeGeneration": {"itemName": "9" * 151}}}, "itemName"),
            *(RANKING_CONDITIONS if KNOWS_RANKING_INFLUENCE else ()),
        ],
    )
    def test_conditions(self, ask, options, words):
        refused(ask(**{**self.THEMES, **options}), "InvalidInputException", words)

    def test_configuration_is_described_again(self, ask):
        config = {
            "itemExplorationConfig": {"explorationWeight": "0.3"},
            **({"rankingInfluence": {"FRESHNESS": 0.25}} if KNOWS_RANKING_INFLUENCE else {}),
        }
        client, call = ask("aws-user-personalization", batchInferenceJobConfig=config)()
        arn = call()["batchInferenceJobArn"]
        job = client.describe_batch_inference_job(batchInferenceJobArn=arn)["batchInferenceJob"]
        assert job["batchInferenceJobConfig"] == config


class TestDescribeAndListJudge:
    @pytest.fixture
    def client(self, stage):
        stage.open()
        return stage.client(parameter_validation=False)

    def test_an_unknown_job(self, client, kind):
        for arn in (
            f"arn:aws:personalize:us-east-1:123456789012:{kind.arn_resource}/never",
            f"arn:aws:personalize:eu-west-1:123456789012:{kind.arn_resource}/never",
        ):
            with pytest.raises(client.exceptions.ResourceNotFoundException, match=f"{arn} does not exist"):
                getattr(client, kind.describe_method)(**{kind.arn_member: arn})

    def test_a_job_of_the_other_kind(self, stage, client):
        arn = stage.control.add_job(
            BatchJobKind.SEGMENT, "nightly", solution_version_arn=stage.control.add_solution_version()
        )
        with pytest.raises(client.exceptions.ResourceNotFoundException):
            client.describe_batch_inference_job(batchInferenceJobArn=arn)

    @pytest.mark.parametrize(
        "arn", ["", "nightly", "arn:aws:s3:::bucket", "arn:aws:personalize:::" + "x" * 256]
    )
    def test_what_is_no_arn(self, client, kind, arn):
        with pytest.raises(client.exceptions.InvalidInputException, match=kind.arn_member):
            getattr(client, kind.describe_method)(**{kind.arn_member: arn})

    @pytest.mark.parametrize("size", [0, -1, 101])
    def test_page_sizes(self, client, kind, size):
        with pytest.raises(client.exceptions.InvalidInputException, match="maxResults"):
            getattr(client, kind.list_method)(maxResults=size)

    def test_list_does_not_know_a_missing_resource(self, client, kind):
        arn = "arn:aws:personalize:us-east-1:123456789012:solution/demo/00000000"
        with pytest.raises(client.exceptions.InvalidInputException, match="does not exist"):
            getattr(client, kind.list_method)(solutionVersionArn=arn)

    @pytest.mark.parametrize("token", ["nonsense", "AAAA", "?"])
    def test_tokens_that_were_not_given_out(self, client, kind, token):
        with pytest.raises(client.exceptions.InvalidNextTokenException, match="not valid"):
            getattr(client, kind.list_method)(nextToken=token)

    def test_tokens_are_ascii(self, client, kind):
        with pytest.raises(client.exceptions.InvalidInputException, match="nextToken"):
            getattr(client, kind.list_method)(nextToken="ü")


class TestWire:
    """What boto3 never sends or hides, spoken to the server directly."""

    @pytest.fixture
    def speak(self, served):
        control = served.open()

        def speak(operation, body, region_name="us-east-1"):
            request = urllib.request.Request(
                control.endpoint_url,
                body.encode(),
                {
                    "X-Amz-Target": f"AmazonPersonalize.{operation}",
                    "Content-Type": "application/x-amz-json-1.1",
                    "Authorization": f"AWS4-HMAC-SHA256 Credential=x/20250101/{region_name}/personalize/"
                    "aws4_request, SignedHeaders=host, Signature=x",
                },
            )
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return answer.status, json.loads(answer.read())
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, json.loads(error.read())

        return speak

    @pytest.mark.parametrize("body", ["{", "[]", '"x"', "null", '{"batchSegmentJobArn": 5}'])
    def test_not_what_the_operation_takes(self, speak, body):
        status, answer = speak("DescribeBatchSegmentJob", body)
        assert (status, answer["__type"]) == (400, "SerializationException")

    @pytest.mark.parametrize("kind", BATCH_JOB_KINDS, ids=lambda kind: kind.name)
    def test_missing_members(self, speak, kind):
        status, answer = speak(kind.describe_operation, "{}")
        assert (status, answer["__type"]) == (400, "InvalidInputException")
        assert f"Value null at '{kind.arn_member}'" in answer["message"]
        _, answer = speak(kind.create_operation, '{"jobName": "x", "numResults": true}')
        assert answer["__type"] in ("InvalidInputException", "SerializationException")

    def test_times_are_numbers_with_milliseconds(self, speak, served, clock):
        control = served.control
        control.add_job(BatchJobKind.SEGMENT, "a", solution_version_arn=control.add_solution_version())
        _, answer = speak("ListBatchSegmentJobs", "{}")
        assert answer["batchSegmentJobs"][0]["creationDateTime"] == clock.now == 1750000000.25

    def test_next_token_is_left_out_on_the_last_page(self, speak):
        assert speak("ListBatchSegmentJobs", "{}") == (200, {"batchSegmentJobs": []})

    def test_calls_are_recorded_as_sent(self, speak, served):
        speak("ListBatchSegmentJobs", '{"maxResults": 7}', "eu-west-1")
        [call] = served.control.calls
        assert (call.operation, call.parameters) == ("ListBatchSegmentJobs", {"maxResults": 7})
        assert (call.region_name, call.faults) == ("eu-west-1", ())


def test_operations_that_are_not_there(stage):
    stage.open()
    with pytest.raises(ClientError, match="ListCampaigns is not part of the local Personalize"):
        stage.client().list_campaigns()


class TestContract:
    """Every request and answer against botocore's service model; every client here checks them."""

    def test_everything_that_can_be_answered(self, stage, contract, make_request):
        control = stage.open(progress="by_call")
        stage.put_input('{"itemId": "1"}\n')
        for kind, recipe in zip(BATCH_JOB_KINDS, ["aws-item-affinity", "aws-similar-items"], strict=True):
            version = control.add_solution_version(recipe=recipe)
            client = stage.client()
            client.describe_solution_version(solutionVersionArn=version)
            arn = getattr(client, kind.create_method)(
                **make_request(version, tags=[{"tagKey": "a", "tagValue": ""}])
            )[kind.arn_member]
            control.add_job(
                kind, "failed", solution_version_arn=version, status="CREATE FAILED", failure_reason="why"
            )
            for _ in range(3):
                getattr(client, kind.describe_method)(**{kind.arn_member: arn})
                getattr(client, kind.list_method)(maxResults=1, solutionVersionArn=version)
            client.tag_resource(resourceArn=arn, tags=[{"tagKey": "b", "tagValue": "c"}])
            client.untag_resource(resourceArn=arn, tagKeys=["a"])
            assert client.list_tags_for_resource(resourceArn=arn)["tags"] == [
                {"tagKey": "b", "tagValue": "c"}
            ]
            with pytest.raises(client.exceptions.ResourceAlreadyExistsException):
                getattr(client, kind.create_method)(**make_request(version))
        operations = {kind.create_operation for kind in BATCH_JOB_KINDS}
        operations |= {kind.describe_operation for kind in BATCH_JOB_KINDS}
        operations |= {kind.list_operation for kind in BATCH_JOB_KINDS}
        operations |= {"DescribeSolutionVersion", "TagResource", "UntagResource", "ListTagsForResource"}
        assert set(contract.accepted) == operations
        assert {code for _, code in contract.refused} == {"ResourceAlreadyExistsException"}

    def test_the_check_finds_what_is_wrong(self, inside, contract, monkeypatch):
        control = inside.open()
        arn = control.add_solution_version()
        control.add_job(BatchJobKind.SEGMENT, "a", solution_version_arn=arn)
        client = inside.client()
        job = next(iter(control.backend("us-east-1").jobs.values()))
        for status in (7, "x" * 257):
            job.status = status
            with pytest.raises(AssertionError, match="status"):
                client.list_batch_segment_jobs()
        job.status = "ACTIVE"
        job.request = {**job.request, "surprise": "!"}
        with pytest.raises(AssertionError, match="surprise"):
            client.describe_batch_segment_job(batchSegmentJobArn=job.arn)
