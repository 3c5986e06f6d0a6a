"""What a user reads in Airflow's log: each message begins with what happened, and a wait tells of itself."""

from __future__ import annotations

import asyncio
import inspect
import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
import time_machine
from airflow_names import TaskDeferred
from fakes import first_event
from hypothesis import given
from hypothesis import strategies as st
from scripted_endpoint import SOLUTION_VERSION_ARN, Answer, describe, error, job_arn

from airflow_provider_personalize_segments import errors, operators, sensors, triggers
from airflow_provider_personalize_segments.arns import parse_job_arn
from airflow_provider_personalize_segments.errors import (
    ConnectionNotFoundError,
    InvalidParameterError,
    PersonalizeError,
    PersonalizeJobExistsError,
    PersonalizeJobFailedError,
    PersonalizeJobTimeoutError,
    PersonalizeNewJobFailedError,
    PersonalizeNoSlotError,
    PersonalizeRequestError,
    PersonalizeUnavailableError,
)
from airflow_provider_personalize_segments.hooks import PersonalizeHook
from airflow_provider_personalize_segments.jobs import BatchJobKind, JobState
from airflow_provider_personalize_segments.operators import (
    PersonalizeCreateBatchInferenceJobOperator,
    PersonalizeCreateBatchSegmentJobOperator,
    PersonalizeListBatchSegmentJobsOperator,
)
from airflow_provider_personalize_segments.parameters import read_dict
from airflow_provider_personalize_segments.plain_json import show
from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor
from airflow_provider_personalize_segments.triggers import PersonalizeBatchJobTrigger
from airflow_provider_personalize_segments.waiting.events import load_error, read_creation_event, read_event
from airflow_provider_personalize_segments.waiting.verdicts import (
    Reporter,
    Verdict,
    make_silence,
    show_seconds,
)

ARN = job_arn("bad-input")
CALL = ("DescribeBatchSegmentJob", ARN, "us-east-1", "aws_default")
REASON = "Invalid S3 input path: no object begins with s3://shop/segments/in/2026-11-25/items.jsonl"
FIRST = 100
"""Characters of a message that Airflow's log view shows beside the name of the error, at 1400 pixels."""


def create(**options):
    given = {
        "task_id": "create",
        "solution_version_arn": SOLUTION_VERSION_ARN,
        "role_arn": "arn:aws:iam::123456789012:role/PersonalizeS3Access",
        "input_path": "s3://shop/in/items.jsonl",
        "output_path": "s3://shop/out/",
    }
    return PersonalizeCreateBatchSegmentJobOperator(**{**given, **options})


def refusal(function, *args, **kwargs):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are compared by the test
        function(*args, **kwargs)
    return caught.value


