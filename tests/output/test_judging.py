"""What a record holds, or what is wrong with it, in words."""

from __future__ import annotations

import json

import pytest

from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.output.judging import Record, judge, judge_lines

SEGMENT, INFERENCE = BatchJobKind.SEGMENT, BatchJobKind.INFERENCE
GOOD = {"input": {"itemId": "1"}, "output": {"usersList": ["a", "b"]}, "error": None}


def judge_record(kind, record):
    return judge(kind, json.dumps(record).encode())


@pytest.mark.parametrize(
    ("record", "query"),
    [
        (GOOD, "1"),
        (GOOD | {"input": {"itemAttributes": "x"}}, "x"),
        (GOOD | {"input": {"itemId": 7, "itemAttributes": "x"}}, "x"),
        ({"itemAttributes": "x", "output": {"recommendedUsers": ["a", "b"]}}, "x"),
        (GOOD | {"output": {"recommendedUsers": ["a", "b"], "usersList": ["c"]}}, "1"),
        (GOOD | {"output": {"usersList": "c", "recommendedUsers": ["a", "b"]}}, "1"),
        (GOOD | {"error": ""}, "1"),
    ],
)
def test_a_segment(record, query):
    assert judge_record(SEGMENT, record) == Record(query, ["a", "b"])


@pytest.mark.parametrize(
    ("more", "numbers", "theme"),
    [
        ({}, (None, None), None),
        ({"scores": None, "theme": None}, (None, None), None),
        ({"scores": [1, 0.5]}, ([1.0, 0.5], None), None),
        ({"theme": "t", "itemsThemeRelevanceScores": [-0.1, 0]}, (None, [-0.1, 0.0]), "t"),
    ],
)
def test_recommendations(more, numbers, theme):
    record = {"input": {"userId": "u"}, "output": {"recommendedItems": ["a", "b"], **more}}
    assert judge_record(INFERENCE, record) == Record("u", ["a", "b"], numbers, theme)


@pytest.mark.parametrize("name", ["scores", "itemsThemeRelevanceScores"])
@pytest.mark.parametrize("numbers", [[], [1], [1, 2, 3], [1, None], [1, "2"], [1, True], [1, 10**400], 7, {}])
def test_numbers_that_are_not_one_for_each_result(name, numbers):
    record = {"input": {"userId": "u"}, "output": {"recommendedItems": ["a", "b"], name: numbers}}
    assert judge_record(INFERENCE, record).error == f"the record's {name} are not a number for each result"


def test_a_number_that_is_too_large_for_any_float():
    line = b'{"input":{"userId":"u"},"output":{"recommendedItems":["a"],"scores":[1e999]}}'
    assert judge(INFERENCE, line).error == "the record's scores are not a number for each result"


@pytest.mark.parametrize("theme", [7, ["t"], "\ud800"])
def test_a_theme_that_is_no_text(theme):
    record = {"input": {"userId": "u"}, "output": {"recommendedItems": [], "theme": theme}}
    assert judge_record(INFERENCE, record).error.startswith(
        "the record's theme is no text that a table can hold: "
    )


PROBLEMS = {
    b'{"a":1': "not JSON: Expecting ',' delimiter (byte 6 of the line)",
    b'{"a":1}x': "not JSON: Extra data (byte 7 of the line)",
    b'{"a":"\xff"}': "not UTF-8: invalid start byte (byte 6 of the line)",
    b'{"a":"\xed\xa0\x80"}': "not UTF-8: invalid continuation byte (byte 6 of the line)",
    b'{"\xc3\xa4":x}': "not JSON: Expecting value (byte 6 of the line)",
    b'{"a":"\x00"}': "not JSON: Invalid control character at (byte 6 of the line)",
    b'{"a":1}\x00': "not JSON: Extra data (byte 7 of the line)",
    b'{"a":NaN}': "not JSON that can be read: NaN is not JSON",
    b'{"a":-Infinity}': "not JSON that can be read: -Infinity is not JSON",
    b'\xef\xbb\xbf{"a":1}': "not JSON: it begins with a byte order mark",
    b"[" * 100_000: "not JSON that can be read: it is nested too deep",
    b'{"a":' * 100_000: "not JSON that can be read: it is nested too deep",
    b'{"a":%s}' % (b"1" * 5000): "not JSON that can be read: Exceeds the limit",
    b"1": "a number, not an object",
    b'"x"': "a string, not an object",
    b"true": "a boolean, not an object",
    b"null": "null, not an object",
    b"[]": "an array, not an object",
}


@pytest.mark.parametrize("line", PROBLEMS, ids=lambda line: repr(line[:20]))
def test_a_line_that_is_no_record_and_the_next_one_is(line):
    good = json.dumps(GOOD).encode()
    [(number, offset, bad), (_, _, after)] = judge_lines(SEGMENT, b"\n" + line + b"\n \r\n" + good)
    assert (number, offset, bad.is_json) == (1, 1, False)
    assert bad.error.startswith(PROBLEMS[line])
    assert after == Record("1", ["a", "b"])


def test_the_input_of_a_bad_record_is_kept():
    records = [{"input": {"itemId": "\ud800"}, "error": "no"}, {"itemAttributes": "x" * 3000, "error": "no"}]
    given = [judge_record(SEGMENT, each).given for each in records]
    assert given[0] == '{"itemId": "\\ufffd"}'
    assert given[1].startswith("xxx")
    assert len(given[1]) <= 2000
