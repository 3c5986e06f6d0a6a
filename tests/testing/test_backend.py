from __future__ import annotations

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_personalize_segments.arns import parse_job_arn
from airflow_provider_personalize_segments.jobs import BATCH_JOB_KINDS, BatchJobKind

OBSERVED = ["CREATE PENDING", "CREATE IN_PROGRESS", "ACTIVE"]
DOCUMENTED = ["PENDING", "IN PROGRESS", "ACTIVE"]
# The fixtures are only read, or reset between examples by the test itself.
relaxed = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20, database=None
)


def create(stage, kind, make_request, recipe, region_name="us-east-1", **members):
    arn = stage.control.add_solution_version(recipe=recipe, region_name=region_name)
    client = stage.client(region_name=region_name)
    answer = getattr(client, kind.create_method)(**make_request(arn, **members))
    return client, answer[kind.arn_member]


def describe(client, kind, arn):
    return getattr(client, kind.describe_method)(**{kind.arn_member: arn})[kind.job_member]


def statuses_seen(client, kind, arn, count):
    return [describe(client, kind, arn)["status"] for _ in range(count)]


class TestCreate:
    def test_a_job_is_described_as_it_was_created(self, stage, kind, recipe, make_request, clock):
        stage.open(progress="by_hand")
        client, arn = create(
            stage, kind, make_request, recipe, numResults=7, tags=[{"tagKey": "a", "tagValue": "b"}]
        )
        job = describe(client, kind, arn)
        assert arn == f"arn:aws:personalize:us-east-1:123456789012:{kind.arn_resource}/nightly"
        moment = job.pop("creationDateTime")
        assert moment.timestamp() == clock.now
        assert job.pop("lastUpdatedDateTime") == moment
        if kind is BatchJobKind.INFERENCE:
            assert job.pop("batchInferenceJobMode") == "BATCH_INFERENCE"
        expected = make_request(stage.control.add_solution_version(recipe=recipe), numResults=7)
        assert job == {**expected, kind.arn_member: arn, "status": "CREATE PENDING"}

    def test_25_results_unless_asked(self, inside, kind, recipe, make_request):
        inside.open(progress="by_hand")
        client, arn = create(inside, kind, make_request, recipe)
        assert describe(client, kind, arn)["numResults"] == 25

    @pytest.mark.parametrize(
        ("region_name", "partition"),
        [("eu-west-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")],
    )
    def test_arns_of_every_partition(self, stage, kind, recipe, make_request, region_name, partition):
        stage.open(progress="by_hand")
        client, arn = create(stage, kind, make_request, recipe, region_name)
        assert arn == f"arn:{partition}:personalize:{region_name}:123456789012:{kind.arn_resource}/nightly"
        assert describe(client, kind, arn)["jobName"] == "nightly"

    @relaxed
    @given(name=st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9\-_]{0,62}", fullmatch=True))
    def test_every_allowed_name_makes_an_arn(self, inside, make_request, name):
        control = inside.control or inside.open()
        control._backends.reset()
        _, arn = create(inside, BatchJobKind.SEGMENT, make_request, "aws-item-affinity", jobName=name)
        assert parse_job_arn(arn).job_name == name

    def test_the_two_kinds_do_not_share_names(self, inside, make_request):
        inside.open(progress="by_hand")
        arns = {
            create(inside, kind, make_request, recipe)[1]
            for kind, recipe in zip(BATCH_JOB_KINDS, ["aws-item-affinity", "aws-sims"], strict=True)
        }
        assert len(arns) == 2

    def test_a_name_is_taken_per_region(self, inside, kind, recipe, make_request):
        inside.open(progress="by_hand")
        client, _ = create(inside, kind, make_request, recipe)
        create(inside, kind, make_request, recipe, "eu-west-1")
        with pytest.raises(client.exceptions.ResourceAlreadyExistsException, match="already exists"):
            create(inside, kind, make_request, recipe)

    def test_a_name_is_taken_per_account(self, inside, make_request):
        control = inside.open(progress="by_hand")
        create(inside, BatchJobKind.SEGMENT, make_request, "aws-item-affinity")
        other = control.add_solution_version(account_id="210987654321")
        session = inside.client("sts").assume_role(
            RoleArn="arn:aws:iam::210987654321:role/other", RoleSessionName="test"
        )["Credentials"]
        client = boto3.client(
            "personalize",
            region_name="us-east-1",
            aws_access_key_id=session["AccessKeyId"],
            aws_secret_access_key=session["SecretAccessKey"],
            aws_session_token=session["SessionToken"],
        )
        arn = client.create_batch_segment_job(**make_request(other))["batchSegmentJobArn"]
        assert arn == "arn:aws:personalize:us-east-1:210987654321:batch-segment-job/nightly"

    def test_five_unfinished_jobs_per_kind_and_region(self, stage, kind, recipe, make_request):
        control = stage.open(progress="by_hand")
        for number in range(5):
            client, arn = create(stage, kind, make_request, recipe, jobName=f"job-{number}")
        with pytest.raises(client.exceptions.LimitExceededException, match="More than 5"):
            create(stage, kind, make_request, recipe, jobName="sixth")
        create(stage, kind, make_request, recipe, "eu-west-1", jobName="sixth")
        other, other_recipe = {
            "segment": (BatchJobKind.INFERENCE, "aws-sims"),
            "inference": (BatchJobKind.SEGMENT, "aws-item-affinity"),
        }[kind.name]
        create(stage, other, make_request, other_recipe, jobName="sixth")
        control.fail_job(arn, "make room")
        control.advance(arn)
        control.advance(arn)
        create(stage, kind, make_request, recipe, jobName="sixth")


