"""What a Create request is made of, judged before AWS is called.

botocore checks types and required members only. What it lets through, AWS refuses later, or takes as
something else than was meant; here each mistake is one sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from airflow_provider_personalize_segments.arns import (
    JOB_NAME_PATTERN,
    MAX_ARN_LENGTH,
    MAX_JOB_NAME_LENGTH,
    parse_filter_arn,
    parse_solution_version_arn,
)
from airflow_provider_personalize_segments.creating.extra_members import (
    EXTRA_PARAMETERS,
    SourceOf,
    read_extras,
)
from airflow_provider_personalize_segments.creating.names import MAX_PREFIX_LENGTH
from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.parameters import (
    read_count,
    read_dict,
    read_text,
    wrong_value,
)
from airflow_provider_personalize_segments.plain_json import make_json_safe

# https://docs.aws.amazon.com/personalize/latest/dg/limits.html
MAX_PATH_LENGTH = 256
MAX_SEGMENT_USERS = 5_000_000
MAX_TAGS = 50

_PARAMETERS = {
    "solutionVersionArn": "solution_version_arn",
    "jobInput": "input_path",
    "jobOutput": "output_path",
    "roleArn": "role_arn",
    "filterArn": "filter_arn",
    "numResults": "num_results",
    "tags": "tags",
}
"""The operators' names for the members that the requests of both kinds have."""

_ROLE_ARN = r"arn:[a-z\d-]+:iam::\d{12}:role/[\w+=,.@/-]+"
_KMS_KEY_ARN = r"arn:aws[a-z-]*:kms:[a-z\d-]+:\d{12}:key/[\w-]+"
_BUCKET = r"[a-zA-Z\d][a-zA-Z\d._-]{1,61}[a-zA-Z\d]"
_SPACES = " \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_TAG = rf"[\w{_SPACES}.:/=+@-]*"


def read_job_name(value: object, source: str) -> str | None:
    """
    Return a job's name; ``None`` and empty text are ``None``.

    :param value: the name
    :param source: where the value came from, for the error message
    """
    name = read_text(value, source)
    if name == "None":
        raise ValueError(f"{source} is 'None', which a template makes of nothing, and no name for a job.")
    if name and not re.fullmatch(JOB_NAME_PATTERN, name):
        raise wrong_value(
            source,
            f"cannot be a job name, having {len(name)} characters"
            if len(name) > MAX_JOB_NAME_LENGTH
            else "cannot be a job name",
            name,
            "Expected 1 to 63 letters, digits, '-' and '_', the first a letter or digit.",
        )
    return name


def read_job_name_prefix(value: object) -> str:
    """
    Return what ``[personalize] job_name_prefix`` says; empty unless it is set.

    :param value: the setting
    """
    source = "[personalize] job_name_prefix"
    prefix = (read_text(value, source) or "").strip()
    if prefix and (len(prefix) > MAX_PREFIX_LENGTH or not re.fullmatch(JOB_NAME_PATTERN, prefix)):
        raise wrong_value(
            source,
            f"cannot begin a job name, having {len(prefix)} characters"
            if len(prefix) > MAX_PREFIX_LENGTH
            else "cannot begin a job name",
            prefix,
            f"Expected at most {MAX_PREFIX_LENGTH} letters, digits, '-' and '_', the first a letter or a "
            "digit. Correct the setting, or the variable AIRFLOW__PERSONALIZE__JOB_NAME_PREFIX, where tasks "
            "run.",
        )
    return prefix


def build_request(
    kind: BatchJobKind,
    source_of: SourceOf,
    *,
    solution_version_arn: object,
    role_arn: object,
    input_path: object,
    output_path: object,
    filter_arn: object = None,
    num_results: object = None,
    input_kms_key_arn: object = None,
    output_kms_key_arn: object = None,
    tags: object = None,
    config: object = None,
    mode: object = None,
    themes: object = None,
) -> dict[str, Any]:
    """
    Return the members of a Create request but its name, each one judged.

    :param kind: the kind of job
    :param source_of: says where a parameter's value came from, by the operator's name for it
    :param solution_version_arn: and all that follow: see the create operators
    :raises ValueError: when a value cannot be right; says which, and what was expected

    .. seealso:: https://docs.aws.amazon.com/personalize/latest/dg/API_CreateBatchInferenceJob.html
    """
    region = parse_solution_version_arn(solution_version_arn, source=source_of("solution_version_arn"))
    origin = _read_path(input_path, source_of("input_path"))
    target = _read_path(output_path, source_of("output_path"))
    if f"{target.rstrip('/')}/".startswith(f"{origin.rstrip('/')}/"):
        raise wrong_value(
            source_of("output_path"),
            "is equal to or under the input path",
            target,
            f"The output would be read as input the next time: keep it apart from {origin!r}.",
        )
    request = {
        "solutionVersionArn": solution_version_arn,
        "jobInput": {"s3DataSource": _location(origin, input_kms_key_arn, source_of("input_kms_key_arn"))},
        "jobOutput": {
            "s3DataDestination": _location(target, output_kms_key_arn, source_of("output_kms_key_arn"))
        },
        "roleArn": _read_role(role_arn, source_of("role_arn")),
        "filterArn": _read_filter(filter_arn, region, source_of("filter_arn")),
        "numResults": _read_num_results(num_results, kind, source_of("num_results")),
        "tags": _read_tags(tags, source_of("tags")),
    }
    if kind.create_only_members:
        request |= dict(
            zip(kind.create_only_members, read_extras(config, mode, themes, region, source_of), strict=True)
        )
    given = {name: value for name, value in request.items() if value not in (None, {}, [])}
    parameters = _PARAMETERS | dict(zip(kind.create_only_members, EXTRA_PARAMETERS, strict=False))
    for member, value in given.items():
        if make_json_safe(value) != value:
            source = source_of(parameters[member])
            raise wrong_value(
                source,
                "holds a character or a number that JSON, UTF-8 or Airflow's database does not carry",
                value,
                "Remove it.",
            )
    return given


