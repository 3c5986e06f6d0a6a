"""Turning a job's output into tables: one of results, and one of the records that have none."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airflow_provider_personalize_segments.arns import parse_job_arn
from airflow_provider_personalize_segments.output.folders import FileInFolder
from airflow_provider_personalize_segments.output.judging import judge
from airflow_provider_personalize_segments.output.lines import Lines
from airflow_provider_personalize_segments.output.objects import S3Object
from airflow_provider_personalize_segments.output.parquet import ParquetFile
from airflow_provider_personalize_segments.output.reading import OutputReader, OutputSummary, Place
from airflow_provider_personalize_segments.output.rows import (
    ERRORS,
    Columns,
    gather,
    make_error_rows,
    make_rows,
    make_schema,
    read_lines,
)

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.waiting.verdicts import Log

Opener = Callable[[], FileInFolder]
FEW_BYTES = 16 * 1024
"""Bytes of lines in doubt that are judged one by one; more are halved, so that one bad line costs little."""


def convert_output(
    client: Any,
    job_arn: str,
    outputs: Sequence[S3Object],
    open_results: Opener,
    open_errors: Opener,
    log: Log,
) -> tuple[OutputSummary, bool]:
    """
    Write a job's output as Parquet.

    :param client: a boto3 client for S3
    :param job_arn: the job's ARN
    :param outputs: the files to read
    :param open_results: opens the file of results
    :param open_errors: opens the file of records with errors, if there are any
    :param log: the task's log
    :returns: the counts, and whether there is a file of errors
    :raises PersonalizeOutputError: when a file has no record, or is cut off in the middle of one
    """
    converter = _Converter(job_arn, open_results, open_errors)
    try:
        summary = converter.read(client, outputs, log)
        return summary, converter.finish()
    except BaseException:
        converter.give_up()
        raise


class _Converter(OutputReader):
    """Reads output, and writes what it reads."""

    def __init__(self, job_arn: str, open_results: Opener, open_errors: Opener) -> None:
        super().__init__(job_arn, parse_job_arn(job_arn).kind, rows=0)
        # Items are few, and in many lists; users are many, and each list has others.
        repeated = [self.kind.result_column] if self.kind.number_members else []
        self._results = ParquetFile(open_results(), make_schema(self.kind), repeated)
        self._open_errors = open_errors
        self._errors: ParquetFile | None = None

    def finish(self) -> bool:
        """Finish both files; return whether there is one of errors."""
        self._results.finish()
        if self._errors:
            self._errors.finish()
        return self._errors is not None

    def give_up(self) -> None:
        """Leave neither file behind."""
        self._results.give_up()
        if self._errors:
            self._errors.give_up()

    def take_lines(self, file: S3Object, number: int, offset: int, data: bytes) -> None:
        """Write many lines at once; those in doubt are judged."""
        columns = read_lines(self.kind, data)
        if columns is not None:
            self.summary.records += len(columns.query)
            self._write(columns)
            return
        half = data.find(b"\n", len(data) // 2) + 1
        if len(data) <= FEW_BYTES or not 0 < half < len(data):
            super().take_lines(file, number, offset, data)
            return
        self.take_lines(file, number, offset, data[:half])
        self.take_lines(file, number + data.count(b"\n", 0, half), offset + half, data[half:])

    def take_records(self, file: S3Object, records: Sequence[Place]) -> None:
        """Write records that were judged."""
        super().take_records(file, records)
        self._write(gather(self.kind, [each for _, _, each in records if each.error is None]))
        wrong = [
            (file.path, number, offset, each.error, each.given, self.job_arn)
            for number, offset, each in records
            if each.error is not None
        ]
        if wrong:
            if self._errors is None:
                self._errors = ParquetFile(self._open_errors(), ERRORS)
            self._errors.write(make_error_rows(wrong))

    def take_long_line(self, file: S3Object, lines: Lines) -> None:
        """Write a long line's users once its end has told that it is good; till then they are in a file."""
        schema = pa.schema({"results": pa.string()})
        number, offset = lines.number, lines.offset
        with tempfile.TemporaryFile() as spool:
            with pa.ipc.new_stream(spool, schema) as writer:

                def take_piece(piece: bytes) -> str | None:
                    columns = read_lines(self.kind, piece)
                    if columns is None:
                        record = judge(self.kind, piece)
                        if record.error is not None:
                            return record.error
                        columns = gather(self.kind, [record])
                    writer.write_batch(pa.record_batch([columns.results.flatten()], schema))
                    return None

                record = self.judge_long_line(file, lines, take_piece)
            if record.error is not None:
                self.take_records(file, [(number, offset, record)])
                return
            self.summary.records += 1
            spool.seek(0)
            done = 0
            for batch in pa.ipc.open_stream(spool):
                results = pa.ListArray.from_arrays(pa.array([0, len(batch)], pa.int32()), batch.column(0))
                self._write(Columns(pa.array([record.query]), results, (), None), done)
                done += len(batch)

    def _write(self, columns: Columns, start: int = 0) -> None:
        rows = make_rows(self.kind, self.job_arn, columns, start)
        self.summary.rows = (self.summary.rows or 0) + len(rows)
        self._results.write(rows)
