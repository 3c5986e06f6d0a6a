"""Records are what ``json.loads`` says they are, whatever cuts them; and nothing long is held in memory."""

from __future__ import annotations

import gzip
import json
import pickle
import random
import tracemalloc
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_personalize_segments.errors import PersonalizeError, S3RefusedError
from airflow_provider_personalize_segments.output import records
from airflow_provider_personalize_segments.output.records import read_records
from airflow_provider_personalize_segments.output.strict_json import load_strictly

PATH = "s3://shop/output/items.json.out"
# What a long line cannot have, though it is JSON.
BOUNDS = ("outside its list of users", "it repeats", "one of its users has more than")


def cut(data, size=7):
    return (data[place : place + size] for place in range(0, len(data), size))


def read(data, size=7, longest=None, window=None, loads=load_strictly):
    """Return the parts of what is in S3, with lines that count as long from a length on."""
    longest = records.LONG_LINE if longest is None else longest
    window = longest if window is None else window
    with patch.multiple(records, LONG_LINE=longest, WINDOW=min(window, records.WINDOW)):
        return list(read_records(cut(data, size), PATH, loads))


def read_alone(data, *sizes):
    """Return the parts of data that is one line."""
    parts = read(data, *sizes)
    assert {each.line for each in parts} <= {1}
    assert {each.offset for each in parts} <= {0}
    return parts


def join(parts):
    """Return a record as one, from parts that follow the rules."""
    *before, last = parts
    values = []
    for part in parts:
        assert part.start == len(values)
        assert part.is_last == (part is last)
        values += part.values
    for part in before:
        assert part.problem is None
        assert part.list_name == last.list_name
        assert part.values
        known = part.members
        output = known.pop("output")
        assert {name: last.members[name] for name in known} == known
        assert {name: last.members["output"][name] for name in output} == output
        part.members["output"] = output
    if last.list_name is None:
        assert values == []
        return last.members
    return {**last.members, "output": {**last.members["output"], last.list_name: values}}


def same(record):
    """Return a record as text, which tells 1 from 1.0 and from true."""
    return json.dumps(record, sort_keys=True)


def judge(line):
    """Return what ``json.loads`` has for a line, or nothing when it is no record."""
    try:
        record = load_strictly(line.decode())
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def check(line, size, longest, window):
    """Fail unless a line is read as ``json.loads`` reads it; return whether it was."""
    for end in (b"", b"\n"):
        parts = read_alone(line + end, size, longest, window)
        if not line.strip(b" \t\r") and len(line) <= longest:
            assert parts == []
            continue
        last = parts[-1]
        expected = judge(line)
        if last.problem:
            assert last.members == {}
            assert last.list_name is None
            if expected is not None:
                assert len(line) > longest
                assert any(bound in last.problem for bound in BOUNDS), last.problem
        else:
            assert expected is not None
            assert same(join(parts)) == same(expected)
            assert not last.is_cut_off
        if end:
            assert not last.is_cut_off
    return parts == [] or parts[-1].problem is None


def users(count, name="usersList"):
    return {
        "input": {"itemId": "105"},
        "output": {name: [f"user-{number}" for number in range(count)]},
        "error": None,
    }


# --- Lines of usual length ------------------------------------------------------------------------


def test_a_record_is_one_part_without_its_list():
    data = b'{"input":{"itemId":"105"},"output":{"usersList":["7","5"]},"error":null}\n'
    [part] = read(data)
    assert part == (
        1,
        0,
        {"input": {"itemId": "105"}, "output": {}, "error": None},
        "usersList",
        ["7", "5"],
        0,
        True,
        None,
        False,
    )


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_lines_have_their_numbers_and_offsets(size):
    lines = [b'{"a":1}', b"", b" \t\r", b'{"b":"\xc3\xa4"}\r', b"[]", b'{"c":[]}']
    parts = read(b"\n".join(lines), size)
    assert [(part.line, part.offset) for part in parts] == [(1, 0), (4, 13), (5, 25), (6, 28)]
    assert [part.members for part in parts] == [{"a": 1}, {"b": "ä"}, {}, {"c": []}]
    assert [part.problem for part in parts] == [None, None, "an array, not an object", None]


