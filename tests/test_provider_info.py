"""What Airflow finds out about the package: as data, and through Airflow's own commands."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import re
import subprocess
import sys

import pytest

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


def airflow(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "providers", *arguments, "--output", "json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    complaints = [
        line for line in (done.stdout + done.stderr).splitlines() if DISTRIBUTION in line and "rror" in line
    ]
    assert complaints == []
    # Airflow 3.0 logs to the same stream; its lines begin with a date.
    printed = "\n".join(line for line in done.stdout.splitlines() if not re.match(r"\[\d{4}-", line))
    return json.loads(printed[printed.index("[") :])


@pytest.mark.usefixtures("_airflow_database")
class TestAirflowsCommands:
    def test_list(self):
        (ours,) = (each for each in airflow("list") if each["package_name"] == DISTRIBUTION)
        assert ours["version"] == package.__version__

    def test_get(self):
        (ours,) = airflow("get", DISTRIBUTION)
        assert ours["Provider"] == DISTRIBUTION
        assert ours["Version"] == package.__version__

    def test_links(self):
        listed = {each["extra_link_class_name"] for each in airflow("links")}
        assert set(get_provider_info()["extra-links"]) <= listed

    @pytest.mark.parametrize("what", ["hooks", "triggers"])
    def test_the_others_run(self, what):
        assert isinstance(airflow(what), list)
