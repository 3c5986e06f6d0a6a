"""
The promises of creating once, explored: real tasks and triggers, killed, cleared and lied to, in any order.

A model of Airflow drives the operator and its triggers against the local Personalize: tries, retries, clears,
deferral, workers and triggerers that die before or after any call, other actors. After every step it checks:

1. a lineage, the tries of a task instance between two clears, never has two living jobs, and creates none
   while it may take one of the lineage before;
2. no job is taken that differs from what was asked for, and none is created with what was asked for before;
3. a task succeeds with an ACTIVE job of its lineage, or with one that it may adopt; a cleared task never with
   the job that it delivered before;
4. every step ends, and every lineage: in success, in an error of ours that is true, or at its deadline;
5. a job that failed ends one try, and never the next one of its lineage.

Only time is made up: nothing sleeps, on the worker or in the triggerer's event loop. HYPOTHESIS_EXAMPLES sets
another number of traces, each time other ones; HYPOTHESIS_EXPLAIN=1 counts all that they saw.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import import_module
from threading import current_thread, main_thread
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from airflow_provider_personalize_segments.airflow_compat import AirflowFailException, AirflowSensorTimeout
from airflow_provider_personalize_segments.errors import (
    PersonalizeJobExistsError,
    PersonalizeJobFailedError,
    PersonalizeJobTimeoutError,
    PersonalizeNewJobFailedError,
    PersonalizeNoSlotError,
    PersonalizeRequestError,
    StateStoreUnavailableError,
)
from airflow_provider_personalize_segments.hooks import PersonalizeHook
from airflow_provider_personalize_segments.jobs import BatchJobKind, JobState, classify_status
from airflow_provider_personalize_segments.operators import PersonalizeCreateBatchSegmentJobOperator
from airflow_provider_personalize_segments.testing import LocalPersonalize
from airflow_provider_personalize_segments.testing.records import BatchJob

SEGMENT = BatchJobKind.SEGMENT
CREATE, DESCRIBE = SEGMENT.create_operation, SEGMENT.describe_operation
ARN = "arn:aws:personalize:us-east-1:123456789012:batch-segment-job/"
NAME = "weekly"
PENDING, ACTIVE, FAILED = "CREATE PENDING", "ACTIVE", "CREATE FAILED"
INTERVAL, TIMEOUT = 60.0, 250.0
MOST_CALLS = 150
"""More than any step makes: its timeout is over after some ten intervals, and names are few."""
LOOKS = 2
"""How often AWS shows a job unfinished before it ends as it is fated to."""
EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", "0"))
EXPLAIN = bool(os.environ.get("HYPOTHESIS_EXPLAIN"))

# What happens at one call of a step: to the process, to the answer, to AWS, or to Airflow.
NOTHING = "nothing"
KILL_BEFORE, KILL_AFTER = DEATHS = ("killed before", "killed after")
FAULTS = ("drop_answer", "drop_connection", "throttle", "server_error", "malformed")
DENY = "a look is refused"
HIDE = "a job will be shown late"
STORE_FALTERS, STORE_FAILS = STORE = ("the state store falters", "the state store fails")
JOBS_END, JOBS_FAIL = ENDINGS = ("jobs end", "jobs fail")
FILL, FREE = QUOTA = ("quota full", "quota free")
SAME, OLD, DIFFERENT, ELSEWHERE = STRANGERS = (
    "the same taken",
    "the same taken, and ACTIVE",
    "another taken",
    "another environment's taken",
)
CLEARED = "cleared while it runs"
CLEARED_ANEW = "cleared while it runs, from Airflow 3.1 on"
GHOST = "the next try begins while this one goes on"
ORPHAN = "the trigger of a task cleared since creates its job"
HAPPENINGS = (
    NOTHING, NOTHING, *DEATHS, *DEATHS, *FAULTS, "drop_answer", HIDE, *ENDINGS, *QUOTA, *STRANGERS, CLEARED,
    CLEARED_ANEW, GHOST, ORPHAN, DENY, *STORE,
)  # fmt: skip
# Hypothesis draws numbers, and chance does the rest: drawn one by one, traces are much like one another.
NUMBERS = st.integers(0, 2**32)
MOVES = 16

explored: Counter[str] = Counter()
actor: ContextVar[tuple[int, int]] = ContextVar("actor")
"""Task and lineage on whose behalf a call is made, also in a thread."""


class Killed(BaseException):
    """The process ends here."""


class Endless(BaseException):
    """A step makes calls without end."""


# --- Time -----------------------------------------------------------------------------------------


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self):
        self.seconds = 0.0

    def now(self):
        return datetime(2026, 11, 23, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def sleep(self, seconds):
        self.seconds += seconds


class Loop(asyncio.SelectorEventLoop):
    """An event loop on a made-up clock: when nothing is ready and no thread works, the next timer is due."""

    def __init__(self, clock):
        self.clock, self.at_work = clock, 0
        super().__init__()

    def time(self):
        return self.clock.seconds

    def run_in_executor(self, executor, function, *arguments):
        def end(_):
            self.at_work -= 1

        self.at_work += 1
        future = super().run_in_executor(executor, function, *arguments)
        future.add_done_callback(end)
        return future

    def _run_once(self):
        if not self._ready and not self.at_work:
            timers = [timer.when() for timer in self._scheduled if not timer.cancelled()]
            self.clock.seconds = max(self.clock.seconds, min(timers, default=0.0))
        super()._run_once()


@pytest.fixture(scope="module")
def shared():
    """One server and one client: a client takes longer to make than a trace to explore."""
    with LocalPersonalize(progress="by_hand") as local, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_AWS_DEFAULT", local.airflow_connection())
        hook = PersonalizeHook().with_limit(10).without_retries()
        client = hook.conn
        patch.setattr(PersonalizeHook, "_client_in", lambda hook, region: client)
        patch.setattr(PersonalizeHook, "close", lambda hook: None)
        yield local, client
        client.close()


@pytest.fixture
def stage(shared, monkeypatch):
    """The local Personalize, watched, and a clock that everything goes by."""
    local, client = shared
    clock = Clock()

    class Datetime(datetime):
        @classmethod
        def now(cls, zone=None):
            return clock.now()

    package = "airflow_provider_personalize_segments"
    waiting = ("waiting.questions", "waiting.steps", "waiting.trigger")
    for module in (*waiting, "creating.trigger", "creating.queue"):
        monkeypatch.setattr(f"{package}.{module}.datetime", Datetime)
    for module in ("waiting.steps", "creating.steps", "creating.lineage"):
        monkeypatch.setattr(f"{package}.{module}.time", SimpleNamespace(sleep=clock.sleep))
    stage = SimpleNamespace(local=local, clock=clock, world=None)

    def before(model, params, **_):
        stage.world.before(model.name, params)

    def after(model, parsed, **_):
        stage.world.after(model.name, parsed)

    def told(job, old, new, when):
        if old is None:
            stage.world.is_created(job)

    client.meta.events.register("before-call.personalize", before)
    client.meta.events.register("after-call.personalize", after)
    local.on_status_change(told)
    yield stage
    local._changes.callbacks.remove(told)
    client.meta.events.unregister("before-call.personalize", before)
    client.meta.events.unregister("after-call.personalize", after)


# --- The model ------------------------------------------------------------------------------------


@dataclass
class Options:
    """What the user wrote, and the Airflow that it runs on."""

    job_name: str | None = None
    if_exists: str = "adopt"
    deferrable: bool = True
    waits: bool = True
    has_store: bool = True
    varies: str | None = None
    retries: int = 2

    @property
    def has_own_names(self):
        return self.job_name is None or self.if_exists == "new"


@dataclass
class Lineage:
    """What is known of the tries between two clears."""

    key: tuple[int, int]
    """The task's number, and how often it was cleared."""
    max_tries: int
    retries: int
    """As they were when it began."""
    requests: list = field(default_factory=list)
    recurs: bool = False
    """Whether a lineage before had the same ``max_tries``, as it may after `retries` was edited."""
    has_ghost: bool = False
    """Whether two of its tries ran at the same time."""
    taken: set = field(default_factory=set)
    """ARNs of the jobs that its tries took."""
    lost: set = field(default_factory=set)
    """Names of Create calls that had no answer."""