STORIES = {
    "a failed job": (
        lambda: PersonalizeJobFailedError(ARN, "CREATE FAILED", REASON),
        "CREATE FAILED: Invalid S3 input path: no object begins with s3://shop/segments/in/",
    ),
    "a failed job with retries left": (
        lambda: PersonalizeNewJobFailedError(ARN, "CREATE FAILED", REASON),
        "CREATE FAILED: Invalid S3 input path: no object begins with s3://shop/segments/in/",
    ),
    "a job in the way": (
        lambda: PersonalizeJobExistsError(ARN, "ACTIVE", ["numResults is 25 instead of 99"]),
        "Another job has this name already: its numResults is 25 instead of 99. Nothing was created",
    ),
    "a job in the way of if_exists='fail'": (
        lambda: PersonalizeJobExistsError(ARN, "ACTIVE"),
        "A job of this name exists already, and if_exists is 'fail'. Nothing was created",
    ),
    "another Airflow's job in the way": (
        lambda: PersonalizeJobExistsError(ARN, "ACTIVE", ["numResults is 25 instead of 99"], True),
        "Another job has this task's own name already: its numResults is 25 instead of 99. Nothing was",
    ),
    "an old job in the way": (
        lambda: PersonalizeJobExistsError(ARN, "ACTIVE", [], True),
        "The job of this name was ACTIVE before the task's first try, so it is no result of this run",
    ),
    "no record": (
        lambda: errors.StateStoreUnavailableError("read", "the API server is restarting", ARN),
        "Airflow's task state store could not be read: the API server is restarting.",
    ),
    "not over in time": (
        lambda: PersonalizeJobTimeoutError(ARN, "CREATE IN_PROGRESS", 3600.0),
        "Not ACTIVE when the timeout of 3600 s was over: its last known status is CREATE IN_PROGRESS.",
    ),
    "no answer in time": (
        lambda: PersonalizeJobTimeoutError(ARN, None, 3600.0, "EndpointConnectionError: Could not connect"),
        "No answer when the timeout of 3600 s was over: EndpointConnectionError: Could not connect",
    ),
    "no slot in time": (
        lambda: PersonalizeNoSlotError(ARN, "LimitExceededException: More than 5 resources", 3600.0),
        "Not created when the timeout of 3600 s was over: LimitExceededException: More than 5 resources",
    ),
    "access denied": (
        lambda: PersonalizeRequestError(*CALL, "AccessDeniedException", "no personalize:Describe for you"),
        "AccessDeniedException: no personalize:Describe for you",
    ),
    "throttled": (
        lambda: PersonalizeUnavailableError(*CALL, "ThrottlingException", "Rate exceeded"),
        "ThrottlingException: Rate exceeded.",
    ),
    "no connection": (
        lambda: ConnectionNotFoundError("aws_prod"),
        "The Airflow connection 'aws_prod' does not exist, or cannot be read just now. Create it",
    ),
    "a broken trigger": (
        lambda: load_error({"type": "KeyError", "text": "'x'"}),
        "Waiting in the triggerer failed: KeyError: 'x'",
    ),
    "a broken trigger without a word": (
        lambda: load_error(None),
        "Waiting in the triggerer failed, and does not say why: None",
    ),
    "an unknown event": (
        lambda: refused_event(read_event, {"outcome": "done"}, ARN),
        "The trigger's event is unknown, which is no success: {'outcome': 'done'}",
    ),
    "an unknown event about a creation": (
        lambda: refused_event(read_creation_event, None, BatchJobKind.SEGMENT),
        "The trigger's event is unknown, which is no success: None",
    ),
    "a wrong ARN": (
        lambda: refusal(parse_job_arn, "weekly", source="job_arn of task 'wait'"),
        "job_arn of task 'wait' is not an Amazon Personalize ARN. Expected arn:aws:personalize",
    ),
    "an empty XCom": (
        lambda: refusal(parse_job_arn, "None", source="job_arn of task 'wait'"),
        "job_arn of task 'wait' is 'None': the template found nothing, such as an XCom that no task pushed",
    ),
    "a template where a dict is meant": (
        lambda: refusal(read_dict, "{'a': 'b'}", "tags of task 'create'", "such as {'team': 'growth'}"),
        "tags of task 'create' is not a dict such as {'team': 'growth'}. A template always renders to text",
    ),
}


def refused_event(read, payload, about):
    with pytest.raises(errors.TriggerFailedError) as caught:
        read(payload, about)
    return caught.value


@pytest.mark.parametrize(("make", "story"), STORIES.values(), ids=STORIES)
def test_the_first_words_tell_the_story(make, story):
    text = str(make())
    assert story[:FIRST] in text[: FIRST + 2]
    assert len(story) > 20


@pytest.mark.parametrize("make", [make for make, _ in STORIES.values()], ids=STORIES)
def test_no_message_begins_with_an_arn(make):
    assert not re.match(r"\W*arn:", str(make()))


def test_a_message_about_a_job_ends_with_it():
    for name in ("a failed job", "not over in time", "no answer in time", "no slot in time"):
        assert str(STORIES[name][0]()).endswith(" (batch-segment-job/bad-input, us-east-1)")
    assert str(STORIES["a job in the way"][0]()).endswith("(batch-segment-job/bad-input, us-east-1, ACTIVE)")


def test_all_errors_that_are_raised_on_purpose_have_one_base():
    raised = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, Exception)]
    ours = [each for each in raised if each.__module__ == errors.__name__]
    assert len(ours) > 8
    assert all(issubclass(each, PersonalizeError) for each in ours)


