"""Days that a calendar has a name for, and which of them explains that a table was unlike itself."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.occasions import Explanation, explain, following, matches, words
from shared.contract import Holidays
from shared.contract_feedback import When

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu")
GERMANY = Holidays(country="DE")
MOMENTS = st.datetimes(datetime(1980, 1, 1), datetime(2150, 12, 31), timezones=st.sampled_from([UTC]))


def year(number: int) -> list[datetime]:
    first = datetime(number, 1, 1, 12, tzinfo=UTC)
    return [first + timedelta(n) for n in range(366 if (date(number + 1, 1, 1) - first.date()).days == 366 else 365)]


def days(number: int, holidays: Holidays | None = None, **when: Any) -> list[date]:
    return [at.date() for at in year(number) if matches(When(**when), at, "UTC", holidays)]


def low_on(*when: When, before: datetime, ago: int = 200) -> list[tuple[datetime, bool]]:
    """Every day before a moment, and whether it was low: on these days alone."""
    others = [before - timedelta(n) for n in range(1, ago)]
    return [(at, any(matches(one, at) for one in when)) for at in others]


# The calendar


@settings(deadline=None)
@given(MOMENTS, st.sampled_from(ZONES), st.sampled_from(["hourly", "daily", "weekly", "monthly"]))
def test_a_moment_is_one_of_all_the_days_that_are_offered_for_it(moment: datetime, zone: str, granularity: str) -> None:
    offered = explain(moment, [], granularity, zone, GERMANY)

    assert offered
    assert all(matches(one.when, moment, zone, GERMANY) for one in offered)
    assert len({words(one.when) for one in offered}) == len(offered)


@pytest.mark.parametrize("when", [
    {"day": -1}, {"day": 1}, {"day": 28}, {"day": -28}, {"working_day": 1}, {"working_day": -1}, {"working_day": 20},
    {"weekday": "friday", "nth": 1}, {"weekday": "friday", "nth": 4}, {"weekday": "friday", "nth": -1}], ids=str)
@settings(max_examples=25, deadline=None)
@given(number=st.integers(1980, 2150))
def test_such_a_day_comes_once_in_every_month(when: dict[str, Any], number: int) -> None:
    assert [day.month for day in days(number, **when)] == list(range(1, 13))


@settings(max_examples=25, deadline=None)
@given(st.integers(1980, 2150), st.sampled_from(["monday", "wednesday", "sunday"]))
def test_the_days_of_a_month_counted_from_both_ends_are_the_same_days(number: int, weekday: str) -> None:
    from_start = {day for n in range(1, 6) for day in days(number, weekday=weekday, nth=n)}

    assert from_start == set(days(number, weekday=weekday))
    assert set(days(number, weekday=weekday, nth=-1)) <= from_start
    assert set(days(number, day=-1)) == {day for day in from_start | {at.date() for at in year(number)}
                                         if (day + timedelta(1)).day == 1}


def test_working_days_leave_out_weekends_and_the_tables_holidays():
    own = Holidays(dates=["2026-01-02"])

    assert days(2026, working_day=1)[0] == date(2026, 1, 1)
    assert days(2026, GERMANY, working_day=1)[:5] == [date(2026, 1, 2), date(2026, 2, 2), date(2026, 3, 2), date(2026, 4, 1),
                                                      date(2026, 5, 4)]
    assert days(2026, own, working_day=2)[0] == date(2026, 1, 5)
    assert days(2026, GERMANY, working_day=-1)[-1] == date(2026, 12, 30)  # New Year's Eve is a day people are away


def test_holidays_are_those_of_the_table_and_without_a_calendar_there_are_none():
    assert date(2026, 10, 3) in days(2026, GERMANY, holiday=True)
    assert days(2026, holiday=True) == []


def test_an_hour_and_a_day_are_those_of_the_tables_own_clocks():
    late = datetime(2026, 9, 30, 23, 30, tzinfo=UTC)

    assert matches(When(day=-1, hour=23), late)
    assert matches(When(day=1, hour=1), late, "Europe/Berlin")
    assert not matches(When(day=-1), late, "Europe/Berlin")


@given(MOMENTS, st.sampled_from(ZONES))
def test_every_condition_must_hold(moment: datetime, zone: str) -> None:
    local = moment.astimezone(ZoneInfo(zone))
    same = {"day": local.day, "month": local.month, "hour": local.hour}

    assert matches(When(**same), moment, zone)
    for name, value in {"day": local.day % 28 + 1, "month": local.month % 12 + 1, "hour": (local.hour + 1) % 24}.items():
        assert matches(When.model_validate({**same, name: value}), moment, zone) == (same[name] == value)


@pytest.mark.parametrize(("when", "told"), [
    ({"weekday": "monday"}, "every Monday"),
    ({"weekday": "monday", "nth": 1}, "every first Monday of the month"),
    ({"weekday": "friday", "nth": -1, "hour": 3}, "every last Friday of the month at 03:00"),
    ({"day": -1}, "every last day of the month"),
    ({"day": 15}, "every 15th day of the month"),
    ({"day": 22}, "every 22nd day of the month"),
    ({"working_day": -2}, "every second last working day of the month"),
    ({"day": 24, "month": 12}, "every 24 December"),
    ({"month": 12}, "every day in December"),
    ({"holiday": True}, "every public holiday"),
    ({"hour": 3}, "every day at 03:00"),
    ({"weekday": "friday", "day": 13}, "every Friday that is the 13th day of the month"),
], ids=str)
def test_days_are_told_in_words(when: dict[str, Any], told: str) -> None:
    assert words(When(**when)) == told


@pytest.mark.parametrize(("when", "day"), [
    ({"day": -1}, "2026-10-31"), ({"weekday": "monday", "nth": 1}, "2026-10-05"), ({"weekday": "wednesday"}, "2026-10-07"),
    ({"day": 29, "month": 2}, "2028-02-29"), ({"holiday": True}, "2026-10-03"), ({"day": 30, "hour": 2}, "2026-10-30"),
    ({"day": 31, "month": 4}, None)], ids=str)
def test_the_next_of_these_days_is_known(when: dict[str, Any], day: str | None) -> None:
    moment = datetime(2026, 9, 30, 4, tzinfo=UTC)

    assert following(When(**when), moment, "UTC", GERMANY) == (day and date.fromisoformat(day))


# The explanation


@pytest.mark.parametrize(("moment", "cause", "told"), [
    ("2026-09-30", {"day": -1}, "every last day of the month: 6 of the 6 others were like it"),
    ("2026-10-05", {"weekday": "monday", "nth": 1}, "every first Monday of the month: 6 of the 6 others were like it"),
    ("2026-10-13", {"weekday": "tuesday", "nth": 2}, "every second Tuesday of the month: 6 of the 6 others were like it"),
    ("2026-10-15", {"day": 15}, "every 15th day of the month: 6 of the 6 others were like it"),
    ("2026-10-30", {"working_day": -1}, "every last working day of the month: 6 of the 6 others were like it"),
    ("2026-10-14", {"weekday": "wednesday"}, "every Wednesday: 28 of the 28 others were like it"),
], ids=lambda text: str(text)[:12])
def test_the_days_that_were_like_it_before_explain_it(moment: str, cause: dict[str, Any], told: str) -> None:
    at = datetime.fromisoformat(moment).replace(hour=2, tzinfo=UTC)

    best = explain(at, low_on(When(**cause), before=at), "daily")[0]

    assert best.holds and best.when == When(**cause)
    assert best.told() == told


def test_where_nothing_is_known_a_remarkable_day_is_enough_and_any_other_is_not():
    month_end, tuesday = datetime(2026, 9, 30, tzinfo=UTC), datetime(2026, 10, 13, tzinfo=UTC)

    assert explain(month_end, [], "daily")[0].when == When(day=-1)
    assert not any(one.holds for one in explain(tuesday, [], "daily"))


def test_ordinary_days_speak_against_a_pattern():
    at = datetime(2026, 9, 30, tzinfo=UTC)

    offered = explain(at, low_on(before=at), "daily")

    assert not any(one.holds for one in offered)


def test_one_other_day_is_no_evidence_where_many_days_are_low_anyway():
    at = datetime(2026, 10, 13, tzinfo=UTC)
    noisy = [(at - timedelta(n), n % 3 == 0 or n == 28) for n in range(1, 60)]

    assert not any(one.holds for one in explain(at, noisy, "daily"))


def test_a_public_holiday_explains_more_than_the_weekday_that_it_falls_on():
    at = datetime(2026, 5, 25, 6, tzinfo=UTC)  # Whit Monday
    others = [(at - timedelta(n), matches(When(holiday=True), at - timedelta(n), "UTC", GERMANY)) for n in range(1, 300)]

    assert explain(at, others, "daily", "UTC", GERMANY)[0].when == When(holiday=True)


def test_of_hours_it_may_be_the_hour_of_the_day_or_of_the_week():
    at = datetime(2026, 10, 12, 3, tzinfo=UTC)  # a Monday
    hours = [at - timedelta(hours=n) for n in range(1, 24 * 60)]

    nightly = explain(at, [(one, one.hour == 3) for one in hours], "hourly")[0]
    weekly = explain(at, [(one, one.hour == 3 and one.weekday() == 0) for one in hours], "hourly")[0]

    assert nightly.when == When(hour=3)
    assert weekly.when == When(weekday="monday", hour=3)


@given(st.integers(0, 30), st.integers(0, 30), st.floats(0.001, 0.9))
def test_more_days_like_it_never_make_an_explanation_weaker(alike: int, unlike: int, base: float) -> None:
    fewer, more = (Explanation(When(day=1), n, unlike, base, False) for n in (alike, alike + 1))

    assert more.rate > fewer.rate
    assert more.holds or not fewer.holds


def test_an_hour_that_was_low_on_hundreds_of_days_is_explained_by_its_hour() -> None:
    moment = datetime(2026, 9, 14, 3, tzinfo=UTC)
    others = [(moment - timedelta(hours=n), n % 24 == 0) for n in range(1, 24 * 400)]

    best = explain(moment, others, "hourly")[0]

    assert best.holds and words(best.when) == "every day at 03:00" and best.alike == 399
