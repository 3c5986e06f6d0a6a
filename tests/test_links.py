"""Links to the console: their addresses, and that they are pushed whatever goes wrong on the way."""

from __future__ import annotations

import importlib
import json
import logging
import re
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_personalize_segments import links
from airflow_provider_personalize_segments.airflow_compat import BaseOperatorLink
from airflow_provider_personalize_segments.hooks import PersonalizeHook
from airflow_provider_personalize_segments.jobs import BATCH_JOB_KINDS, BatchJobKind
from airflow_provider_personalize_segments.links import (
    LINKS,
    PersonalizeConsoleLink,
    PersonalizeLink,
    has_links,
    make_dataset_group_url,
    make_output_url,
    make_personalize_url,
    push_links,
)
from airflow_provider_personalize_segments.provider_info import get_provider_info
from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor
from airflow_provider_personalize_segments.testing import LocalPersonalize

GROUP_ARN = "arn:aws:personalize:us-east-1:123456789012:dataset-group/shop"
CONSOLE = "https://console.aws.amazon.com"
GROUP_URL = (
    f"{CONSOLE}/personalize/home?region=us-east-1"
    "#arn:aws:personalize:us-east-1:123456789012:dataset-group$shop/setup"
)
FIRST_PAGE_URL = f"{CONSOLE}/personalize/home?region=us-east-1"
OUTPUT_URL = f"{CONSOLE}/s3/buckets/example-bucket?region=us-east-1&prefix=output%2F"
CONSOLE_KEY, OUTPUT_KEY = "_link_PersonalizeConsoleLink", "_link_S3OutputLink"
ELSEWHERE = ["aws-us-gov", "aws-iso", "aws-iso-b", ""]
"""Partitions without Amazon Personalize."""

log = logging.getLogger("links")


class TaskInstance:
    """
    As much of Airflow's as links ask for.

    :param errors: what each pushing raises, in order
    """

    task_id, map_index = "wait", -1

    def __init__(self, *errors):
        self.xcoms = {}
        self._errors = list(errors)

    def xcom_push(self, key, value):
        error = self._errors.pop(0) if self._errors else None
        if error:
            raise error
        self.xcoms[key] = value

    def xcom_pull(self, task_ids, key, map_indexes):
        assert (task_ids, map_indexes) == (self.task_id, self.map_index)
        return self.xcoms.get(key)


@pytest.fixture
def local(monkeypatch):
    with LocalPersonalize() as local:
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", local.airflow_connection())
        yield local


@pytest.fixture
def hook(local):
    hook = PersonalizeHook().without_retries()
    yield hook
    hook.close()


@pytest.fixture
def job(local, hook):
    version = local.add_solution_version("linked", dataset_group="shop")
    arn = local.add_job(BatchJobKind.SEGMENT, "weekly", solution_version_arn=version)
    job = hook.describe_job(arn)
    local.clear_calls()
    return job


def push(hook, job, ti=None):
    ti = ti or TaskInstance()
    push_links({"ti": ti}, hook, job, log)
    return ti.xcoms


def lines(caplog):
    return [f"{each.levelname} {each.getMessage()}" for each in caplog.records if each.name == "links"]