LONG = f"arn:aws:personalize:ap-northeast-1:123456789012:{{}}/{'n' * 63}"
ROLE = f"arn:aws:iam::123456789012:role/service-role/{'r' * 76}"
BUCKET = f"s3://{'b' * 50}/segments/"
WRONG = {
    "job_arn": [
        (LONG.format("solution"), "is the ARN of a solution, not of a batch segment job"),
        (
            LONG.format("batch-inference-job"),
            "is the ARN of a batch inference job, not of a batch segment job",
        ),
        (LONG.format("dataset-group"), "is the ARN of a dataset group, not of a batch segment job"),
        (ROLE, "is an ARN of the service 'iam', not of Amazon Personalize"),
        (LONG.format("batch-segment-job") + " ", "contains white space; remove it"),
        ([LONG.format("batch-segment-job")], "is a list, not one ARN. Map the task over it with"),
        ({"batchSegmentJobArn": ARN}, "is a dict, not the ARN in it. Let a function with @task take"),
    ],
    "max_error_rate": [("5 %", "is not a share. Expected a number from 0.0 to 1.0. Got '5 %'.")],
    "deferrable": [("if possible", "is neither true nor false: 'if possible'")],
    "aws_conn_id": [
        ("", "is empty. Expected a connection's ID, or None"),
        (7, "is not text, but of type int: 7"),
    ],
    "poke_interval": [
        (0.0, "is not a duration. Expected seconds, more than 0"),
        (-5, "is not a duration. Expected seconds, more than 0"),
        (timedelta(seconds=-5), "is not a duration. Expected seconds, more than 0"),
    ],
    "region_name": [
        ("eu-west-1", "contradicts the region 'us-east-1' in the ARN."),
        (["us-east-1"], "is not text, but of type list: ['us-east-1']"),
    ],
    "botocore_config": [
        (5, "is not a dict of arguments of botocore.config.Config, but of type"),
        (
            {"proxies": {"https": "me:pass@proxy"}},
            "holds a password, which Airflow stores and shows as plain",
        ),
    ],
    "solution_version_arn": [
        (LONG.format("solution"), "is the ARN of a solution, not of one of its versions"),
        (LONG.format("campaign"), "is the ARN of a campaign, not of a solution version"),
        ([SOLUTION_VERSION_ARN], "is a list, not one ARN. Map the task over it with"),
    ],
    "role_arn": [(LONG.format("solution"), "is not the ARN of an IAM role. Expected")],
    "filter_arn": [(LONG.format("solution"), "is the ARN of a solution, not of a filter")],
    "input_path": [
        (BUCKET.replace("s3:", "gs:") * 2, "is not an S3 path. Expected s3://"),
        (BUCKET + "x" * 256, "has 321 characters; Personalize takes at most 256"),
        (BUCKET + "\n", "begins or ends with white space; remove it"),
    ],
    "output_path": [(f"s3://{'b' * 50}/in/segments/", "is equal to or under the input path.")],
    "input_kms_key_arn": [(LONG.format("alias"), "is an alias; Personalize takes only the ARN of the key")],
    "output_kms_key_arn": [(ROLE, "is not the ARN of a KMS key. Expected arn:aws:kms:")],
    "num_results": [("many", "is not a count. Expected a whole number of 1 or more. Got 'many'.")],
    "job_name": [("n" * 120, "cannot be a job name, having 120 characters. Expected 1 to 63 letters")],
    "tags": [("team=growth", "is not a dict such as {'team': 'growth'}. A template always renders")],
    "if_exists": [("replace", "is not 'adopt' or 'fail' or 'new': 'replace'")],
    "poll_interval": [(0, "is not a duration. Expected seconds, more than 0")],
    "timeout": [("6 hours", "is not a duration. Expected seconds, more than 0")],
    "created_after": [("last week", "is not a date. Expected a datetime or ISO 8601 text")],
    "created_before": [("2026-13-01", "is not a date. Expected a datetime or ISO 8601 text")],
    "statuses": [(["DONE"], "is not a status of a batch job. Expected any of ACTIVE")],
    "max_items": [(0, "is not a count. Expected a whole number of 1 or more. Got 0.")],
    "if_empty": [("ignore", "is not 'succeed' or 'skip' or 'fail': 'ignore'")],
    "job_name_prefix": [(["weekly"], "is not text, but of type list: ['weekly']")],
}
"""Parameters, and what may stand in them: the verdict that a person has to see without scrolling."""


