"""The tables that a job's output becomes: their columns, and rows, gathered until they fill a row group."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.output.record_blocks import RecommendationBlock
from airflow_provider_personalize_segments.output.record_parts import RecordPart
from airflow_provider_personalize_segments.output.rows import (
    ResultRows,
    Rows,
    WrongRecordError,
    make_int32s,
    repeat_text,
)
from airflow_provider_personalize_segments.plain_json import clean_text, make_json_safe, show

MAX_INPUT_LENGTH = 2000
_TEXT = pa.dictionary(pa.int32(), pa.string())
"""Text that is the same in many rows; readers find plain text."""


def _schema(**types: pa.DataType) -> pa.Schema:
    return pa.schema(list(types.items()))


SEGMENTS = _schema(query=_TEXT, user_id=pa.string(), rank=pa.int32(), job_arn=_TEXT)
RECOMMENDATIONS = _schema(
    query=_TEXT,
    item_id=pa.string(),
    rank=pa.int32(),
    score=pa.float64(),
    theme=_TEXT,
    theme_relevance_score=pa.float64(),
    job_arn=_TEXT,
)
ERRORS = _schema(
    file=_TEXT, line=pa.int64(), offset=pa.int64(), error=pa.string(), input=pa.string(), job_arn=_TEXT
)


class SegmentRows(ResultRows):
    """A row for each user of a segment."""

    schema = SEGMENTS

    def _clear_lists(self) -> None:
        super()._clear_lists()
        self._users: list[pa.StringArray] = []

    def add(self, part: RecordPart, query: str) -> int:
        """Add the users of a part of a record; see :meth:`ResultRows.add`."""
        users = _read_users(part)
        self._users.append(users)
        self._bytes += users.nbytes
        return self._add_rows(query, len(users), part.start)

    def find_problem(self, part: RecordPart) -> str | None:
        """Return why the users of a part of a record cannot be rows; see :meth:`ResultRows.find_problem`."""
        try:
            _read_users(part)
        except WrongRecordError as error:
            return str(error)
        return None

    def _columns(self) -> list[Any]:
        query, rank = super()._columns()
        return [query, pa.chunked_array(self._users, pa.string()), rank]


class RecommendationRows(ResultRows):
    """A row for each item that was recommended."""

    schema = RECOMMENDATIONS
    _items_name = BatchJobKind.INFERENCE.result_members[0]

    def _clear(self) -> None:
        super()._clear()
        self._blocks: list[pa.Table] = []

    def _clear_lists(self) -> None:
        super()._clear_lists()
        self._items: list[str] = []
        self._scores: list[float | None] = []
        self._theme_scores: list[float | None] = []
        self._themes: list[str] = []
        self._theme_of = bytearray()

    def add(self, part: RecordPart, query: str) -> int:
        """Add the items of a record; see :meth:`ResultRows.add`."""
        output = part.members["output"]
        items = output.get(self._items_name)
        if not isinstance(items, list):
            raise WrongRecordError(f"the record's output has no {self._items_name}")
        for item in items:
            _check_text(item, f"the record's {self._items_name}")
        count = len(items)
        scores = _find_numbers(output, "scores", count)
        theme_scores = _find_numbers(output, "itemsThemeRelevanceScores", count)
        theme = output.get("theme")
        if theme is not None:
            theme = _check_text(theme, "the record's theme")
        self._items += items
        self._scores += scores or [None] * count
        self._theme_scores += theme_scores or [None] * count
        if theme is not None and self._themes[-1:] != [theme]:
            self._themes.append(theme)
        index = -1 if theme is None else len(self._themes) - 1
        self._theme_of += index.to_bytes(4, sys.byteorder, signed=True) * count
        self._bytes += sum(map(len, items))
        return self._add_rows(query, count, 0)

    def add_block(self, block: RecommendationBlock) -> int:
        """
        Add records that were parsed at once, and return how many rows that is.

        :param block: the records
        """
        self._end_lists()
        self._blocks.append(block.columns)
        self._length += len(block.columns)
        self._bytes += block.columns.nbytes
        return len(block.columns)

    def take_group(self) -> pa.Table:
        """Return what was gathered, and begin anew; see :meth:`Rows.take_group`."""
        self._end_lists()
        # One dictionary for a row group: with several, Parquet would write each value in full.
        table = pa.concat_tables(self._blocks).unify_dictionaries()
        table = table.append_column("job_arn", repeat_text(self.job_arn, len(table)))
        self._clear()
        return table.cast(self.schema)

    def _end_lists(self) -> None:
        """Make a block of the records that were parsed one by one."""
        if self._queries:
            self._blocks.append(pa.table(self._columns(), self.schema.names[:-1]))
            self._clear_lists()

    def _columns(self) -> list[Any]:
        query, rank = super()._columns()
        theme_of = make_int32s(self._theme_of)
        themes = pa.DictionaryArray.from_arrays(
            pc.if_else(pc.less(theme_of, 0), None, theme_of), pa.array(self._themes, pa.string())
        )
        return [
            query,
            pa.array(self._items, pa.string()),
            rank,
            pa.array(self._scores, pa.float64()),
            themes,
            pa.array(self._theme_scores, pa.float64()),
        ]


class ErrorRows(Rows):
    """A row for each record that is of no use."""

    schema = ERRORS

    def _clear(self) -> None:
        super()._clear()
        self._rows: list[tuple[Any, ...]] = []

    def add(self, file: str, part: RecordPart, error: str) -> None:
        """
        Add a record.

        :param file: the path of the file it is in
        :param part: its last part
        :param error: why it is of no use
        """
        given = part.members.get("input", part.members.get("itemAttributes"))
        text = given if given is None or isinstance(given, str) else json.dumps(make_json_safe(given))
        row = (file, part.line, part.offset, clean_text(error), text and clean_text(text, MAX_INPUT_LENGTH))
        self._rows.append(row)
        self._length += 1
        self._bytes += len(row[3]) + len(row[4] or "")

    def _columns(self) -> list[Any]:
        return [
            pa.array([row[index] for row in self._rows], field.type)
            for index, field in enumerate(self.schema)
            if field.name != "job_arn"
        ]


ROWS: Mapping[BatchJobKind, type[ResultRows]] = {
    BatchJobKind.SEGMENT: SegmentRows,
    BatchJobKind.INFERENCE: RecommendationRows,
}


def find_query(kind: BatchJobKind, members: Mapping[str, Any]) -> str | None:
    """
    Return what a record's results were asked for by: an item, an expression of attributes, or a user.

    :param kind: the kind of job that wrote it
    :param members: the record, or the members of it that are known so far
    :returns: the text; ``None`` when it has none that is text in UTF-8
    """
    given = members.get("input")
    names = [each[0] for each, _ in kind.input_records]
    places = [(given, name) for name in names] if isinstance(given, Mapping) else []
    for place, name in [*places, (members, "itemAttributes")]:
        value = place.get(name)
        if (isinstance(value, str) and value.isprintable()) or (isinstance(value, str) and _is_utf8(value)):
            return value
    return None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_text(value: object, source: str) -> str:
    if not isinstance(value, str):
        raise WrongRecordError(f"{source} holds something else than text")
    if not _is_utf8(value):
        raise WrongRecordError(f"{source} holds half a character, which no table can: {show(value)}")
    return value


def _read_users(part: RecordPart) -> pa.StringArray:
    users = part.values
    return (
        users if isinstance(users, pa.StringArray) else _make_texts(users, f"the record's {part.list_name}")
    )


def _make_texts(values: Sequence[Any], source: str) -> pa.StringArray:
    try:
        if all(type(value) is str for value in values):
            return pa.array(values, pa.string())
    except UnicodeEncodeError:
        pass
    for value in values:
        _check_text(value, source)
    raise WrongRecordError(f"{source} holds something else than text")


def _find_numbers(output: Mapping[str, Any], name: str, count: int) -> list[float] | None:
    """Return the numbers that belong to the items; ``None`` when there are none."""
    numbers = output.get(name)
    if numbers is None:
        return None
    is_complete = isinstance(numbers, list) and len(numbers) == count
    if not is_complete or not {type(each) for each in numbers} <= {float, int}:
        raise WrongRecordError(f"the record's {name} are not a number for each item")
    try:
        return [float(each) for each in numbers] if int in {type(each) for each in numbers} else numbers
    except OverflowError:
        raise WrongRecordError(f"the record's {name} are not a number for each item") from None
