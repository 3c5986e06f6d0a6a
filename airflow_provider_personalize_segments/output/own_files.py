"""Which objects in S3 are a job's own: what it reads, and the names of what it writes.

AWS documents ``<output path><input file name>.out``, and that the input path is a prefix. It does not say
what becomes of markers and manifests in an input folder, of subfolders, and of an output path without a slash
at its end. What we assume of these stands here alone, and is lenient: where AWS may do one thing or another,
both are right.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

_MARKER = re.compile(
    r"[_.].*"  # _SUCCESS, _committed_1, _CHECK, .part-0.crc
    r"|.*(\.crc|\.metadata|_\$folder\$)"
    r"|(.*[-._])?manifest(\.\w+)?",  # manifest, items.manifest, items-manifest.csv
    re.DOTALL | re.IGNORECASE,
)


def find_input(sizes: Mapping[str, int], input_prefix: str, output_prefix: str | None) -> dict[str, bool]:
    """
    Return the files that a job may read, each with whether it must have output.

    A folder's marker is no file, and a job's own output is no input of it. Whether a job reads an empty file,
    a manifest, or what begins with an underscore or a dot is not known.

    :param sizes: the keys of all objects under the input path, with their sizes in bytes
    :param input_prefix: the input path without its bucket
    :param output_prefix: the same of the output path; ``None`` when that is in another bucket
    """
    written = set()
    if output_prefix is not None:
        written = {name for key in sizes for name in name_outputs(key, input_prefix, output_prefix)}
    return {
        key: size > 0 and not _MARKER.fullmatch(posixpath.basename(key))
        for key, size in sizes.items()
        if not key.endswith("/") and key not in written
    }


def choose_input(sizes: Mapping[str, int], input_prefix: str, output_prefix: str | None = None) -> list[str]:
    """
    Return the files that a job reads for sure; those that it may read when there are no others.

    :param sizes: the same as in :func:`find_input`, like all other parameters
    """
    files = find_input(sizes, input_prefix, output_prefix)
    return [key for key, is_sure in files.items() if is_sure] or list(files)


def name_outputs(key: str, input_prefix: str, output_prefix: str, *, is_unique: bool = False) -> list[str]:
    """
    Return the keys that the output of a file may have: below a folder like the file's, or in one folder.

    The one folder is what AWS documents. It comes first, but where two files in folders have one name.

    :param key: the file's key
    :param input_prefix: the input path without its bucket
    :param output_prefix: the output path without its bucket
    :param is_unique: whether no other file of the input has this file's name
    """
    folder = input_prefix[: input_prefix.rfind("/") + 1]
    folders = [each for each in (f"{input_prefix}/", folder) if key.startswith(each)]
    names = [*(key.removeprefix(each) for each in folders), posixpath.basename(key)]
    if is_unique:
        names.reverse()
    return [f"{prefix}{name}.out" for prefix in _with_slash(output_prefix) for name in names]


def is_directly_under(key: str, output_prefix: str) -> bool:
    """
    Return whether an object is in the output folder itself, and not in one below or beside it.

    :param key: the object's key
    :param output_prefix: the output path without its bucket
    """
    return any(
        key.startswith(prefix) and "/" not in key.removeprefix(prefix)
        for prefix in _with_slash(output_prefix)
    )


def _with_slash(prefix: str) -> list[str]:
    return [prefix] if not prefix or prefix.endswith("/") else [prefix, f"{prefix}/"]
