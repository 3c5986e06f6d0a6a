"""What the demo says at its end; CI runs all of it, in a checkout and as users install it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import airflow_provider_personalize_segments as package
from airflow_provider_personalize_segments.testing.demo import describe_next_steps

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
    assert len(files) == 2
    assert all(Path(file).is_file() and Path(file).is_relative_to(installed) for file in files), files
    modules = [re.fullmatch(rf"python -m pydoc {package.__name__}\.(\w+)", each)[1] for each in commands]
    assert modules == ["operators", "sensors"]
    assert all((installed / f"{module}.py").is_file() for module in modules)
