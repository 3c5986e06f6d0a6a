from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_personalize_segments.jobs import BatchJobKind


class TestList:
    @pytest.fixture(autouse=True)
    def _listing(self, inside):
        control = inside.open()
        self.versions = [control.add_solution_version(name) for name in ("one", "two")]
        self.arns = [
            control.add_job(
                BatchJobKind.SEGMENT, f"job-{number}", solution_version_arn=self.versions[number % 3 == 0]
            )
            for number in range(57)
        ]
        self.control, self.client = control, inside.client()

    def pages(self, **asked):
        paginator = self.client.get_paginator("list_batch_segment_jobs")
        return [page["batchSegmentJobs"] for page in paginator.paginate(**asked)]

    # Listing changes nothing, so the examples may share the jobs.
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
    @given(size=st.integers(min_value=1, max_value=100))
    def test_every_job_exactly_once_for_any_page_size(self, size):
        pages = self.pages(PaginationConfig={"PageSize": size})
        assert sorted(job["batchSegmentJobArn"] for page in pages for job in page) == sorted(self.arns)
        assert all(len(page) <= size for page in pages)

    def test_page_sizes_may_change_on_the_way(self):
        first = self.client.list_batch_segment_jobs(maxResults=10)
        second = self.client.list_batch_segment_jobs(maxResults=100, nextToken=first["nextToken"])
        assert len(first["batchSegmentJobs"]) + len(second["batchSegmentJobs"]) == 57
        assert "nextToken" not in second

    def test_only_one_solution_version(self):
        found = [
            {job["batchSegmentJobArn"] for page in self.pages(solutionVersionArn=version) for job in page}
            for version in self.versions
        ]
        assert [len(each) for each in found] == [38, 19]
        assert found[0] | found[1] == set(self.arns)

    def test_summaries_have_exactly_these_members(self):
        self.control.add_job(
            BatchJobKind.SEGMENT,
            "broken",
            solution_version_arn=self.versions[0],
            status="CREATE FAILED",
            failure_reason="no luck",
        )
        members = {"batchSegmentJobArn", "jobName", "status", "solutionVersionArn"}
        members |= {"creationDateTime", "lastUpdatedDateTime"}
        for page in self.pages():
            for job in page:
                failed = job["status"] == "CREATE FAILED"
                assert set(job) == members | ({"failureReason"} if failed else set())

    @pytest.mark.parametrize("size", [2, 3, 10, 56])
    def test_the_last_of_a_page_again_on_the_next(self, size):
        self.control.duplicate_across_pages()
        pages = self.pages(PaginationConfig={"PageSize": size})
        assert len(pages) > 1
        for page, following in itertools.pairwise(pages):
            assert page[-1] == following[0]
        assert {job["batchSegmentJobArn"] for page in pages for job in page} == set(self.arns)
        self.control.duplicate_across_pages(False)
        assert sum(map(len, self.pages(PaginationConfig={"PageSize": size}))) == 57

    def test_other_kinds_and_regions_are_not_listed(self, inside):
        assert self.client.list_batch_inference_jobs()["batchInferenceJobs"] == []
        assert inside.client(region_name="eu-west-1").list_batch_segment_jobs()["batchSegmentJobs"] == []

    @pytest.mark.parametrize(
        "change", ["nonsense", "made up", "other solution version", "other kind", "too far"]
    )
    def test_a_token_of_no_page_of_this_listing(self, change):
        first = self.client.list_batch_segment_jobs(maxResults=50)
        token, asked, method = first["nextToken"], {}, self.client.list_batch_segment_jobs
        if change == "nonsense":
            token = "???"
        elif change == "made up":
            token = token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB")
        elif change == "other solution version":
            asked = {"solutionVersionArn": self.versions[0]}
        elif change == "other kind":
            method = self.client.list_batch_inference_jobs
        else:
            self.control._backends.reset()
        with pytest.raises(self.client.exceptions.InvalidNextTokenException, match="token is not valid"):
            method(nextToken=token, **asked)

    def test_twelve_thousand_jobs(self):
        version = self.control.add_solution_version("many")
        for number in range(12_000):
            self.control.add_job(BatchJobKind.SEGMENT, f"many-{number}", solution_version_arn=version)
        names = [job["jobName"] for page in self.pages(solutionVersionArn=version) for job in page]
        assert len(names) == len(set(names)) == 12_000
        assert self.control.calls.count("ListBatchSegmentJobs") == 120
