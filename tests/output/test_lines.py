"""Lines come out as they went in, whatever cuts them; and nothing long is held in memory."""

from __future__ import annotations

import gzip
import json
import logging
import pickle
import tracemalloc
from datetime import UTC, datetime
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_personalize_segments.errors import (
    PersonalizeError,
    PersonalizeOutputError,
    S3RefusedError,
)
from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.output import lines as output_lines
from airflow_provider_personalize_segments.output import reading
from airflow_provider_personalize_segments.output.judging import judge
from airflow_provider_personalize_segments.output.lines import Lines, judge_long_line
from airflow_provider_personalize_segments.output.objects import S3Object
from airflow_provider_personalize_segments.output.reading import OutputReader

SEGMENT = BatchJobKind.SEGMENT
ARN = "arn:aws:personalize:us-east-1:123456789012:batch-segment-job/weekly"
FILE = S3Object("shop", "output/items.json.out", 10**6, '"1"', datetime.now(UTC))


def cut(data, size=7):
    return (data[place : place + size] for place in range(0, len(data), size))


@given(
    st.binary(max_size=200).map(lambda data: data.replace(b"a", b"\n")),
    st.integers(1, 50),
    st.integers(1, 30),
)
def test_blocks_are_whole_lines_with_their_numbers_and_offsets(data, size, block):
    lines, taken = Lines(cut(data, size)), b""
    with patch.multiple(output_lines, BLOCK_SIZE=block, LONG_LINE=1000):
        while not lines.is_at_end():
            assert (lines.offset, lines.number) == (len(taken), taken.count(b"\n") + 1)
            found = lines.take_block()
            assert found.endswith(b"\n") or taken + found == data
            assert len(found) <= block or found.count(b"\n") <= 1
            taken += found
    assert taken == data


def read_long(line, size=1000, bound=80):
    """Return the record of a long line, its users, and what comes after it."""
    users = []

    def take(piece):
        assert len(piece) < 2 * bound + 80
        record = judge(SEGMENT, piece)
        users.extend(record.results)
        return record.error

    lines = Lines(cut(line, size))
    with patch.multiple(output_lines, LONG_LINE=bound, WINDOW=bound):
        return judge_long_line(SEGMENT, lines, take), users, lines


