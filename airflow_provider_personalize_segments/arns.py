"""A batch job's ARN, and those of what it is made of: taken apart, checked and put together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from airflow_provider_personalize_segments.jobs import BATCH_JOB_KINDS, BatchJobKind
from airflow_provider_personalize_segments.plain_json import show

MAX_ARN_LENGTH = 256
MAX_JOB_NAME_LENGTH = 63
JOB_NAME_PATTERN = r"[a-zA-Z0-9][a-zA-Z0-9\-_]{0,62}"
_PERSONALIZE_ARN = r"arn:([a-z\d-]+):personalize:(?P<region>[a-z\d-]+):([0-9]{12}):(?P<resource>\S+)"


class JobArn(NamedTuple):
    """The parts of a batch job's ARN; ``str()`` gives the ARN back."""

    kind: BatchJobKind
    partition: str
    region: str
    account_id: str
    job_name: str

    def __str__(self) -> str:
        return (
            f"arn:{self.partition}:personalize:{self.region}:{self.account_id}:"
            f"{self.kind.arn_resource}/{self.job_name}"
        )


def parse_job_arn(value: object, kind: BatchJobKind | None = None, *, source: str = "job_arn") -> JobArn:
    """
    Take a batch job's ARN apart.

    :param value: the ARN, as a user or an earlier task gave it
    :param kind: the only kind that will do; ``None`` takes both
    :param source: where the value came from, for the error message
    :raises ValueError: when it is not the ARN of such a job; says what it is instead

    .. seealso:: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonpersonalize.html
    """
    kinds = (kind,) if kind else BATCH_JOB_KINDS
    expected = " or ".join(f"{each.example_arn()} (a {each.title})" for each in kinds)
    region, resource = _split_personalize_arn(value, source=source, expected=expected)
    found = next((each for each in BATCH_JOB_KINDS if resource.startswith(f"{each.arn_resource}/")), None)
    if found is None:
        what = resource.partition("/")[0]
        raise ValueError(
            f"{source}: {value!r} is the ARN of a {what!r}, not of a batch job. Expected {expected}."
        )
    if found not in kinds:
        raise ValueError(f"{source}: {value!r} is the ARN of a {found.title}. Expected {expected}.")
    job_name = resource.partition("/")[2]
    if not re.fullmatch(JOB_NAME_PATTERN, job_name):
        raise ValueError(
            f"{source}: {value!r} ends in {job_name!r}, which cannot be a job name "
            f"(1 to 63 letters, digits, '-' and '_', the first a letter or digit). Expected {expected}."
        )
    partition, account_id = str(value).split(":")[1], str(value).split(":")[4]
    return JobArn(found, partition, region, account_id, job_name)


def is_job_arn(value: object, kind: BatchJobKind) -> bool:
    """
    Tell whether this is the ARN of a batch job of a kind.

    :param value: anything
    :param kind: the kind
    """
    try:
        return bool(parse_job_arn(value, kind))
    except ValueError:
        return False


def find_owner(arn: str) -> str:
    """
    Return the region and the account in an ARN, as ``us-east-1:123456789012``; empty when it has none.

    :param arn: the ARN
    """
    return ":".join(arn.split(":", 5)[3:5])


def parse_solution_version_arn(value: object, *, source: str = "solution_version_arn") -> str:
    """
    Check a solution version's ARN and return the region in it.

    :param value: the ARN, as a user or an earlier task gave it
    :param source: where the value came from, for the error message
    :raises ValueError: when it is not the ARN of a solution version; says what it is instead
    """
    expected = "arn:aws:personalize:<region>:<account>:solution/<solution name>/<version id>"
    region, resource = _split_personalize_arn(value, source=source, expected=expected)
    parts = resource.split("/")
    if parts[0] == "solution" and len(parts) == 2 and parts[1]:
        raise ValueError(
            f"{source}: {value!r} is the ARN of a solution, not of one of its versions. Expected {expected}."
        )
    if parts[0] != "solution" or len(parts) != 3 or not all(parts):
        raise ValueError(f"{source}: {value!r} is not the ARN of a solution version. Expected {expected}.")
    return region


def parse_filter_arn(value: object, *, source: str = "filter_arn") -> str:
    """
    Check a filter's ARN and return the region in it.

    :param value: the ARN, as a user or an earlier task gave it
    :param source: where the value came from, for the error message
    :raises ValueError: when it is not the ARN of a filter; says what it is instead
    """
    expected = "arn:aws:personalize:<region>:<account>:filter/<name>"
    region, resource = _split_personalize_arn(value, source=source, expected=expected)
    if not re.fullmatch(r"filter/[^/]+", resource):
        raise ValueError(f"{source}: {value!r} is not the ARN of a filter. Expected {expected}.")
    return region


def find_job_arn(kind: BatchJobKind, solution_version_arn: str, job_name: str) -> str:
    """
    Return the ARN that a job of that name has, or would have, in a solution version's account and region.

    :param kind: the kind of job
    :param solution_version_arn: the ARN of the solution version that the job uses
    :param job_name: the job's name
    """
    _, partition, _, region, account_id, _ = solution_version_arn.split(":", 5)
    return str(JobArn(kind, partition, region, account_id, job_name))


def _split_personalize_arn(value: object, *, source: str, expected: str) -> tuple[str, str]:
    """Return the region and the resource of a Personalize ARN."""
    if value is None or value == "":
        raise ValueError(f"{source} is empty. Expected {expected}.")
    if value == "None":
        raise ValueError(
            f"{source} is 'None': the template found nothing, such as an XCom that no task pushed. "
            f"Expected {expected}."
        )
    if not isinstance(value, str):
        hint = ""
        if isinstance(value, Mapping):
            hint = " Pass on one member of it, as in .map(lambda job: job['batchSegmentJobArn'])."
        raise ValueError(f"{source}: got {type(value).__name__} {show(value)}. Expected {expected}.{hint}")
    if re.search(r"\s", value):
        raise ValueError(f"{source}: {value!r} contains white space; remove it. Expected {expected}.")
    if len(value) > MAX_ARN_LENGTH:
        raise ValueError(f"{source}: {value!r} has {len(value)} characters, an ARN at most {MAX_ARN_LENGTH}.")
    match = re.fullmatch(_PERSONALIZE_ARN, value, re.ASCII)
    if match:
        return match["region"], match["resource"]
    parts = value.split(":", 5)
    if len(parts) == 6 and parts[0] == "arn" and parts[2] != "personalize":
        raise ValueError(
            f"{source}: {value!r} is an ARN of the service {parts[2]!r}, not of Amazon Personalize. "
            f"Expected {expected}."
        )
    raise ValueError(f"{source}: {value!r} is not an Amazon Personalize ARN. Expected {expected}.")


def resolve_region(
    region_name: str | None, arn_region: str | None, *, source: str = "region_name"
) -> str | None:
    """
    Return the region to call: the ARN's where there is one, else the one that was given.

    :param region_name: the region a user gave, or ``None``
    :param arn_region: the region in the ARN that the call is about, or ``None``
    :param source: where ``region_name`` came from, for the error message
    :raises ValueError: when both are given and differ
    """
    if region_name and arn_region and region_name != arn_region:
        raise ValueError(
            f"{source}: {region_name!r} contradicts the region {arn_region!r} in the ARN. "
            "Leave region_name out, or correct one of the two."
        )
    return arn_region or region_name or None
