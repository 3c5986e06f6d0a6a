"""Answers DescribeBatchSegmentJob on the loopback interface, fast enough to leave the time to who calls it.

It speaks just enough HTTP/1.1 and JSON 1.1 for boto3 and aiobotocore, counts what it is asked in memory that
it shares with the process under measurement, and ends, with a report on stdout, when its stdin is closed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import struct
import sys
import time
from array import array
from pathlib import Path

ACCOUNT = "arn:aws:personalize:eu-west-1:123456789012"
JOB_PREFIX = f"{ACCOUNT}:batch-segment-job/waiting-"


class Counters:
    """
    Figures that endpoint and measured process share through a file in memory, without a call that counts.

    Times are those of ``time.monotonic()``, which all processes of a machine have in common.

    :param path: the file; made when it does not exist
    """

    calls: int
    """How many requests arrived, throttled ones among them."""
    jobs: int
    """How many different jobs were described."""
    callers: int
    """How many different connections described a job."""
    most_open: int
    """How many connections were open at the same time, at most."""
    active_at: float
    """When the first job turns ACTIVE; 0 means not yet known."""

    _FIELDS = ("calls", "jobs", "callers", "most_open", "active_at")

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(8 * len(self._FIELDS)))
        with path.open("r+b") as file:
            object.__setattr__(self, "_memory", mmap.mmap(file.fileno(), 0))

    def __getattr__(self, name: str) -> float:
        value: float = struct.unpack_from("d", self._memory, 8 * self._FIELDS.index(name))[0]
        return value

    def __setattr__(self, name: str, value: float) -> None:
        struct.pack_into("d", self._memory, 8 * self._FIELDS.index(name), value)


class Endpoint(asyncio.Protocol):
    """
    One connection.

    :param service: what all connections have in common
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.buffer = b""
        self.has_called = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection."""
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport
        self.service.open += 1
        self.service.counters.most_open = max(self.service.counters.most_open, self.service.open)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it no more."""
        self.service.open -= 1

    def data_received(self, data: bytes) -> None:
        """Answer all requests that are complete."""
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            end += 4 + length
            if len(self.buffer) < end:
                return
            body, self.buffer = self.buffer[end - length : end], self.buffer[end:]
            if not self.has_called:
                self.has_called = True
                self.service.counters.callers += 1
            job_arn = json.loads(body)["batchSegmentJobArn"]
            self.transport.write(self.service.answer(int(job_arn.removeprefix(JOB_PREFIX))))


class Service:
    """
    What is known of the jobs, and how often it was asked.

    :param counters: the shared counters
    :param spread: seconds over which the jobs turn ACTIVE, one after the other
    :param jobs: how many jobs there are
    :param rate: calls per second above which it throttles; 0 means never
    """

    def __init__(self, counters: Counters, spread: float, jobs: int, rate: float) -> None:
        self.counters, self.rate = counters, rate
        self.step = spread / jobs
        self.open = 0
        self.throttled = 0
        self.times = array("d")
        self._seen: set[int] = set()
        self._tokens, self._filled_at = rate, time.monotonic()
        self._throttle = _response(
            "400 Bad Request", {"__type": "ThrottlingException", "message": "Rate exceeded"}
        )

    def answer(self, job: int) -> bytes:
        """Return the response to a Describe."""
        now = time.monotonic()
        counters = self.counters
        self.times.append(now)
        counters.calls = len(self.times)
        if self.rate:
            self._tokens = min(self.rate, self._tokens + (now - self._filled_at) * self.rate)
            self._filled_at = now
            if self._tokens < 1:
                self.throttled += 1
                return self._throttle
            self._tokens -= 1
        self._seen.add(job)
        counters.jobs = len(self._seen)
        active_at = counters.active_at
        is_active = active_at and now >= active_at + job * self.step
        return _response("200 OK", {"batchSegmentJob": _describe(job, bool(is_active))})


def _describe(job: int, is_active: bool) -> dict[str, object]:
    return {
        "jobName": f"waiting-{job}",
        "batchSegmentJobArn": f"{JOB_PREFIX}{job}",
        "solutionVersionArn": f"{ACCOUNT}:solution/affinity/5f2c1a90",
        "numResults": 25,
        "jobInput": {"s3DataSource": {"path": f"s3://segments/input/{job}.json"}},
        "jobOutput": {"s3DataDestination": {"path": "s3://segments/output/"}},
        "roleArn": "arn:aws:iam::123456789012:role/personalize",
        "status": "ACTIVE" if is_active else "CREATE IN_PROGRESS",
        "creationDateTime": 1767225600.0,
        "lastUpdatedDateTime": 1767225600.0,
    }


def _response(status: str, body: dict[str, object]) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/x-amz-json-1.1\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def serve(service: Service) -> None:
    """Print the port, and answer until stdin is closed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Endpoint(service), "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


def main() -> None:
    """Serve, then print the time of each call."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counters", type=Path, required=True)
    parser.add_argument("--spread", type=float, required=True)
    parser.add_argument("--jobs", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    options = parser.parse_args()
    service = Service(Counters(options.counters), options.spread, options.jobs, options.rate)
    asyncio.run(serve(service))
    print(
        json.dumps(
            {
                "times": list(service.times),
                "throttled": service.throttled,
                "connections": int(service.counters.most_open),
            }
        )
    )


if __name__ == "__main__":
    main()
