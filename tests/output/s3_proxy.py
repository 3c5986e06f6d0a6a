"""A proxy before the local S3: it counts requests, refuses some, and can have a process killed by one."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_OWN_HEADERS = ("content-length", "connection", "transfer-encoding", "date", "server")


class S3Proxy:
    """
    Passes requests on.

    :param endpoint_url: where to
    """

    def __init__(self, endpoint_url: str) -> None:
        self.requests: list[str] = []
        """What was asked for: method and path, such as ``PUT /bucket/key?partNumber=1``."""
        self.refuse: Callable[[str], tuple[int, str] | None] = lambda _: None
        """Gets a request, and returns the status and the code of S3's error, or ``None`` to pass it on."""
        self.after: Callable[[str], object] = lambda _: None
        """Gets a request that was carried out, before its answer is sent."""
        proxy, target = self, urlsplit(endpoint_url)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                request = f"{self.command} {self.path}"
                proxy.requests.append(request)
                if refused := proxy.refuse(request):
                    status, code = refused
                    content = f"<Error><Code>{code}</Code><Message>It says no.</Message></Error>".encode()
                    self.send(status, {"Content-Type": "application/xml"}, content)
                    return
                connection = http.client.HTTPConnection(target.hostname or "", target.port)
                headers = {name: each for name, each in self.headers.items() if name != "Expect"}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                found = {
                    name: each
                    for name, each in answer.getheaders()
                    if name.lower()
                    not in ("content-length", "connection", "transfer-encoding", "date", "server")
                }
                size, content = answer.getheader("Content-Length"), answer.read()
                proxy.after(request)
                self.send(answer.status, found, content, size)
                connection.close()

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815 - names of http.server

            def send(
                self, status: int, headers: dict[str, Any], body: bytes, size: str | None = None
            ) -> None:
                self.send_response(status)
                is_head = self.command == "HEAD" and size
                for name, each in {**headers, "Content-Length": size if is_head else len(body)}.items():
                    self.send_header(name, str(each))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """Say nothing: a process that was killed does not wait for its answer."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> S3Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
