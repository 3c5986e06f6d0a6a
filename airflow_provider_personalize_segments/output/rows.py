"""Rows of a table, made of many records at once by Arrow, without a Python object for each result.

Arrow's JSON reader cares little where a line ends, and passes over what it does not look for. So lines are
taken only where nothing is in doubt; what it takes then is what :func:`~.judging.judge` says of them. All
else is for that to judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.output.judging import Record

TEXT = pa.dictionary(pa.int32(), pa.string())
"""Text that is the same in many rows; readers find plain text."""
ERRORS = pa.schema(
    {
        "file": TEXT,
        "line": pa.int64(),
        "offset": pa.int64(),
        "error": pa.string(),
        "input": pa.string(),
        "job_arn": TEXT,
    }
)
_NUMBERS = pa.list_(pa.float64())
_TEXTS = pa.list_(pa.string())
_MOST_BYTES = 64 * 1024**2
"""What Arrow parses at once, more than there ever is; so it cuts no line."""
_DEEPEST = 500
"""Opening brackets of a line from which ``json.loads`` may find that it is nested too deep."""
_NOT_OPENING = bytes(set(range(256)) - set(b"[{\n"))
_DIGITS = 4000
"""Digits of a whole number from which ``json.loads`` may find that they are too many."""


class Columns(NamedTuple):
    """
    What records hold, a column for each member, and in it a row for each record.

    :param query: for what it was asked
    :param results: lists of users or items
    :param numbers: for each of the kind's ``number_members``, lists as long; ``None`` where no record has one
    :param theme: the theme; ``None`` where no record has one
    """

    query: pa.Array
    results: pa.ListArray
    numbers: Sequence[pa.ListArray | None]
    theme: pa.Array | None


@lru_cache
def make_schema(kind: BatchJobKind) -> pa.Schema:
    """
    Return the columns of the table of results.

    :param kind: the kind of job
    """
    columns = {"query": TEXT, kind.result_column: pa.string(), "rank": pa.int32()}
    if kind.number_members:
        columns |= {"score": pa.float64(), "theme": TEXT, "theme_relevance_score": pa.float64()}
    return pa.schema({**columns, "job_arn": TEXT})


def read_lines(kind: BatchJobKind, lines: bytes) -> Columns | None:
    """
    Return what lines hold, if each of them is a good record.

    :param kind: the kind of job that wrote them
    :param lines: whole lines, with their line feeds
    :returns: their columns; ``None`` when anything is in doubt
    """
    count = lines.count(b"\n")
    if not _are_plain(lines, count):
        return None
    try:
        table = pj.read_json(
            pa.BufferReader(lines),
            read_options=pj.ReadOptions(use_threads=False, block_size=_MOST_BYTES),
            parse_options=pj.ParseOptions(
                explicit_schema=_make_json_schema(kind), unexpected_field_behavior="ignore"
            ),
        )
    except pa.ArrowInvalid:
        return None
    return _pick(kind, table) if len(table) == count else None


def _are_plain(lines: bytes, count: int) -> bool:
    return (
        lines[:1] == b"{"
        and lines[-2:] == b"}\n"
        and lines.count(b"}\n{") == count - 1
        # Arrow takes these for numbers, and half a character for text.
        and not any(each in lines for each in (b"NaN", b"Inf"))
        and (b"\\" not in lines or (b"\\ud" not in lines and b"\\uD" not in lines))
        and (lines.isascii() or _is_utf8(lines))
        and max(map(len, lines.translate(None, _NOT_OPENING).split(b"\n"))) < _DEEPEST
        # So many digits would be at one of these places.
        and not any(lines[place : place + 64].isdigit() for place in range(0, len(lines), _DIGITS))
    )


def _is_utf8(lines: bytes) -> bool:
    try:
        lines.decode()
    except UnicodeDecodeError:
        return False
    return True


@lru_cache
def _make_json_schema(kind: BatchJobKind) -> pa.Schema:
    output = dict.fromkeys(kind.result_members, _TEXTS) | dict.fromkeys(kind.number_members, _NUMBERS)
    if kind.theme_member:
        output[kind.theme_member] = pa.string()
    given = {names[0]: pa.string() for names, _ in kind.input_records}
    return pa.schema(
        {
            "input": pa.struct(given),
            "output": pa.struct(output),
            "error": pa.string(),
            "itemAttributes": pa.string(),
        }
    )


def _pick(kind: BatchJobKind, table: pa.Table) -> Columns | None:
    columns = {name: _whole(table[name]) for name in table.column_names}
    given, output, error = columns["input"], columns["output"], columns["error"]
    if error.null_count < len(error) and pc.any(pc.not_equal(error, "")).as_py():
        return None
    names = dict.fromkeys(names[0] for names, _ in kind.input_records)
    query = pc.coalesce(*(pc.struct_field(given, name) for name in names), columns["itemAttributes"])
    lists = [pc.struct_field(output, name) for name in kind.result_members]
    lists = [each for each in lists if each.null_count < len(each)]
    if query.null_count or len(lists) != 1 or lists[0].null_count or lists[0].values.null_count:
        return None
    counts = pc.list_value_length(lists[0])
    numbers: list[pa.ListArray | None] = []
    for name in kind.number_members:
        found = pc.struct_field(output, name)
        if found.null_count == len(found):
            numbers.append(None)
            continue
        if found.null_count or not pc.list_value_length(found).equals(counts):
            return None
        if found.values.null_count or not pc.all(pc.is_finite(found.values), min_count=0).as_py():
            return None
        numbers.append(found)
    theme = pc.struct_field(output, kind.theme_member) if kind.theme_member else None
    return Columns(query, lists[0], numbers, theme)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole


def gather(kind: BatchJobKind, records: Sequence[Record]) -> Columns:
    """
    Return what good records hold that were judged one by one.

    :param kind: the kind of job that wrote them
    :param records: the records
    """
    return Columns(
        pa.array([each.query for each in records], pa.string()),
        pa.array([each.results for each in records], _TEXTS),
        [
            pa.array([each.numbers[index] or len(each.results) * [None] for each in records], _NUMBERS)
            for index in range(len(kind.number_members))
        ],
        pa.array([each.theme for each in records], pa.string()),
    )


def make_rows(kind: BatchJobKind, job_arn: str, columns: Columns, start: int = 0) -> pa.Table:
    """
    Return a row for each result.

    :param kind: the kind of job
    :param job_arn: the job's ARN, which is in each row
    :param columns: what records hold
    :param start: the rank before the first result of each record
    """
    results = columns.results
    of = pc.cast(pc.list_parent_indices(results), pa.int32())
    size = len(of)
    counts = pc.list_value_length(results)
    before = pc.subtract(pc.subtract(pc.cumulative_sum(counts), counts), pa.scalar(start, pa.int32()))
    rank = pc.subtract(pc.cumulative_sum(pa.repeat(pa.scalar(1, pa.int32()), size)), pc.take(before, of))
    arrays = [pa.DictionaryArray.from_arrays(of, columns.query), pc.list_flatten(results), rank]
    if kind.number_members:
        numbers = [
            pa.nulls(size, pa.float64()) if each is None else pc.list_flatten(each)
            for each in columns.numbers
        ]
        theme = columns.theme
        is_themed = theme is not None and theme.null_count < len(theme)
        themes = pc.take(theme, of) if is_themed else pa.nulls(size, pa.string())
        arrays += [numbers[0], pc.dictionary_encode(themes), numbers[1]]
    job = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), size), pa.array([job_arn]))
    return _make_table([*arrays, job], make_schema(kind))


def make_error_rows(errors: Sequence[tuple[str, int, int, str | None, str | None, str]]) -> pa.Table:
    """
    Return a row for each record with an error.

    :param errors: its values
    """
    arrays = [pa.array([row[index] for row in errors], field.type) for index, field in enumerate(ERRORS)]
    return _make_table(arrays, ERRORS)


def _make_table(arrays: list[pa.Array], schema: pa.Schema) -> pa.Table:
    return pa.table(
        [
            pc.dictionary_encode(each) if field.type == TEXT and each.type != TEXT else each
            for each, field in zip(arrays, schema, strict=True)
        ],
        schema=schema,
    )
