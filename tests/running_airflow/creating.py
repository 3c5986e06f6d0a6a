"""The DAGs of test_running_creation.py, which writes the plan beside them."""

import json
import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import botocore

try:
    from airflow.sdk import DAG, AssetAlias, BaseOperator
except ImportError:
    from airflow.datasets import DatasetAlias as AssetAlias
    from airflow.models import DAG, BaseOperator

from airflow_provider_personalize_segments import links
from airflow_provider_personalize_segments.operators import (
    PersonalizeCreateBatchSegmentJobOperator,
    PersonalizeSegmentsToParquetOperator,
)
from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor

links.PATIENCE = 60.0  # on a busy machine the call for a link takes more than the second that it has
FOLDER = Path(__file__).parent
PLAN = json.loads((FOLDER / "plan.json").read_text())
START = {"schedule": None, "start_date": datetime(2026, 1, 1, tzinfo=UTC)}


def record(word, context, **details):
    line = {"word": word, "task_id": context["ti"].task_id, "pid": os.getpid(), **details}
    # One write to a file opened for appending is not mixed up with those of other processes.
    descriptor = os.open(FOLDER / "events.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, (json.dumps(line) + "\n").encode())
    os.close(descriptor)


def kill_once(word, context):
    """Kill this very process, unless that was done before."""
    name = f"{word}.{context['ti'].task_id}"
    try:
        (FOLDER / name).touch(exist_ok=False)
    except FileExistsError:
        return
    record(word, context)
    os.kill(os.getpid(), signal.SIGKILL)


class Create(PersonalizeCreateBatchSegmentJobOperator):
    """Says which process it runs in, whether anew or resumed."""

    def pre_execute(self, context):
        record("runs", context)


class CreateAndDieBeforeKnowing(Create):
    """Killed when the answer to Create is there, before anybody could write it down."""

    def pre_execute(self, context):
        super().pre_execute(context)

        def die(**_):
            kill_once("killed after the answer", context)

        botocore.register_initializer(
            lambda session: session.register("after-call.personalize.CreateBatchSegmentJob", die)
        )


class CreateAndDieWhenResumed(Create):
    """Killed when it is back from the triggerer, which created the job, before it could write that down."""

    def resume_execution(self, next_method, next_kwargs, context):
        kill_once("killed when resumed", context)
        return super().resume_execution(next_method, next_kwargs, context)


class Convert(PersonalizeSegmentsToParquetOperator):
    """Killed with a call to S3, each time another task at another moment."""

    MOMENTS: ClassVar = {
        0: ("before-call.s3.GetObject", "items-00.json.out"),
        1: ("before-call.s3.PutObject", "_staging/_part-00001"),
        2: ("after-call.s3.PutObject", "_staging/_part-00002"),
        3: ("before-call.s3.PutObject", ".parquet.json"),
        4: ("after-call.s3.PutObject", ".parquet.json"),
    }
    """By map index: the call, and what its path holds."""
    OF_THE_LAST: ClassVar = [
        ("before-call.s3.CopyObject", "part-00000"),
        ("after-call.s3.CopyObject", "part-00007"),
        ("before-call.s3.PutObject", "_SUCCESS"),
        ("after-call.s3.PutObject", "_SUCCESS"),
    ]
    """Of the task that completes the result, whichever that is."""

    def pre_execute(self, context):
        record("runs", context)
        index = context["ti"].map_index
        moments = [(f"killed {index}", *self.MOMENTS[index])] if index in self.MOMENTS else []
        moments += [(f"killed at the end, {event} {path}", event, path) for event, path in self.OF_THE_LAST]
        botocore.register_initializer(lambda session: self.prepare(session, moments, context))

    @staticmethod
    def prepare(session, moments, context):
        paths = []  # an answer does not say what was asked

        def look(event_name, params=None, **_):
            if params is not None:
                paths[:] = [params["url_path"]]
            for word, event, path in moments:
                if event == event_name and path in paths[0]:
                    kill_once(word.replace("/", "-"), context)

        session.register("before-call.s3", look)
        session.register("after-call.s3", look)


class Downstream(BaseOperator):
    def execute(self, context):
        (upstream,) = self.upstream_task_ids
        record("ran", context, value=context["ti"].xcom_pull(task_ids=upstream))


def create(operator, task_id, **arguments):
    arguments = {
        "deferrable": True,
        "retries": 3,
        "input_path": f"{PLAN['input']}/{task_id}.jsonl",
    } | arguments
    return operator(
        task_id=task_id,
        solution_version_arn=PLAN["solution_version_arn"],
        role_arn=PLAN["role_arn"],
        output_path=f"{PLAN['output']}/{task_id}/",
        poll_interval=PLAN["poll_interval"],
        retry_delay=1,
        **arguments,
    )


def sense(task_id, job, **arguments):
    return PersonalizeBatchSegmentJobSensor(
        task_id=task_id, job_arn=PLAN["sensed"][job], poke_interval=PLAN["poll_interval"], **arguments
    )


with DAG("killed", **START):
    for each in (
        create(Create, "killed_before_the_answer"),
        create(Create, "killed_with_the_worker"),
        create(CreateAndDieBeforeKnowing, "killed_after_the_answer"),
        create(Create, "killed_while_waiting", deferrable=False),
    ):
        each >> Downstream(task_id=f"after.{each.task_id}")

with DAG("killed_deferred", **START):
    create(Create, "killed_while_deferred") >> Downstream(task_id="after.killed_while_deferred")

with DAG("killed_in_queue", **START):
    for each in (
        create(Create, "killed_in_the_triggerer"),
        create(CreateAndDieWhenResumed, "killed_when_resumed"),
    ):
        each >> Downstream(task_id=f"after.{each.task_id}")

with DAG("killed_often", **START):
    for each in range(PLAN["kills"]):
        # Only a record tells a task with `fail` that the job is its own.
        chosen = {"job_name": f"often-{each}", "if_exists": "fail"} if PLAN["has_record"] and each % 2 else {}
        create(Create, f"often-{each}", **chosen)

with DAG("quota", max_active_tasks=64, **START):
    Create.partial(
        task_id="many",
        solution_version_arn=PLAN["solution_version_arn"],
        role_arn=PLAN["role_arn"],
        output_path=f"{PLAN['output']}/many/",
        poll_interval=PLAN["poll_interval"],
        deferrable=True,
    ).expand(input_path=[f"{PLAN['input']}/many-{index}.jsonl" for index in range(PLAN["many"])])

with DAG("linked", **START):
    create(Create, "linked_on_worker", deferrable=False)
    create(Create, "linked_in_triggerer")
    create(Create, "linked_in_two_tries", retries=1)
    create(Create, "linked_on_worker_without_xcom", deferrable=False, do_xcom_push=False, retries=0)
    create(Create, "linked_in_triggerer_without_xcom", do_xcom_push=False, retries=0)
    sense("linked_sensor_on_worker", "active")
    sense("linked_sensor_in_triggerer", "active", deferrable=True)
    sense("linked_sensor_on_worker_without_xcom", "failed", do_xcom_push=False)
    sense("linked_sensor_in_triggerer_without_xcom", "failed", deferrable=True, do_xcom_push=False)

with DAG("announced", **START):
    sense("announce", "done", outlets=[AssetAlias("segments")])

with DAG("stopped", **START):
    create(Create, "stopped_on_worker", deferrable=False, retries=0)
    create(Create, "stopped_in_triggerer", retries=0)

with DAG("stopped_in_queue", **START):
    create(Create, "stopped_in_queue", retries=0)

with DAG("converted", max_active_tasks=64, **START):
    Convert.partial(
        task_id="convert",
        job_arn=PLAN["converted"],
        output_path=PLAN["tables"],
        retries=9,
        retry_delay=1,
    ).expand(output_file=PLAN["files"])
