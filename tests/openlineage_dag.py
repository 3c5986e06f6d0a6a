"""A DAG of all cases that OpenLineage is told about, and a script that runs it through Airflow.

The script runs in a process of its own: Airflow reads once whether there is an OpenLineage to report to.
"""

from __future__ import annotations

import contextlib
import json
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

POKE, RESCHEDULE, DEFERRABLE = MODES = ("poke", "reschedule", "deferrable")
IN_PLACE = (POKE, DEFERRABLE)
"""The modes that a create operator has, too."""
ACTIVE, FAILED, REFUSED, OVERDUE, SKIPPED = "active", "failed", "refused", "overdue", "skipped"
ADOPTED, SPOILED = "adopted", "spoiled"
"""The job was there before the task; the job is ACTIVE, and a record of its output has an error."""
BUCKET = "demo-bucket"
ROLE = "arn:aws:iam::123456789012:role/personalize"
MISSING = "arn:aws:personalize:us-east-1:123456789012:solution/no-such-solution/1"
DECLARED = "declared"
"""The folder of what the tasks declare that they read and write."""
COUNTED = {"max_error_rate": 0.0}


class Case(NamedTuple):
    """
    A task, and what becomes of its job.

    :param task: ``sensor``, ``create``, or ``begin``, which creates a job and does not wait for it
    :param kind: the kind of job
    :param mode: how the task waits
    :param ending: how it ends
    """

    task: str
    kind: str
    mode: str
    ending: str

    @property
    def task_id(self) -> str:
        return "-".join(self)

    @property
    def job_name(self) -> str:
        """The name of its job; a sensor waits for the one that another task created."""
        return "-".join(("begin", *self[1:])) if self.task == "sensor" else self.task_id

    @property
    def has_declared(self) -> bool:
        """Whether the author of the DAG declares what the task reads and writes."""
        return self.kind == "inference"

    @property
    def job_arn(self) -> str:
        return f"arn:aws:personalize:us-east-1:123456789012:batch-{self.kind}-job/{self.job_name}"

    @property
    def input_path(self) -> str:
        return f"s3://{BUCKET}/input/{SPOILED if self.ending == SPOILED else self.kind}.jsonl"

    @property
    def output_path(self) -> str:
        """With a slash at its end or without, as both are allowed."""
        return f"s3://{BUCKET}/output/{self.job_name}{'/' if self.kind == 'segment' else ''}"


def list_cases() -> list[Case]:
    cases = [Case("create", "segment", mode, each) for each in (ACTIVE, FAILED, REFUSED) for mode in IN_PLACE]
    for ending in (ACTIVE, FAILED, REFUSED, OVERDUE):
        for mode in MODES:
            if ending in (ACTIVE, FAILED):
                cases.append(Case("begin", "segment", mode, ending))
            cases.append(Case("sensor", "segment", mode, ending))
    cases.append(Case("create", "inference", POKE, ACTIVE))
    cases += [Case(task, "inference", DEFERRABLE, ACTIVE) for task in ("begin", "sensor")]
    cases += [Case(task, "segment", POKE, SKIPPED) for task in ("begin", "sensor")]
    cases += [Case("begin", "segment", mode, ADOPTED) for mode in IN_PLACE]
    return [*cases, Case("create", "segment", POKE, SPOILED)]


CASES = list_cases()


def make_dag(cases):
    from airflow_names import DAG, Asset

    from airflow_provider_personalize_segments import operators, sensors

    def make(case):
        title = case.kind.title()
        common = {
            "task_id": case.task_id,
            "deferrable": case.mode == DEFERRABLE,
            "trigger_rule": "all_done",
            "botocore_config": {"retries": {"total_max_attempts": 1}},
        }
        if case.has_declared:
            common["inlets"] = [Asset(f"s3://{BUCKET}/{DECLARED}/read")]
            common["outlets"] = [Asset(f"s3://{BUCKET}/{DECLARED}/written")]
            if case.task != "sensor":  # which learns of the job's own output when it is over
                common["outlets"].append(Asset(case.output_path))
        if case.task == "sensor":
            return getattr(sensors, f"PersonalizeBatch{title}JobSensor")(
                **common,
                job_arn=case.job_arn,
                poke_interval=0.1,
                timeout=0.3 if case.ending == OVERDUE else 60,
                mode=RESCHEDULE if case.mode == RESCHEDULE else POKE,
                soft_fail=case.ending == SKIPPED,
                **(COUNTED if case.ending == ACTIVE else {}),
            )
        return getattr(operators, f"PersonalizeCreateBatch{title}JobOperator")(
            **common,
            job_name=case.job_name,
            solution_version_arn=MISSING if case.ending == REFUSED else f"{{{{ dag_run.conf.{case.kind} }}}}",
            role_arn=ROLE,
            input_path=case.input_path,
            output_path=case.output_path,
            num_results=3,
            poll_interval=0.1,
            wait_for_completion=case.task == "create",
            **(COUNTED if case.task == "create" else {}),
        )

    with DAG("lineage", schedule=None, default_args={"retries": 0}) as dag:
        # One after the other: no more than five jobs run at a time.
        before = None
        for case in cases:
            task = make(case)
            if before is not None:
                before >> task
            before = task
    return dag


class NoOpenLineage:
    """Makes Python find nothing of OpenLineage, as where it is not installed."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.startswith(("openlineage", "airflow.providers.openlineage")):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    @classmethod
    def install(cls):
        sys.meta_path.insert(0, cls)
        # Airflow asks either of them for the providers that are installed.
        for name in ("importlib.metadata", "importlib_metadata"):
            with contextlib.suppress(ImportError):
                metadata = import_module(name)
                metadata.distributions = partial(cls._filter, metadata.distributions)

    @staticmethod
    def _filter(distributions, **named):
        return (each for each in distributions(**named) if "openlineage" not in each.metadata["Name"])


def main(conf, task_ids, is_without):
    if is_without:
        NoOpenLineage.install()
    from repetition import spare_botocore, spare_collector

    from airflow_provider_personalize_segments.testing.runs import run_dag

    spare_botocore()
    spare_collector()
    cases = [case for case in CASES if case.task_id in task_ids]
    result = run_dag(make_dag(cases), environment={}, conf=conf, poke_interval=0.1)
    modules = sorted(each for each in sys.modules if "lineage" in each)
    return {"states": dict(result.states), "modules": modules}


if __name__ == "__main__":
    answer = main(*json.loads(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(answer))
