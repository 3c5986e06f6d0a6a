"""Take the documentation's pictures of Airflow: ``make pictures``.

Starts what ``make airflow`` starts, in a folder of its own, triggers the example DAGs, and looks at them
with a headless browser. The pictures land in ``docs/pictures``. No picture shows a path of the machine.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

PICTURES = Path(__file__).parent / "pictures"
CHROMIUM = "/usr/bin/chromium"
# No part of the browser calls home.
CHROMIUM_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LOGIN = {"username": "admin", "password": "admin"}
WIDTH, MAX_WIDTH = 1200, 1400
COLORS = 256
PATIENCE = 600.0
"""Seconds until waiting for anything is given up."""
FAILURE = "PersonalizeJobFailedError: "


class Airflow:
    """
    The REST API of a running Airflow.

    :param address: where its web server answers
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._headers = {"Content-Type": "application/json"}
        self._headers["Authorization"] = f"Bearer {self.ask('/auth/token', LOGIN)['access_token']}"

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Call the API, with POST when there is a body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, self._headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def trigger(self, dag_id: str, run_id: str) -> str:
        """Start a run of a DAG and return where it is, for :meth:`states` and for the browser."""
        body = {"dag_run_id": run_id, "logical_date": None, "conf": {}}
        self.ask(f"/api/v2/dags/{dag_id}/dagRuns", body)
        return f"dags/{dag_id}/runs/{run_id}"

    def states(self, run: str, task_id: str) -> list[str]:
        """Return the states of a task's instances in a run."""
        path = f"/api/v2/{run.replace('/runs/', '/dagRuns/')}/taskInstances"
        found = self.ask(path)["task_instances"]
        return sorted(str(each["state"]) for each in found if each["task_id"] == task_id)

    def log(self, run: str, task_id: str) -> str:
        """Return the log of a task's first try; empty before there is one."""
        path = f"/api/v2/{run.replace('/runs/', '/dagRuns/')}/taskInstances/{task_id}/logs/1"
        try:
            return json.dumps(self.ask(path))
        except urllib.error.HTTPError:  # it has not begun
            return ""

    def has_asked(self, run: str, task_id: str) -> bool:
        """Tell whether a task's log names a job."""
        return ":batch-segment-job/" in self.log(run, task_id)

    def has_state(self, run: str, task_id: str, state: str) -> bool:
        """Tell whether one of a task's instances is in a state."""
        return state in self.states(run, task_id)


def wait_for(what: str, is_there: Callable[..., bool], *arguments: Any) -> None:
    """Wait until a function says that something is so; ends the program when it takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not is_there(*arguments):
        if time.monotonic() > deadline:
            sys.exit(f"It took more than {PATIENCE:.0f} s: {what}.")
        time.sleep(1)


@contextlib.contextmanager
def run_airflow(python: str, folder: str) -> Iterator[Airflow]:
    """Run ``make airflow`` in a folder of its own, until the block ends."""
    # Absolute, as it runs in another folder; not resolved, as a link tells Python its environment.
    command = [str(Path(python).absolute()), "-m", "airflow_provider_personalize_segments.testing.standalone"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            for line in process.stdout:
                if found := re.search(r"Airflow is at (http://\S+?),", line):
                    break
            else:
                sys.exit("Airflow did not start.")
            yield Airflow(found[1])
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate()


class Camera:
    """
    A browser that has logged in to Airflow.

    :param page: the browser's page
    :param address: where Airflow's web server answers
    """

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self._address = address
        page.add_init_script("localStorage.setItem('log_wrap', 'true')")
        page.goto(address)
        for field, value in LOGIN.items():
            page.fill(f"input[name={field}]", value)
        page.click("button[type=submit]")
        page.get_by_text("Dags", exact=True).first.wait_for()

    def open(self, path: str, shows: str) -> None:
        """Open a page and wait until it shows a text."""
        self.page.goto(f"{self._address}/{path}")
        self.page.get_by_text(shows).first.wait_for(timeout=60_000)

    def take(self, name: str, height: int, width: int = WIDTH) -> None:
        """Keep what the page shows, from its top, in few colours."""
        self.page.mouse.move(0, 0)
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.wait_for_timeout(2000)  # animations end
        shown = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        path = PICTURES / f"{name}.png"
        shown.quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)
        print(f"{path.name}: {shown.width} x {shown.height}, {path.stat().st_size:,} bytes", flush=True)


def take_all(airflow: Airflow, camera: Camera) -> None:
    """Let the example DAGs run, and take each picture when there is something to see."""
    failing = airflow.trigger("alert_when_job_fails", "weekly")

    waiting = airflow.trigger("wait_for_segment_job", "weekly")
    wait_for("a sensor asks about its job", airflow.has_asked, waiting, "wait_for_job")
    camera.open(f"{waiting}/tasks/wait_for_job", "The job is ")
    camera.take("waiting", 560)

    created = airflow.trigger("create_segment_job", "weekly")
    wait_for("a task creates its job", airflow.has_asked, created, "create_job")
    camera.open(f"{created}/tasks/create_job/details", "Job output in S3")
    camera.take("links", 560)

    mapped = airflow.trigger("wait_for_all_segment_jobs", "weekly")
    wait_for("mapped sensors wait", airflow.has_state, mapped, "wait_for_jobs", "deferred")
    camera.open(f"{mapped}/tasks/wait_for_jobs/mapped", "Deferred")
    camera.take("mapped-wait", 560, MAX_WIDTH)

    wait_for("a sensor's job fails", airflow.has_state, failing, "wait_for_job", "failed")
    camera.open(f"{failing}/tasks/wait_for_job", FAILURE)
    camera.page.get_by_text(FAILURE).first.click()  # closes the traceback
    camera.take("failed", 800)


def take_events(airflow: Airflow, camera: Camera) -> None:
    """Wait until jobs that are ready have started a DAG, and take what did it and what came of it."""
    dag = "on_segments_ready"

    def find_runs() -> list[str]:
        runs = airflow.ask(f"/api/v2/dags/{dag}/dagRuns")["dag_runs"]
        ended = [
            each for each in runs if each["state"] == "success" and each["run_type"] == "asset_triggered"
        ]
        return [str(each["dag_run_id"]) for each in ended]

    wait_for("an event starts a DAG", lambda: bool(find_runs()))
    camera.open(f"dags/{dag}/runs/{urllib.parse.quote(find_runs()[0])}", "make_table")
    camera.take("event-run", 560)
    (asset,) = airflow.ask("/api/v2/assets?name_pattern=user_segments")["assets"]
    camera.open(f"assets/{asset['id']}", dag)
    camera.take("asset-graph", 560)


def main(python: str) -> None:
    """Take all pictures."""
    PICTURES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        run_airflow(python, folder) as airflow,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(CHROMIUM_OPTIONS))
        page = browser.new_page(viewport={"width": WIDTH, "height": 800}, color_scheme="light")
        camera = Camera(page, airflow.address)
        take_all(airflow, camera)
        take_events(airflow, camera)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
