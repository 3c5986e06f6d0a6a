"""Airflow's parts as processes of their own, forked from one that has imported Airflow.

Importing takes each part seconds of a core, and a test that kills one starts it again and again. What is
forked runs what ``airflow <name>`` runs, in a session of its own.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

IMPORTED = (
    "airflow.jobs.triggerer_job_runner",
    "airflow.dag_processing.manager",
    # From Airflow 3 on.
    "airflow.api_fastapi.app",
)


class Part:
    """
    A process of Airflow's, and all that descend from it.

    :param pid: its process ID, which is its session's, too
    :param child: the process, when it is a child of this one
    """

    def __init__(self, pid: int, child: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self._child = child
        self._process = psutil.Process(pid)

    def has_ended(self) -> bool:
        # Neither PartStarter nor Part reaps a process before it is killed, so an ended one stays as a zombie.
        try:
            return self._process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def wait(self, seconds: float) -> None:
        """Wait for its end, and no longer than this."""
        deadline = time.monotonic() + seconds
        while not self.has_ended() and time.monotonic() < deadline:
            time.sleep(0.05)

    def terminate(self) -> None:
        """Ask it to end."""
        if not self.has_ended():
            self._process.terminate()

    def kill(self) -> None:
        """Kill it and all that descend from it, in whatever group: Airflow gives its own to some."""
        if not self.has_ended():
            self._process.kill()
        for pid in psutil.pids():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getsid(pid) == self.pid:
                    os.kill(pid, signal.SIGKILL)
        self.wait(60)
        if self._child is not None:
            self._child.wait()


def start_part(environment: Mapping[str, str], log: Path, *arguments: str) -> Part:
    """
    Start a part as a person does, without any import in advance.

    :param environment: its environment
    :param log: where it writes what it has to say
    :param arguments: as in ``airflow <arguments>``
    """
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "airflow", *arguments],
            stdout=file,
            stderr=file,
            env=dict(environment),
            start_new_session=True,
        )
    return Part(process.pid, process)


class PartStarter:
    """
    The process that has imported Airflow, and forks its parts.

    :param environment: the environment of all parts
    :param log: where it writes what it has to say
    """

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=dict(environment),
                start_new_session=True,
                text=True,
            )
        assert self._process.stdout is not None
        self._answers = self._process.stdout

    def start(self, log: Path, *arguments: str) -> Part:
        """
        Start a part.

        :param log: where it writes what it has to say
        :param arguments: as in ``airflow <arguments>``
        """
        print(json.dumps({"log": str(log), "arguments": arguments}), file=self._process.stdin, flush=True)
        pid = self._answers.readline()
        assert pid, "the process that starts Airflow's parts has ended"
        return Part(int(pid))

    def stop(self) -> None:
        """End it; its parts are to be ended before."""
        self._process.kill()
        self._process.communicate()


def run_part(log: str, arguments: list[str]) -> None:
    """Become a part of Airflow."""
    from airflow.__main__ import main

    os.setsid()
    files = {0: os.open(os.devnull, os.O_RDONLY), 1: os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)}
    for number, file in {**files, 2: files[1]}.items():
        os.dup2(file, number)
    for file in files.values():
        os.close(file)
    sys.argv = ["airflow", *arguments]
    sys.exit(main())


def share_routes() -> None:
    """
    Make the routes of the API that each triggerer asks within its own process.

    On Airflow 3.3 a triggerer computes for three seconds to make them.
    """
    try:
        from airflow.api_fastapi.execution_api.app import InProcessExecutionAPI
    except ModuleNotFoundError:  # before Airflow 3.0
        return
    app: Any = InProcessExecutionAPI().app
    app._cadwyn_initialize()
    InProcessExecutionAPI.app = app


def main() -> None:
    orders, answers = sys.stdin, os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Airflow prints while it is imported, and only process IDs are answers
    for name in ("airflow.__main__", *IMPORTED):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    share_routes()
    gc.collect()
    gc.freeze()  # what was imported is shared by all parts as long as Python's collector leaves it alone
    for order in orders:
        if pid := os.fork():
            print(pid, file=answers, flush=True)
        else:
            answers.close()
            run_part(**json.loads(order))


if __name__ == "__main__":
    main()
