"""Creating jobs in a running Airflow: killed anywhere, fifty at once, linked from everywhere, stopped."""

from __future__ import annotations

import io
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import psutil
import pyarrow.parquet as pq
import pytest
from lines import HAS_RECORD, IS_BETWEEN
from running_airflow.harness import IS_AIRFLOW_3, RunningAirflow, kill_process, run_airflow

from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.testing import LocalPersonalize

DAG_FILE = Path(__file__).parent / "running_airflow" / "creating.py"
REGION = "us-east-1"
OTHER_REGION = "eu-west-1"
"""Of the jobs that sensors wait for, which would take slots otherwise."""
SLOTS = 5
MANY = 50
KILLS = 10
WORKERS = 8
POLL_INTERVAL = 1.0
CALLS_UNTIL_SETTLED = 4
SECONDS_PER_JOB = 1.0
"""From when its task waits for it."""
SECONDS_WITH_FULL_QUOTA = 6.0
LONGEST_PAUSE = timedelta(seconds=6 * POLL_INTERVAL)
"""Longer than any task that waits is silent."""
FAILURE_REASON = "The service role may not write to s3://example-bucket/output/"
TRIES = {
    "killed": {
        "killed_before_the_answer": 2,
        "killed_with_the_worker": 2,
        "killed_after_the_answer": 2,
        "killed_while_waiting": 2,
    },
    "killed_deferred": {"killed_while_deferred": 1},
    "killed_in_queue": {"killed_in_the_triggerer": 1, "killed_when_resumed": 2},
}
"""The tasks that are killed, by DAG, and how many tries that takes at least."""
INPUT, OUTPUT = "s3://example-bucket/input", "s3://example-bucket/output"

BUCKET = "example-bucket"
FILES = 20
"""Of the job whose output is converted, and so as many tasks."""
CONSOLE, S3 = "Amazon Personalize console", "Job output in S3"


class Service:
    """
    The local Personalize, and what it saw.

    :param local: it
    """

    def __init__(self, local: LocalPersonalize) -> None:
        self.local = local
        self.created: list[dict[str, Any]] = []
        """The jobs that Create calls made, in order."""
        self.at_creation: dict[str, Callable[[], object]] = {}
        """What to do when a task's job was created and the answer is not yet sent, once."""
        self._earlier: set[str] = set()
        local.on_status_change(self._note)

    def _note(self, job: dict[str, Any], old: str | None, new: str, when: datetime) -> None:
        if old is not None:
            return
        self.created.append(job)
        if (act := self.at_creation.pop(task_of(job), None)) is not None:
            act()

    def forget(self) -> None:
        """Let what is there, whoever made it, and was called so far count no more."""
        self._earlier = set(self._listed())
        self.created.clear()
        self.local.clear_calls()

    def arns(self, task: str) -> list[str]:
        """Return the ARNs of the jobs that a task created."""
        return [job["batchSegmentJobArn"] for job in self.created if task_of(job) == task]

    def attempts(self) -> Counter[str]:
        """Return how many Create calls were received, by task."""
        return Counter(task_of(call.parameters) for call in self.calls_of("CreateBatchSegmentJob"))

    def describes(self, since: int = 0) -> Counter[str]:
        """Return how many Describe calls were received, by ARN."""
        calls = self.calls_of("DescribeBatchSegmentJob", since)
        return Counter(call.parameters["batchSegmentJobArn"] for call in calls)

    def calls_of(self, operation: str, since: int = 0) -> list[Any]:
        return [call for call in list(self.local.calls)[since:] if call.operation == operation]

    def existing(self) -> Counter[str]:
        """Return how many jobs there are, by task."""
        return Counter(task_of(self.local.job(arn)) for arn in self._listed() if arn not in self._earlier)

    def _listed(self) -> list[str]:
        """Return the ARNs of all jobs there are, as AWS's own list says."""
        session = boto3.session.Session("testing", "testing", region_name=REGION)
        client = session.client("personalize", endpoint_url=self.local.endpoint_url)
        pages = client.get_paginator("list_batch_segment_jobs").paginate()
        arns = [job["batchSegmentJobArn"] for page in pages for job in page["batchSegmentJobs"]]
        client.close()
        return arns

    def end(self, *tasks: str, status: str = "ACTIVE") -> None:
        """End the last job of each of these tasks."""
        for task in tasks:
            reason = None if status == "ACTIVE" else FAILURE_REASON
            self.local.set_status(self.arns(task)[-1], status, reason)

    def end_all(self) -> None:
        for job in self.created:
            self.local.set_status(job["batchSegmentJobArn"], "ACTIVE")


