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
from airflow_provider_personalize_segments.watching.place import Place, Settling, SignOfLife, join_places

NOW = 1_790_000_000.0
HOUR = 3600.0
BOTH = (JobState.ACTIVE, JobState.FAILED)


def job(name, status="ACTIVE", *, created=NOW - HOUR, changed=NOW, version=SOLUTION_VERSION_ARN):
    return Job(job_arn(name), name, status, created, changed, version, None)


def look(*jobs, is_complete=True):
    return Look({each.arn: each for each in jobs}, is_complete)


def step(place, *jobs, states=BOTH, version=None, now=NOW, **members):
    found = place.after(look(*jobs)._replace(**members), states, version, now, HOUR)
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

    def test_without_jobs_the_first_is_told_of_however_late_it_comes(self):
        _, place = step(Place(NOW - HOUR))
        first = job("first", created=NOW + HOUR, changed=NOW + 2 * HOUR)
        assert step(place, first, now=NOW + 99 * HOUR)[0] == ["first"]

    def test_without_jobs_one_that_the_listing_shows_late_is_told_of(self):
        _, place = step(Place(NOW - HOUR))
        late = job("late", created=NOW - OVERLAP + 1, changed=NOW - OVERLAP + 2)
        assert step(place, late, now=NOW + 60)[0] == ["late"]


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
        found = place.after(Look(rest, False) if rest else look(*jobs), BOTH, None, NOW, HOUR)
        assert len(found.ended) == expected
        told += [each.name for each in found.ended]
        place, rest = Place.load(found.place.dump()), found.rest
    assert told == [each.name for each in jobs]


def test_an_event_is_bounded_in_bytes_too():
    """Reasons of 1,000 characters, of which JSON makes 12 bytes each."""
    jobs = [
        job(f"job-{number:03}", "CREATE FAILED", changed=NOW + number)._replace(
            failure_reason="\U0001f600" * 9000
        )
        for number in range(200)
    ]
    place, told, rest = Place(NOW), [], {}
    while len(told) < len(jobs):
        found = place.after(Look(rest, False) if rest else look(*jobs), BOTH, None, NOW, HOUR)
        payload = json.dumps([each.dump(BatchJobKind.INFERENCE) for each in found.ended])
        assert len(payload) <= places.MAX_BYTES
        assert len(payload) > 100_000 or not found.rest
        told += [each.name for each in found.ended]
        place, rest = found.place, found.rest
    assert told == [each.name for each in jobs]


def test_a_job_that_is_larger_than_an_event_travels_alone():
    odd = {"x" * 9000: "y" * 9000}
    jobs = [job(f"job-{number}")._replace(name=[odd] * 20) for number in range(2)]
    found = Place(NOW).after(look(*jobs), BOTH, None, NOW, HOUR)
    assert (len(found.ended), len(found.rest)) == (1, 1)


@given(
    st.builds(
        Job,
        st.just(job_arn("x")),
        st.text() | st.none(),
        st.text(),
        st.none() | st.floats(-1e17, 1e17),
        st.none() | st.floats(0, 4e9),
        st.none() | st.text(),
        st.none() | st.text(),
    )
)
def test_a_job_is_no_larger_than_is_counted(job):
    assert len(json.dumps(job.dump(BatchJobKind.INFERENCE))) <= job.size


