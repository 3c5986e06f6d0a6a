"""Plain JSON of the values that AWS sends: fit for UTF-8, msgpack, Airflow's database and its logs.

Airflow 3.3's triggerer ends, at every start anew, when an event holds text or a number that cannot be
encoded. So every answer passes through here before it travels.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice
from reprlib import Repr
from typing import Any

MAX_TEXT_LENGTH = 10_000
"""Characters of one text; Personalize's reasons have a few hundred at most."""
MAX_MEMBERS = 1_000
"""Members of one map; the API's own maps have a handful."""
MAX_DEPTH = 16
"""Levels of maps and lists in each other; the API has four."""
MAX_JOB_SIZE = 65_536
"""Bytes of JSON of one job; a real one has 2,000, and 20,000 with the longest reason there may be."""
_MAX_INTEGER = 2**63 - 1
_UNFIT = r"[\x00\ud800-\udfff]"
"""Lone surrogates, which UTF-8 refuses, and NUL, which PostgreSQL refuses."""
_BREAKS = r" *(?:[\t-\r\x1c-\x1e\x85\u2028\u2029] *)+"
_CONTROLS = r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
"""Control characters, which a terminal obeys, and those that turn the direction of what follows."""


def clean_text(text: object, max_length: int = MAX_TEXT_LENGTH) -> str:
    """
    Return text that UTF-8 and every database carry.

    What does not fit becomes U+FFFD. What is too long is cut, and says so. Cleaning it again changes nothing.

    :param text: the text; anything else is taken by its ``str()``
    :param max_length: the most characters that are returned, 100 or more
    """
    text = text if isinstance(text, str) else _show(text)
    if len(text) > max_length:
        cut = f"... (cut here; {len(text)} characters in all)"
        text = text[: max_length - len(cut)] + cut
    return re.sub(_UNFIT, "\ufffd", text)


def clean_line(text: object, max_length: int = MAX_TEXT_LENGTH) -> str:
    """
    Return text for a message or a log, in one line: Airflow 2.11 writes it as it is.

    Breaks of lines and tabs become a space, control characters U+FFFD, else see :func:`clean_text`.

    :param text: as all parameters: see :func:`clean_text`
    """
    line = re.sub(_BREAKS, " ", text if isinstance(text, str) else _show(text))
    return re.sub(_CONTROLS, "\ufffd", clean_text(line, max_length))


class _Shown(Repr):
    """Python's own way to abbreviate values, but text is cut between words."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxdict = self.maxlist = self.maxtuple = 8
        self.maxstring = self.maxother = 300  # an ARN or a path has 256 characters

    def repr_str(self, value: str, level: int) -> str:
        if len(value) <= self.maxstring:
            return repr(value)
        begin = value[: self.maxstring]
        return f"{(begin.rpartition(' ')[0] or begin)!r}... ({len(value)} characters)"


def show(value: object) -> str:
    """
    Return a value as Python writes it, for a message: text is cut between words, maps and lists at a member.

    :param value: anything
    """
    return clean_text(_Shown().repr(value), 1_000)


def make_json_safe(value: Any) -> Any:
    """
    Return a boto3 answer as plain JSON, for XCom and trigger events.

    Field names stay the API's own. Times become ISO 8601 in UTC with an offset; a naive time is taken as UTC.
    ``ResponseMetadata`` is left out. Numbers that JSON or a database does not carry become text: NaN,
    infinities, integers beyond 64 bits. Text is cleaned, see :func:`clean_text`; maps and nesting beyond all
    that AWS documents are cut.

    :param value: a dict, list or scalar as boto3 returns it
    """
    return _make_safe(value, MAX_DEPTH)


def make_job_safe(job: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return a job as plain JSON that is as small as a job's can be, see :func:`make_json_safe`.

    It travels in an event, through Airflow's database and in XCom. While it is too large, the largest of its
    members becomes a text that says so.

    :param job: the job as boto3 returns it
    """
    safe: dict[str, Any] = make_json_safe(job)
    sizes = {name: len(json.dumps(each)) for name, each in safe.items()}
    size = sum(sizes.values())
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if size <= MAX_JOB_SIZE:
            break
        safe[name] = f"... (cut here; {sizes[name]} bytes in all)"
        size += len(json.dumps(safe[name])) - sizes[name]
    return safe


def _make_safe(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, int):
        return int(value) if -_MAX_INTEGER - 1 <= value <= _MAX_INTEGER else _show(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, datetime):
        return _show_time(value)
    if isinstance(value, (Mapping, list, tuple)) and depth == 0:
        return f"... (cut here; nested more than {MAX_DEPTH} levels deep)"
    if isinstance(value, Mapping):
        members = (each for each in value.items() if each[0] != "ResponseMetadata")
        return {clean_text(name): _make_safe(each, depth - 1) for name, each in islice(members, MAX_MEMBERS)}
    if isinstance(value, (list, tuple)):
        return [_make_safe(each, depth - 1) for each in value]
    return clean_text(value)


def _show_time(moment: datetime) -> str:
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC).isoformat()
    try:
        return moment.astimezone(UTC).isoformat()
    except OverflowError:  # at either end of the calendar there is no such moment in UTC
        return moment.isoformat()


def _show(value: object) -> str:
    try:
        return str(value)
    except ValueError:
        # Python writes no integer of more than 4,300 digits.
        return f"a {type(value).__name__} too large to be written"
    except RecursionError:
        return f"a {type(value).__name__} nested too deep to be written"