class Store:
    """As Airflow's task state store, which needs a supervisor."""

    def __init__(self, task):
        self.task, self.kept = task, {}
        self.faults = 0
        """How many of the next questions have no answer."""
        self.has_failed = False

    def get(self, key):
        self.answer("get")
        return json.loads(self.kept[key]) if key in self.kept else None

    def set(self, key, value, *, retention):
        self.answer("set")
        self.kept[key] = json.dumps(value)
        if value["job_name"] in self.task.world.steps[-1].absent:
            self.task.recorded_free.add(value["job_name"])

    def delete(self, key):
        self.answer("delete")
        self.kept.pop(key, None)

    def answer(self, action):
        if self.faults:
            self.faults -= 1
            self.has_failed = True
            explored[f"store: {action} has no answer"] += 1
            raise RuntimeError("the API server is restarting")

    def record(self):
        """Return what is recorded, whether or not the store answers."""
        return next(map(json.loads, self.kept.values()), None)


class Step:
    """One process at work: a worker in a try, or a triggerer."""

    def __init__(self, script, tries, world, *, is_worker=True, is_resumed=False):
        self.script = list(script)
        self.tries = tries
        self.is_worker, self.is_resumed = is_worker, is_resumed
        self.begin = {arn: job.status for arn, job in world.jobs().items()}
        """How the jobs were when it began."""
        self.records = [each.task.store and each.task.store.record() for each in tries]
        self.asked_for = set()
        """Names that it called Create with."""
        self.denied = set()
        """Names about which AWS answered nothing but a refusal."""
        self.calls = 0
        self.is_dying = self.has_hidden = self.is_cleared = self.is_anew = False
        self.seen = {}
        """What AWS showed last of each job."""
        self.absent = set()
        """Names of jobs that it did not show."""

    def draw(self):
        return self.script.pop(0) if self.script else NOTHING


class Try:
    """A try of a task, as the task instance that its context holds."""

    def __init__(self, task):
        self.task, self.lineage = task, task.lineage
        self.dag_id, self.task_id, self.map_index = "shop", f"create{task.number}", -1
        self.run_id = "manual__2026-11-23T02:00:00+00:00"
        self.try_number, self.max_tries = task.try_number, task.max_tries
        self.start_date = task.world.clock.now()
        self.failed_before = {arn for arn, job in task.world.jobs().items() if job.status == FAILED}
        self.has_hidden = self.is_ghost = self.is_denied = False
        self.retries = task.retries
        self.requests = []
        self.render()

    def render(self):
        """Ask for what the DAG says now."""
        self.request = self.operator().worker_steps.parameters.build_request({})
        self.requests.append(self.request)
        self.lineage.requests.append(self.request)

    @property
    def seems_first(self):
        """Whether Airflow's numbers tell that it is the first of its lineage."""
        return self.try_number in (1, self.max_tries - self.retries + 1)

    def operator(self):
        options = self.task.options
        given = {
            "task_id": self.task_id,
            "solution_version_arn": self.task.world.version,
            "role_arn": "arn:aws:iam::123456789012:role/personalize",
            "input_path": "s3://example-bucket/input/items.json",
            "output_path": "s3://example-bucket/output/",
            "job_name": options.job_name,
            "if_exists": options.if_exists,
            "deferrable": options.deferrable,
            "wait_for_completion": options.waits,
            "retries": self.retries,
            "poll_interval": INTERVAL,
            "timeout": TIMEOUT,
        }
        if self.task.edited:
            given["num_results"] = self.task.edited
        if options.varies == "num_results":
            given["num_results"] = 10 + self.try_number
        elif options.varies == "input_path":
            given["input_path"] = f"s3://example-bucket/input/{self.try_number}.json"
        operator = PersonalizeCreateBatchSegmentJobOperator(**given)
        operator.worker_steps.has_links = True  # tests of their own have them; each costs a call
        return operator

    def xcom_push(self, key, value):
        if key == "return_value":
            self.task.take(self, value)

    def xcom_pull(self, **_):
        return "the links were pushed already"

    @property
    def context(self):
        return {"ti": self, "task_state_store": self.task.store}