class TestWrongValues:
    """The verdict comes first and the value last: an ARN of 120 characters fills Airflow's log view alone."""

    @pytest.mark.parametrize(
        ("parameter", "value", "verdict"),
        [(name, *each) for name, wrong in WRONG.items() for each in wrong],
        ids=lambda value: str(value)[:50],
    )
    def test_are_judged_where_the_log_view_shows_it(self, parameter, value, verdict):
        task = make_task(parameter, value)
        ti = SimpleNamespace(
            try_number=1, dag_id="d", task_id="t", run_id="r", map_index=-1, max_tries=0, start_date=None
        )
        with pytest.raises(InvalidParameterError) as caught:
            inspect.unwrap(type(task).execute)(task, {"ti": ti})
        message = str(caught.value)
        assert message.startswith(f"{parameter} of task 'wait' {verdict}")
        assert len(f"{parameter} of task 'wait' {verdict}") <= FIRST
        shown = value[0] if parameter == "statuses" else value
        if parameter == "poke_interval" and isinstance(value, timedelta):
            shown = value.total_seconds()  # as Airflow stores it
        if parameter != "botocore_config" and value != "":  # the first may hold a password
            assert re.search(rf"(: |Got ){re.escape(show(shown))}\.?$", message)

    def test_stand_for_every_parameter_that_can_be_wrong(self):
        names = {name for each in ALL_TASKS for name in each.template_fields}
        elsewhere = {"verify", "output_file", "check_input", "wait_for_completion"}
        of_inference = {"batch_inference_job_config", "batch_inference_job_mode", "theme_generation_config"}
        assert names - WRONG.keys() == elsewhere | of_inference


def make_task(parameter, value):
    """Return a task that has the parameter, with that value."""
    if parameter in (*PersonalizeBatchSegmentJobSensor.template_fields, "poke_interval"):
        return PersonalizeBatchSegmentJobSensor(task_id="wait", **{"job_arn": ARN, parameter: value})
    if parameter in PersonalizeCreateBatchSegmentJobOperator.template_fields:
        return create(task_id="wait", **{"input_path": f"s3://{'b' * 50}/in/", parameter: value})
    return PersonalizeListBatchSegmentJobsOperator(task_id="wait", **{parameter: value})


ALL_TASKS = [
    each for module in (sensors, operators) for each in vars(module).values() if hasattr(each, "kind")
]


class TestShowing:
    """A value in a message is cut between its members, or between words."""

    def test_a_long_map_is_cut_at_a_member(self):
        shown = show({f"member{number:02}": "x" * 20 for number in range(50)})
        assert shown == "{" + ", ".join(f"'member{n:02}': '{'x' * 20}'" for n in range(8)) + ", ...}"

    def test_long_text_is_cut_between_words(self):
        shown = show("several words and so on " * 40)
        assert re.fullmatch(r"'(several words and so on )*[a-z ]*\b'\.\.\. \(960 characters\)", shown)

    @given(st.text(max_size=300))
    def test_text_of_an_arns_length_is_whole(self, text):
        assert show(text) == repr(text).replace("\x00", "\ufffd")

    @given(
        st.recursive(
            st.none() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        )
    )
    def test_whatever_it_is_the_message_stays_readable(self, value):
        assert len(show(value)) <= 1_000
        show(value).encode()


class TestOtherNames:
    """A parameter that another operator has is answered with the name that it has here."""

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("poke_interval", "write poll_interval, in seconds"),
            ("waiter_delay", "write poll_interval, in seconds"),
            ("check_interval", "write poll_interval, in seconds"),
            ("waiter_max_attempts", "write timeout, in seconds; it alone ends the wait"),
            ("max_attempts", "write timeout, in seconds; it alone ends the wait"),
            ("action_if_job_exists", "write if_exists, 'adopt', 'fail' or 'new'"),
            ("mode", "write deferrable=True to wait in the triggerer"),
        ],
    )
    def test_on_a_create_operator(self, name, words):
        with pytest.raises(TypeError) as caught:
            create(**{name: 1})
        assert str(caught.value) == (
            f"PersonalizeCreateBatchSegmentJobOperator has no parameter {name!r}: {words}. (task 'create')"
        )

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("poll_interval", "write poke_interval, in seconds"),
            ("waiter_delay", "write poke_interval, in seconds"),
            ("check_interval", "write poke_interval, in seconds"),
            ("waiter_max_attempts", "write timeout, in seconds; it alone ends the wait"),
            ("max_attempts", "write timeout, in seconds; it alone ends the wait"),
            ("max_retries", "write timeout, in seconds; it alone ends the wait"),
            ("wait_for_completion", "a sensor always waits"),
        ],
    )
    def test_on_a_sensor(self, name, words):
        with pytest.raises(TypeError) as caught:
            PersonalizeBatchSegmentJobSensor(task_id="wait", job_arn=ARN, **{name: 1})
        assert f"PersonalizeBatchSegmentJobSensor has no parameter {name!r}: {words}." in str(caught.value)

    def test_where_the_parameter_that_it_stands_for_is_missing(self):
        with pytest.raises(TypeError, match="has no parameter 'job_name': write job_arn, the job's ARN"):
            PersonalizeBatchSegmentJobSensor(task_id="wait", job_name="weekly")
        with pytest.raises(TypeError, match="has no parameter 'input_uri': write input_path"):
            PersonalizeCreateBatchInferenceJobOperator(
                task_id="create", input_uri="s3://shop/in/", output_path="s3://shop/out/"
            )

    def test_a_subclass_may_have_such_a_parameter(self):
        class ByName(PersonalizeBatchSegmentJobSensor):
            def __init__(self, *, job_name, **kwargs):
                super().__init__(job_arn=job_arn(job_name), **kwargs)

        assert ByName(task_id="wait", job_name="bad-input").job_arn == ARN
        with pytest.raises(TypeError, match="ByName has no parameter 'job_id': write job_arn"):
            ByName(task_id="wait", job_id="bad-input")


