"""Reading a job's output to its end: what is counted, and what the task's log is told meanwhile."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_personalize_segments.errors import PersonalizeOutputError
from airflow_provider_personalize_segments.output.objects import S3Object, read_object
from airflow_provider_personalize_segments.output.record_parts import RecordBlock, RecordPart
from airflow_provider_personalize_segments.output.records import read_records
from airflow_provider_personalize_segments.plain_json import clean_text

if TYPE_CHECKING:
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

    def count(self, error: str | None, file: S3Object, part: RecordPart) -> None:
        """
        Count a record.

        :param error: why it is of no use, or ``None``
        :param file: the file it is in
        :param part: its last part
        """
        self.records += 1
        if error is not None:
            self.errors += 1
            if len(self.first_errors) < MAX_MESSAGES:
                place = f"{posixpath.basename(file.key)} line {part.line}"
                self.first_errors.append(clean_text(f"{place}: {error}", MAX_MESSAGE_LENGTH))

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

    def follow(self, pieces: Iterable[bytes], number: int) -> Iterator[bytes]:
        """
        Yield the pieces of a file, and tell.

        :param pieces: the pieces
        :param number: the file's number, from 1
        """
        for piece in pieces:
            yield piece
            self._read += len(piece)
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


def read_output(
    client: Any, job_arn: str, outputs: Sequence[S3Object], progress: Progress, **parsers: Any
) -> Iterator[tuple[S3Object, RecordPart | RecordBlock]]:
    """
    Yield the records of files that a job wrote, each with its file.

    :param client: a boto3 client for S3
    :param job_arn: the job's ARN
    :param outputs: the files
    :param progress: follows how much was read
    :param parsers: ``loads``, ``load_list`` and ``load_block`` of :func:`~.records.read_records`
    :raises PersonalizeOutputError: when a file has no record, or is cut off in the middle of one
    """
    for number, each in enumerate(outputs, 1):
        part: RecordPart | RecordBlock | None = None
        pieces = progress.follow(read_object(client, each), number)
        for part in read_records(pieces, each.path, **parsers):
            if isinstance(part, RecordPart) and part.is_cut_off:
                raise PersonalizeOutputError(
                    job_arn,
                    f"{each.path} is cut off in the middle of a record, in line {part.line}",
                    advice=REPLACED,
                )
            yield each, part
        if part is None:
            raise PersonalizeOutputError(job_arn, f"{each.path} holds no records", advice=REPLACED)


def _size(size: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