class World:
    """AWS, everybody in it, and what must not happen."""

    def __init__(self, stage, fates, refusals=0):
        self.local, self.clock, self.fates = stage.local, stage.clock, fates
        self.backend = self.local.backend("us-east-1")
        with self.local.hold():
            self.backend.reset()
        self.local.faults.clear()
        self.local.clear_calls()
        self.version = self.local.add_solution_version("shop")
        self.steps, self.violations, self.lineages = [], [], {}
        self.story = []
        self.refusals = self.most_refusals = refusals
        self.creators, self.looks, self.hidden, self.late = {}, Counter(), {}, Counter()
        self.tasks, self.orphans = [], []
        self.creating = None
        self.has_strangers = True
        self.fated = {}
        stage.world = self

    def tell(self, text):
        self.story.append(f"{'    ' * len(self.steps)}{text}")

    def blame(self, text):
        self.violations.append(text)
        self.tell(f"--> {text}")

    def check(self):
        if self.violations:
            pytest.fail(
                "\n".join([self.violations[0], "", *map(str, (*self.tasks, self.fates)), *self.story])
            )

    # What AWS does

    def jobs(self):
        return {**self.backend.jobs, **self.hidden}

    def is_created(self, job):
        arn = job["batchSegmentJobArn"]
        self.creators[arn] = self.creating
        self.fated[arn] = self.fates[len(self.fated) % len(self.fates)]
        living = [
            name.removeprefix(ARN)
            for name, each in self.jobs().items()
            if self.creators.get(name) == self.creating and each.status != FAILED
        ]
        if len(living) > 1:
            self.blame(f"1: {self.creating} has the living jobs {living}")

    def end(self, arn, status):
        if arn in self.backend.jobs and not self.backend.jobs[arn].is_finished:
            self.local.set_status(arn, status, "Invalid S3 input path" if status == FAILED else None)

    def end_all(self, status):
        for arn in list(self.backend.jobs):
            if "busy" not in arn:
                self.end(arn, status)

    def put(self, name, status, request):
        if ARN + name not in self.jobs():
            with self.local.hold():
                members = {"numResults": 25, **request, "jobName": name}
                self.backend.put_job(
                    BatchJob(
                        SEGMENT, ARN + name, members, status, 0.0, 0.0, on_course=False, has_output=False
                    )
                )
            self.fated[ARN + name] = self.fates[len(self.fated) % len(self.fates)]

    def take_name(self, name, how, request, status=PENDING):
        """Let another actor have a name; a lineage's own only another Airflow with the same DAG makes."""
        if self.has_strangers:
            changes = {
                SAME: {},
                OLD: {},
                DIFFERENT: {"numResults": 99},
                ELSEWHERE: {"jobInput": {"s3DataSource": {"path": "s3://example-bucket/other/"}}},
            }
            self.put(name, ACTIVE if how == OLD else status, {**request, **changes[how]})

    def fill(self):
        free = 5 - sum(not job.is_finished for job in self.jobs().values())
        for _ in range(free):
            self.put(f"busy{len(self.jobs())}", PENDING, self.tasks[0].plain_request)

    def free(self):
        for arn in list(self.backend.jobs):
            if "busy" in arn:
                self.end(arn, ACTIVE)

    def show(self):
        self.backend.jobs.update(self.hidden)
        self.hidden.clear()

    # What happens at a call

    def before(self, operation, params):
        if operation not in (CREATE, DESCRIBE) or not self.steps:
            return
        step = self.steps[-1]
        self.show()
        step.calls += 1
        if step.calls > MOST_CALLS:
            raise Endless
        asked = json.loads(params["body"])
        name = asked.get("jobName") or asked["batchSegmentJobArn"].removeprefix(ARN)
        step.asked = name
        self.happen(step.draw(), step, operation, name)
        if operation == CREATE:
            self.creating = actor.get()
            step.asked_for.add(name)
            self.judge_create(step, name, asked)
        elif self.late[ARN + name] and ARN + name in self.backend.jobs:
            self.late[ARN + name] -= 1
            self.hidden[ARN + name] = self.backend.jobs.pop(ARN + name)
            for each in step.tries:
                each.has_hidden = True

    def judge_create(self, step, name, asked):
        """Judge what is about to be created."""
        if name in step.denied:
            self.blame(f"1: {self.creating} creates {name}, though the look for it was refused")
        if not step.is_worker or len(step.tries) != 1:
            return
        (attempt,) = step.tries
        asked.pop("jobName")
        if asked != attempt.request:
            self.blame(f"2: {self.creating} creates {asked}, and the DAG says {attempt.request}")
        if ignored := attempt.task.find_ignored(attempt, step):
            self.blame(f"1: {self.creating} creates {name}, and might take {ignored} of the lineage before")

    def happen(self, event, step, operation, name):
        explored[f"at a call: {event}"] += 1
        self.tell(f"{operation} {name}" + (f": {event}" if event != NOTHING else ""))
        if event == KILL_BEFORE:
            raise Killed
        if event in (CLEARED, CLEARED_ANEW):
            step.is_cleared, step.is_anew = True, event == CLEARED_ANEW
            raise Killed
        step.is_dying = event == KILL_AFTER
        if event in FAULTS:
            getattr(self.local.faults, event)(times=1, operation=operation)
            if operation == CREATE and event != "throttle":
                self.lineages[actor.get()].lost.add(name)
        elif event == DENY and operation == DESCRIBE:
            self.deny(step, operation, name)
        elif event in STORE:
            step.tries[0].task.break_store(event)
        elif event == HIDE and not self.looks[ARN + name]:
            self.late[ARN + name] = 2
        elif event in ENDINGS:
            self.end_all(ACTIVE if event == JOBS_END else FAILED)
        elif event in QUOTA:
            self.fill() if event == FILL else self.free()
        elif event in STRANGERS:
            self.take_name(name, event, step.tries[0].request)
        elif event == GHOST and len(self.steps) == 1 and current_thread() is main_thread():
            # Airflow 2 executes no operator in another thread.
            step.tries[0].task.begin_beside(step.tries[0])
        elif event == ORPHAN and self.orphans and len(self.steps) == 1:
            self.fire([self.orphans.pop()], ())

    def deny(self, step, operation, name):
        self.local.faults.deny_access(times=1, operation=operation)
        step.denied.add(name)
        for each in step.tries:
            each.is_denied = True

    def after(self, operation, parsed):
        if operation not in (CREATE, DESCRIBE) or not self.steps:
            return
        self.show()
        step = self.steps[-1]
        if operation == DESCRIBE and "Error" in parsed:
            step.absent.add(step.asked)
        if parsed.get("Error", {}).get("Code") == "LimitExceededException":
            self.refusals -= 1
            if not self.refusals:
                self.refusals = self.most_refusals
                self.free()
        if job := parsed.get("batchSegmentJob"):
            arn = job["batchSegmentJobArn"]
            step.seen[arn] = job["status"]
            self.tell(f"  {job['status']}")
            self.looks[arn] += 1
            if self.looks[arn] >= LOOKS and self.fated.get(arn):
                self.end(arn, self.fated[arn])
        if step.is_dying:
            raise Killed

    # Who works

    def work(self, step, function):
        """Run a process to its end."""
        self.steps.append(step)
        try:
            return function()
        finally:
            self.steps.pop()
            self.show()
            self.local.faults.clear()
            explored["calls"] += step.calls
            for each in step.tries:
                if step.calls > MOST_CALLS:
                    self.blame(f"4: {each.lineage.key} makes calls without end")

    def fire(self, deferred, script):
        """Run triggers in one triggerer; return their events, or ``None`` when it was killed."""
        step = Step(script, [each.attempt for each in deferred], self, is_worker=False)

        async def fire_one(each):
            actor.set(each.attempt.lineage.key)
            module, _, name = each.path.rpartition(".")
            trigger = getattr(import_module(module), name)(**json.loads(each.arguments))
            (payload,) = [event.payload async for event in trigger.run()]
            return json.loads(json.dumps(payload))

        async def fire_all():
            return await asyncio.gather(*map(fire_one, deferred))

        def run():
            with asyncio.Runner(loop_factory=lambda: Loop(self.clock)) as runner:
                return runner.run(fire_all())

        explored["triggerers"] += 1
        self.tell(f"the triggers of {[each.attempt.lineage.key for each in deferred]}")
        try:
            return self.work(step, run)
        except Killed:
            explored["triggerers killed"] += 1
            return None
        except Endless:
            return None