def task_of(job: dict[str, Any]) -> str:
    """Return the task whose job or Create call this is: each has an input file of its own."""
    return Path(job["jobInput"]["s3DataSource"]["path"]).stem


def put_output(local: LocalPersonalize) -> str:
    """Add a job that is done, with its output in S3, and return its ARN."""
    output = f"s3://{BUCKET}/output-converted/"
    job_arn = local.add_job(
        BatchJobKind.SEGMENT,
        "converted",
        solution_version_arn=local.add_solution_version("converted", region_name=OTHER_REGION),
        status="ACTIVE",
        created=datetime.now(UTC) - timedelta(hours=1),
        updated=datetime.now(UTC),
        input_path=f"s3://{BUCKET}/input-converted/",
        output_path=output,
    )
    with s3_of(local) as s3:
        for number in range(FILES):
            users = [f"user-{each}" for each in range(number + 1)]
            record = {"input": {"itemId": f"item-{number:02}"}, "output": {"usersList": users}, "error": None}
            key = f"output-converted/items-{number:02}.json.out"
            s3.put_object(Bucket=BUCKET, Key=key, Body=json.dumps(record).encode())
    return job_arn


@contextmanager
def s3_of(local: LocalPersonalize) -> Iterator[Any]:
    """A client for S3, with a bucket."""
    session = boto3.session.Session("testing", "testing", region_name=REGION)
    with closing(session.client("s3", endpoint_url=local.endpoint_url)) as client:
        client.create_bucket(Bucket=BUCKET)
        yield client


@pytest.fixture(scope="module")
def module_service() -> Iterator[Service]:
    with LocalPersonalize(progress="by_hand") as local:
        yield Service(local)


@pytest.fixture(scope="module")
def running(module_service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAirflow]:
    local = module_service.local
    elsewhere = local.add_solution_version("sensed", region_name=OTHER_REGION)
    plan = {
        "solution_version_arn": local.add_solution_version("segments"),
        "role_arn": "arn:aws:iam::123456789012:role/PersonalizeS3Access",
        "input": INPUT,
        "output": OUTPUT,
        "poll_interval": POLL_INTERVAL,
        "many": MANY,
        "kills": KILLS,
        "has_record": HAS_RECORD,
        "converted": put_output(local),
        "tables": f"s3://{BUCKET}/tables/",
        "files": [f"s3://{BUCKET}/output-converted/items-{number:02}.json.out" for number in range(FILES)],
        "sensed": {
            name: local.add_job(BatchJobKind.SEGMENT, name, solution_version_arn=elsewhere, status=status)
            for name, status in {
                "active": "CREATE IN_PROGRESS",
                "failed": "CREATE IN_PROGRESS",
                "done": "ACTIVE",
            }.items()
        },
    }
    settings = {
        "AIRFLOW__CORE__PARALLELISM": str(WORKERS),
        # How soon Airflow misses a worker that died with all its processes; before 3.0 the second name.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
        "AIRFLOW__SCHEDULER__SCHEDULER_ZOMBIE_TASK_THRESHOLD": "15",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
        "AIRFLOW__SCHEDULER__ZOMBIE_DETECTION_INTERVAL": "2",
        # How soon a worker hears that its task was stopped.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "2",
    }
    home = tmp_path_factory.mktemp("airflow")
    with run_airflow(home, DAG_FILE, plan, local.airflow_connection(), settings, has_api=True) as running:
        yield running


@pytest.fixture
def service(module_service: Service, running: RunningAirflow) -> Iterator[Service]:
    """The service with nothing on record; afterwards nothing is left that would disturb the next test."""
    module_service.forget()
    yield module_service
    running.fail_unfinished_runs()
    module_service.end_all()


