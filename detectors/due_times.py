"""The due times of a feed around its arrivals: what came for each, and which may stay away."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors import clock, schedule
from detectors.arrivals import Matched, begins, match
from detectors.schedule import DAY, Dues, Interval, Schedule
from detectors.schedule_learning import whole_loads

type FloatArray = NDArray[np.float64]
type IntArray = NDArray[np.int64]

MONTH = 30.44 * DAY
HOLIDAYS_SEEN, LOADS_ON_HOLIDAYS = 2, 0.5  # holidays, and the share of them with a load, after which it is expected on them


class DueTimes(NamedTuple):
    """`at` (m,) UTC seconds, `slack` (m,) seconds by which each may be meant later, `hours` (m,) local hours since 1970.

    `lag` (m,) minutes after due, NaN where nothing came, `arrival` (m,) which arrival that was, -1 for none; `begun` (m,)
    UTC seconds from which on an arrival belongs to it. `required` and `met` are the indices of those that may not stay away
    and those that something came for; `usual` is the median lag.
    """

    at: IntArray
    slack: IntArray
    hours: IntArray
    lag: FloatArray
    arrival: IntArray
    begun: IntArray
    required: IntArray
    met: IntArray
    usual: float

    @property
    def loads_a_month(self) -> float:
        required = self.at[self.required]
        return float((len(required) - 1) * MONTH / (required[-1] - required[0]))


@lru_cache(maxsize=256)
def remembered(known: Schedule, arrivals: bytes, zone: str, away: frozenset[int], start: int, end: int) -> DueTimes:
    """`due_times` of arrivals as bytes: a feed is asked about more often than anything arrives."""
    return due_times(known, np.frombuffer(arrivals, np.int64), zone, away, start, end)


def due_times(known: Schedule, arrivals: IntArray, zone: str, away: frozenset[int], start: int, end: int) -> DueTimes:
    """(q,) UTC seconds of arrivals, increasing -> the due times from the one before `start` up to `end`.

    On a holiday (`away`, day buckets) a load may stay away, unless most holidays so far had one.
    """
    if isinstance(known, Interval):
        dues, matched = _intervals(known, arrivals, end)
    else:
        dues = schedule.dues(known, start - 32 * DAY, end, zone, away)
        first = max(int(np.searchsorted(begins(dues), start, side="right")) - 1, 0) if len(dues.at) else 0
        dues = Dues(dues.at[first:], dues.slack[first:])
        matched = match(dues, arrivals)
    wall = clock.local(dues.at + dues.slack, zone)
    optional = np.isin(wall // DAY, list(away)) & (not isinstance(known, Interval))
    past = optional & (dues.at <= (arrivals[-1] if len(arrivals) else 0))
    if past.sum() >= HOLIDAYS_SEEN and (matched.arrival[past] >= 0).mean() >= LOADS_ON_HOLIDAYS:
        optional[:] = False
    met = np.flatnonzero(matched.arrival >= 0)
    usual = float(np.median(matched.lag[met])) if len(met) else 0.0
    return DueTimes(dues.at, dues.slack, wall // clock.HOUR, matched.lag, matched.arrival, begins(dues, usual),
                    np.flatnonzero(~optional), met, usual)


def _intervals(known: Interval, arrivals: IntArray, end: int) -> tuple[Dues, Matched]:
    """Each load is due a gap after the one before it; after the last one, a gap after each other."""
    gap = max(round(60 * known.gap), 1)
    came = np.flatnonzero(whole_loads(arrivals / 60.0))
    last = int(arrivals[came[-1]]) if len(came) else end
    ahead = last + gap * np.arange(1, max((end - last) // gap, 2) + 1)
    at = np.concatenate([arrivals[came[:-1]] + gap, ahead])
    matched = Matched(np.full(len(at), np.nan), np.full(len(at), -1))
    matched.lag[: len(came) - 1] = np.diff(arrivals[came]) / 60.0 - known.gap
    matched.arrival[: len(came) - 1] = came[1:]
    return Dues(at, np.zeros_like(at)), matched