@dataclass
class Deferred:
    """A task in the triggerer's hands, as Airflow's database has it."""

    attempt: Try
    path: str
    arguments: str
    method: str
    kwargs: dict
    event: dict | None = None

    @property
    def is_creating(self):
        return self.path.endswith("PersonalizeCreateBatchJobTrigger")


class Task:
    """A task instance, as Airflow's scheduler treats it."""

    def __init__(self, world, number, options):
        self.world, self.number, self.options = world, number, options
        self.store = Store(self) if options.has_store else None
        self.retries = self.max_tries = options.retries
        self.try_number = self.cleared_at = self.clears = 0
        self.edited = None
        """What somebody has written for ``num_results`` since."""
        self.delivered = set()
        """ARNs of the jobs that it succeeded with."""
        self.state = "scheduled"
        self.deferred = None
        world.tasks.append(self)
        self.recorded_free = set()
        """Names that it recorded while no job had them."""
        self.plain_request = Try(self).operator().worker_steps.parameters.build_request({})
        self.lineage.requests.clear()

    def __str__(self):
        return f"task {self.number}: {self.options}"

    @property
    def has_own_names(self):
        return self.options.has_own_names

    @property
    def lineage(self):
        key = (self.number, self.clears)
        return self.world.lineages.setdefault(key, Lineage(key, self.max_tries, self.retries))

    def break_store(self, how):
        if self.store:
            self.store.faults = 3 if how == STORE_FALTERS else 7

    # What the scheduler does

    @property
    def is_fresh(self):
        """Whether no try began since it was made or cleared."""
        return self.state == "scheduled" and self.try_number == self.cleared_at

    def begin(self, script=()):
        self.try_number += 1
        attempt = Try(self)
        operator = attempt.operator()
        explored["tries"] += 1
        self.run(attempt, script, lambda: operator.execute(attempt.context))

    def fire(self, script=()):
        payloads = self.world.fire([self.deferred], script)
        if payloads:
            self.wake(payloads[0])

    def wake(self, payload):
        explored[f"event: {payload['outcome']}"] += 1
        self.world.tell(f"event of {self.lineage.key}: {payload['outcome']}")
        self.deferred.event, self.state = payload, "woken"

    def resume(self, script=()):
        deferred, self.deferred = self.deferred, None
        attempt, operator = deferred.attempt, deferred.attempt.operator()
        attempt.retries = self.retries
        attempt.render()
        if deferred.event is None:  # as Airflow does when its own timeout of the deferral is over
            self.world.clock.sleep(TIMEOUT + 300)
            method, kwargs = "__fail__", {"error": "Trigger timeout", "traceback": None}
        else:
            method, kwargs = deferred.method, {**deferred.kwargs, "event": deferred.event}
        shown = (deferred.event or {}).get("job") or {}
        seen = {shown["batchSegmentJobArn"]: shown["status"]} if shown else {}
        self.run(
            attempt, script, lambda: operator.resume_execution(method, kwargs, attempt.context), seen=seen
        )

    def begin_beside(self, attempt):
        """Take a worker for dead that is not, and begin the next try."""
        if self.state == "running" and not attempt.is_ghost and self.try_number <= self.max_tries:
            explored["ghosts"] += 1
            attempt.is_ghost = attempt.lineage.has_ghost = True
            self.begin()

    def clear(self):
        if self.state in ("deferred", "woken") and self.deferred.is_creating:
            self.world.orphans.append(self.deferred)
        explored[f"cleared: {self.state}"] += 1
        self.world.tell(f"task {self.number}, {self.state}, is cleared")
        self.deferred = None
        self.begin_lineage()
        self.state = "scheduled"

    def begin_lineage(self):
        # airflow.models.taskinstance.clear_task_instances
        self.max_tries = self.try_number + self.retries
        earlier = {self.world.lineages[self.number, each].max_tries for each in range(self.clears + 1)}
        self.clears += 1
        self.lineage.recurs = self.max_tries in earlier
        self.cleared_at = self.try_number

    # What a worker does

    def run(self, attempt, script, work, seen=None):
        self.state = "running"
        self.world.tell(f"try {attempt.try_number} of {attempt.lineage.key}")
        step = Step(script, [attempt], self.world, is_resumed=seen is not None)
        step.seen.update(seen or {})
        token = actor.set(attempt.lineage.key)
        state, result = "failed", None
        try:
            result = self.world.work(step, work)
            state = "success"
        except Killed:
            explored["workers killed"] += 1
            # Airflow restarts a running task that was cleared whatever its tries: before 3.1 in the same
            # lineage, and from then on in the next.
            if step.is_anew and not attempt.is_ghost:
                self.begin_lineage()
            state = "scheduled" if step.is_cleared or self.may_retry(attempt) else "failed"
        except Endless:
            pass
        except (AirflowFailException, AirflowSensorTimeout) as error:
            self.judge(attempt, error, step)
        except Exception as error:
            self.judge(attempt, error, step)
            state = "scheduled" if self.may_retry(attempt) else "failed"
        except BaseException as error:
            if type(error).__name__ != "TaskDeferred":
                raise
            state, result = "deferred", error
        finally:
            actor.reset(token)
        explored[f"end of a step: {state}"] += 1
        self.world.tell(f"try {attempt.try_number} of {attempt.lineage.key} ends: {state}")
        if attempt.is_ghost:
            return  # Airflow has given it up, and takes no word from it
        self.state = state
        if state == "success":
            self.judge_success(attempt, result, step)
        elif state == "deferred":
            path, arguments = result.trigger.serialize()
            kwargs = json.loads(json.dumps(result.kwargs or {}))
            self.deferred = Deferred(attempt, path, json.dumps(arguments), result.method_name, kwargs)

    @staticmethod
    def may_retry(attempt):
        return attempt.try_number <= attempt.max_tries

    # What must hold

    def take(self, attempt, arn):
        """Judge the job that a try says is its own from now on."""
        world, lineage = self.world, attempt.lineage
        job, creator = world.jobs().get(arn), world.creators.get(arn)
        if job is None:
            world.blame(f"3: {lineage.key} takes {arn}, which does not exist")
            return
        status = world.steps[-1].seen.get(arn) if world.steps else None
        if status == FAILED:
            return  # it ends this try, whosever it is
        others = [each for each in lineage.taken - {arn} if world.jobs()[each].status != FAILED]
        # Without a record, nothing tells a retry that its lineage adopted an earlier one's job, which ended.
        if others and self.store and not lineage.has_ghost:
            world.blame(f"1: {lineage.key} takes {name_of(arn)} besides {[*map(name_of, others)]}")
        was_taken = arn in lineage.taken
        lineage.taken.add(arn)
        # A record holds what all tries have asked for between which Airflow's numbers tell no clear.
        alike = [
            each
            for each in world.lineages.values()
            if each.key[0] == self.number and each.max_tries == lineage.max_tries
        ]
        asked = [each for one in alike for each in one.requests] if self.store else attempt.requests
        is_earlier = creator is not None and creator[0] == self.number and creator != lineage.key
        if creator == lineage.key:
            explored["takes its own"] += 1
            is_alike = is_of_environment if self.has_own_names else is_same
        else:
            explored["adopts an earlier lineage's" if is_earlier else "adopts a stranger's"] += 1
            is_alike = is_same
            may_adopt = not self.has_own_names and self.options.if_exists == "adopt"
            is_unfinished = classify_status(status or "") is JobState.WAITING
            if creator is None and self.has_own_names:
                self.take_twins(attempt, arn, asked)
                return
            # Two clears have given these lineages one name, and no number tells them apart.
            if is_earlier and lineage.recurs and not attempt.seems_first:
                return
            is_left = bool(self.store) and arn not in self.delivered
            if self.cannot_tell(arn) and any(is_same(request, job.request) for request in asked):
                return
            if not may_adopt and not (is_earlier and (is_unfinished or was_taken or is_left)):
                world.blame(f"3: {lineage.key} takes {name_of(arn)} of {creator}, {status}")
        if not any(is_alike(request, job.request) for request in asked):
            world.blame(f"2: {lineage.key} takes {name_of(arn)} of {creator}, {job.request}, not {asked}")

    def take_twins(self, attempt, arn, asked):
        """Judge that a job is taken which another Airflow made under a name of the task's own."""
        job, step = self.world.jobs()[arn], self.world.steps[-1]
        explored["takes another Airflow's"] += 1
        is_found = step.is_worker and not step.is_resumed
        # A retry, and one that comes back from its trigger, may have created it themselves.
        # A Create that was lost, and the record of the lineage before, count as proof.
        is_told = name_of(arn) in attempt.lineage.lost or name_of(arn) in [
            each["job_name"] for each in step.records if each
        ]
        if attempt.seems_first and is_found and not is_told and not attempt.lineage.recurs:
            if not is_same(attempt.request, job.request):
                self.world.blame(f"2: the first try of {attempt.lineage.key} takes another's {name_of(arn)}")
            if step.seen.get(arn) == ACTIVE and name_of(arn) not in step.asked_for:
                self.world.blame(f"3: the first try of {attempt.lineage.key} takes an old {name_of(arn)}")
        elif not any(is_of_environment(request, job.request) for request in asked):
            self.world.blame(f"2: {attempt.lineage.key} takes {name_of(arn)} of another environment")

    def find_ignored(self, attempt, step):
        """Return the name of a job of the lineage before that a try leaves for one of its own, if any."""
        lineage, world = attempt.lineage, self.world
        has_job = any(creator == lineage.key for creator in world.creators.values())
        if attempt.try_number == 1 or lineage.recurs or lineage.has_ghost or attempt.has_hidden or has_job:
            return None
        if not self.has_own_names or step.is_resumed or attempt.is_ghost or len(world.steps) > 1:
            return None
        (record,) = step.records
        if record and record["max_tries"] == attempt.max_tries:
            return None
        names = [record["job_name"]] if record else [name_of(arn) for arn in step.begin]
        for name in names:
            arn = ARN + name
            creator, job = world.creators.get(arn), world.jobs().get(arn)
            if job is None or creator is None or creator[0] != self.number or creator == lineage.key:
                continue
            is_unfinished = {JobState.WAITING} == {
                classify_status(each) for each in (step.begin.get(arn, FAILED), job.status)
            }
            is_left = record and not record["has_delivered"] and step.begin.get(arn) == ACTIVE
            # Without a record a task looks for lower numbers only, and lowered `retries` hide a higher one.
            behind = attempt.max_tries - world.lineages[creator].max_tries
            is_near = bool(record) or 0 < behind <= 10
            if (is_unfinished or is_left) and is_near and is_same(attempt.request, job.request):
                return name
        return None

    def cannot_tell(self, arn):
        """Whether a record, or a Create without an answer, makes a stranger's job look like its own."""
        if self.has_own_names:
            return False
        name = name_of(arn)
        if name in self.recorded_free:
            explored["a record made before Create counts as proof"] += 1
            return True
        if name in self.lineage.lost:
            explored["a Create that was lost counts as proof"] += 1
            return True
        return False

    def judge_success(self, attempt, arn, step):
        job = self.world.jobs()[arn]
        self.delivered.add(arn)
        if arn not in attempt.lineage.taken:
            self.world.blame(f"3: {attempt.lineage.key} succeeds with {name_of(arn)}, which it did not take")
        if self.options.waits and job.status != ACTIVE:
            self.world.blame(f"3: {attempt.lineage.key} succeeds with {name_of(arn)}, which is {job.status}")
        if step.seen.get(arn) == FAILED:
            self.world.blame(f"3: {attempt.lineage.key} succeeds with {name_of(arn)}, and saw it fail")

    def judge(self, attempt, error, step):
        explored[f"error: {type(error).__name__}"] += 1
        self.world.tell(f"{error!r}")
        who = attempt.lineage.key
        if isinstance(error, PersonalizeJobExistsError):
            if wrong := self.find_wrong_refusal(attempt, error):
                self.world.blame(f"4: {who} refuses {name_of(error.job_arn)}, {wrong}: {error}")
            if not (self.store and self.store.has_failed):
                # It knows now that the job is another's.
                self.recorded_free.discard(name_of(error.job_arn))
        elif isinstance(error, (PersonalizeJobFailedError, PersonalizeNewJobFailedError)):
            if self.world.jobs()[error.job_arn].status != FAILED:
                self.world.blame(f"4: {who} says wrongly that {name_of(error.job_arn)} failed")
            # Without a record, the next try of `fail` refuses a job of its own that failed.
            options = self.options
            is_refused = options.if_exists == "fail" and not options.has_own_names and not options.has_store
            has_next = self.may_retry(attempt) and not is_refused
            if isinstance(error, PersonalizeNewJobFailedError) != has_next:
                self.world.blame(f"5: {who} says wrongly whether there is another try: {error!r}")
            if error.job_arn in attempt.failed_before and not attempt.has_hidden:
                self.world.blame(f"5: {who} ends by {name_of(error.job_arn)}, which failed before this try")
        elif isinstance(error, (PersonalizeNoSlotError, PersonalizeJobTimeoutError)):
            if self.world.clock.now() < attempt.start_date + timedelta(seconds=TIMEOUT - 1):
                self.world.blame(f"4: {who} gives up before its time is over: {error!r}")
        elif not self.is_hindered(attempt, error):
            self.world.blame(f"4: {who} ends in {error!r}")

    def is_hindered(self, attempt, error):
        """Tell whether an error says truly that AWS refused a look, or that the store did not answer."""
        if isinstance(error, StateStoreUnavailableError):
            return bool(self.store) and self.store.has_failed
        return isinstance(error, PersonalizeRequestError) and attempt.is_denied

    def find_wrong_refusal(self, attempt, error):
        """Return what is wrong about refusing a job; ``None`` when nothing is."""
        options, lineage = self.options, attempt.lineage
        job, creator = self.world.jobs().get(error.job_arn), self.world.creators.get(error.job_arn)
        if job is None:
            return "which does not exist"
        if lineage.recurs:
            return None  # Airflow does not tell the two apart, and the record may be that of one between
        if creator == lineage.key and attempt.is_ghost:
            return None  # a first try that Airflow has given up does not know of the next one's job
        if creator == lineage.key and not self.store and attempt.retries != lineage.retries:
            return None  # a later try may seem to be the first
        if creator == lineage.key:
            is_fail = options.if_exists == "fail" and not self.has_own_names
            # With `fail` and an explicit name, nothing but a record tells that a job is one's own, and in two
            # tries at a time not even that.
            if is_fail and (not self.store or lineage.has_ghost):
                return None
            # Without a record, a request that changes from try to try looks like another job; and so it
            # does to two tries at a time.
            is_changed = any(not is_same(request, job.request) for request in lineage.requests)
            if is_changed and (not self.store or lineage.has_ghost):
                return None
            return "which is its own"
        if self.has_own_names and creator is None:
            # Another Airflow's: what is the same and unfinished may be waited for, as it is billed anyway.
            is_alike = is_same(attempt.request, job.request)
            return "which is the same" if is_alike and job.status not in (ACTIVE, FAILED) else None
        if self.has_own_names:
            return "whose name is its own"
        is_failed, asked = job.status == FAILED, attempt.request
        if options.if_exists == "adopt" and is_same(asked, job.request) and not is_failed and not self.store:
            return "which is the same"
        return None


