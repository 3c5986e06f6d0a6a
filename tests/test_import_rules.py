"""The house's arrows, executed; and nothing heavy in a DAG file's way."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import airflow_provider_personalize_segments as package

NAME = package.__name__
ROOT = Path(package.__file__).parent

MAY_IMPORT = {
    "__init__": set(),
    "provider_info": {""},
    "airflow_compat": set(),
    "jobs": set(),
    "plain_json": set(),
    "bounded_calls": set(),
    "job_names": {"jobs"},
    "parameters": {"jobs"},
    "job_requests": {"jobs", "parameters"},
    "errors": {"airflow_compat", "plain_json"},
    "hooks": {"airflow_compat", "errors", "jobs"},
    "tasks": {"airflow_compat", "errors", "jobs", "parameters"},
    "verdicts": {"errors", "jobs", "plain_json"},
    "connections": {"airflow_compat", "bounded_calls"},
    "polling": {"bounded_calls", "connections", "jobs", "verdicts"},
    "job_creation": {"errors", "job_names", "job_requests", "jobs", "plain_json"},
    "events": {"errors", "jobs"},
    "tries": {"airflow_compat", "jobs"},
    "slots": {"connections", "job_creation"},
    "triggers": {
        "airflow_compat",
        "events",
        "connections",
        "job_creation",
        "errors",
        "jobs",
        "plain_json",
        "polling",
        "slots",
        "verdicts",
    },
    "links": {"airflow_compat", "errors"},
    "waiting": {"airflow_compat", "errors", "jobs", "links", "parameters", "tasks", "verdicts"},
    "sensors": {"airflow_compat", "errors", "jobs", "parameters", "tasks", "waiting"},
    "creating": {"airflow_compat", "errors", "jobs", "links", "parameters", "tasks", "verdicts", "waiting"},
    "operators": {"airflow_compat", "creating", "errors", "jobs", "parameters", "plain_json", "tasks"},
}
MAY_IMPORT_WHEN_IT_RUNS = {
    "links": {"bounded_calls"},
    "tasks": {"bounded_calls", "hooks"},
    "connections": {"errors", "hooks"},
    "waiting": {"bounded_calls", "events", "triggers"},
    "creating": {"events", "job_creation", "job_names", "job_requests", "tries", "triggers"},
}
FOREIGN = {
    "airflow_compat": {"airflow", "asgiref"},
    "hooks": {"airflow", "botocore"},
    "triggers": {"airflow"},
}
"""Besides the standard library; for everything else: nothing."""

HEAVY = (
    "boto3",
    "botocore",
    "requests",
    "aiobotocore",
    "moto",
    "pyarrow",
    "airflow.providers.amazon",
    "airflow.providers.openlineage",
    f"{NAME}.hooks",
    f"{NAME}.connections",
    f"{NAME}.job_creation",
    f"{NAME}.job_requests",
    f"{NAME}.polling",
    f"{NAME}.triggers",
    f"{NAME}.testing",
)


def modules():
    return {path.stem: path for path in ROOT.glob("*.py")}


def imports(path, *, at_top):
    """Modules that a file imports while it is loaded, or else only when it runs; types do not count."""
    tree = ast.parse(path.read_text())
    top, later = set(), set()

    def visit(node, inside):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                (later if inside else top).update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path.name}: a relative import"
                (later if inside else top).add(child.module)
            visit(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    visit(tree, False)
    return top if at_top else later


def own(names):
    return {name.removeprefix(NAME).lstrip(".") for name in names if name.partition(".")[0] == NAME}


def foreign(names):
    roots = {name.partition(".")[0] for name in names}
    return {root for root in roots if root not in sys.stdlib_module_names and root != NAME}


def test_every_module_has_its_rule():
    assert set(modules()) == set(MAY_IMPORT)


@pytest.mark.parametrize("module", sorted(MAY_IMPORT))
def test_a_module_imports_what_it_may(module):
    path = modules()[module]
    assert own(imports(path, at_top=True)) <= MAY_IMPORT[module]
    assert own(imports(path, at_top=False)) <= MAY_IMPORT_WHEN_IT_RUNS.get(module, set())
    names = imports(path, at_top=True) | imports(path, at_top=False)
    assert foreign(names) <= FOREIGN.get(module, set())


def test_the_local_personalize_knows_only_the_jobs():
    for path in (ROOT / "testing").rglob("*.py"):
        names = own(imports(path, at_top=True) | imports(path, at_top=False))
        assert {name for name in names if not name.startswith("testing")} <= {"jobs"}, path.name


def loaded_by(statement, before=""):
    """Names of the modules that a statement adds to a fresh process."""
    added = "print(json.dumps(sorted(set(sys.modules) - seen)))"
    script = f"import sys, json\n{before}\nseen = set(sys.modules)\n{statement}\n{added}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("module", ["sensors", "operators"])
def test_a_dag_file_loads_nothing_heavy(module):
    # Loaded in a process that has what every DAG processor has; whatever that is, it must not hide ours.
    loaded = loaded_by(
        f"import {NAME}.{module}", before="from airflow.providers.common.compat.sdk import DAG"
    )
    heavy = [name for name in loaded if any(name == each or name.startswith(f"{each}.") for each in HEAVY)]
    assert heavy == []


def test_what_counts_as_heavy_is_found_when_it_is_there():
    loaded = loaded_by(f"import {NAME}.hooks")
    assert {"boto3", "botocore", "airflow.providers.amazon"} <= set(loaded)


def test_a_dag_file_loads_little_else():
    # What every DAG file with an operator and a sensor in it has loaded, whoever wrote them.
    names = "BaseOperator, BaseSensorOperator, PokeReturnValue, DAG, conf, AirflowFailException"
    before = f"from airflow.providers.common.compat.sdk import {names}"
    loaded = loaded_by(f"import {NAME}.sensors, {NAME}.operators", before=before)
    others = [name for name in loaded if not name.startswith(NAME)]
    assert len(others) <= 5, others


def test_the_package_itself_loads_nothing():
    assert loaded_by(f"import {NAME}") == [NAME]
