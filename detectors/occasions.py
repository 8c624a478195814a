"""Days that a calendar has a name for, and which of them explains that a table was unlike itself."""

from __future__ import annotations

import calendar as months
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from detectors.calendar import EPOCH, HOLIDAY
from detectors.context import calendar_of
from shared.contract import Holidays
from shared.contract_feedback import WEEKDAYS, When

# A Bayes factor from which on evidence is called positive (Kass and Raftery, "Bayes Factors", 1995, section 3.2).
POSITIVE = 3.0
_ORDINALS = ("first", "second", "third", "fourth", "fifth")


def matches(when: When, moment: datetime, zone: str = "UTC", holidays: Holidays | None = None) -> bool:
    """Whether an aware moment lies on one of the days (and in the hour) that are meant, on the clocks of `zone`.

    Raises InvalidRequest for a holiday calendar that does not exist.
    """
    local = moment.astimezone(ZoneInfo(zone))
    day = local.date()
    length = months.monthrange(day.year, day.month)[1]
    return (
        (when.hour is None or local.hour == when.hour)
        and (when.month is None or day.month == when.month)
        and (when.weekday is None or WEEKDAYS[day.weekday()] == when.weekday)
        and (when.nth is None or when.nth in ((day.day + 6) // 7, -((length - day.day) // 7 + 1)))
        and (when.day is None or when.day in (day.day, day.day - length - 1))
        and (when.holiday is None or day in _holidays(day, day, holidays))
        and (when.working_day is None or _working_day(when.working_day, day, length, holidays))
    )


def following(when: When, moment: datetime, zone: str = "UTC", holidays: Holidays | None = None) -> date | None:
    """The first of these days after that of a moment, within a little more than four years: 29 February is one, too."""
    local = moment.astimezone(ZoneInfo(zone)).replace(hour=when.hour if when.hour is not None else 12)
    later = (local + timedelta(n) for n in range(1, 1500))
    return next((day.date() for day in later if matches(when, day, zone, holidays)), None)


def words(when: When) -> str:
    """`every first Monday of the month`, `every 24 December`, `every day at 03:00`."""
    parts = []
    if when.holiday:
        parts.append("public holiday")
    if when.weekday is not None:
        name = when.weekday.capitalize()
        parts.append(name if when.nth is None else f"{_ordinal(when.nth)} {name} of the month")
    if when.working_day is not None:
        parts.append(f"{_ordinal(when.working_day)} working day of the month")
    in_month = when.month
    if when.day is not None and when.day > 0 and when.month is not None:
        parts.append(f"{when.day} {months.month_name[when.month]}")
        in_month = None
    elif when.day is not None:
        parts.append(f"{_ordinal(when.day)} day of the month")
    text = " that is the ".join(parts) or "day"
    text += f" in {months.month_name[in_month]}" if in_month is not None else ""
    return f"every {text}" + (f" at {when.hour:02d}:00" if when.hour is not None else "")


@dataclass(frozen=True, slots=True)
class Explanation:
    """Days that a judged point may stand for: of the others like them `alike` were unlike themselves, too, and `unlike` not.

    `base` (0 to 1) is how often any day was.
    """

    when: When
    alike: int
    unlike: int
    base: float
    is_remarkable: bool

    @property
    def rate(self) -> float:
        """How likely the next of these days is like the judged one (Laplace's rule of succession)."""
        return (self.alike + 1) / (self.alike + self.unlike + 2)

    @property
    def log_factor(self) -> float:
        """The logarithm of the Bayes factor of these days having a rate of their own, any being as likely, against that of
        all days. The factor itself is beyond a float where hundreds of hours agree.
        """
        k, n = self.alike, self.alike + self.unlike
        own = math.lgamma(k + 1) + math.lgamma(n - k + 1) - math.lgamma(n + 2)
        return own - k * math.log(self.base) - (n - k) * math.log1p(-self.base)

    @property
    def holds(self) -> bool:
        """Whether the history supports it; where it tells nothing, a remarkable day is enough."""
        others = self.alike + self.unlike
        if not others:
            return self.is_remarkable
        return self.alike / others > max(0.5, self.base) and self.log_factor >= math.log(POSITIVE)

    def told(self) -> str:
        """`every last day of the month: 3 of the 3 others were like it`"""
        others = self.alike + self.unlike
        evidence = f"{self.alike} of the {others} others were like it" if others else "no other is known"
        return f"{words(self.when)}: {evidence}"


def explain(moment: datetime, others: Iterable[tuple[datetime, bool]], granularity: str, zone: str = "UTC",
            holidays: Holidays | None = None) -> list[Explanation]:
    """What the calendar offers for a judged moment, the best first; only what `holds` explains it.

    `others` are the table's other points, each with whether it was unlike itself in the same way. Of equals the rarer days
    come first.
    """
    known = [(at, alike) for at, alike in others if at != moment]
    base = (sum(alike for _, alike in known) + 1) / (len(known) + 2)
    found = []
    for when, is_remarkable in _candidates(moment, granularity, zone, holidays):
        same = [alike for at, alike in known if matches(when, at, zone, holidays)]
        found.append(Explanation(when, sum(same), len(same) - sum(same), base, is_remarkable))
    # Sorting is stable, and candidates come from the rare to the frequent.
    return sorted(found, key=lambda one: (not one.holds, -one.rate))


def _candidates(moment: datetime, granularity: str, zone: str, holidays: Holidays | None) -> list[tuple[When, bool]]:
    """Days that the moment is one of, and whether they are worth a rule without any evidence; rare ones first."""
    local = moment.astimezone(ZoneInfo(zone))
    day, hour = local.date(), local.hour if granularity == "hourly" else None
    if granularity == "monthly":
        return [(When(month=day.month), False)]
    length = months.monthrange(day.year, day.month)[1]
    weekday, nth = WEEKDAYS[day.weekday()], (day.day + 6) // 7
    is_last, is_holiday = day.day + 7 > length, day in _holidays(day, day, holidays)
    found: list[tuple[dict[str, int | str], bool]] = [({"day": day.day, "month": day.month}, is_holiday)]
    found += [({"holiday": True}, True)] if is_holiday else []
    found += [({"day": at}, True) for at in (-1, 1) if at in (day.day, day.day - length - 1)]
    found += [({"working_day": at}, True) for at in (-1, 1) if _working_day(at, day, length, holidays)]
    found += [({"weekday": weekday, "nth": -1}, True)] if is_last else []
    found += [({"weekday": weekday, "nth": nth}, nth == 1)]
    found += [({"day": day.day}, False)] if 1 < day.day < length else []
    if granularity != "weekly":  # every week has one
        found += [({"weekday": weekday}, False)]
    found += [({}, False)] if hour is not None else []
    return [(When.model_validate({**given, "hour": hour} if hour is not None else given), known) for given, known in found]


def _working_day(nth: int, day: date, length: int, holidays: Holidays | None) -> bool:
    """Whether the day is the n-th working day of its month, which has `length` days; from the end where n is negative."""
    if day.weekday() > 4:
        return False
    first, last = (day.replace(day=1), day) if nth > 0 else (day, day.replace(day=length))
    off = _holidays(first, last, holidays)
    span = [first + timedelta(n) for n in range((last - first).days + 1)]
    return day not in off and sum(at.weekday() < 5 and at not in off for at in span) == abs(nth)


def _holidays(first: date, last: date, holidays: Holidays | None) -> Sequence[date]:
    """The public holidays from `first` to `last`."""
    if holidays is None or not (holidays.country or holidays.dates):
        return ()
    start = (first - EPOCH).days
    classes, _ = calendar_of(holidays, start, (last - EPOCH).days, "daily")
    return [first + timedelta(n) for n, kind in enumerate(classes.tolist()) if kind == HOLIDAY]


def _ordinal(number: int) -> str:
    if number == -1:
        return "last"
    n = abs(number)
    ending = "th" if n in (11, 12, 13) else _ENDINGS.get(n % 10, "th")
    name = _ORDINALS[n - 1] if n <= len(_ORDINALS) else f"{n}{ending}"
    return name if number > 0 else f"{name} last"


_ENDINGS = {1: "st", 2: "nd", 3: "rd"}
