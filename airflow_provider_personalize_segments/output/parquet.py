"""Writing a Parquet file beside the reading of what it is made of: one more thread, and little memory."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_provider_personalize_segments.output.folders import FileInFolder

COMPRESSION = "zstd"
"""Two thirds of what snappy leaves, for as much time; every reader of these years knows it."""
GROUP_ROWS = 256 * 1024
"""Rows of a row group, or a few more: readers skip and share out work by these."""
GROUP_BYTES = 32 * 1024**2
"""Bytes in a row group, or a few more; so long IDs take no more memory than short ones."""


class ParquetFile:
    """
    Gathers rows, and writes row groups to a file in a thread of its own, one while the next is gathered.

    :param file: where the bytes go; it is finished, or given up, with the table
    :param schema: the table's columns
    :param repeated: those whose values are numbered, beside those that Arrow has numbered
    """

    def __init__(self, file: FileInFolder, schema: pa.Schema, repeated: Sequence[str] = ()) -> None:
        self._file = file
        self._schema = schema
        self._repeated = repeated
        self._gathered: list[pa.Table] = []
        self._rows = self._bytes = 0
        self._groups: queue.Queue[pa.Table | None] = queue.Queue(maxsize=1)
        self._error: BaseException | None = None
        self._is_given_up = False
        self._thread = threading.Thread(target=self._run, name="parquet-writer", daemon=True)
        self._thread.start()

    def write(self, rows: pa.Table) -> None:
        """
        Take rows, or tell why a row group before could not be written.

        :param rows: the rows
        """
        if not len(rows):
            return  # the queries of many records without a row would fill a row group without one
        self._gathered.append(rows)
        self._rows += len(rows)
        self._bytes += rows.nbytes
        if self._rows >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._hand_on()

    def finish(self) -> None:
        """Write the end of the file, wait until that is done, and make it visible."""
        if self._rows:
            self._hand_on()
        self._put(None)
        self._thread.join()
        if self._error:
            raise self._error
        self._file.finish()

    def give_up(self) -> None:
        """End the thread as soon as it has written what it is writing, and leave nothing behind."""
        self._is_given_up = True
        while self._thread.is_alive():
            try:
                self._groups.put(None, timeout=0.1)
            except queue.Full:
                continue
            break
        self._thread.join()
        self._file.give_up()

    def _hand_on(self) -> None:
        # One dictionary for a row group: with several, Parquet would write each value in full.
        group = pa.concat_tables(self._gathered).unify_dictionaries()
        self._gathered.clear()
        self._rows = self._bytes = 0
        self._put(group)

    def _put(self, group: pa.Table | None) -> None:
        while self._error is None:
            try:
                return self._groups.put(group, timeout=1)
            except queue.Full:
                continue
        raise self._error

    def _run(self) -> None:
        try:
            self._write_all()
        except BaseException as error:
            self._error = error  # write() and finish() raise it, in the task's own thread

    def _write_all(self) -> None:
        writer = self._open()
        while (group := self._groups.get()) is not None:
            if self._is_given_up:
                return
            writer.write_table(group, row_group_size=len(group))
            del group
        if not self._is_given_up:
            writer.close()

    def _open(self) -> Any:
        repeated = [field.name for field in self._schema if pa.types.is_dictionary(field.type)]
        return pq.ParquetWriter(
            self._file,
            self._schema,
            compression=COMPRESSION,
            # Nearly all other values are different, and numbered in vain.
            use_dictionary=[*repeated, *self._repeated],
            # Readers of Arrow would take our dictionaries for the columns' type.
            store_schema=False,
        )
