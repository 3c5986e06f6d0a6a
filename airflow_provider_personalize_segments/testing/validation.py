"""Judge a request as AWS does, before anything is done about it.

Types, required members, lengths, ranges, patterns and enumerations come from botocore's own description of
the service; what only the documentation says is written out here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from botocore.loaders import Loader
from botocore.model import ListShape, MapShape, ServiceModel, Shape, StringShape, StructureShape

from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.recipes import THEME_RECIPE
from airflow_provider_personalize_segments.testing.exceptions import (
    InvalidInputException,
    SerializationException,
    TooManyTagsException,
)
from airflow_provider_personalize_segments.testing.recipes import RECIPES, THEME_REGIONS

MAX_TAGS = 50
DEFAULT_NUM_RESULTS = 25
MAX_SEGMENT_USERS = 5_000_000
DEFAULT_MODE, THEME_MODE = "BATCH_INFERENCE", "THEME_GENERATION"
_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "structure": (dict,),
    "map": (dict,),
    "list": (list,),
    "string": (str,),
    "integer": (int,),
    "long": (int,),
    "double": (int, float),
    "float": (int, float),
    "boolean": (bool,),
}


_SPACES = " \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_CHARACTER_CLASSES = (
    (r"\p{ASCII}", r"[\x00-\x7f]"),
    (r"\p{L}", r"\w"),
    (r"\p{N}", r"\w"),
    (r"\p{Z}", _SPACES),
)


@functools.cache
def service_model() -> ServiceModel:
    """Return botocore's description of Amazon Personalize."""
    description = Loader().load_service_model("personalize", "service-2")
    return ServiceModel(description, service_name="personalize")


def check_parameters(operation: str, parameters: Mapping[str, Any]) -> None:
    """
    Refuse parameters that botocore's description of the operation does not allow.

    boto3 itself checks only types and required members, so the rest reaches the service.

    :param operation: the operation's name, such as ``CreateBatchSegmentJob``
    :param parameters: the request
    """
    shape = service_model().operation_model(operation).input_shape
    if shape is not None:
        _check(shape, parameters, "")


def check_tag_count(count: int) -> None:
    """
    Refuse more tags than a resource can have.

    :param count: how many tags the resource would have
    """
    if count > MAX_TAGS:
        raise TooManyTagsException(f"The resource would have {count} tags; {MAX_TAGS} is the most.")


def check_job(kind: BatchJobKind, request: Mapping[str, Any], recipe: str, region_name: str) -> None:
    """
    Refuse a job that this recipe or region cannot run, and numbers out of range.

    :param kind: the kind of job to create
    :param request: the Create request
    :param recipe: name of the solution version's recipe
    :param region_name: the region the job is to run in
    """
    if RECIPES[recipe].kind is not kind:
        raise InvalidInputException(f"The recipe {recipe} is not supported by a {kind.title}.")
    number = request.get("numResults", DEFAULT_NUM_RESULTS)
    if number < 1:
        raise InvalidInputException(f"numResults is {number}; it must be at least 1.")
    if kind is BatchJobKind.SEGMENT and number > MAX_SEGMENT_USERS:
        raise InvalidInputException(f"numResults is {number}; it must be at most {MAX_SEGMENT_USERS}.")
    if request.get("batchInferenceJobMode") == THEME_MODE:
        _check_themes(request, recipe, region_name)


def _check_themes(request: Mapping[str, Any], recipe: str, region_name: str) -> None:
    if "themeGenerationConfig" not in request:
        raise InvalidInputException(f"themeGenerationConfig is required with {THEME_MODE}.")
    if recipe != THEME_RECIPE:
        raise InvalidInputException(f"{THEME_MODE} needs the recipe {THEME_RECIPE}.")
    if region_name not in THEME_REGIONS:
        raise InvalidInputException(f"{THEME_MODE} is only in {', '.join(sorted(THEME_REGIONS))}.")


def _check(shape: Shape, value: Any, path: str) -> None:
    expected = _JSON_TYPES.get(shape.type_name)
    if expected and (not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected)):
        raise SerializationException(f"{path or 'The request'} must be a {shape.type_name}.")
    _check_constraints(shape, value, path)
    if isinstance(shape, StructureShape):
        _check_members(shape, value, path)
    elif isinstance(shape, ListShape):
        for position, each in enumerate(value, start=1):
            _check(shape.member, each, f"{path}.{position}.member")
    elif isinstance(shape, MapShape):
        for key, each in value.items():
            _check(shape.key, key, f"{path}.key")
            _check(shape.value, each, f"{path}.{key}")


def _check_members(shape: StructureShape, value: Mapping[str, Any], path: str) -> None:
    for name in shape.required_members:
        if value.get(name) is None:
            raise _refusal(None, _join(path, name), "Member must not be null")
    for name, member in shape.members.items():
        if value.get(name) is not None:
            _check(member, value[name], _join(path, name))


def _check_constraints(shape: Shape, value: Any, path: str) -> None:
    constraints: Mapping[str, Any] = shape.metadata
    sized = isinstance(value, (str, list, dict))
    size = len(value) if sized else value
    what = "have length" if sized else "have value"
    if "min" in constraints and size < constraints["min"]:
        raise _refusal(value, path, f"Member must {what} greater than or equal to {constraints['min']}")
    if "max" in constraints and size > constraints["max"]:
        raise _refusal(value, path, f"Member must {what} less than or equal to {constraints['max']}")
    pattern = constraints.get("pattern")
    if pattern and not _compile(pattern).fullmatch(value):
        raise _refusal(value, path, f"Member must satisfy regular expression pattern: {pattern}")
    allowed = shape.enum if isinstance(shape, StringShape) else ()
    if allowed and value not in allowed:
        raise _refusal(value, path, f"Member must satisfy enum value set: [{', '.join(allowed)}]")


@functools.cache
def _compile(pattern: str) -> re.Pattern[str]:
    # The service's patterns are Java's; Python has no \p{...} classes, so those in use are put in its words.
    if r"\p{" not in pattern:
        return re.compile(pattern, re.ASCII)
    for java, python in _CHARACTER_CLASSES:
        pattern = pattern.replace(java, python)
    return re.compile(pattern)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _refusal(value: object, path: str, constraint: str) -> InvalidInputException:
    shown = "null" if value is None else f"'{value}'"
    return InvalidInputException(
        f"1 validation error detected: Value {shown:.1000} at '{path}' "
        f"failed to satisfy constraint: {constraint}"
    )