class TestSignatures:
    """Editors show what is written in a signature."""

    @pytest.mark.parametrize(
        "task",
        [each for module in (sensors, operators) for each in vars(module).values() if hasattr(each, "kind")],
        ids=lambda task: task.__name__,
    )
    def test_every_parameter_of_ours_is_in_it(self, task):
        parameters = inspect.signature(task.__init__).parameters
        assert set(task.template_fields) <= parameters.keys()
        for parameter in parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY:
                assert parameter.annotation is not parameter.empty, parameter

    def test_the_two_create_operators_agree(self):
        segment, inference = (
            inspect.signature(each.__init__).parameters
            for each in (PersonalizeCreateBatchSegmentJobOperator, PersonalizeCreateBatchInferenceJobOperator)
        )
        assert {name: str(each) for name, each in segment.items()} == {
            name: str(inference[name]) for name in segment
        }
        own = {"batch_inference_job_config", "batch_inference_job_mode", "theme_generation_config"}
        assert inference.keys() - segment.keys() == own

    def test_what_is_given_to_the_inference_operator_is_what_it_has(self):
        names = inspect.signature(PersonalizeCreateBatchInferenceJobOperator.__init__).parameters
        values = {name: f"value of {name}" for name in names if name not in ("self", "kwargs")}
        task = PersonalizeCreateBatchInferenceJobOperator(task_id="create", **values)
        assert {name: getattr(task, name) for name in values} == values


class Log:
    """Collects lines, as a task's log shows them."""

    def __init__(self):
        self.lines = []

    def info(self, message, *args):
        self.lines.append(message % args)

    warning = error = info


class TestReporter:
    def test_says_at_the_start_what_will_happen(self):
        log = Log()
        until = datetime(2026, 12, 2, 2, 41, 2, tzinfo=UTC)
        Reporter(log, ARN).begin("in the triggerer", 60.0, until)
        Reporter(log, ARN).begin("on this worker", 90.0, None, grows=True)
        assert log.lines == [
            f"Waiting in the triggerer for {ARN}: asking AWS every 1 min, until 2026-12-02 02:41:02 UTC.",
            f"Waiting on this worker for {ARN}: asking AWS ever more rarely, at first every 90 s, until it "
            f"is "
            "over.",
        ]

    def test_says_now_and_then_how_long_it_waits(self):
        log = Log()
        job = {"status": "CREATE IN_PROGRESS"}
        with time_machine.travel(datetime(2026, 11, 25, tzinfo=UTC), tick=False) as clock:
            reporter = Reporter(log, ARN)
            for _ in range(3 * 60):
                clock.shift(60)
                reporter.tell(Verdict(JobState.WAITING, job))
        assert log.lines == [f"The job is CREATE IN_PROGRESS. ({ARN})"] + [
            f"Still waiting after {waited}: the job is CREATE IN_PROGRESS. ({ARN})"
            for waited in ("1 min", "5 min", "15 min", "1 h", "2 h", "3 h")
        ]

    def test_says_so_while_aws_does_not_answer_as_well(self):
        log = Log()
        now = datetime(2026, 11, 25, tzinfo=UTC)
        with time_machine.travel(now, tick=False):
            reporter = Reporter(log, ARN, now - timedelta(seconds=901), now - timedelta(seconds=60))
            reporter.tell(Verdict(JobState.WAITING, no_answer="ThrottlingException: slow."))
        assert log.lines == [
            "Not yet: ThrottlingException: slow.",
            f"Still waiting after 15 min: the job is not known yet. ({ARN})",
        ]
        assert reporter.fault == "ThrottlingException: slow."

    def test_gives_a_sign_of_life_in_the_triggerer_however_long_the_task_has_been_waiting(self):
        log = Log()
        now = datetime(2026, 11, 25, tzinfo=UTC)
        with time_machine.travel(now, tick=False) as clock:
            reporter = Reporter(log, ARN, now - timedelta(minutes=20), is_told=True)
            for _ in range(5):
                clock.shift(60)
                reporter.tell(Verdict(JobState.WAITING, {"status": "CREATE IN_PROGRESS"}))
        assert log.lines == [f"Still waiting after 21 min: the job is CREATE IN_PROGRESS. ({ARN})"]

    def test_warns_in_the_triggerer_of_a_status_that_nobody_documented(self):
        log = Log()
        reporter = Reporter(log, ARN, is_told=True)
        for _ in range(2):
            reporter.tell(Verdict(JobState.WAITING, {"status": "HALF ACTIVE"}))
        assert log.lines == [
            f"The job is HALF ACTIVE. ({ARN})",
            f"The status 'HALF ACTIVE' is not documented. Waiting on: only ACTIVE is success. ({ARN})",
        ]

    def test_forgets_a_fault_when_aws_answers(self):
        reporter = Reporter(Log(), ARN)
        reporter.tell(Verdict(JobState.WAITING, no_answer="ThrottlingException: slow."))
        reporter.tell(Verdict(JobState.WAITING, {"status": "CREATE PENDING"}))
        assert (reporter.fault, reporter.status) == (None, "CREATE PENDING")

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (0.25, "0.25 s"),
            (59.0, "59 s"),
            (60, "1 min"),
            (3600, "1 h"),
            (8100, "2 h 15 min"),
            (604800, "7 d"),
            (90061, "1 d 1 h 1 min"),
        ],
    )
    def test_a_length_of_time_reads_well(self, seconds, text):
        assert show_seconds(seconds) == text


