"""What is in the tables is what ``json.loads`` says, whatever cuts a line, and however it is parsed."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_personalize_segments.errors import PersonalizeOutputError, S3RefusedError
from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.output import converting, parquet, reading
from airflow_provider_personalize_segments.output import lines as output_lines
from airflow_provider_personalize_segments.output.converting import convert_output
from airflow_provider_personalize_segments.output.folders import FileInFolder
from airflow_provider_personalize_segments.output.objects import S3Object
from airflow_provider_personalize_segments.output.reading import OutputReader

ARNS = {
    kind: f"arn:aws:personalize:us-east-1:123456789012:batch-{kind}-job/weekly"
    for kind in ("segment", "inference")
}
EXAMPLES = 2 * settings().max_examples
log = logging.getLogger("tables")


class Bucket:
    """S3 as far as reading goes, without a network between."""

    def __init__(self, files):
        self.files = files

    def get_object(self, *, Bucket, Key, IfMatch, Range):  # noqa: N803 - boto3 calls them so
        begin, _, last = Range.removeprefix("bytes=").partition("-")
        body = self.files[Key][int(begin) : int(last) + 1]
        return {"Body": io.BytesIO(body), "ContentRange": f"bytes {begin}-{last}/*"}


class Written(FileInFolder):
    """A file in memory that remembers how it ended."""

    def __init__(self):
        super().__init__(io.BytesIO())
        self.bytes = bytearray()
        self.ending = None

    def tell(self):
        return len(self.bytes)

    def write(self, data):
        self.bytes += data
        return memoryview(data).nbytes

    def finish(self):
        self.ending = "finished"

    def give_up(self):
        self.ending = "given up"


class Conversion:
    """Converts files, and reads what came of it."""

    def __init__(self, kind, files):
        self.results, self.errors = [], []
        outputs = [S3Object("shop", key, len(body), '"1"', datetime.now(UTC)) for key, body in files.items()]
        self.summary, self.has_errors = convert_output(
            Bucket(files),
            ARNS[kind],
            outputs,
            lambda: self._open(self.results),
            lambda: self._open(self.errors),
            log,
        )

    @staticmethod
    def _open(files):
        files.append(Written())
        return files[-1]

    @property
    def table(self):
        return pq.read_table(io.BytesIO(self.results[-1].bytes))

    @property
    def error_rows(self):
        return pq.read_table(io.BytesIO(self.errors[-1].bytes)).to_pylist() if self.has_errors else []


def convert(kind, data, sizes=None):
    """Convert one file, with bounds in bytes and rows that the test chooses."""
    bounds = {"LONG_LINE": 200, "WINDOW": 150, "BLOCK_SIZE": 120, "FEW_BYTES": 60, "GROUP_ROWS": 7}
    bounds |= sizes or {}
    group, few = bounds.pop("GROUP_ROWS"), bounds.pop("FEW_BYTES")
    with (
        patch.multiple(output_lines, **bounds),
        patch.object(converting, "FEW_BYTES", few),
        patch.object(parquet, "GROUP_ROWS", group),
    ):
        done = Conversion(kind, {"items.json.out": data})
        gate = check_as_the_gate(kind, data)
    # One judgment: the gate counts what the table holds.
    assert gate == {name: each for name, each in done.summary.dump().items() if name != "rows"}
    return done


def check_as_the_gate(kind, data):
    output = S3Object("shop", "items.json.out", len(data), '"1"', datetime.now(UTC))
    reader = OutputReader(ARNS[kind], BatchJobKind.named(kind))
    return reader.read(Bucket({output.key: data}), [output], log).dump()


# --- What it should be ----------------------------------------------------------------------------

QUERY_NAMES = {"segment": ("itemId", "itemAttributes"), "inference": ("userId", "itemId")}


def is_text(value):
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def load_strictly(text):
    def refuse(name):
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


def are_numbers(values, count):
    try:
        return (
            isinstance(values, list)
            and len(values) == count
            and all(type(each) in (int, float) and abs(float(each)) < float("inf") for each in values)
        )
    except OverflowError:
        return False


def expect_rows(kind, line):
    """Return the rows that a line should become; ``None`` when it is a record with an error."""
    try:
        record = load_strictly(line.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("error") not in (None, ""):
        return None
    output = record.get("output")
    given = record.get("input") if isinstance(record.get("input"), dict) else {}
    queries = [given.get(name) for name in QUERY_NAMES[kind]] + [record.get("itemAttributes")]
    query = next((each for each in queries if is_text(each)), None)
    if not isinstance(output, dict) or query is None:
        return None
    names = ("usersList", "recommendedUsers") if kind == "segment" else ("recommendedItems",)
    values = next((output[name] for name in output if name in names and isinstance(output[name], list)), None)
    if values is None or not all(map(is_text, values)):
        return None
    if kind == "segment":
        return [(query, user, rank) for rank, user in enumerate(values, 1)]
    count = len(values)
    scores, theme = output.get("scores"), output.get("theme")
    themed = output.get("itemsThemeRelevanceScores")
    if not (scores is None or are_numbers(scores, count)) or not (
        themed is None or are_numbers(themed, count)
    ):
        return None
    if theme is not None and not is_text(theme):
        return None
    return [
        (query, item, rank, score, theme, relevance)
        for rank, (item, score, relevance) in enumerate(
            zip(values, scores or [None] * count, themed or [None] * count, strict=True), 1
        )
    ]


def check(kind, data, sizes=None):
    """Fail unless the tables hold what they should; lines may be too long for what they hold."""
    done = convert(kind, data, sizes)
    lines = data.split(b"\n")
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip(b" \t\r")]
    expected = {number: expect_rows(kind, line) for number, line in numbered}
    bad = {row["line"]: row["error"] for row in done.error_rows}
    for number, error in bad.items():
        is_bound = any(
            words in error for words in ("outside its list", "it repeats", "its list of users does not end")
        )
        if expected[number] is not None:
            assert is_bound, error
            assert len(lines[number - 1]) > (sizes or {}).get("LONG_LINE", 200)
            expected[number] = None
    assert {number for number, rows in expected.items() if rows is None} == bad.keys()
    rows = [row for rows in expected.values() for row in rows or []]
    found = [tuple(row.values())[:-1] for row in done.table.to_pylist()]
    assert found == rows  # in the order of the output
    assert (done.summary.rows, done.summary.errors, done.summary.records) == (
        len(rows),
        len(bad),
        len(numbered),
    )
    return done


# --- Segments -------------------------------------------------------------------------------------


def segment(query, users, name="usersList", given="itemId"):
    return {"input": {given: query}, "output": {name: users}, "error": None}


def dump(*found, **options):
    return b"".join(json.dumps(each, **options).encode() + b"\n" for each in found)


IDS = [f"user-{number}" for number in range(40)]


@pytest.mark.parametrize(
    "record",
    [
        segment("105", IDS),
        segment("105", IDS, "recommendedUsers"),
        segment('ITEMS.genres = "Comedy"', IDS, given="itemAttributes"),
        {"itemAttributes": 'ITEMS.genres = "Comedy"', "output": {"recommendedUsers": IDS}},
        {"error": "", "output": {"usersList": IDS}, "input": {"itemId": "x"}},
        {"output": {"usersList": IDS}, "error": None, "input": {"itemId": "x"}},
        segment("ä\U0001f600", [f"ä{each}" for each in IDS]),
        segment("105", ["", '"', "\\", "a]b", "[", ",", '","', "\x00", "\n", "\u2028"] * 9),
        segment("105", []),
        segment("105", ["one"]),
    ],
    ids=lambda record: json.dumps(record)[:50],
)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\t", " : ")])
@pytest.mark.parametrize("longest", [200, 10_000])
def test_both_known_shapes_are_rows(record, separators, longest):
    data = dump(record, segment("last", ["a"]), separators=separators, ensure_ascii=False)
    done = check("segment", data, {"LONG_LINE": longest})
    assert done.summary.errors == 0


@pytest.mark.parametrize(
    ("record", "error"),
    [
        ({**segment("105", IDS), "error": "User error: no such item"}, "User error: no such item"),
        (segment("105", [*IDS, 7]), "usersList holds something else than text"),
        (segment("105", [*IDS, None]), "usersList holds something else than text"),
        ({"output": {"usersList": [*IDS, None]}, "input": {"itemId": "1"}}, "holds something else than text"),
        ({"output": {"usersList": [None, *IDS]}, "input": {"itemId": "1"}}, "holds something else than text"),
        (segment("105", [*IDS, "\ud800"]), "usersList holds half a character, which no table can"),
        ({"output": {"usersList": IDS}}, "the record does not say for what it was asked"),
        ({"output": {"usersList": IDS}, "input": {"itemId": 7}}, "does not say for what it was asked"),
        ({"output": {"usersList": IDS}, "input": {"itemId": "\ud800"}}, "does not say for what it was asked"),
        ({"output": {"users": IDS}, "input": {"itemId": "1"}}, "the record's output has no usersList"),
        ({"input": {"itemId": "1"}}, "the record has no output"),
    ],
)
@pytest.mark.parametrize("longest", [200, 10_000])
def test_a_record_that_cannot_be_rows_is_a_row_of_errors(record, error, longest):
    data = dump(segment("first", ["a", "b"]), record, segment("last", IDS))
    done = check("segment", data, {"LONG_LINE": longest})
    [row] = done.error_rows
    if "WINDOW" not in row["error"] and "outside its list" not in row["error"]:
        assert error in row["error"]
    assert (row["file"], row["line"]) == ("s3://shop/items.json.out", 2)
    assert data[row["offset"] :].startswith(dump(record)[:30])
    assert row["job_arn"] == ARNS["segment"]
    assert {each["query"] for each in done.table.to_pylist()} == {"first", "last"}


def test_the_input_of_a_bad_record_is_kept():
    done = convert(
        "segment", dump({"input": {"itemId": "7"}, "error": "no"}, {"itemAttributes": "X", "error": "no"})
    )
    assert [row["input"] for row in done.error_rows] == ['{"itemId": "7"}', "X"]


def test_what_only_the_end_of_a_long_record_tells_is_waited_for():
    late = {"output": {"usersList": IDS}, "input": {"itemId": "late"}, "error": None}
    void = {"input": {"itemId": "void"}, "output": {"usersList": IDS}, "error": "User error"}
    done = check("segment", dump(segment("a", IDS), late, void, segment("z", IDS)))
    assert [each.ending for each in done.results + done.errors] == ["finished", "finished"]
    assert list(dict.fromkeys(row["query"] for row in done.table.to_pylist())) == ["a", "late", "z"]


def test_a_query_that_only_the_end_of_a_long_record_tells_counts_more_than_one_before_it():
    record = {"itemAttributes": "before", "output": {"usersList": IDS}, "input": {"itemId": "after"}}
    done = check("segment", dump(record))
    assert {row["query"] for row in done.table.to_pylist()} == {"after"}


def test_row_groups_are_full_and_have_dictionaries_where_they_pay():
    data = dump(*(segment(f"item-{number}", IDS) for number in range(50)))
    done = convert("segment", data, {"LONG_LINE": 10_000, "GROUP_ROWS": 500})
    written = pq.ParquetFile(io.BytesIO(done.results[0].bytes))
    sizes = [written.metadata.row_group(index).num_rows for index in range(written.num_row_groups)]
    assert sizes == [520, 520, 520, 440]
    encodings = {
        written.metadata.row_group(0).column(index).path_in_schema: written.metadata.row_group(0).column(
            index
        )
        for index in range(4)
    }
    assert {name for name, each in encodings.items() if each.has_dictionary_page} == {"query", "job_arn"}
    assert {each.compression for each in encodings.values()} == {"ZSTD"}
    # Readers see plain columns, not how they are encoded.
    assert written.schema_arrow.equals(
        pa.schema({"query": pa.string(), "user_id": pa.string(), "rank": pa.int32(), "job_arn": pa.string()})
    )


def test_long_ids_fill_a_row_group_by_their_bytes():
    ids = ["x" * 1000] * 10
    with patch.object(parquet, "GROUP_BYTES", 25_000):
        done = convert("segment", dump(*[segment("a", ids)] * 4), {"LONG_LINE": 10**6, "GROUP_ROWS": 10**6})
    assert pq.ParquetFile(io.BytesIO(done.results[0].bytes)).num_row_groups == 2


def test_many_records_without_a_row_fill_no_row_group():
    empty = dump(*(recommendation(f"{number:0>40}", []) for number in range(200)))
    with patch.object(parquet, "GROUP_BYTES", 1_000):
        done = convert("inference", empty + dump(recommendation("u", ["a"])))
    assert len(done.table) == 1


def test_a_table_without_rows_has_its_columns():
    done = check("segment", dump({"input": {"itemId": "1"}, "error": "no"}))
    assert done.table.column_names == ["query", "user_id", "rank", "job_arn"]
    assert len(done.table) == 0


# --- Recommendations ------------------------------------------------------------------------------


def recommendation(query, items, given="userId", **more):
    return {"input": {given: query}, "output": {"recommendedItems": items, **more}, "error": None}


RECOMMENDATIONS = [
    recommendation("u1", ["a", "b"], scores=[0.5, 0.25]),
    recommendation("u2", ["c"], scores=[1]),
    recommendation("u3", []),
    recommendation("i1", ["d", "e"], "itemId"),
    recommendation("i2", ["f"], "itemId", theme="For you", itemsThemeRelevanceScores=[-0.1]),
    recommendation("ä", ["ö\u0000"], scores=[1e-9]),
    {"error": "User error: no such user", "input": {"userId": "u9"}, "output": {"recommendedItems": []}},
    {"error": "User error: no such user", "input": {"userId": "u9"}, "output": None},
    recommendation("u5", ["a"], scores=[]),
    recommendation("u6", ["a"], scores=["1"]),
    recommendation("u6", ["a"], scores=[True]),
    recommendation("u6", ["a"], scores=[None]),
    recommendation("u6", ["a", "b"], scores=[1, 2, 3]),
    recommendation("u7", ["a"], theme=7),
    recommendation("u7", ["\ud800"]),
    recommendation("u7", [None]),
    recommendation("u7", "abc"),
    {"input": {"userId": "u8", "itemList": ["a"]}, "output": {"recommendedItems": ["a"]}},
    {"output": {"recommendedItems": ["a"]}},
    {},
]


@pytest.mark.parametrize("size", [1, 150, 100_000])
def test_recommendations_have_scores_and_themes_where_there_are_some(size):
    done = check("inference", dump(*RECOMMENDATIONS, *RECOMMENDATIONS[::-1]), {"BLOCK_SIZE": size})
    assert done.table.schema.equals(
        pa.schema(
            {
                "query": pa.string(),
                "item_id": pa.string(),
                "rank": pa.int32(),
                "score": pa.float64(),
                "theme": pa.string(),
                "theme_relevance_score": pa.float64(),
                "job_arn": pa.string(),
            }
        )
    )


def test_items_are_numbered_in_the_file_and_plain_text_to_readers():
    done = convert("inference", dump(*[recommendation(str(number), ["a", "b"]) for number in range(40)]))
    written = pq.ParquetFile(io.BytesIO(done.results[0].bytes))
    column = written.metadata.row_group(0).column(1)
    assert (column.path_in_schema, column.has_dictionary_page) == ("item_id", True)
    assert written.schema_arrow.field("item_id").type == pa.string()


def test_rows_are_in_the_order_of_the_output():
    """Those of a record without scores, too, between records with scores."""
    found = [
        recommendation("1", ["a"], scores=[0.5]),
        recommendation("2", ["b"]),
        recommendation("3", ["c"], scores=[1]),
    ]
    done = check("inference", dump(*found), {"BLOCK_SIZE": 100_000, "LONG_LINE": 100_000})
    assert [(row["query"], row["score"]) for row in done.table.to_pylist()] == [
        ("1", 0.5),
        ("2", None),
        ("3", 1),
    ]


@pytest.mark.parametrize(
    "line",
    [
        b'{"input":{"userId":"1"},"output":{"recommendedItems":["a"]}}{"x":1}',
        b'{"x":NaN,"input":{"userId":"1"},"output":{"recommendedItems":["a"]}}',
        b'{"x":-Infinity,"input":{"userId":"1"},"output":{"recommendedItems":["a"]}}',
        b'{"x":"\xff","input":{"userId":"1"},"output":{"recommendedItems":["a"]}}',
        b'{"x":01,"input":{"userId":"1"},"output":{"recommendedItems":["a"]}}',
        b'{"x":"\\x","input":{"userId":"1"},"output":{"recommendedItems":["a"]}}',
        b'{"x":"\t","input":{"userId":"1"},"output":{"recommendedItems":["a"]}}',
        b'{"x":{"input":{"userId":"1"},"output":{"recommendedItems":["a"]}}',
        b'{"x":1,,"input":{"userId":"1"},"output":{"recommendedItems":["a"]}}',
        b'{"output":{"recommendedItems":["a"]},"output":{"recommendedItems":["b"]},"input":{"userId":"1"}}',
        b'{"output":{"recommendedItems":["a"],"scores":[1e999]},"input":{"userId":"1"}}',
        b'\xef\xbb\xbf{"output":{"recommendedItems":["a"]},"input":{"userId":"1"}}',
        b'{"output":\n{"recommendedItems":["a"]},"input":{"userId":"1"}}',
        b'{"input":{"userId":"1"},"output":{"recommendedItems":["a"]},"x":\n'
        b'{"y":1}}{"input":{"userId":"2"},"output":{"recommendedItems":["b"]}}',
        b'{"input":{"userId":"1"},"output":{"recommendedItems":["a"],"scores":[NaN]}}',
        b"{}\n}\n{",
        b" ",
        b"{",
        b"}",
    ],
)
def test_doubtful_lines_between_good_ones_are_judged_as_jsons_own_parser_judges_them(line):
    # Without scores, as the lines: a block takes only one sort.
    good = dump(recommendation("u", ["a"]))
    check("inference", good + line + b"\n" + good, {"BLOCK_SIZE": 100_000, "LONG_LINE": 1000})


@pytest.mark.parametrize("kind", ["segment", "inference"])
@pytest.mark.parametrize(
    "value", [b"[" * 60_000 + b"]" * 60_000, b"7" * 5000, b'{"a":' * 60_000 + b"1" + b"}" * 60_000]
)
def test_what_json_loads_refuses_of_a_member_that_nobody_asks_for_is_found_among_many_lines(kind, value):
    good = dump(segment("1", ["a"]) if kind == "segment" else recommendation("1", ["a"])) * 3000
    bad = b'{"x":%s,"input":{"itemId":"1"},"output":{"usersList":[],"recommendedItems":[]}}\n' % value
    done = convert(kind, good + bad + good, {"BLOCK_SIZE": 2**20, "LONG_LINE": 2**20, "FEW_BYTES": 2**14})
    assert (done.summary.errors, done.summary.rows, done.error_rows[0]["line"]) == (1, 6000, 3001)


# --- Any bytes ------------------------------------------------------------------------------------

TEXTS = st.text(max_size=9) | st.text(st.characters(codec="ascii"), max_size=30)
NUMBERS = st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False, width=32)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
RECORDS = {
    "segment": st.fixed_dictionaries(
        {},
        optional={
            "input": st.fixed_dictionaries({}, optional={"itemId": TEXTS, "itemAttributes": TEXTS})
            | ANYTHING,
            "output": st.fixed_dictionaries(
                {},
                optional={
                    "usersList": st.lists(TEXTS, max_size=30) | ANYTHING,
                    "recommendedUsers": st.lists(TEXTS, max_size=30),
                },
            ),
            "error": st.none() | st.just("") | ANYTHING,
            "itemAttributes": TEXTS,
            "x": ANYTHING,
        },
    ),
    "inference": st.fixed_dictionaries(
        {},
        optional={
            "input": st.fixed_dictionaries({}, optional={"userId": TEXTS, "itemId": TEXTS}) | ANYTHING,
            "output": st.fixed_dictionaries(
                {"recommendedItems": st.lists(TEXTS, max_size=3) | ANYTHING},
                optional={
                    "scores": st.lists(NUMBERS, max_size=3) | ANYTHING,
                    "theme": TEXTS | ANYTHING,
                    "itemsThemeRelevanceScores": st.lists(NUMBERS, max_size=3),
                },
            ),
            "error": st.none() | st.just("") | TEXTS,
            "x": ANYTHING,
        },
    ),
}


TOKENS = [
    b'"x":NaN,',
    b"-Infinity",
    b"1e999",
    b"9" * 400,
    b'"x":%s,' % (b"9" * 5000),
    b'"x":%s%s,' % (b"[" * 3000, b"]" * 3000),
    b"\\ud800",
    b"\\udc00",
    b"\\ud83d\\ude00",
    b"\\/",
    b"\\u0000",
    "\u2028".encode(),
    b"\xed\xa0\x80",
    b'"a",',
    b"null,",
    b'"output":{"usersList":["z"],"recommendedItems":["z"]},',
    b'"usersList":["y"],',
    b'"scores":[0.1],',
    b'"error":"no",',
    b'"error":null,',
]


@st.composite
def files(draw, kind):
    """Lines of records as some program writes them, and a few bytes of them changed."""
    found = draw(st.lists(RECORDS[kind], min_size=1, max_size=5))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,", "  :")]))
    data = bytearray(dump(*found, separators=separators, ensure_ascii=draw(st.booleans())))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(data) - 1))
        byte = draw(st.sampled_from(b'"\\{}[],:\n\r\t \x00\x1f\x7f\xc3\xff0eN'))
        change = draw(st.sampled_from(["put", "replace", "cut", "repeat", "insert"]))
        if change == "repeat":  # among other things, a member
            data[place:place] = data[place : place + draw(st.integers(1, 60))]
        elif change == "insert":
            data[place:place] = draw(st.sampled_from(TOKENS))
        else:
            data[place : place + (change != "put")] = b"" if change == "cut" else bytes([byte])
    return bytes(data)


def check_any(kind, data, size):
    # A last line without an end is complete, or the file is cut off, which is tested elsewhere.
    data = data.rstrip(b"\n") + b"\n"
    if data.strip(b" \t\r\n"):
        check(kind, data, {"LONG_LINE": size, "WINDOW": 60, "BLOCK_SIZE": 2 * size})


@given(data=files("segment"), size=st.sampled_from([60, 120, 100_000]))
@example(
    b'{"input":{"itemId":"1"},"output":{"usersList":["a"],"usersList":["aaaaaaaaaaaaaaaaaaaa"]}}\n', 1000
)
@example(b'{"output":{"usersList":["a","","b\\""]},"input":{"itemId":"1"}}\n', 1000)
@settings(max_examples=EXAMPLES)
def test_segments_are_what_json_loads_says(data, size):
    check_any("segment", data, size)


@given(data=files("inference"), size=st.sampled_from([60, 120, 100_000]))
@settings(max_examples=EXAMPLES)
def test_recommendations_are_what_json_loads_says(data, size):
    check_any("inference", data, size)


# --- Progress -----------------------------------------------------------------------------------------


def test_the_log_tells_how_far_it_is(caplog):
    caplog.set_level("INFO", "tables")
    files = {f"{number}.out": dump(*[segment("1", IDS)] * 9, segment("2", [7])) for number in range(2)}
    with patch.object(reading, "SECONDS_BETWEEN_REPORTS", 0.0):
        Conversion("segment", files)
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Read ")]
    size = sum(map(len, files.values()))
    assert re.fullmatch(
        r"Read 50 %, in file 1 of 2: 10 records, 360 rows, 1 with errors; [\d.]+ \w+ a second.", told[0]
    )
    assert told[-1].startswith("Read 100 %, in file 2 of 2: 20 records, 720 rows, 2 with errors; ")
    assert f"Reading the job's output: 2 files, {size / 1000:.3g} KB." in caplog.text


# --- Files that are not as they should be -----------------------------------------------------------

GOOD = dump(segment("1", ["a"]))


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", PersonalizeOutputError, "s3://shop/items.json.out holds no records"),
        (b"\n\n", PersonalizeOutputError, "s3://shop/items.json.out holds no records"),
        (b"\x1f\x8b\x08" + GOOD, S3RefusedError, "compressed with gzip"),
        (
            GOOD + GOOD[:20],
            PersonalizeOutputError,
            "s3://shop/items.json.out is cut off in the middle of a record, in line 2",
        ),
        (
            dump(segment("1", IDS))[:-9],
            PersonalizeOutputError,
            "is cut off in the middle of a record, in line 1",
        ),
    ],
)
def test_a_file_that_is_no_whole_output_makes_no_table(data, error, words):
    with pytest.raises(error, match=words.replace("(", r"\(")):
        convert("segment", data)


@pytest.mark.parametrize(
    "line",
    [
        b'{"input":{"itemId":"1"},"output":{"usersList":["a" "b"]}}',
        b'{"input":{"itemId":"1"},"output":{"usersList":["a"]}',
        b'{"input":{"itemId":"1"},"output":{"usersList":["\xff"]}}',
        b'{"input":{"itemId":"1"},"output":{"usersList":["\x00"]}}',
        b"\x00" * 50,
        b'{"input":{"itemId":"1"},"output":{"usersList":["%s"]}}' % (b"x" * 5000),
        b'{"input":{"itemId":"%s"},"output":{"usersList":["x"]}}' % (b"x" * 5000),
        b'{"input":{"itemId":"1"},"output":{"usersList":[%s]}}' % (b"[" * 500),
    ],
    ids=lambda line: line.decode("latin-1")[:60],
)
def test_a_line_that_is_no_record_is_counted_and_the_others_are_there(line):
    done = check("segment", GOOD + line + b"\n" + GOOD)
    assert (done.summary.rows, done.summary.errors) == (2, 1)
    assert done.summary.first_errors[0].startswith("items.json.out line 2: ")


# --- Memory -----------------------------------------------------------------------------------------

MEASURE = """
import re, sys
from test_tables import Bucket, Written, convert_output, ARNS, S3Object, log
from datetime import UTC, datetime

