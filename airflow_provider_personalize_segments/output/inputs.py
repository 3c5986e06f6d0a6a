"""Judging a job's input before the job is created: a job that fails on its input costs half an hour."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, Never

from airflow_provider_personalize_segments.errors import PersonalizeInputError
from airflow_provider_personalize_segments.output.objects import (
    S3Object,
    list_objects,
    read_object,
    split_path,
)
from airflow_provider_personalize_segments.output.own_files import choose_input
from airflow_provider_personalize_segments.output.patterns import REPEATED
from airflow_provider_personalize_segments.plain_json import show

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.jobs import BatchJobKind

# https://docs.aws.amazon.com/personalize/latest/dg/limits.html
MAX_FILES = 1000
MAX_BYTES = 1024**3
MAX_LINE = 1024**2
"""Bytes of one line; a record of input takes some hundred."""
FILTER_VALUES = "filterValues"
_QUOTED = re.compile(r'"[^"]*"(?:\s*,\s*"[^"]*")*|-?\d+(?:\.\d+)?')
"""What AWS takes for a placeholder: words in quotes of their own, with commas between them, or a number."""
_PLACEHOLDER = re.compile(r"\$(\w+)")
_LITERAL = re.compile(r'"[^"]*"')
_PLAIN = rb'[^"\\\x00-\x1f]*+'
_ESCAPE = rb'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})'
_TEXT = rb'"(?!")%s(?:%s%s)%s"' % (_PLAIN, _ESCAPE, _PLAIN, REPEATED)
MAX_PATTERNS = 16
"""Orders of members that have a pattern of their own; records in any other order are parsed."""
_SPACE = rb"[ \t]*+"


class RecordShape(NamedTuple):
    """
    What one kind of recipe asks of each record.

    :param members: the members that a record has, each text but ``itemList``
    :param lines: how many records a file may hold
    """

    members: tuple[str, ...]
    lines: int


THEMES = RecordShape(("itemId",), 100)
"""Of a job that generates themes."""


def find_placeholders(expression: str) -> frozenset[str]:
    """
    Return the placeholders of a filter's expression, each of which needs a value in every record.

    :param expression: such as ``EXCLUDE ItemID WHERE Items.GENRE IN ($GENRES)``

    .. seealso:: https://docs.aws.amazon.com/personalize/latest/dg/filter-batch.html
    """
    return frozenset(_PLACEHOLDER.findall(_LITERAL.sub("", expression)))


def check_input(
    client: Any,
    path: str,
    kind: BatchJobKind,
    *,
    output_path: str | None = None,
    placeholders: Iterable[str] = (),
    has_themes: bool = False,
) -> dict[str, int]:
    """
    Read a job's input, and refuse what Personalize would refuse after it has run for a while.

    :param client: a boto3 client for S3
    :param path: the input path of the job, ``s3://bucket/prefix``
    :param kind: the kind of job
    :param output_path: the output path of the job: what is named as its output is no input
    :param placeholders: the placeholders of the job's filter
    :param has_themes: whether the job generates themes
    :returns: ``files``, ``bytes`` and ``records``
    :raises PersonalizeInputError: when it cannot be right; it names bucket, key and line

    .. seealso:: https://docs.aws.amazon.com/personalize/latest/dg/batch-data-upload.html
    """
    files = find_files(client, path, output_path)
    shapes = [THEMES] if has_themes else [RecordShape(*each) for each in kind.input_records]
    checker = _Checker(shapes, frozenset(placeholders))
    for each in files:
        checker.check_file(each, read_object(client, each))
    return {"files": len(files), "bytes": sum(each.size for each in files), "records": checker.records}


def find_files(client: Any, path: str, output_path: str | None = None) -> list[S3Object]:
    """
    Return the files that a job reads for sure.

    :param client: a boto3 client for S3
    :param path: the input path of the job
    :param output_path: the output path of the job
    :raises PersonalizeInputError: when there are none or too many, or others than those in the folder
    """
    try:
        bucket, prefix = split_path(path)
        output_bucket, output_prefix = split_path(output_path or path)
        # Markers, and the output of earlier jobs, may lie between the files.
        listed = {each.key: each for each in islice(list_objects(client, path), 10 * MAX_FILES)}
        is_beside = output_path is not None and bucket == output_bucket
        sizes = {key: each.size for key, each in listed.items()}
        files = [listed[key] for key in choose_input(sizes, prefix, output_prefix if is_beside else None)]
    except ValueError as error:
        raise PersonalizeInputError(str(error), "Leave check_input out for this job.", path) from None
    if not files:
        raise PersonalizeInputError(
            "No object is there, so the job would have no input",
            "Upload the input before the task, or correct input_path.",
            path,
        )
    folder = path if path.endswith("/") else f"{path}/"
    others = [each.path for each in files if each.path != path and not each.path.startswith(folder)]
    if others:
        raise PersonalizeInputError(
            f"The path is a prefix, and the job would read {others[0]}, too"
            + (f", and {len(others) - 1} more" if len(others) > 1 else ""),
            "End a folder with a slash, or give the file a name that no other begins with.",
            path,
        )
    if len(files) > MAX_FILES:
        raise PersonalizeInputError(
            f"There are more than {MAX_FILES} files, which is all that a job takes",
            "Put the records into fewer files, or into several jobs.",
            path,
        )
    if (size := sum(each.size for each in files)) > MAX_BYTES:
        raise PersonalizeInputError(
            f"{size:,} bytes are more than the 1 GB that a job takes", "Spread them over several jobs.", path
        )
    return files


class _Checker:
    """Reads one file after the other; the first record says what all others are to be."""

    def __init__(self, shapes: Sequence[RecordShape], placeholders: frozenset[str]) -> None:
        self._shapes = shapes
        self._placeholders = placeholders
        self._shape: RecordShape | None = None
        self._plain: re.Pattern[bytes] | None = None
        self._patterns: dict[tuple[str, ...], re.Pattern[bytes]] = {}
        self._file: Any = None
        self._line = 0
        self.records = 0

    def check_file(self, file: S3Object, pieces: Iterable[bytes]) -> None:
        """
        Check a file.

        :param file: the file
        :param pieces: its bytes
        """
        self._file, self._line, records, rest = file, 0, 0, b""
        for piece in pieces:
            whole, line_feed, rest = (rest + piece).rpartition(b"\n")
            records += self._check_lines(whole + line_feed)
            if len(rest) > MAX_LINE:
                self._line += 1
                self._refuse(f"it has more than {MAX_LINE:,} bytes")
            self._check_number(records)
        if rest:
            records += self._check_lines(rest + b"\n")
            self._check_number(records)
        if not records:
            raise PersonalizeInputError("The file holds no records", "Remove it, or fill it.", file.path)
        self.records += records

    def _check_number(self, records: int) -> None:
        if self._shape and records > self._shape.lines:
            raise PersonalizeInputError(
                f"The file holds more than {self._shape.lines:,} records, which is all that a job takes "
                f"with {' and '.join(self._shape.members)}",
                "Spread them over more files.",
                self._file.path,
            )

    def _check_lines(self, lines: bytes) -> int:
        count = position = 0
        while position < len(lines):
            end = self._find_end_of_plain(lines, position)
            if end > position:
                number = lines.count(b"\n", position, end)
                self._line += number
                count += number
                position = end
                continue
            end = lines.index(b"\n", position)
            line, position = lines[position:end], end + 1
            self._line += 1
            if line.strip(b" \t\r"):
                self._check_line(line)
                count += 1
        return count

    def _find_end_of_plain(self, lines: bytes, position: int) -> int:
        """Return where lines end that are as plain as most are: a pattern reads them faster than a parser."""
        match = self._plain.match(lines, position) if self._plain else None
        if match is None or match.end() == position:
            return position
        try:
            match[0].decode()
        except UnicodeDecodeError as error:
            return max(position, lines.rfind(b"\n", position, position + error.start) + 1)
        return match.end()

    def _parse_line(self, line: bytes) -> dict[str, Any]:
        if len(line) > MAX_LINE:
            self._refuse(f"it has more than {MAX_LINE:,} bytes")
        if line.startswith(b"\x1f\x8b"):
            self._refuse("it is compressed with gzip, not JSON Lines")
        try:
            record = json.loads(line.decode())
        except UnicodeDecodeError:
            self._refuse("it is not UTF-8")
        except (ValueError, RecursionError) as error:
            self._refuse(f"it is not JSON: {error}")
        if not isinstance(record, dict):
            self._refuse(f"it is {show(record)}, not a JSON object")
        return record

    def _check_line(self, line: bytes) -> None:
        record = self._parse_line(line)
        members = frozenset(record) - {FILTER_VALUES}
        shapes = [self._shape] if self._shape else self._shapes
        shape = next((each for each in shapes if frozenset(each.members) == members), None)
        if shape is None:
            expected = " or ".join(" and ".join(each.members) for each in shapes)
            like = ", as the records before it" if self._shape else ""
            self._refuse(f"it has {_list(members)}, instead of {expected}{like}")
        for name in shape.members:
            value = record[name]
            texts = value if name == "itemList" and isinstance(value, list) and value else [value]
            if name == "itemList" and not isinstance(value, list):
                self._refuse(f"its {name} is {show(value)}, not a list of texts")
            if not all(isinstance(each, str) and each for each in texts):
                self._refuse(f"its {name} is {show(value)}, not text")
        self._check_filter_values(record.get(FILTER_VALUES, {}))
        self._shape = shape
        order = (*record, *record.get(FILTER_VALUES, ()))
        if order not in self._patterns and len(self._patterns) < MAX_PATTERNS:
            self._patterns[order] = _make_pattern(record)
        self._plain = self._patterns.get(order)

    def _check_filter_values(self, values: object) -> None:
        if not isinstance(values, dict):
            self._refuse(f"its {FILTER_VALUES} is {show(values)}, not an object")
        if missing := self._placeholders - values.keys():
            self._refuse(f"its {FILTER_VALUES} lacks {_list(missing)}, which the filter asks for")
        for name, value in values.items():
            if not isinstance(value, str) or not _QUOTED.fullmatch(value.strip()):
                self._refuse(
                    f"its {FILTER_VALUES} has {name} = {show(value)}, and AWS wants each word in quotes of "
                    'its own: "\\"horror\\",\\"comedy\\""'
                )

    def _refuse(self, problem: str) -> Never:
        raise PersonalizeInputError(
            f"Line {self._line} of the input is wrong: {problem}",
            "Correct the input, and clear the task.",
            self._file.path,
        )


def _make_pattern(record: Mapping[str, Any]) -> re.Pattern[bytes]:
    """Return a pattern of lines whose records have the same members in the same order."""
    members = {name: _make_value(name, value) for name, value in record.items()}
    return re.compile(rb"(?:%s%s[ \t\r]*+\n)%s" % (_SPACE, _make_object(members), REPEATED))


def _make_object(members: Mapping[str, bytes]) -> bytes:
    """Return the pattern of a JSON object that has these members, each with the pattern of its value."""
    comma, colon = _SPACE + b"," + _SPACE, _SPACE + b":" + _SPACE
    pairs = [re.escape(json.dumps(name).encode()) + colon + value for name, value in members.items()]
    return rb"\{%s%s%s\}" % (_SPACE, comma.join(pairs), _SPACE)


def _make_value(name: str, value: Any) -> bytes:
    if name == FILTER_VALUES:
        quoted = rb"\\\"[^\"\\\x00-\x1f]*+\\\""
        return _make_object(dict.fromkeys(value, rb'"%s(?:,%s)%s"' % (quoted, quoted, REPEATED)))
    if isinstance(value, list):
        more = rb"(?:%s,%s%s)%s" % (_SPACE, _SPACE, _TEXT, REPEATED)
        return rb"\[%s%s%s%s\]" % (_SPACE, _TEXT, more, _SPACE)
    return _TEXT


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "no members"
