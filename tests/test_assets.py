"""Assets: each job that ends well is an event in Airflow's database, and no other is, in every mode."""

from __future__ import annotations

import json
from contextlib import closing

import boto3
import pytest

from airflow_provider_personalize_segments.jobs import BATCH_JOB_KINDS
from airflow_provider_personalize_segments.testing import LocalPersonalize

ACCOUNT, REGION, OTHER_REGION = "123456789012", "us-east-1", "eu-west-1"
"""The jobs that sensors wait for are in the other region, where they take no slots."""
BUCKETS = {REGION: "example-bucket", OTHER_REGION: "example-bucket-eu"}
ROLE = "arn:aws:iam::123456789012:role/PersonalizeS3Access"
SENSED = ("poke", "reschedule", "deferrable")
CREATED = ("create-here", "create-deferrable")
LEFT = "create-and-leave"
"""The mode of a task that does not wait for the job that it creates."""
RECIPES = {"segment": "aws-item-affinity", "inference": "aws-user-personalization"}

DAG = """
from airflow.providers.common.compat.sdk import DAG, Asset, AssetAlias
from airflow_provider_personalize_segments import operators, sensors

with DAG("emitting", schedule=None, default_args={"retries": 0}) as dag:
    for kind, name in (('segment', 'Segment'), ('inference', 'Inference')):
        sensor = getattr(sensors, f"PersonalizeBatch{name}JobSensor")
        create = getattr(operators, f"PersonalizeCreateBatch{name}JobOperator")

        def alias(task):
            # A second one, once more the first, and what is no alias.
            return [
                AssetAlias(f"{kind}-{task}"),
                AssetAlias("all"),
                AssetAlias(f"{kind}-{task}"),
                Asset(f"s3://other-bucket/{kind}-{task}"),
            ]

        for mode in SENSED:
            task = f"{kind}-{mode}"
            sensor(
                task_id=task,
                job_arn=f"arn:aws:personalize:eu-west-1:123456789012:batch-{kind}-job/{task}",
                max_error_rate=MAX_ERROR_RATE,
                poke_interval=0.1,
                timeout=TIMEOUT,
                soft_fail=SOFT_FAIL,
                outlets=alias(mode),
                **({"deferrable": True} if mode == "deferrable" else {"mode": mode, "deferrable": False}),
            )
        for mode in (*CREATED, LEFT):
            create(
                task_id=f"{kind}-{mode}",
                solution_version_arn=VERSIONS[kind],
                role_arn=ROLE,
                input_path=f"s3://example-bucket/{kind}/input/items.json",
                output_path=f"s3://example-bucket/{kind}-{mode}/",
                job_name=f"{kind}-{mode}",
                num_results=7,
                max_error_rate=None if mode == LEFT else MAX_ERROR_RATE,
                poll_interval=0.1,
                timeout=TIMEOUT,
                deferrable=mode == "create-deferrable",
                wait_for_completion=mode != LEFT,
                outlets=alias(mode),
            )
"""


class Scene:
    """What becomes of all jobs."""

    progress = "by_call"
    timeout = 60.0
    max_error_rate = None
    soft_fail = False
    inputs = ("1", "2")
    emits = False

    def prepare(self, local):
        """Do what has to be done before the tasks run."""


class Active(Scene):
    max_error_rate = 0.0
    emits = True


class ActiveAtOnce(Scene):
    progress = "immediately"
    emits = True


class Failed(Scene):
    def prepare(self, local):
        for kind in BATCH_JOB_KINDS:
            for mode in (*SENSED, *CREATED, LEFT):
                local.fail_job(f"{kind.name}-{mode}", "Invalid S3 input path")


class Skipped(Failed):
    soft_fail = True


class Overdue(Scene):
    progress = "by_hand"
    timeout = 0.5


class BadOutput(Scene):
    max_error_rate = 0.0
    inputs = ("1", "")  # the second gets an error


