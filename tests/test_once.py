"""Creating a job once: the rules that worker and triggerer share, over real HTTP."""

from __future__ import annotations

import itertools
import logging
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_personalize_segments.creating.names import MAX_NUMBER, number_job_name
from airflow_provider_personalize_segments.creating.once import (
    ADOPT,
    FAIL,
    IF_EXISTS,
    MAX_LOOKS_BACK,
    NEW,
    Attempt,
    Creation,
    Found,
    Plan,
    Wanted,
    find,
    may_take,
)
from airflow_provider_personalize_segments.creating.pauses import FULL_INTERVALS, find_delay
from airflow_provider_personalize_segments.errors import (
    InvalidParameterError,
    PersonalizeJobExistsError,
    PersonalizeRequestError,
    PersonalizeUnavailableError,
)
from airflow_provider_personalize_segments.hooks import PersonalizeHook
from airflow_provider_personalize_segments.jobs import BATCH_JOB_KINDS, BatchJobKind
from airflow_provider_personalize_segments.plain_json import make_json_safe
from airflow_provider_personalize_segments.testing import LocalPersonalize

SEGMENT = BatchJobKind.SEGMENT
CREATED = datetime(2026, 1, 31, 8, tzinfo=UTC)
DESCRIBE, CREATE = SEGMENT.describe_operation, SEGMENT.create_operation
FAILED = "CREATE FAILED"
FAULTS = [
    ("throttle", {}, "ThrottlingException: Rate exceeded."),
    ("server_error", {"status": 500}, "InternalFailure: The request processing has failed"),
    ("server_error", {"status": 503}, "ServiceUnavailable: The request has failed"),
    ("drop_connection", {}, "ConnectionClosedError: Connection was closed before"),
    ("malformed", {}, "ResponseParserError: the response has no batchSegmentJob"),
]

log = logging.getLogger("creation")


class World:
    """
    The local Personalize, a hook, and what a task would ask for.

    :param local: the local Personalize
    :param hook: a hook that repeats nothing by itself
    :param kind: the kind of job
    """

    def __init__(self, local, hook, kind=SEGMENT):
        self.local = local
        self.hook = hook
        self.kind = kind
        recipe = "aws-item-affinity" if kind is SEGMENT else "aws-similar-items"
        self.version = local.add_solution_version("shop", recipe)
        self.request = {
            "solutionVersionArn": self.version,
            "jobInput": {"s3DataSource": {"path": "s3://example-bucket/input/items.json"}},
            "jobOutput": {"s3DataDestination": {"path": "s3://example-bucket/output/"}},
            "roleArn": "arn:aws:iam::123456789012:role/personalize",
        }

    def plan(self, name="weekly", **members):
        return Plan(self.kind, name, self.request | members)

    def wanted(self, if_exists=ADOPT, is_own=False, name="weekly", **options):
        return Wanted(self.plan(name), if_exists, is_own, **options)

    def find(self, *args, **options):
        return find(self.hook, self.wanted(*args, **options), log)

    def creation(self, name="weekly"):
        return Creation(self.plan(name), log)

    def add(self, name="weekly", status="ACTIVE", num_results=25):
        """Put a job there: the same as the one asked for, or another."""
        return self.local.add_job(
            self.kind,
            name,
            solution_version_arn=self.version,
            status=status,
            num_results=num_results,
            created=CREATED,
        )

    def fill(self):
        """Let five jobs run, and no more."""
        return [self.add(f"busy-{i}", "CREATE PENDING") for i in range(5)]

    def arn(self, name="weekly"):
        return f"arn:aws:personalize:us-east-1:123456789012:{self.kind.arn_resource}/{name}"

    def described(self, name="weekly"):
        return make_json_safe(self.hook.describe_job(self.arn(name)))

    def names(self):
        return sorted(job["jobName"] for job in self.hook.list_jobs(self.kind))

    def calls(self):
        """Return the operations called since the last time, and forget them."""
        operations = [call.operation for call in self.local.calls]
        self.local.clear_calls()
        return operations

    def on(self, event, act):
        """Do something before or after a Create call, once, as somebody else does at that very moment."""
        events, name = self.hook.conn.meta.events, f"{event}.personalize.{CREATE}"

        def do(**_):
            events.unregister(name, do)
            act()

        events.register(name, do)


