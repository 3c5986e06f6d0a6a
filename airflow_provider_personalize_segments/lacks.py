"""What a process may lack for a while, such as file descriptors and threads, and what says so."""

from __future__ import annotations

import errno
import os

from airflow_provider_personalize_segments.errors import PersonalizeUnavailableError

_LACKS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_FINAL = {
    errno.EACCES,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
}
LACK_ADVICE = (
    "This process, or its machine, has no more file descriptors, threads or memory just now: raise its "
    "limits (ulimit -n, ulimit -u), or let it do less at a time."
)


def is_about_file(error: OSError) -> bool:
    """
    Tell whether an error says that a file is not there, or cannot be read, which waiting does not change.

    :param error: what opening the file raised; a lack, or a disk that does not answer, is no such error
    """
    return error.errno in _FINAL


def is_lack(error: BaseException) -> bool:
    """
    Tell whether an error came of a lack, so that the same may work a moment later.

    Some code takes files that it cannot open for absent: botocore its settings, Airflow's secrets backends a
    connection. So one file is opened here, too.

    :param error: an error that is no answer of AWS's
    """
    if isinstance(error, MemoryError) or "can't start new thread" in str(error):
        return True
    if isinstance(error, OSError) and error.errno in _LACKS:
        return True
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return True
    return False


def make_lack(
    error: BaseException, operation: str, subject: str, region: str | None, aws_conn_id: str | None
) -> PersonalizeUnavailableError:
    """
    Return our error for one that came of a lack.

    :param error: what was raised
    :param operation: what was to be done, such as an API operation
    :param subject: as all that follow: see :class:`~.errors.PersonalizeUnavailableError`
    """
    about = (operation, subject, region, aws_conn_id, type(error).__name__, str(error))
    lack = PersonalizeUnavailableError(*about, LACK_ADVICE)
    lack.is_called = False
    return lack
