"""When loads are due: cron, schedules learnt from arrivals, clock changes, and which arrival belongs to which due time."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from detectors import schedule
from detectors.arrivals import match
from detectors.clock import local
from detectors.schedule import Dues, EveryDays, Interval, Monthly, Weekly
from detectors.schedule_learning import learn
from tests.feeds import BERLIN, DAILY, HOURLY, WORKDAYS, at, feed, jitter, weekly


def due(keeps: Any, start: str, end: str, zone: str = BERLIN, holidays: frozenset[int] = frozenset()) -> list[str]:
    """Local times with their offset, `+slack` where they may be meant later."""
    found = schedule.dues(keeps, at(start, zone), at(end, zone), zone, holidays)
    texts = [datetime.fromtimestamp(int(second), ZoneInfo(zone)).strftime("%m-%d %H:%M%z") for second in found.at]
    return [f"{text} +{slack // 60}" if slack else text for text, slack in zip(texts, found.slack.tolist(), strict=True)]


# Cron


@pytest.mark.parametrize(("cron", "expected"), [
    ("30 2 * * *", ["03-05 02:30+0000", "03-06 02:30+0000", "03-07 02:30+0000"]),
    ("0 30 2 * * *", ["03-05 02:30+0000", "03-06 02:30+0000", "03-07 02:30+0000"]),  # six fields begin with seconds
    ("0 6 * * 1-5", ["03-05 06:00+0000", "03-06 06:00+0000"]),
    ("0 6,18 * * SAT", ["03-07 06:00+0000", "03-07 18:00+0000"]),
    ("0 6 6 * 6", ["03-06 06:00+0000", "03-07 06:00+0000"]),  # day and weekday: either is enough
    ("0 6 * 4 *", []),
])
def test_cron_expressions_are_due_as_in_every_cron(cron: str, expected: list[str]) -> None:
    assert due(schedule.parse(cron), "2026-03-05", "2026-03-08", "UTC") == expected


@pytest.mark.parametrize(("cron", "expected"), [
    ("0 6 L * *", ["01-31 06:00+0000", "02-28 06:00+0000"]),
    ("0 6 * * 1#1", ["01-05 06:00+0000", "02-02 06:00+0000"]),
    ("0 6 * * L5", ["01-30 06:00+0000", "02-27 06:00+0000"]),
    ("@monthly", ["01-01 00:00+0000", "02-01 00:00+0000", "03-01 00:00+0000"]),
])
def test_cron_counts_days_of_a_month_from_both_ends(cron: str, expected: list[str]) -> None:
    assert due(schedule.parse(cron), "2026-01-01", "2026-03-02", "UTC") == expected


@pytest.mark.parametrize("text", ["", "daily", "61 * * * *", "* * *", "0 2 31 2 *", "R * * * *", "0 2 * * 1-5; rm"])
def test_what_is_no_cron_expression_or_never_due_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no cron expression|is never due"):
        schedule.parse(text)


# Clock changes


def test_a_due_time_in_the_hour_that_never_was_has_an_hour_of_slack() -> None:
    assert due(DAILY, "2026-03-28", "2026-03-31") == ["03-28 02:30+0100", "03-29 01:30+0100 +60", "03-30 02:30+0200"]


def test_a_due_time_in_the_hour_that_comes_twice_has_an_hour_of_slack() -> None:
    assert due(DAILY, "2026-10-24", "2026-10-27") == ["10-24 02:30+0200", "10-25 02:30+0200 +60", "10-26 02:30+0100"]


def test_hourly_loads_are_due_every_real_hour_of_both_changes() -> None:
    for start in ("2026-03-28", "2026-10-24"):
        second = at(start)
        found = schedule.dues(HOURLY, second, second + 3 * 86_400, BERLIN)

        assert set(np.diff(found.at)) == {3600} and not found.slack.any()


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Africa/Casablanca"])
def test_wall_time_is_what_the_zone_database_says(zone: str) -> None:
    seconds = np.random.default_rng(0).integers(at("2001-01-01"), at("2037-01-01"), 500)

    shifts = [datetime.fromtimestamp(int(s), ZoneInfo(zone)).utcoffset() for s in seconds]
    assert (local(seconds, zone) - seconds).tolist() == [shift.total_seconds() for shift in shifts if shift is not None]


# Months


@pytest.mark.parametrize(("keeps", "expected"), [
    (Monthly("working_day", 1, 300), ["01-02", "02-02", "03-02", "04-01", "05-04"]),
    (Monthly("last_working_day", 1, 300), ["01-30", "02-27", "03-31", "04-30", "05-29"]),
    (Monthly("day", 31, 300), ["01-31", "02-28", "03-31", "04-30", "05-31"]),
    (Monthly("last_day", 2, 300), ["01-30", "02-27", "03-30", "04-29", "05-30"]),
])
def test_monthly_loads_count_working_days_without_holidays(keeps: Monthly, expected: list[str]) -> None:
    holidays = frozenset(at(day, "UTC") // 86_400 for day in ("2026-01-01", "2026-05-01"))

    assert [text[:5] for text in due(keeps, "2026-01-01", "2026-06-01", holidays=holidays)] == expected


@pytest.mark.parametrize("keeps", [
    schedule.parse("30 2 * * 1-5"), WORKDAYS, Monthly("last_day", 1, 90), EveryDays(14, 3, 60), Interval(47.5),
])
def test_a_schedule_survives_being_kept_in_a_card(keeps: Any) -> None:
    assert schedule.from_json(schedule.to_json(keeps)) == keeps and keeps.describe()


# Learning

LEARNT = {
    "daily": (DAILY, "2026-01-05", "2026-03-20", "daily 02:30"),
    "five working days": (WORKDAYS, "2026-01-05", "2026-01-10", "Mon-Fri 06:30"),
    "without weekends": (WORKDAYS, "2026-01-05", "2026-03-20", "Mon-Fri 06:30"),
    "late on Saturdays": (Weekly((*WORKDAYS.times, (5, 600))), "2026-01-05", "2026-03-20", "Mon-Fri 06:30; Sat 10:00"),
    "around midnight": (weekly(range(7), "00:00"), "2026-01-05", "2026-03-20", "daily 00:00"),
    "five weeks": (weekly([0], "06:30"), "2026-01-05", "2026-02-08", "Mon 06:30"),
    "three days a week": (weekly([0, 2, 4], "06:30"), "2026-01-05", "2026-02-08", "Mon, Wed, Fri 06:30"),
    "twice a day": (weekly(range(7), "02:00", "14:00"), "2026-01-05", "2026-02-08", "daily 02:00, 14:00"),
    "an hour apart": (weekly(range(7), "02:00", "03:00"), "2026-01-05", "2026-02-08", "daily 02:00, 03:00"),
    "hourly": (HOURLY, "2026-01-05T09:30", "2026-01-13T15:00", "daily every 60 minutes from 00:05 to 23:05"),
    "every 14 days": (EveryDays(14, 3, 300), "2026-01-05", "2026-06-05", "every 14 days 05:00"),
    "month's end": (Monthly("last_working_day", 1, 300), "2026-01-01", "2026-10-01", "last working day of the month 05:00"),
    "first working day": (Monthly("working_day", 1, 300), "2026-01-01", "2026-10-01", "1st working day of the month 05:00"),
    "the 15th": (Monthly("day", 15, 300), "2026-01-01", "2026-10-01", "15th day of the month 05:00"),
}


@pytest.mark.parametrize("name", LEARNT)
def test_a_schedule_is_learnt_from_arrivals_alone(name: str) -> None:
    keeps, start, end, expected = LEARNT[name]
    # Lags that sum to nothing, so that the learnt minute is the due minute.
    steady = feed(keeps, start, end, lambda rng, n: np.resize([-1.0, 1.0, 0.0], n))

    known = learn(steady, BERLIN)

    assert known is not None and known.describe() == expected


def test_a_schedule_keeps_its_hour_over_a_clock_change() -> None:
    known = learn(feed(DAILY, "2026-02-20", "2026-05-01", jitter(1)), BERLIN)

    assert known is not None and known.describe().startswith("daily 02:")


def test_a_load_in_several_files_is_one_load() -> None:
    first = feed(DAILY, "2026-01-05", "2026-02-10", jitter(1))

    known = learn(np.sort(np.concatenate([first, first + 60, first + 150])), BERLIN)

    assert known is not None and known.describe().startswith("daily 02:") and "," not in known.describe()


def test_missing_loads_do_not_unmake_a_weekday() -> None:
    whole = feed(DAILY, "2026-01-05", "2026-03-20")

    known = learn(whole[np.random.default_rng(1).uniform(size=len(whole)) > 0.15], BERLIN)

    assert known is not None and known.describe().startswith("daily")


def test_holidays_without_loads_do_not_unmake_a_weekday() -> None:
    mondays = frozenset(range(at("2026-01-19", "UTC") // 86_400, at("2026-03-20", "UTC") // 86_400, 7))
    loads = feed(WORKDAYS, "2026-01-05", "2026-03-20")
    loads = loads[~np.isin(local(loads, BERLIN) // 86_400, list(mondays))]

    with_holidays, without = learn(loads, BERLIN, mondays), learn(loads, BERLIN)

    assert with_holidays is not None and with_holidays.describe().startswith("Mon-Fri")
    assert without is not None and without.describe().startswith("Tue-Fri")


def test_loads_without_a_clock_are_told_by_their_interval() -> None:
    rng = np.random.default_rng(0)
    random = np.sort(rng.integers(at("2026-01-01"), at("2026-02-01"), 150))
    every_47 = at("2026-01-01") + np.arange(900) * 47 * 60 + rng.integers(0, 60, 900)

    assert isinstance(learn(random, BERLIN), Interval)
    assert learn(every_47, BERLIN).describe() == "47 minutes after the load before"  # type: ignore[union-attr]


def test_too_few_arrivals_show_no_schedule() -> None:
    daily, hourly = feed(DAILY, "2026-01-05", "2026-02-01"), feed(HOURLY, "2026-01-05T09:30", "2026-01-06T20:00")

    assert learn(daily[:4], BERLIN) is None and learn(daily[:5], BERLIN) is not None
    assert learn(hourly, BERLIN) is None and learn(daily[:0], BERLIN) is None


# Matching

DUE = Dues(np.arange(5) * 86_400 + 1_000_000, np.zeros(5, np.int64))


def lags(*arrivals: float, dues: Dues = DUE) -> list[float | None]:
    """Arrivals in minutes after the first due time."""
    found = match(dues, np.array([1_000_000 + 60 * minute for minute in arrivals], np.int64))
    return [None if np.isnan(lag) else lag for lag in found.lag]


def test_every_load_belongs_to_its_day() -> None:
    assert lags(5, 1445, 2870, 4330, 5765) == [5, 5, -10, 10, 5]


def test_a_load_that_never_came_leaves_a_gap() -> None:
    assert lags(5, 2885, 4325, 5765) == [5, None, 5, 5, 5]


def test_a_rerun_is_not_the_next_load() -> None:
    assert lags(5, 300, 1445, 2885, 4325, 5765) == [5, 5, 5, 5, 5]


def test_a_load_twenty_hours_late_is_late_and_not_early() -> None:
    assert lags(5, 1440 + 1200, 2885, 4325, 5765) == [5, 1200, 5, 5, 5]


def test_a_load_some_hours_early_is_early() -> None:
    assert lags(5, 1200, 2885, 4325, 5765) == [5, -240, 5, 5, 5]


def test_a_feed_that_always_comes_long_after_due_is_matched_as_well() -> None:
    assert lags(*(1000 + 1440 * day for day in range(4))) == [1000, 1000, 1000, 1000, None]


def test_within_the_slack_of_a_clock_change_the_usual_reading_counts() -> None:
    changing = DUE._replace(slack=np.array([0, 0, 3600, 0, 0]))

    assert lags(5, 1445, 2945, 4325, 5765, dues=changing) == [5, 5, 5, 5, 5]
    assert lags(5, 1445, 2885, 4325, 5765, dues=changing) == [5, 5, 5, 5, 5]
    assert lags(5, 1445, 3000, 4325, 5765, dues=changing) == [5, 5, 60, 5, 5]
