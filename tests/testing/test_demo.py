"""What the demo says at its end; CI runs all of it, in a checkout and as users install it."""

from __future__ import annotations

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
import pytest

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

    def __init__(self):
        self.heads, self.told = [], []
        self.head, self.tell = self.heads.append, self.told.append


@pytest.mark.parametrize("missing", ["pyarrow", "msgspec"])
def test_without_the_extra_the_third_part_says_so_in_a_line_and_is_left_out(missing, monkeypatch, tmp_path):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "airflow_provider_personalize_segments.testing.demo.find_spec",
        lambda name: None if name == missing else find_spec(name),
    )
    listener = Listener()
    with LocalPersonalize() as local:
        assert Demo(local, listener, tmp_path).convert() is False
        assert len(local.calls) == 0
    assert len(listener.heads) == 1
    assert listener.told == [WITHOUT_PARQUET]
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
