"""Judging a job's output before a gate opens: each file there, new and whole, and few records with errors.

Personalize reports a bad record in its line of the output, and the job is ACTIVE all the same.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_personalize_segments.arns import parse_job_arn
from airflow_provider_personalize_segments.errors import PersonalizeOutputError
from airflow_provider_personalize_segments.output.objects import (
    S3Object,
    list_objects,
    split_path,
)
from airflow_provider_personalize_segments.output.own_files import (
    find_input,
    is_directly_under,
    name_outputs,
)
from airflow_provider_personalize_segments.output.reading import REPLACED, OutputReader
from airflow_provider_personalize_segments.plain_json import show

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.hooks import PersonalizeHook
    from airflow_provider_personalize_segments.waiting.verdicts import Log

MAX_NAMED_FILES = 3
LATEST_OUTPUT = timedelta(minutes=5)
"""After its end a file that is newer is another job's, which takes longer, or a clock differs so much."""
UNREADABLE = "Leave max_error_rate out for this job."
_MISSING = (
    "The job is ACTIVE all the same, and its output may be right: see whether something has deleted or "
    "moved a file of it, and whether its input_path and output_path are still those that it was given."
)


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
    arn = parse_job_arn(job_arn)
    with closing(hook.make_s3_client(arn.region)) as client:
        outputs = find_outputs(client, job_arn, job, log)
        summary = OutputReader(job_arn, arn.kind).read(client, outputs, log)
    log.info("The output holds %d records, %d of them with an error.", summary.records, summary.errors)
    summary.judge(job_arn, max_error_rate)
    return summary.dump()


def find_outputs(client: Any, job_arn: str, job: Mapping[str, Any], log: Log) -> list[S3Object]:
    """
    Return the files that a job wrote: those whose names the files of its input give, see :mod:`~.own_files`.

    Input that came, or was replaced, after the job was created may have none. When no other input is there
    any more, the files count that are in the output folder itself and were written while the job ran.

    :param client: a boto3 client for S3
    :param job_arn: the job's ARN
    :param job: the job as Describe gives it
    :param log: the task's log
    :raises PersonalizeOutputError: when one is missing, empty, or was not written while the job ran
    """
    created = _find_time(job_arn, job, "creationDateTime")
    ended = datetime.max.replace(tzinfo=UTC)
    if job.get("lastUpdatedDateTime") is not None:
        ended = _find_time(job_arn, job, "lastUpdatedDateTime") + LATEST_OUTPUT
    output_path = _find_path(job_arn, job, "jobOutput", "s3DataDestination")
    input_path = _find_path(job_arn, job, "jobInput", "s3DataSource")
    (bucket, prefix), (input_bucket, input_prefix) = split_path(output_path), split_path(input_path)
    found = {each.key: each for each in list_objects(client, output_path) if each.key.endswith(".out")}
    new = {key: each for key, each in found.items() if created <= each.last_modified <= ended}
    listed = {each.key: each for each in list_objects(client, input_path)}
    files = find_input(
        {key: each.size for key, each in listed.items()},
        input_prefix,
        prefix if bucket == input_bucket else None,
    )
    sure = [key for key, is_sure in files.items() if is_sure]
    _tell_late(sum(listed[key].last_modified > created for key in sure), len(sure), log)
    expected: dict[str, S3Object | None] = {}
    optional: dict[str, S3Object] = {}
    overwritten: dict[str, S3Object | None] = {}
    named = Counter(posixpath.basename(key) for key in files)
    for key, is_sure in files.items():
        names = name_outputs(key, input_prefix, prefix, is_unique=named[posixpath.basename(key)] == 1)
        name = next((name for known in (new, found) for name in names if name in known), None)
        name = name or f"{prefix}{posixpath.basename(key)}.out"
        if is_sure and listed[key].last_modified <= created:
            expected[name] = found.get(name)
        elif name in new and new[name].size:
            optional[name] = new[name]
        elif is_sure and name in found:
            overwritten[name] = found[name]
    if not expected and not optional:
        # Input that was replaced still names the job's output, even where that is of no use any more.
        expected = overwritten
    if not expected and not optional:
        optional = {key: each for key, each in new.items() if is_directly_under(key, prefix)}
        if optional:
            log.warning(
                "Nothing is left of the job's input in %s, which would name its output: the %d files count "
                "that were written to %s while the job ran, whichever job wrote them.",
                input_path,
                len(optional),
                output_path,
            )
    outputs = optional | expected
    if not outputs:
        raise PersonalizeOutputError(job_arn, f"No output of the job is under {output_path}", advice=_MISSING)
    _check_files(job_arn, bucket, outputs, created, ended)
    # In an order that stays: tasks may be mapped over them.
    return sorted((each for each in outputs.values() if each), key=lambda each: each.key)


def _check_files(
    job_arn: str,
    bucket: str,
    outputs: Mapping[str, S3Object | None],
    created: datetime,
    ended: datetime,
) -> None:
    """Raise an error unless each file is there, holds something, and was written while the job ran."""
    keys = sorted(outputs)
    there = {key: each for key in keys if (each := outputs[key])}
    for problem, advice, wrong in (
        ("missing", _MISSING, [key for key in keys if key not in there]),
        ("older than the job", _MISSING, [key for key in there if there[key].last_modified < created]),
        ("newer than the job", REPLACED, [key for key in there if there[key].last_modified > ended]),
        ("empty", REPLACED, [key for key in there if not there[key].size]),
    ):
        if wrong:
            named = ", ".join(f"s3://{bucket}/{key}" for key in wrong[:MAX_NAMED_FILES])
            more = f" and {len(wrong) - MAX_NAMED_FILES} more" if len(wrong) > MAX_NAMED_FILES else ""
            is_are = "are" if len(wrong) > 1 else "is"
            text = f"{len(wrong)} of {len(keys)} output files {is_are} {problem}: {named}{more}"
            raise PersonalizeOutputError(job_arn, text, advice=advice)


def _tell_late(late: int, files: int, log: Log) -> None:
    if late:
        log.warning(
            "%d of %d files of the input came, or were replaced, after the job was created: whether their "
            "output is complete cannot be told.",
            late,
            files,
        )


def _find_time(job_arn: str, job: Mapping[str, Any], member: str) -> datetime:
    """Return one of a job's times, in whole seconds: S3 tells no more of when a file was written."""
    value = job.get(member)
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        raise PersonalizeOutputError(
            job_arn,
            f"Old output cannot be told from new: the job's {member} is {show(value)}",
            advice=UNREADABLE,
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).replace(microsecond=0)


def _find_path(job_arn: str, job: Mapping[str, Any], *members: str) -> str:
    path: Any = job
    for name in (*members, "path"):
        path = path.get(name) if isinstance(path, Mapping) else None
    try:
        split_path(str(path))
    except ValueError as error:
        raise PersonalizeOutputError(
            job_arn, f"The job's {members[0]} cannot be read: {error}", advice=UNREADABLE
        ) from None
    return str(path)
