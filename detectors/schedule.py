"""When is a load due? Schedules in a table's local time, and the moments at which each expects an arrival."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from detectors import calendar, clock

type IntArray = NDArray[np.int64]
type BoolArray = NDArray[np.bool_]

DAY = 86_400
DAY_MINUTES = 1440
FOUR_YEARS = np.arange(730, 730 + 1461)  # 1972 to 1975
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_ENDINGS = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd", 31: "st"}
ANCHORS = ("working_day", "last_working_day", "day", "last_day")


class Dues(NamedTuple):
    """Moments at which loads are due: (m,) UTC seconds, increasing, and (m,) seconds by which each may be meant later.

    The slack is that of `clock.moments`: an hour where the clocks change, else 0.
    """

    at: IntArray
    slack: IntArray


class Schedule(Protocol):
    """Knows which minutes of local days a load is due. Hashable: what follows from it is remembered."""

    def __hash__(self) -> int: ...

    def minutes(self, days: IntArray, away: BoolArray) -> IntArray:
        """(d,) consecutive day buckets and which of them are holidays -> local minutes since 1970, increasing."""
        ...

    def describe(self) -> str:
        """For people: `Mon-Fri 02:30`."""
        ...


@dataclass(frozen=True, slots=True)
class Cron:
    """Five fields (minute, hour, day, month, weekday), or six with seconds first, which are left out. Check with `parse`."""

    text: str

    def minutes(self, days: IntArray, away: BoolArray) -> IntArray:
        fields = _fields(self.text)
        minutes = np.array([60 * h + m for h in fields.hours for m in fields.minutes], np.int64)
        dates = days.astype("datetime64[D]")
        months = dates.astype("datetime64[M]")
        of_month = (dates - months).astype(np.int64) + 1
        left = ((months + np.timedelta64(1, "M")).astype("datetime64[D]") - dates).astype(np.int64)
        weekday = (days + 3) % 7
        by_day = np.isin(of_month, fields.days) | ((left == 1) & fields.last_day)
        by_weekday = np.zeros(len(days), np.bool_)
        for wanted, numbers in fields.weekdays.items():
            chosen = np.isin((of_month + 6) // 7, numbers) | ((left <= 7) & (0 in numbers)) if numbers else True
            by_weekday |= (weekday == wanted) & chosen
        due = by_day | by_weekday if fields.either else by_day & by_weekday
        due &= np.isin(months.astype(np.int64) % 12 + 1, fields.months)
        return (days[due, None] * DAY_MINUTES + minutes).ravel()

    def describe(self) -> str:
        return f"cron {self.text}"


@dataclass(frozen=True, slots=True)
class Weekly:
    """`times` are (weekday, minute of the day), Monday 0, in order."""

    times: tuple[tuple[int, int], ...]

    def minutes(self, days: IntArray, away: BoolArray) -> IntArray:
        weekday = (days + 3) % 7
        due: IntArray = np.sort(np.concatenate([days[weekday == w] * DAY_MINUTES + minute for w, minute in self.times]))
        return due

    def describe(self) -> str:
        by_times: dict[tuple[int, ...], list[int]] = {}
        for weekday in range(7):
            if times := tuple(minute for w, minute in self.times if w == weekday):
                by_times.setdefault(times, []).append(weekday)
        return "; ".join(f"{_weekdays(days)} {_times(times)}" for times, days in by_times.items())


@dataclass(frozen=True, slots=True)
class EveryDays:
    """One load each `days` days at a minute of the day, on the days whose bucket leaves `phase` when divided."""

    days: int
    phase: int
    minute: int

    def minutes(self, days: IntArray, away: BoolArray) -> IntArray:
        due: IntArray = days[days % self.days == self.phase] * DAY_MINUTES + self.minute
        return due

    def describe(self) -> str:
        return f"every {self.days} days {_clock(self.minute)}"


@dataclass(frozen=True, slots=True)
class Monthly:
    """One load a month: on the `number`-th day or working day, counted from 1, from the month's start or its end.

    A 31st is the last day of a shorter month; working days are Monday to Friday without holidays.
    """

    anchor: str
    number: int
    minute: int

    def minutes(self, days: IntArray, away: BoolArray) -> IntArray:
        place = month_places(days, away)[ANCHORS.index(self.anchor)]
        on = place == self.number
        if self.anchor == "day":
            on |= (place < self.number) & (month_places(days, away)[ANCHORS.index("last_day")] == 1)
        due: IntArray = days[on] * DAY_MINUTES + self.minute
        return due

    def describe(self) -> str:
        end = "last " if self.anchor.startswith("last") else ""
        unit = "working day" if self.anchor.endswith("working_day") else "day"
        counted = "" if end and self.number == 1 else f"{self.number}{_ENDINGS.get(self.number, 'th')} "
        return f"{counted}{end}{unit} of the month {_clock(self.minute)}"


@dataclass(frozen=True, slots=True)
class Interval:
    """No clock: every load is due `gap` minutes after the one before it."""

    gap: float

    def minutes(self, days: IntArray, away: BoolArray) -> IntArray:
        raise TypeError("an interval is counted from the last arrival, not from days")

    def describe(self) -> str:
        return f"{self.gap:,.0f} minutes after the load before"


_KINDS: dict[str, type[Any]] = {"cron": Cron, "weekly": Weekly, "every": EveryDays, "monthly": Monthly, "interval": Interval}


def to_json(schedule: Schedule) -> dict[str, Any]:
    """As a model's card keeps it: lists, no tuples."""
    kind = next(name for name, of in _KINDS.items() if isinstance(schedule, of))
    fields: dict[str, Any] = asdict(schedule)  # type: ignore[call-overload]
    if kind == "weekly":
        fields["times"] = [list(time) for time in fields["times"]]
    return {"kind": kind, **fields}


