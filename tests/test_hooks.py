"""The hook over real boto3 against the local Personalize: answers, identity, and faults in words."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

import botocore
import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)
from botocore.httpsession import where

from airflow_provider_personalize_segments.aws_errors import is_transient
from airflow_provider_personalize_segments.errors import (
    ConnectionNotFoundError,
    InvalidParameterError,
    PersonalizeRequestError,
    PersonalizeUnavailableError,
)
from airflow_provider_personalize_segments.hooks import PersonalizeHook
from airflow_provider_personalize_segments.jobs import BATCH_JOB_KINDS, BatchJobKind

ONE_TRY = {"retries": {"total_max_attempts": 1}}
BUNDLE = where()
EMPTY_ARN = "arn:aws:personalize:us-east-1:123456789012:batch-segment-job/none"


@pytest.fixture(autouse=True)
def connection(personalize, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", personalize.airflow_connection())


@pytest.fixture
def hook():
    return PersonalizeHook(config=ONE_TRY)


@pytest.fixture(params=BATCH_JOB_KINDS, ids=lambda kind: kind.name)
def kind(request):
    return request.param


@pytest.fixture
def version(personalize, kind):
    recipe = "aws-item-affinity" if kind is BatchJobKind.SEGMENT else "aws-user-personalization"
    return personalize.add_solution_version("hooked", recipe)


class TestDescribe:
    def test_returns_the_job_as_the_api_gives_it(self, personalize, hook, kind, version):
        arn = personalize.add_job(kind, "weekly", solution_version_arn=version, status="CREATE PENDING")
        job = hook.describe_job(arn)
        assert job[kind.arn_member] == arn
        assert job["status"] == "CREATE PENDING"
        assert isinstance(job["creationDateTime"], datetime)
        assert "ResponseMetadata" not in job

    def test_asks_in_the_region_of_the_arn(self, personalize, kind):
        recipe = "aws-item-affinity" if kind is BatchJobKind.SEGMENT else "aws-sims"
        for region in ("eu-west-1", "us-east-1", "eu-west-1"):
            version = personalize.add_solution_version("hooked", recipe, region)
            arn = personalize.add_job(kind, f"job-{len(personalize.calls)}", solution_version_arn=version)
            PersonalizeHook().describe_job(arn)
            assert personalize.calls[-1].region_name == region

    def test_makes_one_client_per_region(self, personalize, hook):
        arns = [
            personalize.add_job(
                BatchJobKind.SEGMENT,
                "a",
                solution_version_arn=personalize.add_solution_version("a", region_name=region),
            )
            for region in ("us-east-1", "eu-west-1")
        ]
        for arn in arns * 3:
            hook.describe_job(arn)
        assert len(hook._clients) == 2

    def test_a_region_that_contradicts_the_arn_is_refused_before_any_call(self, personalize):
        with pytest.raises(
            ValueError, match="contradicts the region 'us-east-1' in the ARN.* Got 'eu-west-1'"
        ):
            PersonalizeHook(region_name="eu-west-1").describe_job(EMPTY_ARN)
        assert len(personalize.calls) == 0

    def test_a_job_that_does_not_exist_is_final_and_names_everything(self, hook):
        with pytest.raises(PersonalizeRequestError) as caught:
            hook.describe_job(EMPTY_ARN)
        assert caught.value.code == "ResourceNotFoundException"
        assert str(caught.value).startswith("ResourceNotFoundException: ")
        assert str(caught.value).endswith(
            "Check the ARNs that the request names; the credentials must be those of the account in them. "
            f"(DescribeBatchSegmentJob was refused for {EMPTY_ARN}, region us-east-1, connection "
            f"'aws_default')"
        )


class TestList:
    def test_yields_every_job_once_over_all_pages(self, personalize, hook, kind, version):
        arns = [personalize.add_job(kind, f"job-{i}", solution_version_arn=version) for i in range(250)]
        personalize.duplicate_across_pages()
        listed = [summary[kind.arn_member] for summary in hook.list_jobs(kind, version)]
        assert sorted(listed) == sorted(arns)

    def test_is_lazy(self, personalize, hook, kind, version):
        for i in range(250):
            personalize.add_job(kind, f"job-{i}", solution_version_arn=version)
        jobs = hook.list_jobs(kind, version)
        assert len(personalize.calls) == 0
        next(jobs)
        assert personalize.calls.count(kind.list_operation) == 1

    def test_without_a_solution_version_every_job_of_the_region(self, personalize, hook, kind, version):
        other = personalize.add_solution_version("other", "aws-item-affinity")
        personalize.add_job(kind, "one", solution_version_arn=version)
        personalize.add_job(kind, "two", solution_version_arn=other)
        assert {summary["jobName"] for summary in hook.list_jobs(kind)} == {"one", "two"}
        assert {summary["jobName"] for summary in hook.list_jobs(kind, other)} == {"two"}

    def test_a_fault_between_pages_is_an_error_and_never_a_shorter_list(
        self, personalize, hook, kind, version
    ):
        for i in range(150):
            personalize.add_job(kind, f"job-{i}", solution_version_arn=version)
        for fault in ("throttle", "server_error", "malformed", "drop_connection"):
            jobs = hook.list_jobs(kind, version)
            for _ in range(100):
                next(jobs)
            getattr(personalize.faults, fault)(times=1)
            with pytest.raises(PersonalizeUnavailableError):
                next(jobs)

    def test_a_page_without_jobs_is_no_empty_list(self, personalize, hook, kind):
        personalize.faults.malformed(times=1)
        with pytest.raises(PersonalizeUnavailableError, match=f"the response has no {kind.jobs_member}"):
            list(hook.list_jobs(kind))

    def test_an_unknown_solution_version_is_final(self, hook, kind, version):
        with pytest.raises(PersonalizeRequestError, match="InvalidInputException: .*does not exist"):
            list(hook.list_jobs(kind, version.replace("hooked", "unknown")))

    def test_what_is_no_solution_version_is_refused(self, hook, kind):
        with pytest.raises(
            ValueError, match="not of a solution version|is not the ARN of a solution version"
        ):
            list(hook.list_jobs(kind, EMPTY_ARN))


class TestCreate:
    def request(self, version):
        return {
            "jobName": "made",
            "solutionVersionArn": version,
            "jobInput": {"s3DataSource": {"path": "s3://no-bucket/in.json"}},
            "jobOutput": {"s3DataDestination": {"path": "s3://no-bucket/out/"}},
            "roleArn": "arn:aws:iam::123456789012:role/personalize",
        }

    def test_returns_the_arn(self, personalize, hook, kind, version):
        arn = hook.create_job(kind, **self.request(version))
        assert arn == f"arn:aws:personalize:us-east-1:123456789012:{kind.arn_resource}/made"
        assert personalize.job(arn)["jobName"] == "made"

    def test_a_name_that_is_taken_is_final(self, hook, kind, version):
        hook.create_job(kind, **self.request(version))
        with pytest.raises(PersonalizeRequestError) as caught:
            hook.create_job(kind, **self.request(version))
        assert caught.value.code == "ResourceAlreadyExistsException"

    def test_a_full_quota_passes(self, personalize, hook, kind, version):
        for i in range(5):
            personalize.add_job(kind, f"busy-{i}", solution_version_arn=version, status="CREATE PENDING")
        with pytest.raises(PersonalizeUnavailableError, match="LimitExceededException"):
            hook.create_job(kind, **self.request(version))

    def test_a_missing_solution_version_is_said(self, hook, kind):
        with pytest.raises(ValueError, match="^solutionVersionArn is empty"):
            hook.create_job(kind, jobName="x")


class TestDescribeSolutionVersion:
    def test_returns_it_as_the_api_gives_it(self, personalize, hook):
        arn = personalize.add_solution_version("hooked", dataset_group="shop")
        version = hook.describe_solution_version(arn)
        assert version["solutionVersionArn"] == arn
        assert version["datasetGroupArn"] == "arn:aws:personalize:us-east-1:123456789012:dataset-group/shop"
        assert isinstance(version["creationDateTime"], datetime)
        assert "ResponseMetadata" not in version

    def test_asks_in_the_region_of_the_arn(self, personalize, hook):
        arn = personalize.add_solution_version("hooked", region_name="eu-west-1")
        assert hook.describe_solution_version(arn)["solutionVersionArn"] == arn
        assert [(call.operation, call.region_name) for call in personalize.calls] == [
            ("DescribeSolutionVersion", "eu-west-1")
        ]

    def test_one_that_does_not_exist_is_final_and_named(self, personalize, hook):
        arn = personalize.add_solution_version("hooked").replace("hooked", "unknown")
        with pytest.raises(PersonalizeRequestError) as caught:
            hook.describe_solution_version(arn)
        assert caught.value.code == "ResourceNotFoundException"
        assert f"(DescribeSolutionVersion was refused for {arn}, region us-east-1, " in str(caught.value)

    def test_what_may_pass_is_unavailable(self, personalize, hook):
        arn = personalize.add_solution_version("hooked")
        for fault in ("throttle", "server_error", "malformed", "drop_connection"):
            getattr(personalize.faults, fault)(times=1)
            with pytest.raises(
                PersonalizeUnavailableError, match=f"DescribeSolutionVersion did not succeed .*{arn}"
            ):
                hook.describe_solution_version(arn)

    def test_what_cannot_be_asked_for_is_refused_before_any_call(self, personalize, hook):
        with pytest.raises(
            ValueError, match="not of a solution version|is not the ARN of a solution version"
        ):
            hook.describe_solution_version(EMPTY_ARN)
        arn = personalize.add_solution_version("hooked")
        with pytest.raises(
            ValueError, match="contradicts the region 'us-east-1' in the ARN.* Got 'eu-west-1'"
        ):
            PersonalizeHook(region_name="eu-west-1").describe_solution_version(arn)
        assert len(personalize.calls) == 0


class TestWithoutRetries:
    def count_calls(self, personalize, hook, fault="throttle"):
        getattr(personalize.faults, fault)()
        with pytest.raises(PersonalizeUnavailableError):
            hook.describe_job(EMPTY_ARN)
        return len(personalize.calls)

    @pytest.mark.parametrize("fault", ["throttle", "server_error", "drop_connection", "malformed"])
    def test_a_call_is_made_once_whatever_happens(self, personalize, fault):
        assert self.count_calls(personalize, PersonalizeHook().without_retries(), fault) == 1

    def test_retries_that_the_hook_was_given_stay(self, personalize):
        hook = PersonalizeHook(config={"retries": {"total_max_attempts": 2, "mode": "standard"}})
        assert hook.without_retries() is hook
        assert self.count_calls(personalize, hook) == 2

    def test_retries_that_the_connection_was_given_stay(self, personalize, monkeypatch):
        retries = {"retries": {"total_max_attempts": 2, "mode": "standard"}}
        extra = {"region_name": "us-east-1", "config_kwargs": retries}
        connection = {"conn_type": "aws", "login": "a", "password": "b", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
        assert self.count_calls(personalize, PersonalizeHook().without_retries()) == 2

    def test_every_other_setting_stays(self, monkeypatch):
        extra = {"region_name": "ap-south-1", "config_kwargs": {"read_timeout": 7}, "verify": False}
        monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps({"conn_type": "aws", "extra": extra}))
        hook = PersonalizeHook("other").without_retries()
        assert hook.aws_conn_id == "other"
        assert hook.conn.meta.region_name == "ap-south-1"
        assert hook.conn.meta.config.read_timeout == 7
        assert hook.verify is False
        own = PersonalizeHook("other", "eu-west-1", BUNDLE, {"read_timeout": 9}).without_retries()
        assert own.conn.meta.region_name == "eu-west-1"
        assert own.conn.meta.config.read_timeout == 9
        assert own.verify == BUNDLE

    def test_the_hook_itself_keeps_botocores(self, personalize):
        hook = PersonalizeHook(config={"read_timeout": 9})
        hook.without_retries()
        assert hook.config.retries is None
        assert hook.config.read_timeout == 9


class TestIdentity:
    def test_a_connection_that_does_not_exist_is_an_error_and_nothing_is_called(
        self, personalize, monkeypatch
    ):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone-else")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "someone-else")
        hook = PersonalizeHook(aws_conn_id="no_such_connection")
        with pytest.raises(ConnectionNotFoundError, match="'no_such_connection' does not exist.*Create it"):
            hook.describe_job(EMPTY_ARN)
        with pytest.raises(ConnectionNotFoundError):
            _ = PersonalizeHook(aws_conn_id="no_such_connection").conn
        assert len(personalize.calls) == 0

    def test_the_default_connection_is_no_exception(self, monkeypatch):
        monkeypatch.delenv("AIRFLOW_CONN_AWS_DEFAULT")
        with pytest.raises(ConnectionNotFoundError, match="'aws_default' does not exist"):
            PersonalizeHook().describe_job(EMPTY_ARN)

    def test_an_empty_name_is_an_error_and_nothing_is_called(self, personalize):
        with pytest.raises(
            InvalidParameterError, match=r"^aws_conn_id is empty. Expected a connection's ID, or"
        ):
            PersonalizeHook(aws_conn_id="", region_name="us-east-1").describe_job(EMPTY_ARN)
        assert len(personalize.calls) == 0

    @pytest.mark.parametrize("conn_type", ["postgres", "emr"])
    def test_a_connection_of_another_type_is_an_error_and_nothing_is_called(
        self, personalize, monkeypatch, conn_type
    ):
        monkeypatch.setenv(
            "AIRFLOW_CONN_SHOP", f'{{"conn_type": "{conn_type}", "login": "a", "password": "b"}}'
        )
        with pytest.raises(InvalidParameterError) as caught:
            PersonalizeHook(aws_conn_id="shop").describe_job(EMPTY_ARN)
        assert str(caught.value) == (
            f"The Airflow connection 'shop' is of the type '{conn_type}', not 'aws'. Correct aws_conn_id, "
            f"or the "
            "connection's type. AWS was not called."
        )
        assert len(personalize.calls) == 0

    def test_no_connection_means_boto3s_own_credentials(self, personalize):
        version = personalize.add_solution_version("own")
        arn = personalize.add_job(BatchJobKind.SEGMENT, "own", solution_version_arn=version)
        assert PersonalizeHook(aws_conn_id=None).describe_job(arn)["status"] == "ACTIVE"

    def test_the_connections_settings_reach_the_client(self, monkeypatch):
        extra = {
            "region_name": "ap-south-1",
            "verify": False,
            "endpoint_url": "http://127.0.0.1:1",
            "config_kwargs": {"read_timeout": 7},
        }
        monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps({"conn_type": "aws", "extra": extra}))
        client = PersonalizeHook(aws_conn_id="other").conn
        assert client.meta.region_name == "ap-south-1"
        assert client.meta.endpoint_url == "http://127.0.0.1:1"
        assert client.meta.config.read_timeout == 7

    def test_the_hooks_own_settings_come_first(self, monkeypatch):
        extra = {"region_name": "ap-south-1", "config_kwargs": {"read_timeout": 7}}
        monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps({"conn_type": "aws", "extra": extra}))
        client = PersonalizeHook(
            "other", region_name="eu-west-1", verify=BUNDLE, config={"read_timeout": 9}
        ).conn
        assert client.meta.region_name == "eu-west-1"
        assert client.meta.config.read_timeout == 9

    def test_an_assumed_role_is_used(self, personalize, monkeypatch):
        extra = {"region_name": "us-east-1", "role_arn": "arn:aws:iam::210987654321:role/reader"}
        connection = {"conn_type": "aws", "login": "me", "password": "secret", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_ROLE", json.dumps(connection))
        version = personalize.add_solution_version("role", account_id="210987654321")
        arn = personalize.add_job(BatchJobKind.SEGMENT, "role", solution_version_arn=version)
        assert PersonalizeHook("role").describe_job(arn)["status"] == "ACTIVE"

    def test_no_region_anywhere_is_said(self, monkeypatch):
        monkeypatch.setenv(
            "AIRFLOW_CONN_BARE", json.dumps({"conn_type": "aws", "login": "a", "password": "b"})
        )
        for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(
            PersonalizeRequestError, match="NoRegionError.*Pass region_name, or set.*no region"
        ) as caught:
            list(PersonalizeHook("bare").list_jobs(BatchJobKind.SEGMENT))
        assert caught.value.region is None


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "options", "code"),
        [
            ("throttle", {}, "ThrottlingException"),
            ("server_error", {"status": 500}, "InternalFailure"),
            ("server_error", {"status": 503}, "ServiceUnavailable"),
            ("drop_connection", {}, "ConnectionClosedError"),
            ("malformed", {}, "ResponseParserError"),
        ],
    )
    def test_what_may_pass_is_unavailable(self, personalize, hook, fault, options, code):
        getattr(personalize.faults, fault)(**options)
        with pytest.raises(PersonalizeUnavailableError) as caught:
            hook.describe_job(EMPTY_ARN)
        assert caught.value.code == code
        assert str(caught.value).startswith(f"{code}: ")
        assert str(caught.value).endswith(f"for {EMPTY_ARN}, region us-east-1, connection 'aws_default')")

    def test_denied_access_is_final_and_says_which_action_to_allow(self, personalize, hook):
        personalize.faults.deny_access()
        with pytest.raises(PersonalizeRequestError) as caught:
            hook.describe_job(EMPTY_ARN)
        assert caught.value.code == "AccessDeniedException"
        assert "Allow personalize:DescribeBatchSegmentJob in that identity's IAM policy. (" in str(
            caught.value
        )

    @pytest.mark.parametrize("action", ["iam:PassRole", "sts:AssumeRole", "personalize:TagResource"])
    def test_denied_access_says_which_other_action_the_call_needs(self, personalize, hook, action):
        personalize.faults.deny_access(action=action)
        with pytest.raises(PersonalizeRequestError) as caught:
            hook.describe_job(EMPTY_ARN)
        assert f"Allow {action} in that identity's IAM policy. (DescribeBatchSegmentJob was" in str(
            caught.value
        )

    @pytest.mark.parametrize(
        ("member", "cure"),
        [("rankingInfluence", "Install boto3 1.42 or later"), ("newMember", "Install a newer one")],
    )
    def test_a_member_that_boto3_does_not_know_yet_says_which_boto3_does(self, hook, member, cure):
        version = "arn:aws:personalize:us-east-1:123456789012:solution/shop/4aa8f2c1"
        request = {"jobName": "x", "solutionVersionArn": version, "roleArn": "x", member: {}}
        places = {"jobInput": {"s3DataSource": {}}, "jobOutput": {"s3DataDestination": {}}}
        with pytest.raises(PersonalizeRequestError) as caught:
            hook.create_job(BatchJobKind.INFERENCE, **request, **places)
        assert (
            f"boto3 {botocore.__version__}, which is installed, does not know {member}. "
            f"{cure}, or leave it out. (CreateBatchInferenceJob was refused for"
        ) in str(caught.value)

    def test_expired_credentials_are_fetched_again_once(self, personalize, hook):
        version = personalize.add_solution_version("expiring")
        arn = personalize.add_job(BatchJobKind.SEGMENT, "expiring", solution_version_arn=version)
        before = hook.conn
        personalize.faults.expired_token(times=1)
        assert hook.describe_job(arn)["status"] == "ACTIVE"
        assert hook.conn is not before

    def test_credentials_that_stay_expired_are_final(self, personalize, hook):
        personalize.faults.expired_token()
        with pytest.raises(
            PersonalizeRequestError, match="Correct or renew the credentials of that connection"
        ):
            hook.describe_job(EMPTY_ARN)
        assert len(personalize.calls) == 2

    @pytest.mark.parametrize(
        ("code", "status", "transient"),
        [
            ("ThrottlingException", 400, True),
            ("TooManyRequestsException", 429, True),
            ("LimitExceededException", 400, True),
            ("ResourceInUseException", 400, True),
            ("RequestTimeout", 400, True),
            ("InternalFailure", 500, True),
            ("502", 502, True),
            ("SomethingNew", 503, True),
            ("SomethingNew", 429, True),
            ("SomethingNew", 400, False),
            ("AccessDeniedException", 400, False),
            ("InvalidInputException", 400, False),
            ("ResourceNotFoundException", 400, False),
            ("UnrecognizedClientException", 400, False),
            ("ExpiredTokenException", 400, False),
        ],
    )
    def test_which_codes_may_pass(self, code, status, transient):
        response = {"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}
        assert is_transient(ClientError(response, "DescribeBatchSegmentJob")) is transient

    @pytest.mark.parametrize(
        ("error", "transient"),
        [
            (EndpointConnectionError(endpoint_url="u"), True),
            (ReadTimeoutError(endpoint_url="u"), True),
            (CredentialRetrievalError(provider="p", error_msg="m"), True),
            (NoCredentialsError(), False),
            (BotoCoreError(), False),
        ],
    )
    def test_which_of_botocores_own_may_pass(self, error, transient):
        assert is_transient(error) is transient


@pytest.mark.parametrize(
    ("connection", "account"),
    [
        ({"login": "me", "password": "PASSSECRET"}, "123456789012"),
        (
            {"login": "me", "password": "PASSSECRET", "extra": {"aws_session_token": "TOKENSECRET"}},
            "123456789012",
        ),
        ({"extra": {"aws_access_key_id": "me", "aws_secret_access_key": "PASSSECRET"}}, "123456789012"),
        (
            {
                "login": "me",
                "password": "PASSSECRET",
                "extra": {
                    "role_arn": "arn:aws:iam::210987654321:role/reader",
                    "assume_role_kwargs": {"ExternalId": "IDSECRET"},
                },
            },
            "210987654321",
        ),
    ],
    ids=["login", "session", "extra", "role"],
)
def test_no_secret_is_logged(personalize, monkeypatch, capsys, caplog, connection, account):
    """The amazon provider's hook logs where credentials come from, in other words in each release."""
    caplog.set_level(logging.DEBUG, "airflow")
    extra = {"region_name": "us-east-1", **connection.get("extra", {})}
    monkeypatch.setenv("AIRFLOW_CONN_LOGGED", json.dumps({"conn_type": "aws", **connection, "extra": extra}))
    version = personalize.add_solution_version("logged", account_id=account)
    arn = personalize.add_job(BatchJobKind.SEGMENT, "logged", solution_version_arn=version)
    assert PersonalizeHook("logged").describe_job(arn)["status"] == "ACTIVE"
    logged = caplog.text + "".join(capsys.readouterr())
    assert "credentials retrieved from" in logged
    assert "SECRET" not in logged


def test_no_secret_is_in_an_error(personalize, monkeypatch):
    connection = {
        "conn_type": "aws",
        "login": "AKIDSECRET",
        "password": "PASSSECRET",
        "extra": {"region_name": "us-east-1"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_SECRET", json.dumps(connection))
    personalize.faults.deny_access()
    with pytest.raises(PersonalizeRequestError) as caught:
        PersonalizeHook("secret").describe_job(EMPTY_ARN)
    assert "SECRET" not in f"{caught.value!r} {caught.value} {vars(caught.value)}"


def test_times_come_back_as_moments(personalize, hook):
    created = datetime(2026, 1, 31, 8, tzinfo=UTC)
    version = personalize.add_solution_version("timed")
    arn = personalize.add_job(BatchJobKind.SEGMENT, "timed", solution_version_arn=version, created=created)
    assert hook.describe_job(arn)["creationDateTime"] == created
