"""Turning a job's output into tables: one of results, and one of the records that have none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_personalize_segments.arns import parse_job_arn
from airflow_provider_personalize_segments.output.arrow_lists import load_texts, loads
from airflow_provider_personalize_segments.output.checking import find_error
from airflow_provider_personalize_segments.output.folders import FileInFolder
from airflow_provider_personalize_segments.output.objects import S3Object
from airflow_provider_personalize_segments.output.parquet import ParquetFile
from airflow_provider_personalize_segments.output.reading import OutputSummary, Progress, read_output
from airflow_provider_personalize_segments.output.record_blocks import (
    RecommendationBlock,
    load_recommendations,
)
from airflow_provider_personalize_segments.output.record_parts import RecordBlock, RecordPart
from airflow_provider_personalize_segments.output.rows import Rows, WrongRecordError
from airflow_provider_personalize_segments.output.tables import (
    ROWS,
    ErrorRows,
    RecommendationRows,
    find_query,
)

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.waiting.verdicts import Log

Opener = Callable[[], FileInFolder]
Place = tuple[str, int]
"""A file's path, and the number of a line in it."""
NO_QUERY = "the record does not say for what it was asked"


class Verdict(NamedTuple):
    """
    What a first reading learnt of a long record at its end.

    :param query: for what it was asked; ``None`` when it is void
    :param problem: why it is void
    """

    query: str | None
    problem: str | None


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

    The rows of a long record are written while it is read. Where only its end tells that it is void, or for
    what it was asked, all files are read once more, with that known.

    :param client: a boto3 client for S3
    :param job_arn: the job's ARN
    :param outputs: the files to read
    :param open_results: opens the file of results
    :param open_errors: opens the file of records with errors, if there are any
    :param log: the task's log
    :returns: the counts, and whether there is a file of errors
    :raises PersonalizeOutputError: when a file has no record, or is cut off in the middle of one
    """
    known: dict[Place, Verdict] = {}
    for _ in range(2):
        conversion = _Conversion(job_arn, known, open_results, open_errors)
        try:
            conversion.run(client, outputs, log)
            if not conversion.learnt:
                return conversion.summary, conversion.finish()
        except BaseException:
            conversion.give_up()
            raise
        conversion.give_up()
        known = conversion.learnt
        log.info("The end of %d long records changes what was read before: reading again.", len(known))
    # Each reading names the entity tags of the same listing.
    raise RuntimeError("Two readings of the same objects differ. (This is a mistake of S3's, or of ours.)")


class _Table:
    """
    Rows on their way into a Parquet file.

    :param rows: gathers them
    :param open_file: opens the file
    """

    def __init__(self, rows: Rows, open_file: Opener) -> None:
        self.rows = rows
        self._file = open_file()
        self._parquet = ParquetFile(self._file, rows.schema)

    def hand_on(self) -> None:
        if self.rows.is_full:
            self._parquet.write(self.rows.take_group())

    def finish(self) -> None:
        if len(self.rows):
            self._parquet.write(self.rows.take_group())
        self._parquet.finish()
        self._file.finish()

    def give_up(self) -> None:
        self._parquet.give_up()
        self._file.give_up()


class _LongRecord:
    """A record of several parts, whose rows are written before all of it was read."""

    def __init__(self, verdict: Verdict | None, query: str | None) -> None:
        self.known = verdict
        self.query = verdict.query if verdict else query
        self.problem: str | None = None
        self.has_rows = False


class _Conversion:
    def __init__(
        self, job_arn: str, known: dict[Place, Verdict], open_results: Opener, open_errors: Opener
    ) -> None:
        self.learnt: dict[Place, Verdict] = {}
        """What a second reading has to know beforehand."""
        self.summary = OutputSummary(0, 0, rows=0)
        self._job_arn = job_arn
        self._kind = parse_job_arn(job_arn).kind
        self._known = known
        self._rows = ROWS[self._kind](job_arn)
        self._error_rows = ErrorRows(job_arn)
        self._results = _Table(self._rows, open_results)
        self._open_errors = open_errors
        self._errors: _Table | None = None

    def run(self, client: Any, outputs: Sequence[S3Object], log: Log) -> None:
        self.summary = OutputSummary(len(outputs), sum(each.size for each in outputs), rows=0)
        progress = Progress(self.summary, log)
        parsers: dict[str, Any] = {"loads": loads, "load_list": load_texts}
        if isinstance(self._rows, RecommendationRows):
            parsers["load_block"] = load_recommendations
        long_record: _LongRecord | None = None
        for file, part in read_output(client, self._job_arn, outputs, progress, **parsers):
            if isinstance(part, RecordBlock):
                self._add_block(part.values)
                continue
            place = (file.path, part.line)
            if not part.is_last:
                if long_record is None:
                    query = find_query(self._kind, part.members)
                    long_record = _LongRecord(self._known.get(place), query)
                self._add_piece(part, long_record)
                continue
            problem = find_error(self._kind, part)
            if long_record is None:
                problem = problem or self._add_record(part)
            else:
                problem = self._end_long_record(place, part, long_record, problem)
                long_record = None
            self.summary.count(problem, file, part)
            if problem:
                self._add_error(file, part, problem)

    def finish(self) -> bool:
        """Finish both files; return whether there is one of errors."""
        self._results.finish()
        if self._errors:
            self._errors.finish()
        return self._errors is not None

    def give_up(self) -> None:
        self._results.give_up()
        if self._errors:
            self._errors.give_up()

    def _add_record(self, part: RecordPart) -> str | None:
        """Add a record that is one part; return why that is not possible."""
        query = find_query(self._kind, part.members)
        return self._add_rows(part, query) if query is not None else NO_QUERY

    def _add_block(self, block: RecommendationBlock) -> None:
        assert isinstance(self._rows, RecommendationRows)
        added = self._rows.add_block(block)
        self.summary.records += block.records
        self.summary.rows = (self.summary.rows or 0) + added
        self._results.hand_on()

    def _add_piece(self, part: RecordPart, record: _LongRecord) -> None:
        if record.problem:
            return
        if record.query is None:
            # One reading has to tell that a record is void, even before the record says its query.
            record.problem = self._rows.find_problem(part)
        else:
            record.problem = self._add_rows(part, record.query)
            record.has_rows = record.has_rows or not record.problem

    def _end_long_record(
        self, place: Place, part: RecordPart, record: _LongRecord, problem: str | None
    ) -> str | None:
        query = find_query(self._kind, part.members)
        problem = problem or record.problem or (record.known.problem if record.known else None)
        if problem is None and query is None:
            problem = NO_QUERY
        is_right = not record.has_rows if problem else record.has_rows and record.query == query
        if not is_right:
            self.learnt[place] = Verdict(None if problem else query, problem)
        return problem

    def _add_rows(self, part: RecordPart, query: str) -> str | None:
        try:
            added = self._rows.add(part, query)
        except WrongRecordError as error:
            return str(error)
        self.summary.rows = (self.summary.rows or 0) + added
        self._results.hand_on()
        return None

    def _add_error(self, file: S3Object, part: RecordPart, problem: str) -> None:
        if self._errors is None:
            self._errors = _Table(self._error_rows, self._open_errors)
        self._error_rows.add(file.path, part, problem)
        self._errors.hand_on()
