"""Names of jobs: one for each task instance, the same at every try, and readable."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from airflow_provider_personalize_segments.arns import JOB_NAME_PATTERN, MAX_JOB_NAME_LENGTH
from airflow_provider_personalize_segments.creating.names import (
    MAX_NUMBER,
    MAX_PREFIX_LENGTH,
    TaskLineage,
    derive_job_name,
    extend_job_name,
    number_job_name,
)

LONGEST_DERIVED = 60
SCHEDULED = "scheduled__2026-11-23T02:00:00+00:00"

# Airflow's own IDs are letters, digits, '_', '-' and '.'; who sets another pattern may have anything.
ids = st.one_of(
    st.from_regex(r"[a-zA-Z0-9_.-]{1,250}", fullmatch=True), st.text(min_size=1, max_size=250), st.just("-")
)
run_ids = st.one_of(
    st.datetimes().map(lambda moment: f"scheduled__{moment.isoformat()}+00:00"),
    st.datetimes().map(lambda moment: f"manual__{moment.isoformat()}_x7Yz"),
    ids,
)
instances = st.builds(
    TaskLineage,
    ids,
    ids,
    run_ids,
    st.integers(min_value=-1, max_value=100_000),
    st.integers(min_value=0, max_value=1_000),
)


def lineage(*instance):
    """Return the first lineage of a task instance."""
    return TaskLineage(*instance, 0)


numbers = st.integers(min_value=1, max_value=MAX_NUMBER)
job_names = st.from_regex(JOB_NAME_PATTERN, fullmatch=True)


class TestDerived:
    def test_is_pinned_because_a_later_release_must_find_the_jobs_of_an_earlier_one(self):
        assert (
            derive_job_name(TaskLineage("shop", "create_segments", SCHEDULED, -1, 0))
            == "shop-create_segments-20261123T020000-5z4wvtknr5cp"
        )

    @given(instances)
    def test_can_be_a_job_name_and_leaves_room_for_numbers(self, instance):
        name = derive_job_name(instance)
        assert re.fullmatch(JOB_NAME_PATTERN, name, re.ASCII)
        assert len(name) <= LONGEST_DERIVED
        assert derive_job_name(instance) == name

    @given(instances, instances)
    @example(lineage("a-b", "c", "r", -1), lineage("a", "b-c", "r", -1))
    @example(lineage("a", "b", "c-r", -1), lineage("a", "b-c", "r", -1))
    @example(lineage("a", "b", "r-1", -1), lineage("a", "b", "r", 1))
    @example(lineage("a", "b", "r", 0), lineage("a", "b", "r", -1))
    @example(lineage("a.b", "c", "r", -1), lineage("a-b", "c", "r", -1))
    @example(lineage("a", "b", "r", -1), lineage("b", "a", "r", -1))
    @example(lineage("A", "b", "r", -1), lineage("a", "b", "r", -1))
    @example(lineage("übung", "b", "r", -1), lineage("übung", "b", "r", -1))
    @example(lineage("日本", "b", "r", -1), lineage("日木", "b", "r", -1))
    @example(
        lineage("d" * 249 + "1", "t", SCHEDULED, -1),
        lineage("d" * 249 + "2", "t", SCHEDULED, -1),
    )
    @example(
        lineage("d", "t" * 249 + "1", SCHEDULED, -1),
        lineage("d", "t" * 249 + "2", SCHEDULED, -1),
    )
    @example(lineage("d", "t", "r" * 249 + "1", -1), TaskLineage(*("d", "t", "r" * 249 + "2", -1), 0))
    @example(
        lineage("d", "t", SCHEDULED, -1),
        lineage("d", "t", "manual__2026-11-23T02:00:00+00:00", -1),
    )
    @example(TaskLineage("a", "b", "r", -1, 1), TaskLineage("a", "b", "r", -1, 2))
    def test_is_no_other_lineages(self, one, other):
        assume(one != other)
        assert derive_job_name(one) != derive_job_name(other)

    @given(instances, instances, numbers, numbers)
    def test_is_no_other_lineages_whatever_number_it_gets(self, one, other, number, other_number):
        assume((one, number) != (other, other_number))
        assert number_job_name(derive_job_name(one), number) != number_job_name(
            derive_job_name(other), other_number
        )

    @given(instances, st.sampled_from(["\u0660", "\u0966", "\uff10"]))
    def test_can_be_a_job_name_even_with_a_time_in_digits_of_another_script(self, instance, zero):
        run_id = "".join(chr(ord(zero) + int(each)) if each.isdigit() else each for each in SCHEDULED)
        name = derive_job_name(instance._replace(run_id=run_id))
        assert re.fullmatch(JOB_NAME_PATTERN, name, re.ASCII)

    @pytest.mark.parametrize(
        ("instance", "begins"),
        [
            (("shop", "create_segments", SCHEDULED, -1), "shop-create_segments-20261123T020000-"),
            (("shop", "create_segments", SCHEDULED, 7), "shop-create_segments-20261123T020000-7-"),
            (
                ("shop", "make", "manual__2026-11-23T02:03:04.567890+09:00_Xy", -1),
                "shop-make-20261123T020304-",
            ),
            (("shop.daily", "group.make", SCHEDULED, 0), "shop-daily-group-make-20261123T020000-0-"),
            (("shop", "make", "backfill of week 47", -1), "shop-make-backfill-of-week-47-"),
            (("_shop_", "make", "r", -1), "shop-make-r-"),
            (("übung", "make", "r", -1), "bung-make-r-"),
            (("日本", "make", "r", -1), "make-r-"),
            (("日本", "東京", SCHEDULED, -1), "20261123T020000-"),
            (("d" * 250, "make", SCHEDULED, -1), "d" * 26 + "-make-20261123T020000-"),
            (("shop", "t" * 250, SCHEDULED, -1), "shop-" + "t" * 26 + "-20261123T020000-"),
            (("d" * 250, "t" * 250, SCHEDULED, -1), "d" * 15 + "-" + "t" * 15 + "-20261123T020000-"),
            (("shop", "make", "r" * 250, -1), "shop-make-" + "r" * 20 + "-"),
        ],
    )
    def test_says_where_the_job_comes_from(self, instance, begins):
        name = derive_job_name(lineage(*instance))
        assert name.startswith(begins)
        assert re.fullmatch("[a-z2-7]{12}", name.removeprefix(begins))

    @given(st.from_regex("[a-z]{1,15}", fullmatch=True), st.from_regex("[a-z]{1,15}", fullmatch=True))
    def test_has_short_ids_in_full(self, dag_id, task_id):
        assert derive_job_name(TaskLineage(dag_id, task_id, SCHEDULED, -1, 2)).startswith(
            f"{dag_id}-{task_id}-20261123T020000-"
        )


prefixes = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,15}", fullmatch=True)


class TestPrefixed:
    @given(prefixes, instances)
    @example("p" * MAX_PREFIX_LENGTH, TaskLineage("d" * 250, "t" * 250, "r" * 250, 99_999_999, 1))
    def test_begin_with_the_prefix_and_leave_room_for_numbers(self, prefix, instance):
        name = derive_job_name(instance, prefix)
        assert name.startswith(prefix)
        assert re.fullmatch(JOB_NAME_PATTERN, name, re.ASCII)
        assert len(name) <= LONGEST_DERIVED

    @given(prefixes, job_names, instances)
    def test_stand_behind_a_name_that_the_user_chose(self, prefix, name, instance):
        extended = extend_job_name(name, instance, prefix)
        assert f"-{prefix}" in extended
        assert extended.startswith(name[:30])
        assert re.fullmatch(JOB_NAME_PATTERN, extended, re.ASCII)
        assert len(extended) <= LONGEST_DERIVED

    @given(st.one_of(prefixes, st.just("")), st.one_of(prefixes, st.just("")), job_names, instances)
    @example("d-d", "d", "weekly", TaskLineage("d-d-" * 60, "t" * 250, SCHEDULED, -1, 1))
    @example("prod", "prod-", "weekly", lineage("shop", "make", SCHEDULED, -1))
    def test_keep_two_airflows_apart(self, one, other, name, instance):
        assume(one != other)
        assert derive_job_name(instance, one) != derive_job_name(instance, other)
        assert extend_job_name(name, instance, one) != extend_job_name(name, instance, other)

    def test_say_where_the_job_comes_from(self):
        begins = "prod-shop-create_segments-20261123T020000-"
        for prefix in ("prod", "prod-"):
            name = derive_job_name(lineage("shop", "create_segments", SCHEDULED, -1), prefix)
            assert re.fullmatch(f"{begins}[a-z2-7]{{12}}", name)


class TestExtended:
    @given(job_names, instances)
    def test_begins_with_the_users_name_and_leaves_room_for_numbers(self, name, instance):
        extended = extend_job_name(name, instance)
        assert re.fullmatch(JOB_NAME_PATTERN, extended, re.ASCII)
        assert len(extended) <= LONGEST_DERIVED
        assert extended.startswith(f"{name[:47]}-")

    @given(job_names, job_names, instances, instances)
    def test_is_no_other_lineages(self, name, other_name, one, other):
        assume((name, one) != (other_name, other))
        assert extend_job_name(name, one) != extend_job_name(other_name, other)


class TestNumbered:
    @given(job_names)
    def test_first_is_the_name_itself(self, name):
        assert number_job_name(name, 1) == name

    @pytest.mark.parametrize(
        ("name", "number", "numbered"),
        [
            ("weekly", 2, "weekly-2"),
            ("weekly", MAX_NUMBER, "weekly-99"),
            ("w" * 61, 2, "w" * 61 + "-2"),
            ("w" * 60, MAX_NUMBER, "w" * 60 + "-99"),
            ("w" * 63, 1, "w" * 63),
        ],
    )
    def test_others_have_their_number_behind_it(self, name, number, numbered):
        assert number_job_name(name, number) == numbered

    def test_is_shortened_where_there_is_no_room(self):
        assert re.fullmatch("w{48}-[a-z2-7]{12}-2", number_job_name("w" * 62, 2))
        assert re.fullmatch("w{47}-[a-z2-7]{12}-10", number_job_name("w" * 61, 10))

    @given(job_names, numbers)
    def test_can_always_be_a_job_name(self, name, number):
        numbered = number_job_name(name, number)
        assert re.fullmatch(JOB_NAME_PATTERN, numbered, re.ASCII)
        assert len(numbered) <= MAX_JOB_NAME_LENGTH

    @given(job_names, job_names, numbers, numbers)
    @example("w" * 62 + "a", "w" * 62 + "b", 2, 2)
    @example("w" * 61 + "a", "w" * 61 + "b", 10, 10)
    @example("w" * 63, "w" * 62, 2, 2)
    @example("weekly", "weekly", 1, 11)
    def test_is_one_for_each_name_and_number(self, one, other, number, other_number):
        assume((one, number) != (other, other_number))
        # Whoever names a job weekly-2 has taken the number of weekly; only names without one are apart.
        assume(not re.search(r"-\d+$", one) and not re.search(r"-\d+$", other))
        assert number_job_name(one, number) != number_job_name(other, other_number)


def test_the_next_release_finds_the_jobs_of_the_last():
    """Names that were made once; docs/upgrading.md promises that they stay."""
    lineage = TaskLineage("weekly_segments", "create_segments", "scheduled__2026-11-23T00:00:00+00:00", -1, 2)
    assert derive_job_name(lineage) == "weekly_segments-create_segments-20261123T000000-3g5grkfdflwt"
    assert extend_job_name("weekly", lineage) == "weekly-4c6qogqyayvu"
    mapped = TaskLineage("shop", "make", "manual__2026-11-23T00:00:00+00:00", 3, 0)
    assert number_job_name(derive_job_name(mapped), 2) == "shop-make-20261123T000000-3-7iee3haj3jgv-2"