SCENES = {
    "ACTIVE": Active,
    "ACTIVE at once": ActiveAtOnce,
    "CREATE FAILED": Failed,
    "CREATE FAILED, skipped": Skipped,
    "not over in time": Overdue,
    "ACTIVE, with bad output": BadOutput,
}


def make_client(local, service, region=REGION):
    session = boto3.session.Session("testing", "testing", region_name=region)
    return closing(session.client(service, endpoint_url=local.endpoint_url))


def put_input(local, inputs=("1", "2")):
    for region, bucket in BUCKETS.items():
        with make_client(local, "s3", region) as s3:
            where = {"CreateBucketConfiguration": {"LocationConstraint": region}}
            s3.create_bucket(Bucket=bucket, **(where if region == OTHER_REGION else {}))
            for kind, member in (("segment", "itemId"), ("inference", "userId")):
                body = "\n".join(json.dumps({member: each}) for each in inputs)
                s3.put_object(Bucket=bucket, Key=f"{kind}/input/items.json", Body=body.encode())


def create_job(local, kind, name):
    """Create a job in the other region, as somebody else's code would."""
    version = local.add_solution_version("shop", RECIPES[kind.name], region_name=OTHER_REGION)
    with make_client(local, "personalize", OTHER_REGION) as personalize:
        getattr(personalize, kind.create_method)(
            jobName=name,
            solutionVersionArn=version,
            numResults=7,
            jobInput={"s3DataSource": {"path": f"s3://{BUCKETS[OTHER_REGION]}/{kind.name}/input/items.json"}},
            jobOutput={"s3DataDestination": {"path": f"s3://{BUCKETS[OTHER_REGION]}/{name}/"}},
            roleArn=ROLE,
        )


def own_events(run):
    """Return what our tasks emitted, without what Airflow itself emits for assets among the outlets."""
    return [each for each in run.asset_events if not each.uri.startswith("s3://other-bucket/")]


@pytest.mark.parametrize("happening", SCENES)
def test_a_job_is_an_event_if_and_only_if_it_ends_well(happening, run_dag, monkeypatch):
    scene = SCENES[happening]()
    with LocalPersonalize(progress=scene.progress, calls=2) as local:
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", local.airflow_connection())
        scene.prepare(local)
        put_input(local, scene.inputs)
        for kind in BATCH_JOB_KINDS:
            for mode in SENSED:
                create_job(local, kind, f"{kind.name}-{mode}")
        versions = {name: local.add_solution_version("shop", recipe) for name, recipe in RECIPES.items()}
        constants = {
            "SENSED": SENSED,
            "CREATED": CREATED,
            "LEFT": LEFT,
            "VERSIONS": versions,
            "ROLE": ROLE,
            "TIMEOUT": scene.timeout,
            "MAX_ERROR_RATE": scene.max_error_rate,
            "SOFT_FAIL": scene.soft_fail,
        }
        run = run_dag("".join(f"{name} = {value!r}\n" for name, value in constants.items()) + DAG)

    tasks = {
        f"{kind.name}-{mode}": (kind, REGION if mode in CREATED else OTHER_REGION)
        for kind in BATCH_JOB_KINDS
        for mode in (*SENSED, *CREATED)
    }
    states = {task: run.states[task] for task in tasks}
    assert set(states.values()) <= ({"success"} if scene.emits else {"failed", "skipped"}), states
    assert {run.states[f"{kind.name}-{LEFT}"] for kind in BATCH_JOB_KINDS} == {"success"}
    assert (set(states.values()) >= {"skipped"}) is scene.soft_fail
    found = [(each.task, each.uri, each.aliases, each.extra) for each in own_events(run)]
    expected = [
        (
            task,
            f"s3://{BUCKETS[region]}/{task}",
            ("all", task),
            {
                "jobArn": f"arn:aws:personalize:{region}:{ACCOUNT}:{kind.arn_resource}/{task}",
                "kind": kind.name,
                "numResults": 7,
            },
        )
        for task, (kind, region) in tasks.items()
        if scene.emits
    ]
    assert sorted(found, key=str) == sorted(expected, key=str)