class Nothing(Written):
    size = 0
    def tell(self): return self.size
    def write(self, data):
        self.size += memoryview(data).nbytes
        return memoryview(data).nbytes

class Line(dict):
    '''One line of users, made when it is read.'''
    head, tail = b'{"input":{"itemId":"1"},"output":{"usersList":["0"', b']},"error":null}\\n'
    user = b',"%s"' % (b"0123456789ab" * 3)
    def __init__(self, users):
        self.size = len(self.head) + users * len(self.user) + len(self.tail)
        self.users = users
    def __getitem__(self, key):
        return self
    def part(self, begin, end):
        user = len(self.user)
        first, middle = len(self.head), self.users * user
        out = self.head[begin:end]
        a, b = max(begin - first, 0), min(end - first, middle)
        if b > a:
            out += (self.user * ((b - a) // user + 2))[a % user : a % user + b - a]
        return out + self.tail[max(begin - first - middle, 0) : max(end - first - middle, 0)]

class Slices:
    def __init__(self, line): self.line = line
    def get_object(self, *, Bucket, Key, IfMatch, Range):
        begin, _, last = Range.removeprefix("bytes=").partition("-")
        place = [int(begin)]
        class Body:
            def read(self, size):
                start = place[0]; place[0] = min(start + size, int(last) + 1)
                return Slices.line.part(start, place[0])
            def close(self): pass
        Slices.line = self.line
        return {"Body": Body(), "ContentRange": f"bytes {begin}-{last}/*"}

line = Line(int(sys.argv[1]))
def read(name): return int(re.search(rf"{name}:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
before = read("VmRSS")
output = S3Object("shop", "a", line.size, "1", datetime.now(UTC))
summary, _ = convert_output(Slices(line), ARNS["segment"], [output], Nothing, Nothing, log)
print(summary.rows, summary.errors, read("VmHWM") - before)
"""


def test_a_line_of_five_million_users_takes_less_memory_than_its_own_length():
    users = 5_000_000
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(users)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    rows, errors, peak = map(int, done.stdout.split()[-3:])
    assert (rows, errors) == (users + 1, 0)
    assert peak < 192e6
