"""Shows the provider at work: a job is created and read, one that fails stops its DAG, one becomes a table.

``python -m airflow_provider_personalize_segments.testing.demo`` runs three of the example DAGs through
Airflow itself, as a user's tests do. Nothing leaves the machine.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any, Never

from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.testing.airflow_home import (
    DemoFailed,
    airflow_home,
    find_example_dags,
)
from airflow_provider_personalize_segments.testing.example_jobs import ExampleJobs
from airflow_provider_personalize_segments.testing.picture import draw_segments

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.testing.runs import DagRunResult
    from airflow_provider_personalize_segments.testing.server import LocalPersonalize

LOOKS_PER_STATUS = 3
POKE_INTERVAL = 1.0
"""Seconds between two looks; a real job takes half an hour, and a minute is right for it."""
TIMEOUT = 300.0
"""Seconds that a task waits at most."""
USERS_PER_SEGMENT = 300
PICTURE = "segments.svg"
WITHOUT_PARQUET = (
    "Left out, as it needs the extra parquet: pip install 'airflow-provider-personalize-segments[parquet]'"
)


class Narrator:
    """
    Tells what happens, with the seconds since the start; the rest of the output goes to a log file.

    :param log: where Airflow's own output goes
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self._start = time.monotonic()
        self._screen = os.fdopen(os.dup(1), "w", buffering=1)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Have the screen alone: what this process prints meanwhile lands in the log."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        saved = os.dup(1), os.dup(2)
        with self.log.open("a") as log:
            for descriptor in (1, 2):
                os.dup2(log.fileno(), descriptor)
            try:
                yield
            finally:
                for stream in (sys.stdout, sys.stderr):
                    stream.flush()
                for descriptor, original in zip((1, 2), saved, strict=True):
                    os.dup2(original, descriptor)
                    os.close(original)

    @property
    def screen(self) -> IO[str]:
        """Where people look."""
        return self._screen

    def head(self, text: str) -> None:
        """Begin a part."""
        self._screen.write(f"\n{text}\n")

    def tell(self, text: str) -> None:
        """Say one thing."""
        self._screen.write(f"{time.monotonic() - self._start:6.1f} s  {text}\n")


def describe_next_steps() -> list[str]:
    """Return what to do after the demo, a line each: in a checkout, or with what is installed."""
    examples = find_example_dags()
    if (examples.parent / "Makefile").is_file():
        steps = {
            "make airflow": "the same and more in Airflow's UI, to click around in",
            "example_dags/create_segment_job.py": "the first DAG, to copy into your DAGs folder",
            "example_dags/wait_for_segment_job.py": "the second",
            "example_dags/segments_to_parquet.py": "the third",
            "docs/creating.md, docs/waiting.md, docs/tables.md": "the guides",
        }
    else:
        package = "airflow_provider_personalize_segments"
        steps = {
            str(examples / "create_segment_job.py"): "the first DAG, to copy into your DAGs folder",
            str(examples / "wait_for_segment_job.py"): "the second",
            str(examples / "segments_to_parquet.py"): "the third",
            f"python -m pydoc {package}.operators": "what each parameter means",
            f"python -m pydoc {package}.sensors": "the same for sensors",
        }
    width = max(len(step) for step in steps)
    return [f"{step:<{width}}  {meaning}" for step, meaning in steps.items()]


def has_parquet() -> bool:
    """Return whether what the extra ``parquet`` brings is installed."""
    return find_spec("pyarrow") is not None


