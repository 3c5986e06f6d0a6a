"""Airflow's database, migrated once for each environment: that takes longer than most tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

MADE = Path(sys.prefix) / f"airflow-{version('apache-airflow')}.db"


def migrate(home: Path, environment: dict[str, str]) -> None:
    """
    Put a migrated, empty database into a home of Airflow's.

    :param home: the folder
    :param environment: environment variables, with ``AIRFLOW_HOME``
    """
    database = home / "airflow.db"
    if MADE.exists():
        shutil.copy(MADE, database)
        return
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    with (home / "migrate.log").open("wb") as log:
        subprocess.run(
            command, check=True, stdout=log, stderr=subprocess.STDOUT, env=environment, timeout=300
        )
    # Another worker may do the same just now, so the copy appears whole or not at all.
    copy = MADE.with_suffix(f".{os.getpid()}")
    shutil.copy(database, copy)
    copy.replace(MADE)
