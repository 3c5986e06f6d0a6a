"""Errors keep their fields wherever they travel, and say what to do."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from airflow_provider_personalize_segments.airflow_compat import AirflowFailException, AirflowSensorTimeout
from airflow_provider_personalize_segments.errors import (
    ConnectionNotFoundError,
    InvalidParameterError,
    PersonalizeJobExistsError,
    PersonalizeJobFailedError,
    PersonalizeJobTimeoutError,
    PersonalizeNewJobFailedError,
    PersonalizeNoJobsError,
    PersonalizeNoSlotError,
    PersonalizeRequestError,
    PersonalizeUnavailableError,
    StateStoreUnavailableError,
    TriggerFailedError,
    fail_on_invalid_parameters,
)
from airflow_provider_personalize_segments.waiting.events import dump_error, load_error

ARN = "arn:aws:personalize:us-east-1:123456789012:batch-segment-job/weekly"
PLACE = "(batch-segment-job/weekly, us-east-1)"
CALL = ("DescribeBatchSegmentJob", ARN, "us-east-1", "aws_default", "AccessDenied", "No.", "Allow it.")
ERRORS = [
    PersonalizeJobFailedError(ARN, "CREATE FAILED", "Invalid S3 input path"),
    PersonalizeJobFailedError(ARN, "CREATE FAILED"),
    PersonalizeRequestError(*CALL),
    PersonalizeUnavailableError(*CALL),
    ConnectionNotFoundError("aws_prod"),
    InvalidParameterError("max_items: 0 is not a count."),
    PersonalizeJobExistsError(ARN, "ACTIVE", ["numResults is 25, not 99", "roleArn is 'a', not 'b'"]),
    PersonalizeJobExistsError(ARN, "CREATE FAILED"),
    PersonalizeJobExistsError(ARN, "ACTIVE", ["numResults is 25, not 99"], True),
    PersonalizeJobExistsError(ARN, "ACTIVE", [], True),
    StateStoreUnavailableError("written", "the API server is restarting.", ARN),
    StateStoreUnavailableError("read", "the API server is restarting"),
    PersonalizeNewJobFailedError(ARN, "CREATE FAILED", "Invalid S3 input path"),
    PersonalizeNewJobFailedError(ARN, "CREATE FAILED"),
    PersonalizeJobTimeoutError(ARN, "CREATE PENDING", 3600.0),
    PersonalizeJobTimeoutError(ARN, "CREATE PENDING", 3600.0, "ThrottlingException: slow (calling Describe)"),
    PersonalizeNoSlotError(ARN, "LimitExceededException: More than 5.", 3600.0),
    PersonalizeNoSlotError(ARN, None, 0.5),
    PersonalizeJobTimeoutError(ARN, "CREATE PENDING", 3600.0, None, True),
    PersonalizeJobTimeoutError(ARN, None, 3600.0, "ThrottlingException: slow", True),
    PersonalizeNoSlotError(ARN, "NoAnswer: no answer within 10 s", 3600.0, True),
    PersonalizeNoJobsError("batch segment job", 0),
    PersonalizeNoJobsError(
        "batch inference job", 7, ARN.replace("batch-segment-job/weekly", "solution/shop/1")
    ),
]
REFUSALS = [
    error
    for error in ERRORS
    if isinstance(error, (PersonalizeRequestError, PersonalizeJobExistsError, InvalidParameterError))
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_survives_pickling_and_copying_with_its_fields(error):
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_only_what_may_pass_is_left_to_retries(error):
    retried = isinstance(
        error,
        (
            PersonalizeUnavailableError,
            PersonalizeNewJobFailedError,
            PersonalizeNoJobsError,
            StateStoreUnavailableError,
        ),
    )
    assert isinstance(error, (AirflowFailException, AirflowSensorTimeout)) != retried


def test_a_failed_job_is_told_with_its_reason():
    error = ERRORS[0]
    assert (error.job_arn, error.status, error.failure_reason) == (
        ARN,
        "CREATE FAILED",
        "Invalid S3 input path",
    )
    assert str(error) == (
        "CREATE FAILED: Invalid S3 input path. A failed job never becomes ACTIVE: remove the cause, then "
        "clear "
        f"the task that created it, or create a job under another name. {PLACE}"
    )
    assert "CREATE FAILED: No access. A failed" in str(
        PersonalizeJobFailedError(ARN, "CREATE FAILED", "No access.")
    )
    assert "Personalize gave no reason" in str(ERRORS[1])


def test_a_failed_job_is_made_from_describe():
    error = PersonalizeJobFailedError.from_job(ARN, {"status": "CREATE STOPPED", "failureReason": "why"})
    assert error.fields == (ARN, "CREATE STOPPED", "why")


def test_a_new_jobs_failure_is_told_with_what_comes_next():
    told = [error for error in ERRORS if isinstance(error, PersonalizeNewJobFailedError)]
    assert [str(error) for error in told] == [
        f"CREATE FAILED: {reason}. The task's next try creates another job, under the next number. {PLACE}"
        for reason in ("Invalid S3 input path", "Personalize gave no reason")
    ]
    assert told[0].fields == (ARN, "CREATE FAILED", "Invalid S3 input path")
    assert (told[1].job_arn, told[1].status, told[1].failure_reason) == (ARN, "CREATE FAILED", None)


def test_a_job_in_the_way_is_told_with_every_difference():
    different, same, *own = (error for error in ERRORS if isinstance(error, PersonalizeJobExistsError))
    assert str(different) == (
        "Another job has this name already: its numResults is 25, not 99; roleArn is 'a', not 'b'. Nothing "
        "was created: choose another job_name, or set if_exists='new' to create it under a name of the "
        "task's own. (batch-segment-job/weekly, us-east-1, ACTIVE)"
    )
    assert (different.job_arn, different.status) == (ARN, "ACTIVE")
    assert different.differences == ("numResults is 25, not 99", "roleArn is 'a', not 'b'")
    assert str(same) == (
        "A job of this name exists already, and if_exists is 'fail'. Nothing was created: choose another "
        "job_name, or set if_exists to 'adopt' or 'new'. (batch-segment-job/weekly, us-east-1, CREATE FAILED)"
    )
    assert same.differences == ()
    rest = (
        "Nothing was created: clear the task, which then creates a job under another name. A DAG run that "
        "was deleted, or an earlier try with other parameters, may have made the job; or another Airflow of "
        "this AWS account, which [personalize] job_name_prefix keeps apart. "
        "(batch-segment-job/weekly, us-east-1, ACTIVE)"
    )
    assert [str(each) for each in own] == [
        f"Another job has this task's own name already: its numResults is 25, not 99. {rest}",
        "The job of this name was ACTIVE before the task's first try, so it is no result of this run. "
        + rest,
    ]
    assert all(each.is_own_name for each in own)
    assert not different.is_own_name


def test_a_record_that_is_out_of_reach_is_told_with_what_airflow_says():
    written, read = (error for error in ERRORS if isinstance(error, StateStoreUnavailableError))
    rest = (
        "the API server is restarting. The task's record of its job keeps a retry from creating a second "
        "one, so this try ends here: look at Airflow's API server and database; the next try, or the task "
        "when it is cleared, goes on."
    )
    assert str(written) == f"Airflow's task state store could not be written: {rest} {PLACE}"
    assert str(read) == f"Airflow's task state store could not be read: {rest}"
    assert (written.action, written.job_arn, read.job_arn) == ("written", ARN, None)
    assert isinstance(read, RuntimeError)
    assert not isinstance(read, AirflowFailException)


def test_an_empty_list_is_told_with_what_aws_lists():
    none, filtered = (error for error in ERRORS if isinstance(error, PersonalizeNoJobsError))
    assert str(none) == (
        "No batch segment job matches, and if_empty is 'fail': AWS lists none. Check solution_version_arn, "
        "region and connection, or create a job first."
    )
    assert str(filtered) == (
        "No batch inference job matches, and if_empty is 'fail': AWS lists 7, which the filters leave out. "
        "Widen the filters, or create a job first. (solution/shop/1, us-east-1)"
    )


def test_a_job_that_got_no_slot_is_told_with_what_aws_said_last():
    refused, unasked, unknown = (error for error in ERRORS if isinstance(error, PersonalizeNoSlotError))
    assert str(refused) == (
        "Not created when the timeout of 3600 s was over: LimitExceededException: More than 5. "
        f"Clear the task to try again. {PLACE}"
    )
    assert (refused.job_arn, refused.reason, refused.timeout) == (
        ARN,
        "LimitExceededException: More than 5.",
        3600.0,
    )
    assert str(unasked) == (
        "Not created when the timeout of 0.5 s was over: No triggerer asked for it; see whether one is "
        "running. "
        f"Clear the task to try again. {PLACE}"
    )
    assert str(unknown) == (
        "Not known to be created when the timeout of 3600 s was over: NoAnswer: no answer within 10 s. Look "
        "whether the job exists: if it does, let a sensor wait for it; if not, clear the task to try again. "
        f"{PLACE}"
    )


def test_a_task_that_creates_jobs_is_not_to_be_cleared_when_its_job_is_active():
    """A cleared sensor waits on; a create operator that is cleared so late creates another job."""
    told = [str(error) for error in ERRORS if isinstance(error, PersonalizeJobTimeoutError)]
    clear = "The job goes on by itself: clear the task to wait on"
    assert [each for each in told if clear in each] == told[:2]
    created = "while it is unfinished, clear the task to wait on"
    rest = (
        "When the job is ACTIVE, a cleared task takes it from Airflow 3.3 on; before, do not clear the task, "
        f"which may then create another job; let a sensor take this one. {PLACE}"
    )
    assert told[2].endswith(f"{created}, and raise timeout if it may take longer. {rest}")
    assert told[3].endswith(f"{created}. {rest}")


def test_a_refused_call_names_operation_arn_region_and_connection():
    assert str(ERRORS[2]) == (
        "AccessDenied: No. Allow it. "
        f"(DescribeBatchSegmentJob was refused for {ARN}, region us-east-1, connection 'aws_default')"
    )


def test_a_call_without_connection_or_region_says_so():
    error = PersonalizeUnavailableError("ListBatchSegmentJobs", "all jobs", None, None, "X", "y")
    assert str(error) == (
        "X: y. (ListBatchSegmentJobs did not succeed for all jobs, no region, boto3's own credentials, no "
        "connection)"
    )


def test_a_missing_connection_says_how_to_make_it():
    assert "airflow connections add aws_prod --conn-type aws" in str(ERRORS[4])
    assert "Nothing was called with other credentials" in str(ERRORS[4])


def test_value_errors_become_final_and_stay_value_errors():
    with pytest.raises(InvalidParameterError, match="no good") as caught, fail_on_invalid_parameters():
        raise ValueError("no good")
    assert isinstance(caught.value, ValueError)
    with pytest.raises(InvalidParameterError) as again, fail_on_invalid_parameters():
        raise caught.value
    assert again.value is caught.value


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
def test_a_refusal_survives_a_triggers_event(error):
    again = load_error(json.loads(json.dumps(dump_error(error))))
    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert str(again) == str(error)


@pytest.mark.parametrize(
    "error",
    [*(error for error in ERRORS if error not in REFUSALS), KeyError("x")],
    ids=lambda error: type(error).__name__,
)
def test_what_else_goes_wrong_in_a_trigger_is_left_to_retries(error):
    again = load_error(json.loads(json.dumps(dump_error(error))))
    assert type(again) is TriggerFailedError
    assert str(again) == f"Waiting in the triggerer failed: {type(error).__name__}: {error}"


@pytest.mark.parametrize(
    "dumped",
    [
        None,
        "x",
        [],
        {},
        {"type": "PersonalizeRequestError", "fields": "x"},
        {"type": "PersonalizeRequestError", "fields": []},
        {"type": "PersonalizeJobExistsError", "fields": None},
        {"type": "PersonalizeJobFailedError", "fields": [ARN, "CREATE FAILED"]},
    ],
)
def test_nonsense_about_an_error_is_an_error(dumped):
    assert type(load_error(dumped)) is TriggerFailedError
