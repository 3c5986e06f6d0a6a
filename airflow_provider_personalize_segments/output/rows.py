"""Rows of a table, gathered until they fill a row group."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_personalize_segments.output.record_blocks import count_from_one
from airflow_provider_personalize_segments.output.record_parts import RecordPart

GROUP_ROWS = 256 * 1024
"""Rows of a row group, or a few more: readers skip and share out work by these."""
GROUP_BYTES = 32 * 1024**2
"""Bytes of text in a row group, or a few more; so long IDs take no more memory than short ones."""


class WrongRecordError(Exception):
    """A record is JSON, and cannot be rows; the message says why."""


class Rows(ABC):
    """
    Gathers a table's rows until they are a row group.

    :param job_arn: the job's ARN, which is in each row
    """

    schema: pa.Schema

    def __init__(self, job_arn: str) -> None:
        self.job_arn = job_arn
        self._clear()

    def __len__(self) -> int:
        return self._length

    @property
    def is_full(self) -> bool:
        """Whether there are enough for a row group."""
        return self._length >= GROUP_ROWS or self._bytes >= GROUP_BYTES

    def take_group(self) -> pa.Table:
        """Return what was gathered, and begin anew."""
        job_arn = repeat_text(self.job_arn, self._length)
        table = pa.table([*self._columns(), job_arn], schema=self.schema)
        self._clear()
        return table

    def _clear(self) -> None:
        self._length = 0
        self._bytes = 0

    @abstractmethod
    def _columns(self) -> list[Any]:
        """Return all columns but the last."""


class ResultRows(Rows):
    """The rows of a record's results; base of those for the two kinds of job."""

    def _clear(self) -> None:
        super()._clear()
        self._clear_lists()

    def _clear_lists(self) -> None:
        self._queries: list[str] = []
        self._query_of = bytearray()
        self._ranks = bytearray()

    @abstractmethod
    def add(self, part: RecordPart, query: str) -> int:
        """
        Add what a part of a record holds, and return how many rows that is.

        :param part: the part
        :param query: what was asked for, see :func:`find_query`
        :raises WrongRecordError: when it cannot be rows; nothing was added
        """

    def find_problem(self, part: RecordPart) -> str | None:
        """
        Return why a part of a long record cannot be rows, without adding it; ``None`` when nothing is wrong.

        :param part: the part
        """
        return None

    def _add_rows(self, query: str, count: int, start: int) -> int:
        if not self._queries or self._queries[-1] != query:
            self._queries.append(query)
        index = len(self._queries) - 1
        self._query_of += index.to_bytes(4, sys.byteorder) * count
        self._ranks += _count_from(start + 1, count)
        self._length += count
        return count

    def _columns(self) -> list[Any]:
        queries = pa.DictionaryArray.from_arrays(
            make_int32s(self._query_of), pa.array(self._queries, pa.string())
        )
        return [queries, make_int32s(self._ranks)]


_COUNTED = count_from_one(64 * 1024)
_COUNTED_BYTES: bytes = _COUNTED.buffers()[1].to_pybytes()


def _count_from(start: int, count: int) -> bytes | bytearray:
    """Return whole numbers, one after the other, as 32 bits each."""
    if start == 1 and count <= len(_COUNTED):
        return _COUNTED_BYTES[: 4 * count]
    numbers = bytearray()
    for done in range(0, count, len(_COUNTED)):
        block = _COUNTED[: count - done]
        numbers += pc.add(block, pa.scalar(start + done - 1, pa.int32())).buffers()[1].to_pybytes()
    return numbers


def make_int32s(data: bytearray) -> pa.Int32Array:
    """
    Return whole numbers as an array.

    :param data: 4 bytes of each
    """
    return pa.Array.from_buffers(pa.int32(), len(data) // 4, [None, pa.py_buffer(data)])


def repeat_text(text: str, count: int) -> pa.DictionaryArray:
    """
    Return an array that holds the same text everywhere.

    :param text: the text
    :param count: how often
    """
    return pa.DictionaryArray.from_arrays(make_int32s(bytearray(4 * count)), pa.array([text]))
