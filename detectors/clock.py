"""Wall clocks: seconds since 1970 as a time zone's clocks show them, and back."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from detectors import calendar

type IntArray = NDArray[np.int64]

DAY, HOUR = 86_400, 3_600


def local(seconds: IntArray, timezone: str) -> IntArray:
    """(m,) UTC seconds -> (m,) seconds of wall time. Raises ValueError naming the time zone."""
    return seconds + _offsets(seconds, timezone)


def moments(wall: IntArray, timezone: str) -> tuple[IntArray, IntArray]:
    """(m,) seconds of wall time, increasing -> UTC seconds, increasing, and by how many seconds each may be meant later.

    A time that the clock shows twice (the end of daylight saving) or never (its beginning) is taken for the earlier reading;
    the hour to the later one is its slack. Where times follow each other within an hour, hours are counted and not read from
    a clock: one shown twice is two moments, one never shown none.
    """
    before, after = (wall - _offsets(wall + shift, timezone) for shift in (-DAY, DAY))
    if np.array_equal(before, after):
        return before, np.zeros_like(wall)
    real_before, real_after = (at + _offsets(at, timezone) == wall for at in (before, after))
    unclear = (before != after) & (real_before == real_after)
    gap = np.diff(wall, prepend=wall[:1] - DAY, append=wall[-1:] + DAY)
    counted = unclear & (gap[:-1] <= HOUR) & (gap[1:] <= HOUR)
    at = np.where(unclear, np.minimum(before, after), np.where(real_before, before, after))
    slack = np.where(unclear & ~counted, np.abs(before - after), 0)
    shown, twice = ~counted | real_before, counted & real_before
    at = np.concatenate([at[shown], np.maximum(before, after)[twice]])
    slack = np.concatenate([slack[shown], np.zeros(int(twice.sum()), np.int64)])
    order = np.argsort(at, kind="stable")
    return at[order], slack[order]


def _offsets(seconds: IntArray, timezone: str) -> IntArray:
    """(m,) UTC seconds -> (m,) seconds to add for wall time."""
    if not len(seconds):
        return np.zeros_like(seconds)
    years = np.array([seconds.min(), seconds.max()], "datetime64[s]").astype("datetime64[Y]").astype(np.int64) + 1970
    changes = [change for year in range(years[0], years[1] + 1) for change in _changes(timezone, year)]
    starts, offsets = np.array(changes, np.int64).T
    found: IntArray = offsets[np.searchsorted(starts, seconds, side="right") - 1]
    return found


@lru_cache(maxsize=4096)
def _changes(timezone: str, year: int) -> tuple[tuple[int, int], ...]:
    """(UTC second, offset from then on) of the year's beginning and of every change of the clocks in it."""
    tz = calendar.zone(timezone)

    def offset(second: int) -> int:
        shift = datetime.fromtimestamp(second, tz).utcoffset()
        return 0 if shift is None else round(shift.total_seconds())

    start, end = (int(datetime(y, 1, 1, tzinfo=UTC).timestamp()) for y in (year, year + 1))
    changes = [(start, offset(start))]
    for day in range(start, end, DAY):
        low, high, new = day, min(day + DAY, end), offset(min(day + DAY, end))
        if new == changes[-1][1]:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if offset(middle) == new else (middle, high)
        changes.append((high, new))
    return tuple(changes)