@pytest.fixture
def tell() -> Callable[[str], None]:
    begin = time.monotonic()
    return lambda what: print(f"{time.monotonic() - begin:6.1f} s  {what}", flush=True)


def last_pid(running: RunningAirflow, task: str) -> int:
    """Return the process that a task was last seen in."""
    return [each["pid"] for each in running.events() if (each["word"], each["task_id"]) == ("runs", task)][-1]


def kill_worker(running: RunningAirflow, task: str) -> None:
    """Kill a task and all that is between it and the scheduler."""
    process = psutil.Process(last_pid(running, task))
    scheduler = running.processes["scheduler"].pid
    between = [each.pid for each in process.parents()]
    assert scheduler in between
    for pid in [*reversed(between[: between.index(scheduler)]), process.pid]:
        kill_process(pid)


def wait_until_settled(running: RunningAirflow, service: Service, *tasks: str) -> None:
    """
    Wait until these tasks were seen to wait for a while.

    Airflow takes a task for lost whose trigger fires before the scheduler heard that its worker is done.
    """
    mark = len(service.local.calls)
    arns = [service.arns(task)[-1] for task in tasks]

    def settled() -> bool:
        counts = service.describes(mark)
        return all(counts[arn] >= CALLS_UNTIL_SETTLED for arn in arns)

    running.wait_until(settled, "all were asked about")


def test_a_create_that_is_killed_anywhere_makes_one_job(
    running: RunningAirflow, service: Service, tell: Callable[[str], None]
) -> None:
    kills: list[str] = []

    def kill(point: str, how: Callable[[], object]) -> None:
        how()
        kills.append(point)
        tell(f"killed: {point}")

    def kill_at_creation(task: str, point: str, how: Callable[[], object]) -> None:
        service.at_creation[task] = lambda: kill(point, how)

    def has_tried(dag_id: str) -> bool:
        """Whether the tasks of a DAG wait, in the tries they should be in."""
        return all(
            (instance := running.tasks(task).get(task))
            and instance.try_number >= tries
            and instance.state == ("running" if task == "killed_while_waiting" else "deferred")
            for task, tries in TRIES[dag_id].items()
        )

    # Four are killed on the worker, and there would be a slot for the second job of one.
    kill_at_creation(
        "killed_before_the_answer",
        "the task, between the call and its answer",
        lambda: kill_process(last_pid(running, "killed_before_the_answer")),
    )
    kill_at_creation(
        "killed_with_the_worker",
        "the whole worker, between the call and its answer",
        lambda: kill_worker(running, "killed_with_the_worker"),
    )
    running.trigger("killed")
    running.wait_until(
        lambda: (
            running.xcom("killed", "killed_while_waiting")
            and service.describes()[service.arns("killed_while_waiting")[0]] >= 2
        ),
        "a task waits on its worker",
    )
    waiting = last_pid(running, "killed_while_waiting")
    kill("the task, while it waited on the worker", lambda: kill_process(waiting))
    running.wait_until(
        lambda: has_tried("killed") and last_pid(running, "killed_while_waiting") != waiting,
        "all four wait, in their second try",
    )
    assert [each["task_id"] for each in running.events() if each["word"] == "killed after the answer"] == [
        "killed_after_the_answer"
    ]
    kills.append("the task, between the answer and the first write")
    tell("four wait, in their second try")
    assert service.attempts() == dict.fromkeys(TRIES["killed"], 1)
    assert len(service.created) == SLOTS - 1

    # A fifth one takes the last slot, two more wait for one, and the triggerer is killed.
    running.trigger("killed_deferred")
    running.wait_until(lambda: has_tried("killed_deferred"), "the fifth waits")
    running.trigger("killed_in_queue")
    running.wait_until(
        lambda: running.states("killed_in_the_triggerer", "killed_when_resumed") == {"deferred": 2},
        "two wait for a slot",
    )
    kill("the triggerer, while six tasks were deferred", lambda: running.kill("triggerer"))
    mark = len(service.local.calls)
    running.start_triggerer()
    deferred = [
        task for task in (*TRIES["killed"], *TRIES["killed_deferred"]) if task != "killed_while_waiting"
    ]
    running.wait_until(
        lambda: (
            all(service.describes(mark)[service.arns(task)[0]] for task in deferred)
            and service.calls_of("CreateBatchSegmentJob", mark)
        ),
        "the new triggerer goes on with all of them",
    )
    tell("the triggerer is back")
    assert len(service.created) == SLOTS

    # Slots become free, and the triggerer is killed while it creates a job.
    kill_at_creation(
        "killed_in_the_triggerer",
        "the triggerer, between the call and its answer",
        lambda: running.kill("triggerer"),
    )
    service.end("killed_before_the_answer", "killed_after_the_answer")
    running.wait_until(lambda: "triggerer" not in running.processes, "the triggerer has died")
    running.start_triggerer()
    running.wait_until(lambda: has_tried("killed_in_queue"), "the last one was killed")
    assert [each["task_id"] for each in running.events() if each["word"] == "killed when resumed"] == [
        "killed_when_resumed"
    ]
    kills.append("the task, resumed after the triggerer had created its job")
    wait_until_settled(running, service, *TRIES["killed_in_queue"])
    tell("all have a job")
    service.end(*(task for tasks in TRIES.values() for task in tasks))
    assert [running.wait_until_over(dag_id) for dag_id in TRIES] == ["success"] * len(TRIES)

    calls, attempts, existing = len(service.local.calls), service.attempts(), service.existing()
    number = sum(len(tasks) for tasks in TRIES.values())
    tell(
        f"{len(kills)} kills survived; {attempts.total()} Create calls, {len(service.created)} succeeded; "
        f"{existing.total()} jobs for {number} tasks; {calls} calls in all"
    )
    assert len(kills) == number
    assert len(service.created) == number
    for dag_id, tasks in TRIES.items():
        for task in tasks:
            (arn,) = service.arns(task)
            assert existing[task] == 1, task
            assert dag_id == "killed_in_queue" or attempts[task] == 1, task
            assert running.xcom(dag_id, task) == arn
            ran = [each["value"] for each in running.events() if each["task_id"] == f"after.{task}"]
            assert ran == [arn]
            assert running.tasks(f"after.{task}")[f"after.{task}"].try_number == 1


