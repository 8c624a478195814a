"""Simulated metrics by the hour, and questions about them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from detectors import sequence
from detectors.sequence_filter import RHYTHMS, Filter
from shared.contract import parse
from shared.contract_sequence import SequenceAnswer, SequenceRequest
from training.sequence_faults import EXPECTED

START = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday
NOW = datetime(2026, 9, 1, tzinfo=UTC)
DAY = 24
HOURLY = RHYTHMS["hourly"]


def metrics(days: int, m: int = 1, seed: int = 0, noise: float = 0.05) -> Any:
    """(24 days, m) values: two waves a day, weekends lower, each metric with noise of its own; two decimals."""
    hours = np.arange(DAY * days)
    wave = 100 + 60 * np.sin(2 * np.pi * (hours - 8) / DAY) + 20 * np.sin(4 * np.pi * hours / DAY)
    wave = np.where(hours // DAY % 7 >= 5, 0.7 * wave, wave)
    return np.round(wave[:, None] * (1 + noise * np.random.default_rng(seed).normal(size=(len(hours), m))), 2)


def points(values: Any, first: int = 0, step: timedelta = timedelta(hours=1)) -> list[dict[str, Any]]:
    """Rows as they are sent, NaN as null; row `first` of a series comes first, and rows without any value are left out."""
    return [{"timestamp": (START + (first + i) * step).isoformat(),
             "values": [None if np.isnan(value) else float(value) for value in row]}
            for i, row in enumerate(values) if not np.isnan(row).all()]


def request(values: Any, judged: int, **body: Any) -> SequenceRequest:
    """The last `judged` rows are asked about, those before are the request's history."""
    lead = len(values) - judged
    asked = {"metrics": [f"metric{j}" for j in range(values.shape[1])], "points": points(values[lead:], lead),
             "historical_data": points(values[:lead])}
    return parse(SequenceRequest, json.dumps(asked | body).encode())


def ask(values: Any, judged: int = DAY, catalogue: Any = None, **body: Any) -> SequenceAnswer:
    return sequence.detect(request(values, judged, **body), catalogue, NOW)


def beginning(values: Any) -> Filter:
    return Filter.begin(values[: HOURLY.setup], int(START.timestamp()) // 3600, HOURLY)


def log_odds(values: Any) -> Any:
    """(n, m) of all buckets, by a filter that begins with the first."""
    known = beginning(values)
    return np.array([known.step(row).log_odds for row in values])


USUAL = metrics(22)


def with_fault(name: str, metric: int = 0, values: Any = USUAL) -> Any:
    changed = values.copy()
    day, before, week = (values[len(values) - DAY * (1 + lag): len(values) - DAY * lag, metric] for lag in (0, 1, 7))
    changed[-DAY:, metric] = EXPECTED[name](day, before, week)
    return changed
