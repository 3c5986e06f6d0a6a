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
from datetime import datetime
from pathlib import Path
from typing import Any

import airflow
import psutil
import pytest

from airflow_provider_personalize_segments.testing.airflow_home import find_example_dags
from airflow_provider_personalize_segments.testing.world import DOOMED_REASON, SECONDS_AFTER_QUESTION

AIRFLOW = airflow.__version__
IS_AIRFLOW_3 = not AIRFLOW.startswith("2.")
PATIENCE = 600.0
"""Seconds until waiting for anything is given up; a machine that others use, too, is slow."""
SPEED = 10
# Airflow's own way to change the tasks of all files; the examples ask once a minute. A task that runs again
# at once may overtake the executor's word that it left its worker, and Airflow fails it; hence the pause.
ASK_OFTEN = """
def task_policy(task):
    target = getattr(task, "partial_kwargs", None) or vars(task)  # mapped, or not
    for name in ("poke_interval", "poll_interval"):
        if name in target:
            target[name] = 10 if target.get("mode") == "reschedule" else 1
"""
ENDS = {
    "alert_when_job_fails": {"wait_for_job": "failed", "use_segments": "upstream_failed"},
    "check_segments": {"wait_for_job": "success", "report": "success"},
    "create_inference_job": {"create_job": "success", "announce": "success"},
    "create_segment_job": {"upload_input": "success", "create_job": "success", "show_segments": "success"},
    "on_segments_ready": {"list_tables": "success", "make_table": "skipped"},
    "segments_as_assets": {"wait_for_job": "success"},
    "segments_to_parquet": {"wait_for_job": "success", "convert": "success", "show_segments": "success"},
    "segments_to_parquet_mapped": {
        "wait_for_job": "success",
        "list_files": "success",
        "segment.jsonl.out": "success",
        "report": "success",
    },
    "wait_for_all_segment_jobs": {
        "list_jobs": "success",
        "weekly-segments": "success",
        "monthly-segments": "success",
        "report": "success",
    },
    "wait_for_inference_job": {"wait_for_job": "success", "announce": "success"},
    "wait_for_segment_job": {
        "list_jobs": "success",
        "take_newest": "success",
        "wait_for_job": "success",
        "show_segments": "success",
    },
}
READER = "segments_as_assets_reader"
"""The DAG that starts by itself when another's job is ACTIVE."""
WATCHER = "on_segments_ready"
"""The DAG that starts by itself when any job is ACTIVE, on Airflow 3."""


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

    def start_run(self, dag_id: str) -> None:
        """
        Start a DAG run; ask until it is there.

        On SQLite the API server can wait for itself when two requests write. The request then fails, or is
        carried out later, and the DAGs may be stale until they are parsed again.
        """
        body = {"dag_run_id": "run", "conf": {}, **({"logical_date": None} if IS_AIRFLOW_3 else {})}

        def is_there() -> bool:
            try:
                self.ask(f"/dags/{dag_id}/dagRuns", body)
            except TimeoutError:
                return False
            except urllib.error.HTTPError as error:
                return error.code == 409  # an earlier request was carried out after all
            return True

        wait_for(is_there, f"{dag_id} begins")

    def read_log(self, task: str) -> str:
        """Return the log of a task's first try, as the UI shows it."""
        address = f"/api/{'v2' if IS_AIRFLOW_3 else 'v1'}{task}/logs/1?full_content=true"
        return self._open(address)

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
    settings = folder / "settings" / "airflow_local_settings.py"
    settings.parent.mkdir(exist_ok=True)
    settings.write_text(ASK_OFTEN)
    environment["PYTHONPATH"] = str(settings.parent)
    command = [sys.executable, "-m", "airflow_provider_personalize_segments.testing.standalone"]
    command += ["--speed", str(SPEED)]
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


