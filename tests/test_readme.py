"""README and guides, run: their DAGs by Airflow, their policies against the API, their commands and words."""

from __future__ import annotations

import inspect
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from airflow_names import AssetAlias
from documents import DOCS, DOCUMENTS, PROJECT, README, all_blocks, blocks, name_of, section

from airflow_provider_personalize_segments import (
    arns,
    clients,
    errors,
    hooks,
    jobs,
    lacks,
    links,
    listed_jobs,
    operators,
    parameters,
    plain_json,
    sensors,
    sessions,
    testing,
    triggers,
)
from airflow_provider_personalize_segments.creating import requests, steps
from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.output import inputs, publishing, task
from airflow_provider_personalize_segments.testing.airflow_database import put_database
from airflow_provider_personalize_segments.waiting import events, verdicts
from airflow_provider_personalize_segments.waiting import steps as waiting_steps
from airflow_provider_personalize_segments.watching import assets, lister
from airflow_provider_personalize_segments.watching import trigger as watcher

PERMISSIONS = section((DOCS / "operating.md").read_text(), "Permissions")
ERRORS = (DOCS / "errors.md").read_text()
S3_ACTIONS = {
    "s3:ListBucket",
    "s3:GetObject",
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
}


def test_every_block_is_in_a_language_that_is_tested():
    assert {block.language for block in all_blocks(README)} == {"python", "sh"}
    run_here = {"README.md", "docs/creating.md", "docs/testing.md", "docs/waiting.md"}
    compared = {"docs/operating.md", "docs/openlineage.md"}
    for document in DOCUMENTS:
        found = {block.language for block in all_blocks(document.read_text()) if block.language[:1] != "{"}
        assert found <= {"python", "sh", "json", "text"}, document
        assert "python" not in found or name_of(document) in run_here, document
        assert "json" not in found or name_of(document) in compared, document


def test_the_dag_is_short_and_airflow_runs_it(run_dag, local_personalize, monkeypatch, read_log):
    (dag,) = blocks("python")
    assert len([line for line in dag.splitlines() if line.strip() and "import" not in line]) == 10
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", local_personalize.airflow_connection())
    version = local_personalize.add_solution_version("readme")
    local_personalize.add_job(BatchJobKind.SEGMENT, "weekly", solution_version_arn=version)
    run = run_dag(dag)
    assert run.states == {"wait": "success", "send_emails": "success"}
    assert "Segments: s3://example-bucket/output/" in "\n".join(read_log())


def test_the_guide_to_testing_does_what_it_says(tmp_path):
    """Each of its blocks is a test module of a user's; one run, as Airflow starts slowly."""
    (tmp_path / "conftest.py").write_text(
        'pytest_plugins = ["airflow_provider_personalize_segments.testing.fixtures"]\n'
    )
    found = blocks("python", (DOCS / "testing.md").read_text())
    for number, block in enumerate(found):
        (tmp_path / f"test_block_{number}.py").write_text(block)
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = set(re.findall(r"test_block_(\d+)\.py::\S+ PASSED", done.stdout))
    assert passed == {str(number) for number in range(len(found))}, done.stdout


@pytest.mark.parametrize("policy", blocks("json", PERMISSIONS))
def test_the_policies_allow_what_exists(policy):
    client = boto3.session.Session("x", "x").client("personalize", region_name="us-east-1")
    for statement in json.loads(policy)["Statement"]:
        actions = statement["Action"]
        for action in [actions] if isinstance(actions, str) else actions:
            service, _, operation = action.partition(":")
            if service == "personalize":
                assert operation in client.meta.service_model.operation_names
            else:
                assert action in ("iam:PassRole", *S3_ACTIONS)


def test_the_guide_to_tables_needs_what_its_policy_allows():
    (policy,) = [each for each in blocks("json", PERMISSIONS) if "s3:PutObject" in each]
    told = re.findall(r"^\| `(s3:\w+)`", section((DOCS / "tables.md").read_text(), "Permissions"), re.M)
    assert set(re.findall(r"s3:[A-Z]\w+", policy)) == set(told) == S3_ACTIONS