@pytest.mark.parametrize("name", ["usersList", "recommendedUsers"])
def test_both_names_of_the_list_are_known(name):
    [part] = read(json.dumps(users(2, name)).encode())
    assert (part.list_name, part.values) == (name, ["user-0", "user-1"])


def test_the_first_of_two_lists_is_moved_out():
    data = b'{"output":{"usersList":null,"recommendedUsers":["1"%s],"x":1}}' % (b',"2222222222"' * 9)
    for longest in (1000, 60):
        parts = read(data, 7, longest)
        assert parts[-1].list_name == "recommendedUsers"
        assert parts[-1].members == {"output": {"usersList": None, "x": 1}}
        assert same(join(parts)) == same(judge(data))


@pytest.mark.parametrize(
    "data",
    [b"{}", b'{"output":null}', b'{"output":[]}', b'{"output":{"usersList":"x"}}', b'{"usersList":["x"]}'],
)
def test_a_record_without_a_list_stays_as_it_is(data):
    [part] = read(data)
    assert (part.list_name, part.values, part.members) == (None, [], json.loads(data))


def test_no_bytes_no_records():
    assert read(b"") == []
    assert read(b"\n\n") == []
    assert next(read_records([b"", b"{}", b""], PATH)).members == {}


@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_compressed_object_is_named(size):
    with pytest.raises(S3RefusedError) as caught:
        read(gzip.compress(b'{"a":1}\n'), size)
    assert str(caught.value) == (
        "The object is compressed with gzip, not JSON Lines as Personalize writes them. Look for what "
        f"replaced the job's own output, or decompress it. ({PATH}, byte 0)"
    )
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), PersonalizeError)
    [part] = read(b"\x1f")
    assert part.problem == "not JSON: Expecting value (byte 0)"


PROBLEMS = {
    b'{"a":1': "not JSON: Expecting ',' delimiter (byte 13)",
    b'{"a":1}x': "not JSON: Extra data (byte 14)",
    b'{"a":"\xff"}': "not UTF-8: invalid start byte (byte 13)",
    b'{"a":"\xed\xa0\x80"}': "not UTF-8: invalid continuation byte (byte 13)",
    b'{"\xc3\xa4":x}': "not JSON: Expecting value (byte 13)",
    b'{"a":"\x00"}': "not JSON: Invalid control character at (byte 13)",
    b'{"a":1}\x00': "not JSON: Extra data (byte 14)",
    b'{"a":NaN}': "not JSON that can be read: NaN is not JSON",
    b'{"a":-Infinity}': "not JSON that can be read: -Infinity is not JSON",
    b'\xef\xbb\xbf{"a":1}': "not JSON: it begins with a byte order mark",
    b"[" * 100_000: "not JSON that can be read: it is nested too deep",
    b'{"a":' * 100_000: "not JSON that can be read: it is nested too deep",
    b"1": "a number, not an object",
    b'"x"': "a string, not an object",
    b"true": "a boolean, not an object",
    b"null": "null, not an object",
    b"[]": "an array, not an object",
}


@pytest.mark.parametrize("line", PROBLEMS, ids=lambda line: repr(line[:20]))
def test_a_problem_is_told_and_reading_goes_on(line):
    before, bad, after = read(b'{"":0}\n' + line + b"\n{}\n", 1000)
    assert (before.problem, after.problem, after.line) == (None, None, 3)
    assert (bad.line, bad.offset, bad.members, bad.is_last) == (2, 7, {}, True)
    assert bad.problem == PROBLEMS[line]
    assert not bad.is_cut_off


def test_a_number_of_5000_digits_is_a_problem():
    [part] = read(b'{"a":' + b"1" * 5000 + b"}\n", 1000)
    assert "not JSON that can be read: Exceeds the limit" in part.problem


def test_a_lone_surrogate_that_is_escaped_is_kept():
    [part] = read(b'{"a":"\\ud800"}\n')
    assert part.members == {"a": "\ud800"}


