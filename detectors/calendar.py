"""Buckets of time as people count them, and the days people are away.

A bucket is an integer: days, hours of wall time, weeks (from Monday) or months since 1970-01-01 in the table's own time
zone. Daylight saving moves no day: the days of 23 and 25 hours are one bucket each, and so is the hour that comes twice.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

type IntArray = NDArray[np.int64]

GRANULARITIES = ("hourly", "daily", "weekly", "monthly")
EPOCH = dt.date(1970, 1, 1)  # a Thursday: the weekday of day d is (d + 3) % 7, Monday 0
NONE, NEIGHBOUR, HOLIDAY = 0, 1, 2
DAY = 86_400
BLOCK = 512  # days whose offsets are looked up together


def zone(timezone: str) -> ZoneInfo:
    """The time zone of an IANA name. Raises ValueError naming the field where there is none."""
    try:
        return ZoneInfo(timezone)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"timezone: {timezone!r} is not an IANA time zone such as 'Europe/Berlin'") from error


def buckets(timestamps: IntArray, timezone: str = "UTC", granularity: str = "daily") -> IntArray:
    """(m,) UTC seconds -> (m,) buckets of the granularity in that time zone. Raises ValueError naming the field."""
    seconds = np.asarray(timestamps, np.int64)
    local = seconds + offsets(seconds, zone(timezone))
    if granularity == "hourly":
        return local // 3600
    days = local // DAY
    if granularity == "daily":
        return days
    if granularity == "weekly":
        return (days + 3) // 7
    if granularity == "monthly":
        return days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    raise ValueError(f"granularity: {granularity!r} is none of {', '.join(GRANULARITIES)}")


def offsets(seconds: IntArray, tz: ZoneInfo) -> IntArray:
    """(m,) UTC seconds -> (m,) seconds to add for wall time. Looked up by day; on days of a change, asked for each point."""
    if len(seconds) == 1 or tz.key == "UTC":
        return np.full(len(seconds), _offset(int(seconds[0]), tz) if len(seconds) else 0, np.int64)
    days = seconds // DAY
    both = np.concatenate([days, days + 1])
    blocks = np.unique(both // BLOCK)
    known = np.array([_block_offsets(tz.key, int(block)) for block in blocks]).reshape(-1, BLOCK)
    offsets, following = known[np.searchsorted(blocks, both // BLOCK), both % BLOCK].reshape(2, -1)
    changing = np.flatnonzero(offsets != following)
    if len(changing):
        offsets[changing] = [_offset(int(second), tz) for second in seconds[changing]]
    return np.asarray(offsets, np.int64)


@lru_cache(maxsize=1024)
def _block_offsets(timezone: str, block: int) -> IntArray:
    """(BLOCK,) the zone's offset at midnight UTC of each day of a block."""
    tz = zone(timezone)
    days = range(block * BLOCK, (block + 1) * BLOCK)
    return np.array([_offset(day * DAY, tz) for day in days], np.int64)


def _offset(second: int, tz: ZoneInfo) -> int:
    # The first days of year 1 and the last of 9999 have no local time in every zone: they take that of their neighbours.
    shift = dt.datetime.fromtimestamp(min(max(second, -62_135_424_000), 253_402_128_000), tz).utcoffset()
    return 0 if shift is None else shift.days * DAY + shift.seconds


def bucket_start(bucket: int, timezone: str = "UTC", granularity: str = "daily") -> int:
    """UTC seconds at which the bucket begins: the first of an hour that comes twice, the change itself if it is skipped."""
    hours, day = 0, int(bucket)
    if granularity == "hourly":
        day, hours = divmod(int(bucket), 24)
    elif granularity == "weekly":
        day = int(bucket) * 7 - 3
    elif granularity == "monthly":
        day = int(np.datetime64(int(bucket), "M").astype("datetime64[D]").astype(np.int64))
    wall = dt.datetime.combine(EPOCH + dt.timedelta(day), dt.time(hours), tzinfo=zone(timezone))
    return int(wall.timestamp())


def month_position(xp: Any, time: Any) -> Any:
    """(...,) day buckets -> (..., 4) 1.0 on the first and last day of a month and on its first and last working day.

    Working days are Monday to Friday. Integer arithmetic only (Hinnant, "chrono-compatible low-level date algorithms"):
    it can be traced into a graph, and is right for the whole Gregorian calendar.
    """
    # A month ends in 0, 1 or 2 days exactly when three days later is the 3rd, 2nd or 1st.
    day = _day_of_month(xp, time[..., None] + xp.asarray(np.array([0, 3])))
    weekday = (time[..., None] + 3) % 7
    calendar = day == xp.asarray(np.array([1, 3]))
    working = (calendar & (weekday < 5)) | ((day <= 3) & (weekday == xp.asarray(np.array([0, 4]))))
    return xp.astype(xp.concat([calendar, working], axis=-1), xp.float64)


def _day_of_month(xp: Any, time: Any) -> Any:
    """(...,) day buckets -> 1 to 31; years start in March, so that the leap day is the last of a year."""
    over = xp.floor_divide
    since = (time + 719_468) % 146_097
    year = over(since - over(since, 1460) + over(since, 36_524) - over(since, 146_096), 365)
    of_year = since - 365 * year - over(year, 4) + over(year, 100)
    month = over(5 * of_year + 2, 153)
    return of_year - over(153 * month + 2, 5) + 1


