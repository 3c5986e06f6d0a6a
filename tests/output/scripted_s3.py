"""An S3 that hands out one object, and breaks as a test says."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Fault(NamedTuple):
    """
    What happens to one request.

    :param code: S3's error code, sent with ``status`` instead of the object
    :param status: the HTTP status
    :param after: bytes of the body that are sent before the connection is closed
    :param resets: whether it is closed by a reset, as when a machine goes down
    :param length: the length of a body that is shorter than it should be, and says so
    :param headers: headers that replace the usual ones; ``None`` leaves one out
    """

    code: str | None = None
    status: int = 206
    after: int | None = None
    resets: bool = False
    length: int | None = None
    headers: tuple[tuple[str, str | None], ...] = ()


class ScriptedS3:
    """
    Serves ranges of an object, and remembers what it was asked for.

    :param content: the object
    :param fault: gets the number of the request, from 0, and returns what happens to it, or ``None``
    """

    etag = '"1234"'

    def __init__(self, content: bytes, fault: Callable[[int], Fault | None] = lambda _: None) -> None:
        self.content = content
        self.fault = fault
        self.requests: list[dict[str, str]] = []
        s3 = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                number = len(s3.requests)
                s3.requests.append({"path": self.path, **self.headers})
                fault = s3.fault(number) or Fault()
                if fault.code:
                    self.refuse(fault)
                else:
                    self.hand_out(fault)

            def refuse(self, fault: Fault) -> None:
                body = f"<Error><Code>{fault.code}</Code><Message>It says no.</Message></Error>".encode()
                self.answer(fault, {"Content-Type": "application/xml"}, body, body)

            def hand_out(self, fault: Fault) -> None:
                begin, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
                body = s3.content[int(begin) : int(last) + 1]
                headers = {"ETag": s3.etag, "Content-Range": f"bytes {begin}-{last}/{len(s3.content)}"}
                if fault.length is not None:
                    body = body[: fault.length]
                self.answer(fault, headers, body, body[: fault.after])

            def answer(self, fault: Fault, headers: dict[str, Any], body: bytes, sent: bytes) -> None:
                self.send_response(fault.status)
                headers = {"Content-Length": str(len(body)), **headers, **dict(fault.headers)}
                for name, value in headers.items():
                    if value is not None:
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(sent)
                self.close_connection = len(sent) < len(body)
                if fault.resets:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """Say nothing: a reader may go before it has all."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The first and the last byte of each range that was asked for."""
        found = [each["Range"].removeprefix("bytes=").split("-") for each in self.requests]
        return [(int(begin), int(last)) for begin, last in found]

    def __enter__(self) -> ScriptedS3:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
