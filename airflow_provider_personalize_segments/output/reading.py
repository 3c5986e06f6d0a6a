"""Reading a job's output to its end: what is counted, and what the task's log is told meanwhile."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_personalize_segments.errors import PersonalizeOutputError, S3RefusedError
from airflow_provider_personalize_segments.output.judging import Record, judge, judge_lines
from airflow_provider_personalize_segments.output.lines import Lines, judge_long_line
from airflow_provider_personalize_segments.output.objects import S3Object, read_object
from airflow_provider_personalize_segments.plain_json import clean_line

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.jobs import BatchJobKind
    from airflow_provider_personalize_segments.waiting.verdicts import Log

MAX_MESSAGES = 5
"""How many errors are repeated in a message and in XCom."""
MAX_MESSAGE_LENGTH = 300
"""Characters of each."""
REPLACED = (
    "The job is ACTIVE all the same, and wrote output of its own: see what has written there since. A bucket "
    "with versions still has what was there before. Give each job a folder of its own."
)
SECONDS_BETWEEN_REPORTS = 10.0
Place = tuple[int, int, Record]
"""The number of a line, from 1, where it begins, in bytes, and its record."""
_GZIP_MARK = b"\x1f\x8b"


class OutputSummary:
    """
    Counts what a job wrote.

    :param files: how many files it wrote
    :param size: how many bytes they hold
    :param rows: how many rows were made of them; ``None`` when none are made
    """

    def __init__(self, files: int, size: int, rows: int | None = None) -> None:
        self.files = files
        self.size = size
        self.rows = rows
        self.records = 0
        self.errors = 0
        self.first_errors: list[str] = []

    @property
    def error_rate(self) -> float:
        """The share of the records that have an error, 0.0 to 1.0."""
        return self.errors / self.records if self.records else 0.0

    def count(self, error: str | None, file: S3Object, line: int) -> None:
        """
        Count a record.

        :param error: why it is of no use, or ``None``
        :param file: the file it is in
        :param line: the number of its line
        """
        self.records += 1
        if error is not None:
            self.errors += 1
            if len(self.first_errors) < MAX_MESSAGES:
                place = f"{posixpath.basename(file.key)} line {line}"
                self.first_errors.append(clean_line(f"{place}: {error}", MAX_MESSAGE_LENGTH))

    def judge(self, job_arn: str, max_error_rate: float) -> None:
        """
        Raise an error when too many records have one.

        :param job_arn: the job's ARN
        :param max_error_rate: the largest share that is accepted, 0.0 to 1.0
        :raises PersonalizeOutputError: when the share is larger
        """
        if self.error_rate > max_error_rate:
            raise PersonalizeOutputError(
                job_arn,
                f"{self.errors} of {self.records} records have an error, more than max_error_rate "
                f"{max_error_rate:g} allows",
                self.records,
                self.errors,
                self.first_errors,
            )

    def add(self, other: OutputSummary) -> None:
        """
        Add the counts of other files.

        :param other: their counts
        """
        self.files += other.files
        self.size += other.size
        self.records += other.records
        self.errors += other.errors
        self.rows = (self.rows or 0) + (other.rows or 0)
        self.first_errors = [*self.first_errors, *other.first_errors][:MAX_MESSAGES]

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> OutputSummary:
        """
        Return the counts that :meth:`dump` made JSON of.

        :param dumped: the JSON
        """
        summary = cls(dumped["files"], dumped["bytes"], dumped.get("rows"))
        summary.records, summary.errors = dumped["records"], dumped["errors"]
        summary.first_errors = list(dumped["firstErrors"])
        return summary

    def dump(self) -> dict[str, Any]:
        """Return the counts as plain JSON, as XCom holds them."""
        return ({} if self.rows is None else {"rows": self.rows}) | {
            "files": self.files,
            "bytes": self.size,
            "records": self.records,
            "errors": self.errors,
            "errorRate": self.error_rate,
            "firstErrors": self.first_errors,
        }


class Progress:
    """
    Tells the task's log how far reading is, every few seconds.

    :param summary: the counts, which grow meanwhile
    :param log: the task's log
    """

    def __init__(self, summary: OutputSummary, log: Log) -> None:
        self._summary = summary
        self._log = log
        self._began = self._told = time.monotonic()
        self._read = 0
        files = "1 file" if summary.files == 1 else f"{summary.files} files"
        log.info("Reading the job's output: %s, %s.", files, _size(summary.size))

    def advance(self, size: int, number: int) -> None:
        """
        Count bytes, and tell.

        :param size: how many were read
        :param number: the number of the file they are in, from 1
        """
        self._read += size
        now = time.monotonic()
        if now - self._told >= SECONDS_BETWEEN_REPORTS:
            self._told = now
            self._tell(number, self._read / (now - self._began))

    def _tell(self, number: int, rate: float) -> None:
        summary = self._summary
        rows = "" if summary.rows is None else f", {summary.rows} rows"
        self._log.info(
            "Read %.0f %%, in file %d of %d: %d records%s, %d with errors; %s a second.",
            100 * self._read / max(1, summary.size),
            number,
            summary.files,
            summary.records,
            rows,
            summary.errors,
            _size(rate),
        )


class OutputReader:
    """
    Reads a job's output to its end, judges each record, and counts.

    :param job_arn: the job's ARN
    :param kind: the kind of job
    :param rows: what to begin counting rows with; ``None`` when none are made
    """

    def __init__(self, job_arn: str, kind: BatchJobKind, rows: int | None = None) -> None:
        self.job_arn = job_arn
        self.kind = kind
        self.summary = OutputSummary(0, 0, rows)

    def read(self, client: Any, outputs: Sequence[S3Object], log: Log) -> OutputSummary:
        """
        Read files, and return the counts.

        :param client: a boto3 client for S3
        :param outputs: the files
        :param log: the task's log
        :raises PersonalizeOutputError: when a file has no record, or is cut off in the middle of one
        :raises S3RefusedError: when a file is compressed
        """
        self.summary.files, self.summary.size = len(outputs), sum(each.size for each in outputs)
        progress = Progress(self.summary, log)
        for index, file in enumerate(outputs, 1):
            before = self.summary.records
            lines = Lines(read_object(client, file))
            if lines.begin_with(_GZIP_MARK):
                raise S3RefusedError(
                    "The object is compressed with gzip, not JSON Lines as Personalize writes them",
                    "Look for what replaced the job's own output, or decompress it.",
                    file.path,
                    0,
                )
            while not lines.is_at_end():
                number, offset = lines.number, lines.offset
                if data := lines.take_block():
                    self.take_lines(file, number, offset, data)
                else:
                    self.take_long_line(file, lines)
                progress.advance(lines.offset - offset, index)
            if self.summary.records == before:
                raise PersonalizeOutputError(self.job_arn, f"{file.path} holds no records", advice=REPLACED)
        return self.summary

    def take_lines(self, file: S3Object, number: int, offset: int, data: bytes) -> None:
        """
        Take whole lines, the last of which may lack its end at the end of the file.

        :param file: the file they are in
        :param number: the number of the first line, from 1
        :param offset: where it begins, in bytes
        :param data: the lines
        """
        records = [
            (number + index, offset + place, record) for index, place, record in judge_lines(self.kind, data)
        ]
        if records:
            self._check_end(file, records[-1][0], records[-1][2], data.endswith(b"\n"))
            self.take_records(file, records)

    def take_records(self, file: S3Object, records: Sequence[Place]) -> None:
        """
        Count records that were judged.

        :param file: the file they are in
        :param records: the records, each with its line and where that begins
        """
        for number, _, record in records:
            self.summary.count(record.error, file, number)

    def take_long_line(self, file: S3Object, lines: Lines) -> None:
        """
        Take a line that is too long to be parsed at once.

        :param file: the file it is in
        :param lines: where it comes next
        """
        number, offset = lines.number, lines.offset
        record = self.judge_long_line(file, lines, lambda piece: judge(self.kind, piece).error)
        self.take_records(file, [(number, offset, record)])

    def judge_long_line(
        self, file: S3Object, lines: Lines, take_piece: Callable[[bytes], str | None]
    ) -> Record:
        """
        Judge a long line; see :func:`~.lines.judge_long_line`.

        :param file: the file it is in
        :param lines: where it comes next
        :param take_piece: takes a piece of its list
        """
        number = lines.number
        record = judge_long_line(self.kind, lines, take_piece)
        self._check_end(file, number, record, lines.has_end)
        return record

    def _check_end(self, file: S3Object, number: int, record: Record, has_end: bool) -> None:
        if not has_end and not record.is_json:
            raise PersonalizeOutputError(
                self.job_arn,
                f"{file.path} is cut off in the middle of a record, in line {number}",
                advice=REPLACED,
            )


def _size(size: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