def holiday_classes(
    first: int,
    last: int,
    country: str | None = None,
    subdivision: str | None = None,
    extra: Mapping[dt.date, str] | None = None,
    granularity: str = "daily",
) -> tuple[IntArray, dict[int, str]]:
    """Buckets first to last -> their classes (m,) 0 none, 1 next to a holiday, 2 holiday; and the holiday's name by bucket.

    Class 1 holds the days next to a holiday, the whole of a long weekend with its bridge day, and where Christmas is a
    holiday the days around it until 2 January. An hour has the class of its day; a week with a holiday on a working day
    is class 1, a month always 0. `extra` adds holidays of the table's own. Without a country and extra days everything
    is 0. Raises ValueError naming the field.
    """
    of = {"hourly": 24, "daily": 1}.get(granularity)
    if granularity == "monthly" or not (country or extra):
        return np.zeros(last - first + 1, np.int64), {}
    start, end = (first * 7 - 3, last * 7 + 3) if of is None else (first // of, last // of)
    own = tuple(sorted((extra or {}).items()))
    classes, names = np.zeros(end - start + 1, np.int64), {}
    for year in range((EPOCH + dt.timedelta(start)).year, (EPOCH + dt.timedelta(end)).year + 1):
        for day, (kind, name) in _year(country, subdivision, own, year).items():
            if start <= day <= end:
                classes[day - start] = kind
                if name:
                    names[day] = name
    if granularity == "daily":
        return classes, names
    if granularity == "hourly":
        hours = np.arange(first, last + 1)
        return classes[hours // 24 - start], {int(h): names[int(h) // 24] for h in hours if int(h) // 24 in names}
    weeks = classes.reshape(-1, 7)[:, :5].max(axis=1)
    return np.minimum(weeks, NEIGHBOUR) * (weeks == HOLIDAY), {(day + 3) // 7: name for day, name in names.items()}


@lru_cache(maxsize=512)
def _year(
    country: str | None, subdivision: str | None, extra: tuple[tuple[dt.date, str], ...], year: int
) -> dict[int, tuple[int, str]]:
    """{day bucket: (class, name)} of one year."""
    public, weekend = _public(country, subdivision, year)
    public |= dict(extra)
    near: set[dt.date] = set()
    for day in public:
        near |= _around(day, public, weekend)
    for at in (year - 1, year, year + 1):
        if dt.date(at, 12, 25) in public:
            near |= {dt.date(at, 12, d) for d in range(22, 32)} | {dt.date(at + 1, 1, 2)}
    classes = dict.fromkeys(near, (NEIGHBOUR, "")) | {day: (HOLIDAY, name) for day, name in public.items()}
    return {(day - EPOCH).days: kind for day, kind in classes.items() if day.year == year}


def _around(day: dt.date, public: Mapping[dt.date, str], weekend: frozenset[int]) -> set[dt.date]:
    """The days next to a holiday, and the days off that follow it at once or over a single working day, a bridge."""

    def off(at: dt.date) -> bool:
        return at in public or at.weekday() in weekend

    found = {day - dt.timedelta(1), day + dt.timedelta(1)}
    for step in (dt.timedelta(1), dt.timedelta(-1)):
        at = day + step if off(day + step) else day + 2 * step
        while off(at) and abs((at - day).days) < 7:
            found.add(at)
            at += step
    return found


def _public(country: str | None, subdivision: str | None, year: int) -> tuple[dict[dt.date, str], frozenset[int]]:
    """Public holidays of the year and the years next to it, and the weekend's weekdays.

    Where Christmas is a public holiday, the eves and Easter are days people are away even where the law does not say so.
    """
    if not country:
        return {}, frozenset((5, 6))
    import holidays  # 0.1 s, and only where a country is asked for

    years = [year - 1, year, year + 1]
    try:
        calendar = holidays.country_holidays(country.upper(), years=years, language="en_US")
    except NotImplementedError as error:
        raise ValueError(f"country: {country!r} has no calendar in the holidays library; 'DE' has") from error
    if subdivision:
        try:
            calendar = holidays.country_holidays(country.upper(), subdiv=subdivision, years=years, language="en_US")
        except NotImplementedError as error:
            known = ", ".join(calendar.subdivisions) or "it has none"
            raise ValueError(f"subdivision: {subdivision!r} is none of {country.upper()}'s: {known}") from error
    public = dict(calendar.items())
    for at in years:
        if dt.date(at, 12, 25) in public:
            easter = _easter(at)
            public.setdefault(dt.date(at, 12, 24), "Christmas Eve")
            public.setdefault(dt.date(at, 12, 31), "New Year's Eve")
            public.setdefault(easter, "Easter Sunday")
            public.setdefault(easter - dt.timedelta(2), "Good Friday")
    return public, frozenset(calendar.weekend)


def _easter(year: int) -> dt.date:
    """Easter Sunday of the Gregorian calendar (the Meeus, Jones and Butcher computus)."""
    a, (b, c) = year % 19, divmod(year, 100)
    h = (19 * a + b - b // 4 - (b - (b + 8) // 25 + 1) // 3 + 15) % 30
    k = (32 + 2 * (b % 4) + 2 * (c // 4) - h - c % 4) % 7
    month, day = divmod(h + k - 7 * ((a + 11 * h + 22 * k) // 451) + 114, 31)
    return dt.date(year, month, day + 1)
