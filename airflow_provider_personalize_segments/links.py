"""Links from a task to the AWS console: what runs there, and where its output goes.

They are pushed as XComs as soon as they are known, because Airflow 3 shows a link from its XCom alone, and
computes it only when the task ends or defers.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from airflow_provider_personalize_segments.airflow_compat import BaseOperatorLink, XCom

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.airflow_compat import BaseOperator, Context, TaskInstanceKey
    from airflow_provider_personalize_segments.hooks import PersonalizeHook
    from airflow_provider_personalize_segments.waiting.verdicts import Log

CONSOLES = {"aws": "console.aws.amazon.com", "aws-cn": "console.amazonaws.cn"}
"""Of the partitions that have Amazon Personalize."""
PATIENCE = 1.0
"""Seconds that the call for a link may cost a task."""


class PersonalizeLink(BaseOperatorLink):
    """Base of our links; each is the URL that a task pushed under its own XCom key."""

    @property
    def xcom_key(self) -> str:
        """The key of the XCom that holds the URL, on every Airflow."""
        return f"_link_{type(self).__name__}"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """
        Return the URL, or empty text as long as there is none.

        :param operator: the operator
        :param ti_key: the key of the task instance
        """
        return str(XCom.get_value(key=self.xcom_key, ti_key=ti_key) or "")


class PersonalizeConsoleLink(PersonalizeLink):
    """
    The dataset group of the job's solution version, in the Amazon Personalize console.

    The console has a page for each batch job, too, but how its address is made is not documented.
    """

    name = "Amazon Personalize console"


class S3OutputLink(PersonalizeLink):
    """The folder in the S3 console that the job writes its output to."""

    name = "Job output in S3"


LINKS = (PersonalizeConsoleLink(), S3OutputLink())


def make_dataset_group_url(dataset_group_arn: str) -> str:
    """
    Return the address of a dataset group's page in the Personalize console; empty where there is none.

    :param dataset_group_arn: the dataset group's ARN
    """
    _, partition, _, region, _, _ = dataset_group_arn.split(":", 5)
    home = make_personalize_url(partition, region)
    return f"{home}#{dataset_group_arn.replace('/', '$')}/setup" if home else ""


def make_personalize_url(partition: str, region: str) -> str:
    """
    Return the address of the Personalize console; empty where there is none.

    :param partition: the partition, ``aws`` or ``aws-cn``
    :param region: the AWS region
    """
    return f"https://{CONSOLES[partition]}/personalize/home?region={region}" if partition in CONSOLES else ""


def make_output_url(partition: str, region: str, path: str) -> str:
    """
    Return the address of a folder's page in the S3 console; empty where there is none.

    :param partition: the partition, ``aws`` or ``aws-cn``
    :param region: the AWS region
    :param path: the folder's path, ``s3://<bucket>/<prefix>``
    """
    if partition not in CONSOLES:
        return ""
    bucket, _, prefix = path.removeprefix("s3://").partition("/")
    return (
        f"https://{CONSOLES[partition]}/s3/buckets/{bucket}?{urlencode({'region': region, 'prefix': prefix})}"
    )


def has_links(context: Context) -> bool:
    """
    Tell whether a task has pushed its links already, before it was deferred; where Airflow does not say, not.

    :param context: the task's context
    """
    ti = context.get("ti")
    if ti is None:
        return False
    with suppress(Exception):  # no error of Airflow's API or database fails a task for a link
        key = LINKS[0].xcom_key
        return bool(ti.xcom_pull(task_ids=ti.task_id, key=key, map_indexes=ti.map_index))
    return False


def push_links(context: Context, hook: PersonalizeHook, job: Mapping[str, Any], log: Log) -> None:
    """
    Make a task's links visible, now.

    The page of the dataset group is known from the solution version; where AWS does not tell it within a
    second, it is the console's first page. An error here is logged, and fails no task.

    :param context: the task's context
    :param hook: the hook to find the dataset group with, which has read its connection
    :param job: the job as Describe gives it, or the Create request that it is made by
    :param log: the task's log
    """
    ti = context.get("ti")
    if ti is None:
        return
    urls: dict[type[PersonalizeLink], str] = {}
    try:
        urls = _find_urls(hook, job, log)
    except Exception as error:
        # An answer may be of any shape, and none is worth a task.
        log.warning("The links to the AWS console could not be made: %r", error)
    for link in LINKS:
        if url := urls.get(type(link)):
            try:
                ti.xcom_push(key=link.xcom_key, value=url)
            except Exception as error:
                # What Airflow's API or database may raise is without end, and none of it is the job's fault.
                log.warning("The link %r could not be stored: %s", link.name, error)


def _find_urls(hook: PersonalizeHook, job: Mapping[str, Any], log: Log) -> dict[type[PersonalizeLink], str]:
    # Not at the top: only a task that runs needs threads.
    from airflow_provider_personalize_segments.bounded_calls import call_within

    solution_version_arn = job.get("solutionVersionArn")
    if not solution_version_arn:
        return {}
    _, partition, _, region, _, _ = solution_version_arn.split(":", 5)
    if partition not in CONSOLES:
        return {}
    urls: dict[type[PersonalizeLink], str] = {}
    path = job.get("jobOutput", {}).get("s3DataDestination", {}).get("path")
    if path:
        urls[S3OutputLink] = make_output_url(partition, region, path)
    try:
        version = call_within(PATIENCE, lambda: hook.describe_solution_version(solution_version_arn))
        urls[PersonalizeConsoleLink] = make_dataset_group_url(version["datasetGroupArn"])
    except Exception as error:
        # Besides what AWS answers, an unreadable CA bundle, say, which the task's own calls tell of better.
        reason = "no answer in time" if isinstance(error, TimeoutError) else error
        log.info("The link to the console leads to its first page only: %s", reason)
        urls[PersonalizeConsoleLink] = make_personalize_url(partition, region)
    return urls
