"""AWS's wire format for the store: requests in, answers and errors out, and nothing else."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from moto.personalize.responses import PersonalizeResponse

from airflow_provider_personalize_segments.jobs import BATCH_JOB_KINDS, BatchJobKind
from airflow_provider_personalize_segments.testing.backend import BatchJobsBackend
from airflow_provider_personalize_segments.testing.exceptions import (
    ConnectionDropped,
    SerializationException,
    UnknownOperationException,
)
from airflow_provider_personalize_segments.testing.faults import Fault, FaultName
from airflow_provider_personalize_segments.testing.roles import find_caller
from airflow_provider_personalize_segments.testing.validation import check_parameters

Answer = tuple[int, dict[str, str], str | bytes]
_REFUSALS: dict[tuple[FaultName, int], tuple[str, str]] = {
    ("throttle", 400): ("ThrottlingException", "Rate exceeded"),
    ("server_error", 500): (
        "InternalFailure",
        "The request processing has failed because of an unknown error.",
    ),
    ("server_error", 503): (
        "ServiceUnavailable",
        "The request has failed due to a temporary failure of the server.",
    ),
    ("expired_token", 400): (
        "ExpiredTokenException",
        "The security token included in the request is expired",
    ),
    ("deny_access", 400): (
        "AccessDeniedException",
        "User: {user} is not authorized to perform: {action} on resource: {resource}",
    ),
}
_NOT_JSON = "<html><body><h1>Service page</h1></body></html>"


class Service(Protocol):
    """What an answer needs of the service that it is given for."""

    def backend(self, region_name: str, account_id: str | None = None) -> BatchJobsBackend:
        """Return the store of an account and region."""

    def receive(
        self, operation: str, parameters: dict[str, Any], region_name: str, caller_arn: str
    ) -> list[Fault]:
        """Note a call and return what is to go wrong with it."""

    def wait(self, seconds: float) -> None:
        """Wait so long, or until the service stops."""

    def hold(self) -> AbstractContextManager[None]:
        """Let nothing else change the stores."""


class BatchJobsResponse(PersonalizeResponse):
    """
    moto's answers for schemas, and those for solution versions, batch jobs and their tags.

    :param service: has the stores and the faults
    """

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service

    @property
    def personalize_backend(self) -> BatchJobsBackend:
        """The store of the caller's account and region."""
        return self._service.backend(self.region, self.current_account)

    def call_action(self) -> Answer:
        """Answer one request, or do what was asked to go wrong instead."""
        operation = self._get_action()
        faults = self._service.receive(operation, self._parameters(strict=False), self.region, self._caller)
        fault = next((each for each in faults if each.name != "slow"), None)
        for slow in faults[: len(faults) - bool(fault)]:
            self._service.wait(slow.seconds)
        if fault and fault.name == "drop_connection":
            raise ConnectionDropped("The connection was dropped before the call was carried out.")
        if fault and fault.name == "malformed":
            return 200, self._headers(), _NOT_JSON
        if fault and fault.name != "drop_answer":
            return self._refuse(operation, fault)
        try:
            with self._service.hold():
                status, headers, body = super().call_action()
        except NotImplementedError:
            error = UnknownOperationException(f"{operation} is not part of the local Personalize.")
            return 400, self._headers(), error.get_body()
        if fault:
            raise ConnectionDropped("The connection was dropped after the call was carried out.")
        return int(status), dict(headers), body

    # --- Operations of both kinds -----------------------------------------------------------------

    def create_job(self, kind: BatchJobKind) -> str:
        """Create a batch job."""
        arn = self.personalize_backend.create_job(kind, self._parameters())
        return json.dumps({kind.arn_member: arn})

    def describe_job(self, kind: BatchJobKind) -> str:
        """Describe a batch job."""
        job = self.personalize_backend.describe_job(kind, self._parameters()[kind.arn_member])
        return json.dumps({kind.job_member: job})

    def list_jobs(self, kind: BatchJobKind) -> str:
        """List a page of batch jobs."""
        asked = self._parameters()
        summaries, token = self.personalize_backend.list_jobs(
            kind, asked.get("solutionVersionArn"), asked.get("maxResults"), asked.get("nextToken")
        )
        return json.dumps({kind.jobs_member: summaries, **({"nextToken": token} if token else {})})

    # --- Solution versions, filters and tags ---------------------------------------------------------

    def describe_solution_version(self) -> str:
        """Describe a solution version."""
        version = self.personalize_backend.describe_solution_version(self._parameters()["solutionVersionArn"])
        return json.dumps({"solutionVersion": version})

    def describe_filter(self) -> str:
        """Describe a filter."""
        return json.dumps(
            {"filter": self.personalize_backend.describe_filter(self._parameters()["filterArn"])}
        )

    def list_tags_for_resource(self) -> str:
        """List a resource's tags."""
        tags = self.personalize_backend.list_tags(self._parameters()["resourceArn"])
        return json.dumps({"tags": [{"tagKey": key, "tagValue": value} for key, value in tags.items()]})

    def tag_resource(self) -> str:
        """Add tags to a resource."""
        asked = self._parameters()
        tags = {tag["tagKey"]: tag["tagValue"] for tag in asked["tags"]}
        self.personalize_backend.tag(asked["resourceArn"], tags)
        return "{}"

    def untag_resource(self) -> str:
        """Take tags from a resource."""
        asked = self._parameters()
        tags = self.personalize_backend.list_tags(asked["resourceArn"])
        for key in asked["tagKeys"]:
            tags.pop(key, None)
        return "{}"

    # --- Format -----------------------------------------------------------------------------------

    def _parameters(self, *, strict: bool = True) -> dict[str, Any]:
        """Return the request's members; strictly, only if they are what the operation takes."""
        try:
            parameters = json.loads(self.body or "{}")
        except ValueError:
            parameters = None
        if not isinstance(parameters, dict):
            if strict:
                raise SerializationException("The request is not a JSON object.")
            return {}
        if strict:
            check_parameters(self._get_action(), parameters)
        return parameters

    def _headers(self) -> dict[str, str]:
        return {**self.response_headers, "Content-Type": "application/x-amz-json-1.1"}

    def _refuse(self, operation: str, fault: Fault) -> Answer:
        code, message = _REFUSALS[fault.name, fault.status]
        if fault.name == "deny_access":
            message = message.format(
                user=self._caller
                if ":assumed-role/" in self._caller
                else f"arn:{self.partition}:sts::{self.current_account}:assumed-role/airflow/worker",
                action=fault.action or f"personalize:{operation}",
                resource=self._resource(operation),
            )
        return fault.status, self._headers(), json.dumps({"__type": code, "message": message})

    @property
    def _caller(self) -> str:
        return find_caller(self.get_access_key(), self.current_account, self.region)

    def _resource(self, operation: str) -> str:
        """Return the ARN that the call is about, as IAM sees it."""
        asked = self._parameters(strict=False)
        arns = [value for name, value in asked.items() if name.endswith("Arn") and operation[:6] != "Create"]
        for kind in BATCH_JOB_KINDS:
            if operation == kind.create_operation:
                arns = [self.personalize_backend.job_arn(kind, str(asked.get("jobName", "*")))]
        return str(arns[0]) if arns else "*"


def _route(operation: Callable[[BatchJobsResponse, BatchJobKind], str], kind: BatchJobKind) -> Any:
    @functools.wraps(operation)
    def answer(self: BatchJobsResponse) -> str:
        return operation(self, kind)

    return answer


# moto finds an operation by the name of a method.
for _kind in BATCH_JOB_KINDS:
    for _method, _operation in (
        (_kind.create_method, BatchJobsResponse.create_job),
        (_kind.describe_method, BatchJobsResponse.describe_job),
        (_kind.list_method, BatchJobsResponse.list_jobs),
    ):
        setattr(BatchJobsResponse, _method, _route(_operation, _kind))