def test_a_triggerer_that_is_killed_right_after_each_of_ten_creates_makes_ten_jobs(
    running: RunningAirflow, service: Service, tell: Callable[[str], None]
) -> None:
    version = service.local.add_solution_version("segments")
    busy = [
        service.local.add_job(
            BatchJobKind.SEGMENT,
            f"often-busy-{number}",
            solution_version_arn=version,
            status="CREATE PENDING",
        )
        for number in range(SLOTS)
    ]
    tasks = [f"often-{number}" for number in range(KILLS)]
    running.trigger("killed_often")
    running.wait_until(lambda: running.states(*tasks) == {"deferred": KILLS}, "all wait for a slot")
    for task in tasks:
        service.at_creation[task] = lambda: running.kill("triggerer")
    for number in range(KILLS):
        # The job that the last triggerer created has taken the slot before.
        if busy:
            service.local.set_status(busy.pop(), "ACTIVE")
        else:
            service.local.set_status(service.created[number - SLOTS]["batchSegmentJobArn"], "ACTIVE")
        running.wait_until(lambda: "triggerer" not in running.processes, "the triggerer has died")
        assert len(service.created) == number + 1
        tell(f"killed after Create number {number + 1}")
        running.start_triggerer()
    waiting = [task_of(job) for job in service.created[SLOTS:]]
    wait_until_settled(running, service, *waiting)
    service.end(*waiting)
    assert running.wait_until_over("killed_often") == "success"
    attempts, existing = service.attempts(), service.existing()
    tell(
        f"{KILLS} kills survived; {attempts.total()} Create calls; {existing.total()} jobs for {KILLS} tasks"
    )
    assert len(service.created) == KILLS
    for task in tasks:
        (arn,) = service.arns(task)
        assert existing[task] == 1
        assert running.xcom("killed_often", task) == arn


