"""Errors keep their fields wherever they travel, and say what to do."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from airflow_provider_personalize_segments.airflow_compat import AirflowFailException
from airflow_provider_personalize_segments.errors import (
    ConnectionNotFoundError,
    InvalidParameterError,
    PersonalizeJobFailedError,
    PersonalizeRequestError,
    PersonalizeUnavailableError,
    TriggerFailedError,
    dump_error,
    fail_on_invalid_parameters,
    load_error,
)

ARN = "arn:aws:personalize:us-east-1:123456789012:batch-segment-job/weekly"
CALL = ("DescribeBatchSegmentJob", ARN, "us-east-1", "aws_default", "AccessDenied", "No.", "Allow it.")
ERRORS = [
    PersonalizeJobFailedError(ARN, "CREATE FAILED", "Invalid S3 input path"),
    PersonalizeJobFailedError(ARN, "CREATE FAILED"),
    PersonalizeRequestError(*CALL),
    PersonalizeUnavailableError(*CALL),
    ConnectionNotFoundError("aws_prod"),
    InvalidParameterError("max_items: 0 is no count."),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_survives_pickling_and_copying_with_its_fields(error):
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_only_what_may_pass_is_left_to_retries(error):
    assert isinstance(error, AirflowFailException) != isinstance(error, PersonalizeUnavailableError)


def test_a_failed_job_is_told_with_its_reason():
    error = ERRORS[0]
    assert (error.job_arn, error.status, error.failure_reason) == (
        ARN,
        "CREATE FAILED",
        "Invalid S3 input path",
    )
    assert str(error) == (
        f"{ARN} ended in CREATE FAILED: Invalid S3 input path. A failed job never becomes ACTIVE: "
        "remove the cause and create a job under another name."
    )
    assert "Personalize gave no reason" in str(ERRORS[1])


def test_a_failed_job_is_made_from_describe():
    error = PersonalizeJobFailedError.from_job(ARN, {"status": "CREATE STOPPED", "failureReason": "why"})
    assert error.fields == (ARN, "CREATE STOPPED", "why")


def test_a_refused_call_names_operation_arn_region_and_connection():
    assert str(ERRORS[2]) == (
        f"DescribeBatchSegmentJob was refused for {ARN} (region us-east-1, connection 'aws_default'): "
        "AccessDenied: No. Allow it."
    )


def test_a_call_without_connection_or_region_says_so():
    error = PersonalizeUnavailableError("ListBatchSegmentJobs", "all jobs", None, None, "X", "y")
    assert str(error) == (
        "ListBatchSegmentJobs got no answer for all jobs "
        "(no region, boto3's own credentials (no connection)): X: y."
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


def test_a_refusal_survives_a_triggers_event():
    again = load_error(json.loads(json.dumps(dump_error(ERRORS[2]))))
    assert type(again) is PersonalizeRequestError
    assert again.fields == ERRORS[2].fields
    assert str(again) == str(ERRORS[2])


@pytest.mark.parametrize("error", [ERRORS[4], KeyError("x")], ids=["connection", "anything"])
def test_what_else_goes_wrong_in_a_trigger_is_left_to_retries(error):
    again = load_error(json.loads(json.dumps(dump_error(error))))
    assert type(again) is TriggerFailedError
    assert str(again) == f"Waiting in the triggerer failed: {type(error).__name__}: {error}"


@pytest.mark.parametrize("dumped", [None, "x", [], {}, {"type": "PersonalizeRequestError", "fields": "x"}])
def test_nonsense_about_an_error_is_an_error(dumped):
    assert type(load_error(dumped)) is TriggerFailedError
