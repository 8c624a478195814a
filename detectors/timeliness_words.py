"""The sentences of a timeliness verdict."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from detectors.lags import FEWEST
from detectors.timeliness_case import Place
from detectors.timeliness_verdict import Finding

DAY, HOUR = 1440, 60
LAST = 253_402_128_000  # a day before the year 10000


def duration(minutes: float) -> str:
    """12.0 -> 12 minutes; 185.0 -> 3 h 5 min; 4500.0 -> 3 days 3 h."""
    whole = round(abs(minutes))
    if whole < 2 * HOUR:
        return f"{whole} minute{'' if whole == 1 else 's'}"
    if whole < 2 * DAY:
        return f"{whole // HOUR} h {whole % HOUR} min" if whole % HOUR else f"{whole // HOUR} h"
    days, hours = divmod(round(whole / HOUR), 24)
    return f"{days} days {hours} h" if hours else f"{days} days"


def clock(second: int, zone: str) -> str:
    """UTC seconds -> Mon 2026-09-21 02:30 in the table's own time."""
    return moment(second).astimezone(ZoneInfo(zone)).strftime("%a %Y-%m-%d %H:%M")


def moment(second: int) -> datetime:
    """Of a feed whose lags are absurd, the last moment there is."""
    return datetime.fromtimestamp(min(second, LAST), UTC)


def timeliness(finding: Finding, place: Place, late_after: int | None, zone: str, sla: float | None) -> str:
    """`Arrived 3 h 5 min after due (Mon 2026-09-21 02:30). Usually 12 minutes, at the latest 35 minutes after due. Late.`"""
    at = clock(place.due, zone)
    if finding.state is None:
        here = "Not here yet" if finding.value is None else f"Arrived {_after(finding.value)}"
        return f"{here} ({at}). {len(place.before)} of {FEWEST} arrivals known: verdicts begin after that."
    if finding.state == "pending":
        limit = f"; late after {clock(late_after, zone)}" if late_after is not None else ""
        return f"Not here yet and not late: due {at}{limit}."
    value = finding.value or 0.0
    if finding.state == "stopped":
        return f"Nothing has arrived for {duration(value)}: {finding.out} loads are missing, the first was due {at}."
    if finding.out:
        text = f"Nothing has arrived {duration(value)} after due ({at}). {_usual(finding)}"
        text += f" {finding.out} loads are missing." if finding.out > 1 else ""
    else:
        told = {"late": "Late", "early": "Early"}.get(finding.state, "On time")
        text = f"Arrived {_after(value)} ({at}). {_usual(finding)} {told}."
    return text + (f" Agreed are {duration(sla or 0.0)} at most." if finding.breached else "")


def _usual(finding: Finding) -> str:
    judgement = finding.judgement
    if judgement is None:
        return "What is usual is still being learnt."
    upper = finding.upper if finding.upper is not None else judgement.upper
    if not math.isfinite(upper):
        return f"Usually {_after(judgement.expected)}."
    return f"Usually {_after(judgement.expected)}, at the latest {_after(upper)}."


def stale(lag: float, expected: float, upper: float) -> str:
    """`Its newest event is 26 h older than the load; 20 minutes are usual, 45 minutes at most.`"""
    age = f"{duration(lag)} {'older' if lag >= 0 else 'newer'}"
    return f"Its newest event is {age} than the load; {duration(expected)} are usual, {duration(upper)} at most."


def _after(minutes: float) -> str:
    if abs(minutes) < 0.5:
        return "right when due"
    return f"{duration(minutes)} {'after' if minutes >= 0 else 'before'} due"
