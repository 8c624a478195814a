"""Buckets in local time, month positions and holidays."""

import calendar as gregorian
import datetime as dt
import subprocess
import sys
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from detectors.calendar import EPOCH, bucket_start, buckets, holiday_classes, month_position

ZONES = [
    "UTC", "Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Kathmandu",
    "Pacific/Apia",
]


def day(text: str) -> int:
    return (dt.date.fromisoformat(text) - EPOCH).days


def utc(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC).timestamp())


@pytest.mark.parametrize("timezone", ZONES)
def test_every_bucket_is_that_of_the_local_wall_clock(timezone: str) -> None:
    seconds = np.random.default_rng(1).integers(utc("2009-01-01"), utc("2026-01-01"), 4000)

    wall = [dt.datetime.fromtimestamp(int(s), ZoneInfo(timezone)) for s in seconds]
    days = np.array([(w.date() - EPOCH).days for w in wall])
    assert (buckets(seconds, timezone) == days).all()
    assert (buckets(seconds, timezone, "hourly") == days * 24 + np.array([w.hour for w in wall])).all()
    assert (buckets(seconds, timezone, "weekly") == (days - np.array([w.weekday() for w in wall]) + 3) // 7).all()
    assert (buckets(seconds, timezone, "monthly") == np.array([(w.year - 1970) * 12 + w.month - 1 for w in wall])).all()


def test_the_days_of_a_clock_change_are_one_bucket_each() -> None:
    hours = np.arange(utc("2024-03-29"), utc("2024-04-02"), 3600)

    counts = np.unique(buckets(hours, "Europe/Berlin"), return_counts=True)[1]
    assert counts.tolist() == [23, 24, 23, 24, 2]


def test_the_first_and_the_last_second_of_datetime_have_a_bucket() -> None:
    edges = np.array([utc("0001-01-01"), utc("9999-12-31") + 86_399])

    for timezone in ZONES:
        assert np.abs(buckets(edges, timezone) - edges // 86_400).max() <= 1


def test_a_day_before_1970_has_a_negative_bucket() -> None:
    assert buckets(np.array([-1]), "UTC")[0] == -1
    assert buckets(np.array([-1]), "UTC", "monthly")[0] == -1


@pytest.mark.parametrize("granularity", ["hourly", "daily", "weekly", "monthly"])
@pytest.mark.parametrize("timezone", ZONES)
def test_the_start_of_a_bucket_lies_in_it(timezone: str, granularity: str) -> None:
    wanted = np.unique(buckets(np.arange(utc("2023-01-01"), utc("2024-12-30"), 3600), timezone, granularity))

    starts = np.array([bucket_start(int(b), timezone, granularity) for b in wanted])
    assert (buckets(starts, timezone, granularity) == wanted).all()
    before = buckets(starts - 1, timezone, granularity) < wanted
    assert before.mean() > 0.999  # an hour that comes twice begins after itself


@pytest.mark.parametrize("timezone", ["Europe/Berln", "../etc/passwd", "", "America", "\0"])
def test_an_unknown_time_zone_is_refused_by_name(timezone: str) -> None:
    with pytest.raises(ValueError, match=r"^timezone: "):
        buckets(np.array([0]), timezone)


def test_month_positions_agree_with_the_calendar_for_four_centuries() -> None:
    time = np.arange(day("1901-01-01"), day("2301-01-01"))
    dates = [EPOCH + dt.timedelta(int(t)) for t in time]

    length = [gregorian.monthrange(d.year, d.month)[1] for d in dates]
    working = [
        [n for n in range(1, days + 1) if date.replace(day=n).weekday() < 5]
        for date, days in zip(dates, length, strict=True) if date.day == 1
    ]
    month = np.array([(d.year - 1901) * 12 + d.month - 1 for d in dates])
    position = month_position(np, time)
    assert (position[:, 0] == [d.day == 1 for d in dates]).all()
    assert (position[:, 1] == [d.day == days for d, days in zip(dates, length, strict=True)]).all()
    assert (position[:, 2] == [d.day == working[m][0] for d, m in zip(dates, month, strict=True)]).all()
    assert (position[:, 3] == [d.day == working[m][-1] for d, m in zip(dates, month, strict=True)]).all()


def classes(country: str | None, first: str, last: str, subdivision: str | None = None) -> str:
    return "".join(map(str, holiday_classes(day(first), day(last), country, subdivision)[0]))


def test_without_a_country_there_are_no_holidays() -> None:
    assert holiday_classes(day("2024-12-20"), day("2025-01-05"))[0].sum() == 0


def test_a_long_weekend_is_next_to_its_holiday() -> None:
    assert classes("US", "2024-05-23", "2024-05-29") == "0011210"  # Memorial Day is Monday the 27th


def test_a_bridge_day_joins_holiday_and_weekend() -> None:
    assert classes("DE", "2024-05-07", "2024-05-13") == "0121110"  # Ascension is Thursday the 9th


def test_christmas_lasts_until_the_second_of_january() -> None:
    assert classes("GB", "2024-12-18", "2025-01-06") == "00011122211112210000"


def test_a_country_without_christmas_works_through_it() -> None:
    assert classes("SA", "2024-12-20", "2025-01-03") == "0" * 15


def test_the_weekend_is_the_country_s() -> None:
    assert classes("IL", "2024-06-10", "2024-06-16") == "0121110"  # Shavuot is Wednesday the 12th, Friday is a day off


def test_holidays_of_a_subdivision_and_their_names() -> None:
    corpus = day("2024-05-30")

    found, names = holiday_classes(corpus, corpus, "DE", "BY")
    assert found.tolist() == [2] and names == {corpus: "Corpus Christi"}
    assert holiday_classes(corpus, corpus, "DE", "BE")[0].tolist() != [2]


def test_days_of_the_table_s_own_are_holidays() -> None:
    stocktaking = {dt.date(2024, 9, 11): "Stocktaking"}

    found, names = holiday_classes(day("2024-09-09"), day("2024-09-13"), extra=stocktaking)
    assert found.tolist() == [0, 1, 2, 1, 0] and names == {day("2024-09-11"): "Stocktaking"}


def test_an_hour_has_the_class_of_its_day_and_a_short_week_is_next_to_a_holiday() -> None:
    first = day("2024-07-03")

    hours, names = holiday_classes(first * 24 + 23, (first + 2) * 24, "US", granularity="hourly")
    assert hours.tolist() == [1] + [2] * 24 + [1] and len(names) == 24
    weeks, _ = holiday_classes((first + 3) // 7 - 1, (first + 3) // 7 + 1, "US", granularity="weekly")
    assert weeks.tolist() == [0, 1, 0]


@pytest.mark.parametrize(("country", "subdivision", "field"), [("XX", None, "country"), ("DE", "QQ", "subdivision")])
def test_an_unknown_country_or_subdivision_is_refused_by_name(country: str, subdivision: str | None, field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: "):
        holiday_classes(0, 9, country, subdivision)


def test_the_holidays_library_is_loaded_only_for_a_country() -> None:
    code = "import sys, detectors.calendar as c; c.holiday_classes(0, 9); assert 'holidays' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