class TestLogOfAWait:
    """Poke, reschedule and the triggerer tell the same, in the words of one writer."""

    @pytest.fixture
    def serve_later(self, serve):
        """Serve a job that is under way when it is first asked about, and ends as the test says."""

        def make(status, **members):
            answers = iter([describe("bad-input", "CREATE IN_PROGRESS")])
            serve(
                lambda operation, _: (
                    next(answers, None) or describe("bad-input", status, **members)
                    if "Job" in operation
                    else error("AccessDeniedException")
                )
            )

        return make

    def lines(self, read_log, words):
        return [line for line in read_log() if words in line]

    @pytest.mark.parametrize("has_run", [False, True])
    def test_in_reschedule_mode_begins_once(self, serve, read_log, has_run):
        serve(describe("bad-input"))
        start = datetime.now(UTC) - timedelta(seconds=890)
        ti = SimpleNamespace(start_date=start, xcom_push=lambda **_: None, max_tries=0)
        ti.get_first_reschedule_date = lambda context: start if has_run else None
        sensor = PersonalizeBatchSegmentJobSensor(
            task_id="wait", job_arn=ARN, mode="reschedule", timeout=3600
        )
        # Airflow's own loop looks into its database for the first start.
        sensor.worker_steps.begin({"ti": ti})
        assert sensor.poke({"ti": ti}).is_done
        log = "\n".join(read_log())
        words = f"Waiting in mode reschedule for {ARN}: asking AWS every 1 min"
        assert log.count(words) == (0 if has_run else 1)
        assert f"The job is ACTIVE. ({ARN})" in log

    @pytest.mark.parametrize("mode", ["poke", "deferrable"])
    def test_begins_with_what_will_happen_and_goes_on_with_how_long_it_takes(
        self, serve_later, read_log, mode
    ):
        serve_later("CREATE IN_PROGRESS")
        start = datetime.now(UTC) - timedelta(seconds=898.5)
        sensor = PersonalizeBatchSegmentJobSensor(
            task_id="wait",
            job_arn=ARN,
            poke_interval=0.2,
            timeout=2.5 if mode == "poke" else 901,
            deferrable=mode != "poke",
        )
        ti = SimpleNamespace(start_date=start, xcom_push=lambda **_: None, max_tries=0)
        with pytest.raises(PersonalizeJobTimeoutError if mode == "poke" else TaskDeferred) as caught:
            sensor.execute({"ti": ti})
        log = "\n".join(read_log())
        where = "on this worker" if mode == "poke" else "in the triggerer"
        assert f"Waiting {where} for {ARN}: asking AWS every 0.2 s, until 20" in log
        assert log.count(f"The job is CREATE IN_PROGRESS. ({ARN})") == 1
        if mode != "poke":
            asyncio.run(first_event(caught.value.trigger))
            log = "\n".join(read_log())
            # The worker has said what is waited for, and how the job was.
            assert "Waiting" not in log
            assert "The job is" not in log
        assert log.count(f"Still waiting after 15 min: the job is CREATE IN_PROGRESS. ({ARN})") == 1
        assert log.count("Still waiting") == 1

    @pytest.mark.parametrize("mode", ["poke", "reschedule"])
    def test_the_worker_ends_by_saying_who_goes_on(self, serve_later, read_log, mode):
        serve_later("CREATE IN_PROGRESS")
        start = datetime(2036, 12, 1, 8, tzinfo=UTC)
        ti = SimpleNamespace(start_date=start, xcom_push=lambda **_: None, max_tries=0)
        sensor = PersonalizeBatchSegmentJobSensor(
            task_id="wait", job_arn=ARN, deferrable=True, mode=mode, timeout=3600
        )
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - Airflow's TaskDeferred is no Exception
            sensor.execute({"ti": ti})
        assert type(caught.value).__name__ == "TaskDeferred"
        assert (
            "The triggerer goes on. If no line of its own follows here within 3 min, see whether a triggerer "
            f"runs (airflow jobs check --job-type TriggererJob) and has room ([triggerer] capacity). ({ARN})"
        ) in read_log()[-1]

    def test_a_job_that_is_done_is_left_to_nobody(self, serve, read_log):
        serve(describe("bad-input"))
        assert PersonalizeBatchSegmentJobSensor(task_id="wait", job_arn=ARN, deferrable=True).execute({})
        assert not self.lines(read_log, "The triggerer goes on")

    def test_the_trigger_says_why_a_job_failed(self, serve_later, read_log):
        serve_later("CREATE FAILED", failureReason=REASON)
        trigger = PersonalizeBatchJobTrigger(ARN, poke_interval=0.1)

        async def run():
            return [event async for event in trigger.run()]

        asyncio.run(run())
        (line,) = self.lines(read_log, "CREATE FAILED")
        assert f"CREATE FAILED: {REASON} ({ARN})" in line
        assert "error" in line.lower()

    @pytest.mark.parametrize("mode", ["poke", "reschedule", "deferrable"])
    def test_one_error_line_comes_before_the_traceback(self, serve, run_dag, read_log, mode):
        serve(describe("bad-input", "CREATE FAILED", failureReason=REASON))
        options = "deferrable=True" if mode == "deferrable" else f"mode={mode!r}, deferrable=False"
        run = run_dag(
            "from airflow_names import DAG\n"
            "from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor\n"
            "with DAG('told', schedule=None) as dag:\n"
            f"    PersonalizeBatchSegmentJobSensor(task_id='wait', job_arn={ARN!r}, {options})\n"
        )
        assert run.states == {"wait": "failed"}
        (line,) = (
            line
            for line in read_log()
            if f"CREATE FAILED: {REASON}. A failed job never" in line[:400]
            and "Error:" not in line
            and "exception" not in line.lower()
        )
        assert re.search(r"\berror\b", line, re.IGNORECASE)


