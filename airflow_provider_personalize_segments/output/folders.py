"""The folder that a result goes to: in S3, or wherever Airflow's ObjectStoragePath reaches."""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from typing import IO, Any

from botocore.exceptions import ClientError

from airflow_provider_personalize_segments.airflow_compat import make_storage_path
from airflow_provider_personalize_segments.output.objects import (
    explained,
    list_objects,
    split_path,
)

UPLOAD_SIZE = 8 * 1024**2
"""Bytes of each part of an upload; S3 takes 10,000, so a file may have 80 GB."""
MOST_UPLOADS = 3
"""Parts that are sent at the same time, and held in memory meanwhile."""
_PUT = "s3:PutObject on the object"


class Folder(ABC):
    """
    A folder, by names relative to it.

    :param path: its path as the user wrote it, with a slash at its end
    """

    def __init__(self, path: str) -> None:
        self.path = path

    @abstractmethod
    def list(self) -> dict[str, int]:
        """Return the names of all files in it and below, and their sizes in bytes."""

    @abstractmethod
    def open(self, name: str) -> FileInFolder:
        """
        Return a file to write, which replaces one of that name.

        :param name: its name
        """

    @abstractmethod
    def read(self, name: str) -> bytes:
        """
        Return what is in a small file.

        :param name: its name
        :raises FileNotFoundError: when there is none of that name
        """

    @abstractmethod
    def move(self, name: str, to: str) -> None:
        """
        Give a file another name, at once: nobody sees half of it.

        :param name: the name it has
        :param to: the name it gets; a file of that name is replaced
        :raises FileNotFoundError: when there is none of the first name
        """

    @abstractmethod
    def delete(self, names: Iterable[str]) -> None:
        """
        Delete files, in this order; one that is not there is no error.

        :param names: their names
        """

    def write(self, name: str, content: bytes) -> None:
        """
        Write a small file.

        :param name: its name
        :param content: its bytes
        """
        file = self.open(name)
        try:
            file.write(content)
            file.finish()
        except BaseException:
            file.give_up()
            raise

    def read_json(self, name: str) -> Any:
        """
        Return what a small JSON file of ours holds; ``None`` when there is none, or it is not JSON.

        :param name: its name
        """
        try:
            return json.loads(self.read(name))
        except (ValueError, FileNotFoundError):
            return None


class FileInFolder(io.RawIOBase):
    """A file that is written from its beginning to its end."""

    def writable(self) -> bool:
        """Return that it can be written."""
        return True

    _is_given_up = False

    @abstractmethod
    def finish(self) -> None:
        """Make the file visible, with all that was written."""

    def give_up(self) -> None:
        """Leave nothing behind, as far as that is possible; raise no error."""
        # Arrow's writer writes the end of a file even when it is thrown away.
        self._is_given_up = True


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


class StorageFolder(Folder):
    """
    A folder that Airflow's ObjectStoragePath reaches, with the connection that the path names.

    :param path: such as ``gs://connection@bucket/folder/`` or ``file:///folder/``
    :raises ValueError: when nothing serves such a path

    .. seealso:: https://airflow.apache.org/docs/apache-airflow/stable/core-concepts/objectstorage.html
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        place = make_storage_path(path)
        self._fs: Any = place.fs
        self._root = place.path.rstrip("/")

    def list(self) -> dict[str, int]:
        """Return all names and sizes; see :meth:`Folder.list`."""
        self._fs.invalidate_cache()
        found = self._fs.find(self._root, detail=True)
        begin = self._fs._strip_protocol(self._root).rstrip("/") + "/"
        return {name.removeprefix(begin): int(each["size"]) for name, each in found.items()}

    def open(self, name: str) -> FileInFolder:
        """Return a file to write; see :meth:`Folder.open`."""
        path = self._at(name)
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        return _StorageFile(self._fs, path)

    def read(self, name: str) -> bytes:
        """Return what is in a small file; see :meth:`Folder.read`."""
        with self._fs.open(self._at(name), "rb") as file:
            content: bytes = file.read()
        return content

    def move(self, name: str, to: str) -> None:
        """Let the file system move the file; see :meth:`Folder.move`."""
        self._fs.makedirs(self._at(to).rpartition("/")[0], exist_ok=True)
        self._fs.mv(self._at(name), self._at(to))

    def delete(self, names: Iterable[str]) -> None:
        """Delete files, one after the other; see :meth:`Folder.delete`."""
        for name in names:
            with suppress(FileNotFoundError):
                self._fs.rm_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"


class _StorageFile(FileInFolder):
    def __init__(self, fs: Any, path: str) -> None:
        super().__init__()
        self._fs = fs
        self._path = path
        self._file: IO[bytes] = fs.open(path, "wb")
        self._size = 0

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self._size

    def write(self, data: Any) -> int:
        """Hand bytes on."""
        with memoryview(data) as view:
            if not self._is_given_up:
                self._size += view.nbytes
                self._file.write(data)
            return view.nbytes

    def finish(self) -> None:
        """Close the file."""
        self._file.close()

    def give_up(self) -> None:
        """Close the file, and delete it."""
        super().give_up()
        with suppress(Exception):  # what went wrong before is the news
            self._file.close()
        with suppress(Exception):
            self._fs.rm_file(self._path)


def open_folder(path: str, s3_client: Any) -> Folder:
    """
    Return a folder to write to.

    :param path: ``s3://bucket/prefix``, or any path that Airflow's ObjectStoragePath reaches
    :param s3_client: the client for paths in S3
    :raises ValueError: when nothing serves such a path
    """
    path = path.rstrip("/") + "/"
    return S3Folder(path, s3_client) if path.startswith("s3://") else StorageFolder(path)
