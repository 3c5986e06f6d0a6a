from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import boto3
import pytest
from lines import STRICT

from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.testing import LocalPersonalize, mock_personalize
from airflow_provider_personalize_segments.testing.ports import hold_port
from airflow_provider_personalize_segments.testing.server import main

PROJECT = Path(__file__).parents[2]
COMMAND = [sys.executable, *STRICT, "-m", "airflow_provider_personalize_segments.testing.server"]
FIRST_LINE = r"Personalize and S3 at (http://127\.0\.0\.1:\d+); export AIRFLOW_CONN_AWS_DEFAULT=(.+)\n"
RAW_REQUEST = (
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
    b"X-Amz-Target: AmazonPersonalize.ListBatchSegmentJobs\r\n"
    b"Authorization: AWS4-HMAC-SHA256 Credential=x/20250101/us-east-1/personalize/aws4_request\r\n\r\n{}"
)


def refuses_connections(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def port_of(control):
    return int(control.endpoint_url.rpartition(":")[2])


class TestLocalPersonalize:
    def test_it_is_on_loopback_only(self):
        with LocalPersonalize() as local:
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+", local.endpoint_url)
            assert local._server.socket.getsockname()[0] == "127.0.0.1"

    def test_nothing_is_left(self, served):
        before = set(threading.enumerate())
        with LocalPersonalize() as local:
            served.control = local
            clients = [served.client() for _ in range(3)]
            for client in clients:
                client.list_batch_segment_jobs()
            port = port_of(local)
            assert "local-personalize" in [thread.name for thread in threading.enumerate()]
        # Threads of earlier tests may end meanwhile.
        assert set(threading.enumerate()) <= before
        assert refuses_connections(port)
        assert local._server is None

    def test_a_client_that_says_nothing_does_not_hold_it(self):
        before = set(threading.enumerate())
        with LocalPersonalize() as local:
            silent = socket.create_connection(("127.0.0.1", port_of(local)))
            half = socket.create_connection(("127.0.0.1", port_of(local)))
            half.sendall(b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
            while len(local._server._connections) < 2:
                threading.Event().wait(0.01)
        for connection in (silent, half):
            connection.close()
        assert set(threading.enumerate()) <= before

    def test_again_on_the_same_port_and_empty(self):
        with hold_port() as port:
            with LocalPersonalize(port=port) as local:
                local.add_solution_version()
            with LocalPersonalize(port=port) as local:
                assert port_of(local) == port
                assert local.backend("us-east-1").solution_versions == {}

    def test_start_and_stop(self):
        local = LocalPersonalize()
        with pytest.raises(RuntimeError, match="not running"):
            _ = local.endpoint_url
        assert local.start() is local
        port = port_of(local)
        local.stop()
        local.stop()
        assert refuses_connections(port)
        with mock_personalize():
            pass

    def test_a_port_that_is_taken(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with pytest.raises(OSError, match="in use"):
                LocalPersonalize(port=taken.getsockname()[1]).start()
        with LocalPersonalize() as local:
            assert local.endpoint_url

    def test_a_dropped_connection_is_a_closed_socket(self):
        with LocalPersonalize() as local, socket.create_connection(("127.0.0.1", port_of(local))) as raw:
            local.faults.drop_connection()
            raw.settimeout(10)
            raw.sendall(RAW_REQUEST)
            assert raw.recv(100) == b""
            assert local.calls.count("ListBatchSegmentJobs") == 1

    def test_motos_reset_over_http(self, served):
        control = served.open()
        control.add_job(BatchJobKind.SEGMENT, "a", solution_version_arn=control.add_solution_version())
        request = urllib.request.Request(f"{control.endpoint_url}/moto-api/reset", b"", method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200
        assert served.client().list_batch_segment_jobs()["batchSegmentJobs"] == []

    def test_many_at_once(self, served, make_request):
        control = served.open(progress="by_hand")
        arn = control.add_solution_version()
        clients = [served.client() for _ in range(8)]
        created, refused = [], []

        def work(number):
            request = make_request(arn, jobName=f"job-{number}")
            try:
                created.append(clients[number].create_batch_segment_job(**request)["batchSegmentJobArn"])
            except clients[number].exceptions.LimitExceededException:
                refused.append(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(created), len(refused)) == (5, 3)

    def test_another_process(self, served):
        control = served.open()
        control.add_job(BatchJobKind.SEGMENT, "a", solution_version_arn=control.add_solution_version())
        script = (
            "import boto3\n"
            "client = boto3.client('personalize')\n"
            "print([job['jobName'] for job in client.list_batch_segment_jobs()['batchSegmentJobs']])\n"
        )
        environment = {
            "AWS_ENDPOINT_URL": control.endpoint_url,
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout == "['a']\n", done.stderr


class TestCommand:
    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
    def test_it_runs_until_it_is_told_to_stop(self, how):
        process = subprocess.Popen(
            [*COMMAND, "--port", "0", "--recipe", "aws-sims", "--seconds", "0"],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                first, second = process.stdout.readline(), process.stdout.readline()
                match = re.fullmatch(FIRST_LINE, first)
                assert match, first + process.stderr.read()
                [connection] = shlex.split(match[2])
                assert json.loads(connection)["extra"]["endpoint_url"] == match[1]
                arn = second.removeprefix("Solution version ").strip()
                client = boto3.client(
                    "personalize",
                    region_name="us-east-1",
                    endpoint_url=match[1],
                    aws_access_key_id="x",
                    aws_secret_access_key="x",
                )
                version = client.describe_solution_version(solutionVersionArn=arn)["solutionVersion"]
                assert version["recipeArn"].endswith("/aws-sims")
                client.close()
            finally:
                process.send_signal(how)
            rest, errors = process.communicate(timeout=30)
        assert (process.returncode, rest, errors) == (0, "", "")

    def test_wrong_options(self, capsys):
        with pytest.raises(SystemExit, match="2"):
            main(["--recipe", "aws-unknown"])
        assert "aws-item-affinity" in capsys.readouterr().err
