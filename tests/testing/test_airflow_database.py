from __future__ import annotations

import os
import sqlite3
import tempfile

import pytest

from airflow_provider_personalize_segments.testing import airflow_database
from airflow_provider_personalize_segments.testing.airflow_database import (
    keep_environment,
    own_database,
    put_database,
    set_environment,
)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_database_is_empty_and_migrated(tmp_path):
    for name in ("one.db", "two.db"):
        put_database(tmp_path / name)
        database = sqlite3.connect(tmp_path / name)
        assert database.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
        assert database.execute("SELECT count(*) FROM dag_run").fetchone() == (0,)
        database.close()


def test_the_copy_that_is_kept_is_used(temporary):
    kept = airflow_database._find_cache()
    assert kept.parent.parent == temporary
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    kept.write_bytes(b"kept")
    put_database(temporary / "airflow.db")
    assert (temporary / "airflow.db").read_bytes() == b"kept"


def test_what_somebody_else_may_have_put_there_is_not(temporary):
    (temporary / "elsewhere").mkdir()
    (temporary / f"airflow-provider-personalize-segments-{os.getuid()}").symlink_to(temporary / "elsewhere")
    with pytest.raises(RuntimeError, match="belongs to somebody else; remove it, or set TMPDIR"):
        put_database(temporary / "airflow.db")


def test_airflow_uses_it_and_goes_back():
    from airflow import settings

    before = settings.engine
    with own_database() as folder:
        assert str(settings.engine.url) == f"sqlite:///{folder}/airflow.db"
        with settings.Session() as session:
            assert session.connection().exec_driver_sql("SELECT count(*) FROM dag_run").scalar() == 0
    assert settings.engine is before
    assert not folder.exists()


def test_airflow_goes_back_after_an_error():
    from airflow import settings

    before = settings.engine
    with pytest.raises(LookupError), own_database():
        raise LookupError
    assert settings.engine is before


def test_the_environment_is_as_before(monkeypatch):
    monkeypatch.setenv("KEPT_A", "1")
    monkeypatch.setenv("KEPT_B", "2")
    before = dict(os.environ)
    with keep_environment("KEPT_"), set_environment({"KEPT_A": None, "OTHER": "3"}):
        assert (os.environ.get("KEPT_A"), os.environ["OTHER"]) == (None, "3")
        os.environ.update(KEPT_B="4", KEPT_C="5")
    assert dict(os.environ) == before
