"""The picture of segments: it is XML, its numbers are right, and the documentation shows this one."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.testing.demo import PICTURE, USERS_PER_SEGMENT
from airflow_provider_personalize_segments.testing.example_jobs import EXAMPLE_INPUT
from airflow_provider_personalize_segments.testing.output import Population
from airflow_provider_personalize_segments.testing.picture import (
    MOST_CHARACTERS,
    MOST_SEGMENTS,
    draw_segments,
)

SVG = "{http://www.w3.org/2000/svg}"
SHOWN = Path(__file__).parent.parent.parent / "docs" / "pictures" / PICTURE


def users(begin, end):
    return {f"u{number}" for number in range(begin, end)}


def draw(segments):
    return ElementTree.fromstring(draw_segments(segments))


def texts(picture):
    return [text.text for text in picture.iter(f"{SVG}text")]


def rows(picture):
    """Return the texts of each row, by its number."""
    found = texts(picture)
    columns = max(found.index("% of them who are also in"), 2)
    rest = found[columns + 1 :]
    count = next((place for place, text in enumerate(rest) if not text.isdigit()), 0)
    numbers = rest[: count - 1]  # the last is the first row's own
    rest = rest[count - 1 :]
    width = 2 + len(numbers)  # number, name, size, and a cell for each other segment
    return numbers, [rest[place : place + width] for place in range(0, len(rest), width)]


def test_tells_sizes_and_overlaps_in_percent_of_the_rows_users():
    picture = draw({"a": users(0, 100), "b": users(75, 125), "c": users(0, 1000)})
    numbers, found = rows(picture)
    assert numbers == ["1", "2", "3"]
    assert found == [
        ["1", "a", "100", "25", "100"],
        ["2", "b", "50", "50", "100"],
        ["3", "c", "1,000", "10", "5"],
    ]


def test_bars_are_as_long_as_segments_are_large():
    picture = draw({"a": users(0, 100), "b": users(0, 50), "c": {"u1"}, "d": set()})
    bars = [float(each.get("width")) for each in picture.iter(f"{SVG}rect") if each.get("rx") == "2"]
    assert bars[0] == 2 * bars[1]
    assert bars[2:] == [2, 0]
    assert bars[0] <= 180


def test_nearly_none_is_not_none_and_nearly_all_is_not_all():
    _, found = rows(draw({"a": users(0, 1000), "b": users(1, 1000), "c": users(999, 1999), "d": {"x"}}))
    assert found[0] == ["1", "a", "1,000", ">99", "<1", "0"]
    assert found[1] == ["2", "b", "999", "100", "<1", "0"]


def test_an_empty_segment_has_no_share():
    picture = draw({"a": users(0, 10), "b": set()})
    assert texts(picture)[-6:] == ["a", "10", "0", "2", "b", "0"]


@pytest.mark.parametrize(
    "name", ["<script>&\"'", "]]>", 'ITEMS.genre = "Comedy"', "Grün 映画", "\N{GRINNING FACE}"]
)
def test_names_are_shown_as_they_are(name):
    assert name in texts(draw({name: {"u1"}}))


@pytest.mark.parametrize("name", ["\x00", "\x1b[31m", "\ud800", "\ufffe", "a\nb"])
def test_what_xml_cannot_hold_is_replaced(name):
    shown = texts(draw({name: {"u1"}}))
    assert [each for each in shown if "\N{REPLACEMENT CHARACTER}" in each]
    draw_segments({name: {"u1"}}).encode()


def test_a_long_name_is_cut_and_whole_under_the_mouse():
    name = 'ITEMS.genres = "Comedy" AND ITEMS.genres = "Action"'
    picture = draw({name: {"u1"}})
    (text,) = [each for each in picture.iter(f"{SVG}text") if each.find(f"{SVG}title") is not None]
    assert text.text == name[: MOST_CHARACTERS - 1] + "…"
    assert text.find(f"{SVG}title").text == name


def test_no_segments_are_no_failure():
    assert "There are no segments." in texts(draw({}))


def test_more_segments_than_fit_are_counted():
    picture = draw({f"s{number}": {"u1"} for number in range(MOST_SEGMENTS + 1234)})
    assert "1,234 more segments are not in the picture." in texts(picture)
    assert f"s{MOST_SEGMENTS - 1}" in texts(picture)
    assert f"s{MOST_SEGMENTS}" not in texts(picture)


def test_everything_is_within_the_picture():
    picture = draw({f"s{number}": users(0, number) for number in range(30)})
    width, height = float(picture.get("width")), float(picture.get("height"))
    assert picture.get("viewBox") == f"0 0 {width:g} {height:g}"
    for each in picture.iter(f"{SVG}rect"):
        assert 0 <= float(each.get("x")) <= float(each.get("x")) + float(each.get("width")) <= width
        assert 0 <= float(each.get("y")) <= float(each.get("y")) + float(each.get("height")) <= height


def test_has_a_background_of_its_own_and_asks_for_nothing_from_elsewhere():
    drawn = draw_segments({"a": {"u1"}})
    first = next(ElementTree.fromstring(drawn).iter(f"{SVG}rect"))
    assert first.get("fill") == "#ffffff"
    assert re.findall(r"https?://[^\"]+", drawn) == ["http://www.w3.org/2000/svg"]


def test_the_documentation_shows_what_the_demo_draws():
    segments = {
        record["itemId"]: set(Population(0, 1000).draw("user", record, USERS_PER_SEGMENT))
        for record in EXAMPLE_INPUT[BatchJobKind.SEGMENT]
    }
    assert SHOWN.read_text() == draw_segments(segments), f"Run make demo, copy .airflow/demo/{PICTURE} there"