def test_the_policies_together_allow_what_the_hook_calls():
    allowed = set(re.findall(r'"personalize:(\w+)', "".join(blocks("json", PERMISSIONS))))
    assert allowed == {
        operation
        for kind in jobs.BATCH_JOB_KINDS
        for operation in (kind.describe_operation, kind.list_operation, kind.create_operation)
    } | {"DescribeFilter", "DescribeSolutionVersion", "TagResource"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_the_commands_are_targets_that_ci_runs(document):
    makefile = (PROJECT / "Makefile").read_text()
    ci = (PROJECT / ".ci" / "run").read_text()
    for block in blocks("sh", document.read_text()):
        for line in block.splitlines():
            command = line.split("#")[0].strip()
            if command.startswith("make"):
                assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE), command
                release = re.fullmatch(r"make test AIRFLOW=(\d+\.\d+\.\d+)", command)
                run = f"officially {release[1]} " if release else command
                assert "TESTS=" in command or run in ci, f"{command} is not in .ci/run"
            else:
                assert command.startswith(
                    ("pip install", "python -m airflow_provider_personalize_segments.", "airflow ")
                ), command


def airflow_commands(document):
    lines = [line for block in blocks("sh", document.read_text()) for line in block.splitlines()]
    return [line for line in lines if line.startswith("airflow ")]


@pytest.mark.parametrize("document", [each for each in DOCUMENTS if airflow_commands(each)], ids=name_of)
def test_airflow_takes_the_commands(document, tmp_path):
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path)}
    put_database(tmp_path / "airflow.db")
    for command in airflow_commands(document):
        subprocess.run(
            [sys.executable, "-m", *shlex.split(command)], check=True, timeout=120, env=environment
        )


def test_the_guide_to_creating_creates_a_job(run_dag, local_personalize, monkeypatch):
    (dag,) = blocks("python", (DOCS / "creating.md").read_text())
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", local_personalize.airflow_connection())
    session = boto3.session.Session("testing", "testing", region_name="us-east-1")
    s3 = session.client("s3", endpoint_url=local_personalize.endpoint_url)
    s3.create_bucket(Bucket="shop")
    today = datetime.now(UTC)
    for day in (today, today + timedelta(days=1)):  # it may be nearly midnight
        s3.put_object(
            Bucket="shop", Key=f"segments/{day:%Y-%m-%d}/input/items.json", Body=b'{"itemId": "b1042"}'
        )
    version = re.search(r"arn:aws:personalize:[^\"]*", dag)[0]
    run = run_dag(dag.replace(version, local_personalize.add_solution_version("shop")), poke_interval=0.1)
    assert run.states == {"create_segments": "success"}
    assert "/weekly_segments-create_segments-20" in run.xcom("create_segments")


def test_the_guide_to_waiting_hands_the_job_on(run_dag, local_personalize, monkeypatch):
    (dag,) = blocks("python", (DOCS / "waiting.md").read_text())
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", local_personalize.airflow_connection())
    version = local_personalize.add_solution_version("shop")
    record = {"input": {"itemId": "b1042"}, "output": {"usersList": ["user-7"]}, "error": None}
    paths = {"input_path": "s3://shop/in/items.json", "output_path": "s3://shop/out/"}
    local_personalize.add_job("segment", "weekly", solution_version_arn=version, output=[record], **paths)
    run = run_dag(dag)
    assert set(run.states.values()) == {"success"}
    assert run.xcom("convert")["rows"] == 1


