"""Personalize batch jobs and S3 on a loopback port, for processes that are to believe it is AWS.

``python -m airflow_provider_personalize_segments.testing.server --port 5000`` runs it until Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
import socket
import threading
from collections.abc import Iterable, Sequence
from types import FrameType, TracebackType
from typing import Any, Self

from moto.core.base_backend import BackendDict
from moto.core.model_instances import reset_model_data
from moto.core.models import MockAWS
from moto.moto_server import werkzeug_app
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from airflow_provider_personalize_segments.testing.control import PersonalizeControl
from airflow_provider_personalize_segments.testing.recipes import RECIPES
from airflow_provider_personalize_segments.testing.records import ProgressMode, StatusNames
from airflow_provider_personalize_segments.testing.service import STATUSES

LOOPBACK = "127.0.0.1"
# Newer moto has its own, which keeps S3 metadata whose names have underscores; moto 5.1 has none.
_MotoRequestHandler: Any = getattr(werkzeug_app, "MotoRequestHandler", WSGIRequestHandler)


class LocalPersonalize(PersonalizeControl):
    """
    A local Personalize and S3 as a server in this process, on one endpoint, reached from loopback only.

    It starts empty, and what it held is forgotten when it stops. Only one local Personalize can be active
    in a process at a time::

        with LocalPersonalize(progress="by_time", seconds=5) as personalize:
            os.environ["AIRFLOW_CONN_AWS_DEFAULT"] = personalize.airflow_connection()

    :param port: the port; 0 takes a free one
    :param seed: decides the users and items in output, version identifiers and chance; the same seed gives
        the same
    :param statuses: ``observed`` for the statuses real jobs have shown, CREATE PENDING, CREATE IN_PROGRESS
        and ACTIVE; ``documented`` for those of the API reference, PENDING, IN PROGRESS and ACTIVE. A job
        that fails is CREATE FAILED either way.
    :param progress: ``immediately``, a job is finished when Create returns; ``by_time``, every ``seconds``
        one step; ``by_call``, each status is seen ``calls`` times by Describe or List; ``by_hand``, only
        ``advance()`` and ``set_status()`` move it
    :param seconds: how long a job stays in each status, with ``by_time``
    :param calls: how often each status is seen, with ``by_call``
    :param users: how many users there are, and how many items; no record names more
    """

    def __init__(
        self,
        *,
        port: int = 0,
        seed: int = 0,
        statuses: StatusNames = "observed",
        progress: ProgressMode = "immediately",
        seconds: float = 1.0,
        calls: int = 1,
        users: int = 1000,
    ) -> None:
        super().__init__(
            seed=seed, statuses=statuses, progress=progress, seconds=seconds, calls=calls, users=users
        )
        self._port = port
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def endpoint_url(self) -> str:
        """Where it answers, for both Personalize and S3."""
        if self._server is None:
            raise RuntimeError("The local Personalize is not running; start it first.")
        return f"http://{LOOPBACK}:{self._server.port}"

    def start(self) -> Self:
        """Start answering."""
        self._install()
        try:
            self._forget()
            self._server = _Server(self._port, self._answer)
        except BaseException:
            self._uninstall()
            raise
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="local-personalize"
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop answering; afterwards no thread and no socket is left. Stopping twice does no harm."""
        if self._server is None or self._thread is None:
            return
        self._stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server = self._thread = None
        self._forget()
        self._uninstall()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _install(self) -> None:
        super()._install()
        self._application = DomainDispatcherApplication(create_backend_app)

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        # Before S3 is read too, so that output is there when it is due.
        self.settle()
        answer: Iterable[bytes] = self._application(environ, start_response)
        return answer

    @staticmethod
    def _forget() -> None:
        # Somebody else's mock in this process keeps its data.
        if not MockAWS._mocks_active:
            BackendDict.reset()
            reset_model_data()


class _RequestHandler(_MotoRequestHandler):  # type: ignore[misc]  # moto's servers carry no types
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing: what was called is in the control's log."""

    def connection_dropped(self, error: BaseException, environ: Any = None) -> None:
        """Close the connection, which would be kept for the next request otherwise."""
        self.close_connection = True


class _Server(ThreadedWSGIServer):
    """A server whose threads and connections can be counted on to end."""

    daemon_threads = False

    def __init__(self, port: int, application: Any) -> None:
        self._connections: set[socket.socket] = set()
        # Listening already, because werkzeug ends the whole process when the port is taken.
        with socket.create_server((LOOPBACK, port)) as listener:
            super().__init__(LOOPBACK, port, application, handler=_RequestHandler, fd=listener.fileno())

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """End the connections of clients that are still there, because their threads are waited for."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run a server until it is interrupted or terminated.

    :param arguments: the command line; ``None`` takes the process's
    """
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_personalize_segments.testing.server",
        description="Run Amazon Personalize batch jobs and S3 on a loopback port.",
    )
    parser.add_argument("--port", type=int, default=5000, help="the port; 0 takes a free one (default: 5000)")
    parser.add_argument("--seed", type=int, default=0, help="another seed names other users (default: 0)")
    parser.add_argument("--statuses", choices=list(STATUSES), default="observed")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="how long a job stays in each status (default: 5)"
    )
    parser.add_argument(
        "--recipe", choices=list(RECIPES), default="aws-item-affinity", help="of demo-solution"
    )
    options = parser.parse_args(arguments)
    stop = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    local = LocalPersonalize(
        port=options.port,
        seed=options.seed,
        statuses=options.statuses,
        progress="by_time",
        seconds=options.seconds,
    )
    with local:
        connection = shlex.quote(local.airflow_connection())
        print(
            f"Personalize and S3 at {local.endpoint_url}; export AIRFLOW_CONN_AWS_DEFAULT={connection}",
            flush=True,
        )
        print(f"Solution version {local.add_solution_version(recipe=options.recipe)}", flush=True)
        stop.wait()


if __name__ == "__main__":
    main()
