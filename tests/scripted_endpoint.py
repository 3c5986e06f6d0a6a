"""An HTTP endpoint that answers as a test says; the local Personalize would share our assumptions."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SOLUTION_VERSION_ARN = "arn:aws:personalize:us-east-1:123456789012:solution/shop/1a2b3c4d"


class Answer:
    """
    What the endpoint sends.

    :param body: bytes as they are, or something to make JSON of
    :param status: the HTTP status
    :param headers: headers, which may replace the usual ones
    :param hangs: whether to send nothing until the endpoint is closed
    :param drips: seconds between two of its bytes
    :param is_endless: whether the body is sent again and again until nobody listens
    """

    def __init__(
        self,
        body: Any = b"",
        status: int = 200,
        headers: dict[str, str] | None = None,
        *,
        hangs: bool = False,
        drips: float = 0.0,
        is_endless: bool = False,
    ) -> None:
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.status = status
        self.headers = {"Content-Type": "application/x-amz-json-1.1"} | (headers or {})
        self.hangs = hangs
        self.drips = drips
        self.is_endless = is_endless


def job_arn(name: str) -> str:
    return f"arn:aws:personalize:us-east-1:123456789012:batch-segment-job/{name}"


def describe(name: str, status: Any = "ACTIVE", **members: Any) -> Answer:
    """Return the answer that AWS gives about a segment job, but for what the test replaces."""
    job = {
        "batchSegmentJobArn": job_arn(name),
        "jobName": name,
        "solutionVersionArn": SOLUTION_VERSION_ARN,
        "jobOutput": {"s3DataDestination": {"path": "s3://shop/out/"}},
        "status": status,
        "creationDateTime": 1767225600.0,
        "lastUpdatedDateTime": 1767225600.0,
    }
    return Answer({"batchSegmentJob": job | members})


def error(code: str, status: int = 400, message: str = "no") -> Answer:
    return Answer({"__type": code, "message": message}, status)


class ScriptedEndpoint:
    """
    Serves what ``answer`` returns, and remembers what it was asked.

    :param answer: gets the operation and its parameters
    """

    def __init__(self, answer: Callable[[str, dict[str, Any]], Answer]) -> None:
        self.answer = answer
        self.calls: list[tuple[float, str, dict[str, Any]]] = []
        self.closed = threading.Event()
        self.endless_bytes = 0
        """How much of answers without an end was sent."""
        self.left = threading.Event()
        """Set when somebody has left such an answer."""
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                # STS and S3 have no such header, and their parameters are no JSON.
                operation = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                parameters = json.loads(body) if operation else {}
                endpoint.calls.append((time.monotonic(), operation, parameters))
                answer = endpoint.answer(operation, parameters)
                if answer.hangs:
                    endpoint.closed.wait()
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if not answer.is_endless and "Transfer-Encoding" not in answer.headers:
                    self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                try:
                    self.send_body(answer)
                except OSError:
                    self.close_connection = True  # nobody listens any more
                    endpoint.left.set()

            do_GET = do_POST  # noqa: N815 - the base class decides

            def send_body(self, answer: Answer) -> None:
                while answer.is_endless and not endpoint.closed.is_set():
                    self.wfile.write(answer.body)
                    endpoint.endless_bytes += len(answer.body)
                if not answer.drips:
                    self.wfile.write(answer.body)
                    return
                for index in range(len(answer.body)):
                    self.wfile.write(answer.body[index : index + 1])
                    self.wfile.flush()
                    if endpoint.closed.wait(answer.drips):
                        self.close_connection = True
                        return

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def connection(self) -> str:
        """An Airflow connection to it."""
        return json.dumps(
            {
                "conn_type": "aws",
                "login": "AKIAIOSFODNN7EXAMPLE",
                "password": "made-up",
                "extra": {"region_name": "us-east-1", "endpoint_url": self.url},
            }
        )

    def times_of(self, operation: str, name: str) -> list[float]:
        """Return when an operation was called about the job of a name."""
        return [
            at
            for at, called, parameters in self.calls
            if called == operation and name in (parameters.get("jobName"), *_names(parameters))
        ]

    def __enter__(self) -> ScriptedEndpoint:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()


def _names(parameters: dict[str, Any]) -> list[str]:
    return [parameters.get("batchSegmentJobArn", "").rpartition("/")[2]]
