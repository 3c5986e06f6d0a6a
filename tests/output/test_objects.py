"""Objects are read whole and in order, or not at all: real boto3 against a server that breaks on demand."""

from __future__ import annotations

import contextlib
import pickle
import random
import socket
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from botocore.config import Config
from output.scripted_s3 import Fault, ScriptedS3

from airflow_provider_personalize_segments.airflow_compat import AirflowFailException
from airflow_provider_personalize_segments.errors import PersonalizeError, S3RefusedError, S3UnavailableError
from airflow_provider_personalize_segments.output import objects
from airflow_provider_personalize_segments.output.objects import (
    S3Object,
    list_objects,
    read_object,
    split_path,
)
from airflow_provider_personalize_segments.testing import LocalPersonalize

PATH = "s3://shop/output/items.json.out"
CONTENT = random.Random(0).randbytes(300_000)
WHEN = datetime(2026, 1, 2, tzinfo=UTC)
SESSION = boto3.Session()
NOTHING_WRONG = (
    "Nothing is known to be wrong with it: retry the task, or look at the network and S3's status."
)


@pytest.fixture(autouse=True)
def sleeps(monkeypatch):
    """Take the pauses away; return how long they would have been."""
    slept = []
    monkeypatch.setattr(objects.time, "sleep", slept.append)
    return slept


@pytest.fixture(autouse=True)
def _small_numbers(monkeypatch):
    monkeypatch.setattr(objects, "REQUEST_SIZE", 100_000)
    monkeypatch.setattr(objects, "READ_SIZE", 1_000)


@contextlib.contextmanager
def make_client(url, **config):
    client = SESSION.client(
        "s3",
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        # Ours are to be seen, not botocore's.
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, **config),
    )
    with contextlib.closing(client):
        yield client


@pytest.fixture
def serve():
    """Return a function that serves the content with faults; it returns the server, a client, the object."""
    with contextlib.ExitStack() as stack:

        def start(fault=lambda _: None, content=CONTENT):
            s3 = stack.enter_context(ScriptedS3(content, fault))
            client = stack.enter_context(make_client(s3.url))
            return s3, client, S3Object("shop", "output/items.json.out", len(content), s3.etag, WHEN)

        yield start


def first(fault, count=1):
    """Break the first requests."""
    return lambda number: fault if number < count else None


# --- Reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece_size", [1, 999, 1_000, 70_001, 400_000])
def test_pieces_are_of_one_size_and_the_content(serve, piece_size):
    content = CONTENT[: 2_500 if piece_size == 1 else None]
    _, client, wanted = serve(content=content)
    pieces = list(read_object(client, wanted, piece_size=piece_size))
    assert b"".join(pieces) == content
    assert {len(piece) for piece in pieces[:-1]} <= {piece_size}
    assert 0 < len(pieces[-1]) <= piece_size


def test_requests_are_for_ranges_of_one_content(serve, sleeps):
    s3, client, wanted = serve()
    assert b"".join(read_object(client, wanted)) == CONTENT
    assert s3.ranges == [(0, 99_999), (100_000, 199_999), (200_000, 299_999)]
    assert {each["If-Match"] for each in s3.requests} == {'"1234"'}
    assert {each["path"].partition("?")[0] for each in s3.requests} == {"/shop/output/items.json.out"}
    assert sleeps == []


def test_reading_can_begin_later(serve):
    s3, client, wanted = serve()
    assert b"".join(read_object(client, wanted, start=250_001)) == CONTENT[250_001:]
    assert s3.ranges == [(250_001, 299_999)]
    assert list(read_object(client, wanted, start=300_000)) == []


def test_an_empty_object_is_not_asked_for(serve):
    s3, client, wanted = serve(content=b"")
    assert list(read_object(client, wanted)) == []
    assert s3.requests == []


def test_nothing_is_asked_for_before_it_is_wanted(serve):
    s3, client, wanted = serve()
    pieces = read_object(client, wanted, piece_size=1_000)
    assert s3.requests == []
    next(pieces)
    pieces.close()
    assert len(s3.requests) == 1


# --- Faults that pass -----------------------------------------------------------------------------

