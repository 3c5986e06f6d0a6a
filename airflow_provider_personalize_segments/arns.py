"""A batch job's ARN, and those of what it is made of: taken apart, checked and put together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from airflow_provider_personalize_segments.jobs import BATCH_JOB_KINDS, BatchJobKind
from airflow_provider_personalize_segments.parameters import wrong_value
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
    wanted = " or ".join(f"a {each.title}" for each in kinds)
    expected = " or ".join(each.example_arn() for each in kinds)
    region, resource = _split_personalize_arn(value, source=source, wanted=wanted, expected=expected)
    found = next((each for each in kinds if resource.startswith(f"{each.arn_resource}/")), None)
    if found is None:
        raise _wrong_resource(source, resource, wanted, value)
    job_name = resource.partition("/")[2]
    if not re.fullmatch(JOB_NAME_PATTERN, job_name):
        raise wrong_value(
            source,
            "does not end in a job's name",
            value,
            "Expected 1 to 63 letters, digits, '-' and '_', the first a letter or digit.",
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
    wanted = "a solution version"
    region, resource = _split_personalize_arn(value, source=source, wanted=wanted, expected=expected)
    if re.fullmatch(r"solution/[^/]+", resource):
        raise wrong_value(
            source,
            "is the ARN of a solution, not of one of its versions",
            value,
            f"Expected {expected}.",
        )
    if not re.fullmatch(r"solution/[^/]+/[^/]+", resource):
        raise _wrong_resource(source, resource, wanted, value)
    return region


def parse_filter_arn(value: object, *, source: str = "filter_arn") -> str:
    """
    Check a filter's ARN and return the region in it.

    :param value: the ARN, as a user or an earlier task gave it
    :param source: where the value came from, for the error message
    :raises ValueError: when it is not the ARN of a filter; says what it is instead
    """
    expected = "arn:aws:personalize:<region>:<account>:filter/<name>"
    wanted = "a filter"
    region, resource = _split_personalize_arn(value, source=source, wanted=wanted, expected=expected)
    if not re.fullmatch(r"filter/[^/]+", resource):
        raise _wrong_resource(source, resource, wanted, value)
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


def _split_personalize_arn(value: object, *, source: str, wanted: str, expected: str) -> tuple[str, str]:
    """Return the region and the resource of a Personalize ARN."""
    if value is None or value == "":
        raise ValueError(f"{source} is empty. Expected {expected}.")
    if value == "None":
        raise ValueError(
            f"{source} is 'None': the template found nothing, such as an XCom that no task pushed. "
            f"Expected {expected}."
        )
    if not isinstance(value, str):
        raise _wrong_type(source, value, expected)
    if re.search(r"\s", value):
        raise wrong_value(source, "contains white space; remove it", value)
    if len(value) > MAX_ARN_LENGTH:
        raise wrong_value(source, f"has {len(value)} characters, an ARN at most {MAX_ARN_LENGTH}", value)
    match = re.fullmatch(_PERSONALIZE_ARN, value, re.ASCII)
    if match:
        return match["region"], match["resource"]
    parts = value.split(":", 5)
    if len(parts) == 6 and parts[0] == "arn" and parts[2] != "personalize":
        raise wrong_value(
            source, f"is an ARN of the service {show(parts[2])}, not of Amazon Personalize", value
        )
    if len(parts) == 6 and parts[5].startswith("recipe/"):  # which has neither region nor account
        raise _wrong_resource(source, parts[5], wanted, value)
    raise wrong_value(source, "is not an Amazon Personalize ARN", value, f"Expected {expected}.")


def _wrong_type(source: str, value: object, expected: str) -> ValueError:
    """Return the error about what is no text, such as the whole XCom of a task before this one."""
    if isinstance(value, Mapping):
        return wrong_value(
            source,
            "is a dict, not the ARN in it",
            value,
            "Let a function with @task take it and return the ARN, such as job['batchSegmentJobArn'].",
        )
    if isinstance(value, Iterable):
        return wrong_value(
            source,
            "is a list, not one ARN",
            value,
            "Map the task over it with .partial(...).expand(...), or let a function with @task return one of "
            "it.",
        )
    return wrong_value(
        source, f"is not text, but of type {type(value).__name__}", value, f"Expected {expected}."
    )


def _wrong_resource(source: str, resource: str, wanted: str, value: object) -> ValueError:
    """Return the error about the ARN of something else in Personalize, such as a solution."""
    what = resource.partition("/")[0].replace("-", " ")
    if re.fullmatch(r"solution/[^/]+/[^/]+", resource):
        what = "solution version"
    what = f"{'an' if what[:1] in 'aeiou' else 'a'} {what}"
    is_named = re.fullmatch(r"[a-z ]{3,30}", what) and what not in wanted
    verdict = f"is the ARN of {what}, not of {wanted}" if is_named else f"is not the ARN of {wanted}"
    return wrong_value(source, verdict, value)


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
        raise wrong_value(
            source,
            f"contradicts the region {arn_region!r} in the ARN",
            region_name,
            "Leave region_name out, or correct one of the two.",
        )
    return arn_region or region_name or None
