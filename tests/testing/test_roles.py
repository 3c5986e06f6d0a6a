"""Roles that a connection assumes: given out, refused on request, and seen in the calls."""

from __future__ import annotations

import json

import boto3
import pytest
from botocore import UNSIGNED
from botocore.exceptions import ClientError

from airflow_provider_personalize_segments.errors import PersonalizeRequestError
from airflow_provider_personalize_segments.hooks import PersonalizeHook
from airflow_provider_personalize_segments.jobs import BatchJobKind

ROLE = "arn:aws:iam::123456789012:role/shop"
OTHER_ROLE = "arn:aws:iam::210987654321:role/path/of/partner"


@pytest.fixture
def sts(stage):
    stage.open()
    return stage.client("sts")


def assume(sts, role=ROLE):
    return sts.assume_role(RoleArn=role, RoleSessionName="nightly")["Credentials"]


def list_as(stage, credentials):
    client = boto3.client(
        "personalize",
        region_name="us-east-1",
        endpoint_url=stage.control.endpoint_url,
        aws_access_key_id=credentials["AccessKeyId"],
        aws_secret_access_key=credentials["SecretAccessKey"],
        aws_session_token=credentials["SessionToken"],
    )
    try:
        return client.list_batch_segment_jobs()["batchSegmentJobs"]
    finally:
        client.close()


class TestOverBoto3:
    def test_who_calls_is_seen(self, stage, sts):
        assert sts.get_caller_identity()["Arn"] == "arn:aws:sts::123456789012:user/moto"
        stage.client().list_batch_segment_jobs()
        assert list_as(stage, assume(sts)) == []
        assert [call.caller_arn for call in stage.control.calls] == [
            "arn:aws:sts::123456789012:user/moto", "arn:aws:sts::123456789012:assumed-role/shop/nightly"
        ]  # fmt: skip

    def test_a_role_of_another_account_sees_that_account(self, stage, sts):
        own = stage.control.add_solution_version()
        theirs = stage.control.add_solution_version(account_id="210987654321")
        stage.control.add_job("segment", "own", solution_version_arn=own)
        stage.control.add_job("segment", "theirs", solution_version_arn=theirs)
        assert [job["jobName"] for job in list_as(stage, assume(sts, OTHER_ROLE))] == ["theirs"]
        assert [job["jobName"] for job in list_as(stage, assume(sts))] == ["own"]

    def test_a_web_identity_needs_no_credentials(self, stage):
        stage.open()
        sts = stage.client("sts", signature_version=UNSIGNED)
        ask = {"RoleArn": ROLE, "RoleSessionName": "pod", "WebIdentityToken": "token"}
        assert list_as(stage, sts.assume_role_with_web_identity(**ask)["Credentials"]) == []
        assert stage.control.calls[0].caller_arn.endswith(":assumed-role/shop/pod")
        stage.control.faults.deny_role()
        with pytest.raises(ClientError, match="perform: sts:AssumeRoleWithWebIdentity on resource"):
            sts.assume_role_with_web_identity(**ask)

    def test_one_role_is_refused(self, stage, sts):
        stage.control.faults.deny_role(ROLE)
        for _ in range(2):
            with pytest.raises(ClientError) as refused:
                assume(sts)
            assert refused.value.response["Error"] == {
                "Type": "Sender",
                "Code": "AccessDenied",
                "Message": "User: arn:aws:sts::123456789012:user/moto is not authorized to perform: "
                f"sts:AssumeRole on resource: {ROLE}",
            }
            assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
        assert assume(sts, OTHER_ROLE)
        stage.control.faults.clear()
        assert assume(sts)

    def test_every_role_is_refused_so_many_times(self, stage, sts):
        stage.control.faults.deny_role(times=2)
        for role in (ROLE, OTHER_ROLE):
            with pytest.raises(ClientError, match="AccessDenied"):
                assume(sts, role)
        assert assume(sts)

    def test_other_faults_and_roles_do_not_mix(self, stage, sts):
        stage.control.faults.deny_role()
        stage.client().list_batch_segment_jobs()
        assert stage.control.calls[0].faults == ()
        stage.control.faults.clear()
        stage.control.faults.throttle(times=1)
        assert assume(sts)
        with pytest.raises(ClientError, match="Rate exceeded"):
            stage.client().list_batch_segment_jobs()

    def test_a_refused_call_names_the_role(self, stage, sts):
        stage.control.faults.deny_access()
        with pytest.raises(ClientError, match="User: .*:assumed-role/shop/nightly is not authorized"):
            list_as(stage, assume(sts))

    @pytest.mark.parametrize(
        "wrong", ["shop", "arn:aws:iam::123456789012:user/shop", "arn:aws:sts::1:role/shop"]
    )
    def test_what_is_no_role(self, stage, wrong):
        with pytest.raises(ValueError, match="role_arn: expected the ARN of a role"):
            stage.open().faults.deny_role(wrong)


class TestConnection:
    @pytest.fixture
    def job(self, stage, monkeypatch):
        control = stage.open()
        monkeypatch.setenv("AIRFLOW_CONN_SHOP", control.airflow_connection(role_arn=ROLE))
        return control.add_job("segment", "weekly", solution_version_arn=control.add_solution_version())

    def test_the_role_is_what_calls(self, stage, job):
        hook = PersonalizeHook("shop")
        assert hook.describe_job(job)["status"] == "ACTIVE"
        assert len(list(hook.list_jobs(BatchJobKind.SEGMENT))) == 1
        hook.close()
        callers = {call.caller_arn for call in stage.control.calls}
        assert len(callers) == 1
        assert callers.pop().startswith("arn:aws:sts::123456789012:assumed-role/shop/")

    def test_a_refused_role_is_a_clear_error(self, stage, job):
        stage.control.faults.deny_role(ROLE)
        hook = PersonalizeHook("shop")
        with pytest.raises(PersonalizeRequestError) as refused:
            hook.describe_job(job)
        hook.close()
        assert refused.value.code == "AccessDenied"
        assert "'shop'" in str(refused.value)
        assert f"perform: sts:AssumeRole on resource: {ROLE}" in str(refused.value)
        assert "Allow sts:AssumeRole" in str(refused.value)
        assert len(stage.control.calls) == 0

    def test_the_connection_without_a_role_says_none(self, stage):
        assert "role_arn" not in json.loads(stage.open().airflow_connection())["extra"]