def name_of(arn):
    return arn.removeprefix(ARN)


def is_same(request, there):
    members = ("solutionVersionArn", "jobInput", "jobOutput", "roleArn", "filterArn")
    return is_of_environment(request, there) and (
        [request.get(each) for each in members] == [there.get(each) for each in members]
        and request.get("numResults", 25) == there.get("numResults", 25)
    )


def is_of_environment(request, there):
    members = ("solutionVersionArn", "jobInput", "jobOutput", "filterArn")
    return [request.get(each) for each in members] == [there.get(each) for each in members]


# --- Exploring ------------------------------------------------------------------------------------


def make_world(stage, number, **given):
    """Begin a trace: draw what the user wrote, who else is there, and how jobs will end."""
    explored["traces"] += 1
    chance = random.Random(number)
    world = World(stage, chance.choices([ACTIVE, FAILED, None], k=5), chance.choice([0, 3]))
    options = Options(
        deferrable=chance.choice([True, True, False]),
        waits=chance.choice([True, True, False]),
        varies=chance.choice([None, None, "num_results", "input_path"]),
        retries=chance.randint(0, 3),
        **given,
    )
    for each in range(chance.choice([1, 1, 2, 3])):
        Task(world, each, options)
    if chance.choice([True, False]):
        world.fill()
    world.has_strangers = chance.choice([True, False])
    return world