@pytest.mark.parametrize("longest", [1000, 70])
def test_the_last_line_may_lack_its_end_but_nothing_else(longest):
    whole = json.dumps(users(9), separators=(",", ":")).encode()
    assert not read(whole, 7, longest)[-1].problem
    for length in range(1, len(whole)):
        last = read(b"{}\n" + whole[:length], 7, longest)[-1]
        assert last.problem
        assert last.is_cut_off
        assert (last.line, last.offset, last.is_last) == (2, 3, True)
    assert not read(whole[:-1] + b"\n", 7, longest)[-1].is_cut_off


def test_another_parser_can_be_given():
    seen = []

    def loads(text):
        seen.append(text)
        return json.loads(text)

    [part] = read(b'{"a":NaN}', loads=loads)
    assert part.problem is None
    assert seen == ['{"a":NaN}']


# --- Long lines -----------------------------------------------------------------------------------


def test_a_long_record_comes_in_parts():
    data = json.dumps(users(30)).encode() + b'\n{"a":1}\n'
    *parts, other = read(data, 13, 100)
    assert len(parts) > 3
    assert {part.line for part in parts} == {1}
    assert same(join(parts)) == same(users(30))
    assert parts[0].members == {"input": {"itemId": "105"}, "output": {}}
    assert parts[-1].members == {"input": {"itemId": "105"}, "output": {}, "error": None}
    assert (other.line, other.offset, other.members) == (2, data.index(b"\n") + 1, {"a": 1})


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"a":"%s"}' % (b"x" * 200), "longer than 50 bytes, and more than 50 of them are outside"),
        (b'{"output":{"usersList":["1"],"x":"%s"}}' % (b"x" * 200), "more than 50 of them are outside"),
        (b'{"output":{"usersList":["%s"]}}' % (b"x" * 200), "one of its users has more than 50 bytes"),
        (b'{"output":{"usersList":["1",[%s]]}}' % (b"1," * 99), "one of its users has more than 50 bytes"),
        (b'{"output":{"usersList":["1"%s,]}}' % (b',"22"' * 20), "not JSON: Expecting value (byte 128)"),
        (b'{"output":{"usersList":[,"1"%s]}}' % (b',"22"' * 20), "not JSON: Expecting value (byte 24)"),
        (b'{"output":{"usersList":["1"%s,,"2"]}}' % (b',"22"' * 20), "not JSON: Expecting value (byte "),
        (
            b'{"output":{"usersList":["1"%s,"\xff"]}}' % (b',"22"' * 20),
            "not UTF-8: invalid start byte (byte 129)",
        ),
        (b'{"output":{"usersList":["1"%s}}}' % (b',"22"' * 20), "its list of users"),
        (
            b'{"output":{"usersList":["1"%s]}' % (b',"22"' * 20),
            "not JSON: Expecting ',' delimiter (byte 129)",
        ),
        (b'{"output":{"usersList":["1"%s]}}}' % (b',"22"' * 20), "not JSON: Extra data (byte 130)"),
        (b'{"output":{"usersList":["1"%s' % (b',"22"' * 20), "it ends within its list of users"),
        (b'[{"output":{"usersList":["1"%s]}}]' % (b',"22"' * 20), "outside its list of users"),
        (
            b'{"x" "output":{"usersList":["1"%s]}}' % (b',"22"' * 20),
            "not JSON: Expecting ':' delimiter (byte 5)",
        ),
        (b'{"output":{"usersList":["1"%s],"usersList":[]}}' % (b',"22"' * 20), "it repeats its output, or"),
        (b'{"output":{"usersList":["1"%s]},"output":{}}' % (b',"22"' * 20), "it repeats its output, or"),
        (
            b'{"i":1,"output":{"usersList":["1"%s]},"i":2}' % (b',"22"' * 20),
            "it repeats a member, with another",
        ),
        (
            b'{"output":{"x":1,"usersList":["1"%s],"x":2}}' % (b',"22"' * 20),
            "it repeats a member, with another",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value.decode("latin-1")[:36],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_what_a_long_line_cannot_have(line, problem, size):
    *_, bad, after = read(line + b"\n{}\n", size, 50)
    assert problem in bad.problem
    assert (bad.line, bad.is_last, bad.values, bad.members) == (1, True, [], {})
    assert (after.line, after.offset, after.problem) == (2, len(line) + 1, None)


@pytest.mark.parametrize(
    "line",
    [
        b'{"output":{"usersList":[%s]},"input":{"itemId":"1"}}' % b",".join([b'"a"'] * 40),
        b'{ "\\u006futput"\t:\r{ "users\\u004cist" : [ %s ] } }' % b" , ".join([b'"a"'] * 40),
        b'{"output":{"usersList":[%s]}}' % b",".join([b'"a\\",]"'] * 40),
        b'{"output":{"usersList":[%s]}}' % b",".join([b'"a\\\\","]"'] * 40),
        b'{"output":{"usersList":[%s]}}' % b",".join([b"1.5e3"] * 40),
        b'{"output":{"usersList":[%s]}}' % b",".join([b'{"a":["]",1]},[],null'] * 40),
        b'{"output":{"usersList":[%s]}}' % b",".join(['"äöü\U0001f600"'.encode()] * 40),
        b'{"output":{"usersList":[%s]}}' % b",".join([b'"\\ud800"'] * 40),
        b'{"output":{"usersList":[]}%s}' % (b" " * 20),
        b'{"output":{"x":{"usersList":[1]},"usersList":[%s]}}' % b",".join([b'"a"'] * 40),
        b'{"a":{"usersList":[1]},"output":{"usersList":[%s]}}' % b",".join([b'"a"'] * 40),
        b'{"output":1,"output":{"usersList":[%s]}}' % b",".join([b'"a"'] * 40),
        b'{"output":{"usersList":[%s]},"\\"]":"\\"]"}' % b",".join([b'"a"'] * 40),
    ],
    ids=lambda line: line.decode()[:40],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("bound", [52, 55, 64])
def test_what_a_long_line_can_have(line, size, bound):
    assert check(line, size, bound, bound)


@pytest.mark.parametrize("end", [b"", b"\n", b"\n{}"])
@pytest.mark.parametrize("size", [1, 1000])
def test_the_bound_outside_the_list_is_exact(size, end):
    """A bound of 60 bytes: 24 are before the list, 9 after it are not text."""
    line = b'{"output":{"usersList":["1","2","3","4","5","6","7","8","9"]},"x":"%s"}'
    for count, expected in (27, ""), (28, BOUNDS[0]):
        *_, last = (part for part in read(line % (b"x" * count) + end, size, 60) if part.line == 1)
        assert last.is_last
        assert expected in (last.problem or "")
        assert bool(last.problem) == bool(expected)


# --- Any line -------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=[]), max_size=6) | st.sampled_from(
    ['",', '"]', "\\", '\\"', "]}", "usersList", "output", "\ud83d\ude00", "é", "\x00", "a" * 12]
)
SCALARS = (
    TEXT
    | st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
OUTPUTS = st.dictionaries(
    st.sampled_from(["usersList", "recommendedUsers", "x"]),
    VALUES | st.lists(SCALARS, max_size=40),
    max_size=3,
)
RECORDS = st.dictionaries(
    st.sampled_from(["input", "output", "error", "usersList"]), OUTPUTS | VALUES, max_size=4
)
SHORT_RECORDS = st.fixed_dictionaries(
    {"input": st.sampled_from([{"itemId": "1"}, 5, "]"])},
    optional={
        "output": st.fixed_dictionaries(
            {
                "usersList": st.lists(
                    TEXT | st.integers() | st.lists(st.integers(0, 9), max_size=3), max_size=60
                )
            }
        ),
        "error": st.none() | st.just("no, [it] failed"),
    },
)


def render(value, chance):
    """Return a value as JSON in UTF-8, in one of all the ways to write it."""

    def space():
        return chance.choice(["", "", "", " ", "\t", "\r", " \r "])

    def text(value):
        written = json.dumps(value, ensure_ascii=chance.random() < 0.5)
        try:
            written.encode()
        except UnicodeEncodeError:
            return json.dumps(value)
        if chance.random() < 0.1 and written.isascii() and written.isalnum():
            written = '"' + "".join(f"\\u{ord(each):04x}" for each in value) + '"'
        return written

    def write(value):
        if isinstance(value, str):
            return space() + text(value) + space()
        if isinstance(value, dict):
            members = [space() + text(name) + space() + ":" + write(each) for name, each in value.items()]
            return space() + "{" + (",".join(members) or space()) + "}" + space()
        if isinstance(value, list):
            return space() + "[" + (",".join(map(write, value)) or space()) + "]" + space()
        return space() + json.dumps(value) + space()

    return write(value).encode()


@given(SHORT_RECORDS, st.integers(), st.integers(1, 400))
def test_every_usual_record_is_read_as_json_reads_it(record, seed, size):
    # Nothing in it but the list is longer than the bound.
    assert check(render(record, random.Random(seed)), size, 260, 260)


@given(RECORDS, st.integers(), st.integers(1, 60), st.integers(10, 90), st.integers(10, 90))
def test_every_record_is_read_as_json_reads_it_or_out_of_bounds(record, seed, size, longest, window):
    check(render(record, random.Random(seed)), size, max(longest, window), window)


MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(["replace", "insert", "delete", "repeat"]),
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(
            [bytes([each]) for each in b'{}[]",:\\ \t\r0n-.eu'] + [b"\x00", b"\xc3", b"\xff", b'",', b"]}"]
        ),
    ),
    min_size=1,
    max_size=3,
)


