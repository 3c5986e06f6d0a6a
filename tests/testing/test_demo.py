"""The demo, on every line of Airflow; CI runs it as users do, too, in a checkout and from the wheel."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq

import airflow_provider_personalize_segments as package
from airflow_provider_personalize_segments.testing import LocalPersonalize
from airflow_provider_personalize_segments.testing.demo import (
    WITHOUT_PARQUET,
    Demo,
    describe_next_steps,
)
from airflow_provider_personalize_segments.testing.example_jobs import BUCKET, ExampleJobs

PROJECT = Path(__file__).parent.parent.parent


def test_a_checkout_is_told_what_is_in_it():
    steps = dict(re.split("  +", line) for line in describe_next_steps())
    command, *files = steps
    assert re.search(f"^{command.removeprefix('make ')}:", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    for file in [each for names in files for each in names.split(", ")]:
        assert (PROJECT / file).is_file(), file


def test_who_installed_it_is_told_what_is_installed(tmp_path):
    # As the wheel has it: the examples inside the package, and nothing beside it.
    installed = tmp_path / package.__name__
    shutil.copytree(Path(package.__file__).parent, installed)
    shutil.copytree(PROJECT / "example_dags", installed / "example_dags")
    ask = f"from {package.__name__}.testing.demo import describe_next_steps as d; print(*d(), sep='\\n')"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", ask]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    files, commands = [], []
    for line in done.stdout.splitlines():
        step = re.split("  +", line)[0]
        (commands if step.startswith("python ") else files).append(step)
    assert len(files) == 3
    assert all(Path(file).is_file() and Path(file).is_relative_to(installed) for file in files), files
    modules = [re.fullmatch(rf"python -m pydoc {package.__name__}\.(\w+)", each)[1] for each in commands]
    assert modules == ["operators", "sensors"]
    assert all((installed / f"{module}.py").is_file() for module in modules)


class Listener:
    """Hears what is told, in place of a narrator."""

    alone = contextlib.nullcontext

    def __init__(self):
        self.screen = io.StringIO()

    def head(self, text):
        self.screen.write(f"\n{text}\n")

    def tell(self, text):
        self.screen.write(f"{text}\n")

    def parts(self):
        return [part.splitlines() for part in self.screen.getvalue().removeprefix("\n").split("\n\n")]


def test_tells_of_each_task_and_job_and_of_the_reason_why_one_failed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listener = Listener()
    with LocalPersonalize(progress="by_call", calls=2) as local:
        Demo(local, listener, tmp_path, poke_interval=0.1).run()
    created, stopped, converted, done, next_steps = listener.parts()
    job = r"  create_segment_job-create_job-\w+-\w+ is "
    for part, expected in (
        (
            created,
            [
                "1. A DAG that creates a batch segment job, and reads its segments",
                "Airflow runs create_segment_job",
                "upload_input starts",
                "upload_input succeeded",
                "create_job starts",
                f"{job}CREATE PENDING",
                f"{job}CREATE IN_PROGRESS after . s",
                f"{job}ACTIVE after . s",
                "create_job succeeded",
                "show_segments starts",
                "item +users  the first of them",
                *[r"b\d{4} +\d+  user-.*"] * 5,
                "show_segments succeeded",
                "One job was created. It became ACTIVE, and only then did show_segments run.",
            ],
        ),
        (
            stopped,
            [
                "2. A DAG that waits for another team's job, which fails",
                "  doomed-segments is CREATE PENDING",
                "Airflow runs wait_for_segment_job",
                "list_jobs starts",
                "list_jobs succeeded",
                "take_newest starts",
                "take_newest succeeded",
                "wait_for_job starts",
                "  doomed-segments is CREATE IN_PROGRESS after . s",
                "  doomed-segments is CREATE FAILED after . s",
                "wait_for_job failed: PersonalizeJobFailedError: .*CREATE FAILED: Invalid S3 output path: .*",
                "show_segments is upstream_failed",
                "The job failed, so show_segments did not run, and the task says why.",
            ],
        ),
    ):
        assert len(part) == len(expected), part
        for line, pattern in zip(part, expected, strict=True):
            assert re.fullmatch(pattern, line), (line, pattern)
    assert re.fullmatch(r"1500 rows of 5 segments are in s3://demo-bucket/.*", converted[-2])
    assert converted[-1] == "A picture of their sizes and overlaps: segments.svg"
    assert (tmp_path / "segments.svg").read_text().startswith("<svg")
    assert done == [
        "Done: one task ran when its segments were there; one was stopped, with the reason; "
        "one DAG made a table."
    ]
    assert next_steps[0] == "What next:"


def test_without_the_extra_the_third_part_says_so_in_a_line_and_is_left_out(monkeypatch, tmp_path):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "airflow_provider_personalize_segments.testing.demo.find_spec",
        lambda name: None if name == "pyarrow" else find_spec(name),
    )
    listener = Listener()
    with LocalPersonalize() as local:
        assert Demo(local, listener, tmp_path).convert() is False
        assert len(local.calls) == 0
    ((_, *told),) = listener.parts()
    assert told == [WITHOUT_PARQUET]
    assert "\n" not in WITHOUT_PARQUET
    assert "pip install 'airflow-provider-personalize-segments[parquet]'" in WITHOUT_PARQUET
    assert list(tmp_path.iterdir()) == []


def test_segments_are_read_from_all_files_of_the_table_and_no_other():
    with LocalPersonalize() as local:
        jobs = ExampleJobs(local)
        session = boto3.session.Session("testing", "testing", region_name="us-east-1")
        s3 = session.client("s3", endpoint_url=local.endpoint_url)
        for name, query, users in (
            ("part-0.parquet", "a", ["u1", "u2"]),
            ("part-1.parquet", "b", ["u1"]),
            ("_errors/part-0.parquet", "c", ["u3"]),
        ):
            file = io.BytesIO()
            pq.write_table(pa.table({"query": [query] * len(users), "user_id": users}), file)
            s3.put_object(Bucket=BUCKET, Key=f"tables/{name}", Body=file.getvalue())
        s3.put_object(Bucket=BUCKET, Key="tables/_SUCCESS", Body=b"{}")
        found = jobs.read_segments(f"s3://{BUCKET}/tables/")
    assert found == {"a": {"u1", "u2"}, "b": {"u1"}}
