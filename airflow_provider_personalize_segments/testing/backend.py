"""The store of batch jobs, one per account and region, beside solution versions and moto's schemas."""

from __future__ import annotations

import base64
import hashlib
import heapq
import itertools
import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from moto.personalize import urls

from airflow_provider_personalize_segments.jobs import (
    ACTIVE_STATUS,
    FAILED_STATUS,
    BatchJobKind,
    normalize_status,
)
from airflow_provider_personalize_segments.testing.exceptions import (
    InvalidInputException,
    InvalidNextTokenException,
    LimitExceededException,
    ResourceAlreadyExistsException,
    ResourceInUseException,
    ResourceNotFoundException,
)
from airflow_provider_personalize_segments.testing.output import JobOutputError, JobRun
from airflow_provider_personalize_segments.testing.records import (
    BatchJob,
    Settings,
    read_clock,
)
from airflow_provider_personalize_segments.testing.solution_versions import SolutionVersionsBackend
from airflow_provider_personalize_segments.testing.validation import (
    DEFAULT_MODE,
    DEFAULT_NUM_RESULTS,
    check_job,
    check_tag_count,
)

MAX_UNFINISHED_JOBS = 5
DEFAULT_PAGE_SIZE = 100


class BatchJobsBackend(SolutionVersionsBackend):
    """
    moto's Personalize backend with solution versions and batch jobs of both kinds.

    Callers hold one lock around every method, so none is taken here.
    """

    def __init__(self, region_name: str, account_id: str, settings: Settings) -> None:
        super().__init__(region_name, account_id, settings)
        self.url_module: Any = urls
        self.jobs: dict[str, BatchJob] = {}
        self._listings: defaultdict[tuple[str, str | None], list[BatchJob]] = defaultdict(list)
        self._tags: dict[str, dict[str, str]] = {}
        self._due: list[tuple[float, int, BatchJob]] = []
        self._order = itertools.count()

    def reset(self) -> None:
        """Forget everything but the caller's settings, when moto is reset."""
        url_module = self.url_module
        # As moto's own backends start afresh: in place, since others hold on to this one.
        self.__init__(self.region_name, self.account_id, self.settings)  # type: ignore[misc]
        self.url_module = url_module

    @property
    def _url_module(self) -> Any:
        return self.url_module

    # --- Jobs -------------------------------------------------------------------------------------

    def create_job(self, kind: BatchJobKind, request: Mapping[str, Any]) -> str:
        """
        Judge the request and start the job.

        :param kind: the kind of job
        :param request: the members of the Create request
        """
        members = {"numResults": DEFAULT_NUM_RESULTS, **request}
        if "batchInferenceJobMode" in kind.create_only_members:
            members.setdefault("batchInferenceJobMode", DEFAULT_MODE)
        tags = {tag["tagKey"]: tag["tagValue"] for tag in members.pop("tags", ())}
        arn = self.job_arn(kind, members["jobName"])
        version = self.find_solution_version(members["solutionVersionArn"])
        check_job(kind, members, version.recipe, self.region_name)
        check_tag_count(len(tags))
        if arn in self.jobs:
            raise ResourceAlreadyExistsException(arn)
        if version.status != ACTIVE_STATUS:
            raise ResourceInUseException(f"The solution version {version.arn} is {version.status}.")
        unfinished = sum(not job.is_finished for job in self.jobs.values() if job.kind is kind)
        if unfinished >= MAX_UNFINISHED_JOBS:
            raise LimitExceededException(
                f"More than {MAX_UNFINISHED_JOBS} {kind.title}s with PENDING or IN_PROGRESS status."
            )
        now = read_clock()
        job = BatchJob(kind, arn, members, self.settings.steps[0], now, now)
        self.put_job(job)
        self._tags[arn] = tags
        self.settings.on_change(job.describe(), None, job.status, now)
        self._set_off(job, now)
        return arn

    def put_on_course(self, job: BatchJob) -> None:
        """
        Let a job advance by itself from now on, if it does not yet and is unfinished.

        :param job: the job
        """
        if not job.on_course and not job.is_finished:
            job.on_course = True
            self._set_off(job, read_clock())

    def _set_off(self, job: BatchJob, now: float) -> None:
        if self.settings.progress == "immediately":
            while not job.is_finished:
                self.advance(job, now)
        elif self.settings.progress == "by_time":
            self._plan(job, now)

    def put_job(self, job: BatchJob) -> None:
        """
        Store a job as it is.

        :param job: the job; its name must be free
        """
        if job.arn in self.jobs:
            raise ResourceAlreadyExistsException(job.arn)
        self.jobs[job.arn] = job
        for solution_version_arn in (None, job.request["solutionVersionArn"]):
            self._listings[job.kind.name, solution_version_arn].append(job)

    def describe_job(self, kind: BatchJobKind, arn: str) -> dict[str, Any]:
        """
        Look at a job.

        :param kind: the kind of job
        :param arn: the job's ARN
        """
        job = self.jobs.get(arn)
        if job is None or job.kind is not kind:
            raise ResourceNotFoundException(arn)
        self._look(job)
        return job.describe()

    def list_jobs(
        self, kind: BatchJobKind, solution_version_arn: str | None, max_results: int | None, token: str | None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """
        Look at one page of jobs; return their summaries and the token of the next page.

        :param kind: the kind of job
        :param solution_version_arn: the only solution version whose jobs will do; ``None`` takes all
        :param max_results: the most jobs to return
        :param token: where the page before ended
        """
        if solution_version_arn is not None and solution_version_arn not in self.solution_versions:
            # List has no ResourceNotFoundException among its errors.
            raise InvalidInputException(f"Resource Arn {solution_version_arn} does not exist.")
        listing = self._listings.get((kind.name, solution_version_arn), [])
        start = self._read_token(token, kind, solution_version_arn, len(listing)) if token else 0
        size = max_results or DEFAULT_PAGE_SIZE
        if self.settings.duplicate_across_pages and start and size > 1:
            start -= 1
        page = listing[start : start + size]
        for job in page:
            self._look(job)
        end = start + len(page)
        following = self._make_token(kind, solution_version_arn, end) if end < len(listing) else None
        return [job.summarize() for job in page], following

    def _make_token(self, kind: BatchJobKind, solution_version_arn: str | None, offset: int) -> str:
        content = json.dumps([self.make_arn(kind.arn_resource), solution_version_arn, offset]).encode()
        return base64.urlsafe_b64encode(hashlib.sha256(content).digest()[:6] + content).decode()

    def _read_token(
        self, token: str, kind: BatchJobKind, solution_version_arn: str | None, length: int
    ) -> int:
        try:
            offset = int(json.loads(base64.urlsafe_b64decode(token)[6:])[2])
        except (ValueError, LookupError, TypeError):
            raise InvalidNextTokenException from None
        if offset >= length or token != self._make_token(kind, solution_version_arn, offset):
            raise InvalidNextTokenException
        return offset

    # --- Progress ---------------------------------------------------------------------------------

    def settle(self, now: float) -> None:
        """
        Carry out what has become due, in order, each change at the time it was due.

        :param now: the time, in seconds since the epoch
        """
        while self._due and self._due[0][0] <= now:
            due, _, job = heapq.heappop(self._due)
            if job.due == due:
                self.advance(job, due)

    def advance(self, job: BatchJob, when: float) -> None:
        """
        Take a job one step further; a finished one stays as it is.

        :param job: the job
        :param when: when this happens, in seconds since the epoch
        """
        if job.is_finished:
            return
        # Whether seeded with documented or observed statuses, a job knows where it stands.
        names = [normalize_status(step) for step in self.settings.steps[:-1]]
        status = normalize_status(job.status)
        position = names.index(status) + 1 if status in names else len(names)
        if position < len(names):
            self.set_status(job, self.settings.steps[position], when)
            if job.on_course and self.settings.progress == "by_time":
                self._plan(job, when)
        else:
            reason = self._finish(job, when)
            self.set_status(job, FAILED_STATUS if reason else ACTIVE_STATUS, when, reason)

    def set_status(self, job: BatchJob, status: str, when: float, failure_reason: str | None = None) -> None:
        """
        Give a job a status.

        :param job: the job
        :param status: any status
        :param when: when this happens, in seconds since the epoch
        :param failure_reason: why it failed
        """
        old, job.status, job.failure_reason = job.status, status, failure_reason
        job.updated, job.looks, job.due = when, 0, None
        self.settings.on_change(job.describe(), old, status, when)

    def _plan(self, job: BatchJob, now: float) -> None:
        job.due = now + self.settings.seconds
        heapq.heappush(self._due, (job.due, next(self._order), job))

    def _look(self, job: BatchJob) -> None:
        if self.settings.progress == "by_call" and job.on_course and not job.is_finished:
            if job.looks >= self.settings.calls:
                self.advance(job, read_clock())
            job.looks += 1

    def _finish(self, job: BatchJob, when: float) -> str | None:
        """Return why the job fails, if it does; otherwise its output is written."""
        return self.settings.failure_of(job.arn, job.request["jobName"]) or self.write_output(job, when)

    def write_output(self, job: BatchJob, when: float) -> str | None:
        """
        Write what a job leaves when it succeeds; return why it cannot be written, if it cannot.

        :param job: the job
        :param when: when it becomes ACTIVE, in seconds since the epoch
        """
        recipe = self.solution_versions[job.request["solutionVersionArn"]].recipe
        run = JobRun(
            job.kind, self.account_id, self.region_name, recipe, job.request, self.settings.population
        )
        try:
            if job.output is not None:
                run.write_records(job.output, job.created, when)
            elif job.has_output:
                run.write(when)
        except JobOutputError as error:
            return str(error)
        return None

    # --- Tags -------------------------------------------------------------------------------------

    def list_tags(self, arn: str) -> dict[str, str]:
        """
        Return the tags of a job or solution version, for reading and changing.

        :param arn: its ARN
        """
        if arn not in self.jobs and arn not in self.solution_versions:
            raise ResourceNotFoundException(arn)
        return self._tags.setdefault(arn, {})

    def tag(self, arn: str, tags: Mapping[str, str]) -> None:
        """
        Add tags, replacing those of the same key.

        :param arn: ARN of the job or solution version
        :param tags: values by key
        """
        present = self.list_tags(arn)
        check_tag_count(len({*present, *tags}))
        present.update(tags)

    def job_arn(self, kind: BatchJobKind, job_name: str) -> str:
        """
        Return the ARN that a job of this account and region has, or would have.

        :param kind: the kind of job
        :param job_name: name of the job
        """
        return self.make_arn(f"{kind.arn_resource}/{job_name}")
