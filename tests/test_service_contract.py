"""jobs.py and hooks.py against botocore's own description of the service: a new boto3 says what changed."""

from __future__ import annotations

import re

import boto3
import pytest

from airflow_provider_personalize_segments import aws_errors
from airflow_provider_personalize_segments.arns import JOB_NAME_PATTERN, MAX_ARN_LENGTH
from airflow_provider_personalize_segments.jobs import BATCH_JOB_KINDS, KNOWN_STATUSES, BatchJobKind


@pytest.fixture(scope="module")
def client():
    return boto3.session.Session("x", "x").client("personalize", region_name="us-east-1")


@pytest.fixture(scope="module")
def model(client):
    return client.meta.service_model


@pytest.fixture(params=BATCH_JOB_KINDS, ids=lambda kind: kind.name)
def kind(request):
    return request.param


def operations(kind):
    return {
        kind.create_method: kind.create_operation,
        kind.describe_method: kind.describe_operation,
        kind.list_method: kind.list_operation,
    }


def errors(model, operation):
    return {shape.name for shape in model.operation_model(operation).error_shapes}


def test_the_methods_are_the_operations(client, kind):
    for method, operation in operations(kind).items():
        assert client.meta.method_to_api_mapping[method] == operation


def test_there_are_no_other_operations_on_batch_jobs(model):
    ours = {operation for kind in BATCH_JOB_KINDS for operation in operations(kind).values()}
    assert {name for name in model.operation_names if "Batch" in name} == ours


def test_describe_takes_the_arn_and_gives_the_job(model, kind):
    operation = model.operation_model(kind.describe_operation)
    assert operation.input_shape.required_members == [kind.arn_member]
    assert set(operation.input_shape.members) == {kind.arn_member}
    assert set(operation.output_shape.members) == {kind.job_member}
    job = operation.output_shape.members[kind.job_member]
    assert {kind.arn_member, "status", "failureReason", "jobOutput", "jobInput", "solutionVersionArn"} <= set(
        job.members
    )
    assert job.members["creationDateTime"].type_name == "timestamp"


def test_list_takes_a_solution_version_and_gives_summaries(model, kind):
    operation = model.operation_model(kind.list_operation)
    assert operation.input_shape.required_members == []
    assert set(operation.input_shape.members) == {"solutionVersionArn", "nextToken", "maxResults"}
    assert set(operation.output_shape.members) == {kind.jobs_member, "nextToken"}
    summary = operation.output_shape.members[kind.jobs_member].member
    assert set(summary.members) == {
        kind.arn_member,
        "jobName",
        "status",
        "creationDateTime",
        "lastUpdatedDateTime",
        "failureReason",
        "solutionVersionArn",
        *(["batchInferenceJobMode"] if kind is BatchJobKind.INFERENCE else []),
    }


def test_list_has_a_paginator_and_nothing_has_a_waiter(client, kind):
    assert client.can_paginate(kind.list_method)
    # Should AWS ever ship one, this project's reason to poll by itself is to be thought over.
    assert client.waiter_names == []


def test_create_differs_between_the_kinds_by_what_we_say(model):
    members = {
        kind: set(model.operation_model(kind.create_operation).input_shape.members)
        for kind in BATCH_JOB_KINDS
    }
    common = set.intersection(*members.values())
    for kind in BATCH_JOB_KINDS:
        assert members[kind] - common == set(kind.create_only_members)
        required = model.operation_model(kind.create_operation).input_shape.required_members
        assert set(required) == {"jobName", "solutionVersionArn", "jobInput", "jobOutput", "roleArn"}
        assert set(model.operation_model(kind.create_operation).output_shape.members) == {kind.arn_member}


def test_the_errors_are_the_ones_we_judge(model, kind):
    assert errors(model, kind.describe_operation) == {"InvalidInputException", "ResourceNotFoundException"}
    assert errors(model, kind.list_operation) == {"InvalidInputException", "InvalidNextTokenException"}
    assert errors(model, kind.create_operation) == {
        "InvalidInputException",
        "ResourceAlreadyExistsException",
        "LimitExceededException",
        "ResourceNotFoundException",
        "ResourceInUseException",
        "TooManyTagsException",
    }
    modelled = {name for operation in operations(kind).values() for name in errors(model, operation)}
    assert modelled & aws_errors._TRANSIENT_CODES == {"LimitExceededException", "ResourceInUseException"}


def test_names_and_arns_have_the_limits_we_check(model, kind):
    members = model.operation_model(kind.create_operation).input_shape.members
    name = members["jobName"].metadata
    assert (name["min"], name["max"]) == (1, 63)
    assert name["pattern"] == r"^[a-zA-Z0-9][a-zA-Z0-9\-_]*"
    assert JOB_NAME_PATTERN == r"[a-zA-Z0-9][a-zA-Z0-9\-_]{0,62}"
    assert members["solutionVersionArn"].metadata["max"] == MAX_ARN_LENGTH


def test_the_status_is_free_text_whose_documentation_names_what_we_know(model, kind):
    job = model.operation_model(kind.describe_operation).output_shape.members[kind.job_member]
    status = job.members["status"]
    assert "enum" not in status.metadata
    documented = set(re.findall(r"[A-Z][A-Z ]{3,}[A-Z]", re.sub(r"<[^>]+>", "\n", status.documentation)))
    assert documented == {"PENDING", "IN PROGRESS", "ACTIVE", "CREATE FAILED"}
    assert documented <= KNOWN_STATUSES