def move(world, chance):
    """Let one thing happen, of all that can."""

    def script(*more):
        return chance.choices([*more, *HAPPENINGS], k=chance.randint(0, 8))

    moves = [lambda: change(world, chance)]
    for task in world.tasks:
        if task.state == "scheduled":
            moves += [lambda task=task: task.begin(script())] * 3
        elif task.state == "deferred":
            # Without a slot a trigger would only ask until its time is over.
            moves += [lambda task=task: task.fire(script(FREE, FREE, FREE))] * 3
            moves += [lambda task=task: task.resume(script())]
        elif task.state == "woken":
            moves += [lambda task=task: task.resume(script())] * 3
        if not task.is_fresh:
            moves += [task.clear]
    creating = [task for task in world.tasks if task.state == "deferred" and task.deferred.is_creating]
    if len(creating) > 1:
        moves += [lambda: fire_together(world, creating, script(FREE, FREE, FREE))] * 6
    chance.choice(moves)()
    world.check()


def fire_together(world, tasks, script):
    payloads = world.fire([task.deferred for task in tasks], script)
    for task, payload in zip(tasks, payloads or (), strict=False):
        task.wake(payload)


def change(world, chance):
    """Let somebody do something else than run tasks."""
    what = chance.choice(["retries", "a name", "jobs", "quota", "parameters", "the store"])
    world.tell(f"{what} changed")
    if what == "retries":
        chance.choice(world.tasks).retries = chance.randint(0, 3)
    elif what == "a name":
        name, how = chance.choice([NAME, f"{NAME}-2"]), chance.choice(STRANGERS)
        world.take_name(name, how, world.tasks[0].plain_request, chance.choice([PENDING, ACTIVE, FAILED]))
    elif what == "parameters":
        chance.choice(world.tasks).edited = chance.choice([None, 30, 40])
    elif what == "the store":
        chance.choice(world.tasks).break_store(chance.choice(STORE))
    elif what == "jobs":
        world.end_all(chance.choice([ACTIVE, FAILED]))
    else:
        chance.choice([world.fill, world.free])()


