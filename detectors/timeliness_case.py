"""One question about a feed in its place: what is due, what came for it, and what came before.

    request + storage -> arrivals -> schedule (given, of the model, learnt) -> due times and what came for each -> the last
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detectors import calendar, clock, schedule
from detectors.arrivals import EARLY_SHARE, Matched, begins, match
from detectors.context import calendar_of
from detectors.lags import WINDOW, accepted_from
from detectors.schedule import DAY, Dues, Interval, Schedule
from detectors.schedule_learning import learn, whole_loads
from detectors.timeliness_history import NONE, Arrivals, gather, seconds
from shared.contract import Holidays
from shared.contract_timeliness import Arrival, ScheduleUse, TimelinessRequest
from shared.errors import InvalidRequest
from shared.history import Series

type FloatArray = NDArray[np.float64]
type IntArray = NDArray[np.int64]
type BoolArray = NDArray[np.bool_]

MATCHED = WINDOW + 40  # the latest arrivals, which are matched with their due times
LEARNT_FROM = 6000  # the latest arrivals, which a schedule is learnt from
CLOCK_SKEW = 600  # seconds by which an arrival may be newer than the clock of who asks
AHEAD = (15, 70, 800, 3000)  # days within which the next two due times are looked for
MONTH = 30.44 * DAY


@dataclass(frozen=True, slots=True)
class Place:
    """The load in question: the last that came, until the next one is about to come.

    `due` UTC seconds, `slack` seconds by which it may be meant later; `lag` minutes after due, NaN while it is out;
    `before` (b,) lags of the loads before it, oldest first, and `hours` (b + 1,) local hours since 1970 of their due times
    and, last, its own. `out` (o,) UTC seconds of the due times since the last arrival that nothing came for, its own
    first; `coming` that of the next load, None where nobody knows; `missing` due times before it without a load; `last_lag`
    minutes of the newest arrival after the due time it came for, None where that is not known.
    """

    due: int
    slack: int
    lag: float
    before: FloatArray
    hours: IntArray
    out: IntArray
    coming: int | None
    missing: int
    loads_a_month: float
    last_lag: float | None


@dataclass(frozen=True, slots=True)
class Case:
    """A question with all that is known for it; no schedule and no place where none is known yet."""

    as_of: int
    timezone: str
    arrivals: Arrivals
    schedule: ScheduleUse | None = None
    place: Place | None = None


def build(request: TimelinessRequest, card: Mapping[str, Any], stored: Series | None, events: Series | None,
          now: datetime) -> Case:
    """Raises InvalidRequest: an arrival after the moment of the question, plain lags without schedule, unknown holidays."""
    zone = request.timezone or card.get("timezone") or "UTC"
    as_of = _as_of(request, zone, now)
    arrivals = gather(request.historical_data, _latest(request), stored, events, zone, as_of)
    if request.due_at is not None:
        place = _told(arrivals, seconds(request.due_at, zone), zone)
        return Case(as_of, zone, arrivals, ScheduleUse(source="told", description="as told", timezone=zone), place)
    holidays = request.holidays or Holidays.model_validate(card.get("holidays") or {})
    away = days_away(holidays, arrivals.at, as_of, zone)
    known, source = _schedule(request, card, arrivals, zone, away)
    if known is None:
        if len(arrivals.lags):
            raise InvalidRequest("historical_data: plain minutes after due need due_at or a schedule.", "historical_data")
        return Case(as_of, zone, arrivals)
    use = ScheduleUse(source=source, description=known.describe(), timezone=zone)
    return Case(as_of, zone, arrivals, use, _scheduled(known, arrivals, zone, away, as_of))


def days_away(holidays: Holidays, at: IntArray, as_of: int, zone: str) -> frozenset[int]:
    """The day buckets of holidays from the first arrival on, and for a year after the question."""
    if not (holidays.country or holidays.dates):
        return frozenset()
    first, last = calendar.buckets(np.array([at[0] if len(at) else as_of, as_of + 366 * DAY]), zone).tolist()
    classes, _ = calendar_of(holidays, first, last, "daily")
    return frozenset((first + np.flatnonzero(classes == calendar.HOLIDAY)).tolist())


def expected(known: Schedule, at: IntArray, zone: str, away: frozenset[int], start: int,
             end: int) -> tuple[Dues, Matched, BoolArray]:
    """Arrivals (q,) -> the due times around `start` and up to `end`, what came for each, and which may stay away.

    On a holiday a load may stay away, unless most holidays so far had one.
    """
    if isinstance(known, Interval):
        return _intervals(known, at, end)
    dues = schedule.dues(known, start - 32 * DAY, end, zone, away)
    first = max(int(np.searchsorted(begins(dues), start, side="right")) - 1, 0) if len(dues.at) else 0
    dues = Dues(dues.at[first:], dues.slack[first:])
    matched = match(dues, at)
    days = clock.local(dues.at + dues.slack, zone) // DAY
    optional = np.isin(days, list(away))
    past = optional & (dues.at <= (at[-1] if len(at) else 0))
    if past.sum() >= 2 and np.isfinite(matched.lag[past]).mean() >= 0.5:
        optional[:] = False
    return dues, matched, optional


def _as_of(request: TimelinessRequest, zone: str, now: datetime) -> int:
    asked = request.as_of or request.timestamp
    as_of = seconds(asked, zone) if asked else int(now.timestamp())
    if request.last_arrival is None:
        return as_of
    latest = seconds(request.last_arrival, zone)
    if asked and latest > as_of + CLOCK_SKEW:
        raise InvalidRequest("last_arrival lies after as_of.", "last_arrival")
    return max(as_of, latest)


def _latest(request: TimelinessRequest) -> Arrival | None:
    if request.last_arrival is None:
        return None
    return Arrival.model_construct(timestamp=request.last_arrival, event_time=request.last_event_time, due_at=None,
                                   lag_minutes=None)


def _schedule(request: TimelinessRequest, card: Mapping[str, Any], arrivals: Arrivals, zone: str,
              away: frozenset[int]) -> tuple[Schedule | None, Literal["given", "model", "learnt"]]:
    if request.schedule is not None:
        return schedule.parse(request.schedule.cron), "given"
    if card.get("schedule"):
        return schedule.from_json(card["schedule"]), "model"
    # The newest arrival may be the one in question: it helps to learn only where nothing could be learnt without it.
    at = arrivals.at[-LEARNT_FROM:]
    return _learnt(at[:-1].tobytes(), zone, away) or _learnt(at.tobytes(), zone, away), "learnt"


@lru_cache(maxsize=128)
def _learnt(at: bytes, zone: str, away: frozenset[int]) -> Schedule | None:
    return learn(np.frombuffer(at, np.int64), zone, away)


def _intervals(known: Interval, at: IntArray, end: int) -> tuple[Dues, Matched, BoolArray]:
    gap = round(60 * known.gap)
    came = np.flatnonzero(whole_loads(at / 60.0))
    last = int(at[came[-1]]) if len(came) else end
    ahead = last + gap * np.arange(1, max((end - last) // gap, 2) + 1)
    due = np.concatenate([at[came[:-1]] + gap, ahead])
    matched = Matched(np.full(len(due), np.nan), np.full(len(due), -1))
    matched.lag[: len(came) - 1] = np.diff(at[came]) / 60.0 - known.gap
    matched.arrival[: len(came) - 1] = came[1:]
    return Dues(due, np.zeros_like(due)), matched, np.zeros(len(due), np.bool_)


def _scheduled(known: Schedule, arrivals: Arrivals, zone: str, away: frozenset[int], as_of: int) -> Place | None:
    """None where nothing is due, ever again."""
    at, excluded = arrivals.at[-MATCHED:], arrivals.excluded[-MATCHED:]
    for days in AHEAD:
        dues, matched, optional = expected(known, at, zone, away, int(at[0]) if len(at) else as_of, as_of + days * DAY)
        required = np.flatnonzero(~optional)
        if (dues.at[required] > as_of).sum() >= 2:
            break
    else:
        return None
    met = np.flatnonzero(matched.arrival >= 0)
    usual = float(np.median(matched.lag[met])) if len(met) else 0.0
    begun = required[begins(dues, usual)[required] <= as_of]
    if len(met):
        after = required[required > met[-1]]
        index = after[0] if after[0] in begun else met[-1]
    else:
        index = begun[-1] if len(begun) else required[0]
        after = required[required >= index]
    waiting = matched.arrival[index] < 0
    out = after[dues.at[after] <= as_of] if waiting else after[:0]
    coming = after[dues.at[after] + 60 * usual > as_of]
    learnt = met[met < index]
    learnt = learnt[~excluded[matched.arrival[learnt]]]
    missing = required[(required > (met[0] if len(met) else index)) & (required < index)]
    per_second = (len(required) - 1) / (dues.at[required[-1]] - dues.at[required[0]])
    return _place(
        arrivals.lags, matched.lag[learnt], clock.local(dues.at[np.append(learnt, index)], zone) // clock.HOUR,
        due=int(dues.at[index]), slack=int(dues.slack[index]), lag=float(matched.lag[index]), out=dues.at[out],
        coming=int(dues.at[coming[0]]) if len(coming) else None,
        missing=int((matched.arrival[missing] < 0).sum()), loads_a_month=float(per_second * MONTH),
        last_lag=round(float(at[-1] - dues.at[met[-1]]) / 60.0, 2) if len(met) else None,
    )


def _told(arrivals: Arrivals, due: int, zone: str) -> Place:
    """The place of a due time that the caller told, as those of its history."""
    earlier = (arrivals.due != NONE) & (arrivals.due < due)
    past = np.sort(np.concatenate([arrivals.due[earlier], arrivals.missed[arrivals.missed < due]]))
    gap = due - int(past[-1]) if len(past) else DAY
    own = (arrivals.due == due) | ((arrivals.due == NONE) & (arrivals.at >= due - gap // EARLY_SHARE))
    came = arrivals.at[own]
    known = earlier & ~arrivals.excluded
    order = np.argsort(arrivals.due[known], kind="stable")
    dues, at = arrivals.due[known][order], arrivals.at[known][order]
    last = int(arrivals.due[earlier].max()) if earlier.any() else due
    gone = arrivals.missed[(arrivals.missed > last) & (arrivals.missed < due)]
    return _place(
        arrivals.lags, (at - dues) / 60.0, clock.local(np.append(dues, due), zone) // clock.HOUR,
        due=due, slack=0, lag=float((came[0] - due) / 60.0) if len(came) else np.nan,
        out=np.append(gone, due) if not len(came) else gone[:0], coming=None,
        missing=int((arrivals.missed < due).sum()),
        loads_a_month=MONTH / float(np.median(np.diff(np.append(past, due)))) if len(past) else MONTH / DAY,
        last_lag=round(float(came[0] - due) / 60.0, 2) if len(came) else None,
    )


def _place(plain: FloatArray, lags: FloatArray, hours: IntArray, **own: Any) -> Place:
    """With the lags that are learnt from: nothing before the last accepted change of the usual."""
    plain = plain[np.isfinite(plain)]
    before = np.concatenate([plain, lags])[-MATCHED:]
    hours = np.concatenate([np.full(len(plain), hours[-1]), hours])[-len(before) - 1 :]
    start = accepted_from(before)
    return Place(before=before[start:], hours=hours[start:], **own)
