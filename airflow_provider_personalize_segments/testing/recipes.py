"""The recipes a solution version can have, and what more of each shows in a batch job."""

from __future__ import annotations

from airflow_provider_personalize_segments.recipes import RECIPES

__all__ = ["RECIPES", "SAME_FOR_ALL_RECIPES", "SCORED_RECIPES", "THEME_REGIONS"]

SCORED_RECIPES = frozenset(
    {
        "aws-user-personalization-v2",
        "aws-user-personalization",
        "aws-hrnn",
        "aws-hrnn-metadata",
        "aws-hrnn-coldstart",
        "aws-personalized-ranking-v2",
        "aws-personalized-ranking",
    }
)
"""Recipes whose output has ``scores``."""
SAME_FOR_ALL_RECIPES = frozenset({"aws-popularity-count"})
"""Recipes that recommend the same items to every user."""
THEME_REGIONS = frozenset({"us-east-1", "us-west-2", "ap-northeast-1"})