def finish(world):
    """Let everything go well from now on: every lineage ends."""
    world.fates = [ACTIVE]
    world.fated = dict.fromkeys(world.fated, ACTIVE)
    for task in world.tasks:
        if task.store:
            task.store.faults = 0
        for _ in range(20):
            world.free()
            if task.state == "scheduled":
                task.begin()
            elif task.state == "deferred":
                task.fire()
            elif task.state == "woken":
                task.resume()
        if task.state not in ("success", "failed"):
            world.blame(f"4: {task.lineage.key} does not end, it is {task.state}")
    world.check()


@pytest.mark.parametrize("has_store", [True, False], ids=["with a record", "without a record"])
@pytest.mark.parametrize(
    ("job_name", "if_exists"),
    [(None, "adopt"), (NAME, "adopt"), (NAME, "fail"), (NAME, "new")],
    ids=["derived names", "adopt", "fail", "new"],
)
def test_promises_hold_whatever_happens(stage, capsys, job_name, if_exists, has_store):
    explored.clear()

    @settings(max_examples=EXAMPLES or 20, database=None, suppress_health_check=list(HealthCheck))
    @given(NUMBERS, st.lists(NUMBERS, min_size=MOVES, max_size=MOVES))
    def explore(first, moves):
        world = make_world(stage, first, job_name=job_name, if_exists=if_exists, has_store=has_store)
        for index, each in enumerate(moves):
            if each:  # 0, which moves that do not matter shrink to, is nothing
                move(world, random.Random(f"{first} {index} {each}"))
        finish(world)

    if not EXAMPLES:
        seed(f"{job_name} {if_exists} {has_store}")(explore)
    explore()
    traces, tries, calls = (explored[each] for each in ("traces", "tries", "calls"))
    with capsys.disabled():
        print(f"\n{traces} traces, {tries} tries, {calls} calls")
        if EXPLAIN:
            print(*(f"{number:7} {what}" for what, number in sorted(explored.items())), sep="\n")
    # Not a promise of the package's: this test has seen what it is about.
    for what in ("workers killed", "takes its own", "triggerers", "end of a step: success"):
        assert explored[what], what