PASSING = [
    Fault(after=50_500),
    Fault(after=0),
    Fault(after=50_500, resets=True),
    Fault(length=50_500),
    Fault(length=0),
    Fault(length=50_500, headers=(("x-amz-checksum-crc32", "AAAAAA=="),)),
    Fault("ServiceUnavailable", 503),
    Fault("SlowDown", 503),
    Fault("InternalError", 500),
    Fault("RequestTimeout", 400),
    Fault("BadGateway", 502),
    Fault("TooManyRequests", 429),
]


@pytest.mark.parametrize("fault", PASSING, ids=str)
@pytest.mark.parametrize("count", [1, 3, 7])
def test_what_may_pass_is_asked_for_again_from_where_it_stopped(serve, sleeps, fault, count):
    s3, client, wanted = serve(first(fault, count))
    assert b"".join(read_object(client, wanted)) == CONTENT
    [_, (again, _), *_] = s3.ranges
    if fault.resets:  # what was on its way may be lost
        assert again <= fault.after
    else:
        assert again == (fault.after or fault.length or 0)
    assert len(sleeps) >= 1
    assert {each["If-Match"] for each in s3.requests} == {'"1234"'}


def test_a_refused_connection_may_pass(serve, sleeps):
    _, _, wanted = serve()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with make_client(f"http://127.0.0.1:{port}") as client, pytest.raises(S3UnavailableError) as caught:
        list(read_object(client, wanted))
    assert len(sleeps) == objects.MAX_ATTEMPTS - 1
    assert str(caught.value) == (
        f'EndpointConnectionError: Could not connect to the endpoint URL: "http://127.0.0.1:{port}/shop/output/'
        f'items.json.out", 8 times in a row. {NOTHING_WRONG} ({PATH}, byte 0)'
    )


def test_pauses_grow_and_are_bounded_and_begin_anew_after_progress(serve, sleeps, monkeypatch):
    monkeypatch.setattr(objects.random, "uniform", lambda low, high: high)
    monkeypatch.setattr(objects, "LONGEST_PAUSE", 10.0)
    faults = [*[Fault("SlowDown", 503)] * 7, Fault(after=5_000), Fault("SlowDown", 503)]
    _, client, wanted = serve(lambda number: faults[number] if number < len(faults) else None)
    assert b"".join(read_object(client, wanted)) == CONTENT
    assert sleeps == [0.5, 1, 2, 4, 8, 10, 10, 0.5, 1]


def test_pauses_differ(serve, sleeps):
    _, client, wanted = serve(first(Fault("SlowDown", 503), 7))
    assert b"".join(read_object(client, wanted)) == CONTENT
    for index, slept in enumerate(sleeps):
        longest = min(0.5 * 2**index, 20)
        assert longest / 2 <= slept <= longest


OLDER_BOTOCORE = (
    "ResponseStreamingError: An error occurred while reading from response stream: "
    "('Connection broken: IncompleteRead({}"
)
GIVEN_UP = {
    Fault(after=0): (
        "IncompleteReadError: 0 read, but total bytes expected is 100000",
        OLDER_BOTOCORE.format(0),
    ),
    Fault(length=0): "S3's answer ended too early",
    Fault("SlowDown", 503): "SlowDown: It says no",
    # A trickle: each answer brings a little, which is not enough.
    Fault(length=999): "S3's answer ended too early",
    Fault(after=999): (
        "IncompleteReadError: 999 read, but total bytes expected is 100000",
        OLDER_BOTOCORE.format(999),
    ),
}


@pytest.mark.parametrize("fault", GIVEN_UP, ids=str)
def test_attempts_without_progress_are_bounded(serve, sleeps, fault):
    s3, client, wanted = serve(lambda number: fault if number else Fault(after=40_000))
    pieces = read_object(client, wanted, piece_size=30_000)
    assert next(pieces) == CONTENT[:30_000]
    with pytest.raises(S3UnavailableError) as caught:
        next(pieces)
    # One that brought something, and seven that did not.
    assert len(s3.requests) == objects.MAX_ATTEMPTS
    assert len(sleeps) == objects.MAX_ATTEMPTS - 1
    error = caught.value
    assert error.offset == 40_000 + 7 * (fault.length or fault.after or 0)
    assert str(error).startswith(GIVEN_UP[fault])
    assert str(error).endswith(f", 8 times in a row. {NOTHING_WRONG} ({PATH}, byte {error.offset})")
    assert not isinstance(error, AirflowFailException)


