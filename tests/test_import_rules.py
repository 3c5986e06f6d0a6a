"""The house's arrows, executed as CONTRIBUTING.md draws them; and nothing heavy in a DAG file's way."""

from __future__ import annotations

import ast
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import airflow_provider_personalize_segments as package

NAME = package.__name__
ROOT = Path(package.__file__).parent
CONTRIBUTING = (ROOT.parent / "CONTRIBUTING.md").read_text()
HEAVY = (
    "boto3",
    "botocore",
    "requests",
    "aiobotocore",
    "moto",
    "pyarrow",
    "airflow.providers.amazon",
    "airflow.providers.openlineage",
    f"{NAME}.clients",
    f"{NAME}.hooks",
    f"{NAME}.connections",
    f"{NAME}.creating.once",
    f"{NAME}.creating.steps",
    f"{NAME}.errors",
    f"{NAME}.parameters",
    f"{NAME}.waiting.poller",
    f"{NAME}.waiting.steps",
    f"{NAME}.triggers",
    f"{NAME}.testing",
)


class Imports(NamedTuple):
    """
    Names of modules, ours without the package's name, others by the distribution's first name.

    :param at_top: imported when the module is loaded
    :param later: imported when a function of it runs
    """

    at_top: frozenset[str]
    later: frozenset[str]


def read_rules():
    """Return the table of CONTRIBUTING.md: each module with what it imports."""
    table = CONTRIBUTING.partition("## Where things live")[2].partition("\n## ")[0]
    rules = {}
    for row in re.findall(r"^\| `(.*?)` \|.*?\|(.*?)\|(.*?)\|$", table, re.MULTILINE):
        rules[row[0]] = Imports(*(frozenset(re.findall(r"`(.*?)`", cell)) for cell in row[1:]))
    return rules


RULES = read_rules()


def find_modules():
    """Return all modules of the package with their files."""
    found = {}
    for each in pkgutil.walk_packages(package.__path__, f"{NAME}."):
        name = each.name.removeprefix(f"{NAME}.")
        path = ROOT.joinpath(*name.split("."))
        found[name] = path / "__init__.py" if each.ispkg else path.with_suffix(".py")
    return found


MODULES = find_modules()


def find_imports(path):
    """Return what a file imports; names for type checkers only do not count."""
    top, later = set(), set()

    def visit(node, inside):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            names = []
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path.name}: a relative import"
                names = [child.module]
                if f"{child.module}.".startswith(f"{NAME}."):
                    inner = child.module.removeprefix(NAME).lstrip(".")
                    full = [f"{inner}.{alias.name}".lstrip(".") for alias in child.names]
                    names = [f"{NAME}.{each}" if each in MODULES else child.module for each in full]
            (later if inside else top).update(filter(None, map(short, names)))
            visit(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    visit(ast.parse(path.read_text()), False)
    return Imports(frozenset(top), frozenset(later - top))


def short(name):
    """Return a module's name as the table has it; nothing for the standard library."""
    if name == NAME:
        return "__version__"
    root = name.partition(".")[0]
    return (
        name.removeprefix(f"{NAME}.") if root == NAME else root if root not in sys.stdlib_module_names else ""
    )


def test_every_module_has_its_row():
    assert set(MODULES) == set(RULES)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_what_its_row_says_and_nothing_else(module):
    assert find_imports(MODULES[module]) == RULES[module]


def test_no_arrow_leads_back():
    """Modules that import each other while they are loaded are one module in two files."""
    order = []
    while len(order) < len(RULES):
        ready = [
            each
            for each in RULES
            if each not in order and {*RULES[each].at_top} & RULES.keys() <= {*order, each}
        ]
        assert ready, sorted(RULES.keys() - {*order})
        order.extend(ready)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nothing_needs_the_local_personalize_and_waiting_not_creating(module):
    names = RULES[module].at_top | RULES[module].later
    if not module.startswith("testing"):
        assert not [name for name in names if name.startswith("testing")]
    if module.startswith("waiting"):
        # The triggers' path is the one thing that both share.
        assert not [name for name in names if name.startswith("creating")]
    if module.startswith("testing"):
        own = {name for name in names if name in MODULES and not name.startswith("testing")}
        # Running a DAG shortens waits, and takes a pause away that only a scheduler and a worker need.
        # What AWS does not document of input and output is assumed once, for both sides.
        more = {
            "testing.short_waits": {"creating.rendered", "creating.task", "waiting.trigger"},
            "testing.output": {"output.own_files"},
        }
        # What AWS's pages say of a recipe's input is one rule, for the check and for jobs.
        assert own <= {"arns", "jobs", "recipes"} | more.get(module, set())


def loaded_by(statement, before=""):
    """Names of the modules that a statement adds to a fresh process."""
    added = "print(json.dumps(sorted(set(sys.modules) - seen)))"
    script = f"import sys, json\n{before}\nseen = set(sys.modules)\n{statement}\n{added}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("module", ["sensors", "operators"])
def test_a_dag_file_loads_nothing_heavy(module):
    # Loaded in a process that has what every DAG processor has; whatever that is, it must not hide ours.
    loaded = loaded_by(f"import {NAME}.{module}", before="from airflow import DAG")
    heavy = [name for name in loaded if any(name == each or name.startswith(f"{each}.") for each in HEAVY)]
    assert heavy == []


def test_what_counts_as_heavy_is_found_when_it_is_there():
    loaded = loaded_by(f"import {NAME}.hooks")
    assert {"boto3", "botocore", "airflow.providers.amazon"} <= set(loaded)


EVERY_DAG_FILE = """
try:
    from airflow.sdk import DAG, BaseOperator, BaseSensorOperator
    from airflow.sdk.execution_time.xcom import XCom
except ImportError:
    from airflow.models import DAG, BaseOperator, XCom
    from airflow.sensors.base import BaseSensorOperator
from airflow import exceptions
from airflow.configuration import conf
"""
"""What a DAG file with an operator and a sensor in it has loaded, whoever wrote them."""


def test_a_dag_file_loads_little_else():
    loaded = loaded_by(f"import {NAME}.sensors, {NAME}.operators", before=EVERY_DAG_FILE)
    others = [name for name in loaded if not name.startswith(NAME)]
    assert len(others) <= 5, others
    # What all tasks share, four modules that users name, and the tasks of waiting, creating and output.
    assert len(loaded) - len(others) <= 13, sorted(set(loaded) - set(others))


def test_the_package_itself_loads_nothing():
    assert loaded_by(f"import {NAME}") == [NAME]