def test_twenty_tasks_of_which_some_are_killed_make_one_table(
    running: RunningAirflow, service: Service, tell: Callable[[str], None]
) -> None:
    running.trigger("converted")
    assert running.wait_until_over("converted") == "success"
    kills = sorted(each["word"] for each in running.events() if each["word"].startswith("killed"))
    kills = [word for word in kills if re.match(r"killed (\d+|at the end)", word)]
    tries = {name: each.try_number for name, each in running.tasks("convert").items()}
    tell(f"{len(tries)} tasks, {len(kills)} kills, {sum(tries.values())} tries")
    assert len(kills) == 5 + 4, kills
    assert len(tries) == FILES
    with s3_of(service.local) as s3:
        found = s3.list_objects_v2(Bucket=BUCKET, Prefix="tables/")["Contents"]
        names = [each["Key"].removeprefix("tables/") for each in found]
        parts = [name for name in names if re.fullmatch(r"part-\d{5}-[0-9a-f]{8}\.parquet", name)]
        assert len(parts) == FILES
        assert set(names) - set(parts) == {"_SUCCESS"}
        rows = Counter(
            row["query"]
            for name in parts
            for row in pq.read_table(
                io.BytesIO(s3.get_object(Bucket=BUCKET, Key=f"tables/{name}")["Body"].read())
            ).to_pylist()
        )
        said = json.loads(s3.get_object(Bucket=BUCKET, Key="tables/_SUCCESS")["Body"].read())
    assert rows == {f"item-{number:02}": number + 1 for number in range(FILES)}
    assert (said["rows"], said["files"], said["records"]) == (rows.total(), FILES, FILES)


def test_fifty_creates_get_five_slots_in_turn(
    running: RunningAirflow, service: Service, tell: Callable[[str], None]
) -> None:
    running.trigger("quota")
    running.wait_until(lambda: running.states("many") == {"deferred": MANY}, "all are deferred")
    tell(f"{MANY} deferred")
    assert len(service.created) == SLOTS
    tasks = [f"many-{index}" for index in range(MANY)]
    arrived = {task: each.start for task, each in running.tasks("many").items()}
    arrivals = sorted(tasks, key=lambda task: arrived[f"many[{task.partition('-')[2]}]"])

    for index in (0, MANY - 1):
        check_links(running.links("quota", "many", map_index=index), REGION, "output/many/")

    # With all slots taken, waiting costs no worker, and no more calls than one waiter would make.
    mark, watch = len(service.local.calls), time.monotonic()

    def full_long_enough() -> bool:
        assert running.states("many") == {"deferred": MANY}
        return time.monotonic() - watch >= SECONDS_WITH_FULL_QUOTA

    running.wait_until(full_long_enough, "the quota was full for a while")
    refused = len(service.calls_of("CreateBatchSegmentJob", mark))
    tell(
        f"{refused} Create calls refused in {time.monotonic() - watch:.1f} s for {MANY - SLOTS} waiting tasks"
    )
    assert 1 <= refused <= (time.monotonic() - watch) / POLL_INTERVAL + 1

    # Then each job ends some time after its task began to wait for it.
    waiting_since: dict[str, float] = {}
    ended: set[str] = set()

    def end_jobs() -> None:
        for (index,) in running.query(
            "SELECT map_index FROM task_instance WHERE task_id = 'many' AND state = 'deferred' "
            "AND next_method = 'execute_complete'"
        ):
            waiting_since.setdefault(f"many-{index}", time.monotonic())
        for task, since in waiting_since.items():
            if task not in ended and time.monotonic() - since >= SECONDS_PER_JOB:
                ended.add(task)
                service.end(task)

    assert running.wait_until_over("quota", end_jobs) == "success"
    seconds = time.monotonic() - watch
    calls, attempts = len(service.local.calls), service.attempts()
    existing = service.existing()
    order = [task_of(job) for job in service.created]
    assert sorted(order) == sorted(tasks)
    assert existing == dict.fromkeys(tasks, 1)
    for index, task in enumerate(tasks):
        assert running.xcom("quota", "many", map_index=index) == service.arns(task)[0]

    # First come, first served; only those that began at the same moment may change places.
    waited = [task for task in arrivals if task in order[SLOTS:]]
    late = max(order[SLOTS:].index(task) - place for place, task in enumerate(waited))
    tell(
        f"{attempts.total()} Create calls, {len(service.created)} succeeded; {existing.total()} jobs for "
        f"{MANY} tasks, at most {late} places late; {calls} calls in all in {seconds:.0f} s"
    )
    assert late <= WORKERS

    # Each task tries once on a worker. Of those that wait, the first alone tries: once in vain behind the one
    # before, once after a short delay, and then about once per interval until it succeeds.
    intervals = seconds / POLL_INTERVAL
    assert attempts.total() <= MANY + 3 * (MANY - SLOTS) + intervals
    # Besides, each looks up its name and its links, here and there, and asks about its job.
    assert calls - attempts.total() <= 6 * MANY + SLOTS * intervals