def find_path_warnings(request: Mapping[str, Any]) -> Iterator[str]:
    """
    Yield what is allowed, and yet rarely meant, about a request's paths.

    :param request: what :func:`build_request` returned

    .. seealso:: https://docs.aws.amazon.com/personalize/latest/dg/creating-batch-seg-job.html
    """
    path = request["jobInput"]["s3DataSource"]["path"]
    last = _key(path).rpartition("/")[2]
    if last and "." not in last:
        yield (
            f"The input path {path} is a prefix: besides {path}/, a job reads everything else that begins "
            f"so, such as {path}_old/. If it is a folder, write {path}/."
        )
    target = request["jobOutput"]["s3DataDestination"]["path"]
    if _key(target) and not target.endswith("/"):
        yield (
            f"The output path {target} is a prefix: a job that reads items.json writes "
            f"{target}items.json.out. If it is a folder, write {target}/."
        )
    if _key(path) and f"{target}{last if '.' in last else ''}".startswith(path):
        yield (
            f"The output begins like the input path {path}, so the next job with this input would read it, "
            "too. Choose an output path that does not."
        )


def _key(path: str) -> str:
    return path.removeprefix("s3://").partition("/")[2]


# --- Reading --------------------------------------------------------------------------------------


def _read_path(value: object, source: str) -> str:
    expected = "Expected s3://<bucket>/<folder>/, or an object's path."
    path = read_text(value, source)
    if path is None:
        raise ValueError(f"{source} is empty. {expected}")
    if path != path.strip():
        raise wrong_value(source, "begins or ends with white space; remove it", path)
    if re.search(r"[\x00-\x1f\x7f]", path):
        raise wrong_value(source, "has a control character in it; remove it", path)
    scheme, _, rest = path.partition("://")
    if scheme != "s3" or not re.fullmatch(_BUCKET, rest.partition("/")[0]):
        raise wrong_value(source, "is not an S3 path", path, expected)
    if len(path) > MAX_PATH_LENGTH:
        raise wrong_value(
            source, f"has {len(path)} characters; Personalize takes at most {MAX_PATH_LENGTH}", path
        )
    return path


def _location(path: str, key: object, source: str) -> dict[str, str]:
    arn = read_text(key, source)
    if arn is None:
        return {"path": path}
    if re.search(r"(^|:)alias/", arn):
        raise wrong_value(
            source,
            "is an alias; Personalize takes only the ARN of the key itself",
            arn,
            "Expected arn:aws:kms:<region>:<account>:key/<key ID>.",
        )
    if not re.fullmatch(_KMS_KEY_ARN, arn, re.ASCII):
        raise wrong_value(
            source,
            "is not the ARN of a KMS key",
            arn,
            "Expected arn:aws:kms:<region>:<account>:key/<key ID>.",
        )
    return {"path": path, "kmsKeyArn": arn}


def _read_role(value: object, source: str) -> str:
    arn = read_text(value, source)
    expected = (
        "Expected arn:aws:iam::<account>:role/<name>, the role that Personalize reads and writes S3 with."
    )
    if arn is None:
        raise ValueError(f"{source} is empty. {expected}")
    if len(arn) > MAX_ARN_LENGTH or not re.fullmatch(_ROLE_ARN, arn, re.ASCII):
        raise wrong_value(source, "is not the ARN of an IAM role", arn, expected)
    return arn


def _read_filter(value: object, region: str, source: str) -> str | None:
    arn = read_text(value, source)
    if arn is None:
        return None
    if (filter_region := parse_filter_arn(arn, source=source)) != region:
        raise wrong_value(
            source, f"is in the region {filter_region!r}, the solution version in {region!r}", arn
        )
    return arn


def _read_num_results(value: object, kind: BatchJobKind, source: str) -> int | None:
    number = read_count(value, source)
    if number and kind is BatchJobKind.SEGMENT and number > MAX_SEGMENT_USERS:
        raise wrong_value(source, f"is too many; a segment has at most {MAX_SEGMENT_USERS} users", number)
    return number


def _read_tags(value: object, source: str) -> list[dict[str, str]]:
    if value is None or value in ("", {}):
        return []
    tags = read_dict(value, source, "such as {'team': 'growth'}")
    if len(tags) > MAX_TAGS:
        raise ValueError(f"{source} has {len(tags)} tags; a job has at most {MAX_TAGS}.")
    for key, text in tags.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise wrong_value(
                source,
                f"has a key of type {type(key).__name__}, whose value is of type {type(text).__name__}; both "
                "must be text",
                key,
            )
        if not 1 <= len(key) <= 128 or len(text) > 256:
            raise wrong_value(
                source,
                "has a key or a value that is too long or empty",
                key,
                "A key has 1 to 128 characters, a value at most 256.",
            )
        if not re.fullmatch(_TAG, key) or not re.fullmatch(_TAG, text):
            raise wrong_value(
                source,
                "has a key or a value with characters that tags cannot have",
                key,
                "Expected letters, digits, spaces and _.:/=+-@.",
            )
        if key.lower().startswith("aws:"):
            raise wrong_value(source, "has a key that begins with 'aws:', which AWS keeps for itself", key)
    return [{"tagKey": key, "tagValue": text} for key, text in tags.items()]
