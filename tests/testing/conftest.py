"""One stage for both ways to run the local Personalize; whatever passes through its clients is checked."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.model import ListShape, MapShape, OperationModel, Shape, StringShape, StructureShape

from airflow_provider_personalize_segments.jobs import BATCH_JOB_KINDS, BatchJobKind
from airflow_provider_personalize_segments.testing import (
    LocalPersonalize,
    PersonalizeControl,
    mock_personalize,
)

BUCKET = "segments-bucket"
# One session, which keeps the service descriptions it has read.
SESSION = boto3.Session()
# Errors that every operation of every AWS service can answer.
COMMON_ERRORS = {
    "AccessDeniedException",
    "ExpiredTokenException",
    "InternalFailure",
    "SerializationException",
    "ServiceUnavailable",
    "ThrottlingException",
    "UnknownOperationException",
}
JSON_TYPES: dict[str, tuple[type, ...]] = {
    "structure": (dict,),
    "list": (list,),
    "map": (dict,),
    "string": (str,),
    "integer": (int,),
    "double": (int, float),
    "boolean": (bool,),
    "timestamp": (int, float),
}


def check_shape(shape: Shape, value: Any, path: str) -> None:
    """Fail unless the JSON value is what botocore's service model says."""
    assert isinstance(value, JSON_TYPES[shape.type_name]), f"{path}: {value!r} is no {shape.type_name}"
    if shape.type_name != "boolean":
        assert not isinstance(value, bool), path
    limits = shape.metadata
    size = value if isinstance(value, (int, float)) else len(value)
    assert limits.get("min", size) <= size <= limits.get("max", size), f"{path}: {value!r} against {limits}"
    if "pattern" in limits and r"\p{" not in limits["pattern"]:
        assert re.fullmatch(limits["pattern"], value, re.ASCII), f"{path}: {value!r} against {limits}"
    if isinstance(shape, StringShape) and shape.enum:
        assert value in shape.enum, path
    if isinstance(shape, StructureShape):
        assert set(value) <= set(shape.members), f"{path}: unknown {set(value) - set(shape.members)}"
        assert set(shape.required_members) <= set(value), path
        for name, each in value.items():
            check_shape(shape.members[name], each, f"{path}.{name}")
    elif isinstance(shape, ListShape):
        for each in value:
            check_shape(shape.member, each, f"{path}[]")
    elif isinstance(shape, MapShape):
        for key, each in value.items():
            check_shape(shape.key, key, f"{path}.key")
            check_shape(shape.value, each, f"{path}.{key}")


class Contract:
    """Checks every answer that passes through a client, and every request that was accepted."""

    def __init__(self) -> None:
        self.accepted: list[str] = []
        self.refused: list[tuple[str, str]] = []
        self._requests: dict[str, dict[str, Any]] = {}

    def watch(self, client: Any) -> None:
        client.meta.events.register("before-call.personalize", self._note_request)
        client.meta.events.register("after-call.personalize", self._check_answer)

    def _note_request(self, model: OperationModel, params: dict[str, Any], **_: Any) -> None:
        body = params["body"]
        self._requests[model.name] = json.loads(body.decode() if isinstance(body, bytes) else body)

    def _check_answer(self, http_response: Any, model: OperationModel, **_: Any) -> None:
        try:
            answer = json.loads(http_response.content)
        except ValueError:
            assert http_response.content.startswith(b"<html>")
            return
        if http_response.status_code >= 300:
            assert set(answer) == {"__type", "message"}
            assert answer["__type"] in {shape.name for shape in model.error_shapes} | COMMON_ERRORS
            assert answer["message"]
            self.refused.append((model.name, answer["__type"]))
            return
        if model.input_shape is not None:
            check_shape(model.input_shape, self._requests[model.name], model.name)
        if model.output_shape is not None:
            check_shape(model.output_shape, answer, model.name)
        self.accepted.append(model.name)


class Clock:
    """Time that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1_750_000_000.25

    def __call__(self) -> float:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += seconds


class Stage:
    """A local Personalize of one mode, and clients to it."""

    def __init__(self, mode: str, contract: Contract, exits: contextlib.ExitStack) -> None:
        self.mode = mode
        self.contract = contract
        self.exits = exits
        self.control: Any = None

    def open(self, **options: Any) -> PersonalizeControl:
        context: Any = LocalPersonalize if self.mode == "server" else mock_personalize
        self.control = self.exits.enter_context(context(**options))
        return self.control  # type: ignore[no-any-return]

    def client(
        self,
        service: str = "personalize",
        region_name: str = "us-east-1",
        *,
        attempts: int = 1,
        **config: Any,
    ) -> Any:
        # One attempt, because botocore's default differs between its versions, and waits.
        client = SESSION.client(
            service,
            region_name=region_name,
            endpoint_url=self.control.endpoint_url,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
            config=Config(retries={"total_max_attempts": attempts}, **config),
        )
        self.exits.callback(client.close)
        if service == "personalize":
            self.contract.watch(client)
        return client

    def put_input(self, text: str, key: str = "input/items.json", region_name: str = "us-east-1") -> Any:
        s3 = self.client("s3", region_name)
        place = {} if region_name == "us-east-1" else {"LocationConstraint": region_name}
        if BUCKET not in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]:
            s3.create_bucket(Bucket=BUCKET, **({"CreateBucketConfiguration": place} if place else {}))
        s3.put_object(Bucket=BUCKET, Key=key, Body=text.encode())
        return s3


@pytest.fixture(autouse=True)
def _no_aws_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def contract() -> Contract:
    return Contract()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", clock)
    return clock


@pytest.fixture(params=["in_process", "server"])
def stage(request: pytest.FixtureRequest, contract: Contract) -> Iterator[Stage]:
    """Both ways, for what passes over the wire."""
    with contextlib.ExitStack() as exits:
        yield Stage(request.param, contract, exits)


@pytest.fixture
def inside(contract: Contract) -> Iterator[Stage]:
    """In process only, for what happens behind the wire."""
    with contextlib.ExitStack() as exits:
        yield Stage("in_process", contract, exits)


@pytest.fixture
def served(contract: Contract) -> Iterator[Stage]:
    """As a server only."""
    with contextlib.ExitStack() as exits:
        yield Stage("server", contract, exits)


@pytest.fixture(params=BATCH_JOB_KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> BatchJobKind:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def recipe(kind: BatchJobKind) -> str:
    return {"segment": "aws-item-affinity", "inference": "aws-similar-items"}[kind.name]


MakeRequest = Callable[..., dict[str, Any]]


@pytest.fixture
def make_request() -> MakeRequest:
    """Build a Create request that is accepted, but for the members given; ``None`` leaves one out."""

    def make(solution_version_arn: str, **members: Any) -> dict[str, Any]:
        request = {
            "jobName": "nightly",
            "solutionVersionArn": solution_version_arn,
            "jobInput": {"s3DataSource": {"path": f"s3://{BUCKET}/input/"}},
            "jobOutput": {"s3DataDestination": {"path": f"s3://{BUCKET}/output/"}},
            "roleArn": "arn:aws:iam::123456789012:role/personalize",
            **members,
        }
        return {name: value for name, value in request.items() if value is not None}

    return make
