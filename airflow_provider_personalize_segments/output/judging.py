"""What one record of a job's output holds, or what is wrong with it: the one judgment, in plain Python.

Checking the output asks it of every record. Making tables asks it of every record that Arrow's reader does
not take for good at once, and what Arrow takes is the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.plain_json import clean_line, clean_text, make_json_safe, show

JSON_SPACE = b" \t\r"
NO_QUERY = "the record does not say for what it was asked"
MAX_INPUT_LENGTH = 2000
_MAX_PROBLEM_LENGTH = 500
_TEXTS = frozenset({str})
_NUMBERS = frozenset({float, int})
_JSON_TYPES = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


class Record(NamedTuple):
    """
    What a line of output holds.

    :param query: for what it was asked: an item, an expression of attributes, or a user
    :param results: the users or the items, best first
    :param numbers: for each of the kind's ``number_members`` a number for each result; ``None`` for none
    :param theme: the theme of the results
    :param error: why the record is of no use, in Personalize's words where it has some; ``None`` for a good
        one
    :param given: the record's input as JSON, if there is an error
    :param is_json: whether the line is a JSON object; if not, it may have been cut off
    """

    query: str = ""
    results: Sequence[str] = ()
    numbers: tuple[list[float] | None, ...] = ()
    theme: str | None = None
    error: str | None = None
    given: str | None = None
    is_json: bool = True


class _WrongRecordError(Exception):
    """The record is of no use; the message says why."""


def judge_lines(kind: BatchJobKind, data: bytes) -> Iterator[tuple[int, int, Record]]:
    """
    Yield what lines hold: for each its number, from 0, the offset at which it begins, and its record.

    :param kind: the kind of job that wrote them
    :param data: whole lines; blank ones are passed over
    """
    offset = 0
    for number, line in enumerate(data.split(b"\n")):
        if line.strip(JSON_SPACE):
            yield number, offset, judge(kind, line)
        offset += len(line) + 1


def judge(kind: BatchJobKind, line: bytes) -> Record:
    """
    Return what a line holds, or why it is of no use.

    JSON is what ``json.loads`` takes for it, but for ``NaN`` and ``Infinity``. Where a record repeats a
    member, the last one counts. No member matters that is not asked for here.

    :param kind: the kind of job that wrote it
    :param line: the line, without its end

    .. seealso:: https://docs.aws.amazon.com/personalize/latest/dg/batch-segment-job-output-examples.html
    """
    try:
        members = _parse(line)
    except _WrongRecordError as error:
        return Record(error=str(error), is_json=False)
    try:
        return _read(kind, members, has_escapes=b"\\" in line)
    except _WrongRecordError as error:
        given = members.get("input", members.get("itemAttributes"))
        text = given if given is None or isinstance(given, str) else json.dumps(make_json_safe(given))
        return Record(error=clean_text(str(error)), given=text and clean_text(text, MAX_INPUT_LENGTH))


def _parse(line: bytes) -> dict[str, Any]:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise _WrongRecordError(f"not UTF-8: {error.reason} (byte {error.start} of the line)") from None
    try:
        record = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        if text.startswith("\ufeff"):
            raise _WrongRecordError("not JSON: it begins with a byte order mark") from None
        reason = f"not JSON: {error.msg} (byte {len(text[: error.pos].encode())} of the line)"
    except ValueError as error:
        reason = f"not JSON that can be read: {error}"
    except RecursionError:
        reason = "not JSON that can be read: it is nested too deep"
    else:
        if isinstance(record, dict):
            return record
        reason = f"{_JSON_TYPES.get(type(record), 'a number')}, not an object"
    raise _WrongRecordError(clean_line(reason, _MAX_PROBLEM_LENGTH))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _read(kind: BatchJobKind, members: Mapping[str, Any], *, has_escapes: bool) -> Record:
    error = members.get("error")
    if error not in (None, ""):
        raise _WrongRecordError(error if isinstance(error, str) else show(error))
    output = members.get("output")
    if not isinstance(output, dict):
        raise _WrongRecordError("the record has no output")
    members_of_results = kind.result_members
    for name, results in output.items():
        if name in members_of_results and isinstance(results, list):
            break
    else:
        raise _WrongRecordError(f"the record's output has no {kind.result_members[0]}")
    if not _TEXTS.issuperset(map(type, results)):
        raise _WrongRecordError(f"the record's {name} holds something else than text")
    # Half a character is in UTF-8 as an escape only.
    if has_escapes and (halves := [each for each in results if not _is_utf8(each)]):
        raise _WrongRecordError(
            f"the record's {name} holds half a character, which no table can: {show(halves[0])}"
        )
    query = _find_query(kind, members)
    if query is None:
        raise _WrongRecordError(NO_QUERY)
    numbers = tuple([_find_numbers(output, each, len(results)) for each in kind.number_members])
    theme = output.get(kind.theme_member) if kind.theme_member else None
    if theme is not None and not _is_utf8(theme):
        raise _WrongRecordError(
            f"the record's {kind.theme_member} is no text that a table can hold: {show(theme)}"
        )
    return Record(query, results, numbers, theme)


def _find_query(kind: BatchJobKind, members: Mapping[str, Any]) -> str | None:
    given = members.get("input")
    if isinstance(given, dict):
        for names, _ in kind.input_records:
            value = given.get(names[0])
            if value is not None and _is_utf8(value):
                return str(value)
    value = members.get("itemAttributes")
    return value if _is_utf8(value) else None


def _is_utf8(value: object) -> bool:
    try:
        return isinstance(value, str) and (value.isascii() or bool(value.encode()))
    except UnicodeEncodeError:
        return False


def _find_numbers(output: Mapping[str, Any], name: str, count: int) -> list[float] | None:
    numbers = output.get(name)
    if numbers is None:
        return None
    try:
        if isinstance(numbers, list) and len(numbers) == count and _NUMBERS.issuperset(map(type, numbers)):
            values = list(map(float, numbers))
            if all(map(math.isfinite, values)):
                return values
    except OverflowError:  # a whole number that is larger than any float
        pass
    raise _WrongRecordError(f"the record's {name} are not a number for each result")
