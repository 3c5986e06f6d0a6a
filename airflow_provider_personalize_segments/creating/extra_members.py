"""The members of a Create request that only one kind of job has, judged before AWS is called."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from airflow_provider_personalize_segments.parameters import read_choice, read_dict, wrong_value
from airflow_provider_personalize_segments.plain_json import show

SourceOf = Callable[[str], str]
"""Says where a parameter's value came from, for error messages."""

# https://docs.aws.amazon.com/personalize/latest/dg/themed-batch-recommendations.html
DEFAULT_MODE, THEME_MODE = "BATCH_INFERENCE", "THEME_GENERATION"
THEME_REGIONS = ("us-east-1", "us-west-2", "ap-northeast-1")

EXTRA_PARAMETERS = ("batch_inference_job_config", "batch_inference_job_mode", "theme_generation_config")
"""The operator's names for these members, in the order of the kind's ``create_only_members``."""

_COLUMN = r"[A-Za-z_][A-Za-z\d_]{0,149}"


def read_extras(
    config: object, mode: object, themes: object, region: str, source_of: SourceOf
) -> tuple[dict[str, Any] | None, str | None, dict[str, Any] | None]:
    """
    Return the members that only one kind's request has, each one judged; ``None`` for what was left out.

    :param config: the job's configuration
    :param mode: its mode
    :param themes: what its themes are made of
    :param region: the region of the solution version
    :param source_of: says where a parameter's value came from
    :returns: configuration, mode and themes, as the request has them
    :raises ValueError: when one cannot be right
    """
    names = EXTRA_PARAMETERS
    chosen = read_choice(mode, (DEFAULT_MODE, THEME_MODE), source_of(names[1]))
    fields = _read_themes(themes, source_of(names[2]))
    if fields and chosen != THEME_MODE:
        raise ValueError(
            f"{source_of(names[2])} only counts with {names[1]}={THEME_MODE!r}; set both or none."
        )
    if chosen == THEME_MODE:
        if fields is None:
            raise ValueError(
                f"{source_of(names[1])} is {THEME_MODE}, which needs {names[2]}="
                "{'fieldsForThemeGeneration': {'itemName': '<column of the items dataset>'}}."
            )
        if region not in THEME_REGIONS:
            raise ValueError(
                f"{source_of(names[1])} is {THEME_MODE}, which is only in {', '.join(THEME_REGIONS)}, "
                f"the solution version in {region}."
            )
    return _read_config(config, source_of(names[0])), chosen, fields


def _read_config(value: object, source: str) -> dict[str, Any] | None:
    if not value:
        return None
    config = read_dict(value, source, "such as {'itemExplorationConfig': {'explorationWeight': '0.3'}}")
    if "itemExplorationConfig" in config:
        where = f"itemExplorationConfig in {source}"
        for key, text in read_dict(config["itemExplorationConfig"], where, "of text by text").items():
            if not isinstance(text, str):
                raise wrong_value(
                    f"{key} of {where}", "is not text", text, f"Expected text, such as {show(str(text))}."
                )
    if "rankingInfluence" in config:
        where = f"rankingInfluence in {source}"
        example = "such as {'POPULARITY': 0.5}"
        influence: dict[str, int | float] = {}
        for key, weight in read_dict(config["rankingInfluence"], where, example).items():
            if key not in ("POPULARITY", "FRESHNESS"):
                raise wrong_value(where, "has a key that is neither POPULARITY nor FRESHNESS", key)
            influence[key] = _read_weight(weight, f"{key} of {where}")
        config = {**config, "rankingInfluence": influence}
    return config


def _read_weight(value: object, source: str) -> int | float:
    weight = value
    if isinstance(value, str):
        with suppress(ValueError):
            weight = float(value)  # a template can give only text
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight <= 1:
        raise wrong_value(source, "is not a number from 0.0 to 1.0", value)
    return weight


def _read_themes(value: object, source: str) -> dict[str, Any] | None:
    if not value:
        return None
    expected = "such as {'fieldsForThemeGeneration': {'itemName': 'TITLE'}}"
    themes = read_dict(value, source, expected)
    fields = themes.get("fieldsForThemeGeneration")
    column = fields.get("itemName") if isinstance(fields, dict) else None
    if not isinstance(column, str) or not re.fullmatch(_COLUMN, column, re.ASCII):
        raise wrong_value(source, f"does not name a column, {expected}", value)
    return themes