class TestOtherAccounts:
    """The connection is edited, and leads to another account, or another region."""

    @staticmethod
    def elsewhere(name, *args, to="us-east-1:210987654321", **options):
        here = job(name, *args, **options)
        return here._replace(arn=here.arn.replace("us-east-1:123456789012", to))

    @pytest.mark.parametrize("to", ["us-east-1:210987654321", "eu-west-1:123456789012"])
    def test_are_begun_with_look_back(self, to):
        place = step(Place(NOW - HOUR), job("ours"), job("ours-slow", "CREATE PENDING"))[1]
        history = [
            self.elsewhere(f"old-{n}", created=NOW - HOUR, changed=NOW - HOUR - 1 + n, to=to)
            for n in range(3)
        ]
        slow = self.elsewhere("slow", "CREATE PENDING", created=NOW - 9 * HOUR, to=to)
        told, place = step(place, *history, slow)
        assert told == ["old-1", "old-2"]
        assert place.owners == {to}
        assert job_arn("ours-slow") not in place.unfinished
        told, place = step(place, *history, slow._replace(status="ACTIVE"))
        assert told == ["slow"]
        assert step(place, self.elsewhere("new", created=NOW + 1, to=to))[0] == ["new"]

    def test_and_back_again_too(self):
        place = step(Place(NOW), job("ours", created=NOW))[1]
        place = step(place, self.elsewhere("theirs"), now=NOW + 9 * HOUR)[1]
        now = NOW + 10 * HOUR
        between = job("between", created=now - 2 * HOUR, changed=now - 1.5 * HOUR)
        just = job("just", created=now - 2 * HOUR, changed=now - 0.5 * HOUR)
        assert step(place, job("ours", created=NOW), between, just, now=now)[0] == ["just"]

    def test_are_known_to_a_place_of_an_earlier_release(self):
        dumped = step(Place(NOW), job("ours"))[1].dump()
        del dumped["owners"]
        told, _ = step(Place.load(dumped), self.elsewhere("old", created=NOW - HOUR, changed=NOW - 2 * HOUR))
        assert told == []

    @pytest.mark.parametrize("days", [0, 30])
    def test_are_begun_with_hours_when_ours_had_no_jobs(self, days):
        """So many days after the first look the connection leads to an account with a history."""
        place = Place(NOW - HOUR)
        for day in range(days + 1):
            told, place = step(place, now=NOW + day * 24 * HOUR)
            assert (told, place.owners) == ([], frozenset())
        now = NOW + days * 24 * HOUR + HOUR
        history = [
            self.elsewhere(f"old-{n}", created=now - n * 24 * HOUR, changed=now - (n * 24 - 1) * HOUR)
            for n in range(1, 60)
        ]
        slow = self.elsewhere("slow", created=now - 99 * HOUR, changed=now - HOUR / 2)
        told, place = step(place, *history, slow, now=now)
        assert told == ["slow"]
        assert step(place, self.elsewhere("new", created=now, changed=now + 9), now=now + 9)[0] == ["new"]

    def test_without_jobs_keep_no_place_from_going_on_where_it_was(self):
        place = step(Place(NOW), job("ours", created=NOW))[1]
        place = step(place, now=NOW + 9 * HOUR)[1]
        later = job("later", created=NOW + HOUR, changed=NOW + 2 * HOUR)
        assert step(place, job("ours", created=NOW), later, now=NOW + 10 * HOUR)[0] == ["later"]

    def test_that_are_listed_beside_ours_are_no_move(self):
        odd = self.elsewhere("odd", created=NOW - 99 * HOUR, changed=NOW - 99 * HOUR)
        place = step(Place(NOW), job("ours", created=NOW), odd)[1]
        for number in range(3):
            new = job(f"new-{number}", created=NOW - 2 * HOUR, changed=NOW - 2 * HOUR)
            told, place = step(place, new, *([odd] if number % 2 else []))
            assert told == [new.name]


class TestClocks:
    DAY = 24 * HOUR

    def test_a_clock_ahead_at_the_first_start_hides_nothing(self):
        """The region is empty; the clock is set right later, or never."""
        for now in (NOW + 60, NOW + 60 + self.DAY):
            place = step(Place(NOW + self.DAY - HOUR), now=NOW + self.DAY, date=NOW)[1]
            assert place.known_until == NOW
            told, _ = step(place, job("first", created=NOW + 30, changed=NOW + 50), now=now, date=NOW + 60)
            assert told == ["first"]

    def test_a_place_from_the_future_is_mended(self):
        place = Place(NOW, NOW + self.DAY)
        place = step(place, now=NOW + self.DAY, date=NOW)[1]
        assert place.known_until == NOW
        assert step(place, job("first", created=NOW + 30))[0] == ["first"]

    def test_the_first_look_tells_of_look_back_by_the_clock_of_aws(self):
        told, _ = step(
            Place(NOW + self.DAY - HOUR),
            job("old", created=NOW - 9 * HOUR, changed=NOW - 2 * HOUR),
            job("just", created=NOW - 9 * HOUR, changed=NOW - HOUR / 2),
            now=NOW + self.DAY,
            date=NOW,
        )
        assert told == ["just"]

    def test_a_proxy_with_a_clock_of_its_own_makes_no_history_new(self):
        jobs = [job(f"old-{number}", created=NOW - number * HOUR) for number in range(20)]
        place = step(Place(NOW + 1), *jobs)[1]
        told, place = step(place, *jobs, date=0.0)
        assert (told, place.known_until) == ([], NOW)