def test_a_connection_that_often_breaks_is_no_reason_to_give_up(serve):
    s3, client, wanted = serve(lambda number: Fault(after=5_000))
    assert b"".join(read_object(client, wanted)) == CONTENT
    assert len(s3.requests) == 60


# --- Faults that stay -----------------------------------------------------------------------------

STAYING = {
    Fault("PreconditionFailed", 412): (
        S3UnavailableError,
        "The object changed while it was read. What was read of it is not used. See that nothing else writes "
        "there, and clear the task.",
    ),
    Fault("AccessDenied", 403): (
        S3RefusedError,
        "AccessDenied: It says no. Allow s3:GetObject on the object, and kms:Decrypt if it is encrypted with "
        "a key of AWS KMS.",
    ),
    Fault("NoSuchKey", 404): (
        S3RefusedError,
        "NoSuchKey: It says no. See whether it was deleted, and whether the bucket's name is right.",
    ),
    Fault("NoSuchBucket", 404): (
        S3RefusedError,
        "NoSuchBucket: It says no. See whether it was deleted, and whether the bucket's name is right.",
    ),
    Fault("InvalidRequest", 400): (
        S3RefusedError,
        "InvalidRequest: It says no. Correct the path, the connection or the bucket's settings.",
    ),
    Fault(headers=(("Content-Range", "bytes 7-99999/300000"),)): (
        S3RefusedError,
        "S3 answered with other bytes than it was asked for: bytes 7-99999/300000, not from {offset}. Look "
        "for a proxy or an S3 of another maker that does not support ranges.",
    ),
}


@pytest.mark.parametrize("fault", STAYING, ids=str)
@pytest.mark.parametrize("number", [0, 1])
def test_what_stays_is_told_at_once(serve, sleeps, fault, number):
    s3, client, wanted = serve(lambda each: fault if each == number else None)
    expected, words = STAYING[fault]
    with pytest.raises(PersonalizeError) as caught:
        list(read_object(client, wanted))
    offset = 100_000 * number
    assert type(caught.value) is expected
    assert str(caught.value) == f"{words.format(offset=offset)} ({PATH}, byte {offset})"
    assert len(s3.requests) == number + 1
    assert sleeps == []


def test_a_whole_object_in_place_of_a_range_is_taken_only_from_its_beginning(serve):
    whole = Fault(status=200, headers=(("Content-Range", None),))
    _, client, wanted = serve(lambda _: whole, content=CONTENT[:5_000])
    assert b"".join(read_object(client, wanted)) == CONTENT[:5_000]
    with pytest.raises(S3RefusedError, match="S3 answered with other bytes than it was asked for"):
        list(read_object(client, wanted, start=9))


def test_no_credentials_are_told_at_once(serve, sleeps):
    _, client, wanted = serve()
    client._request_signer._credentials = None
    with pytest.raises(S3RefusedError) as caught:
        list(read_object(client, wanted))
    assert str(caught.value) == (
        "Unable to locate credentials. Correct the path, the connection or the bucket's settings. "
        f"({PATH}, byte 0)"
    )
    assert sleeps == []


# --- Paths, errors, listing -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("s3://shop/a/b.json", ("shop", "a/b.json")),
        ("s3://shop/a/", ("shop", "a/")),
        ("s3://shop/", ("shop", "")),
        ("s3://shop", ("shop", "")),
        ("s3://shop//a b://?#", ("shop", "/a b://?#")),
    ],
)
def test_a_path_is_split(path, parts):
    assert split_path(path) == parts


@pytest.mark.parametrize(
    "path", ["", "shop/a", "s3:/shop", "s3://", "s3:///a", "https://shop/a", "S3://shop"]
)
def test_what_is_no_path_is_refused(path):
    with pytest.raises(ValueError, match="is no path in S3. Expected s3://bucket/prefix.") as caught:
        split_path(path)
    assert repr(path) in str(caught.value)


@pytest.mark.parametrize("kind", [S3RefusedError, S3UnavailableError])
@pytest.mark.parametrize("offset", [None, 7])
def test_errors_keep_their_fields(kind, offset):
    error = kind("It broke. ", "Mend it.", "s3://shop/\x00\ud800" + "x" * 9, offset)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert vars(again) == vars(error)
    place = "s3://shop/\ufffd\ufffdxxxxxxxxx" + (", byte 7" if offset else "")
    assert str(again) == str(error) == f"It broke. Mend it. ({place})"
    assert isinstance(error, PersonalizeError)
    assert isinstance(error, AirflowFailException) == (kind is S3RefusedError)


