"""Everything known to have arrived: the stored arrivals with the request's merged in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from detectors.context import utc
from shared.contract_timeliness import Arrival, Entry
from shared.history import OK, Series, left_out

type FloatArray = NDArray[np.float64]
type IntArray = NDArray[np.int64]
type BoolArray = NDArray[np.bool_]

NONE = -1  # stands for a moment that nobody told


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What is known up to the moment of a question.

    `at` (q,) UTC seconds, increasing; `status` (q,) codes of shared.history; `due` (q,) UTC seconds of the due time that
    was told with it, else NONE. `missed` are told due times of loads that never came. `lags` are plain minutes after due,
    oldest first. `event_at` and `event_lag` (e,) are the arrivals with a known event lag, in minutes.
    """

    at: IntArray
    status: NDArray[np.uint8]
    due: IntArray
    missed: IntArray
    lags: FloatArray
    event_at: IntArray
    event_lag: FloatArray
    warnings: tuple[str, ...] = ()

    @property
    def excluded(self) -> BoolArray:
        """(q,) whether a person said that nothing is to be learnt from it."""
        return left_out(self.status)

    @property
    def latest(self) -> int | None:
        """UTC seconds of the newest arrival."""
        return int(self.at[-1]) if len(self.at) else None

    @property
    def latest_event_lag(self) -> float | None:
        """Minutes from the newest event to the newest arrival, where they are known."""
        known = len(self.event_at) and self.event_at[-1] == self.latest
        return round(float(self.event_lag[-1]), 2) if known else None


def gather(entries: Sequence[Entry], latest: Arrival | None, stored: Series | None, events: Series | None, zone: str,
           until: int) -> Arrivals:
    """Up to UTC second `until`. Of several reports of one arrival the body's history counts over the stored."""
    told = [entry for entry in entries if isinstance(entry, Arrival)]
    newest, body = _columns([latest] if latest else [], zone), _columns(told, zone)
    parts = [newest[:2], body[:2]]
    known = [newest[2:], body[2:]]
    status = [np.full(len(part[0]), OK, np.uint8) for part in parts]
    if stored is not None:
        parts.insert(1, (stored.seconds, stored.seconds - np.rint(60 * stored.values).astype(np.int64)))
        status.insert(1, stored.status)
    if events is not None:
        known.insert(0, (events.seconds, events.values))
    at, due = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    event_at, event_lag = (np.concatenate(columns) for columns in zip(*known, strict=True))
    missed = np.unique(due[at == NONE])
    keep, kept = _last_of_each(at, until), _last_of_each(event_at, until)
    return Arrivals(
        at[keep], np.concatenate(status)[keep], due[keep], missed[(missed != NONE) & (missed <= until)],
        np.array([np.nan if e is None else e for e in entries if not isinstance(e, Arrival)], np.float64),
        event_at[kept], event_lag[kept], tuple(_warnings(told, body[0], zone)),
    )


def seconds(moment: datetime, zone: str) -> int:
    """UTC seconds; a moment without a zone is local time of the table."""
    return int(utc(moment, ZoneInfo(zone)).timestamp())


def _columns(entries: Sequence[Arrival], zone: str) -> tuple[IntArray, IntArray, IntArray, FloatArray]:
    """(m,) when each came and was due, NONE where it is not known; when those came that have an event lag, and that lag."""
    at, due, events = [], [], []
    for entry in entries:
        came = NONE if entry.timestamp is None else seconds(entry.timestamp, zone)
        expected = NONE if entry.due_at is None else seconds(entry.due_at, zone)
        if entry.lag_minutes is not None:
            lag = round(60 * entry.lag_minutes)
            came, expected = (expected + lag if came == NONE else came), (came - lag if expected == NONE else expected)
        at.append(came)
        due.append(expected)
        if entry.event_time is not None and came != NONE:
            events.append((came, (came - seconds(entry.event_time, zone)) / 60.0))
    return (np.array(at, np.int64), np.array(due, np.int64), np.array([e[0] for e in events], np.int64),
            np.array([e[1] for e in events], np.float64))


def _last_of_each(moments: IntArray, until: int) -> IntArray:
    """(m,) -> indices that put them in order, the last of equal ones, none that is NONE or after `until`."""
    order = np.argsort(moments, kind="stable")
    ordered = moments[order]
    last: IntArray = order[(np.diff(ordered, append=until + 1) > 0) & (ordered <= until) & (ordered != NONE)]
    return last


def _warnings(told: Sequence[Arrival], at: IntArray, zone: str) -> list[str]:
    warnings = []
    came = at[at != NONE]
    if len(np.unique(came)) < len(came):
        warnings.append("historical_data repeats an arrival: it counts once.")
    if any(entry.timestamp is not None and entry.timestamp.tzinfo is None for entry in told):
        warnings.append(f"Timestamps without a time zone were read as {zone}.")
    return warnings
