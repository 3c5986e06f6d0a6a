"""Every mode ends alike, with each option, whatever happens to the job; Airflow runs them all."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import socketserver
import threading
from pathlib import Path

import boto3
import pytest
from lines import IS_BETWEEN
from scripted_endpoint import Answer, ScriptedEndpoint, describe, error

from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.testing import LocalPersonalize
from airflow_provider_personalize_segments.testing.ports import hold_port

MODES = ("poke", "reschedule", "deferrable")
OPTIONS = ("plain", "soft_fail", "never_fail", "silent_fail")
GUIDE = Path(__file__).parent.parent / "docs" / "modes.md"

SUCCESS = ("success",) * 4
FINAL = ("failed", "skipped", "skipped", "failed")
OVERDUE = ("failed", "skipped", "failed", "failed")
CRASH = ("failed", "failed", "skipped", "failed")

DAG = """
from airflow_names import DAG
from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor


class Sensor(PersonalizeBatchSegmentJobSensor):
    pass


class CrashingSensor(PersonalizeBatchSegmentJobSensor):
    '''Breaks after the first answer: in poke on a worker, in the trigger's own code in the triggerer.'''

    answers = {}

    def poke(self, context):
        self.answers[self.task_id] = self.answers.get(self.task_id, 0) + 1
        if self.answers[self.task_id] > 1:
            raise RuntimeError("a crash")
        return super().poke(context)

    def defer(self, *, trigger, **kwargs):
        trigger.execution_deadline = "a crash"
        super().defer(trigger=trigger, **kwargs)


with DAG("parity", schedule=None, default_args={"retries": 0}) as dag:
    for mode, options in PLAN.items():
        for option in options:
            SENSOR(
                task_id=f"{mode}-{option}",
                job_arn=f"arn:aws:personalize:us-east-1:123456789012:batch-segment-job/{mode}-{option}",
                poke_interval=0.1,
                timeout=TIMEOUT,
                max_error_rate=MAX_ERROR_RATE,
                botocore_config={"retries": {"total_max_attempts": 1}},
                **({"deferrable": True} if mode == "deferrable" else {"mode": mode, "deferrable": False}),
                **({} if option == "plain" else {option: True}),
            )
