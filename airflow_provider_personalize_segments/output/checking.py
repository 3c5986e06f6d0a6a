"""Judging a job's output before a gate opens: each file there, new and whole, and few records with errors.

Personalize reports a bad record in its line of the output, and the job is ACTIVE all the same.
"""

from __future__ import annotations

import posixpath
import time
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_personalize_segments.arns import parse_job_arn
from airflow_provider_personalize_segments.errors import PersonalizeOutputError
from airflow_provider_personalize_segments.output.objects import (
    S3Object,
    list_objects,
    read_object,
    split_path,
)
from airflow_provider_personalize_segments.output.records import RecordPart, read_records
from airflow_provider_personalize_segments.plain_json import clean_text, show

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.hooks import PersonalizeHook
    from airflow_provider_personalize_segments.waiting.verdicts import Log

MAX_MESSAGES = 5
"""How many errors are repeated in a message and in XCom."""
MAX_MESSAGE_LENGTH = 300
"""Characters of each."""
MAX_NAMED_FILES = 3
SECONDS_BETWEEN_REPORTS = 10.0


class OutputSummary:
    """
    Counts what a job wrote.

    :param files: how many files it wrote
    :param size: how many bytes they hold
    """

    def __init__(self, files: int, size: int) -> None:
        self.files = files
        self.size = size
        self.records = 0
        self.errors = 0
        self.first_errors: list[str] = []

    @property
    def error_rate(self) -> float:
        """The share of the records that have an error, 0.0 to 1.0."""
        return self.errors / self.records if self.records else 0.0

    def count(self, part: RecordPart, path: str) -> None:
        """
        Count a record, at its end.

        :param part: the last part of the record
        :param path: the file that it is in
        """
        self.records += 1
        if (error := find_error(part)) is not None:
            self.errors += 1
            if len(self.first_errors) < MAX_MESSAGES:
                place = f"{posixpath.basename(path)} line {part.line}"
                self.first_errors.append(f"{place}: {clean_text(error, MAX_MESSAGE_LENGTH)}")

    def dump(self) -> dict[str, Any]:
        """Return the counts as plain JSON, as XCom holds them."""
        return {
            "files": self.files,
            "bytes": self.size,
            "records": self.records,
            "errors": self.errors,
            "errorRate": self.error_rate,
            "firstErrors": self.first_errors,
        }


def find_error(part: RecordPart) -> str | None:
    """
    Return why a record is of no use, in Personalize's words where it has some; ``None`` when it is good.

    :param part: the last part of the record
    """
    if part.problem:
        return part.problem
    error = part.members.get("error")
    if error not in (None, ""):
        return error if isinstance(error, str) else show(error)
    if not isinstance(part.members.get("output"), Mapping):
        return "the record has no output"
    return None


def check_output(
    hook: PersonalizeHook, job_arn: str, job: Mapping[str, Any], max_error_rate: float, log: Log
) -> dict[str, Any]:
    """
    Read the output of a job that is ACTIVE, to its end.

    :param hook: the hook whose credentials may list and read input and output
    :param job_arn: the job's ARN
    :param job: the job as Describe gives it
    :param max_error_rate: the largest share of records with an error, 0.0 to 1.0
    :param log: the task's log
    :returns: ``files``, ``bytes``, ``records``, ``errors``, ``errorRate`` and the ``firstErrors``
    :raises PersonalizeOutputError: when a file is missing, empty, older than the job or cut off in the middle
        of a record, or when more records have an error
    """
    with closing(hook.make_s3_client(parse_job_arn(job_arn).region)) as client:
        outputs = find_outputs(client, job_arn, job)
        summary = _read(client, job_arn, outputs, log)
    if summary.error_rate > max_error_rate:
        raise PersonalizeOutputError(
            job_arn,
            f"{summary.errors} of {summary.records} records have an error, more than max_error_rate "
            f"{max_error_rate:g} allows",
            summary.records,
            summary.errors,
            summary.first_errors,
        )
    return summary.dump()


