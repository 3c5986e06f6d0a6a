"""Assets: each job that ends well is an event in Airflow's database, and no other is, in every mode."""

from __future__ import annotations

import json
import warnings
from contextlib import closing

import boto3
import pytest
from lines import IS_BETWEEN

from airflow_provider_personalize_segments.airflow_compat import make_asset
from airflow_provider_personalize_segments.errors import InvalidParameterError, PersonalizeOutputError
from airflow_provider_personalize_segments.jobs import BATCH_JOB_KINDS, BatchJobKind
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
from airflow_names import DAG, Asset, AssetAlias
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
                soft_fail=kind == "segment",
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


@pytest.fixture(autouse=True)
def _loaded_providers():
    """Make a first asset, for which Airflow loads providers, and old libraries of theirs warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make_asset(f"s3://{BUCKETS[REGION]}")


class Scene:
    """What becomes of all jobs."""

    progress = "by_call"
    timeout = 60.0
    max_error_rate = None
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


@pytest.mark.parametrize("happening", ["ACTIVE", "CREATE FAILED"] if IS_BETWEEN else SCENES)
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
        }
        run = run_dag("".join(f"{name} = {value!r}\n" for name, value in constants.items()) + DAG)

    tasks = {
        f"{kind.name}-{mode}": (kind, REGION if mode in CREATED else OTHER_REGION)
        for kind in BATCH_JOB_KINDS
        for mode in (*SENSED, *CREATED)
    }
    for task, (kind, region) in tasks.items():
        is_soft = kind.name == "segment" and region == OTHER_REGION
        ending = "success" if scene.emits else "skipped" if is_soft else "failed"
        assert run.states[task] == ending, task
    assert {run.states[f"{kind.name}-{LEFT}"] for kind in BATCH_JOB_KINDS} == {"success"}
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


HEAD = """
from airflow_names import DAG, Asset, AssetAlias, TaskGroup
from airflow_provider_personalize_segments.operators import (
    PersonalizeCreateBatchSegmentJobOperator,
    PersonalizeSegmentsToParquetOperator,
)
from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor

ARN = "arn:aws:personalize:us-east-1:123456789012:batch-segment-job/"

with DAG("emitting", schedule=None, default_args={"retries": 0}) as dag:
"""
CREATE = f"""
    PersonalizeCreateBatchSegmentJobOperator(
        task_id=TASK,
        solution_version_arn=VERSION,
        role_arn="{ROLE}",
        input_path="s3://example-bucket/segment/input/items.json",
        output_path=OUTPUT,
        job_name="shared",
        poll_interval=0.1,
        OPTIONS
        outlets=[AssetAlias("created")],
    )
"""


@pytest.fixture
def local(monkeypatch):
    with LocalPersonalize() as local:
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", local.airflow_connection())
        put_input(local)
        yield local


def write_create(local, task, output, options=""):
    version = local.add_solution_version("shop")
    written = {"TASK": repr(task), "VERSION": repr(version), "OUTPUT": repr(output), "OPTIONS": options}
    text = CREATE
    for name, value in written.items():
        text = text.replace(name, value)
    return text


def arn_of(name):
    return f"arn:aws:personalize:{REGION}:{ACCOUNT}:batch-segment-job/{name}"


def test_mapped_tasks_in_groups_and_known_assets(local, run_dag):
    version = local.add_solution_version("shop")
    for number in range(3):
        local.add_job(
            BatchJobKind.SEGMENT,
            f"job-{number}",
            solution_version_arn=version,
            output_path=f"s3://b/{number}/",
        )
    tasks = """
    with TaskGroup("group"):
        PersonalizeBatchSegmentJobSensor.partial(task_id="mapped", outlets=[AssetAlias("mapped")]).expand(
            job_arn=[ARN + "job-0", ARN + "job-1"]
        )
    # Somebody knows the folder by another name, and says nothing of the slash.
    PersonalizeBatchSegmentJobSensor(task_id="before", job_arn=ARN + "job-2", outlets=[KNOWN])
    PersonalizeBatchSegmentJobSensor(task_id="known", job_arn=ARN + "job-2", outlets=[AssetAlias("a")])
    """
    known = (
        "Asset('s3://b/2')"
        if make_asset("s3://x").__class__.__name__ == "Dataset"
        else ("Asset(name='our segments', uri='s3://b/2')")
    )
    run = run_dag(HEAD + tasks.replace("KNOWN", known))
    assert run.state == "success"
    found = {each.task: (each.uri, each.name, each.aliases) for each in run.asset_events}
    assert len(run.asset_events) == 4
    name = found["before"][1]
    assert name in ("our segments", "s3://b/2")
    assert found["known"] == ("s3://b/2", name, ("a",))
    for number in range(2):
        uri, name, aliases = found[f"group.mapped[{number}]"]
        assert (uri, name.rstrip("/"), aliases) == (f"s3://b/{number}", uri, ("mapped",))


def test_a_job_that_is_adopted_is_an_event_again_unless_nobody_waits(local, run_dag, read_log):
    output = "s3://example-bucket/shared/"
    tasks = [
        write_create(local, f"create-{number}", output, options)
        for number, options in enumerate(("", "deferrable=True,", "wait_for_completion=False,"))
    ]
    run = run_dag(HEAD + "".join(tasks))
    assert run.state == "success"
    assert local.calls.count("CreateBatchSegmentJob") == 1
    assert sorted((each.task, each.uri, each.extra["jobArn"]) for each in run.asset_events) == [
        (f"create-{number}", output.rstrip("/"), arn_of("shared")) for number in range(2)
    ]
    said = [line for line in read_log() if "with wait_for_completion=False" in line]
    assert len(said) == 1
    assert (
        "outlets of task 'create-2' hold the AssetAlias 'created', and with wait_for_completion=False the "
        "task ends before its job is known to be ACTIVE: it emits no asset. Give the AssetAlias to the "
        "sensor that waits for the job."
    ) in said[0]


def test_a_table_is_an_event_once_it_is_complete(local, run_dag):
    tasks = """
    >> PersonalizeSegmentsToParquetOperator(
        task_id="convert",
        job_arn=ARN + "shared",
        output_path="s3://example-bucket/tables/",
        outlets=[AssetAlias("tables")],
    )