class TestJoined:
    @staticmethod
    def step(places, *jobs, now=NOW):
        joined = join_places(places, lambda place: place.after(look(*jobs), BOTH, None, now, HOUR))
        return step(joined, *jobs, now=now)

    def test_tell_of_what_is_new_to_either(self):
        behind = step(Place(NOW), job("slow", "CREATE PENDING"), job("known", created=NOW))[1]
        ahead = step(behind, job("slow"), job("quick", created=NOW + 60))[1]
        jobs = job("slow"), job("known", created=NOW), job("quick", created=NOW + 60)
        assert step(ahead, *jobs)[0] == []
        for both in ((behind, ahead), (ahead, behind)):
            assert sorted(self.step(both, *jobs)[0]) == ["quick", "slow"]

    def test_of_two_that_are_as_old_each_has_its_say(self):
        waiting = [job("a", "CREATE PENDING", created=NOW), job("b", "CREATE PENDING", created=NOW)]
        before = step(Place(NOW), *waiting)[1]
        done = job("a", created=NOW), job("b", created=NOW)
        one, other = (step(before, each)[1] for each in done)
        assert sorted(self.step([one, other], *done)[0]) == ["a", "b"]

    def test_tell_of_nothing_again_that_both_have_told(self):
        jobs = [job(f"job-{number}", created=NOW + number * HOUR) for number in range(9)]
        behind = step(Place(NOW), *jobs[:2])[1]
        ahead = step(behind, *jobs)[1]
        told, place = self.step([behind, ahead], *jobs)
        assert told == [each.name for each in jobs[2:]]
        assert step(place, *jobs)[0] == []

    @pytest.mark.parametrize("age", [0.5, 30.0])
    def test_with_a_new_one_tell_of_its_look_back_and_of_what_the_other_has_yet_to_tell(self, age):
        """The newest job is so many hours old."""
        newest = job("newest", created=NOW - age * HOUR, changed=NOW - age * HOUR + 60)
        told = job("told", created=NOW - 90 * HOUR, changed=NOW - 60)
        past = job("past", created=NOW - 90 * HOUR, changed=NOW - 89 * HOUR)
        slow = job("slow", "CREATE PENDING", created=NOW - 99 * HOUR)
        other = step(Place(NOW - 100 * HOUR), newest, told, past, slow)[1]
        slow = slow._replace(status="ACTIVE", changed=NOW - 2 * HOUR)
        for both in ((Place(NOW - HOUR), other), (other, Place(NOW - HOUR))):
            names, place = self.step(both, newest, told, past, slow)
            assert sorted(names) == sorted(["slow", "told"] + (["newest"] if age < 1 else []))
            assert step(place, newest, told, past, slow)[0] == []

    @given(
        st.lists(
            st.tuples(
                st.none() | st.floats(0, 40),
                st.floats(0, 40),
                st.sampled_from(["ACTIVE", "CREATE FAILED", "CREATE PENDING"]),
                st.sampled_from(["us-east-1:123456789012", "us-east-1:210987654321"]),
            ),
            max_size=8,
        ),
        st.lists(st.lists(st.integers(0, 40), max_size=3, unique=True).map(sorted), min_size=1, max_size=3),
    )
    def test_tell_of_all_that_each_would_and_of_nothing_else(self, history, pasts):
        """Hours at which jobs were created and ended, and at which each place was looked at."""
        jobs = []
        for number, (created, length, status, owner) in enumerate(history):
            at = None if created is None else NOW + created * HOUR
            each = job(f"job-{number}", status, created=at, changed=NOW + ((created or 0.0) + length) * HOUR)
            jobs.append(each._replace(arn=each.arn.replace("us-east-1:123456789012", owner)))
        places = []
        for hours in pasts:
            place = Place(NOW + 40 * HOUR if not hours else NOW)
            for hour in hours:
                now = NOW + hour * HOUR
                seen = [
                    each if each.changed <= now else each._replace(status="CREATE PENDING")
                    for each in jobs
                    if each.created is None or each.created <= now
                ]
                place = step(place, *seen, now=now)[1]
            places.append(place)
        now = NOW + 41 * HOUR
        apart = [step(place, *jobs, now=now) for place in places]
        told, joined = self.step(places, *jobs, now=now)
        assert sorted(told) == sorted({name for names, _ in apart for name in names})
        assert joined.unfinished == frozenset().union(*(place.unfinished for _, place in apart))
        assert step(joined, *jobs, now=now)[0] == []


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
        st.frozensets(st.text()),
    )
)
def test_survives_its_json(place):
    again = Place.load(json.loads(json.dumps(place.dump())))
    assert again.owners == place.owners
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


@given(JSON | st.fixed_dictionaries({"at": JSON | st.just("2026-09-21T10:00Z"), "watchedSeconds": JSON}))
def test_a_sign_of_life_that_cannot_be_read_is_none(dumped):
    found = SignOfLife.load(dumped)
    assert found is None or SignOfLife.load(json.loads(json.dumps(found.dump()))) == found


@given(st.lists(st.tuples(st.floats(-9_000, 90_000), st.booleans()), min_size=1))
def test_only_the_time_in_which_another_watched_makes_a_watcher_s_sign_of_life_old(signs):
    now, own, newest, alone = NOW, None, None, 0.0
    for pause, is_own in signs:
        now += pause
        newest = SignOfLife.after(newest, now, 1_200.0)
        if own is not None and 0 < pause <= 1_200:
            alone += pause
        if is_own:
            own, alone = newest, 0.0
        if own is not None:
            assert newest.watched - own.watched == pytest.approx(alone, abs=1e-3)


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