def check_links(links: dict[str, str], region: str, prefix: str) -> None:
    account = "123456789012"
    assert set(links) == {CONSOLE, S3}
    assert links[CONSOLE] == (
        f"https://console.aws.amazon.com/personalize/home?region={region}"
        f"#arn:aws:personalize:{region}:{account}:dataset-group$demo/setup"
    )
    url = urlsplit(links[S3])
    assert url._replace(query="").geturl() == "https://console.aws.amazon.com/s3/buckets/example-bucket"
    assert parse_qs(url.query) == {"region": [region], "prefix": [prefix]}


def test_links_are_there_from_the_first_seconds_on(
    running: RunningAirflow, service: Service, tell: Callable[[str], None]
) -> None:
    creating = [
        "linked_on_worker",
        "linked_in_triggerer",
        "linked_in_two_tries",
        "linked_on_worker_without_xcom",
        "linked_in_triggerer_without_xcom",
    ]
    sensing = [
        "linked_sensor_on_worker",
        "linked_sensor_in_triggerer",
        "linked_sensor_on_worker_without_xcom",
        "linked_sensor_in_triggerer_without_xcom",
    ]
    waiting = {task: "running" if "on_worker" in task else "deferred" for task in creating + sensing}
    seen: dict[str, timedelta] = {}

    def check(*tasks: str) -> None:
        for task in tasks:
            where = (OTHER_REGION, "output/") if task in sensing else (REGION, f"output/{task}/")
            check_links(running.links("linked", task), *where)

    def all_linked() -> bool:
        for task, instance in running.tasks("linked").items():
            if task not in seen and instance.start and all(running.links("linked", task).values()):
                assert instance.state in ("running", "deferred", "scheduled", "queued"), task
                seen[task] = datetime.now(UTC) - instance.start
        return set(seen) == set(waiting)

    def missing() -> str:
        tasks = {task: each.state for task, each in running.tasks("linked").items() if task not in seen}
        found = [(task, state, running.links("linked", task)) for task, state in tasks.items()]
        logs = "".join(running.task_log(task)[-1000:] for task in tasks)
        return f"all have their links; missing: {found}\n{logs}"

    running.trigger("linked")
    running.wait_until(all_linked, missing)
    slowest = max(seen.values()).total_seconds()
    tell(f"links were there {slowest:.1f} s after the start at the latest, in the time of no job")
    running.wait_until(
        lambda: {task: each.state for task, each in running.tasks("linked").items()} == waiting,
        "all wait where they should",
    )
    check(*waiting)

    # One is tried again, the others end, well or not.
    wait_until_settled(running, service, *creating)
    service.end("linked_in_two_tries", status="CREATE FAILED")
    running.wait_until(
        lambda: running.tasks("linked_in_two_tries")["linked_in_two_tries"][:2] == ("deferred", 2),
        "the second try waits",
    )
    check("linked_in_two_tries")
    first, second = service.arns("linked_in_two_tries")
    assert second == f"{first}-2"
    assert running.xcom("linked", "linked_in_two_tries") == second
    wait_until_settled(running, service, "linked_in_two_tries")
    service.end("linked_on_worker", "linked_in_triggerer", "linked_in_two_tries")
    service.end("linked_on_worker_without_xcom", "linked_in_triggerer_without_xcom", status="CREATE FAILED")
    sensed = {
        name: f"arn:aws:personalize:{OTHER_REGION}:123456789012:batch-segment-job/{name}"
        for name in ("active", "failed")
    }
    service.local.set_status(sensed["active"], "ACTIVE")
    service.local.set_status(sensed["failed"], "CREATE FAILED", FAILURE_REASON)
    assert running.wait_until_over("linked") == "failed"
    for task, instance in running.tasks("linked").items():
        without = task.endswith("without_xcom")
        assert instance.state == ("failed" if without else "success"), task
        assert instance.try_number == (2 if task == "linked_in_two_tries" else 1)
        assert (running.xcom("linked", task) is None) == without, task
        assert "could not be stored" not in running.task_log(task), task
    check(*waiting)
    tell("links were there afterwards, too")


