"""Objects in S3, listed and read in bounded memory, however often the connection breaks."""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError, FlexibleChecksumError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from airflow_provider_personalize_segments.aws_errors import is_transient
from airflow_provider_personalize_segments.errors import THROTTLING_CODES, S3RefusedError, S3UnavailableError
from airflow_provider_personalize_segments.plain_json import clean_text

PIECE_SIZE = 4 * 1024**2
"""Bytes that are handed out at once."""
REQUEST_SIZE = 32 * 1024**2
"""Bytes that one request asks for; so no connection stays open for hours while its bytes are worked on."""
READ_SIZE = 256 * 1024
"""Bytes that are read at once: the most that is lost when a connection breaks, and the least that counts as
progress."""
MAX_ATTEMPTS = 8
"""Requests without progress, one after the other, until reading is given up; that takes about a minute."""
FIRST_PAUSE = 0.5
"""Seconds before the second attempt, at most; each further pause is twice as long."""
LONGEST_PAUSE = 20.0
"""Seconds that a pause takes at most."""
_MAX_REASON_LENGTH = 500
_TRANSIENT_CODES = THROTTLING_CODES | {
    "ConditionalRequestConflict",
    "DependencyTimeoutException",
    "ExpiredToken",
    "ExpiredTokenException",
    "KMSInternalException",
    "NoSuchUpload",
    "OperationAborted",
    "TokenRefreshRequired",
}
"""Of S3 and of KMS behind it, beside those that every service of AWS has."""
_TRANSIENT_ERRORS = (
    FlexibleChecksumError,
    HTTPError,  # botocore lets some of urllib3's through while a body is read
    OSError,
)
_ERRORS = (BotoCoreError, ClientError, ResponseParserError, *_TRANSIENT_ERRORS)


class S3Object(NamedTuple):
    """
    An object in S3 as a listing shows it.

    :param bucket: the bucket
    :param key: the key
    :param size: its bytes
    :param etag: its entity tag, in quotes as S3 gives it; another content has another
    :param last_modified: when it was written, with a time zone
    """

    bucket: str
    key: str
    size: int
    etag: str
    last_modified: datetime

    @property
    def path(self) -> str:
        """``s3://bucket/key``."""
        return f"s3://{self.bucket}/{self.key}"


def split_path(path: str) -> tuple[str, str]:
    """
    Return the bucket and the prefix of a path.

    :param path: ``s3://bucket/prefix``; the prefix may be empty
    :raises ValueError: when it is no such path
    """
    scheme, _, rest = path.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise ValueError(
            f"{clean_text(path, _MAX_REASON_LENGTH)!r} is no path in S3. Expected s3://bucket/prefix."
        )
    return bucket, prefix


def list_objects(client: Any, path: str) -> Iterator[S3Object]:
    """
    Yield all objects whose path begins with a path, in the order of their keys, page after page.

    :param client: a boto3 client for S3, whose own retries are all there are
    :param path: ``s3://bucket/prefix``
    :raises S3RefusedError: when S3 refuses to list the bucket
    :raises S3UnavailableError: when S3 does not answer properly

    .. seealso:: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
    """
    bucket, prefix = split_path(path)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    with explained(path, "s3:ListBucket on the bucket"):
        for page in pages:
            if "Name" not in page and "KeyCount" not in page:
                # A proxy's page under status 200, which botocore takes for a bucket without objects.
                raise S3UnavailableError("The answer is no listing of a bucket", _TRY_AGAIN, path)
            for each in page.get("Contents", ()):
                yield S3Object(bucket, each["Key"], each["Size"], each.get("ETag", ""), each["LastModified"])