"""


class Relay:
    """A port in front of the local Personalize that can refuse connections, as a restarting endpoint does."""

    def __init__(self, target, port):
        self.target = target
        self.connections = set()
        self.server = None
        self.port = port
        self.open()

    def open(self):
        relay = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                with socket.create_connection(relay.target) as upstream:
                    relay.connections |= {self.request, upstream}
                    back = threading.Thread(target=relay.pump, args=(upstream, self.request))
                    back.start()
                    relay.pump(self.request, upstream)
                    back.join()

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True

        self.server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,)).start()

    def close(self):
        server, self.server = self.server, None
        if server:
            server.shutdown()
            server.socket.close()
            for connection in self.connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self.connections = set()

    @staticmethod
    def pump(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Scene:
    """What happens to the job of each task while it is watched; tasks run one after the other."""

    status = "CREATE IN_PROGRESS"
    sensor = "Sensor"
    timeout = 120.0
    max_error_rate = None

    def __init__(self, local):
        self.local = local
        self.answered = {}
        append = local.calls.append

        def append_and_act(call):
            append(call)
            arn = call.parameters.get("batchSegmentJobArn")
            if arn is None:
                return  # asked for a link
            self.answered[arn] = self.answered.get(arn, 0) + 1
            self.after(arn, self.answered[arn])

        local.calls.append = append_and_act

    def after(self, arn, calls):
        """Something happens when so many calls were made about a job."""

    def connection(self):
        return self.local.airflow_connection()

    def end(self):
        """Nothing is left running."""


class ActiveAtOnce(Scene):
    status = "ACTIVE"


class ActiveLater(Scene):
    def after(self, arn, calls):
        if calls == 3:
            self.local.set_status(arn, "ACTIVE")


class ActiveWithoutOutput(Scene):
    """The later look at S3 is the same in every mode, too: there is no output, though it was asked for."""

    status = "CREATE IN_PROGRESS"
    max_error_rate = 0.5

    def __init__(self, local):
        super().__init__(local)
        session = boto3.session.Session("testing", "testing", region_name="us-east-1")
        client = session.client("s3", endpoint_url=local.endpoint_url)
        client.create_bucket(Bucket="example-bucket")
        client.close()

    def after(self, arn, calls):
        if calls == 2:
            self.local.set_status(arn, "ACTIVE")


class Failed(Scene):
    status = "CREATE FAILED"


class FailedLater(Scene):
    def after(self, arn, calls):
        if calls == 2:
            self.local.set_status(arn, "CREATE FAILED", "Invalid S3 input path")


class Overdue(Scene):
    timeout = 0.5


class DeniedAtOnce(Scene):
    def __init__(self, local):
        super().__init__(local)
        local.faults.deny_access()


class DeniedLater(Scene):
    def after(self, arn, calls):
        if calls == 1:
            self.local.faults.deny_access(times=1, operation="DescribeBatchSegmentJob")


class Unknown(Scene):
    status = None


class ForAWhile(Scene):
    """The second and third call about each job meet a fault."""

    fault = ""

    def after(self, arn, calls):
        if calls == 1:
            getattr(self.local.faults, self.fault)(times=2)
        if calls == 3:
            self.local.set_status(arn, "ACTIVE")


class ThrottledForAWhile(ForAWhile):
    fault = "throttle"


class ServerErrorsForAWhile(ForAWhile):
    fault = "server_error"


class DisconnectedForAWhile(ForAWhile):
    fault = "drop_connection"


class RefusedForAWhile(Scene):
    """The first call about each job loses its connection, and the next ones find nobody listening."""

    def __init__(self, local):
        super().__init__(local)
        self.held = contextlib.ExitStack()
        port = self.held.enter_context(hold_port())
        self.relay = Relay(("127.0.0.1", int(local.endpoint_url.rpartition(":")[2])), port)

    def connection(self):
        connection = json.loads(super().connection())
        connection["extra"]["endpoint_url"] = f"http://127.0.0.1:{self.relay.port}"
        return json.dumps(connection)

    def after(self, arn, calls):
        if calls == 1:
            self.relay.close()
            self.local.set_status(arn, "ACTIVE")
            threading.Timer(0.5, self.relay.open).start()

    def end(self):
        self.relay.close()
        self.held.close()


class MalformedForAWhile(ForAWhile):
    fault = "malformed"


class Scripted(Scene):
    """An endpoint apart from the local Personalize answers, by the number of the call about a job."""

    status = None

    def __init__(self, local):
        super().__init__(local)
        self.counts = {}
        self.endpoint = ScriptedEndpoint(self.receive).__enter__()

    def receive(self, operation, parameters):
        if "Job" not in operation:
            return error("AccessDeniedException")  # asked for a link
        name = parameters["batchSegmentJobArn"].rpartition("/")[2]
        self.counts[name] = self.counts.get(name, 0) + 1
        return self.answer(name, self.counts[name])

    def connection(self):
        return self.endpoint.connection

    def end(self):
        self.endpoint.__exit__()


class PageForAWhile(Scripted):
    def answer(self, name, count):
        page = Answer("<html>Accès refusé".encode("latin-1"), 200 if count == 2 else 403)
        return page if count in (2, 3) else describe(name, "PENDING" if count == 1 else "ACTIVE")


class RedirectedForAWhile(Scripted):
    def answer(self, name, count):
        codes = {2: Answer(b"", 302), 3: Answer(b"[]"), 4: error("RequestExpired"), 5: Answer(b"", 408)}
        return codes.get(count, describe(name, "PENDING" if count == 1 else "ACTIVE"))


class AboutAnotherJob(Scripted):
    timeout = 0.5

    def answer(self, name, count):
        return describe("another")


class OddReason(Scripted):
    def answer(self, name, count):
        if count == 1:
            return describe(name, "PENDING")
        return describe(name, "CREATE FAILED", failureReason="cut \ud83d off \0", numResults=10**30)


class OddNumbers(Scripted):
    def answer(self, name, count):
        return describe(name, "ACTIVE" if count > 1 else "PENDING", numResults=float("nan"))


class NoBundle(Scripted):
    def connection(self):
        connection = json.loads(super().connection())
        connection["extra"]["verify"] = "/no/such/bundle.pem"
        return json.dumps(connection)

    def answer(self, name, count):
        return describe(name)


class ThrottledForEver(Scene):
    timeout = 0.5

    def __init__(self, local):
        super().__init__(local)
        local.faults.throttle()


class Crash(Scene):
    sensor = "CrashingSensor"
    # Long enough for the first answer on a busy machine; with silent_fail all of it is waited for.
    timeout = 6.0


MATRIX = {
    "ACTIVE at once": (ActiveAtOnce, SUCCESS),
    "ACTIVE later": (ActiveLater, SUCCESS),
    "ACTIVE, with `max_error_rate` and without output": (ActiveWithoutOutput, FINAL),
    "CREATE FAILED at once": (Failed, FINAL),
    "CREATE FAILED later": (FailedLater, FINAL),
    "not over in time": (Overdue, OVERDUE),
    "access denied at once": (DeniedAtOnce, FINAL),
    "access denied later": (DeniedLater, FINAL),
    "no such job": (Unknown, FINAL),
    "throttled for a while": (ThrottledForAWhile, SUCCESS),
    "throttled for ever": (ThrottledForEver, OVERDUE),
    "5xx for a while": (ServerErrorsForAWhile, SUCCESS),
    "disconnected for a while": (DisconnectedForAWhile, SUCCESS),
    "connections refused for a while": (RefusedForAWhile, SUCCESS),
    "malformed answers for a while": (MalformedForAWhile, SUCCESS),
    "a proxy's page for a while": (PageForAWhile, SUCCESS),
    "redirects and clocks that differ for a while": (RedirectedForAWhile, SUCCESS),
    "an answer about another job": (AboutAnotherJob, OVERDUE),
    "CREATE FAILED, with a reason that cannot be encoded": (OddReason, FINAL),
    "ACTIVE, with numbers that JSON does not have": (OddNumbers, SUCCESS),
    "no CA bundle where `verify` says": (NoBundle, FINAL),
    "a crash while waiting": (Crash, CRASH),
}


def make_plan(happening, takes_turns):
    """Return the options to run in each mode; in turns, a mode meets another option from row to row."""
    if not takes_turns or MATRIX[happening][1] is not SUCCESS:
        return dict.fromkeys(MODES, OPTIONS)
    row = [name for name, (_, ends) in MATRIX.items() if ends is SUCCESS].index(happening)
    return {mode: (OPTIONS[(row + number) % len(OPTIONS)],) for number, mode in enumerate(MODES)}


def test_in_turns_each_mode_meets_each_option_where_all_ends_well():
    met = [pair for name in MATRIX for pair in make_plan(name, True).items() if len(pair[1]) == 1]
    for mode in MODES:
        for option in OPTIONS:
            assert met.count((mode, (option,))) >= 2


@pytest.mark.parametrize("happening", MATRIX)
def test_every_mode_ends_alike(happening, run_dag, monkeypatch):
    make_scene, expected = MATRIX[happening]
    plan = make_plan(happening, IS_BETWEEN)
    with LocalPersonalize() as local:
        version = local.add_solution_version("parity")
        scene = make_scene(local)
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", scene.connection())
        for mode, options in plan.items():
            for option in options:
                if scene.status:
                    local.add_job(
                        BatchJobKind.SEGMENT,
                        f"{mode}-{option}",
                        solution_version_arn=version,
                        status=scene.status,
                        failure_reason="Invalid S3 input path",
                    )
        constants = f"PLAN, TIMEOUT = {plan}, {scene.timeout}\n"
        constants += f"MAX_ERROR_RATE = {scene.max_error_rate}\n"
        try:
            run = run_dag(constants + DAG.replace("SENSOR(", f"{scene.sensor}("))
        finally:
            scene.end()

        ended = {
            mode: tuple(run.states[f"{mode}-{option}"] for option in options)
            for mode, options in plan.items()
        }
        assert ended == {mode: expected[: len(options)] for mode, options in plan.items()}
        for tasks in zip(*([f"{mode}-{option}" for option in plan[mode]] for mode in MODES), strict=True):
            told, left = set(), []
            for task in tasks:
                # Each task has a job of its own; all else is to be the same to the letter.
                told.add(str(run.errors.get(task)).replace(task, "<job>"))
                job = run.xcom(task)
                left.append(
                    job and (job["batchSegmentJobArn"].endswith(f"/{task}"), job["status"], sorted(job))
                )
            if scene.sensor == "Sensor":
                assert len(told) == 1, told
            assert left == [left[0]] * len(MODES)
            assert (left[0] is not None) == (run.states[tasks[0]] == "success")


def test_the_guide_has_the_matrix():
    lines = ["| what happens | plain | `soft_fail` | `never_fail` | `silent_fail` |", "|---|---|---|---|---|"]
    lines += [f"| {happening} | {' | '.join(expected)} |" for happening, (_, expected) in MATRIX.items()]
    assert "\n".join(lines) in GUIDE.read_text(), "\n".join(lines)


def test_the_guide_speaks_of_every_option():
    text = GUIDE.read_text()
    for option in (
        *OPTIONS[1:],
        "timeout",
        "execution_timeout",
        "exponential_backoff",
        "max_wait",
        "retries",
    ):
        assert re.search(rf"`{option}`", text), option
