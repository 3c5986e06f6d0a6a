"""Assets: a task that has an AssetAlias among its outlets tells Airflow of a folder once it is complete."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_personalize_segments.airflow_compat import (
    add_asset_event,
    find_asset_aliases,
    make_asset,
)
from airflow_provider_personalize_segments.arns import parse_job_arn
from airflow_provider_personalize_segments.errors import PersonalizeOutputError
from airflow_provider_personalize_segments.plain_json import make_json_safe, show

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.airflow_compat import Context
    from airflow_provider_personalize_segments.waiting.verdicts import Log

COUNTS = ("rows", "files", "bytes", "records", "errors", "errorRate")
"""What the asset of a table says besides its job."""
ADVICE = (
    "The output is not harmed: take the AssetAlias out of the task's outlets, and give the next job "
    "another path."
)
NOT_WAITING = (
    "outlets of task %r hold the AssetAlias %r, and with wait_for_completion=False the task ends before its "
    "job is known to be ACTIVE: it emits no asset. Give the AssetAlias to the sensor that waits for the job."
)


def check_folder(outlets: Iterable[Any], path: str, source: str) -> None:
    """
    See that a folder can become an asset, before anything is done that costs time or money.

    :param outlets: the task's outlets
    :param path: the folder's path
    :param source: where the path came from
    :raises ValueError: when an alias is among the outlets, and Airflow takes no such asset
    """
    if find_asset_aliases(outlets):
        try:
            _make_asset(path)
        except ValueError as error:
            raise ValueError(
                f"{source} cannot become an asset: {error}. Choose another, or take the AssetAlias out of "
                "the task's outlets."
            ) from None


def tell_not_waiting(task_id: str, outlets: Iterable[Any], log: Log) -> None:
    """
    Warn that a task that does not wait for its job emits nothing.

    :param task_id: the task
    :param outlets: its outlets
    :param log: its log
    """
    for alias in find_asset_aliases(outlets):
        log.warning(NOT_WAITING, task_id, alias.name)


def emit_output(
    context: Context, outlets: Iterable[Any], job_arn: str, job: Mapping[str, Any], log: Log
) -> None:
    """
    Emit the output folder of a job that is ACTIVE as an asset, once through each alias among the outlets.

    :param context: the task's context
    :param outlets: the task's outlets
    :param job_arn: the job's ARN
    :param job: the job as Describe gives it
    :param log: the task's log
    :raises PersonalizeOutputError: when the path that Describe gives cannot become an asset
    """
    aliases = find_asset_aliases(outlets)
    if not aliases:
        return
    path: Any = job
    for name in ("jobOutput", "s3DataDestination", "path"):
        path = path.get(name) if isinstance(path, Mapping) else None
    try:
        if not isinstance(path, str) or not re.match("s3://[^/]", path):
            raise ValueError(f"{show(path)} is no folder in S3, s3://bucket/folder/")
        asset = _make_asset(path)
    except ValueError as error:
        raise PersonalizeOutputError(
            job_arn, f"The job's output cannot become an asset: {error}", advice=ADVICE
        ) from None
    _emit(context, aliases, asset, job_arn, {"numResults": job.get("numResults")}, log)


def emit_table(
    context: Context, outlets: Iterable[Any], job_arn: str, result: Mapping[str, Any], log: Log
) -> None:
    """
    Emit the folder of a table that is complete as an asset, once through each alias among the outlets.

    :param context: the task's context
    :param outlets: the task's outlets
    :param job_arn: the job's ARN
    :param result: what the task returns
    :param log: the task's log
    """
    aliases = find_asset_aliases(outlets)
    if aliases and result["isComplete"]:
        asset = _make_asset(result["outputPath"])
        _emit(context, aliases, asset, job_arn, {name: result[name] for name in COUNTS}, log)


def _make_asset(path: str) -> Any:
    if not path.isascii():
        # A worker of Airflow 3.1 or later takes it, and then the API server fails the task that succeeded.
        raise ValueError(f"Airflow takes only ASCII characters, unlike those of {show(path)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Airflow warns of what it drops; below, that is an error
            asset = make_asset(path)
    except ValueError as error:
        raise ValueError(f"Airflow makes no asset of {show(path)}: {error}") from None
    if asset.uri.rstrip("/") != path.rstrip("/"):
        # DAGs would be started for another folder, or for the folders of several jobs.
        raise ValueError(f"Airflow would make the asset {asset.uri} of {show(path)}")
    return asset


def _emit(
    context: Context, aliases: list[Any], asset: Any, job_arn: str, more: Mapping[str, Any], log: Log
) -> None:
    said = {"jobArn": job_arn, "kind": parse_job_arn(job_arn).kind.name, **more}
    # Airflow 2.11 and 3.0 look an event up by its extra, and fail when a list or a map is in it.
    extra = {
        name: show(value) if isinstance(value, (list, dict)) else value
        for name, value in make_json_safe(said).items()
    }
    add_asset_event(context, aliases, asset, extra)
    log.info("Emitting the asset %s through %s.", asset.uri, ", ".join(alias.name for alias in aliases))