def _read(client: Any, job_arn: str, outputs: list[S3Object], log: Log) -> OutputSummary:
    summary = OutputSummary(len(outputs), sum(each.size for each in outputs))
    files = "1 file" if summary.files == 1 else f"{summary.files} files"
    log.info("Reading the job's output: %s, %s.", files, _size(summary.size))
    read, told = 0, time.monotonic()
    for each in outputs:
        last: RecordPart | None = None
        for part in read_records(read_object(client, each), each.path):
            if part.is_cut_off:
                raise PersonalizeOutputError(
                    job_arn, f"{each.path} is cut off in the middle of a record, in line {part.line}"
                )
            if part.is_last:
                summary.count(part, each.path)
            last = part
            if time.monotonic() - told >= SECONDS_BETWEEN_REPORTS:
                told = time.monotonic()
                share = (read + part.offset) / max(1, summary.size)
                log.info(
                    "Read %.0f %%: %d records, %d with errors.", 100 * share, summary.records, summary.errors
                )
        if last is None:
            raise PersonalizeOutputError(job_arn, f"{each.path} holds no records")
        read += each.size
    log.info("The output holds %d records, %d of them with an error.", summary.records, summary.errors)
    return summary


def find_outputs(client: Any, job_arn: str, job: Mapping[str, Any]) -> list[S3Object]:
    """
    Return the files that a job wrote, one for each file of its input.

    Files of another job under the same prefix are left out. Input that came after the job has none. When no
    other input is left, the files are taken that are not older than the job.

    :param client: a boto3 client for S3
    :param job_arn: the job's ARN
    :param job: the job as Describe gives it
    :raises PersonalizeOutputError: when one is missing, empty, or older than the job
    """
    created = _find_creation(job_arn, job)
    input_path = _find_path(job_arn, job, "jobInput", "s3DataSource")
    output_path = _find_path(job_arn, job, "jobOutput", "s3DataDestination")
    bucket, prefix = split_path(output_path)
    found = {each.key: each for each in list_objects(client, output_path) if each.key.endswith(".out")}
    expected = [
        f"{prefix}{posixpath.basename(each.key)}.out"
        for each in list_objects(client, input_path)
        if not each.key.endswith("/") and each.last_modified <= created
    ]
    if not expected:
        expected = [each.key for each in found.values() if each.last_modified >= created]
        if not expected:
            raise PersonalizeOutputError(job_arn, f"No output of the job is under {output_path}")
    outputs = {key: found.get(key) for key in dict.fromkeys(expected)}
    problems = {
        "missing": [key for key, each in outputs.items() if each is None],
        "older than the job": [key for key, each in outputs.items() if each and each.last_modified < created],
        "empty": [key for key, each in outputs.items() if each and not each.size],
    }
    for problem, keys in problems.items():
        if keys:
            named = ", ".join(f"s3://{bucket}/{key}" for key in sorted(keys)[:MAX_NAMED_FILES])
            more = f" and {len(keys) - MAX_NAMED_FILES} more" if len(keys) > MAX_NAMED_FILES else ""
            is_are = "are" if len(keys) > 1 else "is"
            raise PersonalizeOutputError(
                job_arn, f"{len(keys)} of {len(outputs)} output files {is_are} {problem}: {named}{more}"
            )
    return [each for each in outputs.values() if each]


def _find_creation(job_arn: str, job: Mapping[str, Any]) -> datetime:
    """Return when the job was created, in whole seconds: S3 tells no more of when a file was written."""
    created = job.get("creationDateTime")
    try:
        moment = created if isinstance(created, datetime) else datetime.fromisoformat(str(created))
    except ValueError:
        raise PersonalizeOutputError(
            job_arn, f"Old output cannot be told from new: the job's creationDateTime is {show(created)}"
        ) from None
    return moment.replace(microsecond=0)


def _find_path(job_arn: str, job: Mapping[str, Any], *members: str) -> str:
    path: Any = job
    for name in (*members, "path"):
        path = path.get(name) if isinstance(path, Mapping) else None
    try:
        split_path(str(path))
    except ValueError as error:
        raise PersonalizeOutputError(job_arn, f"The job's {members[0]} cannot be read: {error}") from None
    return str(path)


def _size(size: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
