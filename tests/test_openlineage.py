"""What OpenLineage's listener emits when Airflow runs our tasks, in every mode, however they end."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import airflow
import attrs
import pytest
from airflow_names import Asset
from documents import section
from openlineage_dag import (
    ACTIVE,
    ADOPTED,
    BUCKET,
    CASES,
    DECLARED,
    DEFERRABLE,
    FAILED,
    OVERDUE,
    REFUSED,
    RESCHEDULE,
    SKIPPED,
    SPOILED,
    Case,
)
from openlineage_schemas import BrokenEventError, check_event
from running_airflow.harness import IS_AIRFLOW_3

from airflow_provider_personalize_segments.jobs import BATCH_JOB_KINDS, BatchJobKind
from airflow_provider_personalize_segments.lineage import (
    FACET_KEY,
    PRODUCER,
    build_lineage,
    make_facet_class,
    split_dataset_path,
)
from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor
from airflow_provider_personalize_segments.testing import LocalPersonalize
from airflow_provider_personalize_segments.testing.example_jobs import EXAMPLE_INPUT, ExampleJobs

TESTS = Path(__file__).parent
REASON = "Invalid S3 input path"
ENDS = {ACTIVE: "success", FAILED: "failed", REFUSED: "failed", OVERDUE: "failed", SKIPPED: "skipped"}
ENDS[SPOILED] = "failed"
TIMES = ("creationDateTime", "lastUpdatedDateTime")
STARTS_AGAIN = not version("apache-airflow-providers-openlineage").startswith("2.0.")
"""Whether the provider tells that a deferred task resumes."""
GUIDE = TESTS.parent / "docs" / "openlineage.md"


def converts_assets():
    """Tell whether the OpenLineage provider makes datasets of assets, which older ones do not."""
    from airflow.providers.openlineage.extractors.manager import ExtractorManager

    return ExtractorManager.convert_to_ol_dataset(Asset("s3://bucket/key")) is not None


def run_cases(folder, cases, *, settings=None, is_without=False):
    """Run cases in a process of their own on a local Personalize; return what the process tells."""
    with LocalPersonalize(progress="by_call") as local:
        jobs = ExampleJobs(local)
        versions = {
            "segment": local.add_solution_version("shop"),
            "inference": local.add_solution_version("items", recipe="aws-user-personalization"),
        }
        for kind in BATCH_JOB_KINDS:
            jobs.put_input(kind)
        jobs._s3.put_object(Bucket=BUCKET, Key=f"input/{SPOILED}.jsonl", Body=b'{"itemId": "b1"}\nno JSON\n')
        for case in cases:
            if case.ending in (FAILED, SKIPPED):
                local.fail_job(case.job_name, REASON)
            if case.ending in (OVERDUE, ADOPTED):
                local.add_job(
                    case.kind,
                    case.job_name,
                    solution_version_arn=versions[case.kind],
                    status="CREATE IN_PROGRESS" if case.ending == OVERDUE else "ACTIVE",
                    input_path=case.input_path,
                    output_path=case.output_path,
                    num_results=3,
                )
        environment = {
            **os.environ,
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW_CONN_AWS_DEFAULT": local.airflow_connection(),
            "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
            **(settings or {}),
        }
        plan = [versions, [case.task_id for case in cases], is_without]
        answer = folder / "answer.json"
        done = subprocess.run(
            [sys.executable, str(TESTS / "openlineage_dag.py"), json.dumps(plan), str(answer)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        print(done.stdout)
        assert done.returncode == 0
        return json.loads(answer.read_text()), done.stdout


@pytest.fixture(scope="module")
def emitted(tmp_path_factory):
    """All events of one run of all cases, by task, in order."""
    folder = tmp_path_factory.mktemp("openlineage")
    path = folder / "events.jsonl"
    transport = {"type": "file", "log_file_path": str(path), "append": True}
    settings = {"AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport)}
    answer, log = run_cases(folder, CASES, settings=settings)
    assert answer["states"] == {
        case.task_id: "success" if case.task == "begin" else ENDS[case.ending] for case in CASES
    }
    assert "OpenLineage is told nothing" not in log
    events = {}
    for line in path.read_text().splitlines():
        event = json.loads(line)
        events.setdefault(event["job"]["name"].removeprefix("lineage."), []).append(event)
    return events


def datasets(event):
    """Return the names of what an event says that the job reads and writes, without what was declared."""
    return [
        [(each["namespace"], each["name"]) for each in event[side] if not is_declared(each)]
        for side in ("inputs", "outputs")
    ]


def is_declared(dataset):
    return dataset["name"].startswith(f"{DECLARED}/")


def facets(event):
    """Return our facet, and the ARN in the facet of external systems."""
    external = event["run"]["facets"].get("externalQuery")
    told = {name: each for name, each in event["run"]["facets"][FACET_KEY].items() if name[0] != "_"}
    if external:
        assert external["source"] == "personalize"
    return told, external and external["externalQueryId"]


def expected_datasets(case):
    bucket = f"s3://{BUCKET}"
    return [
        [(bucket, case.input_path.removeprefix(f"{bucket}/"))],
        [(bucket, case.output_path.removeprefix(f"{bucket}/"))],
    ]


def is_seen(case):
    """Whether there is a job that the task has seen."""
    return case.ending != REFUSED


def is_described(case):
    """Whether AWS has described it to the task."""
    return is_seen(case) and (case.task != "begin" or case.ending == ADOPTED)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.task_id)
class TestCase:
    def test_every_event_is_what_openlineage_defines(self, emitted, case):
        for event in emitted[case.task_id]:
            check_event(event)

    def test_the_start_tells_what_is_known_before(self, emitted, case):
        starts = [event for event in emitted[case.task_id] if event["eventType"] == "START"]
        is_deferred = case.mode == DEFERRABLE and case.task != "begin" and case.ending != REFUSED
        if case.ending != OVERDUE:  # a slow machine reaches the end of the time before it defers
            assert len(starts) == (2 if is_deferred and STARTS_AGAIN else 1)
        # Before Airflow 3 `dag.test()` resumes the same operator, which remembers; a worker makes a new one.
        for start in starts if IS_AIRFLOW_3 else starts[:1]:
            told, arn = facets(start)
            if case.task == "sensor":
                assert datasets(start) == [[], []]
                assert told == {"kind": case.kind, "jobArn": case.job_arn}
                assert arn == case.job_arn
            else:
                assert datasets(start) == expected_datasets(case)
                assert told.keys() == {"kind", "jobName", "solutionVersionArn", "numResults"}
                assert (told["jobName"], told["numResults"], arn) == (case.job_name, 3, None)

    def test_every_event_tells_what_was_declared(self, emitted, case):
        """Once each, and the job's own output no second time under the name of an asset."""
        for event in emitted[case.task_id]:
            declared = [
                [each["name"] for each in event[side] if is_declared(each)] for side in ("inputs", "outputs")
            ]
            is_told = case.has_declared and converts_assets()
            assert declared == ([[f"{DECLARED}/read"], [f"{DECLARED}/written"]] if is_told else [[], []])

    def test_the_end_tells_of_the_job(self, emitted, case):
        if (
            case.ending == SKIPPED
            and case.task == "sensor"
            and airflow.__version__.startswith(("2.", "3.0."))
        ):
            pytest.skip("Before 3.1 Airflow tells no listener that a task was skipped.")
        event = emitted[case.task_id][-1]
        is_failure = case.task != "begin" and ENDS[case.ending] == "failed"
        assert [each["eventType"] for each in emitted[case.task_id] if each["eventType"] != "START"] == [
            "FAIL" if is_failure else "COMPLETE"
        ]
        assert ("errorMessage" in event["run"]["facets"]) is is_failure
        told, arn = facets(event)
        assert told["kind"] == case.kind
        knows_data = is_seen(case) or case.task == "create"
        assert datasets(event) == (expected_datasets(case) if knows_data else [[], []])
        knows_arn = is_seen(case) or case.task == "sensor"
        assert (told.get("jobArn"), arn) == ((case.job_arn, case.job_arn) if knows_arn else (None, None))
        if knows_data:
            assert told["jobName"] == case.job_name
            assert told["numResults"] == 3
            assert re.fullmatch(
                "arn:aws:personalize:us-east-1:[0-9]{12}:solution/.+", told["solutionVersionArn"]
            )
        if is_described(case):
            created, updated = (datetime.fromisoformat(told[each]) for each in TIMES)
            assert created <= updated
            assert created.tzinfo
        statuses = {
            FAILED: "CREATE FAILED",
            SKIPPED: "CREATE FAILED",
            OVERDUE: "CREATE IN_PROGRESS",
            REFUSED: None,
        }
        status = statuses.get(case.ending, "ACTIVE") if is_described(case) else None
        assert told.get("status") == status
        assert told.get("failureReason") == (REASON if status == "CREATE FAILED" else None)

    def test_what_was_counted_is_told(self, emitted, case):
        event = emitted[case.task_id][-1]
        counted = [
            {
                name: value
                for name, value in each["outputFacets"]["outputStatistics"].items()
                if name[0] != "_"
            }
            for each in event["outputs"]
            if "outputStatistics" in each.get("outputFacets", {})
        ]
        records = {"segment": len(EXAMPLE_INPUT[BatchJobKind.SEGMENT])}.get(
            case.kind, len(EXAMPLE_INPUT[BatchJobKind.INFERENCE])
        )
        if case.task == "begin" or case.ending not in (ACTIVE, SPOILED):
            assert counted == []
        elif case.ending == SPOILED:
            assert counted == [{"rowCount": 2}]
        else:
            assert counted[0].pop("size") > 100
            assert counted == [{"rowCount": records, "fileCount": 1}]


