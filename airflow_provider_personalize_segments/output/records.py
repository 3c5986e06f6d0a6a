"""Records of JSON Lines, in bounded memory, however long a line and its list of users are.

A line of usual length is parsed whole. Of a longer one only the list of users may be long: it is cut between
users, and each piece is parsed as a list of its own. What is around the list is kept, and at last parsed with
a mark in the list's place. So every byte of a line is judged by the JSON parser, whatever its length, and the
code here may choose a wrong place to cut, but can accept nothing that is not JSON.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from airflow_provider_personalize_segments.errors import S3RefusedError
from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.output.blocks import load_blocks
from airflow_provider_personalize_segments.output.lines import LineBuffer
from airflow_provider_personalize_segments.output.long_lists import find_cut, find_list
from airflow_provider_personalize_segments.output.record_parts import RecordBlock, RecordPart
from airflow_provider_personalize_segments.output.strict_json import load_strictly
from airflow_provider_personalize_segments.plain_json import clean_line

LONG_LINE = 2 * 1024**2
"""Bytes up to which a line is parsed at once. Once parsed, some JSON takes 25 times its length."""
WINDOW = 1024**2
"""Bytes of a long line that are parsed at once: the most for one user, and for all that is not a user."""
LONG_LIST = 16 * 1024
"""Bytes of a line from which its list is parsed apart, where there is a function for lists."""
LIST_NAMES = BatchJobKind.SEGMENT.result_members
"""Members of a record's ``output`` that hold a list of users."""
_BYTE_ORDER_MARK = "\ufeff"
_GZIP_MARK = b"\x1f\x8b"
_JSON_SPACE = b" \t\r"
_JSON_TYPES = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
_MAX_PROBLEM_LENGTH = 500


class _InvalidRecordError(Exception):
    """A line is no record; the message says why."""


def read_records(
    pieces: Iterable[bytes],
    path: str,
    loads: Callable[[str], Any] = load_strictly,
    load_list: Callable[[bytes], Sequence[Any] | None] | None = None,
    load_block: Callable[[bytes], Any] | None = None,
) -> Iterator[RecordPart | RecordBlock]:
    """
    Yield the records of a JSON Lines object, in the order of its lines.

    Blank lines are skipped; a carriage return before the line feed is white space. A line that is no JSON
    object in UTF-8 yields a part with a ``problem``, and reading goes on with the next line. So does a line
    longer than :data:`LONG_LINE` with more than :data:`WINDOW` bytes outside its list of users, or for one
    user, or which repeats a member so that what was yielded before is void. A byte order mark is a problem,
    as ``json.loads`` has it. Where a record repeats a member otherwise, the last one counts.

    :param pieces: the object's bytes, in pieces of any size
    :param path: the object's path, ``s3://bucket/key``, for messages
    :param loads: parses JSON text, as ``json.loads`` does: it raises ValueError, or RecursionError
    :param load_list: parses elements of a list of users, without brackets, into any sequence; it returns
        ``None`` for what ``loads`` is to judge
    :param load_block: parses whole lines, which are valid records, at once into whatever it likes, with the
        indices of those that are to be parsed by themselves in ``others``; it returns ``None`` for what
        ``loads`` is to judge. With it, some of what is yielded is a :class:`RecordBlock`
    :raises S3RefusedError: when the object is compressed

    .. seealso:: https://docs.aws.amazon.com/personalize/latest/dg/batch-segment-job-output-examples.html
    """
    lines = LineBuffer(pieces)
    if lines.begins_with(_GZIP_MARK):
        raise S3RefusedError(
            "The object is compressed with gzip, not JSON Lines as Personalize writes them",
            "Look for what replaced the job's own output, or decompress it.",
            path,
            0,
        )
    reader = _Reader(lines, loads, load_list)
    number = 0
    while not lines.is_at_end():
        if load_block is not None:
            for block in load_blocks(lines, load_block):
                yield from reader.read_block(number, *block)
                number += block.lines
            if lines.is_at_end():
                return
        number += 1
        begin = lines.offset
        taken = lines.take_line(LONG_LINE)
        if taken is None:
            yield from reader.read_long_record(number)
        elif taken[0].strip(_JSON_SPACE):
            yield reader.parse_record(number, begin, *taken)


