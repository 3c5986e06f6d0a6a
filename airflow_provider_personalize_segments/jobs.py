"""What a Personalize batch job is: its two kinds, and its statuses.

Everything here is data and judgment on the standard library alone, so that sensors, operators,
triggers, the hook and the local Personalize all ask the same questions in the same place.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, ClassVar


class BatchJobKind:
    """
    One of the two kinds of batch job, :attr:`SEGMENT` and :attr:`INFERENCE`, as the API names it.

    The two differ only in these names and, when created, in ``create_only_members``.
    ``tests/test_service_contract.py`` compares every one of them with botocore's service model.

    :param name: how it is spelled where it must be text: ``segment`` or ``inference``
    :param title: how a person reads it
    :param arn_resource: the resource type in the ARN, before the slash
    :param create_operation: the API's operation, as ``describe_operation`` and ``list_operation``
    :param create_method: boto3's method for it, as ``describe_method`` and ``list_method``
    :param job_member: the member of the Describe response that holds the job
    :param jobs_member: the member of a List page that holds the summaries
    :param arn_member: the member that holds a job's ARN, in requests, responses, jobs and summaries
    :param create_only_members: members of the Create request that the other kind does not have
    :param input_records: what a record of input may be, by recipe: its members, and how many of these a file
        may hold
    :param result_column: what one of the results is called in a table
    :param number_members: members of an output record's ``output`` that may hold a number for each result
    :param theme_member: the member of it that may name what the results have in common; empty for none
    :param result_members: members of an output record's ``output`` that may hold its results; the first is
        the one seen in real output, the others are documented

    .. seealso:: https://docs.aws.amazon.com/personalize/latest/dg/API_Operations_Amazon_Personalize.html
    """

    SEGMENT: ClassVar[BatchJobKind]
    INFERENCE: ClassVar[BatchJobKind]

    name: str
    title: str
    arn_resource: str
    create_operation: str
    describe_operation: str
    list_operation: str
    create_method: str
    describe_method: str
    list_method: str
    job_member: str
    jobs_member: str
    arn_member: str
    create_only_members: tuple[str, ...]
    input_records: tuple[tuple[tuple[str, ...], int], ...]
    result_members: tuple[str, ...]
    result_column: str
    number_members: tuple[str, ...]
    theme_member: str

    # A plain class, as making a named tuple of so many names takes longer than all else in this module.
    def __init__(self, **names: Any) -> None:
        self.__dict__.update(names)

    def __repr__(self) -> str:
        return f"BatchJobKind.{self.name.upper()}"

    def __reduce__(self) -> tuple[Any, ...]:
        return BatchJobKind.named, (self.name,)

    @classmethod
    def named(cls, name: str) -> BatchJobKind:
        """
        Return the kind of that name.

        :param name: ``segment`` or ``inference``
        :raises ValueError: when the name is neither
        """
        for kind in BATCH_JOB_KINDS:
            if kind.name == name:
                return kind
        raise ValueError(f"Expected a kind of batch job, 'segment' or 'inference', got {name!r}.")

    def example_arn(self) -> str:
        """Return what an ARN of this kind looks like, for error messages."""
        return f"arn:aws:personalize:<region>:<account>:{self.arn_resource}/<job name>"


BatchJobKind.SEGMENT = BatchJobKind(
    name="segment",
    title="batch segment job",
    arn_resource="batch-segment-job",
    create_operation="CreateBatchSegmentJob",
    describe_operation="DescribeBatchSegmentJob",
    list_operation="ListBatchSegmentJobs",
    create_method="create_batch_segment_job",
    describe_method="describe_batch_segment_job",
    list_method="list_batch_segment_jobs",
    job_member="batchSegmentJob",
    jobs_member="batchSegmentJobs",
    arn_member="batchSegmentJobArn",
    create_only_members=(),
    input_records=((("itemId",), 500), (("itemAttributes",), 10)),
    result_members=("usersList", "recommendedUsers"),
    result_column="user_id",
    number_members=(),
    theme_member="",
)
BatchJobKind.INFERENCE = BatchJobKind(
    name="inference",
    title="batch inference job",
    arn_resource="batch-inference-job",
    create_operation="CreateBatchInferenceJob",
    describe_operation="DescribeBatchInferenceJob",
    list_operation="ListBatchInferenceJobs",
    create_method="create_batch_inference_job",
    describe_method="describe_batch_inference_job",
    list_method="list_batch_inference_jobs",
    job_member="batchInferenceJob",
    jobs_member="batchInferenceJobs",
    arn_member="batchInferenceJobArn",
    create_only_members=("batchInferenceJobConfig", "batchInferenceJobMode", "themeGenerationConfig"),
    input_records=(
        (("userId",), 50_000_000),
        (("itemId",), 50_000_000),
        (("userId", "itemList"), 50_000_000),
    ),
    result_members=("recommendedItems",),
    result_column="item_id",
    number_members=("scores", "itemsThemeRelevanceScores"),
    theme_member="theme",
)
BATCH_JOB_KINDS = (BatchJobKind.SEGMENT, BatchJobKind.INFERENCE)


# --- Statuses -------------------------------------------------------------------------------------


class JobState(Enum):
    """What a status means for a task that waits for the job."""

    WAITING = "waiting"
    ACTIVE = "active"
    FAILED = "failed"


ACTIVE_STATUS = "ACTIVE"
FAILED_STATUS = "CREATE FAILED"
WAITING_STATUSES = frozenset(
    # Documented, and observed: the API reference says the first two, saved notebook output the others.
    {"PENDING", "IN PROGRESS", "CREATE PENDING", "CREATE IN_PROGRESS"}
)
KNOWN_STATUSES = WAITING_STATUSES | {ACTIVE_STATUS, FAILED_STATUS}
_FAILED_ENDINGS = ("FAILED", "STOPPED")


def classify_status(status: object) -> JobState:
    """
    Judge a status: the one place that decides whether a gate opens.

    Only ``ACTIVE`` opens it. ``CREATE FAILED``, and every status that ends in FAILED or STOPPED, closes it
    for good. Everything else, known or not, is "not yet": the API documents no closed list.

    :param status: ``status`` of a job or a summary; anything but text is "not yet"

    .. seealso:: https://docs.aws.amazon.com/personalize/latest/dg/API_BatchSegmentJob.html
    """
    if status == ACTIVE_STATUS:
        return JobState.ACTIVE
    if isinstance(status, str) and status.endswith(_FAILED_ENDINGS):
        return JobState.FAILED
    return JobState.WAITING


def is_known_status(status: object) -> bool:
    """Tell whether the status is one that AWS documents or that has been seen; others deserve a warning."""
    return (isinstance(status, str) and status in KNOWN_STATUSES) or classify_status(
        status
    ) is JobState.FAILED


def normalize_status(status: str) -> str:
    """
    Return the status without the differences between documentation and service.

    ``PENDING`` and ``CREATE PENDING`` come out equal, and so do ``IN PROGRESS`` and ``CREATE IN_PROGRESS``:
    the API reference has the first of each pair, the service answers with the second.
    """
    return status.strip().upper().replace("_", " ").removeprefix("CREATE ")