class TestAddresses:
    def test_of_a_dataset_group(self):
        assert make_dataset_group_url(GROUP_ARN) == GROUP_URL

    def test_of_the_consoles_first_page(self):
        assert make_personalize_url("aws", "us-east-1") == FIRST_PAGE_URL

    def test_of_the_output(self):
        assert make_output_url("aws", "us-east-1", "s3://example-bucket/output/") == OUTPUT_URL

    def test_in_china(self):
        arn = "arn:aws-cn:personalize:cn-north-1:123456789012:dataset-group/shop"
        home = "https://console.amazonaws.cn/personalize/home?region=cn-north-1"
        assert make_personalize_url("aws-cn", "cn-north-1") == home
        assert make_dataset_group_url(arn) == f"{home}#{arn.replace('/', '$')}/setup"
        assert make_output_url("aws-cn", "cn-north-1", "s3://shop/out/") == (
            "https://console.amazonaws.cn/s3/buckets/shop?region=cn-north-1&prefix=out%2F"
        )

    @pytest.mark.parametrize("partition", ELSEWHERE)
    def test_elsewhere_are_none(self, partition):
        assert make_personalize_url(partition, "us-gov-west-1") == ""
        assert make_dataset_group_url(GROUP_ARN.replace(":aws:", f":{partition}:")) == ""
        assert make_output_url(partition, "us-gov-west-1", "s3://shop/out/") == ""

    @given(st.from_regex(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", fullmatch=True), st.text(max_size=50))
    def test_have_any_prefix_quoted(self, bucket, prefix):
        url = make_output_url("aws", "eu-west-1", f"s3://{bucket}/{prefix}")
        parts = urlsplit(url)
        assert url.isascii()
        assert parts.path == f"/s3/buckets/{bucket}"
        assert parts.fragment == ""
        query = parse_qs(parts.query, keep_blank_values=True, strict_parsing=True)
        assert query == {"region": ["eu-west-1"], "prefix": [prefix]}

    @pytest.mark.parametrize(
        ("path", "query"),
        [
            ("s3://shop", "region=us-east-1&prefix="),
            ("s3://shop/a&b=c#d?e/", "region=us-east-1&prefix=a%26b%3Dc%23d%3Fe%2F"),
            ("s3://shop/50%/ü x/", "region=us-east-1&prefix=50%25%2F%C3%BC+x%2F"),
        ],
    )
    def test_of_odd_prefixes(self, path, query):
        assert make_output_url("aws", "us-east-1", path) == f"{CONSOLE}/s3/buckets/shop?{query}"


class TestLinks:
    def test_have_a_name_and_a_key_each(self):
        assert [(link.name, link.xcom_key) for link in LINKS] == [
            ("Amazon Personalize console", CONSOLE_KEY),
            ("Job output in S3", OUTPUT_KEY),
        ]

    def test_are_all_there_are(self):
        assert {type(link) for link in LINKS} == set(PersonalizeLink.__subclasses__())
        assert all(isinstance(link, BaseOperatorLink) for link in LINKS)

    def test_are_what_airflow_is_told_of(self):
        listed = set()
        for path in get_provider_info()["extra-links"]:
            module, _, name = path.rpartition(".")
            listed.add(getattr(importlib.import_module(module), name))
        assert listed == {type(link) for link in LINKS}

    @pytest.mark.parametrize(("stored", "url"), [(GROUP_URL, GROUP_URL), (None, ""), ("", "")])
    def test_show_what_was_pushed(self, monkeypatch, stored, url):
        asked = []

        class XCom:
            @staticmethod
            def get_value(*, key, ti_key):
                asked.append((key, ti_key))
                return stored

        monkeypatch.setattr(links, "XCom", XCom)
        assert PersonalizeConsoleLink().get_link(None, ti_key="the key") == url
        assert asked == [(CONSOLE_KEY, "the key")]


class TestHas:
    def test_tells_whether_they_were_pushed(self):
        ti = TaskInstance()
        assert not links.has_links({"ti": ti})
        ti.xcoms[CONSOLE_KEY] = "x"
        assert links.has_links({"ti": ti})

    @pytest.mark.parametrize("context", [{}, {"ti": object()}], ids=["no task instance", "Airflow fails"])
    def test_tells_no_where_nobody_knows(self, context):
        assert not links.has_links(context)


class TestPush:
    @pytest.fixture(autouse=True)
    def _patient(self, monkeypatch):
        """Give a busy machine time; test_hanging_calls.py shows that a call that hangs is given up."""
        monkeypatch.setattr(links, "PATIENCE", 60.0)

    def test_makes_both_links_at_the_cost_of_one_call(self, local, hook, job):
        assert push(hook, job) == {CONSOLE_KEY: GROUP_URL, OUTPUT_KEY: OUTPUT_URL}
        assert [call.operation for call in local.calls] == ["DescribeSolutionVersion"]

    @pytest.mark.parametrize("kind", BATCH_JOB_KINDS, ids=lambda kind: kind.name)
    def test_knows_a_job_of_either_kind_by_what_was_asked_for(self, local, hook, kind):
        recipe = "aws-item-affinity" if kind is BatchJobKind.SEGMENT else "aws-sims"
        version = local.add_solution_version("linked", recipe, "eu-west-1", dataset_group="shop")
        request = {
            "solutionVersionArn": version,
            "jobOutput": {"s3DataDestination": {"path": "s3://shop/out/"}},
        }
        assert push(hook, request) == {
            CONSOLE_KEY: GROUP_URL.replace("us-east-1", "eu-west-1"),
            OUTPUT_KEY: f"{CONSOLE}/s3/buckets/shop?region=eu-west-1&prefix=out%2F",
        }
        assert local.calls[-1].region_name == "eu-west-1"

    @pytest.mark.parametrize(
        ("fault", "options", "words"),
        [
            ("deny_access", {}, "AccessDeniedException: .*was refused for"),
            ("expired_token", {}, "ExpiredTokenException: .*was refused for"),
            ("throttle", {}, "ThrottlingException: .*did not succeed for"),
            ("server_error", {"status": 503}, "ServiceUnavailable.*did not succeed for"),
            ("drop_connection", {}, "ConnectionClosedError: .*did not succeed for"),
            (
                "malformed",
                {},
                "ResponseParserError: the response has no solutionVersion.*did not succeed for",
            ),
        ],
    )
    def test_leads_to_the_first_page_where_aws_does_not_tell(
        self, local, hook, job, caplog, fault, options, words
    ):
        caplog.set_level(logging.INFO)
        getattr(local.faults, fault)(**options)
        assert push(hook, job) == {CONSOLE_KEY: FIRST_PAGE_URL, OUTPUT_KEY: OUTPUT_URL}
        (line,) = lines(caplog)
        assert re.match(
            f"INFO The link to the console leads to its first page only: {words}",
            line,
        )

    def test_leads_to_the_first_page_whatever_else_is_wrong(self, local, job, caplog, monkeypatch):
        caplog.set_level(logging.INFO)
        # A connection that no client can be made of.
        extra = {"region_name": "us-east-1", "config_kwargs": {"retries": 5}}
        monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps({"conn_type": "aws", "extra": extra}))
        assert push(PersonalizeHook("other"), job) == {CONSOLE_KEY: FIRST_PAGE_URL, OUTPUT_KEY: OUTPUT_URL}
        assert "leads to its first page only: 'int' object has no attribute 'items'" in lines(caplog)[0]

    def test_leads_to_the_first_page_when_the_solution_version_is_gone(self, hook, job, caplog):
        caplog.set_level(logging.INFO)
        job["solutionVersionArn"] = job["solutionVersionArn"].replace("linked", "deleted")
        assert push(hook, job) == {CONSOLE_KEY: FIRST_PAGE_URL, OUTPUT_KEY: OUTPUT_URL}
        assert "ResourceNotFoundException" in lines(caplog)[0]

    def test_leads_to_the_first_page_when_no_dataset_group_is_told(self, hook, job, caplog):
        caplog.set_level(logging.INFO)
        hook.conn.meta.events.register(
            "after-call.personalize.DescribeSolutionVersion",
            lambda parsed, **_: parsed["solutionVersion"].pop("datasetGroupArn"),
        )
        assert push(hook, job) == {CONSOLE_KEY: FIRST_PAGE_URL, OUTPUT_KEY: OUTPUT_URL}
        assert lines(caplog) == [
            "INFO The link to the console leads to its first page only: 'datasetGroupArn'"
        ]

    def test_leads_to_the_first_page_when_the_connection_is_gone(self, hook, job, caplog, monkeypatch):
        caplog.set_level(logging.INFO)
        monkeypatch.delenv("AIRFLOW_CONN_AWS_DEFAULT")
        assert push(PersonalizeHook(), job) == {CONSOLE_KEY: FIRST_PAGE_URL, OUTPUT_KEY: OUTPUT_URL}
        assert "'aws_default' does not exist" in lines(caplog)[0]

    def test_makes_none_where_there_is_no_console(self, hook, caplog):
        caplog.set_level(logging.INFO)
        version = "arn:aws-us-gov:personalize:us-gov-west-1:123456789012:solution/shop/1a2b3c4d"
        job = {
            "solutionVersionArn": version,
            "jobOutput": {"s3DataDestination": {"path": "s3://shop/out/"}},
        }
        assert push(hook, job) == {}

    @pytest.mark.parametrize("nothing", [{}, {"solutionVersionArn": None}, {"solutionVersionArn": ""}])
    def test_makes_none_of_nothing(self, local, hook, nothing):
        assert push(hook, nothing) == {}
        assert len(local.calls) == 0

    def test_makes_none_without_a_task_instance(self, local, hook, job):
        push_links({}, hook, job, log)
        assert len(local.calls) == 0

    @pytest.mark.parametrize("missing", [{}, {"jobOutput": {}}, {"jobOutput": {"s3DataDestination": {}}}])
    def test_makes_the_console_alone_where_no_output_is_known(self, hook, job, missing):
        assert push(hook, {"solutionVersionArn": job["solutionVersionArn"], **missing}) == {
            CONSOLE_KEY: GROUP_URL
        }

    def test_that_fails_is_a_warning_and_no_reason_to_lose_the_other(self, hook, job, caplog):
        assert push(hook, job, TaskInstance(RuntimeError("API server"))) == {OUTPUT_KEY: OUTPUT_URL}
        assert push(hook, job, TaskInstance(None, OSError("database"))) == {CONSOLE_KEY: GROUP_URL}
        assert lines(caplog) == [
            "WARNING The link 'Amazon Personalize console' could not be stored: API server",
            "WARNING The link 'Job output in S3' could not be stored: database",
        ]

    def test_is_remembered(self, hook, job):
        ti = TaskInstance()
        assert not has_links({"ti": ti})
        push(hook, job, ti)
        assert has_links({"ti": ti})


class TestOfADeferredSensor:
    """Which pushes links before it defers, or at its end."""

    @pytest.mark.parametrize(
        ("number", "keys"),
        [(0, {CONSOLE_KEY, OUTPUT_KEY}), (1, {CONSOLE_KEY, OUTPUT_KEY}), (2, set())],
        ids=["an answer at once", "an answer to the second call", "no answer"],
    )
    def test_are_there_when_one_of_two_calls_is_answered(self, local, number, keys):
        version = local.add_solution_version("linked", dataset_group="shop")
        arn = local.add_job(
            BatchJobKind.SEGMENT, "weekly", solution_version_arn=version, status="CREATE IN_PROGRESS"
        )
        if number:
            local.faults.throttle(number, operation="DescribeBatchSegmentJob")
        task = PersonalizeBatchSegmentJobSensor(
            task_id="wait", job_arn=arn, deferrable=True, poke_interval=0.1
        )
        ti = TaskInstance()
        ti.start_date, ti.try_number = datetime.now(UTC), 1
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - Airflow's TaskDeferred is no Exception
            task.execute({"ti": ti})
        assert type(caught.value).__name__ == "TaskDeferred"
        assert [each.operation for each in local.calls].count("DescribeBatchSegmentJob") == min(number + 1, 2)
        assert set(ti.xcoms) == keys