class TestTimeouts:
    """A timeout names the last fault, and what to do about that."""

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (
                lambda *_: error("ThrottlingException", 400, "Rate exceeded"),
                "ThrottlingException: Rate exceeded. AWS throttles the account's calls: ask less often, or "
                "ask AWS for a higher quota.",
            ),
            (
                lambda *_: error("InternalFailure", 500, "oops"),
                "InternalFailure: oops. AWS has a fault of its own: if it lasts, look at the AWS Health "
                "Dashboard.",
            ),
            (
                lambda *_: Answer(b"<html>", 502),
                "That is no answer of Amazon Personalize's: look for a proxy, or a wrong endpoint_url.",
            ),
            (
                lambda *_: error("RequestExpired", 400, "too late"),
                "RequestExpired: too late. Set the clock of the machine that calls.",
            ),
            (
                lambda *_: error("ResourceInUseException", 400, "busy"),
                "ResourceInUseException: busy. The job, or what it is made of, is being changed just now.",
            ),
        ],
        ids=["throttled", "a fault of AWS's", "a proxy", "a clock", "in use"],
    )
    def test_by_what_aws_said_last(self, serve, answer, words):
        serve(answer)
        sensor = PersonalizeBatchSegmentJobSensor(
            task_id="wait",
            job_arn=ARN,
            poke_interval=0.1,
            timeout=0.3,
            deferrable=False,
            botocore_config={"retries": {"total_max_attempts": 1}},
        )
        with pytest.raises(PersonalizeJobTimeoutError) as caught:
            sensor.execute({})
        assert str(caught.value).startswith("No answer when the timeout of 0.3 s was over: ")
        assert words in str(caught.value)
        assert "The job goes on by itself: clear the task to wait on." in str(caught.value)

    def test_by_what_kept_the_call_from_aws(self, monkeypatch):
        monkeypatch.setenv(
            "AIRFLOW_CONN_AWS_DEFAULT",
            '{"conn_type": "aws", "login": "a", "password": "b", "extra": {"endpoint_url": "http://127.0.0.1:1"}}',
        )
        with pytest.raises(PersonalizeUnavailableError) as caught:
            PersonalizeHook().describe_job(ARN)
        assert str(caught.value).startswith("EndpointConnectionError: Could not connect to the endpoint URL")
        assert (
            "Check that this machine reaches the address: endpoint_url, proxies, firewalls, VPC endpoints."
            in str(caught.value)
        )

    def test_by_where_the_credentials_should_come_from(self, serve, monkeypatch):
        serve(describe("bad-input"))
        monkeypatch.setenv(
            "AIRFLOW_CONN_AWS_DEFAULT",
            '{"conn_type": "aws", "login": "a", "password": "b", "extra": {"role_arn": '
            '"arn:aws:iam::123456789012:role/x", "service_config": {"sts": {"endpoint_url": '
            '"http://127.0.0.1:1"}}}}',
        )
        with pytest.raises(PersonalizeUnavailableError) as caught:
            PersonalizeHook().describe_job(ARN)
        assert "http://127.0.0.1:1" in str(caught.value)

    def test_by_a_call_that_hangs(self):
        text = make_silence(ARN, None, 5).no_answer
        assert text.startswith(
            "NoAnswer: no answer within 5 s. Look for a proxy, a firewall or a VPC endpoint"
        )

    def test_a_full_quota_says_what_to_do(self, serve):
        serve(error("LimitExceededException", 400, "More than 5 resources"))
        with pytest.raises(PersonalizeUnavailableError) as caught:
            PersonalizeHook().describe_job(ARN)
        assert (
            "raise timeout, or let fewer jobs run at a time, such as with an Airflow pool of five slots."
            in (str(caught.value))
        )


