"""What Airflow finds out about the package: as data, and through Airflow's own commands."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import re
import subprocess
import sys
from importlib.resources import files

import pytest
from jsonschema import validate

import airflow_provider_personalize_segments as package
from airflow_provider_personalize_segments.provider_info import get_provider_info

DISTRIBUTION = "airflow-provider-personalize-segments"


def test_the_entry_point_leads_here():
    (entry_point,) = (
        each
        for each in importlib.metadata.entry_points(group="apache_airflow_provider")
        if each.dist.name == DISTRIBUTION
    )
    assert entry_point.load() is get_provider_info


def test_it_names_the_distribution_it_comes_in():
    info = get_provider_info()
    assert info["package-name"] == DISTRIBUTION
    assert info["versions"] == [package.__version__] == [importlib.metadata.version(DISTRIBUTION)]
    assert DISTRIBUTION.replace("-", "_") == package.__name__


def test_every_module_it_names_is_there():
    info = get_provider_info()
    integrations = {each["integration-name"] for each in info["integrations"]}
    for section in ("operators", "sensors", "triggers", "hooks"):
        for entry in info[section]:
            assert entry["integration-name"] in integrations
            for module in entry["python-modules"]:
                importlib.import_module(module)


def test_airflow_knows_the_setting_and_that_it_is_empty():
    ((section, described),) = get_provider_info()["config"].items()
    ((name, option),) = described["options"].items()
    assert (section, name, option["default"]) == ("personalize", "job_name_prefix", "")
    assert option["version_added"] == package.__version__
    schema = json.loads(files("airflow").joinpath("provider_info.schema.json").read_text())
    validate(get_provider_info(), schema)


COMMANDS = {
    "list": ["list"],
    "get": ["get", DISTRIBUTION],
    "links": ["links"],
    "hooks": ["hooks"],
    "triggers": ["triggers"],
}
# One process for all of them, as Airflow takes seconds of a core to be imported.
RUN_COMMANDS = """
import json, sys
from airflow.__main__ import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["airflow", "providers", *arguments, "--output", "json"]
    main()
    print("\\0", flush=True)
"""


@pytest.fixture(scope="module")
def answers(_airflow_database):
    """What ``airflow providers`` answers, by command."""
    done = subprocess.run(
        [sys.executable, "-c", RUN_COMMANDS, json.dumps([*COMMANDS.values()])],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    complaints = [
        line for line in (done.stdout + done.stderr).splitlines() if DISTRIBUTION in line and "rror" in line
    ]
    assert complaints == []
    found = {}
    for command, output in zip(COMMANDS, done.stdout.split("\0"), strict=False):
        # Airflow 3.0 logs to the same stream; its lines begin with a date.
        printed = "\n".join(line for line in output.splitlines() if not re.match(r"\[\d{4}-", line))
        found[command] = json.loads(printed[printed.index("[") :])
    return found


class TestAirflowsCommands:
    def test_list(self, answers):
        (ours,) = (each for each in answers["list"] if each["package_name"] == DISTRIBUTION)
        assert ours["version"] == package.__version__

    def test_get(self, answers):
        (ours,) = answers["get"]
        assert ours["Provider"] == DISTRIBUTION
        assert ours["Version"] == package.__version__

    def test_links(self, answers):
        listed = {each["extra_link_class_name"] for each in answers["links"]}
        assert set(get_provider_info()["extra-links"]) <= listed

    @pytest.mark.parametrize("what", ["hooks", "triggers"])
    def test_the_others_run(self, what, answers):
        assert isinstance(answers[what], list)
