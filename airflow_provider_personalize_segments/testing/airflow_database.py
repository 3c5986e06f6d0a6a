"""A database for Airflow that nobody else uses, in place of the configured one while a DAG runs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def set_environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """
    Set environment variables for a while.

    :param values: the variables; ``None`` removes one
    """
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


@contextlib.contextmanager
def keep_environment(prefix: str) -> Iterator[None]:
    """
    Undo in the end what becomes of environment variables meanwhile.

    :param prefix: what the names of these variables begin with
    """
    before = {name: value for name, value in os.environ.items() if name.startswith(prefix)}
    try:
        yield
    finally:
        _set({name: before.get(name) for name in [*before, *os.environ] if name.startswith(prefix)})


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextlib.contextmanager
def own_database() -> Iterator[Path]:
    """
    Let Airflow in this process use an empty, migrated SQLite database of its own, in a temporary folder.

    Airflow's configured database is neither read nor written meanwhile; its engine and sessions are
    there again afterwards. The only bundle of DAG files is an empty folder.

    :returns: the temporary folder, which is removed in the end
    """
    with contextlib.ExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="airflow-run-")))
        put_database(folder / "airflow.db")
        (folder / "dags").mkdir()
        exits.enter_context(set_environment(_configure(folder)))
        exits.enter_context(_other_engine())
        yield folder


def put_database(path: Path) -> None:
    """
    Put an empty, migrated database there.

    The first call migrates one, which takes Airflow 10 s or more. It keeps a copy in the folder for
    temporary files, for all later calls on this version of Airflow, in other processes, too.

    :param path: the file
    :raises RuntimeError: when ``airflow db migrate`` fails; says why
    """
    kept = _find_cache()
    if kept.exists():
        shutil.copy(kept, path)
        return
    with tempfile.TemporaryDirectory(prefix="airflow-home-") as home:
        _migrate(Path(home))
        shutil.copy(Path(home) / "airflow.db", path)
    # Another process may do the same just now, so the copy appears whole or not at all.
    copy = kept.with_suffix(f".{os.getpid()}")
    shutil.copy(path, copy)
    copy.replace(kept)


def _find_cache() -> Path:
    # The folder is shared with other users of the machine; what one of them put there is not to be loaded.
    folder = Path(tempfile.gettempdir()) / f"airflow-provider-personalize-segments-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise RuntimeError(f"{folder} belongs to somebody else; remove it, or set TMPDIR to another folder.")
    environment = hashlib.sha256(sys.prefix.encode()).hexdigest()[:8]
    return folder / f"airflow-{version('apache-airflow')}-{environment}.db"


def _migrate(home: Path) -> None:
    # In a process of its own, so that nothing of it stays in this one, and with a home of its own, so that no
    # configuration of the user's leads it to another database.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"],
        env={**inherited, "AIRFLOW_HOME": str(home), **_configure(home), "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"airflow db migrate ended with {done.returncode}: {done.stdout[-2000:]}")


def _configure(folder: Path) -> dict[str, str]:
    bundle = (
        '[{"name": "dags", "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle", '
        f'"kwargs": {{"path": "{folder / "dags"}"}}}}]'
    )
    return {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder / 'airflow.db'}",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": f"sqlite+aiosqlite:///{folder / 'airflow.db'}",
        "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": bundle,
        # A secrets backend would be asked for connections before the environment is.
        "AIRFLOW__SECRETS__BACKEND": "",
        "AIRFLOW__WORKERS__SECRETS_BACKEND": "",
        # Airflow 3.2 runs no DAG by dag.test() without one.
        "AIRFLOW__API_AUTH__JWT_SECRET": "no secret, as nothing listens for it outside this process",
    }


@contextlib.contextmanager
def _other_engine() -> Iterator[None]:
    """Have Airflow connect to what is configured now, and put its engine and sessions back in the end."""
    from airflow import configuration
    from airflow import settings as airflow_settings

    settings: Any = airflow_settings  # its functions carry no types
    before, backends = dict(vars(settings)), configuration.secrets_backend_list
    configuration.secrets_backend_list = configuration.initialize_secrets_backends()
    settings.configure_vars()
    settings.configure_orm()
    changed = [name for name, value in vars(settings).items() if value is not before.get(name)]
    try:
        yield
    finally:
        # Not by dispose_orm(): on Airflow 3 it closes all sessions of the process.
        settings.Session.remove()
        settings.engine.dispose()
        if "async_engine" in changed:
            settings.async_engine.sync_engine.dispose()
        for name in changed:
            setattr(settings, name, before.get(name))
        configuration.secrets_backend_list = backends
