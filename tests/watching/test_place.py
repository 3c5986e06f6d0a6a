"""A watcher's place: which jobs are told of, which never, and that it survives its JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_endpoint import SOLUTION_VERSION_ARN, job_arn

from airflow_provider_personalize_segments.jobs import BatchJobKind, JobState
from airflow_provider_personalize_segments.watching import place as places
from airflow_provider_personalize_segments.watching.listing import OVERLAP, Job, Look
from airflow_provider_personalize_segments.watching.place import Place, Settling

NOW = 1_790_000_000.0
HOUR = 3600.0
BOTH = (JobState.ACTIVE, JobState.FAILED)


def job(name, status="ACTIVE", *, created=NOW - HOUR, changed=NOW, version=SOLUTION_VERSION_ARN):
    return Job(job_arn(name), name, status, created, changed, version, None)


def look(*jobs, is_complete=True):
    return Look({each.arn: each for each in jobs}, is_complete)


def step(place, *jobs, states=BOTH, version=None, now=NOW):
    found = place.after(look(*jobs), states, version, now)
    return [each.name for each in found.ended], found.place


class TestFirstLook:
    def test_tells_of_what_ended_since_it_began_and_not_of_the_history(self):
        told, _ = step(
            Place(NOW - HOUR),
            job("old", created=NOW - 9 * HOUR, changed=NOW - 2 * HOUR),
            job("just", created=NOW - 9 * HOUR, changed=NOW - HOUR),
            job("now", changed=NOW),
        )
        assert told == ["just", "now"]

    def test_jobs_that_are_under_way_are_told_of_when_they_end_however_old_they_are(self):
        told, place = step(Place(NOW), job("slow", "CREATE PENDING", created=NOW - 99 * HOUR))
        assert told == []
        told, place = step(place, job("slow", created=NOW - 99 * HOUR))
        assert told == ["slow"]
        assert step(place, job("slow", created=NOW - 99 * HOUR))[0] == []

    def test_a_job_without_times_is_told_of_once(self):
        told, place = step(Place(NOW), job("undated", created=None, changed=None))
        assert told == ["undated"]
        assert step(place, job("undated", created=None, changed=None))[0] == []

    def test_without_jobs_the_next_ones_are_new(self):
        _, place = step(Place(NOW - HOUR))
        assert step(place, job("first", created=NOW - HOUR))[0] == ["first"]


class TestLaterLooks:
    @pytest.fixture
    def place(self):
        return step(Place(NOW), job("known", created=NOW))[1]

    def test_a_job_that_came_and_ended_unseen_is_told_of(self, place):
        assert step(place, job("known", created=NOW), job("quick", created=NOW + 1))[0] == ["quick"]

    def test_a_job_that_the_listing_showed_late_is_told_of(self, place):
        assert step(place, job("late", created=NOW - OVERLAP + 1))[0] == ["late"]

    def test_an_older_job_is_history(self, place):
        assert step(place, job("older", created=NOW - OVERLAP - 1))[0] == []

    def test_a_job_from_the_future_makes_no_other_seem_old(self, place):
        _, place = step(place, job("future", created=NOW + 10_000 * HOUR))
        assert step(place, job("after", created=NOW + 60), now=NOW + 60)[0] == ["after"]

    def test_a_status_that_nobody_knows_is_no_end(self, place):
        told, place = step(place, job("odd", "CREATE RESTING", created=NOW + 1))
        assert told == []
        assert step(place, job("odd", "ACTIVE", created=NOW + 1))[0] == ["odd"]


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (BOTH, ["bad", "good", "stopped"]),
        ((JobState.ACTIVE,), ["good"]),
        ((JobState.FAILED,), ["bad", "stopped"]),
    ],
)
def test_tells_of_the_endings_that_are_asked_for(states, expected):
    jobs = [
        job("good", "ACTIVE", changed=NOW + 2),
        job("bad", "CREATE FAILED", changed=NOW + 1),
        job("stopped", "CREATE STOPPED", changed=NOW + 3),
        job("waits", "CREATE PENDING"),
    ]
    told, place = step(Place(NOW), *jobs, states=states)
    assert told == expected
    assert step(place, *jobs, states=states)[0] == []


def test_a_job_from_the_end_of_the_calendar_is_told_of_without_its_time():
    odd = job("odd", created=datetime.max.replace(tzinfo=UTC).timestamp(), changed=-1e15)
    told = odd.dump(BatchJobKind.SEGMENT)
    assert told["jobName"] == "odd"
    assert told.keys().isdisjoint({"creationDateTime", "lastUpdatedDateTime"})


def test_other_solution_versions_do_not_count():
    other = SOLUTION_VERSION_ARN.replace("shop", "other")
    jobs = [job("ours"), job("theirs", version=other), job("nobodys", version=None)]
    told, place = step(Place(NOW), *jobs, version=SOLUTION_VERSION_ARN)
    assert told == ["ours"]
    assert job_arn("theirs") not in place.told


def test_an_event_has_so_many_jobs_and_the_next_ones_have_the_rest():
    jobs = [job(f"job-{number:04}", changed=NOW + number) for number in range(2 * places.MAX_JOBS + 1)]
    place, told, rest = Place(NOW), [], {}
    for expected in (places.MAX_JOBS, places.MAX_JOBS, 1, 0):
        # Later looks need not show them again, unless the watcher begins anew.
        found = place.after(Look(rest, False) if rest else look(*jobs), BOTH, None, NOW)
        assert len(found.ended) == expected
        told += [each.name for each in found.ended]
        place, rest = Place.load(found.place.dump()), found.rest
    assert told == [each.name for each in jobs]


def test_what_is_remembered_does_not_grow_with_the_history():
    place = step(Place(NOW), *[job(f"old-{number}", created=NOW - 99 * HOUR) for number in range(500)])[1]
    for day in range(50):
        now = NOW + day * 24 * HOUR
        jobs = [job(f"{day}-{number}", created=now + number) for number in range(20)]
        jobs += [job(f"{day}-{number}-undated", created=None) for number in range(40)]
        place = step(place, *jobs, now=now)[1]
    assert len(place.told) <= 20 + places.MAX_UNDATED
    assert len(json.dumps(step(Place(NOW), *[job(f"job-{n}") for n in range(300)])[1].dump())) < 65_535


TIMES = st.floats(0, 4_000_000_000)


@given(
    st.builds(
        Place,
        TIMES,
        st.none() | TIMES,
        st.frozensets(st.text()),
        st.dictionaries(st.text(), st.none() | TIMES.map(int).map(float)),
    )
)
def test_survives_its_json(place):
    again = Place.load(json.loads(json.dumps(place.dump())))
    assert again.unfinished == place.unfinished
    assert again.told == place.told
    assert again.since == pytest.approx(place.since, abs=1e-5)
    assert again.known_until == (
        None if place.known_until is None else pytest.approx(place.known_until, abs=1e-5)
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["version", "since", "told"]), inner)
    ),
)


@given(JSON)
def test_what_is_no_place_is_an_error_and_no_other(dumped):
    with pytest.raises(ValueError, match=r"no place of a watcher|another version|Invalid isoformat"):
        Place.load(dumped)


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 3)), min_size=1))
def test_a_place_counts_when_it_is_old_enough_and_then_for_certain(looks):
    settling, now, added, kept = Settling(10.0), 0.0, [], None
    for pause, since in looks:
        now += pause
        place = Place(float(since))
        if not added or added[-1][1] != place:
            added.append((now, place))
        settled = settling.settle(place, now)
        old = [each for moment, each in added if moment <= now - 10.0]
        if settled is not None:
            assert settled == old[-1]
            kept = settled
        # The newest that is old enough is kept, now or before.
        assert kept == (old[-1] if old else None)
    assert (settling.settle(added[-1][1], now + 10.5) or kept) == added[-1][1]
