"""Many records of recommendations at once, parsed without a Python object for each item.

Arrow's parser reads lines one after the other, and cares little where one ends. So a block is taken only when
each of its lines begins with one brace and ends with another, and there are as many records as lines. What it
takes is what ``json.loads`` takes, and the same; what is doubtful is left to the reader of single records.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from airflow_provider_personalize_segments.jobs import BatchJobKind

_ITEMS = BatchJobKind.INFERENCE.result_members[0]
_QUERIES = tuple(members[0] for members, _ in BatchJobKind.INFERENCE.input_records[:2])
_NUMBERS = pa.list_(pa.float64())
_SCHEMA = pa.schema(
    {
        "input": pa.struct(dict.fromkeys(_QUERIES, pa.string())),
        "output": pa.struct(
            {
                _ITEMS: pa.list_(pa.string()),
                "scores": _NUMBERS,
                "theme": pa.string(),
                "itemsThemeRelevanceScores": _NUMBERS,
            }
        ),
        "error": pa.string(),
    }
)
_BLOCK_SIZE = 64 * 1024**2
"""Bytes that Arrow parses at once, more than there ever are; so no line is cut."""


class RecommendationBlock(NamedTuple):
    """
    What the good records of a block hold.

    :param columns: ``query``, ``item_id``, ``rank``, ``score``, ``theme`` and ``theme_relevance_score``
    :param records: how many good records there are
    :param others: the lines of the other records, from 0, in their order
    """

    columns: pa.Table
    records: int
    others: Sequence[int]


def load_recommendations(block: bytes) -> RecommendationBlock | None:
    """
    Return what lines of inference output hold.

    :param block: whole lines, with their line feeds
    :returns: their records; ``None`` when it is for the reader of single records to say what they are
    """
    lines = block.count(b"\n")
    is_plain = block[:1] == b"{" and block[-2:] == b"}\n" and block.count(b"}\n{") == lines - 1
    # Arrow passes over what it does not look for: numbers that are none, and text that is no UTF-8.
    if not is_plain or b"NaN" in block or b"Inf" in block or not _is_utf8(block):
        return None
    try:
        table = pj.read_json(
            pa.BufferReader(block),
            read_options=pj.ReadOptions(use_threads=False, block_size=_BLOCK_SIZE),
            parse_options=pj.ParseOptions(explicit_schema=_SCHEMA, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowInvalid:
        return None
    return _make_columns(table.combine_chunks()) if len(table) == lines else None


def _is_utf8(block: bytes) -> bool:
    if block.isascii():
        return True
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True


def _make_columns(table: pa.Table) -> RecommendationBlock | None:
    given, output, error = (_whole(table[name]) for name in ("input", "output", "error"))
    query = pc.coalesce(*(pc.struct_field(given, name) for name in _QUERIES))
    items, theme = pc.struct_field(output, _ITEMS), pc.struct_field(output, "theme")
    numbers = [pc.struct_field(output, name) for name in ("scores", "itemsThemeRelevanceScores")]
    if any(each.values.null_count for each in (items, *numbers)):
        return None
    count = pc.list_value_length(items)
    conditions = [pc.is_valid(query), pc.is_valid(items), pc.fill_null(pc.equal(error, ""), True)]
    # Records with numbers and records without do not go into one block.
    known = [each.null_count < len(each) for each in numbers]
    conditions += [
        pc.fill_null(pc.equal(pc.list_value_length(each), count), False)
        for each, is_known in zip(numbers, known, strict=True)
        if is_known
    ]
    is_good = conditions[0]
    for condition in conditions[1:]:
        is_good = pc.and_(is_good, condition)
    others = pc.indices_nonzero(pc.invert(is_good)).to_pylist()
    if others:
        query, items, theme, count, *numbers = (
            each.filter(is_good) for each in (query, items, theme, count, *numbers)
        )
    of = pc.cast(pc.list_parent_indices(items), pa.int32())
    before = pc.subtract(pc.cumulative_sum(count), count)
    ranks = pc.subtract(count_from_one(len(of)), pc.take(before, of))
    themes_of = pa.nulls(len(of), pa.int32())
    if theme.null_count < len(theme):
        themes_of = pc.if_else(pc.take(pc.is_valid(theme), of), of, None)
    score, theme_score = (
        pc.list_flatten(each) if is_known else pa.nulls(len(of), pa.float64())
        for each, is_known in zip(numbers, known, strict=True)
    )
    columns = {
        "query": pa.DictionaryArray.from_arrays(of, query),
        "item_id": pc.list_flatten(items),
        "rank": ranks,
        "score": score,
        "theme": pa.DictionaryArray.from_arrays(themes_of, pc.fill_null(theme, "")),
        "theme_relevance_score": theme_score,
    }
    return RecommendationBlock(pa.table(columns), len(query), others)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole


def count_from_one(count: int) -> pa.Int32Array:
    """
    Return whole numbers from 1 on.

    :param count: how many
    """
    global _counted
    # Two threads ask: each returns what it has looked at, whatever the other puts in its place.
    counted = _counted
    if count > len(counted):
        numbers = pa.py_buffer(array("i", range(1, 2 * count + 1)))
        counted = _counted = pa.Array.from_buffers(pa.int32(), 2 * count, [None, numbers])
    return counted[:count]


_counted = pa.array([], pa.int32())
