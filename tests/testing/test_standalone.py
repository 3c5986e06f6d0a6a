"""``make airflow``: started as the README says, used as a person would, and ended with Ctrl-C."""

from __future__ import annotations

import contextlib
import http.cookiejar
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import airflow
import psutil
import pytest

from airflow_provider_personalize_segments.testing.demo import find_example_dags

IS_AIRFLOW_3 = not airflow.__version__.startswith("2.")
PATIENCE = 300.0
"""Seconds until waiting for anything is given up; a machine that others use, too, is slow."""


class Browser:
    """Logs in and keeps what it is given, as a browser does."""

    def __init__(self, address: str, login: str, password: str) -> None:
        self.address = address
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), cookies)
        self._headers: dict[str, str] = {}
        if IS_AIRFLOW_3:
            token = json.loads(self._open("/auth/token", {"username": login, "password": password}))
            self._headers["Authorization"] = f"Bearer {token['access_token']}"
        else:
            page = self._open("/login/")
            self._headers["X-CSRFToken"] = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page)[1]
            form = {"username": login, "password": password, "csrf_token": self._headers["X-CSRFToken"]}
            assert "Invalid login" not in self._open("/login/", form, is_form=True)

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Call the REST API."""
        return json.loads(self._open(f"/api/{'v2' if IS_AIRFLOW_3 else 'v1'}{path}", body))

    def _open(self, path: str, body: dict[str, Any] | None = None, *, is_form: bool = False) -> str:
        data, headers = None, dict(self._headers)
        if body is not None:
            data = (urllib.parse.urlencode(body) if is_form else json.dumps(body)).encode()
            headers["Content-Type"] = f"application/{'x-www-form-urlencoded' if is_form else 'json'}"
        request = urllib.request.Request(self.address + path, data, headers)
        with self._opener.open(request, timeout=60) as answer:
            return answer.read().decode()


def start(folder: Path, **options: Any) -> subprocess.Popen[str]:
    # As from a shell in an empty folder: what conftest.py set for Airflow is not there.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    command = [sys.executable, "-m", "airflow_provider_personalize_segments.testing.standalone"]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = start(tmp_path)
    yield process
    for each in processes_in(tmp_path):
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.communicate()


def processes_in(folder: Path) -> list[psutil.Process]:
    """Return what was started in a folder, whose child it may be now; dead processes are in none."""
    found = []
    for each in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if each.cwd() == str(folder):
                found.append(each)
    return found


def wait_for(condition, what):
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"Not within {PATIENCE:.0f} s: {what}"
        time.sleep(0.5)
    return found


def test_airflow_can_be_clicked_around_in_until_ctrl_c(process, tmp_path):
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C ends everything" in line:
            break
    told = "".join(lines)
    log = tmp_path / ".airflow" / "standalone" / "airflow.log"
    assert str(log) in lines[0]
    assert process.poll() is None, f"{told}\n{log.read_text()[-5000:]}"
    address, login, password = re.search(
        r"^Airflow is at (\S+), login (\w+), password (\w+)\.$", told, re.M
    ).groups()

    browser = Browser(address, login, password)
    examples = {path.stem for path in find_example_dags().glob("*.py")}
    wait_for(
        lambda: {dag["dag_id"] for dag in browser.ask("/dags")["dags"]} == examples, "the examples are there"
    )
    assert browser.ask("/importErrors")["total_entries"] == 0

    body = {"dag_run_id": "run", "conf": {}, **({"logical_date": None} if IS_AIRFLOW_3 else {})}
    browser.ask("/dags/create_segment_job/dagRuns", body)
    task = "/dags/create_segment_job/dagRuns/run/taskInstances/create_job"

    def links():
        with contextlib.suppress(urllib.error.HTTPError):  # it has not begun
            answer = browser.ask(f"{task}/links")
            found = answer["extra_links"] if IS_AIRFLOW_3 else answer
            return found if all(found.values()) else None
        return None

    assert wait_for(links, "the job was created")["Job output in S3"] == (
        "https://console.aws.amazon.com/s3/buckets/demo-bucket"
        "?region=us-east-1&prefix=segments%2Frun%2Foutput%2F"
    )

    second = start(tmp_path, stderr=subprocess.PIPE)
    assert second.communicate(timeout=PATIENCE)[1] == (
        f"Process {process.pid} already runs Airflow in {log.parent}. End it with Ctrl-C where it was "
        "started, or start this one from another folder.\n"
    )
    assert second.returncode == 1
    assert browser.ask("/dags/create_segment_job/dagRuns/run")["dag_run_id"] == "run"

    assert len(processes_in(tmp_path)) > 3  # scheduler, triggerer, web server and what they start
    process.send_signal(signal.SIGINT)
    assert "Stopping ..." in process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0
    assert processes_in(tmp_path) == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) != 0