class TestProgress:
    @pytest.mark.parametrize(("statuses", "expected"), [("observed", OBSERVED), ("documented", DOCUMENTED)])
    def test_by_call_each_status_is_seen_so_often(
        self, stage, kind, recipe, make_request, statuses, expected
    ):
        stage.open(progress="by_call", calls=2, statuses=statuses)
        stage.put_input('{"itemId": "1"}\n')
        client, arn = create(stage, kind, make_request, recipe)
        seen = statuses_seen(client, kind, arn, 7)
        assert seen == [expected[0]] * 2 + [expected[1]] * 2 + [expected[2]] * 3

    def test_by_call_list_looks_too(self, inside, kind, recipe, make_request):
        inside.open(progress="by_call")
        inside.put_input('{"itemId": "1"}\n')
        client, _ = create(inside, kind, make_request, recipe)
        seen = [getattr(client, kind.list_method)()[kind.jobs_member][0]["status"] for _ in range(3)]
        assert seen == OBSERVED

    def test_immediately(self, stage, kind, recipe, make_request):
        stage.open()
        stage.put_input('{"itemId": "1"}\n')
        client, arn = create(stage, kind, make_request, recipe)
        assert describe(client, kind, arn)["status"] == "ACTIVE"

    def test_by_time_steps_are_dated_when_they_were_due(self, stage, kind, recipe, make_request, clock):
        stage.open(progress="by_time", seconds=60)
        stage.put_input('{"itemId": "1"}\n')
        client, arn = create(stage, kind, make_request, recipe)
        start = clock.now
        clock.forward(59.5)
        assert describe(client, kind, arn)["status"] == "CREATE PENDING"
        clock.forward(1)
        job = describe(client, kind, arn)
        assert (job["status"], job["lastUpdatedDateTime"].timestamp()) == ("CREATE IN_PROGRESS", start + 60)
        clock.forward(10_000)
        job = describe(client, kind, arn)
        assert (job["status"], job["lastUpdatedDateTime"].timestamp()) == ("ACTIVE", start + 120)
        assert job["creationDateTime"].timestamp() == start

    def test_by_time_output_is_there_though_nobody_asked_about_the_job(
        self, stage, kind, recipe, make_request, clock
    ):
        stage.open(progress="by_time", seconds=60)
        s3 = stage.put_input('{"itemId": "1"}\n')
        create(stage, kind, make_request, recipe)
        clock.forward(119)
        assert s3.list_objects_v2(Bucket="segments-bucket", Prefix="output/")["KeyCount"] == 0
        clock.forward(1)
        found = s3.list_objects_v2(Bucket="segments-bucket", Prefix="output/")["Contents"]
        assert [each["Key"] for each in found] == ["output/_CHECK", "output/items.json.out"]
        assert all(0 <= each["LastModified"].timestamp() - clock.now < 1 for each in found)

    def test_by_time_jobs_advance_in_order_of_time(self, inside, kind, recipe, make_request, clock):
        control = inside.open(progress="by_time", seconds=10)
        inside.put_input('{"itemId": "1"}\n')
        told = []
        control.on_status_change(
            lambda job, old, new, when: told.append((job["jobName"], new, when.timestamp()))
        )
        start = clock.now
        create(inside, kind, make_request, recipe, jobName="first")
        clock.forward(5)
        create(inside, kind, make_request, recipe, jobName="second")
        clock.forward(100)
        control.settle()
        assert told[2:] == [
            ("first", "CREATE IN_PROGRESS", start + 10),
            ("second", "CREATE IN_PROGRESS", start + 15),
            ("first", "ACTIVE", start + 20),
            ("second", "ACTIVE", start + 25),
        ]

    def test_by_hand(self, inside, kind, recipe, make_request, clock):
        control = inside.open(progress="by_hand")
        inside.put_input('{"itemId": "1"}\n')
        client, arn = create(inside, kind, make_request, recipe)
        seen = []
        for _ in range(4):
            clock.forward(1000)
            seen += statuses_seen(client, kind, arn, 2)
            control.advance(arn)
        assert seen == [OBSERVED[0]] * 2 + [OBSERVED[1]] * 2 + [OBSERVED[2]] * 4

    def test_by_hand_may_hurry_a_job_that_goes_by_time(self, inside, kind, recipe, make_request, clock):
        control = inside.open(progress="by_time", seconds=60)
        inside.put_input('{"itemId": "1"}\n')
        client, arn = create(inside, kind, make_request, recipe)
        clock.forward(10)
        control.advance()
        clock.forward(55)
        assert describe(client, kind, arn)["status"] == "CREATE IN_PROGRESS"
        clock.forward(5)
        assert describe(client, kind, arn)["status"] == "ACTIVE"

    @relaxed
    @given(jumps=st.lists(st.floats(min_value=0, max_value=90), max_size=8))
    def test_looking_now_and_then_changes_nothing(self, inside, clock, make_request, jumps):
        control = inside.control or inside.open(progress="by_time", seconds=30)
        control._backends.reset()
        control._changes.callbacks.clear()
        told = []
        control.on_status_change(lambda job, old, new, when: told.append((new, when)))
        create(inside, BatchJobKind.SEGMENT, make_request, "aws-item-affinity")
        for jump in jumps:
            clock.forward(jump)
            control.settle()
        clock.forward(1000)
        control.settle()
        assert [status for status, _ in told] == ["CREATE PENDING", "CREATE IN_PROGRESS", "CREATE FAILED"]
        created = told[0][1]
        assert [(when - created).total_seconds() for _, when in told] == [0, 30, 60]

    @pytest.mark.parametrize("statuses", ["observed", "documented"])
    def test_told_to_fail_by_name_before_it_exists(self, stage, kind, recipe, make_request, statuses):
        control = stage.open(progress="by_call", statuses=statuses)
        control.fail_job("nightly", "Invalid S3 input path: no permission.")
        client, arn = create(stage, kind, make_request, recipe)
        running = {"observed": OBSERVED, "documented": DOCUMENTED}[statuses][:2]
        assert statuses_seen(client, kind, arn, 4) == [*running, "CREATE FAILED", "CREATE FAILED"]
        assert describe(client, kind, arn)["failureReason"] == "Invalid S3 input path: no permission."
        summary = getattr(client, kind.list_method)()[kind.jobs_member][0]
        assert summary["failureReason"] == "Invalid S3 input path: no permission."

    def test_told_to_fail_while_it_runs(self, inside, kind, recipe, make_request):
        control = inside.open(progress="by_call")
        s3 = inside.put_input('{"itemId": "1"}\n')
        client, arn = create(inside, kind, make_request, recipe)
        assert statuses_seen(client, kind, arn, 2) == OBSERVED[:2]
        control.fail_job(arn, "out of capacity")
        assert statuses_seen(client, kind, arn, 1) == ["CREATE FAILED"]
        assert s3.list_objects_v2(Bucket="segments-bucket", Prefix="output/")["KeyCount"] == 0

    def test_a_forced_status_stays(self, inside, kind, recipe, make_request, clock):
        control = inside.open(progress="by_time", seconds=1)
        client, arn = create(inside, kind, make_request, recipe)
        control.set_status(arn, "CREATE WAITING FOR GODOT")
        clock.forward(1000)
        assert describe(client, kind, arn)["status"] == "CREATE WAITING FOR GODOT"
        control.set_status(arn, "CREATE FAILED", "he did not come")
        job = describe(client, kind, arn)
        assert (job["status"], job["failureReason"]) == ("CREATE FAILED", "he did not come")