def from_json(card: Mapping[str, Any]) -> Schedule:
    """Raises KeyError or TypeError for what `to_json` never wrote."""
    fields = {name: value for name, value in card.items() if name != "kind"}
    if card["kind"] == "weekly":
        fields["times"] = tuple((w, minute) for w, minute in fields["times"])
    schedule: Schedule = _KINDS[card["kind"]](**fields)
    return schedule


@lru_cache(maxsize=256)
def loads_a_day(schedule: Schedule) -> float:
    """On average over four years."""
    if isinstance(schedule, Interval):
        return DAY_MINUTES / schedule.gap
    return len(schedule.minutes(FOUR_YEARS, np.zeros(len(FOUR_YEARS), np.bool_))) / len(FOUR_YEARS)


def dues(schedule: Schedule, start: int, end: int, timezone: str, holidays: frozenset[int] = frozenset()) -> Dues:
    """The moments from UTC second `start` to `end`; `holidays` are day buckets."""
    first, last = calendar.buckets(np.array([start - DAY, end + DAY]), timezone)
    # Whole months, because days are counted from both ends of one.
    days = np.arange(first - 31, last + 32)
    at, slack = clock.moments(schedule.minutes(days, np.isin(days, list(holidays))) * 60, timezone)
    inside = (at >= start) & (at <= end)
    return Dues(at[inside], slack[inside])


def month_places(days: IntArray, away: BoolArray) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """(d,) consecutive days -> the place of each in its month, as in ANCHORS, from 1; 0 for one that is no working day.

    Only right for months that lie wholly in `days`.
    """
    month = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    working, every = ((days + 3) % 7 < 5) & ~away, np.ones(len(days), np.bool_)

    def places(counted: BoolArray, month: IntArray) -> IntArray:
        running = np.cumsum(counted)
        begins = np.flatnonzero(np.diff(month, prepend=month[0] - 1))
        before = (running - counted)[begins][np.cumsum(np.diff(month, prepend=month[0]) != 0)]
        return np.where(counted, running - before, 0)

    def both(counted: BoolArray) -> tuple[IntArray, IntArray]:
        return places(counted, month), places(counted[::-1], month[::-1])[::-1]

    return *both(working), *both(every)


class _Fields(NamedTuple):
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    last_day: bool
    months: tuple[int, ...]
    weekdays: dict[int, tuple[int, ...]]  # Monday 0 -> which of the month, 0 the last; () every one
    either: bool  # day and weekday are both restricted: one of them is enough, as in every cron


def parse(text: str) -> Cron:
    """Raises ValueError where it is no cron expression, or one that is never due."""
    cron = Cron(text.strip())
    if not loads_a_day(cron):
        raise ValueError(f"{text!r} is never due")
    return cron


@lru_cache(maxsize=1024)
def _fields(text: str) -> _Fields:
    from croniter import CroniterError, croniter  # 0.1 s, and only where a cron expression is given

    parts = text.split()
    if len(parts) == 6:
        parts = parts[1:]
    named = len(parts) == 1 and text.startswith("@")
    if not named and (len(parts) != 5 or not re.fullmatch(r"[0-9A-Za-z*,/#? -]+", text) or re.search(r"\b[HhRr]\b", text)):
        raise ValueError(f"{text!r} is no cron expression such as '30 2 * * 1-5'")
    try:
        (minutes, hours, days, months, weekdays), nth = croniter.expand(" ".join(parts))
    except (CroniterError, ValueError) as error:
        raise ValueError(f"{text!r} is no cron expression such as '30 2 * * 1-5': {error}") from None
    which = {(d - 1) % 7: tuple(0 if n == "l" else n for n in nth.get(d, ())) for d in _numbers(weekdays, 0, 6)}
    return _Fields(_numbers(minutes, 0, 59), _numbers(hours, 0, 23), _numbers(days, 1, 31), "l" in days,
                   _numbers(months, 1, 12), which, either="*" not in days and "*" not in weekdays)


def _numbers(field: list[Any], first: int, last: int) -> tuple[int, ...]:
    return tuple(range(first, last + 1)) if field == ["*"] else tuple(n for n in field if isinstance(n, int))


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


def _times(minutes: tuple[int, ...]) -> str:
    if len(minutes) <= 4:
        return ", ".join(map(_clock, minutes))
    step = round(float(np.median(np.diff(minutes))))
    return f"every {step} minutes from {_clock(minutes[0])} to {_clock(minutes[-1])}"


def _weekdays(days: list[int]) -> str:
    if len(days) == 7:
        return "daily"
    if len(days) > 2 and days == list(range(days[0], days[-1] + 1)):
        return f"{WEEKDAYS[days[0]]}-{WEEKDAYS[days[-1]]}"
    return ", ".join(WEEKDAYS[d] for d in days)