# Stories that chance tells too seldom.


def make_waiting(stage, number=1, **given):
    """Return a world whose tasks wait for a slot in the triggerer."""
    world = World(stage, [None])
    options = Options(job_name=NAME, retries=1, **given)
    for each in range(number):
        Task(world, each, options)
    world.fill()
    for task in world.tasks:
        task.begin()
        assert task.state == "deferred"
    world.free()
    return world


@pytest.mark.parametrize("if_exists", ["adopt", "new"])
def test_a_task_that_does_not_wait_does_not_succeed_with_a_job_that_failed(stage, if_exists):
    world = make_waiting(stage, if_exists=if_exists, waits=False)
    (task,) = world.tasks
    task.fire([KILL_AFTER])
    assert task.state == "deferred"
    assert len(world.creators) == 1
    world.end_all(FAILED)
    task.fire()
    task.resume()
    world.check()
    assert task.state == "scheduled"
    task.begin()
    world.check()
    assert task.state == "success"
    assert len(world.creators) == 2


@pytest.mark.parametrize("has_store", [True, False])
def test_of_three_that_wait_for_one_name_with_fail_one_takes_the_job(stage, has_store):
    world = make_waiting(stage, 3, if_exists="fail", waits=False, has_store=has_store)
    fire_together(world, world.tasks, [])
    for task in world.tasks:
        task.resume()
    world.check()
    assert sorted(task.state for task in world.tasks) == ["failed", "failed", "success"]
    assert len(world.creators) == 1


def test_what_was_refused_is_not_taken_after_a_clear(stage):
    """Its record, made while the name was free, proves nothing any more."""
    world = World(stage, [None])
    task = Task(world, 0, Options(job_name=NAME, if_exists="fail", deferrable=False, waits=False, retries=0))
    task.begin([NOTHING, SAME])
    assert task.state == "failed"
    task.clear()
    task.begin()
    world.check()
    assert task.state == "failed"
    assert not any(world.creators.values())


@pytest.mark.parametrize("how", STRANGERS)
def test_a_first_try_takes_only_what_is_the_same_and_unfinished(stage, how):
    world = World(stage, [ACTIVE])
    task = Task(world, 0, Options(deferrable=False, waits=False, retries=0))
    task.begin([how])
    world.check()
    assert task.state == ("success" if how == SAME else "failed")
    assert not any(world.creators.values())


@pytest.mark.parametrize("has_store", [True, False])
def test_a_cleared_task_takes_up_the_job_of_a_lineage_that_failed_where_a_record_tells(stage, has_store):
    world = World(stage, [None])
    task = Task(world, 0, Options(deferrable=False, has_store=has_store, retries=0))
    task.begin()
    assert task.state == "failed"
    world.end_all(ACTIVE)
    task.clear()
    world.fates = [ACTIVE]
    task.begin()
    world.check()
    assert task.state == "success"
    assert len(world.creators) == (1 if has_store else 2)
    # It has succeeded, so that the next clear does it again.
    task.clear()
    task.begin()
    world.check()
    assert task.state == "success"
    assert len(world.creators) == (2 if has_store else 3)


def test_with_fail_a_job_of_a_triggerer_that_died_is_taken(stage):
    world = make_waiting(stage, if_exists="fail", waits=False)
    (task,) = world.tasks
    task.fire([KILL_AFTER])
    assert len(world.creators) == 1
    task.fire()
    task.resume()
    world.check()
    assert task.state == "success"
    assert task.store.record()["has_delivered"]


def test_what_any_try_asked_for_is_its_own(stage):
    """A job is shown late, the second try dies before its Create, and each try asks for something else."""
    world = World(stage, [None])
    task = Task(world, 0, Options(job_name=NAME, deferrable=False, waits=False, retries=2))
    task.begin([NOTHING, KILL_AFTER])
    task.edited = 30
    world.late[ARN + NAME] = 1
    task.begin([NOTHING, KILL_BEFORE])
    task.edited = 40
    task.begin()
    world.check()
    assert task.state == "success"
    assert len(world.creators) == 1