@given(RECORDS | SHORT_RECORDS, MUTATIONS, st.integers(), st.integers(1, 60), st.integers(10, 90))
@example({"output": {"usersList": ["a"] * 9}}, [("insert", 0.5, b"]")], 0, 1, 30)
def test_every_damaged_line_is_read_as_json_reads_it(record, mutations, seed, size, longest):
    line = render(record, random.Random(seed))
    for how, where, what in mutations:
        place = int(where * len(line))
        if how == "repeat":
            line = line[:place] + line[place : place + 20] + line[place:]
        else:
            kept = line[place + (how != "insert") :]
            line = line[:place] + (b"" if how == "delete" else what) + kept
    check(line, size, longest, longest)


def test_every_single_damage_to_a_long_line_is_judged_as_json_judges_it():
    line = b'{"input":{"itemId":"1"},"output":{"usersList":["a","b]","c\\"","d,","e"]},"error":null}'
    longest = 60
    for place in range(len(line)):
        for what in [b"", *(bytes([each]) for each in b'{}[]",:\\ 1\xc3')]:
            check(line[:place] + what + line[place + 1 :], 1000, longest, longest)
            check(line[:place] + what + line[place:], 1000, longest, longest)


# --- Memory ---------------------------------------------------------------------------------------


def measure(pieces):
    """Return the parts' sizes, the last part, and the most bytes that were allocated meanwhile."""
    tracemalloc.start()
    try:
        sizes = []
        for part in read_records(pieces, PATH):
            sizes.append(len(part.values))
        return sizes, part, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_60_megabytes_in_one_line_take_little_memory():
    users = b"".join(b'"0f8fad5b-d9cb-469f-a165-7086%08d",' % number for number in range(25_000))

    def pieces():
        yield b'{"input":{"itemId":"105"},"output":{"usersList":['
        for _ in range(62):
            yield users
        yield b'"last"]},"error":null}\n'

    sizes, last, most = measure(pieces())
    assert sum(sizes) == 62 * 25_000 + 1
    assert last.problem is None
    assert last.members["error"] is None
    assert most < 24 * 1024**2


@pytest.mark.parametrize(
    ("begin", "what"),
    [
        (b'{"a":"', "outside its list of users"),
        (b'{"output":{"usersList":["', "one of its users has more than"),
        (b'{"output":{"usersList":["1"]},"error":"', "outside its list of users"),
    ],
)
def test_300_megabytes_in_one_string_take_little_memory(begin, what):
    def pieces():
        yield begin
        for _ in range(300):
            yield b"x" * 1024**2
        yield b'"\n'

    _, last, most = measure(pieces())
    assert what in last.problem
    assert not last.is_cut_off
    assert most < 24 * 1024**2