@pytest.mark.parametrize("advice", ["", ".map(lambda job: job['batchSegmentJobArn'])"])
def test_the_whole_job_is_answered_with_what_the_guide_does(run_dag, local_personalize, monkeypatch, advice):
    (dag,) = blocks("python", (DOCS / "waiting.md").read_text())
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", local_personalize.airflow_connection())
    version = local_personalize.add_solution_version("shop")
    local_personalize.add_job("segment", "weekly", solution_version_arn=version)
    run = run_dag(dag.replace("take_arn(wait_for_job.output)", f"wait_for_job.output{advice}"))
    assert run.states["convert"] == "failed"
    if not advice:
        assert "Let a function with @task take it and return the ARN" in str(run.errors["convert"])


def test_the_guide_to_creating_has_every_parameter():
    table = section((DOCS / "creating.md").read_text(), "Parameters")
    told = [name for row in re.findall(r"^\| (`.*?) \|", table, re.M) for name in re.findall(r"`(\w+)`", row)]
    assert sorted(told) == sorted(operators.PersonalizeCreateBatchInferenceJobOperator.template_fields)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_what_it_links_to_is_there(document):
    for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
        if not target.startswith("https://"):
            assert (document.parent / target).exists(), target


def test_the_names_in_the_table_are_there():
    table = section(README, "What is in it")
    modules = {
        "sensors": sensors,
        "operators": operators,
        "hooks": hooks,
        "testing": testing,
        "triggers": triggers,
        "links": links,
    }
    for row in table.splitlines():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        module = modules.get(cells[0].strip("`"))
        if module:
            names = [name for name in re.findall(r"`(\w+)`", cells[1]) if name[0].isupper() or "_" in name]
            assert names
            for name in names:
                assert hasattr(module, name) or hasattr(hooks.PersonalizeHook, name), name


def messages_about_folders():
    """What is said of output_path and output_file, as the code has it, with … for values."""
    for module in (task, publishing):
        source = re.sub(r'"\s*f?"', "", inspect.getsource(module))
        yield re.sub(
            r"\{[^{}\"]*\}", "…", source.replace("{self.source_of('output_file')}", "output_file of task …")
        )


