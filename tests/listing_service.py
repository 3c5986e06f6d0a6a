"""Lists and describes segment jobs as a test says: in any order, in pages of any size, and oddly."""

from __future__ import annotations

import asyncio
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

from scripted_endpoint import SOLUTION_VERSION_ARN, Answer, error, job_arn

ORDERS: dict[str, Callable[[list[dict[str, Any]]], list[dict[str, Any]]]] = {
    "newest first": lambda jobs: jobs[::-1],
    "oldest first": lambda jobs: jobs,
    "none": lambda jobs: sorted(jobs, key=lambda job: zlib.crc32(job["jobName"].encode())),
}


class ListingService:
    """
    Answers a :class:`ScriptedEndpoint`. Its clock stands still until a test moves it.

    :param order: one of :data:`ORDERS`
    :param page_size: jobs on a page
    :param now: the time, in seconds since the epoch
    """

    def __init__(self, order: str = "newest first", page_size: int = 100, now: float = 0.0) -> None:
        self.order = order
        self.page_size = page_size
        self.now = now
        self.jobs: dict[str, dict[str, Any]] = {}
        self.calls: Counter[str] = Counter()
        self.faults: list[Answer] = []
        self.lock = threading.Lock()
        self.rate: float | None = None
        """Calls a second that are answered, in a burst as many as in a second; the others are throttled."""
        self.throttled = self.later_pages = 0
        self._tokens, self._filled = 0.0, 0.0
        self.odd: Callable[[dict[str, Any]], dict[str, Any]] = lambda summary: summary

    def create(self, name: str, *, age: float = 0.0, **members: Any) -> str:
        """
        Create a job that waits.

        :param name: its name
        :param age: how many seconds ago
        :param members: members that the test replaces
        """
        arn = job_arn(name)
        with self.lock:
            self.jobs[name] = {
                "batchSegmentJobArn": arn,
                "jobName": name,
                "status": "CREATE IN_PROGRESS",
                "solutionVersionArn": SOLUTION_VERSION_ARN,
                "creationDateTime": self.now - age,
                "lastUpdatedDateTime": self.now - age,
            } | members
        return arn

    def end(self, name: str, status: str = "ACTIVE", *, age: float = 0.0) -> str:
        """
        End a job.

        :param name: its name
        :param status: its last status
        :param age: how many seconds ago
        """
        with self.lock:
            self.jobs[name] |= {"status": status, "lastUpdatedDateTime": self.now - age}
            return str(self.jobs[name]["batchSegmentJobArn"])

    def answer(self, operation: str, parameters: dict[str, Any]) -> Answer:
        with self.lock:
            if self._is_throttled():
                self.throttled += 1
                return error("ThrottlingException")
            self.calls[operation] += 1
            self.later_pages += "nextToken" in parameters
            if self.faults:
                return self.faults.pop()
            if operation == "ListBatchSegmentJobs":
                return self.list(parameters)
            if operation == "DescribeBatchSegmentJob":
                name = parameters["batchSegmentJobArn"].rpartition("/")[2]
                job = self.jobs.get(name)
                return Answer({"batchSegmentJob": job}) if job else error("ResourceNotFoundException")
            return error("AccessDeniedException")

    def _is_throttled(self) -> bool:
        if self.rate is None:
            return False
        now = time.monotonic()
        self._tokens = min(self.rate, self._tokens + (now - self._filled) * self.rate)
        self._filled = now
        if self._tokens < 1:
            return True
        self._tokens -= 1
        return False

    def list(self, parameters: dict[str, Any]) -> Answer:
        jobs = ORDERS[self.order](list(self.jobs.values()))
        start = int(parameters.get("nextToken", 0))
        page = jobs[start : start + self.page_size]
        end = start + len(page)
        following = {"nextToken": str(end)} if end < len(jobs) else {}
        return Answer({"batchSegmentJobs": [self.odd(dict(each)) for each in page], **following})


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """
    Wait on the event loop until a condition holds.

    :param condition: the condition
    :param seconds: how long, at the most
    """
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def next_looks(service: ListingService, number: int = 3) -> None:
    """
    Wait until so many looks have begun; what the last but one saw has arrived by then.

    :param service: the service that the looks ask
    :param number: how many looks
    """
    wanted = service.calls["ListBatchSegmentJobs"] + number
    await until(lambda: service.calls["ListBatchSegmentJobs"] >= wanted)
