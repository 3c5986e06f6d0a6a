"""What OpenLineage is told about a job: the S3 data that it reads and writes, and the job itself.

The OpenLineage provider asks a task for it when the task starts and ends; nothing of OpenLineage is imported
before. A job is plain data here, as Describe gives it, or as much of it as the task knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from airflow_provider_personalize_segments import __version__
from airflow_provider_personalize_segments.arns import is_job_arn
from airflow_provider_personalize_segments.plain_json import make_json_safe

if TYPE_CHECKING:
    from airflow.providers.common.compat.openlineage.facet import InputDataset, OutputDataset, RunFacet
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_personalize_segments.jobs import BatchJobKind

PRODUCER = f"pkg:pypi/airflow-provider-personalize-segments@{__version__}"
"""Who made a facet, as a package URL: it names this release wherever the package lies."""
FACET_KEY = "personalize_batchJob"
"""The name of the facet that is ours, in OpenLineage's form of prefix and name."""
SOURCE = "personalize"
"""The system that knows the ARN in the facet ``externalQuery``."""


def build_lineage(
    kind: BatchJobKind, job: Mapping[str, Any], counts: Mapping[str, Any] | None = None
) -> OperatorLineage[Any, Any]:
    """
    Return what OpenLineage is told about a job; what is unknown or odd is left out.

    :param kind: the kind of job
    :param job: the job as Describe gives it, or as much of it as is known
    :param counts: ``records``, ``bytes`` and ``files`` of its output, as far as they were counted
    """
    from airflow.providers.openlineage.extractors import OperatorLineage

    job = make_json_safe(job)
    return OperatorLineage(
        inputs=_find_inputs(job), outputs=_find_outputs(job, counts), run_facets=_make_run_facets(kind, job)
    )


def add_declared(lineage: OperatorLineage[Any, Any], inlets: Iterable[Any], outlets: Iterable[Any]) -> None:
    """
    Add what a DAG's author says that a task reads and writes; OpenLineage asks only tasks without data.

    :param lineage: what is told about the task's job
    :param inlets: the task's inlets
    :param outlets: the task's outlets
    """
    from airflow.providers.openlineage.extractors.manager import ExtractorManager

    for datasets, declared in ((lineage.inputs, inlets), (lineage.outputs, outlets)):
        for dataset in filter(None, map(ExtractorManager.convert_to_ol_dataset, declared)):
            # An asset's URI has no slash at its end.
            known = {(each.namespace, each.name.rstrip("/")) for each in datasets}
            if (dataset.namespace, dataset.name.rstrip("/")) not in known:
                datasets.append(dataset)


def split_dataset_path(path: object) -> tuple[str, str] | None:
    """
    Return OpenLineage's namespace and name of a path in S3; ``None`` when it is none.

    The name is the key as it was written: with and without a slash at its end, a job reads and writes other
    objects.

    :param path: ``s3://<bucket>/<key>``
    """
    if not isinstance(path, str) or not path.startswith("s3://"):
        return None
    bucket, _, key = path.removeprefix("s3://").partition("/")
    # A task that failed while its templates were rendered still has them.
    if not bucket or "{{" in path or "{%" in path:
        return None
    return f"s3://{bucket}", key or "/"


def _find_inputs(job: Mapping[str, Any]) -> list[InputDataset]:
    from airflow.providers.common.compat.openlineage.facet import InputDataset

    found = split_dataset_path(_find(job, "jobInput", "s3DataSource", "path"))
    return [InputDataset(namespace=found[0], name=found[1])] if found else []


def _find_outputs(job: Mapping[str, Any], counts: Mapping[str, Any] | None) -> list[OutputDataset]:
    from airflow.providers.common.compat.openlineage.facet import (
        OutputDataset,
        OutputStatisticsOutputDatasetFacet,
    )

    found = split_dataset_path(_find(job, "jobOutput", "s3DataDestination", "path"))
    if found is None:
        return []
    facets = {}
    if counts:
        facets["outputStatistics"] = OutputStatisticsOutputDatasetFacet(
            rowCount=counts.get("records"),
            size=counts.get("bytes"),
            fileCount=counts.get("files"),
            producer=PRODUCER,
        )
    return [OutputDataset(namespace=found[0], name=found[1], outputFacets=dict(facets))]


def _make_run_facets(kind: BatchJobKind, job: Mapping[str, Any]) -> dict[str, RunFacet]:
    from airflow.providers.common.compat.openlineage.facet import ExternalQueryRunFacet

    arn = job.get(kind.arn_member)
    solution_version = job.get("solutionVersionArn")
    number = str(job.get("numResults"))
    texts = ("jobName", "status", "creationDateTime", "lastUpdatedDateTime", "failureReason")
    facets: dict[str, RunFacet] = {}
    if is_job_arn(arn, kind):
        facets["externalQuery"] = ExternalQueryRunFacet(
            externalQueryId=str(arn), source=SOURCE, producer=PRODUCER
        )
    else:
        arn = None
    facets[FACET_KEY] = make_facet_class()(
        kind=kind.name,
        jobArn=arn,
        solutionVersionArn=solution_version if str(solution_version).startswith("arn:") else None,
        numResults=int(number) if number.isdecimal() else None,
        **{name: job[name] for name in texts if isinstance(job.get(name), str)},
        producer=PRODUCER,
    )
    return facets


@cache
def make_facet_class() -> Any:
    """
    Return the class of our own facet, which says what OpenLineage's facets do not.

    Its fields are the API's own, but for ``kind`` and ``jobArn``, which are called alike for both kinds. Its
    schema is OpenLineage's of all run facets, which allows more fields.
    """
    from airflow.providers.common.compat.openlineage.facet import RunFacet
    from attrs import define

    @define
    class PersonalizeBatchJobRunFacet(RunFacet):
        """A batch job of Amazon Personalize, as far as the task knew it."""

        kind: str
        jobArn: str | None = None  # noqa: N815 - JSON's name
        jobName: str | None = None  # noqa: N815 - JSON's name
        status: str | None = None
        solutionVersionArn: str | None = None  # noqa: N815 - JSON's name
        numResults: int | None = None  # noqa: N815 - JSON's name
        creationDateTime: str | None = None  # noqa: N815 - JSON's name
        lastUpdatedDateTime: str | None = None  # noqa: N815 - JSON's name
        failureReason: str | None = None  # noqa: N815 - JSON's name

    return PersonalizeBatchJobRunFacet


def _find(job: Mapping[str, Any], *members: str) -> Any:
    value: Any = job
    for each in members:
        value = value.get(each) if isinstance(value, Mapping) else None
    return value
