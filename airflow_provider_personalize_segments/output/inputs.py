"""Judging a job's input before the job is created: a job that fails on its input costs half an hour."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Never

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
from airflow_provider_personalize_segments.recipes import (
    NUMBER,
    QUOTED,
    RECIPES,
    THEME_LINES,
    THEME_RECIPE,
    Recipe,
    are_item_conditions,
)

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.jobs import BatchJobKind
    from airflow_provider_personalize_segments.waiting.verdicts import Log

# https://docs.aws.amazon.com/personalize/latest/dg/limits.html
MAX_FILES = 1000
MAX_BYTES = 1024**3
MAX_LINE = 1024**2
"""Bytes of one line; a record of input takes some hundred."""
FILTER_VALUES = "filterValues"
CONTEXT = "context"
"""What real-time requests have beside ``userId``; AWS does not say whether batch jobs take it."""
_ITEM_ATTRIBUTES = "itemAttributes"
_DOCUMENTED = re.compile(r'"[^"]*"(?:\s*,\s*"[^"]*")*|-?[0-9]+(?:\.[0-9]+)?')
"""What AWS takes for a placeholder: words in quotes of their own, with commas between them, or a number."""
_DOUBTFUL_VALUE = rf'(?:{QUOTED}"?|{NUMBER})'
_DOUBTFUL = re.compile(rf"{_DOUBTFUL_VALUE}(?:\s*,\s*{_DOUBTFUL_VALUE})*", re.DOTALL)
"""
What it may take: quotes after a backslash, quotes that end a word twice, as in an example of AWS's own
(https://docs.aws.amazon.com/personalize/latest/dg/filter-batch.html), other numbers, and several.
"""
_PLACEHOLDER = re.compile(r"\$(\w+)")
_LITERAL = re.compile(r'"[^"]*"')
_PLAIN = rb'[^"\\\x00-\x1f]*+'
_HALVES = rb"[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
"""The two halves of a character; a half alone is no text."""
_ESCAPE = rb'\\(?:["\\/bfnrt]|u(?:[0-9a-ce-fA-CE-F][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}|%s))' % _HALVES
_TEXT = rb'"(?!")%s(?:%s%s)%s"' % (_PLAIN, _ESCAPE, _PLAIN, REPEATED)
MAX_PATTERNS = 16
"""Orders of members that have a pattern of their own; records in any other order are parsed."""
_SPACE = rb"[ \t]*+"


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
    log: Log,
    recipe: str | None = None,
    output_path: str | None = None,
    placeholders: Iterable[str] = (),
    has_themes: bool = False,
) -> dict[str, int]:
    """
    Read a job's input, and refuse what Personalize would refuse after it has run for a while.

    What AWS does not document passes with a warning, one for all that is alike.

    :param client: a boto3 client for S3
    :param path: the input path of the job, ``s3://bucket/prefix``
    :param kind: the kind of job
    :param log: where warnings go
    :param recipe: the name of the solution version's recipe; ``None`` (the default) where it is not known,
        then the input may be what any recipe of this kind takes
    :param output_path: the output path of the job: what is named as its output is no input
    :param placeholders: the placeholders of the job's filter
    :param has_themes: whether the job generates themes
    :returns: ``files``, ``bytes`` and ``records``
    :raises PersonalizeInputError: when it cannot be right; it names bucket, key and line

    .. seealso:: https://docs.aws.amazon.com/personalize/latest/dg/batch-data-upload.html
    """
    shapes = _find_shapes(kind, recipe, path, has_themes=has_themes)
    files = find_files(client, path, output_path)
    checker = _Checker(shapes, frozenset(placeholders), log, recipe)
    for each in files:
        checker.check_file(each, read_object(client, each))
    return {"files": len(files), "bytes": sum(each.size for each in files), "records": checker.records}


def _find_shapes(kind: BatchJobKind, recipe: str | None, path: str, *, has_themes: bool) -> list[Recipe]:
    """Return what a record may be, one shape where the recipe is known."""
    known = RECIPES.get(recipe or "")
    if recipe and (known is None or known.kind is not kind):
        able = " or ".join(name for name, each in RECIPES.items() if each.kind is kind)
        raise PersonalizeInputError(
            f"The solution version's recipe is {recipe}, which serves no {kind.title}",
            f"Choose a solution version of the recipe {able}.",
            path,
        )
    if not has_themes:
        return [known] if known else [*dict.fromkeys(each for each in RECIPES.values() if each.kind is kind)]
    if recipe and recipe != THEME_RECIPE:
        raise PersonalizeInputError(
            f"The solution version's recipe is {recipe}, which generates no themes",
            f"Choose a solution version of the recipe {THEME_RECIPE}, or another batch_inference_job_mode.",
            path,
        )
    return [RECIPES[THEME_RECIPE]._replace(lines=THEME_LINES)]


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
    """Reads one file after the other; the recipe or the first record says what all others are to be."""

    def __init__(
        self,
        shapes: Sequence[Recipe],
        placeholders: frozenset[str],
        log: Log,
        recipe: str | None = None,
    ) -> None:
        self._shapes = shapes
        self._placeholders = placeholders
        self._log = log
        self._recipe = recipe
        self._shape: Recipe | None = None
        self._told: set[str] = set()
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
                f"with {self._recipe or ' and '.join(self._shape.members)}",
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
            record = json.loads(line.decode(), object_pairs_hook=_make_object_once)
            if b"\\u" in line:
                # An escape may be half of a character, which JSON's grammar allows and UTF-8 does not.
                json.dumps(record, ensure_ascii=False).encode()
        except UnicodeDecodeError:
            self._refuse("it is not UTF-8")
        except UnicodeEncodeError as error:
            self._refuse(
                f"it has half a character, \\u{ord(error.object[error.start]):x} without its other half"
            )
        except _RepeatedMemberError as error:
            self._refuse(f"it has {error} more than once")
        except (ValueError, RecursionError) as error:
            self._refuse(f"it is not JSON: {error}")
        if not isinstance(record, dict):
            self._refuse(f"it is {show(record)}, not a JSON object")
        return record

    def _check_line(self, line: bytes) -> None:
        record = self._parse_line(line)
        members = frozenset(record) - {FILTER_VALUES}
        if {CONTEXT, "userId"} <= members:
            members -= {CONTEXT}
            self._doubt(CONTEXT, "it has context, and AWS does not say that batch jobs take any")
        shapes = [self._shape] if self._shape else self._shapes
        shape = next((each for each in shapes if frozenset(each.members) == members), None)
        if shape is None:
            expected = " or ".join(" and ".join(each.members) for each in shapes)
            like = ", as the records before it" if self._shape else ""
            if self._recipe:
                like = f", which is what the recipe {self._recipe} takes"
            self._refuse(f"it has {_list(members)}, instead of {expected}{like}")
        for name in shape.members:
            value = record[name]
            texts = value if name == "itemList" and isinstance(value, list) and value else [value]
            if name == "itemList" and not isinstance(value, list):
                self._refuse(f"its {name} is {show(value)}, not a list of texts")
            if not all(isinstance(each, str) and each for each in texts):
                self._refuse(f"its {name} is {show(value)}, not text")
        if _ITEM_ATTRIBUTES in shape.members and not are_item_conditions(record[_ITEM_ATTRIBUTES]):
            self._refuse(
                f"its itemAttributes is {show(record[_ITEM_ATTRIBUTES])}, and AWS takes conditions such as "
                'ITEMS.genres = "Comedy", with only = in them and only AND between them. Quotes inside a '
                'value need a backslash: "12\\" vinyl"'
            )
        self._check_filter_values(record.get(FILTER_VALUES, {}))
        self._shape = shape
        if _ITEM_ATTRIBUTES in record:
            return  # few, and no pattern judges conditions
        context = record.get(CONTEXT)
        order = (*record, *record.get(FILTER_VALUES, ()), *(context if isinstance(context, dict) else ()))
        if order not in self._patterns and len(self._patterns) < MAX_PATTERNS:
            self._patterns[order] = _make_pattern(record)
        self._plain = self._patterns.get(order)

    def _check_filter_values(self, values: object) -> None:
        if not isinstance(values, dict):
            self._refuse(f"its {FILTER_VALUES} is {show(values)}, not an object")
        if missing := self._placeholders - values.keys():
            self._refuse(f"its {FILTER_VALUES} lacks {_list(missing)}, which the filter asks for")
        for name, value in values.items():
            text = value.strip() if isinstance(value, str) else ""
            if _DOCUMENTED.fullmatch(text):
                continue
            if _DOUBTFUL.fullmatch(text):
                self._doubt(
                    FILTER_VALUES,
                    f"its {FILTER_VALUES} has {name} = {show(value)}, and AWS documents only words in quotes "
                    "of their own, with commas between them",
                )
            else:
                self._refuse(
                    f"its {FILTER_VALUES} has {name} = {show(value)}, and AWS wants each word in quotes of "
                    'its own: "\\"horror\\",\\"comedy\\""'
                )

    def _doubt(self, subject: str, doubt: str) -> None:
        """Warn of what AWS does not document; once for each subject, as a file may be full of it."""
        if subject not in self._told:
            self._told.add(subject)
            self._log.warning(
                "Line %d of the input may be wrong: %s. The job may give this record an error, or leave that "
                "out of account; the check tells only the first of its kind. (%s)",
                self._line,
                doubt,
                self._file.path,
            )

    def _refuse(self, problem: str) -> Never:
        raise PersonalizeInputError(
            f"Line {self._line} of the input is wrong: {problem}",
            "Correct the input, and clear the task.",
            self._file.path,
        )


class _RepeatedMemberError(ValueError):
    """A JSON object has a member twice; its text is the member's name."""


def _make_object_once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in members:
        if name in found:
            raise _RepeatedMemberError(show(name))
        found[name] = value
    return found


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
        words_or_number = rb'"(?:%s(?:,%s)%s|-?[0-9]+(?:\.[0-9]+)?)"' % (quoted, quoted, REPEATED)
        return _make_object(dict.fromkeys(value, words_or_number))
    if isinstance(value, dict):
        return _make_object(dict.fromkeys(value, _TEXT))
    if isinstance(value, list):
        more = rb"(?:%s,%s%s)%s" % (_SPACE, _SPACE, _TEXT, REPEATED)
        return rb"\[%s%s%s%s\]" % (_SPACE, _TEXT, more, _SPACE)
    return _TEXT


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "no members"
