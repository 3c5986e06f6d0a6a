"""Reads parameters once they are rendered: a template leaves text where a number or a date is meant.

Every function takes the value and where it came from, and raises what :func:`wrong_value` returns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import PurePath
from typing import Any

from airflow_provider_personalize_segments.jobs import KNOWN_STATUSES, normalize_status
from airflow_provider_personalize_segments.plain_json import show

MAX_SECONDS = 100 * 365 * 24 * 60 * 60
"""A hundred years; what is far beyond is no date any more."""


def wrong_value(source: str, verdict: str, value: object, advice: str = "") -> ValueError:
    """
    Return the error about a value that cannot be right: the verdict first, the value last.

    Airflow's log view cuts a line after some hundred characters, and an ARN or a path fills them alone.

    :param source: where the value came from, such as ``job_arn of task 'wait'``
    :param verdict: what is wrong with it, such as ``is not a date``
    :param value: the value
    :param advice: what is expected and what to do, in whole sentences
    """
    shown = show(value)
    return ValueError(
        f"{source} {verdict}. {advice} Got {shown}." if advice else f"{source} {verdict}: {shown}"
    )


def read_datetime(value: object, source: str) -> datetime | None:
    """
    Return a moment with an offset; ``None`` and empty text stay ``None``.

    :param value: a ``datetime``, a ``date`` (its midnight), or ISO 8601 text; naive means UTC
    :param source: where the value came from, for the error message
    """
    if value is None or value == "":
        return None
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, date):
        moment = datetime.combine(value, time())
    else:
        try:
            moment = datetime.fromisoformat(str(value).strip())
        except ValueError:
            raise wrong_value(
                source,
                "is not a date",
                value,
                "Expected a datetime or ISO 8601 text, such as '2026-01-31' or '2026-01-31T08:00:00+00:00'; "
                "without an offset it means UTC.",
            ) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def read_count(value: object, source: str) -> int | None:
    """
    Return a whole number of at least 1; ``None`` and empty text stay ``None``.

    :param value: a number, or text that is one
    :param source: where the value came from, for the error message
    """
    if value is None or value == "":
        return None
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
    number = re.fullmatch(r"(\d+)(\.0+)?", text, re.ASCII)
    count = int(number[1]) if number else 0
    if count < 1 or isinstance(value, bool):
        raise wrong_value(source, "is not a count", value, "Expected a whole number of 1 or more.")
    return count


def read_statuses(value: object, source: str) -> frozenset[str] | None:
    """
    Return statuses in the form that :func:`~.jobs.normalize_status` gives; ``None`` stays ``None``.

    :param value: one status or several, as the API reference or the service spells them
    :param source: where the value came from, for the error message
    """
    if value is None or value == "":
        return None
    known = {normalize_status(status) for status in KNOWN_STATUSES}
    normalized = set()
    for status in value if isinstance(value, Iterable) and not isinstance(value, str) else [value]:
        if not isinstance(status, str) or normalize_status(status) not in known:
            # A misspelt status would match nothing, and a gate over nothing opens.
            raise wrong_value(
                source,
                "is not a status of a batch job",
                status,
                f"Expected any of {', '.join(sorted(KNOWN_STATUSES))}.",
            )
        normalized.add(normalize_status(status))
    return frozenset(normalized)


def read_text(value: object, source: str) -> str | None:
    """
    Return text; ``None`` and empty text are ``None``.

    :param value: the text
    :param source: where the value came from, for the error message
    """
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise wrong_value(source, f"is not text, but of type {type(value).__name__}", value)
    return value


def read_connection_id(value: object, source: str) -> str | None:
    """
    Return the ID of an Airflow connection; ``None`` stays ``None``.

    :param value: the ID; empty text is refused, as it would mean other credentials than were asked for
    :param source: where the value came from, for the error message
    """
    if value == "":
        raise ValueError(
            f"{source} is empty. Expected a connection's ID, or None to use the credentials that boto3 "
            "finds by itself."
        )
    return read_text(value, source)


def read_folder(value: object, source: str) -> str | None:
    """
    Return the path of a folder to write to; ``None`` and empty text are ``None``.

    :param value: text such as ``s3://bucket/folder/``, Airflow's ObjectStoragePath, or an absolute path
    :param source: where the value came from, for the error message
    """
    expected = (
        "Expected s3://<bucket>/<folder>/, another path that Airflow's ObjectStoragePath takes, or "
        "file:///<folder>/ for a folder on the worker itself."
    )
    if getattr(value, "protocol", None):  # ObjectStoragePath, whatever its base in this Airflow
        value = str(value)
    if isinstance(value, PurePath):
        value = value.as_uri() if value.is_absolute() else str(value)
    path = read_text(value, source)
    if path is None:
        return None
    scheme, separator, rest = path.partition("://")
    if not separator:
        raise wrong_value(source, "has no scheme, and would be a folder on the worker", path, expected)
    if scheme != "s3" and scheme.lower() in ("s3", "s3a", "s3n"):
        raise wrong_value(source, f"is not how S3 is written here: write s3://, not {scheme}://", path)
    if scheme in ("file", "local") and not rest.startswith("/"):
        raise wrong_value(source, "is relative to wherever the worker is", path, expected)
    return path


def read_verify(value: object, source: str) -> bool | str | None:
    """
    Return whether to verify TLS certificates, or the path of a CA bundle.

    :param value: a bool, ``None``, a path, or the text that a template makes of these
    :param source: where the value came from, for the error message
    """
    if value is None or isinstance(value, bool):
        return value
    text = read_text(value, source)
    return {"true": True, "false": False, "none": None}.get((text or "none").lower(), text)


def read_bool(value: object, source: str) -> bool:
    """
    Return a bool.

    :param value: a bool, or ``true`` or ``false`` as text
    :param source: where the value came from, for the error message
    """
    known = {"true": True, "false": False}.get(str(value).strip().lower())
    if known is None:
        raise wrong_value(source, "is neither true nor false", value)
    return known


def read_seconds(value: object, source: str) -> float | None:
    """
    Return a length of time in seconds; ``None`` and empty text stay ``None``.

    :param value: seconds as a number or as text, or a ``timedelta``; more than 0
    :param source: where the value came from, for the error message
    """
    if value is None or value == "":
        return None
    try:
        seconds = value.total_seconds() if isinstance(value, timedelta) else float(str(value).strip())
    except ValueError:
        seconds = 0.0
    if isinstance(value, bool) or not 0 < seconds < MAX_SECONDS:
        raise wrong_value(
            source,
            "is not a duration",
            value,
            "Expected seconds, more than 0 and less than a hundred years, or a timedelta.",
        )
    return seconds


def read_share(value: object, source: str) -> float | None:
    """
    Return a share, from 0.0 (none) to 1.0 (all); ``None`` and empty text stay ``None``.

    :param value: a number, or text that is one
    :param source: where the value came from, for the error message
    """
    if value is None or value == "":
        return None
    try:
        share = float(str(value).strip())
    except ValueError:
        share = -1.0
    if isinstance(value, bool) or not 0 <= share <= 1:
        raise wrong_value(source, "is not a share", value, "Expected a number from 0.0 to 1.0.")
    return share


def read_choice(value: object, choices: Sequence[str], source: str) -> str | None:
    """
    Return one of some words; ``None`` and empty text are ``None``.

    :param value: the word
    :param choices: the words there are
    :param source: where the value came from, for the error message
    """
    if value is None or value == "":
        return None
    if value not in choices:
        raise wrong_value(source, f"is not {' or '.join(map(repr, choices))}", value)
    return str(value)


def read_config(value: object, source: str) -> dict[str, Any] | None:
    """
    Return botocore's configuration; ``None`` and an empty dict are ``None``.

    :param value: a dict of arguments of ``botocore.config.Config``
    :param source: where the value came from, for the error message
    """
    if not value:
        return None
    config = read_dict(value, source, "of arguments of botocore.config.Config", is_secret=True)
    for path, text in _texts(config, ""):
        # botocore takes a proxy's address without its scheme, too.
        if re.search(r"//[^/]*@" if not path.startswith("proxies.") else "@", text):
            raise ValueError(
                f"{source} holds a password, which Airflow stores and shows as plain text: {path}. Put it "
                'into the connection\'s extra instead: {"config_kwargs": {"proxies": ...}}.'
            )
    return config


def read_dict(value: object, source: str, example: str, *, is_secret: bool = False) -> dict[str, Any]:
    """
    Return a dict.

    :param value: the dict
    :param source: where the value came from, for the error message
    :param example: what kind of dict is expected, for the error message
    :param is_secret: whether the message must not show the value
    """
    if isinstance(value, dict):
        return value
    verdict, advice = f"is not a dict {example}", ""
    if isinstance(value, str):
        advice = (
            "A template always renders to text: set render_template_as_native_obj=True on the DAG, or write "
            "the dict here and templates into its values."
        )
    if is_secret:
        raise ValueError(f"{source} {verdict}, but of type {type(value).__name__}. {advice}".rstrip())
    raise wrong_value(source, verdict, value, advice)


def _texts(value: object, path: str) -> Iterator[tuple[str, str]]:
    """Yield all texts in dicts and lists, with the names that lead to them."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _texts(each, f"{path}.{name}" if path else str(name))
    elif isinstance(value, (list, tuple)):
        for index, each in enumerate(value):
            yield from _texts(each, f"{path}[{index}]")
    elif isinstance(value, str):
        yield path, value
