"""Judges an event of OpenLineage's by OpenLineage's schemas.

No package that can be installed carries the schemas as JSON. The client carries what OpenLineage generates of
them: a class for each definition, with its fields, which of them are required, their types and their formats.
Each facet names its schema, and is judged by the class that was generated of it.
"""

from __future__ import annotations

import pkgutil
import types
import typing
from enum import Enum
from functools import cache
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

import attrs
from openlineage.client import generated
from openlineage.client.generated import base


class BrokenEventError(Exception):
    """The event is none by OpenLineage's schemas."""


def check_event(event: dict[str, Any]) -> None:
    """
    Check an event as it was emitted.

    :param event: the event, read from its JSON
    :raises BrokenEventError: when it breaks a schema; says where
    """
    _check(base.RunEvent, event, "event")


@cache
def find_classes() -> dict[str, type]:
    """Return the generated classes by the address of the schema that each was generated of."""
    found = {}
    for each in pkgutil.iter_modules(generated.__path__, f"{generated.__name__}."):
        for value in vars(import_module(each.name)).values():
            if isinstance(value, type) and hasattr(value, "_get_schema"):
                found[value._get_schema()] = value
    return found


def _check(hint: Any, value: Any, where: str) -> Any:
    """Return a value as the generated class has it, which judges formats when it is made."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _check_union(arguments, value, where)
    if origin in (list, dict):
        _require(isinstance(value, origin), where, f"{value!r} is no {origin.__name__}")
        if origin is list:
            return [_check(arguments[0], each, f"{where}[{i}]") for i, each in enumerate(value)]
        return {name: _check(arguments[1], each, f"{where}.{name}") for name, each in value.items()}
    if isinstance(hint, type) and issubclass(hint, Enum):
        _require(value in [each.value for each in hint], where, f"{value!r} is no {hint.__name__}")
        return hint(value)
    if attrs.has(hint):
        return _check_object(hint, value, where)
    is_bool = isinstance(value, bool)
    _require(isinstance(value, (int, float) if hint is float else hint), where, f"{value!r} is no {hint}")
    _require(not is_bool or hint in (bool, object), where, f"{value!r} is no {hint}")
    return value


def _check_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    problems = []
    for each in arguments:
        if each is type(None):
            continue  # what is null in Python is absent in JSON
        try:
            return _check(each, value, where)
        except BrokenEventError as error:
            problems.append(str(error))
    raise BrokenEventError("; ".join(problems))


def _check_object(hint: type, value: Any, where: str) -> Any:
    _require(isinstance(value, dict), where, f"{value!r} is no object")
    cls = hint
    if issubclass(hint, base.BaseFacet):
        schema = value.get("_schemaURL")
        _require(schema in find_classes(), where, f"the schema {schema!r} is none of OpenLineage's")
        cls = find_classes()[schema]
        _require(issubclass(cls, hint), where, f"{cls.__name__} is no {hint.__name__}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in attrs.fields(cls)}
    # Where OpenLineage defines the facet itself, what else there is would be a slip of ours.
    is_open = cls in (base.RunFacet, base.JobFacet, base.DatasetFacet)
    unknown = value.keys() - fields.keys()
    _require(is_open or not unknown, where, f"{cls.__name__} has no {sorted(unknown)}")
    given = {
        name: _check(hints[name], value[name], f"{where}.{name}")
        for name in fields
        if value.get(name) is not None
    }
    for name in ("producer", "_producer", "schemaURL", "_schemaURL"):
        if name in fields:
            parts = urlsplit(str(given.get(name, "")))
            _require(
                parts.scheme and (parts.netloc or parts.path), where, f"{name} is no URI: {given.get(name)}"
            )
    try:
        made = cls(**{fields[name].alias: each for name, each in given.items() if fields[name].init})
    except (TypeError, ValueError) as error:
        raise BrokenEventError(f"{where}: {error}") from error
    for name in ("schemaURL", "_schemaURL"):
        if name in fields:
            _require(given[name] == getattr(made, name), where, f"{given[name]} is another schema's")
    return made


def _require(condition: object, where: str, problem: str) -> None:
    if not condition:
        raise BrokenEventError(f"{where}: {problem}")