class TestMistakes:
    @pytest.mark.parametrize("context", [{}, {"ti": None}, {"ti": SimpleNamespace(try_number="1")}])
    def test_a_create_operator_without_a_task_instance_says_how_to_test_it(self, context):
        with pytest.raises(InvalidParameterError) as caught:
            inspect.unwrap(type(create()).execute)(create(), context)
        assert str(caught.value) == (
            "Task 'create' was run without Airflow's task instance, which names its job. In a test, run the "
            "task or its DAG on a local Personalize: with mock_personalize() as personalize: "
            "personalize.run(task)."
        )

    def test_a_dict_that_a_template_made_text_of_says_so(self):
        ti = SimpleNamespace(
            try_number=1, dag_id="d", task_id="t", run_id="r", map_index=-1, max_tries=0, start_date=None
        )
        with pytest.raises(InvalidParameterError) as caught:
            inspect.unwrap(type(create()).execute)(create(tags="{'team': 'growth'}"), {"ti": ti})
        assert str(caught.value) == (
            "tags of task 'create' is not a dict such as {'team': 'growth'}. A template always renders to "
            "text: "
            "set render_template_as_native_obj=True on the DAG, or write the dict here and templates into "
            "its "
            "values. Got \"{'team': 'growth'}\"."
        )

    def test_a_list_operators_failure_is_told_in_one_line(self, personalize, read_log):
        personalize.faults.deny_access()
        task = PersonalizeListBatchSegmentJobsOperator(
            task_id="list", aws_conn_id=None, region_name="us-east-1"
        )
        with pytest.raises(PersonalizeRequestError):
            inspect.unwrap(type(task).execute)(task, {})
        (line,) = (line for line in read_log() if "AccessDeniedException" in line)
        assert "error" in line.lower()


def test_the_trigger_carries_since_when_its_task_waits():
    trigger = triggers.PersonalizeBatchJobTrigger(ARN, waiting_since="2026-11-25T00:00:00+00:00")
    assert trigger.serialize()[1]["waiting_since"] == "2026-11-25T00:00:00+00:00"
