"""The sentences of a verdict."""

from __future__ import annotations

from detectors.decision import Decision

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def number(value: float) -> str:
    """1234567.0 -> 1,234,567; 0.25 -> 0.25."""
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 100 else f"{value:,.2f}".rstrip("0").rstrip(".")


def volume(value: float, expected: float, decision: Decision, granularity: str, bucket: int, holiday: str | None, *,
           known_calendar: bool) -> str:
    """`412 rows; 9,728 expected (9,112-10,344) for a Monday. Down 95.8%.`"""
    if decision.upper is None:
        span = f"at least {number(decision.lower or 0)}"
    else:
        span = f"{number(decision.lower or 0)}-{number(decision.upper)}"
    text = f"{_rows(value)}; {number(round(expected))} expected ({span})"
    if known_calendar:
        text += _occasion(granularity, bucket, holiday)
    if decision.direction == "stuck":
        return f"{text}. Exactly the count of the bucket before: a load that repeats itself?"
    if value == 0 and decision.is_anomaly:
        return f"{text}. Nothing arrived."
    if expected <= 0:
        return f"{text}."
    percent = 100 * (value - expected) / expected
    if abs(percent) < 0.05:
        return f"{text}. As expected."
    size = f"{abs(percent):.1f}%" if abs(percent) < 1000 else f"{value / expected:,.0f} times as many"
    change = f"{'Up' if percent > 0 else 'Down'} {size}" if abs(percent) < 1000 else size.capitalize()
    return f"{text}. {change}{_afterthought(decision)}."


def _afterthought(decision: Decision) -> str:
    if decision.is_anomaly:
        return ""
    return ", within the usual range" if decision.held_back is None else f", {decision.held_back}"


def _rows(value: float) -> str:
    return f"{number(value)} row{'' if value == 1 else 's'}"


def _occasion(granularity: str, bucket: int, holiday: str | None) -> str:
    if holiday:
        return f" for {holiday}"
    if granularity == "daily":
        return f" for a {WEEKDAYS[(bucket + 3) % 7]}"
    if granularity == "hourly":
        return f" for a {WEEKDAYS[(bucket // 24 + 3) % 7]}, {bucket % 24:02d}:00"
    return ""