def test_a_task_that_is_cleared_updates_its_asset_again(running: RunningAirflow) -> None:
    kind = "asset" if IS_AIRFLOW_3 else "dataset"
    done = f"arn:aws:personalize:{OTHER_REGION}:123456789012:batch-segment-job/done"

    def updates() -> list[str]:
        events = running.query(f"SELECT extra FROM {kind}_event WHERE source_task_id = 'announce'")
        return [json.loads(extra)["jobArn"] for (extra,) in events]

    running.trigger("announced")
    assert running.wait_until_over("announced") == "success"
    assert updates() == [done]
    running.clear_task("announced", "announce")
    running.wait_until(lambda: running.tasks("announce")["announce"][:2] == ("success", 2), "it ran again")
    assert updates() == [done, done]


def test_a_stopped_task_says_that_its_job_goes_on_and_creates_none(
    running: RunningAirflow, service: Service, tell: Callable[[str], None]
) -> None:
    version = service.local.add_solution_version("segments")
    others = [
        service.local.add_job(
            BatchJobKind.SEGMENT, f"other-{number}", solution_version_arn=version, status="CREATE PENDING"
        )
        for number in range(SLOTS - 2)
    ]
    running.trigger("stopped")
    running.wait_until(lambda: len(service.created) == 2, "two have jobs")
    wait_until_settled(running, service, "stopped_on_worker", "stopped_in_triggerer")
    running.trigger("stopped_in_queue")
    running.wait_until(lambda: service.attempts()["stopped_in_queue"] >= 3, "one waits for a slot")
    waiting = {
        "stopped_on_worker": "running",
        "stopped_in_triggerer": "deferred",
        "stopped_in_queue": "deferred",
    }
    assert {task: each.state for task, each in running.tasks("stopped").items()} == waiting
    before = {arn: service.local.job(arn) for task in waiting for arn in service.arns(task)}
    tell("all wait")

    running.fail_task("stopped", "stopped_on_worker")
    running.fail_task("stopped", "stopped_in_triggerer")
    running.fail_task("stopped_in_queue", "stopped_in_queue")
    # Before 3.3 no trigger is told why it ends.
    is_trigger_told = IS_AIRFLOW_3 and not IS_BETWEEN
    for task in ("stopped_on_worker", "stopped_in_triggerer") if is_trigger_told else ("stopped_on_worker",):
        (arn,) = service.arns(task)
        running.wait_until(
            lambda task=task, arn=arn: any(
                "cannot cancel" in line and arn in line for line in running.task_log(task).splitlines()
            ),
            f"{task} says so",
        )
        tell(f"{task} said so")
    running.wait_until(
        lambda: datetime.now(UTC) - service.local.calls[-1].time >= LONGEST_PAUSE, "nobody asks any more"
    )
    assert running.states("stopped") == {"failed": 3}
    assert service.arns("stopped_in_queue") == []
    assert {arn: service.local.job(arn) for arn in before} == before
    assert {call.operation for call in service.local.calls} == {
        "CreateBatchSegmentJob",
        "DescribeBatchSegmentJob",
        "DescribeSolutionVersion",
    }
    for arn in others:
        service.local.set_status(arn, "ACTIVE")
