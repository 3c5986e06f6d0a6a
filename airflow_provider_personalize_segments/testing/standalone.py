"""Runs ``airflow standalone`` with the example DAGs in a small world of jobs, for clicking around.

``python -m airflow_provider_personalize_segments.testing.standalone`` runs until Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Never

from airflow_provider_personalize_segments.testing.airflow_home import airflow_home, run_airflow
from airflow_provider_personalize_segments.testing.ports import hold_port
from airflow_provider_personalize_segments.testing.server import LocalPersonalize
from airflow_provider_personalize_segments.testing.world import World, living

SECONDS_TO_START = 300.0
USER = PASSWORD = "admin"
WHAT_TO_CLICK = """\
Open a DAG and trigger it with the button at the top right; its page says what it does.
Tasks ask about their jobs once a minute or two, so most of them wait for two minutes.

  wait_for_segment_job       start here: waits for a job, and logs its segments
  alert_when_job_fails       waits for a job that fails; the log of its task says why
  wait_for_all_segment_jobs  waits for all jobs of a solution version, each in a mapped task
  wait_for_inference_job     waits for the other kind of job, in reschedule mode
  create_segment_job         uploads input, creates a job, and logs its segments
  create_inference_job       creates the other kind of job, and waits for it in the triggerer
  check_segments             waits for a job, and reads its output before the gate opens
  segments_to_parquet        waits for a job, makes a Parquet table of its segments, and reads it
  segments_to_parquet_mapped the same with a task for each file of the job's output
  segments_as_assets         waits for a job, which then starts segments_as_assets_reader
  on_segments_ready          on Airflow 3, starts by itself when jobs are ready, and makes tables

No job starts again: the second and the fourth wait when triggered for the first time only.
Meanwhile other teams' jobs begin and end, below. Some fail, and every six minutes there are
so many batch segment jobs that create_segment_job has to wait for its turn.
Ctrl-C ends everything.
"""


@contextlib.contextmanager
def run_standalone(home: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """
    Run ``airflow standalone`` in its own process group, and end all of it at the end.

    :param home: Airflow's home, as :func:`~.airflow_home.airflow_home` made it
    :param port: where its web server is to answer
    """
    passwords = home / "passwords.json"
    passwords.write_text(json.dumps({USER: PASSWORD}))
    environment = os.environ | {
        # Airflow 2 starts its parts by the name `airflow`.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "AIRFLOW__WEBSERVER__WEB_SERVER_HOST": "127.0.0.1",
        "AIRFLOW__WEBSERVER__WEB_SERVER_PORT": str(port),
        "AIRFLOW__WEBSERVER__WORKERS": "1",
        # Airflow 2's REST API takes login and password, too.
        "AIRFLOW__API__AUTH_BACKENDS": "airflow.api.auth.backend.basic_auth,airflow.api.auth.backend.session",
        # Else Airflow 2 runs one task at a time on SQLite, and a task that waits holds up all others.
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "_AIRFLOW__SKIP_DATABASE_EXECUTOR_COMPATIBILITY_CHECK": "1",
        "AIRFLOW__CORE__PARALLELISM": "4",
        # A slow machine answers later than in five seconds, and tasks would fail.
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
    }
    with contextlib.ExitStack() as held, (home / "airflow.log").open("a") as log:
        # Where these are taken, another Airflow's logs would be asked for, and refused.
        for name, port in (("WORKER", 8793), ("TRIGGER", 8794)):
            port = held.enter_context(hold_port(port))
            environment[f"AIRFLOW__LOGGING__{name}_LOG_SERVER_PORT"] = str(port)
        process = subprocess.Popen(
            [sys.executable, "-m", "airflow", "standalone"],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            kill_airflow(process.pid, home)
            process.wait()


def kill_airflow(leader: int, home: Path) -> None:
    """
    Kill what is left of an Airflow.

    Airflow moves some of its parts into process groups, and some into sessions, of their own. All of them
    keep its home in their environment.

    :param leader: the process that began the session
    :param home: the folder that Airflow calls its home
    """
    import psutil

    for each in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            is_airflow = each.environ().get("AIRFLOW_HOME") == str(home) and each.pid != os.getpid()
            if os.getsid(each.pid) == leader or is_airflow:
                each.kill()


def wait_until_healthy(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """
    Wait until Airflow's scheduler says that it is well.

    :param process: ``airflow standalone``
    :param port: where its web server answers
    :param log: where its output goes
    :raises SystemExit: when it ended instead, or took too long; says where its output is
    """
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"airflow standalone ended with {process.returncode}; see {log}.")
        for path in ("/api/v2/monitor/health", "/health"):  # Airflow 3, Airflow 2
            with contextlib.suppress(OSError, ValueError, urllib.error.HTTPError):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                    health = json.load(answer)
                if health.get("scheduler", {}).get("status") == "healthy":
                    return
        time.sleep(1)
    sys.exit(f"airflow standalone was not healthy after {SECONDS_TO_START:.0f} s; see {log}.")


def make_user(log: Path) -> None:
    """
    Make the login where Airflow keeps users in its database, which is before 3.0.

    :param log: where the command's output goes
    """
    import airflow

    if int(airflow.__version__.split(".")[0]) < 3:
        names = ("--firstname", USER, "--lastname", USER, "--email", "admin@example.com")
        run_airflow(
            "users", "create", "--username", USER, "--password", PASSWORD, "--role", "Admin", *names, log=log
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run everything until Ctrl-C or SIGTERM.

    :param arguments: the command line; ``None`` takes the process's
    """
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_personalize_segments.testing.standalone",
        description="Run Airflow with the example DAGs on a local Amazon Personalize, until Ctrl-C.",
    )
    parser.add_argument(
        "--speed", type=float, default=1.0, help="how many times as fast jobs begin and end (default: 1)"
    )
    options = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    with contextlib.suppress(KeyboardInterrupt), airflow_home("standalone") as home:
        _run(home, options.speed)


def _run(home: Path, speed: float) -> None:
    log = home / "airflow.log"
    print(f"Starting Airflow and a local Amazon Personalize; their output is in {log} ...", flush=True)
    with LocalPersonalize(progress="by_hand") as local, hold_port(8080) as port:
        os.environ["AIRFLOW_CONN_AWS_DEFAULT"] = local.airflow_connection()
        run_airflow("db", "migrate", log=log)
        make_user(log)
        with run_standalone(home, port) as process:
            wait_until_healthy(process, port, log)
            print(f"Airflow is at http://127.0.0.1:{port}, login {USER}, password {PASSWORD}.\n")
            print(WHAT_TO_CLICK, flush=True)
            with living(World(local, _tell), speed):
                process.wait()
            sys.exit(f"airflow standalone ended with {process.returncode}; see {log}.")


_is_stopping = threading.Event()


def _tell(text: str) -> None:
    if _is_stopping.is_set():
        return  # nobody watches the world any more
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def _stop(number: int, frame: FrameType | None) -> Never:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # being impatient must not leave half of it running
    _is_stopping.set()
    print("\nStopping ...", flush=True)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