@pytest.fixture(scope="module")
def shared():
    """One server and one client for all tests, because a client takes longer than most of them."""
    with LocalPersonalize(progress="by_hand") as local, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_AWS_DEFAULT", local.airflow_connection())
        hook = PersonalizeHook().without_retries()
        yield local, hook
        hook.close()


@pytest.fixture
def world(shared):
    local, hook = shared
    with local.hold():
        local.backend("us-east-1").reset()
    local.faults.clear()
    local.clear_calls()
    return World(local, hook)


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO)
    return lambda: [each.getMessage() for each in caplog.records if each.name == "creation"]


# --- Finding --------------------------------------------------------------------------------------

FREE, TAKE, NEXT, DIFFERENT, TAKEN = "may be created", "take it", "next name", "different", "taken"
THERE = {
    "nothing": None,
    "same": {"status": "CREATE IN_PROGRESS"},
    "same, ACTIVE": {"status": "ACTIVE"},
    "different": {"num_results": 99},
    "same, failed": {"status": FAILED},
    "different, failed": {"status": FAILED, "num_results": 99},
}
OWN = "a name of its own"
TABLE = [
    (OWN, "nothing", FREE),
    (OWN, "same", TAKE),
    (OWN, "same, ACTIVE", TAKE),
    (OWN, "different", TAKE),
    (OWN, "same, failed", NEXT),
    (OWN, "different, failed", NEXT),
    (ADOPT, "nothing", FREE),
    (ADOPT, "same", TAKE),
    (ADOPT, "same, ACTIVE", TAKE),
    (ADOPT, "different", DIFFERENT),
    (ADOPT, "same, failed", NEXT),
    (ADOPT, "different, failed", NEXT),
    (FAIL, "nothing", FREE),
    (FAIL, "same", TAKEN),
    (FAIL, "same, ACTIVE", TAKEN),
    (FAIL, "different", DIFFERENT),
    (FAIL, "same, failed", TAKEN),
    (FAIL, "different, failed", DIFFERENT),
]


