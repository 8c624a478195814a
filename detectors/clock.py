"""Wall clocks: seconds since 1970 as a time zone's clocks show them, and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detectors import calendar

type IntArray = NDArray[np.int64]

DAY, HOUR = 86_400, 3_600


def local(seconds: IntArray, timezone: str) -> IntArray:
    """(m,) UTC seconds -> (m,) seconds of wall time. Raises ValueError naming the time zone."""
    return seconds + calendar.offsets(seconds, calendar.zone(timezone))


def moments(wall: IntArray, timezone: str) -> tuple[IntArray, IntArray]:
    """(m,) seconds of wall time, increasing -> UTC seconds, increasing, and by how many seconds each may be meant later.

    A time that the clock shows twice (the end of daylight saving) or never (its beginning) is taken for the earlier reading;
    the hour to the later one is its slack. Where times follow each other within an hour, hours are counted and not read from
    a clock: one shown twice is two moments, one never shown none.
    """
    tz = calendar.zone(timezone)
    before, after = (wall - calendar.offsets(wall + shift, tz) for shift in (-DAY, DAY))
    if np.array_equal(before, after):
        return before, np.zeros_like(wall)
    real_before, real_after = (local(at, timezone) == wall for at in (before, after))
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
