"""The folder that a result goes to: in S3, or wherever Airflow's ObjectStoragePath reaches."""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from typing import IO, Any

from airflow_provider_personalize_segments.airflow_compat import make_storage_path


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
    """
    A file that is written from its beginning to its end.

    :param file: takes the bytes
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file
        self._size = 0
        self._is_given_up = False

    def writable(self) -> bool:
        """Return that it can be written."""
        return True

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self._size

    def write(self, data: Any) -> int:
        """Take bytes."""
        with memoryview(data) as view:
            # Arrow's writer writes the end of a file even when it is thrown away.
            if not self._is_given_up:
                self._size += view.nbytes
                self._file.write(data)
            return view.nbytes

    def finish(self) -> None:
        """Make the file visible, with all that was written."""
        self._file.close()

    def give_up(self) -> None:
        """Leave nothing behind, as far as that is possible; raise no error."""
        self._is_given_up = True
        with suppress(Exception):  # what went wrong before is the news
            self._file.close()


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
        super().__init__(fs.open(path, "wb"))
        self._fs = fs
        self._path = path

    def give_up(self) -> None:
        """Close the file, and delete it."""
        super().give_up()
        with suppress(Exception):
            self._fs.rm_file(self._path)