"""
    create = write_create(local, "create", "s3://example-bucket/shared/").rstrip()
    run = run_dag(HEAD + create + tasks.strip("\n").replace("    >>", " >>", 1))
    assert run.state == "success"
    _, event = run.asset_events
    result = run.xcom("convert")
    assert (event.task, event.uri, event.aliases) == ("convert", "s3://example-bucket/tables", ("tables",))
    assert event.extra == {
        "jobArn": arn_of("shared"),
        "kind": "segment",
        **{name: result[name] for name in ("rows", "files", "bytes", "records", "errors", "errorRate")},
    }
    assert event.extra["records"] == 2


ODD_PATHS = {
    "a fragment": ("s3://b/a#b/", "Airflow would make the asset s3://b/a of 's3://b/a#b/'"),
    "a query": ("s3://b/a?b c/", "Airflow would make the asset s3://b/a of 's3://b/a?b c/'"),
    "another scheme": (
        "https://b.s3.amazonaws.com/a/",
        "'https://b.s3.amazonaws.com/a/' is no folder in S3, s3://bucket/folder/",
    ),
    "no bucket": ("s3:///a/", "'s3:///a/' is no folder in S3, s3://bucket/folder/"),
    "not ASCII": (
        "s3://b/größe/",
        "Airflow takes only ASCII characters, unlike those of 's3://b/größe/'",
    ),
    "long": (f"s3://b/{'a' * 4000}/", "Airflow makes no asset of 's3://b/aaa"),
}
ADVICE = (
    "The output is not harmed: take the AssetAlias out of the task's outlets, and give the next job "
    "another path. "
    "(batch-segment-job/{}, us-east-1)"
)


def test_a_path_that_airflow_would_take_for_another_is_an_error(local, run_dag):
    version = local.add_solution_version("shop")
    names = {odd: odd.replace(" ", "-") for odd in ODD_PATHS}
    tasks = ""
    for odd, name in names.items():
        local.add_job(BatchJobKind.SEGMENT, name, solution_version_arn=version, output_path=ODD_PATHS[odd][0])
        tasks += f"    PersonalizeBatchSegmentJobSensor(task_id={name!r}, job_arn=ARN + {name!r}, "
        tasks += "outlets=[AssetAlias('a')])\n"
        tasks += f"    PersonalizeBatchSegmentJobSensor(task_id='{name}-alone', job_arn=ARN + {name!r}, "
        tasks += "outlets=['not an asset'])\n" if name == "a-query" else ")\n"
    run = run_dag(HEAD + tasks)
    for odd, name in names.items():
        assert run.states[f"{name}-alone"] == "success"
        error = run.errors[name]
        assert isinstance(error, PersonalizeOutputError)
        assert str(error).startswith(f"The job's output cannot become an asset: {ODD_PATHS[odd][1]}"), error
        assert str(error).endswith(ADVICE.format(name))
    assert list(run.asset_events) == []


def test_such_a_path_is_refused_before_a_job_is_created(local, run_dag):
    words = "output_path of task 'create' cannot become an asset: Airflow would make the asset "
    words += (
        "s3://example-bucket/a of 's3://example-bucket/a#b/'. Choose another, or take the AssetAlias out of "
    )
    words += "the task's outlets."
    run = run_dag(HEAD + write_create(local, "create", "s3://example-bucket/a#b/"))
    assert isinstance(run.errors["create"], InvalidParameterError)
    assert str(run.errors["create"]) == words
    assert local.calls.count("CreateBatchSegmentJob") == 0
    assert list(run.asset_events) == []
