"""The recipes a solution version can have, and what each means for a batch job."""

from __future__ import annotations

import re
from dataclasses import dataclass

from airflow_provider_personalize_segments.jobs import BatchJobKind


@dataclass(frozen=True)
class Recipe:
    """What a recipe asks of every input record, and what it answers."""

    kind: BatchJobKind
    required_members: tuple[str, ...]
    """The members each input record must have."""
    lines_per_file: int
    """More lines than this in one input file fail the job."""
    scored: bool = False
    """Whether records carry ``scores``."""


# https://docs.aws.amazon.com/personalize/latest/dg/limits.html
_INFERENCE_LINES = 50_000_000
THEME_LINES = 100
RECIPES = {
    "aws-item-affinity": Recipe(BatchJobKind.SEGMENT, ("itemId",), 500),
    "aws-item-attribute-affinity": Recipe(BatchJobKind.SEGMENT, ("itemAttributes",), 10),
    "aws-user-personalization": Recipe(BatchJobKind.INFERENCE, ("userId",), _INFERENCE_LINES, scored=True),
    "aws-user-personalization-v2": Recipe(BatchJobKind.INFERENCE, ("userId",), _INFERENCE_LINES, scored=True),
    "aws-personalized-ranking": Recipe(
        BatchJobKind.INFERENCE, ("userId", "itemList"), _INFERENCE_LINES, scored=True
    ),
    "aws-personalized-ranking-v2": Recipe(
        BatchJobKind.INFERENCE, ("userId", "itemList"), _INFERENCE_LINES, scored=True
    ),
    "aws-similar-items": Recipe(BatchJobKind.INFERENCE, ("itemId",), _INFERENCE_LINES),
    "aws-sims": Recipe(BatchJobKind.INFERENCE, ("itemId",), _INFERENCE_LINES),
}
THEME_RECIPES = frozenset({"aws-similar-items"})
THEME_REGIONS = frozenset({"us-east-1", "us-west-2", "ap-northeast-1"})

_CONDITION = r'ITEMS\.\w+\s*=\s*(?:"[^"]*"|-?\d+(?:\.\d+)?)'
ITEM_ATTRIBUTES_PATTERN = re.compile(rf"\s*{_CONDITION}(?:\s+AND\s+{_CONDITION})*\s*", re.IGNORECASE)
"""Conditions on items: only ``=``, joined only by ``AND``."""
