"""What templates leave behind, read or refused in words."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_personalize_segments.jobs import KNOWN_STATUSES
from airflow_provider_personalize_segments.parameters import (
    read_choice,
    read_count,
    read_datetime,
    read_seconds,
    read_statuses,
    read_text,
    read_verify,
)


class TestDatetime:
    @pytest.mark.parametrize(
        ("value", "moment"),
        [
            (None, None),
            ("", None),
            ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
            ("2026-01-31T08:00:00", datetime(2026, 1, 31, 8, tzinfo=UTC)),
            ("2026-01-31T08:00:00Z", datetime(2026, 1, 31, 8, tzinfo=UTC)),
            ("2026-01-31 08:00:00+00:00", datetime(2026, 1, 31, 8, tzinfo=UTC)),
            (" 2026-01-31T08:00:00+09:00 ", datetime(2026, 1, 30, 23, tzinfo=UTC)),
            (datetime(2026, 1, 31), datetime(2026, 1, 31, tzinfo=UTC)),
            (date(2026, 1, 31), datetime(2026, 1, 31, tzinfo=UTC)),
        ],
    )
    def test_is_read_and_naive_means_utc(self, value, moment):
        assert read_datetime(value, "created_after") == moment

    @given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])))
    def test_survives_its_own_text(self, moment):
        assert read_datetime(str(moment), "x") == moment == read_datetime(moment.isoformat(), "x")

    @pytest.mark.parametrize("value", ["yesterday", "31.01.2026", "{{ ds }}", 20260131.5, "None"])
    def test_what_is_no_date_is_refused(self, value):
        with pytest.raises(
            ValueError, match="^created_after of task 't' is not a date. Expected .* means UTC. Got "
        ):
            read_datetime(value, "created_after of task 't'")


class TestCount:
    @given(st.integers(min_value=1))
    def test_is_read_from_a_number_or_its_text(self, number):
        assert read_count(number, "x") == number == read_count(f" {number} ", "x")
        assert read_count(f"{number}.0", "x") == number

    def test_is_read_from_a_whole_float(self):
        assert read_count(25.0, "x") == 25

    @pytest.mark.parametrize("value", [None, ""])
    def test_none_stays_none(self, value):
        assert read_count(value, "max_items") is None

    @pytest.mark.parametrize("value", [0, -1, "many", 1.5, "1.5", True, "0.0", "1.", "1e3", "0x10", "1_0"])
    def test_what_is_no_count_is_refused(self, value):
        with pytest.raises(
            ValueError, match="^max_items is not a count. Expected a whole number of 1 or more. Got "
        ):
            read_count(value, "max_items")


class TestStatuses:
    @pytest.mark.parametrize("value", [None, ""])
    def test_none_means_all(self, value):
        assert read_statuses(value, "statuses") is None

    @given(st.sets(st.sampled_from(sorted(KNOWN_STATUSES)), min_size=1))
    def test_every_known_status_is_taken(self, statuses):
        assert read_statuses(list(statuses), "x") == read_statuses(tuple(statuses), "x") != frozenset()

    def test_one_status_is_a_list_of_one(self):
        assert read_statuses("create failed", "x") == frozenset({"FAILED"})

    @pytest.mark.parametrize("value", ["ACTVE", ["ACTIVE", "DONE"], [None], 1])
    def test_a_misspelt_status_is_refused(self, value):
        with pytest.raises(
            ValueError, match="^statuses is not a status of a batch job. Expected any of ACTIVE, .* Got "
        ):
            read_statuses(value, "statuses")


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (None, None),
        ("", None),
        ("None", None),
        (True, True),
        ("True", True),
        ("false", False),
        ("/ca.pem", "/ca.pem"),
    ],
)
def test_verify_is_read(value, read):
    assert (
        read_verify(value, "verify") is read if not isinstance(read, str) else read_verify(value, "v") == read
    )


def test_text_is_text():
    assert read_text("eu-west-1", "region_name") == "eu-west-1"
    assert read_text("", "region_name") is None
    with pytest.raises(ValueError, match="^region_name is not text, but of type list: "):
        read_text(["eu-west-1"], "region_name")


class TestSeconds:
    @given(st.floats(min_value=0, exclude_min=True, max_value=3e9))
    def test_are_read_from_a_number_or_its_text(self, number):
        assert read_seconds(number, "x") == number == read_seconds(f" {number!r} ", "x")

    @given(st.timedeltas(min_value=timedelta(microseconds=1), max_value=timedelta(days=36499)))
    def test_are_read_from_a_timedelta(self, length):
        assert read_seconds(length, "x") == length.total_seconds()

    @pytest.mark.parametrize("value", [None, ""])
    def test_none_stays_none(self, value):
        assert read_seconds(value, "timeout") is None

    @pytest.mark.parametrize(
        "value",
        [
            0,
            -1,
            "0",
            timedelta(0),
            timedelta(seconds=-1),
            timedelta(days=36500),
            1e13,
            "nan",
            "inf",
            "1e999",
            "1 h",
            True,
            [60],
            "None",
        ],
    )
    def test_what_is_no_length_of_time_is_refused(self, value):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are compared below
            read_seconds(value, "timeout of task 't'")
        assert str(caught.value) == (
            "timeout of task 't' is not a duration. "
            f"Expected seconds, more than 0 and less than a hundred years, or a timedelta. Got {value!r}."
        )


class TestChoice:
    @pytest.mark.parametrize("value", ["adopt", "fail", "new"])
    def test_is_one_of_the_words(self, value):
        assert read_choice(value, ("adopt", "fail", "new"), "if_exists") == value

    @pytest.mark.parametrize("value", [None, ""])
    def test_none_stays_none(self, value):
        assert read_choice(value, ("adopt", "fail"), "if_exists") is None

    @pytest.mark.parametrize("value", ["Adopt", "adopt ", 1, True, ["adopt"], {}])
    def test_anything_else_is_refused(self, value):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are compared below
            read_choice(value, ("adopt", "fail", "new"), "if_exists of task 't'")
        assert str(caught.value) == (f"if_exists of task 't' is not 'adopt' or 'fail' or 'new': {value!r}")

    def test_a_long_value_is_cut_between_words(self):
        with pytest.raises(ValueError, match=r"^x is not 'a': '(word )+word'\.\.\. \(1000 characters\)$"):
            read_choice("word " * 200, ("a",), "x")
