"""A typing error in a region is told at once, and ends a task whose calls it leads nowhere."""

from __future__ import annotations

import json
import socket

import pytest

from airflow_provider_personalize_segments import regions
from airflow_provider_personalize_segments.errors import PersonalizeJobTimeoutError, PersonalizeRequestError
from airflow_provider_personalize_segments.hooks import PersonalizeHook
from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.operators import PersonalizeListBatchSegmentJobsOperator
from airflow_provider_personalize_segments.sensors import PersonalizeBatchSegmentJobSensor

WARNING = (
    "botocore knows no Amazon Personalize in the region 'us-esat-1'. If that is a typing error, correct it"
)


def arn_in(region):
    return f"arn:aws:personalize:{region}:123456789012:batch-segment-job/weekly"


@pytest.fixture
def connect(monkeypatch):
    """Set the default connection, without an endpoint unless one is given."""

    def connect(**extra):
        connection = {"conn_type": "aws", "login": "a", "password": "b", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))

    connect()
    return connect


@pytest.fixture
def names(monkeypatch):
    """Where Personalize's host names lead to, and which were looked up; the machine's DNS is not asked."""
    found, asked, look_up = {}, [], socket.getaddrinfo

    def get_address(host, *args, **kwargs):
        if not str(host).startswith(("personalize.", "personalize-fips.")):
            return look_up(host, *args, **kwargs)
        asked.append(host)
        if host not in found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if found[host] is None:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return look_up(found[host], *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", get_address)
    monkeypatch.setattr(regions, "PAUSE", 0.01)
    found["asked"] = asked
    return found


def wait(region, **options):
    given = {"task_id": "wait", "poke_interval": 0.2, "timeout": 1, "deferrable": False, **options}
    return PersonalizeBatchSegmentJobSensor(job_arn=arn_in(region), **given).execute({})


@pytest.mark.parametrize("mode", ["poke", "reschedule", "deferrable"])
def test_a_region_that_nobody_knows_ends_the_task(connect, names, read_log, mode):
    options = {"deferrable": True} if mode == "deferrable" else {"mode": mode, "deferrable": False}
    sensor = PersonalizeBatchSegmentJobSensor(task_id="wait", job_arn=arn_in("us-esat-1"), **options)
    # Airflow's loop looks into its database when it reschedules.
    ask = sensor.poke if mode == "reschedule" else sensor.execute
    with pytest.raises(PersonalizeRequestError) as caught:
        ask({})
    assert str(caught.value).startswith(
        "UnknownRegion: botocore knows no Amazon Personalize in 'us-esat-1', and "
        "https://personalize.us-esat-1.amazonaws.com does not resolve. Correct the region: in the ARN, in "
        "region_name or in the connection. (DescribeBatchSegmentJob was refused for arn:aws:"
    )
    # botocore's own attempt, and ours.
    assert names["asked"].count("personalize.us-esat-1.amazonaws.com") >= 1 + regions.LOOKUPS
    assert sum(WARNING in line for line in read_log()) == 1


def test_a_list_in_a_region_that_nobody_knows_fails_at_once(connect, names):
    task = PersonalizeListBatchSegmentJobsOperator(
        task_id="list", region_name="us-esat-1", botocore_config={"retries": {"total_max_attempts": 1}}
    )
    with pytest.raises(PersonalizeRequestError, match="^UnknownRegion: "):
        task.execute({})


def test_a_name_that_resolves_again_is_waited_for(connect, names, monkeypatch):
    tried = []
    monkeypatch.setattr(regions.time, "sleep", lambda seconds: tried.append(seconds) or names.update(
        {"personalize.us-esat-1.amazonaws.com": "127.0.0.1"}
    ))  # fmt: skip
    assert regions.resolves("https://personalize.us-esat-1.amazonaws.com")
    assert tried == [0.01]


@pytest.mark.parametrize("region", ["us-east-1", "cn-north-1"])
def test_a_known_region_whose_name_does_not_resolve_is_waited_for(connect, names, read_log, region):
    with pytest.raises(PersonalizeJobTimeoutError, match="EndpointConnectionError: Could not connect"):
        wait(region)
    assert not [line for line in read_log() if "botocore knows no" in line]


def test_an_unknown_region_whose_name_resolves_is_waited_for(connect, names, read_log):
    names["personalize.us-esat-1.amazonaws.com"] = "127.0.0.1"  # where nobody listens
    with pytest.raises(PersonalizeJobTimeoutError, match="EndpointConnectionError: Could not connect"):
        wait("us-esat-1")
    assert sum(WARNING in line for line in read_log()) == 1


def test_an_unknown_region_is_waited_for_while_no_name_server_answers(connect, names):
    names["personalize.us-esat-1.amazonaws.com"] = None
    with pytest.raises(PersonalizeJobTimeoutError, match="EndpointConnectionError: Could not connect"):
        wait("us-esat-1")


def test_a_fips_endpoint_hides_no_typing_error(connect, names):
    connect(config_kwargs={"use_fips_endpoint": True})
    with pytest.raises(PersonalizeRequestError, match="^UnknownRegion: .*personalize-fips.us-esat-1"):
        wait("us-esat-1")


def test_a_profile_that_is_not_there_is_of_no_concern(monkeypatch):
    regions._known_regions.cache_clear()
    monkeypatch.setenv("AWS_PROFILE", "laptop")
    assert regions.is_unknown("us-esat-1", "https://personalize.us-esat-1.amazonaws.com")
    assert not regions.is_unknown("us-east-1", "https://personalize.us-east-1.amazonaws.com")


def test_an_endpoint_of_the_connections_silences_it(connect, read_log):
    connect(endpoint_url="http://127.0.0.1:1")
    with pytest.raises(PersonalizeJobTimeoutError):
        wait("us-esat-1")
    assert not [line for line in read_log() if "botocore knows no" in line]


def test_the_clients_of_a_hook_warn_once(connect, read_log):
    hook = PersonalizeHook(region_name="us-esat-1")
    for each in (hook, hook.with_limit(5), hook.without_retries(), hook.repeating_nothing()):
        each.make_client("us-esat-1")
        each.make_client("us-east-1")
    assert sum(WARNING in line for line in read_log()) == 1


def test_every_region_of_the_local_personalize_can_be_asked(personalize, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", personalize.airflow_connection())
    version = personalize.add_solution_version("shop", region_name="eu-north-1")
    arn = personalize.add_job(BatchJobKind.SEGMENT, "weekly", solution_version_arn=version)
    assert PersonalizeHook().describe_job(arn)["status"] == "ACTIVE"