@pytest.fixture
def local():
    """Return a client for the local S3, with a bucket."""
    with LocalPersonalize() as personalize, make_client(personalize.endpoint_url) as client:
        client.create_bucket(Bucket="shop")
        yield client


def limit_page(params, **_):
    """Ask for pages of two, as S3's own of 1,000 take long to fill."""
    params["MaxKeys"] = 2


def test_objects_are_listed_over_pages_and_read(local):
    local.meta.events.register("before-parameter-build.s3.ListObjectsV2", limit_page)
    keys = [f"out/{number} ä+%?.json.out" for number in range(7)]
    for key in [*keys, "other/x", "ou"]:
        local.put_object(Bucket="shop", Key=key, Body=key.encode())
    found = list(list_objects(local, "s3://shop/out/"))
    assert [each.key for each in found] == keys
    one = found[-1]
    assert one.bucket == "shop"
    assert one.path == f"s3://shop/{keys[-1]}"
    assert one.size == len(keys[-1].encode())
    assert one.last_modified.utcoffset() == timedelta(0)
    assert b"".join(read_object(local, one, piece_size=5)) == keys[-1].encode()
    assert [each.key for each in list_objects(local, "s3://shop/oth")] == ["other/x"]
    assert len(list(list_objects(local, "s3://shop"))) == 9
    assert list(list_objects(local, "s3://shop/none/")) == []


def test_listing_asks_for_a_page_when_it_is_wanted(local):
    for number in range(3):
        local.put_object(Bucket="shop", Key=str(number), Body=b"")
    asked = []
    local.meta.events.register("before-parameter-build.s3.ListObjectsV2", limit_page)
    local.meta.events.register("before-send.s3.ListObjectsV2", lambda **request: asked.append(request))
    listed = list_objects(local, "s3://shop/")
    assert asked == []
    assert [next(listed).key, next(listed).key, len(asked)] == ["0", "1", 1]
    assert [next(listed).key, len(asked)] == ["2", 2]


def test_an_object_that_changes_is_told(local):
    local.put_object(Bucket="shop", Key="a", Body=CONTENT)
    [wanted] = list_objects(local, "s3://shop/a")
    pieces = read_object(local, wanted, piece_size=90_000)
    assert next(pieces) == CONTENT[:90_000]
    local.put_object(Bucket="shop", Key="a", Body=CONTENT[::-1])
    with pytest.raises(S3UnavailableError) as caught:
        list(pieces)
    assert str(caught.value).startswith("The object changed while it was read. ")
    assert str(caught.value).endswith(" (s3://shop/a, byte 100000)")


def test_an_object_that_is_deleted_is_told(local):
    local.put_object(Bucket="shop", Key="a", Body=CONTENT)
    [wanted] = list_objects(local, "s3://shop/a")
    local.delete_object(Bucket="shop", Key="a")
    with pytest.raises(S3RefusedError, match="^NoSuchKey: The specified key does not exist. See whether"):
        list(read_object(local, wanted))


def test_a_bucket_that_is_not_there_is_told(local):
    with pytest.raises(S3RefusedError) as caught:
        list(list_objects(local, "s3://shopp/out/"))
    assert str(caught.value) == (
        "NoSuchBucket: The specified bucket does not exist. See whether it was deleted, and whether the "
        "bucket's name is right. (s3://shopp/out/)"
    )


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (
            Fault("AccessDenied", 403),
            S3RefusedError,
            "AccessDenied: It says no. Allow s3:ListBucket on the bucket, and kms:Decrypt if it is encrypted "
            "with a key of AWS KMS. (s3://shop/out/)",
        ),
        (
            Fault("SlowDown", 503),
            S3UnavailableError,
            f"SlowDown: It says no. {NOTHING_WRONG} (s3://shop/out/)",
        ),
    ],
)
def test_a_listing_that_fails_is_told(serve, fault, kind, words):
    _, client, _ = serve(lambda _: fault)
    with pytest.raises(PersonalizeError) as caught:
        list(list_objects(client, "s3://shop/out/"))
    assert type(caught.value) is kind
    assert str(caught.value) == words
