"""A folder in S3, through a client that has the connection's identity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from typing import Any

from botocore.exceptions import ClientError

from airflow_provider_personalize_segments.output.folders import FileInFolder, Folder
from airflow_provider_personalize_segments.output.objects import explained, list_objects, split_path

UPLOAD_SIZE = 8 * 1024**2
"""Bytes of each part of an upload; S3 takes 10,000, so a file may have 80 GB."""
MOST_UPLOADS = 3
"""Parts that are sent at the same time, and held in memory meanwhile."""
_PUT = "s3:PutObject on the object"


class S3Folder(Folder):
    """
    A folder in S3, through a client that has the connection's identity.

    :param path: ``s3://bucket/prefix/``
    :param client: a boto3 client for S3
    """

    def __init__(self, path: str, client: Any) -> None:
        super().__init__(path)
        self._client = client
        self._bucket, self._prefix = split_path(path)

    def list(self) -> dict[str, int]:
        """Return all names and sizes; see :meth:`Folder.list`."""
        found = list_objects(self._client, self.path)
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
    An object that is sent in parts while it is written, and that nobody sees until it is finished.

    .. seealso:: https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html
    """

    def __init__(self, client: Any, bucket: str, key: str) -> None:
        super().__init__()
        self._client = client
        self._place = {"Bucket": bucket, "Key": key}
        self._path = f"s3://{bucket}/{key}"
        self._buffer = bytearray()
        self._size = 0
        self._upload: str | None = None
        self._parts: list[Future[Any]] = []
        self._threads = ThreadPoolExecutor(MOST_UPLOADS, thread_name_prefix="s3-upload")

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self._size

    def write(self, data: Any) -> int:
        """Take bytes, and send them once they are enough for a part."""
        with memoryview(data) as view:
            length = view.nbytes
        if self._is_given_up:
            return length
        self._buffer += data
        self._size += length
        while len(self._buffer) >= UPLOAD_SIZE:
            self._send(UPLOAD_SIZE)
        return length

    def finish(self) -> None:
        """Complete the upload: from now on the object is there."""
        try:
            if self._upload is None:
                with explained(self._path, _PUT):
                    self._client.put_object(**self._place, Body=bytes(self._buffer))
                return
            if self._buffer:
                self._send(len(self._buffer))
            with explained(self._path, _PUT):
                parts = [
                    {"PartNumber": number, "ETag": part.result()["ETag"]}
                    for number, part in enumerate(self._parts, 1)
                ]
                self._client.complete_multipart_upload(
                    **self._place, UploadId=self._upload, MultipartUpload={"Parts": parts}
                )
        finally:
            self._threads.shutdown(cancel_futures=True)

    def give_up(self) -> None:
        """Abort the upload, so that its parts cost nothing."""
        super().give_up()
        self._threads.shutdown(cancel_futures=True)
        if self._upload is not None:
            with suppress(Exception):  # what went wrong before is the news
                self._client.abort_multipart_upload(**self._place, UploadId=self._upload)

    def _send(self, size: int) -> None:
        with explained(self._path, _PUT):
            if self._upload is None:
                self._abort_others()
                self._upload = self._client.create_multipart_upload(**self._place)["UploadId"]
            if len(self._parts) >= MOST_UPLOADS:
                self._parts[-MOST_UPLOADS].result()
            self._parts.append(
                self._threads.submit(
                    self._client.upload_part,
                    **self._place,
                    UploadId=self._upload,
                    PartNumber=len(self._parts) + 1,
                    Body=bytes(self._buffer[:size]),
                )
            )
        del self._buffer[:size]

    def _abort_others(self) -> None:
        """Abort what a killed try has left: it costs money, and one that only seems dead must not go on."""
        with suppress(ClientError):  # the permission to look for it is not worth a failure
            found = self._client.list_multipart_uploads(
                Bucket=self._place["Bucket"], Prefix=self._place["Key"]
            )
            for each in found.get("Uploads", ()):
                if each["Key"] == self._place["Key"]:
                    self._client.abort_multipart_upload(**self._place, UploadId=each["UploadId"])
