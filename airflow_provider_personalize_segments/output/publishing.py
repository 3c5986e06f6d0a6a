"""One complete result in a folder, or none: parts are written where no reader looks, and then moved.

``_SUCCESS`` is there if and only if the result is complete. It holds the counts and the names of the files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

from airflow_provider_personalize_segments.arns import parse_job_arn
from airflow_provider_personalize_segments.errors import (
    InvalidParameterError,
    PersonalizeJobFailedError,
    PersonalizeOutputError,
    S3UnavailableError,
)
from airflow_provider_personalize_segments.jobs import JobState, classify_status
from airflow_provider_personalize_segments.output.checking import find_outputs
from airflow_provider_personalize_segments.output.converting import convert_output
from airflow_provider_personalize_segments.output.folders import FileInFolder, Folder, StorageFolder
from airflow_provider_personalize_segments.output.objects import S3Object
from airflow_provider_personalize_segments.output.reading import OutputSummary
from airflow_provider_personalize_segments.output.s3_folder import S3Folder, find_connection
from airflow_provider_personalize_segments.plain_json import show

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.hooks import PersonalizeHook
    from airflow_provider_personalize_segments.waiting.verdicts import Log

SUCCESS = "_SUCCESS"
ERRORS = "_errors/"
STAGING = "_staging/"
"""Readers leave out what begins with an underscore."""
_VANISHED = (
    "A part of the result vanished before the result was complete",
    "Clear all tasks that write it, and see that nothing else writes there.",
)
_OURS = re.compile(r"(_errors/_)?part-\d{5}-[0-9a-f]{8}\.(parquet|errors)")


def write_tables(
    hook: PersonalizeHook,
    job_arn: str,
    output_path: str,
    output_file: str | None,
    max_error_rate: float,
    log: Log,
) -> dict[str, Any]:
    """
    Write a job's output as Parquet into a folder, all or nothing.

    :param hook: the hook whose credentials may read the job's input and output, and write S3
    :param job_arn: the job's ARN
    :param output_path: the folder, which holds nothing else
    :param output_file: the one file of the job's output to convert, ``s3://bucket/key``; the result appears
        when all of them are converted. ``None`` means all, here
    :param max_error_rate: the largest share of records with an error in the whole result, 0.0 to 1.0
    :param log: the task's log
    :returns: the counts, the paths, and whether the result ``isComplete``
    :raises PersonalizeOutputError: when the output is not whole, or too many records have an error
    :raises InvalidParameterError: when the folder holds something else, or the job did not write the file
    """
    job = hook.describe_job(job_arn)
    _check_status(job_arn, job)
    region = parse_job_arn(job_arn).region
    with ExitStack() as stack:
        client = stack.enter_context(closing(hook.make_s3_client(region)))
        try:
            folder = _open_folder(hook, output_path, client, stack)
        except ValueError as error:
            raise InvalidParameterError(f"output_path cannot be written to: {error}") from None
        outputs = find_outputs(client, job_arn, job, log)
        parts = [outputs] if output_file is None else [[each] for each in outputs]
        number = 0 if output_file is None else _find_number(output_file, job_arn, outputs)
        result = _Result(folder, job_arn, parts, log)
        return result.make(client, number, max_error_rate)


def _open_folder(hook: PersonalizeHook, path: str, client: Any, stack: ExitStack) -> Folder:
    """Return the folder to write to; raise ValueError when nothing serves such a path."""
    path = path.rstrip("/") + "/"
    if not path.startswith("s3://"):
        return StorageFolder(path)
    if connection := find_connection(path):
        region = client.meta.region_name
        client = stack.enter_context(closing(type(hook)(connection).make_s3_client(region)))
    return S3Folder(path, client)


def _check_status(job_arn: str, job: Mapping[str, Any]) -> None:
    state = classify_status(job.get("status"))
    if state is JobState.FAILED:
        raise PersonalizeJobFailedError.from_job(job_arn, job)
    if state is not JobState.ACTIVE:
        raise PersonalizeOutputError(
            job_arn,
            f"The job is {show(job.get('status'))}, so its output is not complete",
            advice="Let a sensor wait for the job before this task, and clear it.",
        )


def _find_number(path: str, job_arn: str, outputs: Sequence[S3Object]) -> int:
    paths = [each.path for each in outputs]
    if path not in paths:
        raise InvalidParameterError(
            f"output_file is no file that the job wrote: {show(path)}. Expected one of those that "
            f"PersonalizeHook.list_output_files returns, such as {paths[0]}. ({job_arn})"
        )
    return paths.index(path)


class _Result:
    """
    The result of a job in a folder.

    :param folder: the folder
    :param job_arn: the job's ARN
    :param parts: the job's files, in the parts in which they are converted
    :param log: the task's log
    """

    def __init__(self, folder: Folder, job_arn: str, parts: Sequence[Sequence[S3Object]], log: Log) -> None:
        self._folder = folder
        self._job_arn = job_arn
        self._parts = parts
        self._log = log
        # The same files of the same job make the same result, whoever makes it, and how often.
        content = json.dumps([job_arn, [self._sources(number) for number in range(len(parts))]])
        self._digest = hashlib.sha256(content.encode()).hexdigest()[:8]

    def make(self, client: Any, number: int, max_error_rate: float) -> dict[str, Any]:
        """
        Make a part of the result, unless it is there, and the whole when no part is missing.

        :param client: a boto3 client for S3
        :param number: the part's number, from 0
        :param max_error_rate: the largest share of records with an error
        """
        names = self._folder.list()
        self._check_folder(names)
        whole = self._find_published(names)
        if whole:
            self._log.info("The result is there already, in %s", self._folder.path)
            self._remove_staged()  # the try that completed it may have been killed before it did
            return self._end(whole, max_error_rate)
        part = self._read_note(number, names)
        if part:
            self._log.info("An earlier try has converted this part of the result already.")
        else:
            part = self._stage(client, number)
        names = self._folder.list()
        whole = self._find_published(names)  # another task of this result may have been faster
        if whole is None:
            missing = sum(self._note_name(each) not in names for each in range(len(self._parts)))
            if missing:
                self._log.info("%d of %d parts of the result are still to come.", missing, len(self._parts))
                return self._end(part, 1.0, is_complete=False)
            whole = self._join(names) or self._find_late()
            OutputSummary.load(whole).judge(self._job_arn, max_error_rate)
            self._publish(whole, names)
        self._remove_staged()
        return self._end(whole, max_error_rate)

    def _sources(self, number: int) -> list[list[Any]]:
        return [[each.path, each.etag, each.size] for each in self._parts[number]]

    def _name(self, number: int) -> str:
        return f"part-{number:05d}-{self._digest}.parquet"

    def _staged_name(self, name: str) -> str:
        return f"{STAGING}_{name.replace('/', '-')}"

    def _note_name(self, number: int) -> str:
        return self._staged_name(f"{self._name(number)}.json")

    def _check_folder(self, names: Iterable[str]) -> None:
        others = [each for each in names if each and each[0] not in "_." and not _OURS.fullmatch(each)]
        if others:
            raise InvalidParameterError(
                f"output_path holds {show(others[0])}, which readers would take for a part of the result. "
                f"Choose a folder that holds nothing else. Got {show(self._folder.path)}."
            )

    def _find_published(self, names: Mapping[str, int]) -> dict[str, Any] | None:
        """Return what ``_SUCCESS`` says, if it is about this result and all of that is there."""
        known = self._read(SUCCESS, names)
        is_there = known and all(names.get(name) == size for name, size in known["tables"].items())
        return known if is_there else None

    def _read_note(self, number: int, names: Mapping[str, int]) -> dict[str, Any] | None:
        """Return what a task said of the part that it staged, if that is still there, or in its place."""
        known = self._read(self._note_name(number), names)
        is_there = known and all(
            size in (names.get(self._staged_name(name)), names.get(name))
            for name, size in known["tables"].items()
        )
        return known if is_there else None

    def _read(self, name: str, names: Mapping[str, int]) -> dict[str, Any] | None:
        known = self._folder.read_json(name) if name in names else None
        is_ours = isinstance(known, dict) and known.get("digest") == self._digest
        return known if is_ours else None

    def _stage(self, client: Any, number: int) -> dict[str, Any]:
        name = self._name(number)
        # Some readers look at a file's own name only, and others at how it ends: none takes it for results.
        errors_name = f"{ERRORS}_{name.removesuffix('.parquet')}.errors"
        files: dict[str, FileInFolder] = {}

        def open_file(name: str) -> FileInFolder:
            files[name] = file = self._folder.open(self._staged_name(name))
            return file

        summary, has_errors = convert_output(
            client,
            self._job_arn,
            self._parts[number],
            lambda: open_file(name),
            lambda: open_file(errors_name),
            self._log,
        )
        tables = [name, errors_name] if has_errors else [name]
        note = {
            "digest": self._digest,
            "jobArn": self._job_arn,
            # Not by a listing: another task of this result may have moved them.
            "tables": {each: files[each].tell() for each in tables},
            **summary.dump(),
        }
        self._folder.write(self._note_name(number), json.dumps(note).encode())
        return note

    def _find_late(self) -> dict[str, Any]:
        """Return what another task has published just now, which is why a part is not where it was."""
        whole = self._find_published(self._folder.list())
        if whole is None:
            raise S3UnavailableError(*_VANISHED, self._folder.path)
        return whole

    def _join(self, names: Mapping[str, int]) -> dict[str, Any] | None:
        """Return what is to be said of all parts together; ``None`` when one is not there any more."""
        whole = OutputSummary(0, 0, rows=0)
        tables: dict[str, int] = {}
        for number in range(len(self._parts)):
            note = self._read_note(number, names)
            if note is None:
                return None
            whole.add(OutputSummary.load(note))
            tables |= note["tables"]
        return {"digest": self._digest, "jobArn": self._job_arn, "tables": tables, **whole.dump()}

    def _publish(self, whole: dict[str, Any], names: Mapping[str, int]) -> None:
        old = [each for each in names if _OURS.fullmatch(each) and each not in whole["tables"]]
        # _SUCCESS goes first: from now on, it would not be true.
        self._folder.delete([SUCCESS, *old] if old or SUCCESS in names else [])
        for name, size in whole["tables"].items():
            try:
                self._folder.move(self._staged_name(name), name)
            except FileNotFoundError:
                # Another task of this result, or a try that was killed, has moved it.
                if self._folder.list().get(name) != size:
                    whole = self._find_late()
                    break
        self._folder.write(SUCCESS, json.dumps(whole, indent=1).encode())
        self._log.info("The result is complete: %d rows in %s", whole["rows"], self._folder.path)

    def _remove_staged(self) -> None:
        staged = [each for each in self._folder.list() if each.startswith(STAGING) and self._digest in each]
        self._folder.delete(staged)

    def _end(
        self, note: Mapping[str, Any], max_error_rate: float, *, is_complete: bool = True
    ) -> dict[str, Any]:
        summary = OutputSummary.load(note)
        summary.judge(self._job_arn, max_error_rate)
        has_errors = any(name.startswith(ERRORS) for name in note["tables"])
        return {
            "outputPath": self._folder.path,
            "errorsPath": self._folder.path + ERRORS if has_errors else None,
            **summary.dump(),
            "isComplete": is_complete,
        }
