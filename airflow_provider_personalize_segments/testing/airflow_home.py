"""An Airflow home below the current folder, with the example DAGs, for the demo and for ``make airflow``."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path


class DemoFailed(Exception):  # noqa: N818 - it is what happened to the demo, or to `make airflow`
    """Something did not go as it should; the message is the reason."""


def find_example_dags() -> Path:
    """Return the folder of the example DAGs: in the package when installed, beside it in a checkout."""
    package = find_spec("airflow_provider_personalize_segments")
    if package is None or package.origin is None:
        raise DemoFailed("airflow_provider_personalize_segments is not installed.")
    folder = Path(package.origin).parent
    for candidate in (folder / "example_dags", folder.parent / "example_dags"):
        if candidate.is_dir():
            return candidate
    raise DemoFailed(f"There are no example DAGs in or beside {folder}.")


@contextlib.contextmanager
def airflow_home(name: str) -> Iterator[Path]:
    """
    Make an empty Airflow home below the current folder, and point this process's Airflow at it.

    :param name: its name below ``.airflow``
    :raises SystemExit: when another process uses it; says which, and what to do
    """
    home = Path.cwd() / ".airflow" / name
    home.parent.mkdir(parents=True, exist_ok=True)
    # The lock goes with the process, however it ends.
    with home.with_suffix(".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            sys.exit(
                f"Process {lock.read()} already runs Airflow in {home}. End it with Ctrl-C where it was "
                "started, or start this one from another folder."
            )
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        os.environ.update(
            AIRFLOW_HOME=str(home),
            AIRFLOW__CORE__DAGS_FOLDER=str(find_example_dags()),
            AIRFLOW__CORE__LOAD_EXAMPLES="False",
            # The timeout is short: when two requests write at once, Airflow's API server waits for itself
            # until it is over.
            AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{home / 'airflow.db'}?timeout=20",
            NO_PROXY="127.0.0.1,localhost",
        )
        yield home


def run_airflow(*arguments: str, log: Path) -> None:
    """
    Run an Airflow command to its end.

    :param arguments: the command line
    :param log: where its output goes
    :raises DemoFailed: when it fails
    """
    with log.open("a") as output:
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        raise DemoFailed(f"airflow {' '.join(arguments)} ended with {done.returncode}; see {log}.")
