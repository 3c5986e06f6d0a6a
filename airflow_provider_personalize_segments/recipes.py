"""What the recipe of a job's solution says about the records of the job's input."""

from __future__ import annotations

import re
from typing import NamedTuple

from airflow_provider_personalize_segments.jobs import BatchJobKind


class Recipe(NamedTuple):
    """
    What one recipe takes.

    :param kind: the kind of batch job that it serves
    :param members: the members that every record has, each text but ``itemList``
    :param lines: how many records a file may hold
    """

    kind: BatchJobKind
    members: tuple[str, ...]
    lines: int


_ITEM_AFFINITY, _ATTRIBUTE_AFFINITY = (
    Recipe(BatchJobKind.SEGMENT, *each) for each in BatchJobKind.SEGMENT.input_records
)
_USERS, _ITEMS, _RANKINGS = (
    Recipe(BatchJobKind.INFERENCE, *each) for each in BatchJobKind.INFERENCE.input_records
)
RECIPES = {
    # https://docs.aws.amazon.com/personalize/latest/dg/prepare-input-data-user-segment.html
    "aws-item-affinity": _ITEM_AFFINITY,
    "aws-item-attribute-affinity": _ATTRIBUTE_AFFINITY,
    # https://docs.aws.amazon.com/personalize/latest/dg/batch-data-upload.html says what each type of recipe
    # takes, and https://docs.aws.amazon.com/personalize/latest/dg/working-with-predefined-recipes.html of
    # which type each recipe is. AWS no longer offers the HRNN recipes, and still says what they take.
    "aws-user-personalization-v2": _USERS,
    "aws-user-personalization": _USERS,
    "aws-popularity-count": _USERS,
    "aws-hrnn": _USERS,
    "aws-hrnn-metadata": _USERS,
    "aws-hrnn-coldstart": _USERS,
    "aws-similar-items": _ITEMS,
    "aws-semantic-similarity": _ITEMS,
    "aws-sims": _ITEMS,
    "aws-personalized-ranking-v2": _RANKINGS,
    "aws-personalized-ranking": _RANKINGS,
}
"""All recipes that batch jobs can have, by their names."""
RECIPES_WITHOUT_BATCH = frozenset({"aws-trending-now", "aws-next-best-action"})
"""Excluded by https://docs.aws.amazon.com/personalize/latest/dg/getting-batch-recommendations.html"""
THEME_RECIPE = "aws-similar-items"
"""The only recipe that generates themes."""
THEME_LINES = 100
"""Records of a file when the job generates themes."""

QUOTED = r'"[^"\\]*(?:\\.[^"\\]*)*"'
"""Text in quotes; a backslash goes before quotes inside it."""
NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_CONDITION = rf"ITEMS\.\w+\s*=\s*(?:{QUOTED}|{NUMBER})"
_CONDITIONS = re.compile(
    rf"\s*{_CONDITION}(?:\s+AND\s+{_CONDITION})*\s*", re.ASCII | re.DOTALL | re.IGNORECASE
)


def find_recipe_name(recipe_arn: object) -> str | None:
    """
    Return the name in a recipe's ARN, or ``None`` when it is no recipe that is listed here.

    :param recipe_arn: such as ``arn:aws:personalize:::recipe/aws-sims``
    """
    name = re.sub(r"arn:[^:]+:personalize:[^:]*:[^:]*:recipe/", "", str(recipe_arn), count=1)
    return name if name in RECIPES or name in RECIPES_WITHOUT_BATCH else None


def are_item_conditions(expression: str) -> bool:
    r"""
    Tell whether this is what Item-Attribute-Affinity takes as ``itemAttributes``.

    That is one condition, or several with ``AND`` between them; each compares an attribute by ``=`` with a
    number, or with text in double quotes. Quotes inside the text need a backslash before them. AWS does not
    say whether case matters in ``ITEMS`` and ``AND``, so both pass.

    :param expression: such as ``ITEMS.genres = "Comedy" AND ITEMS.audience = "teen"``

    .. seealso:: https://docs.aws.amazon.com/personalize/latest/dg/prepare-input-data-user-segment.html
    """
    return _CONDITIONS.fullmatch(expression) is not None
