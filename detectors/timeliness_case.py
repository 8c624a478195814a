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
from detectors.arrivals import EARLY_SHARE
from detectors.baselines import rebased_lags
from detectors.context import calendar_of
from detectors.due_times import MONTH, remembered
from detectors.lags import WINDOW, accepted_from
from detectors.schedule import DAY, Schedule
from detectors.schedule_learning import learn
from detectors.timeliness_history import NONE, Arrivals, gather, seconds
from shared.contract import Holidays
from shared.contract_timeliness import Arrival, ScheduleUse, TimelinessRequest
from shared.errors import InvalidRequest
from shared.history import Series

type FloatArray = NDArray[np.float64]
type IntArray = NDArray[np.int64]

MATCHED = WINDOW + 40  # the latest arrivals, which are matched with their due times
LEARNT_FROM = 6000  # the latest arrivals, which a schedule is learnt from
LONGEST = 20_000  # due times without a load, after which nobody expects the next one
CLOCK_SKEW = 600  # seconds by which an arrival may be newer than the clock of who asks
AHEAD = (15, 70, 800, 3000)  # days within which the next two due times are looked for


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
        place = _told(arrivals, seconds(request.due_at, zone), zone, request.baseline)
        return Case(as_of, zone, arrivals, ScheduleUse(source="told", description="as told", timezone=zone), place)
    holidays = request.holidays or Holidays.model_validate(card.get("holidays") or {})
    away = days_away(holidays, arrivals.at, as_of, zone)
    known, source = _schedule(request, card, arrivals, zone, away)
    if known is None:
        if len(arrivals.lags):
            raise InvalidRequest("historical_data: plain minutes after due need due_at or a schedule.", "historical_data")
        return Case(as_of, zone, arrivals)
    use = ScheduleUse(source=source, description=known.describe(), timezone=zone)
    return Case(as_of, zone, arrivals, use, _scheduled(known, arrivals, zone, away, as_of, request.baseline))


def days_away(holidays: Holidays, at: IntArray, as_of: int, zone: str) -> frozenset[int]:
    """The day buckets of holidays from the first arrival on, and for a year after the question."""
    if not (holidays.country or holidays.dates):
        return frozenset()
    first, last = calendar.buckets(np.array([at[0] if len(at) else as_of, as_of + 366 * DAY]), zone).tolist()
    classes, _ = calendar_of(holidays, first, last, "daily")
    return frozenset((first + np.flatnonzero(classes == calendar.HOLIDAY)).tolist())


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


def _scheduled(known: Schedule, arrivals: Arrivals, zone: str, away: frozenset[int], as_of: int,
               baseline: datetime | None) -> Place | None:
    """The last load that came, or the one after it once that is about to come. None where nothing is due, ever again."""
    at, excluded = arrivals.at[-MATCHED:], arrivals.excluded[-MATCHED:]
    longest = round(LONGEST / schedule.loads_a_day(known) * DAY)
    given_up = bool(len(at)) and as_of > at[-1] + longest
    as_of = int(at[-1]) + longest if given_up else as_of
    start = max(int(at[0]), as_of - 2 * longest) if len(at) else as_of
    for days in AHEAD:
        due = remembered(known, at.tobytes(), zone, away, start, (as_of // DAY + 1 + days) * DAY)
        if (due.at[due.required] > as_of).sum() >= 2:
            break
    else:
        return None
    last = int(due.met[-1]) if len(due.met) else -1
    coming = due.required[due.required > last]
    begun = coming[due.begun[coming] <= as_of]
    # Where nothing ever came, what was due long before anybody asked is not missing.
    first = int(coming[0]) if last < 0 else last
    index = int(begun[0 if last >= 0 else -1]) if len(begun) else first
    out = coming[(coming >= index) & (due.at[coming] <= as_of)] if index != last else coming[:0]
    ahead = coming[due.at[coming] + 60 * due.usual > as_of][: 0 if given_up else None]
    learnt = due.met[due.met < index]
    learnt = learnt[~excluded[due.arrival[learnt]]]
    gone = due.required[(due.required > (due.met[0] if last >= 0 else index)) & (due.required < index)]
    return _place(
        arrivals.lags, _rebased(due.at[learnt], due.lag[learnt], baseline), due.hours[np.append(learnt, index)],
        due=int(due.at[index]), slack=int(due.slack[index]), lag=float(due.lag[index]), out=due.at[out],
        coming=int(due.at[ahead[0]]) if len(ahead) else None, missing=int((due.arrival[gone] < 0).sum()),
        loads_a_month=due.loads_a_month,
        last_lag=round(float(at[-1] - due.at[last]) / 60.0, 2) if last >= 0 else None,
    )


def _told(arrivals: Arrivals, due: int, zone: str, baseline: datetime | None) -> Place:
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
        arrivals.lags, _rebased(dues, (at - dues) / 60.0, baseline), clock.local(np.append(dues, due), zone) // clock.HOUR,
        due=due, slack=0, lag=float((came[0] - due) / 60.0) if len(came) else np.nan,
        out=np.append(gone, due) if not len(came) else gone[:0], coming=None,
        missing=int((arrivals.missed < due).sum()),
        loads_a_month=MONTH / float(np.median(np.diff(np.append(past, due)))) if len(past) else MONTH / DAY,
        last_lag=round(float(came[0] - due) / 60.0, 2) if len(came) else None,
    )


def _rebased(due: IntArray, lags: FloatArray, baseline: datetime | None) -> FloatArray:
    """The lags of due times (m,) in UTC seconds, those that came before the baseline moved to what is usual since."""
    if baseline is None:
        return lags
    return rebased_lags(lags, int(np.searchsorted(due + 60.0 * lags, baseline.timestamp())))


def _place(plain: FloatArray, lags: FloatArray, hours: IntArray, **own: Any) -> Place:
    """With the lags that are learnt from: nothing before the last accepted change of the usual."""
    plain = plain[np.isfinite(plain)]
    before = np.concatenate([plain, lags])[-MATCHED:]
    hours = np.concatenate([np.full(len(plain), hours[-1]), hours])[-len(before) - 1 :]
    start = _accepted_from(before.tobytes())
    return Place(before=before[start:], hours=hours[start:], **own)


@lru_cache(maxsize=256)
def _accepted_from(before: bytes) -> int:
    return accepted_from(np.frombuffer(before))