class _Reader:
    def __init__(
        self,
        lines: LineBuffer,
        loads: Callable[[str], Any],
        load_list: Callable[[bytes], Sequence[Any] | None] | None,
    ) -> None:
        self._lines = lines
        self._loads = loads
        self._load_list = load_list
        # Nobody can write a record that has it, too.
        self._mark = secrets.token_hex(16)

    def parse_record(self, number: int, begin: int, line: bytearray, has_end: bool) -> RecordPart:
        if self._load_list is not None and len(line) >= LONG_LIST:
            part = self._parse_list_apart(number, begin, line, self._load_list)
            if part:
                return part
        try:
            record = self._parse(line, begin)
        except _InvalidRecordError as error:
            return RecordPart(number, begin, {}, problem=str(error), is_cut_off=not has_end)
        try:
            members, name, values = _take_list(record)
        except _InvalidRecordError as error:
            return RecordPart(number, begin, {}, problem=str(error))
        return RecordPart(number, begin, members, name, values)

    def read_block(
        self, before: int, begin: int, data: bytes, count: int, loaded: Any
    ) -> Iterator[RecordPart | RecordBlock]:
        if loaded is not None:
            yield RecordBlock(before + 1, begin, loaded)
        others = range(count) if loaded is None else loaded.others
        lines = data.split(b"\n") if others else []
        done = 0
        for index in others:
            begin += sum(len(line) + 1 for line in lines[done:index])
            done = index
            if lines[index].strip(_JSON_SPACE):
                yield self.parse_record(before + 1 + index, begin, bytearray(lines[index]), True)

    def _parse_list_apart(
        self, number: int, begin: int, line: bytearray, load_list: Callable[[bytes], Sequence[Any] | None]
    ) -> RecordPart | None:
        """Return a record whose list another function than ``loads`` can parse; ``None`` if there is none."""
        start = find_list(line, "output", LIST_NAMES)
        end = -1 if start is None else line.find(b"]", start)
        if end < 0:
            return None
        values = load_list(bytes(line[start:end]))
        if values is None:
            return None
        # The mark is found in the list's place only if it is the list's place, and all around it is JSON.
        around = line[:start] + f'"{self._mark}"'.encode() + line[end:]
        try:
            members, name = self._find_mark(self._parse(around, begin))
        except _InvalidRecordError:
            return None
        return RecordPart(number, begin, members, name, values)

    def read_long_record(self, number: int) -> Iterator[RecordPart]:
        begin = self._lines.offset
        count = 0
        try:
            head = self._read_head()
            known, name = self._find_mark(self._parse(head, begin, after=f'"{self._mark}"]}}}}'))
            for values in self._read_list():
                yield RecordPart(number, begin, known, name, values, count, is_last=False)
                count += len(values)
            members = self._read_tail(head, known)
        except (_InvalidRecordError, RecursionError) as error:
            has_end = self._lines.skip_line()
            yield RecordPart(number, begin, {}, start=count, problem=str(error), is_cut_off=not has_end)
        else:
            self._lines.skip_line()
            yield RecordPart(number, begin, members, name, [], count)

    def _read_head(self) -> bytes:
        head = self._lines.peek(WINDOW).data
        end = find_list(head, "output", LIST_NAMES)
        if end is None:
            raise _too_much_outside()
        self._lines.skip(end)
        return bytes(head[:end])

    def _read_list(self) -> Iterator[Sequence[Any]]:
        follows_comma = False
        while True:
            values, size, is_end = self._parse_window(follows_comma)
            self._lines.skip(size)
            if len(values):
                yield values
            if is_end:
                return
            follows_comma = True

    def _parse_window(self, follows_comma: bool) -> tuple[Sequence[Any], int, bool]:
        """Return the next elements, how many bytes they and their end take, and whether these were all."""
        window, is_rest = self._lines.peek(WINDOW)
        # As a rule a quote and a comma end an element. Where they are within one, or the list ends before
        # them, what lies before them is not JSON, and the slower search decides.
        end = window.rfind(b'",')
        if end >= 0:
            try:
                return self._parse_elements(window[: end + 1]), end + 2, False
            except _InvalidRecordError:
                pass
        cut = find_cut(window)
        if cut is None:
            raise _InvalidRecordError(
                "it ends within its list of users"
                if is_rest
                else f"one of its users has more than {WINDOW} bytes"
            )
        values = self._parse_elements(window[: cut.place])
        if not len(values) and (follows_comma or not cut.is_end):
            raise _InvalidRecordError(f"not JSON: Expecting value (byte {self._lines.offset + cut.place})")
        return values, cut.place + 1, cut.is_end

    def _parse_elements(self, text: bytearray) -> Sequence[Any]:
        if self._load_list is not None:
            known = self._load_list(bytes(text))
            if known is not None:
                return known
        values: list[Any] = self._parse(text, self._lines.offset, "[", "]")
        return values

    def _read_tail(self, head: bytes, known: dict[str, Any]) -> dict[str, Any]:
        tail, is_rest = self._lines.peek(WINDOW - len(head))
        if not is_rest:
            raise _too_much_outside()
        # What is wrong is in the tail: the head was parsed before.
        before = f'{head.decode()}"{self._mark}"]'
        members, _ = self._find_mark(self._parse(tail, self._lines.offset, before))
        if not _has_all(members["output"], known["output"]) or not _has_all(
            members | {"output": None}, known | {"output": None}
        ):
            raise _InvalidRecordError("it repeats a member, with another value")
        return members

    def _find_mark(self, record: Any) -> tuple[dict[str, Any], str]:
        """Return a record that has the mark as its list of users without it, and the list's name."""
        members, name, values = _take_list(record)
        if name is None or values != [self._mark]:
            raise _InvalidRecordError("it repeats its output, or its list of users")
        return members, name

    def _parse(self, data: bytes | bytearray, offset: int, before: str = "", after: str = "") -> Any:
        """Parse bytes between texts that are known to be good."""
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise _InvalidRecordError(f"not UTF-8: {error.reason} (byte {offset + error.start})") from None
        try:
            return self._loads(f"{before}{text}{after}")
        except json.JSONDecodeError as error:
            if text.startswith(_BYTE_ORDER_MARK) and not before:
                raise _InvalidRecordError("not JSON: it begins with a byte order mark") from None
            place = offset + len(text[: max(error.pos - len(before), 0)].encode())
            reason = f"not JSON: {error.msg} (byte {place})"
        except ValueError as error:
            reason = f"not JSON that can be read: {error}"
        except RecursionError:
            reason = "not JSON that can be read: it is nested too deep"
        raise _InvalidRecordError(clean_line(reason, _MAX_PROBLEM_LENGTH))


def _take_list(record: Any) -> tuple[dict[str, Any], str | None, list[Any]]:
    """Move the list of users out of a record."""
    if not isinstance(record, dict):
        raise _InvalidRecordError(f"{_JSON_TYPES.get(type(record), 'a number')}, not an object")
    output = record.get("output")
    if isinstance(output, dict):
        for name, value in output.items():
            if name in LIST_NAMES and isinstance(value, list):
                del output[name]
                return record, name, value
    return record, None, []


def _has_all(members: dict[str, Any], known: dict[str, Any]) -> bool:
    return all(name in members and members[name] == value for name, value in known.items())


def _too_much_outside() -> _InvalidRecordError:
    return _InvalidRecordError(
        f"longer than {LONG_LINE} bytes, and more than {WINDOW} of them are outside its list of users"
    )