def messages():
    """One of each message that a user can meet, as the code says it."""
    arn = "arn:aws:personalize:us-east-1:123456789012:batch-segment-job/weekly"
    other = arn.replace("segment", "inference")
    call = ("DescribeBatchSegmentJob", arn, "us-east-1", "aws_default")
    yield str(errors.PersonalizeJobFailedError(arn, "CREATE FAILED", "why"))
    yield str(errors.PersonalizeJobExistsError(arn, "ACTIVE", ["numResults is 7 instead of 25"]))
    yield str(errors.PersonalizeJobExistsError(arn, "ACTIVE"))
    yield str(errors.PersonalizeJobExistsError(arn, "ACTIVE", ["numResults is 7 instead of 25"], True))
    yield str(errors.PersonalizeJobExistsError(arn, "ACTIVE", [], True))
    yield str(errors.StateStoreUnavailableError("read", "the API server is restarting", arn))
    # test_creating.py and test_once.py produce them.
    yield "This task's own job differs from the parameters as they are now: its numResults is 7 instead of 8."
    yield "The task's job from before it was cleared is ACTIVE. Nothing tells whether the task succeeded"
    yield "job_name of task 'create' changes from try to try, by try_number: before Airflow 3.3"
    yield "[personalize] job_name_prefix cannot begin a job name. Got '-prod'."
    for problem in (
        "7 of 8 records have an error, more than max_error_rate 0.5 allows",
        "2 of 3 output files are missing: s3://shop/out/a.json.out",
        "1 of 3 output files is older than the job: s3://shop/out/a.json.out",
        "1 of 3 output files is newer than the job: s3://shop/out/a.json.out",
        "s3://shop/out/a.json.out is cut off in the middle of a record, in line 2",
        "The job is 'CREATE IN_PROGRESS', so its output is not complete",
    ):  # test_checking.py produces them
        yield str(errors.PersonalizeOutputError(arn, problem))
    yield str(errors.S3RefusedError("AccessDenied: no", "Allow s3:GetObject on the object.", "s3://shop/a"))
    yield str(errors.S3UnavailableError("The object changed while it was read", "See.", "s3://shop/a", 0))
    yield str(errors.ExtraNotInstalledError("pyarrow", "parquet"))
    # test_parquet.py produces them.
    yield from messages_about_folders()
    alias = [AssetAlias("segments")]
    for path in ("s3://shop/a#b/", "s3://shop/größe/"):
        with pytest.raises(ValueError, match="output_path") as odd:
            assets.check_folder(alias, path, "output_path of task 'create'")
        yield str(odd.value)
        with pytest.raises(errors.PersonalizeOutputError) as late:
            assets.emit_output({}, alias, arn, {"jobOutput": {"s3DataDestination": {"path": path}}}, None)
        yield str(late.value)
    yield assets.NOT_WAITING % ("create", "segments")
    for problem in (
        "Line 3 of the input is wrong: it is not UTF-8",
        "No object is there, so the job would have no input",
        "The path is a prefix, and the job would read s3://shop/in_old/a.json, too",
        "The file holds more than 500 records, which is all that a job takes with itemId",
        "The solution version's recipe is aws-sims, which serves no batch segment job",
        "The solution version's recipe is aws-sims, which generates no themes",
    ):  # test_inputs.py produces them
        yield str(errors.PersonalizeInputError(problem, "Correct the input.", "s3://shop/in/a.json"))
    yield str(errors.PersonalizeNoSlotError(arn, "LimitExceededException", 60))
    yield str(errors.PersonalizeNoSlotError(arn, "NoAnswer: no answer within 10 s", 60, True))
    paths = {"jobInput": {"s3DataSource": {"path": "s3://shop/in"}}}
    paths["jobOutput"] = {"s3DataDestination": {"path": "s3://shop/out/"}}
    yield from requests.find_path_warnings(paths)
    yield str(errors.PersonalizeRequestError(*call, "AccessDeniedException", "no"))
    yield str(errors.PersonalizeRequestError(*call, "ResourceNotFoundException", "no"))
    yield str(errors.ConnectionNotFoundError("aws_default"))
    yield f"Not yet: {errors.PersonalizeUnavailableError(*call, 'ThrottlingException', 'slow')}"
    yield f"Not yet: {errors.PersonalizeUnavailableError(*call, 'LimitExceededException', 'full')}"
    for wrong in (
        lambda: arns.parse_job_arn(other, BatchJobKind.SEGMENT, source="job_arn of task 'wait'"),
        lambda: arns.resolve_region("eu-west-1", "us-east-1"),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are compared by the test
            wrong()
        yield str(caught.value)
    lost = sensors.PersonalizeBatchSegmentJobSensor(task_id="wait", job_arn=arn, max_error_rate="{{ rate }}")
    lost.max_error_rate = None  # as Airflow renders an empty XCom
    with pytest.raises(ValueError, match="the XCom or the template") as empty:
        _ = lost.worker_steps.error_limit
    yield str(empty.value)
    # Logged, not raised; test_sensors.py, test_operators.py and test_inputs.py produce them.
    for module in (verdicts, listed_jobs, steps, waiting_steps, lister, watcher, inputs, hooks):
        yield re.sub(r'"\s*"|%[sdr]', "", inspect.getsource(module))
    yield str(errors.PersonalizeJobTimeoutError(arn, None, 60))
    yield str(events.load_error({"type": "KeyError", "text": "x"}))
    yield f"Not yet: {verdicts.make_silence(arn, None, 5).no_answer}"
    with pytest.raises(errors.PersonalizeRequestError) as refused:
        hooks.PersonalizeHook(aws_conn_id=None, verify="/no/such.pem").describe_job(arn)
    yield str(refused.value)
    with pytest.raises(ValueError, match="holds a password") as secret:
        parameters.read_config({"proxies": {"http": "http://u:p@h"}}, "botocore_config of task 't'")
    yield str(secret.value)
    yield f"OSError: [Errno 24] Too many open files. {lacks.LACK_ADVICE}"
    yield f"ResponseParserError: the answer is longer than {sessions.MAX_ANSWER // 1024**2} MB"
    yield plain_json.clean_text("x" * 200, 100)
    yield str(errors.PersonalizeJobTimeoutError(arn, None, 60, "ThrottlingException: slow"))
    for wrong in (
        lambda: arns.parse_job_arn("None", source="job_arn of task 'wait'"),
        lambda: parameters.read_dict("{}", "tags of task 'create'", "such as {'team': 'growth'}"),
        lambda: parameters.read_folder("None", "output_path of task 'convert'"),
    ):
        with pytest.raises(ValueError) as mistake:  # noqa: PT011 - the words are compared by the test
            wrong()
        yield str(mistake.value)
    yield str(errors.PersonalizeNoJobsError("batch segment job", 0))
    yield re.sub(r'"\s*f?"|[{}]', "", inspect.getsource(clients))
    # test_regions.py produces it.
    unknown = "botocore knows no Amazon Personalize in 'us-esat-1', and its name does not resolve"
    yield str(errors.PersonalizeRequestError(*call, "UnknownRegion", unknown))
    with pytest.raises(ValueError, match="is empty") as no_name:
        parameters.read_connection_id("", "aws_conn_id of task 't'")
    yield str(no_name.value)
    for wrong in ([arn], {"batchSegmentJobArn": arn}):
        with pytest.raises(ValueError, match="not (one ARN|the ARN in it)") as whole:
            arns.parse_job_arn(wrong, source="job_arn of task 'convert'")
        yield str(whole.value)
    with pytest.raises(TypeError) as otherwise:
        sensors.PersonalizeBatchSegmentJobSensor(task_id="t", job_arn=arn, poll_interval=1)
    yield str(otherwise.value)


@pytest.mark.parametrize("row", re.findall(r"^\| `(.*?)`", ERRORS, re.MULTILINE))
def test_the_messages_it_explains_are_the_ones_users_meet(row):
    pattern = re.escape(row).replace("…", ".*")
    assert any(re.search(pattern, message) for message in messages()), row


def test_the_versions_are_the_ones_that_are_tested():
    constraints = {path.stem: path.read_text() for path in (PROJECT / "constraints").glob("*.txt")}
    official = [path.stem for path in (PROJECT / "constraints" / "official").glob("*.txt")]
    table = section(README, "Versions")
    assert re.search(r"^apache-airflow==3\.3\.", constraints["airflow-3.3"], re.MULTILINE)
    assert re.search(r"^apache-airflow==2\.11\.", constraints["airflow-2.11"], re.MULTILINE)
    (row,) = re.findall(r"^\| official constraint files \|(.*?), for", table, re.MULTILINE)
    assert sorted(re.findall(r"\d+\.\d+\.\d+", row)) == sorted(official)
    for release in official:
        assert release in (PROJECT / ".ci" / "run").read_text()


def test_the_lower_bounds_are_what_the_oldest_official_constraint_file_has():
    oldest = dict(
        re.findall(
            r"^([\w-]+)==(\S+)$",
            (PROJECT / "constraints" / "official" / "2.11.0.txt").read_text(),
            re.MULTILINE,
        )
    )
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    bounds = {
        re.match(r"[\w-]+", each)[0]: each.partition(">=")[2]
        for each in (*project["dependencies"], *itertools.chain(*extras))
    }
    assert bounds["apache-airflow"] == "2.11.0"
    for name in ("apache-airflow-providers-amazon", "boto3", "pyarrow", "moto"):
        assert bounds[name] == oldest[name], name
    for name in ("apache-airflow-providers-amazon", "boto3"):
        assert bounds[name] in section(README, "Versions")