class TestStore:
    def test_schemas_are_still_motos(self, stage):
        stage.open()
        client = stage.client()
        arn = client.create_schema(name="users", schema='{"type": "record"}', domain="ECOMMERCE")["schemaArn"]
        assert client.describe_schema(schemaArn=arn)["schema"]["name"] == "users"
        assert [each["name"] for each in client.list_schemas()["schemas"]] == ["users"]

    def test_motos_reset_forgets_jobs_but_not_settings(self, inside, kind, recipe, make_request):
        control = inside.open(progress="by_hand")
        _, arn = create(inside, kind, make_request, recipe)
        control._backends.reset()
        with pytest.raises(ValueError, match="There is no job"):
            control.job(arn)
        client, again = create(inside, kind, make_request, recipe)
        assert again == arn
        assert describe(client, kind, arn)["status"] == "CREATE PENDING"

    def test_a_reset_store_finishes_no_forgotten_job(self, inside, kind, recipe, make_request, clock):
        control = inside.open(progress="by_time", seconds=1)
        told = []
        create(inside, kind, make_request, recipe)
        control.backend("us-east-1").reset()
        control.on_status_change(lambda *change: told.append(change))
        clock.forward(10)
        control.settle()
        assert told == []
        assert inside.client().list_schemas()["schemas"] == []

    def test_tags(self, stage, kind, recipe, make_request):
        stage.open(progress="by_hand")
        tags = [{"tagKey": f"key-{number}", "tagValue": "v"} for number in range(49)]
        client, arn = create(stage, kind, make_request, recipe, tags=tags)
        client.tag_resource(
            resourceArn=arn,
            tags=[{"tagKey": "key-0", "tagValue": "new"}, {"tagKey": "owner", "tagValue": "me"}],
        )
        found = {
            tag["tagKey"]: tag["tagValue"] for tag in client.list_tags_for_resource(resourceArn=arn)["tags"]
        }
        assert (len(found), found["key-0"], found["owner"]) == (50, "new", "me")
        with pytest.raises(client.exceptions.TooManyTagsException, match="51 tags"):
            client.tag_resource(resourceArn=arn, tags=[{"tagKey": "one-more", "tagValue": ""}])
        client.untag_resource(resourceArn=arn, tagKeys=[*[*found][:48], "never there"])
        assert len(client.list_tags_for_resource(resourceArn=arn)["tags"]) == 2
        with pytest.raises(client.exceptions.ResourceNotFoundException, match="does not exist"):
            client.list_tags_for_resource(resourceArn=arn + "x")

    def test_solution_versions(self, stage):
        control = stage.open()
        arn = control.add_solution_version("movies", "aws-sims", "eu-west-1", "shop")
        version = stage.client(region_name="eu-west-1").describe_solution_version(solutionVersionArn=arn)[
            "solutionVersion"
        ]
        assert version["solutionVersionArn"] == arn
        assert version["solutionArn"] == "arn:aws:personalize:eu-west-1:123456789012:solution/movies"
        assert version["recipeArn"] == "arn:aws:personalize:::recipe/aws-sims"
        assert version["datasetGroupArn"] == "arn:aws:personalize:eu-west-1:123456789012:dataset-group/shop"
        assert version["status"] == "ACTIVE"
        client = stage.client()
        with pytest.raises(client.exceptions.ResourceNotFoundException):
            client.describe_solution_version(solutionVersionArn=arn)
