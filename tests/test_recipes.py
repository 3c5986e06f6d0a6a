"""What a recipe says about input: the recipes of AWS's pages, and its conditions on items."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.recipes import (
    RECIPES,
    RECIPES_WITHOUT_BATCH,
    are_item_conditions,
    find_recipe_name,
)

CREATING = (Path(__file__).parent.parent / "docs" / "creating.md").read_text()


class TestRecipes:
    @pytest.mark.parametrize("partition", ["aws", "aws-cn"])
    @pytest.mark.parametrize("name", [*RECIPES, *sorted(RECIPES_WITHOUT_BATCH)])
    def test_are_known_by_their_arns(self, name, partition):
        assert find_recipe_name(f"arn:{partition}:personalize:::recipe/{name}") == name

    @pytest.mark.parametrize(
        "arn", [None, "", 7, "arn:aws:personalize:::recipe/aws-later", "recipe/aws-sims"]
    )
    def test_of_no_known_arn_are_none(self, arn):
        assert find_recipe_name(arn) is None

    def test_are_those_of_the_guide(self):
        """The guide's table names every recipe, by its short name, with its record and its lines."""
        table = CREATING.partition("| job | recipe | a line | lines per file |")[2].partition("\n\n")[0]
        told = {}
        for job, recipes, record, lines in re.findall(
            r"^\| (\w+) \| (.*?) \| `(.*?)` \| (.*?) \|$", table, re.M
        ):
            for recipe in recipes.split(", "):
                members = tuple(re.findall(r'"(\w+)":', record))
                told[f"aws-{recipe.lower()}"] = (job, members, lines.split(",")[0])
        lines = {500: "500", 10: "10", 50_000_000: "50 million"}
        assert told == {
            name: (each.kind.name, each.members, lines[each.lines]) for name, each in RECIPES.items()
        }

    def test_take_what_aws_says(self):
        """https://docs.aws.amazon.com/personalize/latest/dg/batch-data-upload.html"""
        takes = {}
        for name, each in RECIPES.items():
            takes.setdefault((each.kind.name, each.members), set()).add(name.removeprefix("aws-"))
        assert takes == {
            ("segment", ("itemId",)): {"item-affinity"},
            ("segment", ("itemAttributes",)): {"item-attribute-affinity"},
            ("inference", ("userId",)): {
                "user-personalization-v2",
                "user-personalization",
                "popularity-count",
                "hrnn",
                "hrnn-metadata",
                "hrnn-coldstart",
            },
            ("inference", ("itemId",)): {"similar-items", "semantic-similarity", "sims"},
            ("inference", ("userId", "itemList")): {"personalized-ranking-v2", "personalized-ranking"},
        }
        assert {each.lines for each in RECIPES.values() if each.kind is BatchJobKind.INFERENCE} == {
            50_000_000
        }


class TestItemConditions:
    @pytest.mark.parametrize(
        "expression",
        [
            'ITEMS.genres = "Comedy"',
            'ITEMS.genres = "Comedy" AND ITEMS.genres = "Action"',
            'ITEMS.genres="Comedy" AND ITEMS.audience="teen" AND ITEMS.YEAR=1999',
            '  items.CATEGORY_L1 = "tools"  and  Items.x = "y" ',
            "ITEMS.PRICE = 10.5",
            "ITEMS.PRICE = -1e5",
            "ITEMS.PRICE = .5",
            'ITEMS.genres = "Comedy, Drama"',
            'ITEMS.genres = "Action|Adventure (1999) [HD] {4K}"',
            'ITEMS.title = "Schindler\'s List"',
            r'ITEMS.title = "say \"hi\""',
            r'ITEMS.title = "Schindler\'s List" AND ITEMS.path = "C:\\"',
            'ITEMS.title = "this OR that IN > != AND so on"',
            'ITEMS.title = ""',
            'ITEMS.title = "日本 \U0001f600"',
        ],
    )
    def test_of_equality_and_and_are_right(self, expression):
        assert are_item_conditions(expression)

    @pytest.mark.parametrize(
        "expression",
        [
            "",
            "comedies from the nineties",
            "Comedy",
            "ITEMS.genres",
            'ITEMS.genres = "Comedy" OR ITEMS.genres = "Action"',
            'ITEMS.genres IN ("Comedy", "Action")',
            'ITEMS.genres NOT IN ("Comedy")',
            'ITEMS.genres != "Comedy"',
            'ITEMS.genres == "Comedy"',
            "ITEMS.year > 1999",
            "ITEMS.year >= 1999",
            'NOT ITEMS.genres = "Comedy"',
            'genres = "Comedy"',
            'USERS.genres = "Comedy"',
            'ITEMS.genres = "Comedy" AND genres = "Action"',
            "ITEMS.genres = Comedy",
            "ITEMS.adult = true",
            "ITEMS.genres = 'Comedy'",
            "ITEMS.genres = “Comedy”",
            'ITEMS.genres = "Comedy" AND',
            'ITEMS.genres = "Comedy", ITEMS.genres = "Action"',
            'ITEMS.genres = "Comedy" ITEMS.genres = "Action"',
            '(ITEMS.genres = "Comedy")',
            'ITEMS.genres = "Comedy" AND "Action"',
            'ITEMS.genres = "Comedy',
            'ITEMS.title = "12" vinyl"',
            r'ITEMS.path = "C:\"',
            "ITEMS.genres = $GENRE",
            "ITEMS.year = 1 999",
            "ITEMS.year = \u0661",
        ],
    )
    def test_of_anything_else_are_wrong(self, expression):
        assert not are_item_conditions(expression)

    @given(st.lists(st.text(), min_size=1, max_size=4))
    def test_take_any_text_whose_quotes_are_escaped(self, texts):
        values = [text.replace("\\", "\\\\").replace('"', '\\"') for text in texts]
        assert are_item_conditions(" AND ".join(f'ITEMS.a = "{value}"' for value in values))

    @pytest.mark.parametrize(
        "text", ['ITEMS.a = "' + "x" * 200_000, 'ITEMS.a = "\\"' * 50_000, "ITEMS.a = " + "1" * 200_000 + "x"]
    )
    def test_are_judged_in_no_time_however_long_they_are(self, text):
        begin = time.process_time()
        assert not are_item_conditions(text)
        assert time.process_time() - begin < 1