class TestFinding:
    def test_is_all_in_the_table(self):
        assert [row[:2] for row in TABLE] == list(itertools.product((OWN, ADOPT, FAIL), THERE))

    @pytest.mark.parametrize(("if_exists", "there", "outcome"), TABLE)
    @pytest.mark.parametrize("kind", BATCH_JOB_KINDS, ids=lambda kind: kind.name)
    def test_judges_a_job_that_has_the_name(self, world, lines, kind, if_exists, there, outcome):
        world = World(world.local, world.hook, kind)
        if THERE[there]:
            world.add(**THERE[there])
        before, job = world.names(), THERE[there] and world.described()
        world.calls()
        wanted = world.wanted(NEW if if_exists == OWN else if_exists, is_own=if_exists == OWN)
        if outcome in (DIFFERENT, TAKEN):
            with pytest.raises(PersonalizeJobExistsError) as caught:
                find(world.hook, wanted, log)
            assert caught.value.job_arn == world.arn()
            assert caught.value.status == THERE[there].get("status", "ACTIVE")
            expected = ("numResults is 99 instead of 25",) if outcome == DIFFERENT else ()
            assert caught.value.differences == expected
        else:
            name = "weekly-2" if outcome == NEXT else "weekly"
            assert find(world.hook, wanted, log) == Found(world.plan(name), job if outcome == TAKE else None)
        assert world.calls() == [kind.describe_operation] * (2 if outcome == NEXT else 1)
        assert world.names() == before
        told = {
            NEXT: ["The job weekly is CREATE FAILED; trying the next name."],
            TAKE: [
                "This task's own job differs from the parameters as they are now: its numResults is 99 "
                "instead of 25. To create another, clear the task when this job is over. "
                f"({world.arn()})"
            ]
            * (there == "different"),
        }
        assert lines() == told.get(outcome, [])

    @pytest.mark.parametrize("status", ["CREATE PENDING", "IN PROGRESS", "ACTIVE", "SLUMBERING"])
    def test_takes_a_job_in_whatever_status_but_failed(self, world, status):
        world.add(status=status)
        assert world.find().job["status"] == status

    def test_says_every_difference(self, world):
        world.add(num_results=99)
        world.request["roleArn"] += "-other"
        with pytest.raises(PersonalizeJobExistsError) as caught:
            world.find()
        assert (
            "Another job has this name already: its numResults is 99 instead of 25; "
            "roleArn is 'arn:aws:iam::123456789012:role/personalize' instead of "
            "'arn:aws:iam::123456789012:role/personalize-other'. Nothing was created: choose another "
            "job_name, or set if_exists='new' to create it under a name of the task's own."
        ) in str(caught.value)

    @pytest.mark.parametrize(
        ("member", "value"),
        [
            ("jobInput", {"s3DataSource": {"path": "s3://example-bucket/other/items.json"}}),
            ("jobOutput", {"s3DataDestination": {"path": "s3://example-bucket/elsewhere/"}}),
            ("filterArn", "arn:aws:personalize:us-east-1:123456789012:filter/adults"),
        ],
    )
    def test_refuses_a_job_of_its_own_name_from_another_environment(self, world, member, value):
        world.add()
        world.request[member] = value
        with pytest.raises(PersonalizeJobExistsError) as caught:
            world.find(NEW, is_own=True)
        assert caught.value.differences[0].startswith(member)
        assert len(caught.value.differences) == 1

    @pytest.mark.parametrize(
        "change",
        [
            {"jobOutput": {"s3DataDestination": {"path": "s3://example-bucket/output"}}},
            {"roleArn": "arn:aws:iam::123456789012:role/other"},
            {"numResults": 7},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_takes_its_own_job_though_aws_shows_it_a_little_differently(self, world, lines, change):
        world.add()
        world.request |= change
        assert world.find(NEW, is_own=True).job["status"] == "ACTIVE"
        assert "This task's own job differs from the parameters as they are now" in lines()[0]

    @pytest.mark.parametrize(("fault", "options", "words"), FAULTS)
    def test_decides_nothing_without_an_answer(self, world, fault, options, words):
        getattr(world.local.faults, fault)(times=1, operation=DESCRIBE, **options)
        with pytest.raises(PersonalizeUnavailableError) as caught:
            world.find()
        assert str(caught.value).startswith(words)
        assert str(caught.value).endswith(
            f"({DESCRIBE} did not succeed for {world.arn()}, region us-east-1, connection 'aws_default')"
        )
        assert world.calls() == [DESCRIBE]

    def test_raises_a_refusal(self, world):
        world.local.faults.deny_access(operation=DESCRIBE)
        with pytest.raises(PersonalizeRequestError, match="AccessDeniedException"):
            world.find()


class TestNumbers:
    def test_go_on_until_one_is_free(self, world, lines):
        for number in range(1, 5):
            world.add(number_job_name("weekly", number), FAILED)
        world.calls()
        assert world.find() == Found(world.plan("weekly-5"))
        assert world.calls() == [DESCRIBE] * 5
        assert lines()[-1] == "The job weekly-4 is CREATE FAILED; trying the next name."

    def test_go_on_until_one_can_be_taken(self, world):
        world.add(status=FAILED)
        world.add("weekly-2")
        assert world.find().plan.job_name == "weekly-2"

    def test_end(self, world):
        for number in range(1, MAX_NUMBER + 1):
            world.add(number_job_name("weekly", number), FAILED)
        world.calls()
        with pytest.raises(InvalidParameterError) as caught:
            world.find()
        assert str(caught.value) == (
            "job_name: weekly and its numbers up to 99 are taken. Choose a name that changes from run to "
            "run, such as one with '{{ ts_nodash }}' in it."
        )
        assert world.calls() == [DESCRIBE] * MAX_NUMBER

    def test_have_a_last_one(self, world):
        for number in range(1, MAX_NUMBER):
            world.add(number_job_name("weekly", number), FAILED)
        assert world.find() == Found(world.plan("weekly-99"))


class TestRecorded:
    """The name that a lineage recorded is resumed, whatever is asked for now."""

    def kept(self, world, name="weekly-7"):
        return world.plan(name, numResults=99)

    @pytest.mark.parametrize("if_exists", IF_EXISTS)
    def test_is_taken_first(self, world, lines, if_exists):
        world.add()
        world.add("weekly-7", num_results=99)
        world.calls()
        found = world.find(if_exists, kept=self.kept(world))
        assert found == Found(world.plan("weekly-7"), world.described("weekly-7"))
        assert world.calls()[:1] == [DESCRIBE]
        assert lines() == [
            "This task's own job differs from the parameters as they are now: its numResults is 99 instead "
            f"of 25. To create another, clear the task when this job is over. ({world.arn('weekly-7')})"
        ]

    @pytest.mark.parametrize("if_exists", IF_EXISTS)
    def test_is_taken_with_what_any_try_asked_for(self, world, if_exists):
        """A Create that was under way makes the job under an older request than the one recorded last."""
        world.add("weekly-7", num_results=7)
        requests = (world.request | {"numResults": 8}, world.request | {"numResults": 7})
        found = world.find(if_exists, kept=self.kept(world), requests=requests)
        assert found == Found(world.plan("weekly-7"), world.described("weekly-7"))

    @pytest.mark.parametrize("if_exists", [ADOPT, FAIL])
    def test_is_refused_when_no_try_asked_for_it(self, world, if_exists):
        world.add("weekly-7", num_results=6)
        with pytest.raises(PersonalizeJobExistsError, match="numResults is 6 instead of 25"):
            world.find(if_exists, kept=self.kept(world), requests=(world.request | {"numResults": 7},))

    @pytest.mark.parametrize("if_exists", IF_EXISTS)
    def test_is_created_with_the_parameters_as_they_are_now_when_it_is_not_there(self, world, if_exists):
        world.add()
        found = world.find(if_exists, kept=self.kept(world), earlier=("daily",))
        assert found == Found(world.plan("weekly-7"))
        assert world.calls() == [DESCRIBE]

    @pytest.mark.parametrize(("kept", "expected"), [("weekly-7", "weekly-8"), ("daily", "weekly")])
    def test_is_left_only_when_it_failed(self, world, kept, expected):
        world.add(kept, FAILED)
        world.calls()
        assert world.find(FAIL, kept=self.kept(world, kept)) == Found(world.plan(expected))
        assert world.calls() == [DESCRIBE] * 2

    def test_is_refused_when_it_is_of_another_environment(self, world):
        world.add("weekly-7")
        world.request["jobInput"] = {"s3DataSource": {"path": "s3://example-bucket/other/items.json"}}
        kept = self.kept(world)
        with pytest.raises(PersonalizeJobExistsError, match="weekly-7"):
            world.find(kept=kept)


class TestFirstTries:
    """No earlier try of its lineage can have made what the first try finds under its own name."""

    def find(self, world, **job):
        world.add(**job)
        world.calls()
        return world.find(NEW, is_own=True, is_first=True)

    def test_take_a_job_that_is_unfinished_and_the_same(self, world):
        found = self.find(world, status="CREATE IN_PROGRESS")
        assert found == Found(world.plan(), world.described())

    @pytest.mark.parametrize("status", ["CREATE PENDING", "ACTIVE"])
    def test_refuse_one_that_differs_in_anything(self, world, status):
        with pytest.raises(PersonalizeJobExistsError) as caught:
            self.find(world, status=status, num_results=1000)
        assert str(caught.value) == (
            "Another job has this task's own name already: its numResults is 1000 instead of 25. Nothing was "
            "created: clear the task, which then creates a job under another name. A DAG run that was "
            "deleted, or an earlier try with other parameters, may have made the job; or another Airflow of "
            "this AWS account, which [personalize] job_name_prefix keeps apart. "
            f"(batch-segment-job/weekly, us-east-1, {status})"
        )

    @pytest.mark.parametrize(
        ("member", "value"),
        [
            ("roleArn", "arn:aws:iam::123456789012:role/other"),
            ("jobOutput", {"s3DataDestination": {"path": "s3://example-bucket/output"}}),
            (
                "jobInput",
                {
                    "s3DataSource": {
                        "path": "s3://example-bucket/input/items.json",
                        "kmsKeyArn": "arn:aws:kms:us-east-1:123456789012:key/1",
                    }
                },
            ),
        ],
        ids=["role", "slash", "key"],
    )
    def test_compare_as_strictly_as_with_an_explicit_name(self, world, member, value):
        world.request[member] = value
        with pytest.raises(PersonalizeJobExistsError, match="Another job has this task's own name already"):
            self.find(world, status="CREATE PENDING")

    def test_do_not_take_an_active_job_for_a_result_of_this_run(self, world):
        with pytest.raises(PersonalizeJobExistsError) as caught:
            self.find(world)
        assert str(caught.value).startswith(
            "The job of this name was ACTIVE before the task's first try, so it is no result of this run. "
            "Nothing was created: clear the task"
        )
        assert caught.value.differences == ()
        assert world.calls() == [DESCRIBE]

    def test_pass_by_a_job_that_failed(self, world):
        assert self.find(world, status=FAILED) == Found(world.plan("weekly-2"))


class TestEarlierLineages:
    """A cleared task takes the job that it created before, if that is the same, and not delivered."""

    def find(self, world, *earlier, **options):
        return world.find(NEW, is_own=True, name="own", earlier=earlier, **options)

    def test_of_an_unfinished_job_it_is_taken(self, world):
        world.add(status="CREATE IN_PROGRESS")
        assert self.find(world, "weekly") == Found(world.plan(), world.described())

    @pytest.mark.parametrize("job", [{}, {"status": FAILED}, {"status": "CREATE PENDING", "num_results": 9}])
    def test_of_any_other_a_new_one_is_created(self, world, job):
        world.add(**job)
        assert self.find(world, "weekly") == Found(world.plan("own"))

    def test_of_an_active_job_it_is_taken_when_its_lineage_failed(self, world, lines):
        world.add()
        found = self.find(world, "weekly", has_delivered=False)
        assert found == Found(world.plan(), world.described())
        assert lines() == []

    def test_of_an_active_job_that_no_record_names_it_is_not_taken(self, world):
        world.add(status=FAILED)
        world.add("weekly-2")
        assert self.find(world, "weekly", has_delivered=False) == Found(world.plan("own"))

    @pytest.mark.parametrize("job", [{"status": FAILED}, {"num_results": 9}])
    def test_unless_it_failed_or_is_another(self, world, lines, job):
        world.add(**job)
        assert self.find(world, "weekly", has_delivered=False) == Found(world.plan("own"))
        assert lines() == []

    def test_of_an_active_job_a_new_one_is_created_when_its_lineage_succeeded(self, world, lines):
        world.add()
        assert self.find(world, "weekly", has_delivered=True) == Found(world.plan("own"))
        assert lines() == []

    def test_of_an_active_job_without_a_record_a_new_one_is_created_with_a_warning(self, world, lines):
        world.add()
        world.add("daily")
        assert self.find(world, "weekly", "daily") == Found(world.plan("own"))
        assert lines() == [
            "The task's job from before it was cleared is ACTIVE. Nothing tells whether the task succeeded "
            "with it, so the task does it again, and creates another. To take such a job, do not clear the "
            f"task: mark it as success, or let a sensor wait for the ARN. ({world.arn()})"
        ]

    def test_of_an_older_one_that_runs_nothing_is_created_and_nothing_warned_of(self, world, lines):
        world.add()
        world.add("daily", "CREATE PENDING")
        assert self.find(world, "weekly", "daily").plan == world.plan("daily")
        assert lines() == []

    def test_spend_a_name_that_recurs(self, world):
        """Where `retries` was lowered before the clear, two lineages have one name."""
        world.add("own")
        world.add("own-2", FAILED)
        assert self.find(world, "own", has_delivered=True, spent="own") == Found(world.plan("own-3"))

    def test_are_looked_at_behind_what_failed(self, world):
        world.add(status=FAILED)
        world.add("weekly-2", "CREATE PENDING")
        assert self.find(world, "daily", "weekly").plan == world.plan("weekly-2")

    def test_cost_a_bounded_number_of_calls(self, world):
        earlier = [f"weekly{number}" for number in range(MAX_LOOKS_BACK + 10)]
        assert self.find(world, *earlier) == Found(world.plan("own"))
        assert world.calls() == [DESCRIBE] * (1 + MAX_LOOKS_BACK)

    def test_do_not_count_once_this_lineage_has_a_job(self, world):
        world.add(status="CREATE PENDING")
        world.add("own", FAILED)
        assert self.find(world, "weekly") == Found(world.plan("own-2"))

    @pytest.mark.parametrize(
        ("status", "outcome"), [("CREATE PENDING", TAKE), (FAILED, NEXT), ("ACTIVE", TAKEN)]
    )
    @pytest.mark.parametrize("has_delivered", [None, True, False])
    def test_prove_an_explicit_name_to_be_the_tasks_own(self, world, status, outcome, has_delivered):
        world.add(status=status)
        if has_delivered is False and outcome == TAKEN:
            found = world.find(FAIL, earlier=("weekly",), has_delivered=False)
            assert found == Found(world.plan(), world.described())
            return
        if outcome == TAKEN:
            with pytest.raises(PersonalizeJobExistsError, match="if_exists is 'fail'"):
                world.find(FAIL, earlier=("weekly",), has_delivered=has_delivered)
            return
        found = world.find(FAIL, earlier=("weekly",), has_delivered=has_delivered)
        assert found.plan.job_name == ("weekly" if outcome == TAKE else "weekly-2")


# --- Creating -------------------------------------------------------------------------------------


class TestCreating:
    def test_makes_exactly_this_job(self, world, lines):
        assert world.creation("weekly-3").attempt(world.hook) == Attempt(world.arn("weekly-3"))
        assert world.calls() == [CREATE]
        assert world.names() == ["weekly-3"]
        assert lines() == [f"Created {world.arn('weekly-3')}."]

    @pytest.mark.parametrize(("fault", "options", "words"), FAULTS)
    def test_is_repeated_after_a_fault(self, world, fault, options, words):
        getattr(world.local.faults, fault)(times=1, operation=CREATE, **options)
        creation = world.creation()
        attempt = creation.attempt(world.hook)
        assert attempt.job_arn is attempt.job is None
        assert not attempt.is_full
        assert f"{CREATE} did not succeed for batch segment job 'weekly'" in attempt.reason
        assert creation.is_unanswered == (fault != "throttle")
        world.calls()
        again = creation.attempt(world.hook)
        assert (again.job_arn, again.is_own) == (world.arn(), True)
        # Throttled, AWS has done nothing; without an answer, it may have.
        looks = [] if fault == "throttle" else [DESCRIBE]
        assert world.calls() == looks + [CREATE] * (again.job is None)
        assert world.names() == ["weekly"]

    def test_without_an_answer_is_followed_by_a_look(self, world):
        world.local.faults.drop_answer(times=1, operation=CREATE)
        creation = world.creation()
        assert creation.attempt(world.hook).job_arn is None
        assert creation.attempt(world.hook) == Attempt(world.arn(), world.described(), is_own=True)
        assert world.names() == ["weekly"]

    @pytest.mark.parametrize("retries", [{"total_max_attempts": 3}, {"mode": "standard", "max_attempts": 4}])
    def test_is_its_own_though_botocore_is_set_to_repeat(self, world, retries):
        """A Create that botocore repeats would be answered by "exists", as if the job were another task's."""
        hook = PersonalizeHook(config={"retries": retries}).without_retries()
        world.local.faults.drop_answer(times=1, operation=CREATE)
        creation = world.creation()
        assert creation.attempt(hook).job_arn is None
        assert creation.is_unanswered
        assert creation.attempt(hook) == Attempt(world.arn(), world.described(), is_own=True)
        assert world.calls().count(CREATE) == 1
        assert hook.repeating_nothing()._clients
        hook.close()
        assert not hook.repeating_nothing()._clients

    @pytest.mark.parametrize(("fault", "options", "words"), FAULTS)
    def test_decides_nothing_when_that_look_has_no_answer(self, world, fault, options, words):
        world.local.faults.drop_answer(times=1, operation=CREATE)
        creation = world.creation()
        creation.attempt(world.hook)
        getattr(world.local.faults, fault)(times=1, operation=DESCRIBE, **options)
        attempt = creation.attempt(world.hook)
        assert (attempt.job_arn, attempt.is_full) == (None, False)
        assert creation.attempt(world.hook).job_arn == world.arn()
        assert world.names() == ["weekly"]

    def test_is_refused_while_as_many_jobs_run_as_may(self, world):
        busy = world.fill()
        creation = world.creation()
        attempt = creation.attempt(world.hook)
        assert (attempt.job_arn, attempt.is_full, creation.is_unanswered) == (None, True, False)
        assert "LimitExceededException" in attempt.reason
        world.local.set_status(busy[0], "ACTIVE")
        world.calls()
        assert creation.attempt(world.hook) == Attempt(world.arn())
        assert world.calls() == [CREATE]

    def test_raises_a_refusal_for_good(self, world):
        world.local.faults.deny_access(operation=CREATE)
        with pytest.raises(PersonalizeRequestError, match="AccessDeniedException"):
            world.creation().attempt(world.hook)

    @pytest.mark.parametrize("status", ["CREATE PENDING", "ACTIVE", FAILED])
    def test_hands_a_job_out_that_somebody_else_made_and_never_another_name(self, world, status):
        world.add(status=status)
        attempt = world.creation().attempt(world.hook)
        assert attempt == Attempt(world.arn(), world.described(), is_own=False)
        assert world.names() == ["weekly"]

    def test_knows_its_own_job_when_aws_says_that_it_exists(self, world):
        world.local.faults.drop_answer(times=1, operation=CREATE)
        creation = world.creation()
        creation.attempt(world.hook)
        jobs = world.local.backend("us-east-1").jobs
        hidden = {world.arn(): jobs.pop(world.arn())}
        world.on("before-call", lambda: jobs.update(hidden))
        attempt = creation.attempt(world.hook)
        assert (attempt.job_arn, attempt.is_own) == (world.arn(), True)

    def test_waits_for_a_job_that_does_not_show_yet(self, world):
        jobs = world.local.backend("us-east-1").jobs
        hidden = {}
        world.on("before-call", world.add)
        world.on("after-call", lambda: hidden.update({world.arn(): jobs.pop(world.arn())}))
        creation = world.creation()
        assert creation.attempt(world.hook) == Attempt(
            reason=f"AWS says that the job exists, and does not show it yet ({world.arn()})"
        )
        jobs.update(hidden)
        assert creation.attempt(world.hook).job_arn == world.arn()


class TestAfterCreating:
    """A job that AWS says exists is judged by the same rules."""

    @pytest.mark.parametrize(("if_exists", "is_own", "outcome"), [
        (ADOPT, False, TAKE), (FAIL, False, TAKEN), (FAIL, True, TAKE), (ADOPT, True, TAKE),
    ])  # fmt: skip
    def test_is_own_only_when_a_create_had_no_answer(self, world, if_exists, is_own, outcome):
        world.add()
        arguments = world.wanted(if_exists), world.plan(), world.described(), log
        if outcome == TAKE:
            assert may_take(*arguments, is_own=is_own)
        else:
            with pytest.raises(PersonalizeJobExistsError, match="exists already, and if_exists is 'fail'"):
                may_take(*arguments, is_own=is_own)

    @pytest.mark.parametrize("if_exists", [ADOPT, FAIL])
    def test_that_is_its_own_may_be_shown_without_a_slash(self, world, if_exists):
        world.add()
        world.request["jobOutput"] = {"s3DataDestination": {"path": "s3://example-bucket/output"}}
        arguments = world.wanted(if_exists), world.plan(), world.described(), log
        assert may_take(*arguments, is_own=True)
        with pytest.raises(PersonalizeJobExistsError):
            may_take(*arguments)

    @pytest.mark.parametrize("if_exists", [ADOPT, FAIL])
    def test_that_differs_is_a_strangers_whatever_a_record_says(self, world, if_exists):
        world.add(num_results=99)
        with pytest.raises(PersonalizeJobExistsError, match="numResults is 99 instead of 25"):
            may_take(world.wanted(if_exists), world.plan(), world.described(), log, is_own=True)


class TestDelay:
    intervals = st.floats(min_value=0.01, max_value=3600.0)
    counts = st.integers(min_value=1, max_value=10_000)

    @given(counts, intervals)
    def test_of_a_full_quota_is_the_interval_and_then_somewhat_more(self, count, interval):
        longest = min(interval * 2.0 ** min(count - 1, 60), interval * FULL_INTERVALS)
        assert longest / 2 <= find_delay(count, interval, is_full=True) <= longest

    @given(counts, intervals)
    def test_of_a_fault_begins_with_a_second_and_ends_with_the_interval(self, count, interval):
        longest = min(2.0 ** min(count - 1, 60), interval)
        assert longest / 2 <= find_delay(count, interval, is_full=False) <= longest

    @pytest.mark.parametrize("is_full", [True, False])
    def test_is_spread(self, is_full):
        assert len({find_delay(3, 60.0, is_full=is_full) for _ in range(10)}) > 1