def comparable(case, event):
    """Return what an event tells that is ours, without the job's name and times."""
    told, arn = facets(event)
    text = json.dumps([event["inputs"], event["outputs"], told, arn], sort_keys=True)
    return without_times(text).replace(case.job_name, "JOB")


def without_times(text):
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", "TIME", text)


@pytest.mark.parametrize("position", [0, -1], ids=["first", "last"])
def test_every_mode_tells_the_same(emitted, position):
    alike = {}
    for case in CASES:
        told = comparable(case, emitted[case.task_id][position])
        alike.setdefault((case.task, case.kind, case.ending), set()).add(told)
    assert {key: len(told) for key, told in alike.items()} == dict.fromkeys(alike, 1)
    assert {case.mode for case in CASES if case[::3] == ("sensor", FAILED)} >= {
        "poke",
        RESCHEDULE,
        DEFERRABLE,
    }


def test_facets_name_who_made_them(emitted):
    event = emitted["sensor-segment-poke-active"][-1]
    made = [event["run"]["facets"][each] for each in (FACET_KEY, "externalQuery")]
    made += [each for output in event["outputs"] for each in output["outputFacets"].values()]
    assert {each["_producer"] for each in made} == {PRODUCER}


def shorten(event, shown):
    """Return of an event what is shown of it."""
    if isinstance(shown, dict):
        return {name: shorten(event.get(name), each) for name, each in shown.items()}
    if isinstance(shown, list):
        return [shorten(*both) for both in zip(event, shown, strict=True)]
    return event