def read_object(
    client: Any, s3_object: S3Object, start: int = 0, piece_size: int = PIECE_SIZE
) -> Iterator[bytes]:
    """
    Yield an object's bytes in pieces, the last of which may be shorter.

    It is read in requests for :data:`REQUEST_SIZE` bytes. After a broken connection, an answer that ends too
    early, a throttle or a fault of S3's, it is asked for again from where it stopped, after a pause. Each
    request names the entity tag, so all bytes are of one and the same content.

    s3transfer's downloads have none of this: they need room for the whole object, give bytes in another order
    or not before the end, begin a range that broke anew and without a pause, and do not compare the object
    with what was listed.

    :param client: a boto3 client for S3
    :param s3_object: the object, as it was listed
    :param start: how many bytes at its beginning are left out; 0 is the default
    :param piece_size: bytes in a piece; 4 MiB is the default
    :raises S3RefusedError: when S3 refuses to hand it out, or it is not there any more
    :raises S3UnavailableError: when it changed since it was listed, and after :data:`MAX_ATTEMPTS`
        requests, one after the other, that brought fewer than :data:`READ_SIZE` bytes

    .. seealso:: https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html
    """
    offset = start
    attempts = 0
    gathered = bytearray()
    while offset < s3_object.size:
        end = min(offset + REQUEST_SIZE, s3_object.size)
        begin = offset
        fault: Exception | None = None
        try:
            with closing(_request_range(client, s3_object, offset, end)) as blocks:
                for block in blocks:
                    offset += len(block)
                    gathered += block
                    if len(gathered) >= piece_size:
                        yield bytes(gathered[:piece_size])
                        del gathered[:piece_size]
        except _ERRORS as error:
            if not _may_pass(error):
                raise _refuse(error, s3_object.path, offset, "s3:GetObject on the object") from None
            fault = error
        if offset == end:
            attempts = 0
            continue
        attempts = 1 if offset - begin >= READ_SIZE else attempts + 1
        if attempts >= MAX_ATTEMPTS:
            reason = f"{_tell(fault)}, {attempts} times in a row"
            raise S3UnavailableError(reason, _TRY_AGAIN, s3_object.path, offset) from None
        time.sleep(min(FIRST_PAUSE * 2 ** (attempts - 1), LONGEST_PAUSE) * random.uniform(0.5, 1))
    while gathered:
        yield bytes(gathered[:piece_size])
        del gathered[:piece_size]


@contextmanager
def explained(path: str, action: str) -> Iterator[None]:
    """
    Raise in words what a call to S3 raises.

    :param path: what the call is about, ``s3://bucket/key``
    :param action: what IAM calls it, such as ``s3:GetObject on the object``
    :raises S3RefusedError: when S3 refused it, and would again
    :raises S3UnavailableError: when S3 did not answer properly
    """
    try:
        yield
    except _ERRORS as error:
        if _may_pass(error):
            raise S3UnavailableError(_tell(error), _TRY_AGAIN, path) from None
        raise _refuse(error, path, None, action) from None


_TRY_AGAIN = "Nothing is known to be wrong with it: retry the task, or look at the network and S3's status."


def _request_range(client: Any, s3_object: S3Object, begin: int, end: int) -> Generator[bytes, None, None]:
    """Yield what one request brings of a range; it may end too early."""
    answer = client.get_object(
        Bucket=s3_object.bucket,
        Key=s3_object.key,
        IfMatch=s3_object.etag,
        Range=f"bytes={begin}-{end - 1}",
    )
    with closing(answer["Body"]) as body:
        given = answer.get("ContentRange", "bytes 0-")  # without it, the answer is the whole object
        if not given.startswith(f"bytes {begin}-"):
            raise S3RefusedError(
                f"S3 answered with other bytes than it was asked for: {given}, not from {begin}",
                "Look for a proxy or an S3 of another maker that does not support ranges.",
                s3_object.path,
                begin,
            )
        while begin < end:
            block = body.read(min(READ_SIZE, end - begin))
            if not block:
                return
            begin += len(block)
            yield block


def _may_pass(error: Exception) -> bool:
    """Return whether another request may bring what this one did not."""
    if _status_of(error) == 412:  # the object has changed, and will not change back
        return False
    is_of_s3 = _code_of(error).removeprefix("KMS.") in _TRANSIENT_CODES
    return is_of_s3 or is_transient(error) or isinstance(error, _TRANSIENT_ERRORS)


def _tell(error: Exception | None) -> str:
    if error is None:
        return "S3's answer ended too early"
    if isinstance(error, ClientError):
        message = error.response.get("Error", {}).get("Message") or "S3 gave no reason"
        return f"{_code_of(error)}: {message.rstrip('. ')}"
    return f"{type(error).__name__}: {str(error).rstrip('. ')}"


def _refuse(
    error: Exception, path: str, offset: int | None, action: str
) -> S3RefusedError | S3UnavailableError:
    """Return the error about a request that S3 refused."""
    code, status = _code_of(error), _status_of(error)
    if status == 412:
        return S3UnavailableError(
            "The object changed while it was read",
            "What was read of it is not used. See that nothing else writes there, and clear the task.",
            path,
            offset,
        )
    if code == "InvalidObjectState":
        advice = "Restore it from its archive, and clear the task."
    elif status == 403:
        advice = f"Allow {action}, and kms:Decrypt if it is encrypted with a key of AWS KMS."
    elif status == 404:
        advice = "See whether it was deleted, and whether the bucket's name is right."
    else:
        advice = "Correct the path, the connection or the bucket's settings."
    return S3RefusedError(_tell(error) if code else str(error), advice, path, offset)


def _code_of(error: Exception) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def _status_of(error: Exception) -> int:
    if not isinstance(error, ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
