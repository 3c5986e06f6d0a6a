"""What our hooks' boto3 sessions do otherwise: models of AWS's APIs are read once, and answers end.

botocore keeps what it has read of an API's model in the session's loader. With a loader of its own, each
connection costs 8 to 10 MB, and stops all threads while its model is read. So these sessions share a loader.
botocore also reads an answer to its end, however long it is. No other session in the process is touched.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

import boto3
from airflow.providers.amazon.aws.hooks.base_aws import SessionFactory
from botocore.exceptions import (
    ConnectionClosedError,
    HTTPClientError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from botocore.loaders import Loader
from botocore.parsers import ResponseParserError
from botocore.response import StreamingBody

if TYPE_CHECKING:
    from collections.abc import Iterator

    from botocore.awsrequest import AWSPreparedRequest, AWSResponse

MAX_ANSWER = 4 * 1024 * 1024
"""Bytes of one answer. A page of S3's listing has 3.5 MB at most; Personalize's answers have a tenth."""
_PIECE = 64 * 1024


class SharingSessionFactory(SessionFactory):  # type: ignore[valid-type,misc]  # [aws] session_factory decides
    """
    The amazon provider's factory, or the one that is configured, whose sessions share one loader.

    Those that it asks for an assumed role with are among them.
    """

    def _create_basic_session(self, session_kwargs: dict[str, Any]) -> boto3.session.Session:
        return _prepare(super()._create_basic_session(session_kwargs))

    def create_session(self, deferrable: bool = False) -> Any:
        """
        Return a session of boto3's.

        :param deferrable: as in the amazon provider, where it means one of aiobotocore's; ours are boto3's
        """
        return _prepare(super().create_session(deferrable=deferrable))


def _prepare(session: Any) -> Any:
    """Give a new boto3 session the shared loader, and its clients answers that end."""
    if isinstance(session, boto3.session.Session):
        core = session._session  # boto3 has no other way to it
        core.register_component("data_loader", _share(core.get_component("data_loader")))
        # The session that assumes no role is prepared twice.
        session.events.register(
            "creating-client-class", _bound_client, unique_id="personalize-segments-bounded"
        )
    return session


# --- One loader -----------------------------------------------------------------------------------


class SharedLoader(Loader):  # type: ignore[misc]  # botocore has no types
    """
    A loader for many sessions, which reads a file once, however many threads need it first.

    :param search_paths: where it looks for models
    """

    def __init__(self, search_paths: tuple[str, ...]) -> None:
        super().__init__(extra_search_paths=list(search_paths), include_default_search_paths=False)
        self._reading = threading.RLock()

    def list_available_services(self, type_name: str) -> Any:
        """Do what botocore's own does, one thread at a time; so do the others."""
        with self._reading:
            return super().list_available_services(type_name)

    def load_service_model(self, service_name: str, type_name: str, api_version: str | None = None) -> Any:
        """Return the model of a service."""
        with self._reading:
            return super().load_service_model(service_name, type_name, api_version)

    def load_data_with_path(self, name: str) -> Any:
        """Return what a file holds, and where it is."""
        with self._reading:
            return super().load_data_with_path(name)


_loaders: dict[tuple[str, ...], SharedLoader] = {}
_loaders_lock = threading.Lock()


def _share(loader: Loader) -> Loader:
    """Return the loader for all sessions that look where this one does; another kind of loader stays."""
    if type(loader) is not Loader:
        return loader
    # A profile, or AWS_DATA_PATH, may name more places.
    paths = tuple(loader.search_paths)
    with _loaders_lock:
        if paths not in _loaders:
            _loaders[paths] = SharedLoader(paths)
        return _loaders[paths]


# --- Answers that end -----------------------------------------------------------------------------


class _BoundedClient:
    """The base of a client whose answers end; botocore calls this a mixin for client classes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        endpoint: Any = self._endpoint  # type: ignore[attr-defined]  # of the other base
        endpoint.http_session = _BoundedHTTPSession(endpoint.http_session)


def _bound_client(base_classes: list[type], **_: Any) -> None:
    base_classes.insert(0, _BoundedClient)


class _BoundedHTTPSession:
    """
    Sends requests by an HTTP session of botocore's, and reads so many bytes of an answer and no more.

    :param session: botocore's own
    """

    def __init__(self, session: Any) -> None:
        self._session = session

    def send(self, request: AWSPreparedRequest) -> AWSResponse:
        """
        Send a request, and return the answer.

        :param request: the request
        :raises ResponseParserError: when the answer is too long to be AWS's
        """
        is_stream, request.stream_output = request.stream_output, True  # else all of it would be read
        response = self._session.send(request)
        # What is to be a file is read by whoever asked for it, but an error is not one.
        if not is_stream or response.status_code >= 300:
            with _explained(request):
                response.raw = _Received(_read(response.raw))
        return response

    def close(self) -> None:
        """Close its connections."""
        self._session.close()


class _Received(BytesIO):
    """A body that was read, in the form in which botocore takes one."""

    def stream(self, *_: Any) -> Iterator[bytes]:
        """Yield it."""
        yield self.getvalue()


def _read(raw: Any) -> bytes:
    body, pieces, size = StreamingBody(raw, None), [], 0
    while piece := body.read(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_ANSWER:
            raw.close()  # the rest is not waited for
            raw.release_conn()
            raise ResponseParserError(f"the answer is longer than {MAX_ANSWER // 1024**2} MB")
    return b"".join(pieces)


@contextmanager
def _explained(request: AWSPreparedRequest) -> Iterator[None]:
    """Raise the errors that botocore raises when it reads an answer itself: it repeats calls by them."""
    try:
        yield
    except ResponseParserError:
        raise
    except ReadTimeoutError as error:
        raise ReadTimeoutError(endpoint_url=request.url, error=error) from None
    except ResponseStreamingError as error:
        raise ConnectionClosedError(endpoint_url=request.url, request=request, error=error) from None
    except Exception as error:
        raise HTTPClientError(error=error) from error