class TestGuide:
    def test_the_event_that_it_shows_was_emitted(self, emitted):
        (text,) = re.findall(r"```json\n(.*?)```", GUIDE.read_text(), re.DOTALL)
        shown = json.loads(without_times(text))
        event = json.loads(without_times(json.dumps(emitted["create-segment-deferrable-active"][-1])))
        assert shorten(event, shown) == shown

    def test_it_has_every_field_of_our_facet(self):
        rows = re.findall(r"^\| (`\w+`.*?) \|", section(GUIDE.read_text(), "The facets"), re.MULTILINE)
        told = {each for row in rows for each in re.findall(r"`(\w+)`", row)}
        assert told == {each.name for each in attrs.fields(make_facet_class()) if each.name[0] != "_"}
        assert FACET_KEY in GUIDE.read_text()


def spoil(event, path, value):
    broken = copy.deepcopy(event)
    *parents, last = path
    place = broken
    for each in parents:
        place = place[each]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return broken


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["eventTime"], None),
        (["eventTime"], "yesterday"),
        (["eventType"], "ENDED"),
        (["run", "runId"], "1"),
        (["inputs", 0, "namespace"], None),
        (["outputs", 0, "name"], 7),
        (["outputs", 0, "outputFacets", "outputStatistics", "rowCount"], "5"),
        (["outputs", 0, "outputFacets", "outputStatistics", "rows"], 5),
        (["run", "facets", "externalQuery", "source"], None),
        (["run", "facets", FACET_KEY, "_schemaURL"], "https://example.com/schema.json"),
        (["run", "facets", FACET_KEY, "_producer"], "me"),
        (["run", "facets", "parent", "_schemaURL"], "https://openlineage.io/spec/2-0-2/OpenLineage.json"),
    ],
)
def test_a_broken_event_is_noticed(emitted, path, value):
    event = emitted["sensor-segment-poke-active"][-1]
    check_event(event)
    with pytest.raises(BrokenEventError):
        check_event(spoil(event, path, value))


