"""Where a long list of a JSON record begins, and where it may be cut: a look at brackets, commas and quotes.

Nothing here judges whether the text is JSON. Places are right where it is; whoever uses them parses what lies
between them, and so learns when it is not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import NamedTuple

from airflow_provider_personalize_segments.output.patterns import REPEATED

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)' + REPEATED + rb'"'
_MEMBER_OR_MARK = re.compile(
    rb"(" + _STRING + rb")(?:[ \t\r]*+:[ \t\r]*+([\[{]))?" + rb'|["\[\]{}]',
    re.DOTALL,
)
_STRING_OR_MARK = re.compile(_STRING + rb'|["\[\]{}]', re.DOTALL)
_PLAIN = rb'[^"\[\]{},]*+(?:' + _STRING + rb'[^"\[\]{},]*+)' + REPEATED
_ELEMENT = re.compile(_PLAIN, re.DOTALL)
_ELEMENTS = re.compile(rb"(?:" + _PLAIN + rb",)" + REPEATED, re.DOTALL)


class Cut(NamedTuple):
    """
    Where a list may be cut.

    :param place: the index of a comma between two elements, or of the bracket that ends the list
    :param is_end: whether it is the bracket
    """

    place: int
    is_end: bool


def find_list(text: bytes | bytearray, outer: str, names: Collection[str]) -> int | None:
    """
    Return where the first list begins that is a member of a member of the record, just after its bracket.

    :param text: the beginning of a JSON object
    :param outer: the name of the object's member
    :param names: names of that member's own members, of which one is the list
    """
    depth = 0
    is_inside = False
    for match in _MEMBER_OR_MARK.finditer(text):
        string, opened = match.groups()
        if string is None:
            mark = match[0]
            if mark == b'"':  # a string that does not end; what is within would be searched again and again
                return None
            depth += 1 if mark in b"[{" else -1
        elif opened:
            depth += 1
            if depth == 2:
                is_inside = opened == b"{" and _read_name(string) == outer
            elif depth == 3 and is_inside and opened == b"[" and _read_name(string) in names:
                return match.end()
    return None


def find_cut(text: bytes | bytearray) -> Cut | None:
    """
    Return the last place where a list may be cut: its end if that is there, or the last comma.

    :param text: what follows a list's opening bracket, or a comma between two of its elements
    :returns: the place, or ``None`` when there is not one whole element
    """
    last_comma = -1
    position = 0
    while True:
        end = _end_of(_ELEMENTS, text, position)
        if end > position:
            last_comma = end - 1
        end = _end_of(_ELEMENT, text, end)
        mark = bytes(text[end : end + 1])
        if mark == b"]":
            return Cut(end, True)
        if mark not in (b"[", b"{"):
            break
        position = _skip_nested(text, end)
        if position < 0:
            break
    return Cut(last_comma, False) if last_comma >= 0 else None


def _end_of(pattern: re.Pattern[bytes], text: bytes | bytearray, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


def _skip_nested(text: bytes | bytearray, position: int) -> int:
    depth = 0
    for match in _STRING_OR_MARK.finditer(text, position):
        mark = match[0]
        if mark == b'"':
            return -1
        if len(mark) == 1:
            depth += 1 if mark in b"[{" else -1
            if depth == 0:
                return match.end()
    return -1


def _read_name(string: bytes) -> str | None:
    try:
        return str(json.loads(string.decode()))
    except ValueError:
        return None
