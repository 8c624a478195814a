"""A schedule from arrivals alone: which days and at what time loads come.

    arrivals -> weekly times (weekday pattern, one or many loads a day), else every so many days, else a day of the month,
             -> else an interval: so long after the load before

A weekday without loads is not expected to have any, and neither is one on which they come half of the time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detectors import clock
from detectors.lags import FEWEST
from detectors.schedule import ANCHORS, DAY_MINUTES, EveryDays, Interval, Monthly, Schedule, Weekly, month_places

type FloatArray = NDArray[np.float64]
type IntArray = NDArray[np.int64]
type BoolArray = NDArray[np.bool_]

RECENT_DAYS = 56  # what a weekly pattern is learnt from: a feed that changes is followed within a month
OCCURRENCES = 10  # of one weekday
EXPECTED, LIKELY = 0.75, 0.5  # share of a weekday's days with a load: on its own, and where weekdays of its kind have them
EXPLAINED = 0.6  # share of loads that a pattern accounts for
ALIKE = 0.5  # share of days with about as many loads as most have
BURST_MINUTES, BURST_SHARE = 10.0, 0.02  # loads this close together are parts of one
FULL_DAYS = 2  # full days of a feed that comes several times a day
MONTHS = 3
OWN_TIME_MINUTES, OWN_TIME_DAYS = 30.0, 3  # how far off, and how often seen, a weekday has a time of its own


def learn(arrivals: IntArray, timezone: str, holidays: frozenset[int] = frozenset()) -> Schedule | None:
    """(q,) UTC seconds of arrivals, increasing; day buckets of holidays -> the schedule, None while too few are known.

    Needs FEWEST arrivals, and FULL_DAYS days of a feed that comes several times a day.
    """
    wall = clock.local(arrivals, timezone) / 60.0
    wall = wall[whole_loads(wall)]
    if len(wall) < FEWEST:
        return None
    day, minute = _days(wall)
    active, count = np.unique(day, return_counts=True)
    loads = _loads_a_day(active, count)
    if loads is None:
        return None
    interval = Interval(float(np.median(np.diff(wall))))
    if not loads:
        return interval
    return (_weekly(day, minute, loads, holidays, interval) or _every(active, minute)
            or _monthly(active, minute, holidays) or interval)


def whole_loads(minutes: FloatArray) -> BoolArray:
    """(q,) arrivals in minutes, increasing -> which of them are the first of a load: files within minutes are one load."""
    gap = np.diff(minutes)
    if not len(gap):
        return np.ones(len(minutes), np.bool_)
    burst = min(BURST_MINUTES, BURST_SHARE * float(np.quantile(gap, 0.9)))
    return np.concatenate([[True], gap > burst])


def _days(wall: FloatArray) -> tuple[IntArray, FloatArray]:
    """(q,) local minutes -> the day each load belongs to and its minute, counted from that day's midnight, may be negative.

    Days are cut where loads are rarest, so that loads around midnight stay together.
    """
    hand = 2 * np.pi / DAY_MINUTES
    cuts = np.arange(0, DAY_MINUTES, 15)
    crowd = np.exp(4.0 * np.cos(hand * (cuts[:, None] - wall[-400:]))).sum(axis=1)
    cut = float(cuts[np.argmin(crowd)])
    cut -= DAY_MINUTES * (cut > DAY_MINUTES / 2)
    day = np.floor((wall - cut) / DAY_MINUTES).astype(np.int64)
    return day, wall - day * DAY_MINUTES


def _loads_a_day(active: IntArray, count: IntArray) -> int | None:
    """How many; 0 where days differ too much, None where it takes more days to tell."""
    if count.max() == 1:
        return 1
    # The first and the last day may not be whole.
    whole = count[1:-1] if len(count) > 2 else count[:0]
    if len(whole) < FULL_DAYS:
        return 1 if np.median(count) == 1 else None
    recent = whole[-RECENT_DAYS:]
    loads = int(np.bincount(recent).argmax())
    alike = np.abs(recent - loads) <= max(0.5, 0.1 * loads)
    return loads if loads == 1 or (alike.mean() >= ALIKE and (recent == loads).sum() >= FULL_DAYS) else 0


def _weekly(day: IntArray, minute: FloatArray, loads: int, holidays: frozenset[int], interval: Interval) -> Schedule | None:
    """Slots of the day from the days with the usual number of loads; then, for each weekday, the slots that it has."""
    recent = day > day[-1] - RECENT_DAYS if loads > 1 else np.arange(len(day)) >= len(day) - RECENT_DAYS
    day, minute = day[recent], minute[recent]
    active, first, count = np.unique(day, return_index=True, return_counts=True)
    full = first[count == loads]
    if not len(full):
        return None
    slots = _evened(minute[full[:, None] + np.arange(loads)])
    slot = np.searchsorted((slots[1:] + slots[:-1]) / 2, minute)
    if loads > 1 and _drifts(minute - slots[slot], slots, interval):
        return interval

    days = np.arange(active[0], active[-1] + 1)
    if loads > 1:
        days = days[int(count[0] < loads) : len(days) - int(count[-1] < loads)]
    days = days[~np.isin(days, list(holidays))]
    if not len(days):
        return None
    met = np.zeros((len(days), loads), np.bool_)
    known = np.isin(day, days)
    met[np.searchsorted(days, day[known]), slot[known]] = True
    expected = _expected(days, met)
    weekday = (day + 3) % 7
    if expected[weekday, slot].mean() < EXPLAINED:
        return None
    times = []
    for w, s in zip(*np.nonzero(expected), strict=True):
        shift, at = divmod(round(_own_time(minute[(slot == s) & (weekday == w)], float(slots[s]))), DAY_MINUTES)
        times.append((int((w + shift) % 7), at))
    return Weekly(tuple(sorted(set(times))))


def _evened(minute: FloatArray) -> FloatArray:
    """(d, s) minutes of each day's loads -> (s,) their slots; evenly spaced where the days leave no doubt that they are.

    The median of few days fits them better than the days to come: a grid has two numbers to learn instead of s.
    """
    slots: FloatArray = np.median(minute, axis=0)
    if len(slots) < 3:
        return slots
    grid = np.round((slots[-1] - slots[0]) / (len(slots) - 1)) * np.arange(len(slots))
    grid += np.median(minute - grid)
    noise = float(np.median(np.abs(minute - grid)))
    return grid if np.abs(slots - grid).max() <= max(1.0, 4 * noise) else slots


def _drifts(residual: FloatArray, slots: FloatArray, interval: Interval) -> bool:
    """Is a feed around the clock better told by its interval? Its slots are then blurred: loads come at any minute."""
    around = np.diff(slots, append=slots[0] + DAY_MINUTES).max() < 2 * interval.gap
    return bool(around and np.median(np.abs(residual)) > interval.gap / 6)


def _expected(days: IntArray, met: BoolArray) -> BoolArray:
    """(d,) days, (d, s) whether each slot had its load -> (7, s) whether a weekday's slot has one."""
    weekday = (days + 3) % 7
    share = np.full((7, met.shape[1]), np.nan)
    for w in np.unique(weekday):
        share[w] = met[weekday == w][-OCCURRENCES:].mean(axis=0)
    # A weekday not seen yet is like the others of its kind, working days or weekend; a weekend not seen yet has no loads.
    expected = np.zeros(share.shape, np.bool_)
    for kind in (slice(0, 5), slice(5, 7)):
        seen = np.isfinite(share[kind, 0])
        usual = share[kind][seen].mean(axis=0) if seen.any() else np.zeros(met.shape[1])
        own = np.where(seen[:, None], share[kind], usual)
        expected[kind] = (own >= EXPECTED) | ((own >= LIKELY) & (usual >= EXPECTED))
    return expected