class Demo:
    """
    The three parts.

    :param local: the running local Personalize
    :param narrator: tells about it
    :param folder: where the picture goes
    :param poke_interval: seconds between two looks
    """

    def __init__(
        self, local: LocalPersonalize, narrator: Narrator, folder: Path, poke_interval: float = POKE_INTERVAL
    ) -> None:
        self._local = local
        self._narrator = narrator
        self._folder = folder
        self._poke_interval = poke_interval
        self._jobs = ExampleJobs(local)
        local.on_status_change(self._tell_change)

    def run(self) -> None:
        """
        Run all parts.

        :raises DemoFailed: when one does not end as it should
        """
        self.create()
        self.stop()
        is_converted = self.convert()
        done = "one task ran when its segments were there; one was stopped, with the reason"
        self._narrator.head(f"Done: {done}{'; one DAG made a table' if is_converted else ''}.")
        self._narrator.head("\n  ".join(["What next:", *describe_next_steps()]))

    def create(self) -> None:
        """Let a DAG create a job, and read its segments."""
        self._narrator.head("1. A DAG that creates a batch segment job, and reads its segments")
        version = self._local.add_solution_version("demo-segments")
        run = self._run_dag("create_segment_job", {"solution_version_arn": version})
        self._expect(run, {"upload_input": "success", "create_job": "success", "show_segments": "success"})
        created = self._local.calls.count(BatchJobKind.SEGMENT.create_operation)
        if created != 1:
            raise DemoFailed(f"Create was called {created} times.")
        self._narrator.tell("One job was created. It became ACTIVE, and only then did show_segments run.")

    def stop(self) -> None:
        """Let a DAG wait for a job that fails."""
        self._narrator.head("2. A DAG that waits for another team's job, which fails")
        reason = "Invalid S3 output path: the service role may not write to it"
        version = self._local.add_solution_version("demo-failing")
        self._local.fail_job("doomed-segments", reason)
        self._start("doomed-segments", version, 100)
        run = self._run_dag("wait_for_segment_job", {"solution_version_arn": version})
        self._expect(
            run,
            {
                "list_jobs": "success",
                "take_newest": "success",
                "wait_for_job": "failed",
                "show_segments": "upstream_failed",
            },
        )
        if reason not in str(failure := run.errors.get("wait_for_job")):
            raise DemoFailed(f"wait_for_job failed without the job's reason, but with {failure!r}.")
        self._narrator.tell("The job failed, so show_segments did not run, and the task says why.")

    def convert(self) -> bool:
        """Let a DAG make a table of a job's segments; return whether what that needs is installed."""
        self._narrator.head(
            "3. A DAG that waits for a job, verifies and converts its output, and queries the table"
        )
        if not has_parquet():
            self._narrator.tell(WITHOUT_PARQUET)
            return False
        version = self._local.add_solution_version("demo-tables")
        job_arn = self._start("weekly-segments", version, USERS_PER_SEGMENT)
        run = self._run_dag("segments_to_parquet", {"job_arn": job_arn})
        self._expect(run, {"wait_for_job": "success", "convert": "success", "show_segments": "success"})
        result = run.xcoms["convert"]
        segments = self._jobs.read_segments(result["outputPath"])
        users = sum(map(len, segments.values()))
        if not result["isComplete"] or result["rows"] != users:
            raise DemoFailed(f"The table holds {users} users of segments, and convert returned {result!r}.")
        self._narrator.tell(
            f"{result['rows']} rows of {len(segments)} segments are in {result['outputPath']}"
        )
        picture = self._folder / PICTURE
        picture.write_text(draw_segments(segments))
        self._narrator.tell(f"A picture of their sizes and overlaps: {picture.relative_to(Path.cwd())}")
        return True

    def _start(self, job_name: str, solution_version_arn: str, num_results: int) -> str:
        kind = BatchJobKind.SEGMENT
        input_path = self._jobs.put_input(kind)
        return self._jobs.start(kind, job_name, solution_version_arn, input_path, num_results)

    def _run_dag(self, name: str, conf: dict[str, str]) -> DagRunResult:
        """
        Run an example through Airflow and return how it ended.

        :param name: the DAG
        :param conf: its parameters
        """
        dag = self._load_dag(name)
        # Only what the example itself logs goes to the screen, not what Airflow logs meanwhile.
        example = dag.get_task("show_segments").python_callable.__globals__
        screen = self._narrator.screen
        example["log"] = SimpleNamespace(info=lambda message, *args: print(message % args, file=screen))
        for task in dag.tasks:
            # The callbacks are functions: Airflow 3.0 copies them with the task, and would copy a method's
            # object, too. The demo tells of failures afterwards: Airflow 3.1 and 3.2 call no callback then.
            task.on_execute_callback = [lambda context: self._tell(context, "starts")]
            task.on_success_callback = [lambda context: self._tell(context, "succeeded")]
        self._narrator.tell(f"Airflow runs {dag.dag_id}")
        with self._narrator.alone():
            run = self._local.run(dag, conf=conf, poke_interval=self._poke_interval, timeout=TIMEOUT)
        for task_id, error in run.errors.items():
            self._narrator.tell(f"{task_id} failed: {type(error).__name__}: {error}")
        for task_id, state in run.states.items():
            if state not in ("success", "failed"):
                self._narrator.tell(f"{task_id} is {state}")
        return run

    def _load_dag(self, name: str) -> Any:
        with self._narrator.alone():
            return runpy.run_path(str(find_example_dags() / f"{name}.py"))["dag"]

    def _tell_change(self, job: dict[str, Any], old: str | None, new: str, _: datetime) -> None:
        took = "" if old is None else f" after {job['lastUpdatedDateTime'] - job['creationDateTime']:.0f} s"
        self._narrator.tell(f"  {job['jobName']} is {new}{took}")

    def _tell(self, context: Mapping[str, Any], event: str) -> None:
        self._narrator.tell(f"{context['ti'].task_id} {event}")

    def _expect(self, run: DagRunResult, expected: dict[str, str]) -> None:
        if run.states != expected:
            raise DemoFailed(f"The tasks ended as {run.states}, expected {expected}.")


def main() -> None:
    """Run the demo; exits non-zero with the reason when anything is not as it should be."""
    with airflow_home("demo") as home:
        _run(home)


def _run(home: Path) -> None:
    narrator = Narrator(home / "airflow.log")
    narrator.tell("Starting Airflow (on SQLite, in a temporary folder) and a local Amazon Personalize ...")
    try:
        from airflow_provider_personalize_segments.testing.server import LocalPersonalize

        with LocalPersonalize(progress="by_call", calls=LOOKS_PER_STATUS) as local:
            Demo(local, narrator, home).run()
    except DemoFailed as error:
        _give_up(str(error), narrator)
    except Exception as error:
        _give_up(f"{type(error).__name__}: {error}", narrator)


def _give_up(reason: str, narrator: Narrator) -> Never:
    sys.exit(f"\nThe demo failed: {reason}\nAirflow's output is in {narrator.log}.")


if __name__ == "__main__":
    main()
