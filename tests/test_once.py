"""Having a job once: what each attempt makes of what is there, of every fault, and of what went before."""

from __future__ import annotations

import itertools
import logging
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_personalize_segments.creating.names import MAX_NUMBER, number_job_name
from airflow_provider_personalize_segments.creating.once import (
    ADOPT,
    CLOCK_DIFFERENCE,
    FAIL,
    FULL_INTERVALS,
    IF_EXISTS,
    NEW,
    Attempt,
    JobCreation,
    find_delay,
)
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
EARLIER_TRYS, OLDER = CREATED, CREATED + CLOCK_DIFFERENCE + timedelta(seconds=1)
"""Since when a job created at CREATED is an earlier try's, and since when it is not."""
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

    def creation(self, if_exists=ADOPT, since=None, name="weekly", **options):
        return JobCreation(self.kind, self.request, name, if_exists, since=since, log=log, **options)

    def add(self, name="weekly", status="ACTIVE", num_results=25, created=CREATED):
        """Put a job there: the same as the one asked for, or another."""
        return self.local.add_job(
            self.kind,
            name,
            solution_version_arn=self.version,
            status=status,
            num_results=num_results,
            created=created,
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


# --- What is there --------------------------------------------------------------------------------

MADE, ADOPTED, NEXT, DIFFERENT, TAKEN = "made", "adopted", "next number", "different", "taken"
THERE = {
    "nothing": None,
    "same": {"status": "CREATE IN_PROGRESS"},
    "different": {"num_results": 99},
    "same, failed": {"status": FAILED},
    "different, failed": {"status": FAILED, "num_results": 99},
}
TABLE = [
    # if_exists, what is there, and what comes of it: when nothing was tried so far, when what is there may be
    # an earlier try's, and when it is older than that
    (ADOPT, "nothing", MADE, MADE, MADE),
    (ADOPT, "same", ADOPTED, ADOPTED, ADOPTED),
    (ADOPT, "different", DIFFERENT, DIFFERENT, DIFFERENT),
    (ADOPT, "same, failed", NEXT, NEXT, NEXT),
    (ADOPT, "different, failed", NEXT, NEXT, NEXT),
    (FAIL, "nothing", MADE, MADE, MADE),
    (FAIL, "same", TAKEN, ADOPTED, TAKEN),
    (FAIL, "different", DIFFERENT, DIFFERENT, DIFFERENT),
    (FAIL, "same, failed", TAKEN, NEXT, TAKEN),
    (FAIL, "different, failed", DIFFERENT, NEXT, DIFFERENT),
    (NEW, "nothing", MADE, MADE, MADE),
    (NEW, "same", NEXT, ADOPTED, NEXT),
    (NEW, "different", NEXT, NEXT, NEXT),
    (NEW, "same, failed", NEXT, NEXT, NEXT),
    (NEW, "different, failed", NEXT, NEXT, NEXT),
]


class TestWhatIsThere:
    def test_is_all_in_the_table(self):
        assert [row[:2] for row in TABLE] == list(itertools.product(IF_EXISTS, THERE))

    @pytest.mark.parametrize(
        ("if_exists", "there", "since", "outcome"),
        [
            (if_exists, there, since, outcome)
            for if_exists, there, *outcomes in TABLE
            for since, outcome in zip((None, EARLIER_TRYS, OLDER), outcomes, strict=True)
        ],
    )
    @pytest.mark.parametrize("kind", BATCH_JOB_KINDS, ids=lambda kind: kind.name)
    def test_decides(self, world, lines, kind, if_exists, there, since, outcome):
        world = World(world.local, world.hook, kind)
        if THERE[there]:
            world.add(**THERE[there])
        before = world.names()
        world.calls()
        creation = world.creation(if_exists, since)
        describe, create = kind.describe_operation, kind.create_operation
        status = world.described()["status"] if THERE[there] else None
        world.calls()
        taken = f"There is a {kind.title} weekly already, which is {status}; trying weekly-2."
        if outcome in (DIFFERENT, TAKEN):
            with pytest.raises(PersonalizeJobExistsError) as caught:
                creation.attempt(world.hook)
            assert caught.value.job_arn == world.arn()
            assert caught.value.status == THERE[there].get("status", "ACTIVE")
            assert caught.value.differences == (
                ("numResults is 99 instead of 25",) if outcome == DIFFERENT else ()
            )
            assert world.calls() == [describe]
            assert lines() == []
        elif outcome == ADOPTED:
            assert creation.attempt(world.hook) == Attempt(world.arn(), world.described())
            assert lines() == [
                *([taken] if if_exists == NEW else []),
                f"{world.arn()} exists already, created at 2026-01-31T08:00:00+00:00: adopting it. "
                "It is CREATE IN_PROGRESS.",
            ]
        else:
            name = "weekly" if outcome == MADE else "weekly-2"
            assert creation.attempt(world.hook) == Attempt(world.arn(name))
            assert world.calls() == [describe] * (1 if outcome == MADE else 2) + [create]
            assert world.names() == [*before, name]
            assert lines() == [*([taken] if outcome == NEXT else []), f"Created {world.arn(name)}."]
            return
        assert world.names() == before

    @pytest.mark.parametrize("status", ["CREATE PENDING", "IN PROGRESS", "ACTIVE", "SLUMBERING"])
    def test_is_adopted_in_whatever_status(self, world, status):
        world.add(status=status)
        world.calls()
        assert world.creation().attempt(world.hook).job["status"] == status
        assert world.calls() == [DESCRIBE]

    @pytest.mark.parametrize(
        ("seconds", "outcome"), [(-1, ADOPTED), (0, ADOPTED), (0.001, TAKEN), (3600, TAKEN)]
    )
    def test_counts_as_an_earlier_trys_by_aws_clock(self, world, seconds, outcome):
        world.add()
        creation = world.creation(FAIL, CREATED + CLOCK_DIFFERENCE + timedelta(seconds=seconds))
        if outcome == ADOPTED:
            assert creation.attempt(world.hook).job_arn == world.arn()
        else:
            with pytest.raises(PersonalizeJobExistsError, match="exists already, and if_exists is 'fail'"):
                creation.attempt(world.hook)

    def test_is_told_with_every_difference(self, world):
        world.add(num_results=99)
        world.request["roleArn"] += "-other"
        with pytest.raises(PersonalizeJobExistsError) as caught:
            world.creation().attempt(world.hook)
        assert (
            "is another job than the one asked for: numResults is 99 instead of 25; "
            "roleArn is 'arn:aws:iam::123456789012:role/personalize' instead of "
            "'arn:aws:iam::123456789012:role/personalize-other'. Nothing was created: choose another "
            "job_name, or set if_exists='new' to create it under the next number."
        ) in str(caught.value)


class TestNumbers:
    def test_go_on_until_one_is_free(self, world, lines):
        for number in range(1, 5):
            world.add(number_job_name("weekly", number), FAILED)
        world.calls()
        assert world.creation().attempt(world.hook) == Attempt(world.arn("weekly-5"))
        assert world.calls() == [DESCRIBE] * 5 + [CREATE]
        assert lines()[-2:] == [
            "There is a batch segment job weekly-4 already, which is CREATE FAILED; trying weekly-5.",
            f"Created {world.arn('weekly-5')}.",
        ]

    def test_go_on_until_one_can_be_adopted(self, world):
        world.add(status=FAILED)
        world.add("weekly-2")
        assert world.creation().attempt(world.hook).job_arn == world.arn("weekly-2")

    def test_end(self, world):
        for number in range(1, MAX_NUMBER + 1):
            world.add(number_job_name("weekly", number), FAILED)
        world.calls()
        with pytest.raises(InvalidParameterError) as caught:
            world.creation().attempt(world.hook)
        assert str(caught.value) == (
            "job_name: weekly and its numbers up to 99 are taken. Choose a name that changes from run to "
            "run, such as one with '{{ ts_nodash }}' in it."
        )
        assert world.calls() == [DESCRIBE] * MAX_NUMBER

    def test_have_a_last_one(self, world):
        for number in range(1, MAX_NUMBER):
            world.add(number_job_name("weekly", number), FAILED)
        assert world.creation().attempt(world.hook) == Attempt(world.arn("weekly-99"))

    def test_have_a_last_one_that_a_later_try_adopts(self, world):
        for number in range(1, MAX_NUMBER):
            world.add(number_job_name("weekly", number))
        assert world.creation(NEW, OLDER).attempt(world.hook).job_arn == world.arn("weekly-99")
        assert world.creation(NEW, OLDER).attempt(world.hook).job_arn == world.arn("weekly-99")

    def test_of_new_jobs_lead_to_the_last_that_an_earlier_try_made(self, world):
        world.add(created=CREATED - timedelta(days=1))
        for number in (2, 3, 4):
            world.add(number_job_name("weekly", number))
        world.calls()
        attempt = world.creation(NEW, EARLIER_TRYS).attempt(world.hook)
        assert attempt == Attempt(world.arn("weekly-4"), world.described("weekly-4"))
        assert world.calls()[:5] == [DESCRIBE] * 5

    def test_of_new_jobs_do_not_lead_back_behind_one_that_failed(self, world):
        world.add()
        world.add("weekly-2", FAILED)
        assert world.creation(NEW, EARLIER_TRYS).attempt(world.hook).job_arn == world.arn("weekly-3")

    def test_of_new_jobs_go_on_from_attempt_to_attempt(self, world):
        world.add()
        world.local.faults.throttle(times=1, operation=CREATE)
        creation = world.creation(NEW)
        assert creation.attempt(world.hook).job_arn is None
        assert (creation.number, creation.is_free, creation.job_arn) == (2, True, world.arn("weekly-2"))
        world.calls()
        assert creation.attempt(world.hook) == Attempt(world.arn("weekly-2"))
        assert world.calls() == [DESCRIBE, CREATE]


# --- Faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("if_exists", IF_EXISTS)
class TestFaults:
    @pytest.mark.parametrize(("fault", "options", "words"), FAULTS)
    def test_of_a_look_are_no_answer_and_create_nothing(self, world, if_exists, fault, options, words):
        getattr(world.local.faults, fault)(times=1, operation=DESCRIBE, **options)
        creation = world.creation(if_exists)
        attempt = creation.attempt(world.hook)
        assert attempt.job_arn is attempt.job is None
        assert not attempt.is_full
        assert attempt.reason.startswith(
            f"{DESCRIBE} did not succeed for {world.arn()} "
            f"(region us-east-1, connection 'aws_default'): {words}"
        )
        assert world.calls() == [DESCRIBE]
        assert not creation.is_free
        assert creation.attempt(world.hook) == Attempt(world.arn())
        assert world.calls() == [DESCRIBE, CREATE]

    @pytest.mark.parametrize(("fault", "options", "words"), FAULTS)
    def test_of_a_creation_are_followed_by_a_look(self, world, if_exists, fault, options, words):
        getattr(world.local.faults, fault)(times=1, operation=CREATE, **options)
        creation = world.creation(if_exists)
        attempt = creation.attempt(world.hook)
        assert attempt.job_arn is attempt.job is None
        assert not attempt.is_full
        assert attempt.reason.startswith(
            f"{CREATE} did not succeed for batch segment job 'weekly' of {world.version} "
            f"(region us-east-1, connection 'aws_default'): {words}"
        )
        assert world.calls() == [DESCRIBE, CREATE]
        assert creation.attempt(world.hook) == Attempt(world.arn())
        assert world.calls() == [DESCRIBE, CREATE]
        assert world.names() == ["weekly"]

    def test_that_only_lose_the_answer_make_no_second_job(self, world, if_exists, lines):
        world.local.faults.drop_answer(times=1, operation=CREATE)
        creation = world.creation(if_exists)
        attempt = creation.attempt(world.hook)
        assert attempt.job_arn is None
        assert "ConnectionClosedError" in attempt.reason
        assert world.calls() == [DESCRIBE, CREATE]
        assert creation.attempt(world.hook).job_arn == world.arn()
        assert world.calls() == [DESCRIBE]
        assert world.names() == ["weekly"]
        assert "exists already, created at" in lines()[-1]

    def test_that_only_lose_the_answer_do_not_hide_that_the_job_failed(self, world, if_exists):
        world.local.faults.drop_answer(times=1, operation=CREATE)
        creation = world.creation(if_exists)
        creation.attempt(world.hook)
        world.local.set_status(world.arn(), FAILED, "Invalid S3 input path")
        attempt = creation.attempt(world.hook)
        assert (attempt.job_arn, attempt.job["status"]) == (world.arn(), FAILED)

    def test_that_only_lose_the_answer_make_no_second_job_in_the_next_try(self, world, if_exists):
        world.local.faults.drop_answer(times=1, operation=CREATE)
        start = datetime.now(UTC)
        world.creation(if_exists).attempt(world.hook)
        assert world.creation(if_exists, start).attempt(world.hook).job_arn == world.arn()
        assert world.names() == ["weekly"]

    def test_of_access_end_at_once(self, world, if_exists):
        world.local.faults.deny_access(operation=DESCRIBE)
        with pytest.raises(PersonalizeRequestError, match=f"Allow personalize:{DESCRIBE} in that"):
            world.creation(if_exists).attempt(world.hook)
        assert world.calls() == [DESCRIBE]
        world.local.faults.clear()
        world.local.faults.deny_access(operation=CREATE)
        with pytest.raises(PersonalizeRequestError, match=f"Allow personalize:{CREATE} in that"):
            world.creation(if_exists).attempt(world.hook)
        assert world.calls() == [DESCRIBE, CREATE]
        assert world.names() == []

    def test_of_the_request_end_at_once(self, world, if_exists):
        world.request["solutionVersionArn"] = world.version.replace("shop", "none")
        with pytest.raises(
            PersonalizeRequestError,
            match=f"{CREATE} was refused .* ResourceNotFoundException: .*none/.* does",
        ):
            world.creation(if_exists).attempt(world.hook)
        assert world.calls() == [DESCRIBE, CREATE]


# --- A full quota ---------------------------------------------------------------------------------


class TestFullQuota:
    def test_is_told_apart_and_asked_about_by_one_call(self, world):
        busy = world.fill()
        creation = world.creation()
        attempt = creation.attempt(world.hook)
        assert attempt.job_arn is attempt.job is None
        assert attempt.is_full
        assert attempt.reason.startswith(
            f"{CREATE} did not succeed for batch segment job 'weekly' of {world.version} "
            "(region us-east-1, connection 'aws_default'): LimitExceededException: More than 5 "
        )
        assert world.calls() == [DESCRIBE, CREATE]
        for _ in range(3):
            assert creation.attempt(world.hook).is_full
            assert world.calls() == [CREATE]
        world.local.set_status(busy[2], "ACTIVE")
        assert creation.attempt(world.hook) == Attempt(world.arn())
        assert world.calls() == [CREATE]

    def test_does_not_matter_for_a_job_that_is_there(self, world):
        world.fill()
        world.add()
        world.calls()
        assert world.creation().attempt(world.hook).job_arn == world.arn()
        assert world.calls() == [DESCRIBE]

    @pytest.mark.parametrize("fault", ["throttle", "drop_connection", "malformed"])
    def test_is_no_reason_to_skip_the_look_after_another_fault(self, world, fault):
        busy = world.fill()
        creation = world.creation()
        creation.attempt(world.hook)
        getattr(world.local.faults, fault)(times=1, operation=CREATE)
        attempt = creation.attempt(world.hook)
        assert attempt.job_arn is None
        assert not attempt.is_full
        world.local.set_status(busy[0], "ACTIVE")
        world.calls()
        assert creation.attempt(world.hook) == Attempt(world.arn())
        assert world.calls() == [DESCRIBE, CREATE]

    @pytest.mark.parametrize("if_exists", IF_EXISTS)
    def test_then_a_lost_answer_makes_no_second_job(self, world, if_exists):
        busy = world.fill()
        creation = world.creation(if_exists)
        creation.attempt(world.hook)
        world.local.set_status(busy[0], "ACTIVE")
        world.local.faults.drop_answer(times=1, operation=CREATE)
        assert creation.attempt(world.hook).job_arn is None
        world.calls()
        assert creation.attempt(world.hook).job_arn == world.arn()
        assert world.calls() == [DESCRIBE]

    def test_is_met_under_the_number_that_is_free(self, world):
        busy = world.fill()
        world.add(status=FAILED)
        creation = world.creation()
        assert creation.attempt(world.hook).is_full
        world.local.set_status(busy[0], "ACTIVE")
        world.calls()
        assert creation.attempt(world.hook) == Attempt(world.arn("weekly-2"))
        assert world.calls() == [CREATE]

    def test_then_a_job_of_somebody_else_is_judged(self, world):
        world.fill()
        creation = world.creation()
        creation.attempt(world.hook)
        world.add(num_results=99)
        world.calls()
        with pytest.raises(PersonalizeJobExistsError, match="numResults is 99 instead of 25"):
            creation.attempt(world.hook)
        assert world.calls() == [CREATE, DESCRIBE]


# --- Others, and before ---------------------------------------------------------------------------


class TestSomebodyFaster:
    @pytest.mark.parametrize("if_exists", IF_EXISTS)
    def test_with_the_same_job_is_taken_for_the_task_itself(self, world, if_exists):
        world.on("before-call", world.add)
        assert world.creation(if_exists).attempt(world.hook).job_arn == world.arn()
        assert world.calls() == [DESCRIBE, CREATE, DESCRIBE]

    @pytest.mark.parametrize("if_exists", [ADOPT, FAIL])
    def test_with_another_job_is_in_the_way(self, world, if_exists):
        world.on("before-call", lambda: world.add(num_results=99))
        with pytest.raises(PersonalizeJobExistsError, match="numResults is 99 instead of 25"):
            world.creation(if_exists).attempt(world.hook)

    def test_with_another_job_leads_to_the_next_number(self, world):
        world.on("before-call", lambda: world.add(num_results=99))
        assert world.creation(NEW).attempt(world.hook) == Attempt(world.arn("weekly-2"))
        assert world.calls() == [DESCRIBE, CREATE, DESCRIBE, DESCRIBE, CREATE]

    def test_under_a_name_that_was_free_says_nothing_about_the_next_number(self, world):
        world.local.faults.throttle(times=1, operation=CREATE)
        creation = world.creation(NEW)
        creation.attempt(world.hook)
        world.add(num_results=99)
        world.add("weekly-2")
        assert creation.attempt(world.hook) == Attempt(world.arn("weekly-3"))

    def test_whose_job_does_not_show_yet_is_waited_for(self, world):
        jobs = world.local.backend("us-east-1").jobs
        hidden = {}
        world.on("before-call", world.add)
        world.on("after-call", lambda: hidden.update({world.arn(): jobs.pop(world.arn())}))
        creation = world.creation()
        assert creation.attempt(world.hook) == Attempt(
            reason=f"AWS says that {world.arn()} exists, and does not show it yet"
        )
        assert world.calls() == [DESCRIBE, CREATE, DESCRIBE]
        jobs.update(hidden)
        assert creation.attempt(world.hook).job_arn == world.arn()
        assert world.calls() == [DESCRIBE]


class TestOnlyLooking:
    def test_creates_nothing(self, world):
        assert world.creation().find(world.hook) is None
        assert world.calls() == [DESCRIBE]
        assert world.names() == []

    def test_finds_what_is_there(self, world):
        world.add()
        assert world.creation().find(world.hook) == Attempt(world.arn(), world.described())

    def test_looks_behind_what_failed(self, world):
        world.add(status=FAILED)
        creation = world.creation()
        assert creation.find(world.hook) is None
        assert creation.job_arn == world.arn("weekly-2")

    def test_does_not_take_silence_for_an_answer(self, world):
        world.local.faults.throttle(times=1)
        with pytest.raises(PersonalizeUnavailableError, match="ThrottlingException"):
            world.creation().find(world.hook)


class TestKept:
    """What an earlier try kept is its own, whatever it is called and whatever is asked for now."""

    def creation(self, world, if_exists=ADOPT, num_results=25, since=EARLIER_TRYS):
        kept = {**world.request, "numResults": num_results}
        return world.creation(if_exists, since, made_arn=world.arn("weekly-7"), made_request=kept)

    @pytest.mark.parametrize("if_exists", IF_EXISTS)
    def test_is_taken_first(self, world, if_exists):
        world.add()
        world.add("weekly-7", num_results=99)
        creation = self.creation(world, if_exists, num_results=99)
        assert creation.attempt(world.hook).job_arn == world.arn("weekly-7")
        assert world.calls() == [DESCRIBE]

    @pytest.mark.parametrize("if_exists", IF_EXISTS)
    def test_is_not_another_job_that_got_the_name_first(self, world, if_exists):
        world.add("weekly-7", num_results=99)
        creation = self.creation(world, if_exists)
        assert creation.attempt(world.hook).job_arn == world.arn()
        assert world.calls() == [DESCRIBE, DESCRIBE, CREATE]

    @pytest.mark.parametrize(
        ("if_exists", "name"), [("adopt", "weekly-7"), ("fail", "weekly"), ("new", "weekly")]
    )
    def test_is_one_from_before_the_first_try_only_when_it_was_adopted(self, world, if_exists, name):
        world.add("weekly-7")
        creation = self.creation(world, if_exists, since=OLDER)
        assert creation.attempt(world.hook).job_arn == world.arn(name)

    def test_is_remembered_when_it_failed(self, world):
        world.add("weekly-7", FAILED)
        creation = self.creation(world)
        assert creation.find(world.hook) is None
        assert creation.failed == (world.arn("weekly-7"), world.described("weekly-7"))

    @pytest.mark.parametrize("status", [FAILED, None])
    def test_is_passed_by_when_it_failed_or_was_never_created(self, world, status):
        if status:
            world.add("weekly-7", status)
        creation = self.creation(world)
        assert creation.attempt(world.hook).job_arn == world.arn()

    def test_is_asked_for_again_when_aws_does_not_answer(self, world):
        world.add("weekly-7")
        creation = world.creation(made_arn=world.arn("weekly-7"))
        world.local.faults.throttle(times=1)
        assert creation.attempt(world.hook).job_arn is None
        assert creation.attempt(world.hook).job_arn == world.arn("weekly-7")
        assert world.calls() == [DESCRIBE, DESCRIBE]

    def test_is_told_before_each_create(self, world):
        told = []
        creation = world.creation(before_create=lambda arn: told.append((arn, world.names())))
        creation.attempt(world.hook)
        assert told == [(world.arn(), [])]


class TestDerivedNames:
    """Nobody else has them."""

    def test_a_different_job_of_an_earlier_try_is_taken_and_told_about(self, world, caplog):
        world.add(num_results=99)
        creation = world.creation(since=EARLIER_TRYS, is_derived=True)
        with caplog.at_level(logging.WARNING):
            assert creation.attempt(world.hook).job_arn == world.arn()
        assert (
            "differs from what this task asks for now, but only an earlier try can have made it"
            in caplog.text
        )
        assert "numResults is 99 instead of 25" in caplog.text

    @pytest.mark.parametrize("since", [None, OLDER])
    def test_one_from_before_the_task_was_cleared_is_not(self, world, since):
        world.add(num_results=99)
        with pytest.raises(PersonalizeJobExistsError, match="numResults is 99 instead of 25"):
            world.creation(since=since, is_derived=True).attempt(world.hook)


class TestResumed:
    """Between worker and triggerer, number and is_free travel, and nothing else."""

    @pytest.mark.parametrize("if_exists", IF_EXISTS)
    @pytest.mark.parametrize("status", ["CREATE PENDING", FAILED])
    def test_takes_a_job_under_a_name_that_was_free_for_its_own(self, world, if_exists, status):
        world.add("weekly-3", status)
        attempt = world.creation(if_exists, number=3, is_free=True).attempt(world.hook)
        assert attempt == Attempt(world.arn("weekly-3"), world.described("weekly-3"))

    def test_but_not_another_job(self, world):
        world.add("weekly-3", num_results=99)
        with pytest.raises(PersonalizeJobExistsError, match="weekly-3 .*numResults is 99 instead of 25"):
            world.creation(number=3, is_free=True).attempt(world.hook)

    @pytest.mark.parametrize("if_exists", IF_EXISTS)
    def test_a_failed_job_of_the_first_try_is_its_own(self, world, if_exists):
        """The triggerer that created it died, and the worker had never seen whether the name is free."""
        world.add(status=FAILED)
        creation = world.creation(if_exists, since=EARLIER_TRYS, is_first_try=True)
        assert creation.attempt(world.hook) == Attempt(world.arn(), world.described())
        assert world.names() == ["weekly"]

    @pytest.mark.parametrize(
        ("since", "is_first_try", "num_results"),
        [(EARLIER_TRYS, False, 25), (OLDER, True, 25), (EARLIER_TRYS, True, 99)],
        ids=["of an earlier try", "from before", "another"],
    )
    def test_from_other_failed_jobs_it_moves_on(self, world, since, is_first_try, num_results):
        world.add(status=FAILED, num_results=num_results)
        creation = world.creation(since=since, is_first_try=is_first_try)
        assert creation.attempt(world.hook) == Attempt(world.arn("weekly-2"))

    def test_goes_on_with_its_number(self, world):
        world.calls()
        assert world.creation(number=3).attempt(world.hook) == Attempt(world.arn("weekly-3"))
        assert world.calls() == [DESCRIBE, CREATE]


names = (f"name-{number}" for number in itertools.count())


class TestOnce:
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.sampled_from(IF_EXISTS),
        st.integers(min_value=0, max_value=2),
        st.lists(
            st.one_of(
                st.just("killed"),
                st.tuples(
                    st.sampled_from(
                        ["throttle", "server_error", "drop_connection", "drop_answer", "malformed"]
                    ),
                    st.sampled_from([DESCRIBE, CREATE]),
                ),
            ),
            max_size=6,
        ),
    )
    def test_whatever_happens_in_whatever_order(self, world, if_exists, older, events):
        name, start = next(names), datetime.now(UTC)
        taken = [number_job_name(name, 1 + number) for number in range(older if if_exists == NEW else 0)]
        for each in taken:
            world.add(each)
        hook, creation = world.hook, world.creation(if_exists, name=name)
        world.local.faults.clear()
        for event in events:
            if event == "killed":
                creation = world.creation(if_exists, start, name)
            else:
                fault, operation = event
                getattr(world.local.faults, fault)(times=1, operation=operation)
            creation.attempt(hook)
        world.local.faults.clear()
        expected = Attempt(world.arn(number_job_name(name, 1 + len(taken))))
        assert creation.attempt(hook).job_arn == expected.job_arn
        assert world.creation(if_exists, start, name).attempt(hook).job_arn == expected.job_arn
        made = [each for each in world.names() if each == name or each.startswith(f"{name}-")]
        assert made == [*taken, number_job_name(name, 1 + len(taken))]
        world.local.set_status(expected.job_arn, "ACTIVE")


class TestDelay:
    intervals = st.floats(min_value=0.01, max_value=3600.0)
    counts = st.integers(min_value=1, max_value=10_000)

    @given(counts, intervals)
    def test_of_a_full_quota_is_the_interval_and_then_somewhat_more(self, count, interval):
        longest = min(interval * 2.0 ** min(count - 1, 60), interval * FULL_INTERVALS)
        assert longest / 2 <= find_delay(Attempt(is_full=True), count, interval) <= longest

    @given(counts, intervals)
    def test_of_a_fault_begins_with_a_second_and_ends_with_the_interval(self, count, interval):
        longest = min(2.0 ** min(count - 1, 60), interval)
        assert longest / 2 <= find_delay(Attempt(), count, interval) <= longest

    @pytest.mark.parametrize("is_full", [True, False])
    def test_is_spread(self, is_full):
        assert len({find_delay(Attempt(is_full=is_full), 3, 60.0) for _ in range(10)}) > 1