def check_watcher(browser):
    """See that the watcher has started a DAG run, which made a table of each job that was ready."""

    def find_runs():
        runs = browser.ask(f"/dags/{WATCHER}/dagRuns")["dag_runs"]
        return [each for each in runs if each["run_type"] == "asset_triggered" and each["state"] == "success"]

    started = wait_for(find_runs, "an event starts a DAG")
    path = f"/dags/{WATCHER}/dagRuns/{urllib.parse.quote(started[0]['dag_run_id'])}"
    tables = browser.ask(f"{path}/taskInstances/list_tables/xcomEntries/return_value")["value"]
    assert tables
    tasks = browser.ask(f"{path}/taskInstances")["task_instances"]
    made = {each["rendered_map_index"] for each in tasks if each["task_id"] == "make_table"}
    assert made == {each["job_arn"].rpartition("/")[2] for each in tables}
    assert {each["state"] for each in tasks} == {"success"}


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
    assert set(re.findall(r"^  (\w+) ", told, re.M)) == examples == ENDS.keys()
    if not IS_AIRFLOW_3:
        examples.remove(WATCHER)
    dags = {*examples, READER}
    wait_for(
        lambda: {dag["dag_id"] for dag in browser.ask("/dags")["dags"]} == dags, "the examples are there"
    )
    assert browser.ask("/importErrors")["total_entries"] == 0

    first, *others = [each for each in re.findall(r"^  (\w+) ", told, re.M) if each in examples]
    browser.start_run(first)
    task = f"/dags/{first}/dagRuns/run/taskInstances/wait_for_job"
    wait_for(lambda: browser.ask(task)["state"] == "running", "a task waits")
    for each in others:
        browser.start_run(each)
    for example, ends in ((each, ENDS[each]) for each in sorted(examples)):
        run = f"/dags/{example}/dagRuns/run"
        wait_for(lambda run=run: browser.ask(run)["state"] in ("success", "failed"), f"{example} ends")
        tasks = browser.ask(f"{run}/taskInstances")["task_instances"]
        # One that is mapped has the name of its job; how many weeks there were by then is a matter of speed.
        names = [re.sub(r"-\d+$", "", each["rendered_map_index"] or each["task_id"]) for each in tasks]
        found = dict(zip(names, [each["state"] for each in tasks], strict=True))
        assert found == ends, f"{example}\n{log.read_text()[-10000:]}"

    started = wait_for(lambda: browser.ask(f"/dags/{READER}/dagRuns")["dag_runs"], "an asset starts a DAG")
    run = f"/dags/{READER}/dagRuns/{urllib.parse.quote(started[0]['dag_run_id'])}"
    wait_for(lambda: browser.ask(run)["state"] in ("success", "failed"), f"{READER} ends")
    counted = browser.ask(f"{run}/taskInstances/count_segments/xcomEntries/return_value")["value"]
    arn = "arn:aws:personalize:us-east-1:123456789012:batch-segment-job/monthly-segments"
    # Airflow 3.0 starts the DAG, and tells it no event of an asset that was new to the alias.
    expected = {} if AIRFLOW.startswith("3.0.") else {arn: 5}
    assert counted in (expected, str(expected))  # on Airflow 3, and 2

    if IS_AIRFLOW_3:
        check_watcher(browser)

    began, ended = (datetime.fromisoformat(browser.ask(task)[name]) for name in ("start_date", "end_date"))
    assert (ended - began).total_seconds() > SECONDS_AFTER_QUESTION / SPEED
    shown = browser.read_log("/dags/alert_when_job_fails/dagRuns/run/taskInstances/wait_for_job")
    assert "PersonalizeJobFailedError" in shown
    assert f"batch-segment-job/doomed-segments is CREATE FAILED, because: {DOOMED_REASON}" in shown
    links = browser.ask("/dags/create_segment_job/dagRuns/run/taskInstances/create_job/links")
    assert (links["extra_links"] if IS_AIRFLOW_3 else links)["Job output in S3"] == (
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
    told = process.communicate(timeout=PATIENCE)[0]
    assert told.endswith("\nStopping ...\n")
    assert process.returncode == 0
    for line in (
        r"batch (segment|inference) job (newsletter|shop-page)-\d+ begins",
        r"batch (segment|inference) job (newsletter|shop-page)-\d+ is ACTIVE",
        r"batch (segment|inference) job (newsletter|shop-page)-\d+ is CREATE FAILED: \w.*",
        r"batch segment job create_segment_job-create_job-\S+ is ACTIVE",
    ):
        assert re.search(rf"^\d\d:\d\d:\d\d  {line}$", told, re.M), line
    assert processes_in(tmp_path) == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) != 0