def test_a_facet_in_a_wrong_place_is_noticed(emitted):
    event = emitted["sensor-segment-poke-active"][-1]
    facet = event["run"]["facets"]["externalQuery"]
    broken = spoil(event, ["outputs", 0, "outputFacets", "externalQuery"], facet)
    with pytest.raises(BrokenEventError, match="is no OutputDatasetFacet"):
        check_event(broken)


class TestWithoutOpenLineage:
    def test_nothing_is_imported_and_nothing_breaks(self, tmp_path):
        cases = [Case("create", "segment", DEFERRABLE, ACTIVE), Case("create", "segment", "poke", FAILED)]
        answer, log = run_cases(tmp_path, cases, is_without=True)
        assert answer["states"] == {cases[0].task_id: "success", cases[1].task_id: "failed"}
        ours = [
            each for each in answer["modules"] if each.startswith("airflow_provider_personalize_segments")
        ]
        assert ours == ["airflow_provider_personalize_segments.creating.lineage"]  # the tries of a task
        theirs = (
            "openlineage",
            "airflow.providers.openlineage",
            "airflow.providers.common.compat.openlineage.facet",
        )
        assert not [each for each in answer["modules"] if each.startswith(theirs)]
        assert "OpenLineage is told nothing" not in log


PATHS = [
    ("s3://bucket/folder/", ("s3://bucket", "folder/")),
    ("s3://bucket/folder", ("s3://bucket", "folder")),
    ("s3://bucket/a?b#c.json", ("s3://bucket", "a?b#c.json")),
    ("s3://bucket", ("s3://bucket", "/")),
    ("s3://bucket/", ("s3://bucket", "/")),
    ("s3://bucket/{{ ds }}/", None),
    ("s3:///key", None),
    ("https://bucket.s3.amazonaws.com/key", None),
    ("", None),
    (None, None),
    (7, None),
    ({"path": "s3://bucket/key"}, None),
]


@pytest.mark.parametrize(("path", "expected"), PATHS, ids=str)
def test_a_path_becomes_a_dataset_or_none(path, expected):
    assert split_dataset_path(path) == expected


ODD_JOBS = [
    {},
    {"jobInput": None, "jobOutput": "s3://bucket/output/"},
    {"jobInput": {"s3DataSource": []}, "jobOutput": {"s3DataDestination": {"path": ["s3://bucket/"]}}},
    {"batchSegmentJobArn": "{{ ds }}", "solutionVersionArn": None, "numResults": "many", "status": 7},
    {"batchSegmentJobArn": object(), "solutionVersionArn": object(), "failureReason": {"a": "b"}},
    {"numResults": -1, "creationDateTime": 1.5, "jobName": None},
]


@pytest.mark.parametrize("kind", BATCH_JOB_KINDS, ids=repr)
@pytest.mark.parametrize("job", ODD_JOBS, ids=[str(number) for number in range(len(ODD_JOBS))])
def test_of_an_odd_job_the_kind_is_told(kind, job):
    lineage = build_lineage(kind, job)
    assert (lineage.inputs, lineage.outputs, list(lineage.run_facets)) == ([], [], [FACET_KEY])
    assert lineage.run_facets[FACET_KEY] == make_facet_class()(kind=kind.name, producer=PRODUCER)


def test_text_that_utf_8_does_not_carry_is_cleaned():
    job = {
        "jobInput": {"s3DataSource": {"path": "s3://bucket/in\ud800put"}},
        "failureReason": "a\x00b",
        "jobName": "c" * 20_000,
    }
    lineage = build_lineage(BatchJobKind.SEGMENT, job)
    assert [each.name for each in lineage.inputs] == ["in\ufffdput"]
    facet = lineage.run_facets[FACET_KEY]
    assert facet.failureReason == "a\ufffdb"
    assert len(facet.jobName) == 10_000


def test_what_goes_wrong_is_logged_and_not_raised(read_log, monkeypatch):
    sensor = PersonalizeBatchSegmentJobSensor(task_id="wait", job_arn="arn")
    monkeypatch.setitem(sys.modules, "airflow.providers.openlineage.extractors", None)
    assert sensor.get_openlineage_facets_on_start() is None
    assert sensor.get_openlineage_facets_on_complete(None) is None
    assert sensor.get_openlineage_facets_on_failure(None) is None
    lines = [line for line in read_log() if "OpenLineage is told nothing about the job" in line]
    assert len(lines) == 3
