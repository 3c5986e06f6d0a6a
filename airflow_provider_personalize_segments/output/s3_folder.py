"""A folder in S3, through a client that has the connection's identity."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from botocore.exceptions import ClientError
from s3transfer.manager import TransferConfig, TransferManager

from airflow_provider_personalize_segments.output.folders import FileInFolder, Folder
from airflow_provider_personalize_segments.output.objects import explained, list_objects, split_path

UPLOAD_SIZE = 8 * 1024**2
"""Bytes of each part of an upload; s3transfer makes them larger where S3 takes no more parts."""
MOST_UPLOADS = 3
"""Parts that are sent at the same time, and held in memory meanwhile."""
MAX_UPLOADS = 3
"""How often an upload is begun that is gone before it is complete, as someone, or a rule, has aborted it."""
_PUT = "s3:PutObject on the object"
_CONNECTION = re.compile("^s3://([^/@]*)@")


def find_connection(path: str) -> str | None:
    """
    Return the connection that a path in S3 names; ``None`` when it names none.

    :param path: such as ``s3://connection@bucket/folder/``
    """
    match = _CONNECTION.match(path)
    return match[1] if match else None


class S3Folder(Folder):
    """
    A folder in S3, through a client that has the connection's identity.

    :param path: ``s3://bucket/prefix/``, or ``s3://connection@bucket/prefix/``
    :param client: a boto3 client for S3
    """

    def __init__(self, path: str, client: Any) -> None:
        super().__init__(path)
        self._client = client
        self._bucket, self._prefix = split_path(_CONNECTION.sub("s3://", path))

    def list(self) -> dict[str, int]:
        """Return all names and sizes; see :meth:`Folder.list`."""
        found = list_objects(self._client, f"s3://{self._bucket}/{self._prefix}")
        return {each.key.removeprefix(self._prefix): each.size for each in found}

    def open(self, name: str) -> FileInFolder:
        """Return a file to write; see :meth:`Folder.open`."""
        return _S3File(self._client, self._bucket, self._prefix + name)

    def read(self, name: str) -> bytes:
        """Return what is in a small file; see :meth:`Folder.read`."""
        with self._explained(name, "s3:GetObject on the object"):
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
            with closing(answer["Body"]) as body:
                content: bytes = body.read()
        return content

    def move(self, name: str, to: str) -> None:
        """Copy within S3, then delete; see :meth:`Folder.move`."""
        source = {"Bucket": self._bucket, "Key": self._prefix + name}
        with self._explained(name, f"s3:GetObject and {_PUT}"):
            self._client.copy(source, self._bucket, self._prefix + to)
        self.delete([name])

    def delete(self, names: Iterable[str]) -> None:
        """Delete files, one after the other; see :meth:`Folder.delete`."""
        for name in names:
            with explained(self.path + name, "s3:DeleteObject on the object"):
                self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)

    @contextmanager
    def _explained(self, name: str, action: str) -> Iterator[None]:
        """Raise in words what S3 says; an object that is not there is no more than that."""
        is_there = True
        with explained(self.path + name, action):
            try:
                yield
            except ClientError as error:
                is_there = error.response.get("Error", {}).get("Code") not in ("404", "NoSuchKey")
                if is_there:
                    raise
        if not is_there:
            raise FileNotFoundError(self.path + name)


class _S3File(FileInFolder):
    """
    An object that is written to a temporary file, which is uploaded when it is finished.

    s3transfer sends parts, checks them, repeats what fails, and aborts its own upload and no other: one that
    another task has begun may be alive.

    .. seealso:: https://boto3.amazonaws.com/v1/documentation/api/latest/guide/s3.html#uploads
    """

    def __init__(self, client: Any, bucket: str, key: str) -> None:
        # It has no name: nothing of it stays when the worker is killed.
        super().__init__(tempfile.TemporaryFile())  # noqa: SIM115 - finish() or give_up() closes it
        self._client = client
        self._bucket, self._key = bucket, key

    def finish(self) -> None:
        """Upload the file: from now on the object is there."""
        with explained(f"s3://{self._bucket}/{self._key}", _PUT), self._file:
            for attempt in range(MAX_UPLOADS):
                self._file.seek(0)
                config = TransferConfig(
                    multipart_threshold=UPLOAD_SIZE,
                    multipart_chunksize=UPLOAD_SIZE,
                    max_request_concurrency=MOST_UPLOADS,
                    max_in_memory_upload_chunks=MOST_UPLOADS,
                )
                try:
                    # Its own handle, as s3transfer may close it.
                    with (
                        os.fdopen(os.dup(self._file.fileno()), "rb") as body,
                        TransferManager(self._client, config) as manager,
                    ):
                        manager.upload(body, self._bucket, self._key).result()
                    return
                except ClientError as error:
                    code = error.response.get("Error", {}).get("Code")
                    if code != "NoSuchUpload" or attempt == MAX_UPLOADS - 1:
                        raise
