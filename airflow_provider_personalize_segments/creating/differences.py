"""How a job that exists differs from the one that a request would create."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from airflow_provider_personalize_segments.creating.extra_members import DEFAULT_MODE
from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.plain_json import make_json_safe, show

# https://docs.aws.amazon.com/personalize/latest/dg/API_CreateBatchSegmentJob.html
DEFAULT_NUM_RESULTS = 25

_COMPARED = ("solutionVersionArn", "jobInput", "jobOutput", "roleArn", "filterArn", "numResults")
_ENVIRONMENT = (
    "solutionVersionArn",
    "jobInput.s3DataSource.path",
    "jobOutput.s3DataDestination.path",
    "filterArn",
)
_EXPLORATION = "batchInferenceJobConfig.itemExplorationConfig"
_DEFAULTS: dict[str, Any] = {
    # AWS does not document whether Describe shows defaults, so a missing field counts as its default.
    # https://docs.aws.amazon.com/personalize/latest/dg/native-recipe-new-item-USER_PERSONALIZATION.html
    # https://docs.aws.amazon.com/personalize/latest/dg/API_BatchInferenceJobConfig.html
    "numResults": DEFAULT_NUM_RESULTS,
    "batchInferenceJobMode": DEFAULT_MODE,
    f"{_EXPLORATION}.explorationWeight": "0.3",
    f"{_EXPLORATION}.explorationItemAgeCutOff": "30",
    "batchInferenceJobConfig.rankingInfluence.POPULARITY": 0.0,
    "batchInferenceJobConfig.rankingInfluence.FRESHNESS": 0.0,
}


def find_differences(
    kind: BatchJobKind, request: Mapping[str, Any], job: Mapping[str, Any], *, is_strict: bool = True
) -> list[str]:
    """
    Return in which fields a job differs from the one that a request would create; tags cannot be seen.

    :param kind: the kind of job
    :param request: what :func:`build_request` returned
    :param job: the job as Describe gives it, as plain JSON
    :param is_strict: whether a slash at the end of a path is a difference
    """
    asked, there = _read(kind, request, job)
    return [
        _tell(field, asked, there)
        for field in sorted(asked.keys() | there.keys())
        if not _equal(field, asked.get(field), there.get(field))
        and (is_strict or not _equal_paths(field, asked, there))
    ]


def find_other_environment(
    kind: BatchJobKind, request: Mapping[str, Any], job: Mapping[str, Any]
) -> list[str]:
    """
    Return in which fields a job is of another environment than a request, though it has the task's own name.

    Two Airflows in one AWS account may have the same DAG. Describe may show the other fields a little
    differently than they were asked for, so they tell nothing about a job of one's own.

    :param kind: the kind of job
    :param request: what :func:`build_request` returned
    :param job: the job as Describe gives it, as plain JSON
    """
    asked, there = _read(kind, request, job)
    return [_tell(field, asked, there) for field in _ENVIRONMENT if not _equal_paths(field, asked, there)]


def _read(
    kind: BatchJobKind, request: Mapping[str, Any], job: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of a request and of a job; both were made plain JSON in the same way."""
    return dict(_flatten(kind, make_json_safe(request))), dict(_flatten(kind, job))


def _tell(field: str, asked: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    return f"{field} is {_show(there.get(field))} instead of {_show(asked.get(field))}"


def _flatten(kind: BatchJobKind, members: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the fields that are compared, by their path, with defaults where there is none."""
    names = (*_COMPARED, *kind.create_only_members)
    for field, default in _DEFAULTS.items():
        if field.partition(".")[0] in names:
            yield field, default
    yield from _leaves({name: members[name] for name in names if name in members}, "")


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _leaves(each, f"{path}.{name}" if path else str(name))
    elif value not in (None, ""):
        yield path, value


def _equal_paths(field: str, asked: Mapping[str, Any], there: Mapping[str, Any]) -> bool:
    return field in _ENVIRONMENT and str(asked.get(field)).rstrip("/") == str(there.get(field)).rstrip("/")


def _equal(field: str, one: Any, other: Any) -> bool:
    if one == other or not field.startswith(_EXPLORATION):
        return bool(one == other)
    try:
        return float(one) == float(other)  # numbers, as text
    except (TypeError, ValueError):
        return False


def _show(value: Any) -> str:
    return "none" if value is None else show(value)