USERS = b",".join([b'"22"'] * 40)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            b'{"a":"%s"}' % (b"x" * 200),
            "longer than 80 bytes, and more than 80 of them are outside its list of",
        ),
        (
            b'{"output":{"usersList":["1"],"x":"%s"}}' % (b"x" * 200),
            "more than 80 of its bytes are outside its",
        ),
        (
            b'{"output":{"usersList":["%s"]}}' % (b"x" * 200),
            "its list of users does not end, or one of them has more than 80 bytes",
        ),
        (
            b'{"output":{"usersList":["1",[%s]]}}' % (b"1," * 99),
            "that begins at byte 24 of the line: not JSON",
        ),
        (b'{"output":{"usersList":[%s,]}}' % USERS, "of the line: not JSON: "),
        (b'{"output":{"usersList":[,%s]}}' % USERS, "of the line: not JSON: "),
        (b'{"output":{"usersList":[%s,,"2"]}}' % USERS, "of the line: not JSON: "),
        (b'{"output":{"usersList":[%s,"\xff"]}}' % USERS, "of the line: not UTF-8: invalid start byte"),
        (b'{"output":{"usersList":[%s,7]}}' % USERS, "the record's usersList holds something else than text"),
        (b'{"output":{"usersList":[%s}}' % USERS, "its list of users does not end, or"),
        (b'{"output":{"usersList":[%s]}' % USERS, "not JSON: Expecting ',' delimiter"),
        (b'{"output":{"usersList":[%s]}}}' % USERS, "not JSON: Extra data"),
        (b'[{"output":{"usersList":[%s]}}]' % USERS, "an array, not an object"),
        (
            b'{"x" "output":{"usersList":[%s]}}' % USERS,
            "not JSON: Expecting ':' delimiter (byte 5 of the line)",
        ),
        (
            b'{"output":{"usersList":[%s],"usersList":[]},"itemAttributes":"x"}' % USERS,
            "it repeats its output, or",
        ),
        (
            b'{"output":{"usersList":[%s]},"itemAttributes":"x","output":{"usersList":[]}}' % USERS,
            "it repeats its",
        ),
        (b'{"output":{"usersList":[%s]},"error":"User error"}' % USERS, "User error"),
        (b'{"output":{"usersList":[%s]}}' % USERS, "the record does not say for what it was asked"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.decode("latin-1")[:36],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_what_a_long_line_cannot_have(line, problem, size):
    record, _, lines = read_long(line + b"\n{}\n", size)
    assert problem in record.error
    assert (lines.number, lines.offset, lines.take_block()) == (2, len(line) + 1, b"{}\n")


@pytest.mark.parametrize(
    "users",
    [
        ["a"] * 40,
        ['a",]'] * 40,
        ['a\\","]'] * 40,
        ["a\\"] * 40,
        [","] * 40,
        ["]"] * 40,
        ['"', "]", ",", "[", "\\"] * 9,
        ["", " ", "\u2028", "\n"] * 15,
        ["\u00e4\u00f6\U0001f600"] * 40,
        [],
        ["one"],
    ],
    ids=repr,
)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\t", " : ")])
@pytest.mark.parametrize("bound", [80, 83, 90])
@pytest.mark.parametrize("is_ascii", [True, False])
def test_what_a_long_line_can_have(users, separators, bound, is_ascii):
    for shape in (
        {"input": {"itemId": "1"}, "output": {"usersList": users}},
        {"output": {"recommendedUsers": users}, "itemAttributes": "1"},
    ):
        line = json.dumps(shape, separators=separators, ensure_ascii=is_ascii).encode() + b"\n"
        record, found, lines = read_long(line, bound=bound)
        assert (record.error, record.query, found) == (None, "1", users)
        assert lines.is_at_end()


# --- Files ----------------------------------------------------------------------------------------


def read(monkeypatch, pieces):
    monkeypatch.setattr(reading, "read_object", lambda client, file: pieces)
    reader = OutputReader(ARN, SEGMENT)
    return reader.read(None, [FILE], logging.getLogger("lines"))


GOOD = b'{"input":{"itemId":"1"},"output":{"usersList":["a","b","c","d","e","f"]},"error":null}'


@pytest.mark.parametrize("longest", [1000, 70])
def test_the_last_line_may_lack_its_end_but_nothing_else(longest, monkeypatch):
    monkeypatch.setattr(output_lines, "LONG_LINE", longest)
    monkeypatch.setattr(output_lines, "WINDOW", longest)
    assert read(monkeypatch, cut(GOOD)).errors == 0
    for length in range(1, len(GOOD)):
        with pytest.raises(PersonalizeOutputError, match="is cut off in the middle of a record, in line 2"):
            read(monkeypatch, cut(GOOD + b"\n" + GOOD[:length]))
    assert read(monkeypatch, cut(GOOD[:-1] + b"\n")).errors == 1


@pytest.mark.parametrize("size", [1, 7])
def test_a_compressed_object_is_named(size, monkeypatch):
    with pytest.raises(S3RefusedError) as caught:
        read(monkeypatch, cut(gzip.compress(GOOD), size))
    assert str(caught.value) == (
        "The object is compressed with gzip, not JSON Lines as Personalize writes them. Look for what "
        f"replaced the job's own output, or decompress it. ({FILE.path}, byte 0)"
    )
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), PersonalizeError)


def measure(monkeypatch, pieces):
    """Return the counts, and the most bytes that were allocated meanwhile."""
    tracemalloc.start()
    try:
        return read(monkeypatch, pieces), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_60_megabytes_in_one_line_take_little_memory(monkeypatch):
    users = b"".join(b'"0f8fad5b-d9cb-469f-a165-7086%08d",' % number for number in range(25_000))

    def pieces():
        yield b'{"input":{"itemId":"105"},"output":{"usersList":['
        for _ in range(62):
            yield users
        yield b'"last"]},"error":null}\n'

    summary, most = measure(monkeypatch, pieces())
    assert (summary.records, summary.errors) == (1, 0)
    assert most < 24 * 1024**2


@pytest.mark.parametrize(
    ("begin", "what"),
    [
        (b'{"a":"', "are outside its list of users"),
        (b'{"output":{"usersList":["', "its list of users does not end, or one of them has"),
        (b'{"output":{"usersList":["1"]},"error":"', "are outside its list of users"),
    ],
)
def test_300_megabytes_in_one_string_take_little_memory(begin, what, monkeypatch):
    def pieces():
        yield begin
        for _ in range(300):
            yield b"x" * 1024**2
        yield b'"\n'

    summary, most = measure(monkeypatch, pieces())
    assert what in summary.first_errors[0]
    assert most < 24 * 1024**2