def _own_time(minute: FloatArray, usual: float) -> float:
    """A weekday's own time of day, where it clearly has one; else the usual."""
    if len(minute) < OWN_TIME_DAYS:
        return usual
    own = float(np.median(minute))
    spread = float(np.median(np.abs(minute - own)))
    return own if abs(own - usual) > max(OWN_TIME_MINUTES, 3 * spread) else usual


def _every(active: IntArray, minute: FloatArray) -> EveryDays | None:
    """Every k days, for k that no week explains."""
    gaps = np.diff(active)
    k = int(np.median(gaps)) if len(gaps) else 0
    if k < 2 or (gaps == k).mean() < EXPECTED:
        return None
    shift, at = divmod(round(float(np.median(minute))), DAY_MINUTES)
    phases = (active[-OCCURRENCES:] + shift) % k
    return EveryDays(k, int(np.bincount(phases).argmax()), at)


def _monthly(active: IntArray, minute: FloatArray, holidays: frozenset[int]) -> Monthly | None:
    """The day or working day of the month, from its start or its end, that most loads were on."""
    if len(active) < MONTHS or not 25 <= np.median(np.diff(active)) <= 35:
        return None
    days = np.arange(active[0] - 31, active[-1] + 32)
    found = []
    for anchor, place in zip(ANCHORS, month_places(days, np.isin(days, list(holidays))), strict=True):
        numbers = place[active - days[0]]
        number = int(np.bincount(numbers[numbers > 0]).argmax()) if (numbers > 0).any() else 0
        found.append((float((numbers == number).mean()) * (number > 0), anchor, number))
    share, anchor, number = max(found, key=lambda f: f[0])
    shift, at = divmod(round(float(np.median(minute))), DAY_MINUTES)
    return Monthly(anchor, number, at) if share >= EXPECTED and not shift else None
