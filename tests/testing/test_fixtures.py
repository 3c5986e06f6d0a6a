from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lines import STRICT

PROJECT = Path(__file__).parents[2]

CONFTEST = """
pytest_plugins = ["airflow_provider_personalize_segments.testing.fixtures"]
"""
SUITE = """
import boto3
import pytest

from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.testing import mock_personalize


def names(**where):
    client = boto3.client("personalize", region_name="us-east-1", **where)
    found = [job["jobName"] for job in client.list_batch_segment_jobs()["batchSegmentJobs"]]
    client.close()
    return found


@pytest.mark.parametrize("round", [1, 2])
def test_in_process(personalize, round):
    assert names() == []
    personalize.add_job(
        BatchJobKind.SEGMENT, "nightly", solution_version_arn=personalize.add_solution_version()
    )
    assert names() == ["nightly"]


@pytest.mark.parametrize("round", [1, 2])
def test_server(local_personalize, round):
    where = {
        "endpoint_url": local_personalize.endpoint_url,
        "aws_access_key_id": "x",
        "aws_secret_access_key": "x",
    }
    assert names(**where) == []
    local_personalize.add_job(
        BatchJobKind.SEGMENT, "nightly", solution_version_arn=local_personalize.add_solution_version()
    )
    assert names(**where) == ["nightly"]


@pytest.fixture
def tmp_name(tmp_path):
    return tmp_path.name


@mock_personalize(progress="by_hand")
def test_decorated(tmp_name, personalize):
    assert tmp_name
    assert names() == []
    assert len(personalize.calls) == 1


@pytest.fixture
def own():
    with mock_personalize(progress="by_hand") as personalize:
        yield personalize


def test_own_fixture(own):
    assert names() == []
    assert len(own.calls) == 1
"""


@pytest.fixture
def run_pytest(tmp_path):
    def run(*, conftest, suite):
        (tmp_path / "conftest.py").write_text(conftest)
        (tmp_path / "test_suite.py").write_text(suite)
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "--strict-markers",
                *STRICT,
                "-p",
                "no:cacheprovider",
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(PROJECT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def test_a_users_suite(run_pytest):
    done = run_pytest(conftest=CONFTEST, suite=SUITE)
    assert "6 passed" in done.stdout, done.stdout + done.stderr


MARKED = """
import pytest

pytestmark = pytest.mark.personalize(users=7, statuses="documented")


def read(control):
    settings = control._settings
    return settings.progress, settings.steps[0], settings.population.size, settings.calls


def test_of_the_module(personalize):
    assert read(personalize) == ("immediately", "PENDING", 7, 1)


@pytest.mark.personalize(progress="by_hand", statuses="observed")
class TestClass:
    def test_nearer_marks_count_more(self, personalize):
        assert read(personalize) == ("by_hand", "CREATE PENDING", 7, 1)

    @pytest.mark.personalize(progress="by_call", calls=3)
    def test_and_those_of_the_test_most(self, local_personalize):
        assert read(local_personalize) == ("by_call", "CREATE PENDING", 7, 3)

    @pytest.mark.parametrize("personalize", [{"progress": "by_time"}, {"calls": 2}], indirect=True)
    def test_but_for_parameters(self, personalize):
        assert read(personalize) in [("by_time", "CREATE PENDING", 7, 1), ("by_hand", "CREATE PENDING", 7, 2)]


@pytest.mark.personalize("by_hand")
def test_without_names(personalize): ...


@pytest.mark.personalize(speed=1)
def test_unknown(personalize): ...
"""


def test_what_is_marked(run_pytest):
    done = run_pytest(conftest=CONFTEST, suite=MARKED)
    assert "5 passed, 2 errors" in done.stdout, done.stdout + done.stderr
    assert (
        "TypeError: The marker personalize takes options by name, such as progress='by_hand'" in done.stdout
    )
    assert "unexpected keyword argument 'speed'" in done.stdout


def test_they_are_there_only_when_asked_for(run_pytest):
    done = run_pytest(conftest="", suite="def test_it(personalize): ...\n")
    assert "fixture 'personalize' not found" in done.stdout, done.stdout + done.stderr


def test_without_moto_the_extra_is_named():
    script = "import sys\nsys.modules['moto'] = None\nimport airflow_provider_personalize_segments.testing\n"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "pip install 'airflow-provider-personalize-segments[testing]'" in done.stderr
