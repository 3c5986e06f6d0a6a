"""Listing batch jobs for an operator: AWS filters by solution version only, all else is done here."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_personalize_segments.airflow_compat import AirflowSkipException, conf
from airflow_provider_personalize_segments.errors import PersonalizeNoJobsError, fail_on_invalid_parameters
from airflow_provider_personalize_segments.jobs import normalize_status
from airflow_provider_personalize_segments.parameters import (
    read_choice,
    read_count,
    read_datetime,
    read_statuses,
    read_text,
    wrong_value,
)
from airflow_provider_personalize_segments.plain_json import make_json_safe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_provider_personalize_segments.operators import ListBatchJobsOperator
    from airflow_provider_personalize_segments.waiting.verdicts import Log

SUCCEED, SKIP, FAIL = IF_EMPTY = ("succeed", "skip", "fail")
_BEFORE_ALL_JOBS = datetime.min.replace(tzinfo=UTC)


def list_jobs(task: ListBatchJobsOperator) -> list[dict[str, Any]]:
    """
    List, filter and sort.

    :param task: the operator, as rendered
    :returns: the summaries, newest first, as plain JSON
    :raises InvalidParameterError: when a parameter cannot be right
    :raises AirflowSkipException: when no job matches, and ``if_empty`` is ``skip``
    :raises PersonalizeNoJobsError: when no job matches, and ``if_empty`` is ``fail``
    """
    with fail_on_invalid_parameters():
        matches, max_items = _read_filter(task)
        if_empty = read_choice(task.if_empty, IF_EMPTY, task.source_of("if_empty"))
    kind = task.kind
    listed = list(task.hook.list_jobs(kind, task.solution_version_arn or None))
    found = sorted(
        filter(matches, listed),
        key=lambda summary: (_created(summary), summary[kind.arn_member]),
        reverse=True,
    )[:max_items]
    task.log.info(
        "%d of %d %ss match%s.",
        len(found),
        len(listed),
        kind.title,
        "" if max_items is None else f", at most {max_items} asked for",
    )
    if not found and if_empty == SKIP:
        raise AirflowSkipException(f"No {kind.title} matches, so the task is skipped: if_empty is {SKIP!r}.")
    if not found and if_empty == FAIL:
        raise PersonalizeNoJobsError(kind.title, len(listed), task.solution_version_arn or None)
    _warn_about_length(len(found), task.log)
    summaries: list[dict[str, Any]] = make_json_safe(found)
    return summaries


def _read_filter(task: ListBatchJobsOperator) -> tuple[Callable[[Mapping[str, Any]], bool], int | None]:
    """Return what tells whether a summary matches, and how many may be returned."""
    source_of = task.source_of
    statuses = read_statuses(task.statuses, source_of("statuses"))
    after = read_datetime(task.created_after, source_of("created_after"))
    before = read_datetime(task.created_before, source_of("created_before"))
    prefix = read_text(task.job_name_prefix, source_of("job_name_prefix")) or ""
    max_items = read_count(task.max_items, source_of("max_items"))
    if after and before and after >= before:
        raise wrong_value(
            source_of("created_after"),
            f"is not before created_before, {before.isoformat()}, so no job could match",
            after.isoformat(),
        )

    def matches(summary: Mapping[str, Any]) -> bool:
        created = _created(summary)
        return (
            str(summary.get("jobName", "")).startswith(prefix)
            and (statuses is None or normalize_status(str(summary.get("status", ""))) in statuses)
            and (after is None or created >= after)
            and (before is None or created < before)
        )

    return matches, max_items


def _warn_about_length(length: int, log: Log) -> None:
    max_map_length = conf.getint("core", "max_map_length", fallback=1024)
    if length > max_map_length:
        log.warning(
            "%d jobs are more than [core] max_map_length = %d: a task mapped over this list would fail. "
            "Narrow the list with max_items, created_after, statuses or job_name_prefix, or raise "
            "max_map_length.",
            length,
            max_map_length,
        )


def _created(summary: Mapping[str, Any]) -> datetime:
    """Return when a job was created; one without a date counts as older than all others."""
    return summary.get("creationDateTime") or _BEFORE_ALL_JOBS
