"""Simulated feeds: loads that keep to a schedule with lags of any distribution, and questions about them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from detectors import schedule, timeliness
from detectors.schedule import Schedule, Weekly
from shared.contract import parse
from shared.contract_timeliness import TimelinessAnswer, TimelinessRequest

BERLIN = "Europe/Berlin"
type Lags = Callable[[np.random.Generator, int], Any]


def at(text: str, zone: str = BERLIN) -> int:
    """`2026-03-20T02:30` of a zone's clocks -> UTC seconds."""
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp())


def iso(second: float) -> str:
    return datetime.fromtimestamp(int(second), UTC).isoformat()


def weekly(days: Any, *times: str) -> Weekly:
    minutes = [int(t[:2]) * 60 + int(t[3:]) for t in times]
    return Weekly(tuple((int(day), minute) for day in days for minute in minutes))


DAILY = weekly(range(7), "02:30")
WORKDAYS = weekly(range(5), "06:30")
HOURLY = weekly(range(7), *(f"{hour:02d}:05" for hour in range(24)))


def jitter(sd: float) -> Lags:
    return lambda rng, n: rng.normal(0, sd, n)


def feed(keeps: Schedule, start: str, end: str, lags: Lags | None = None, zone: str = BERLIN, seed: int = 0,
         holidays: frozenset[int] = frozenset()) -> Any:
    """(q,) UTC seconds at which the loads came, in order."""
    due = schedule.dues(keeps, at(start, zone), at(end, zone), zone, holidays).at
    return np.sort(due + (60 * (lags or jitter(4))(np.random.default_rng(seed), len(due))).astype(np.int64))


def ask(arrivals: Any, as_of: float, zone: str = BERLIN, **body: Any) -> TimelinessAnswer:
    """The verdict at a moment, with the arrivals until then as the request's history."""
    history = [iso(second) for second in arrivals if second <= as_of]
    return detect(as_of=iso(as_of), timezone=zone, historical_data=history, **body)


def detect(catalogue: Any = None, **body: Any) -> TimelinessAnswer:
    request = parse(TimelinessRequest, json.dumps(body).encode())
    return timeliness.detect(request, catalogue, datetime.now(UTC))
