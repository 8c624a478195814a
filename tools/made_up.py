"""Made-up tables whose normal behaviour is known: what the checks of the detectors and the benchmarks run on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import numpy as np

START = datetime(2026, 1, 5, 2, tzinfo=UTC)  # a Monday
type Entry = dict[str, Any]


def stamp(days: float) -> str:
    return (START + timedelta(days=days)).isoformat()


def counts(seed: int, n: int) -> list[Entry]:
    """n daily counts with a week and 3 % noise."""
    rng = np.random.default_rng(seed)
    rows = 10_000 * np.array([1, 1.1, 1.1, 1.05, 0.9, 0.4, 0.3])[np.arange(n) % 7] * np.exp(rng.normal(0, 0.03, n))
    return [{"timestamp": stamp(d), "row_count": round(float(r))} for d, r in enumerate(rows)]


def arrivals(seed: int, n: int) -> list[Entry]:
    """n daily loads due at 2:00, some minutes late."""
    lags = np.random.default_rng(seed).gamma(4, 3, n)
    return [{"timestamp": stamp(d + lag / 1440)} for d, lag in enumerate(lags.tolist())]


def profiles(seed: int, n: int, columns: int = 3) -> list[Entry]:
    """n daily profiles of a table with numbers, labels and booleans, a third each."""
    rng = np.random.default_rng(seed)
    return [_profile(rng, d, columns) for d in range(n)]


def _profile(rng: np.random.Generator, day: int, columns: int) -> Entry:
    rows = 5_000 + int(rng.normal(0, 100))
    kinds = (_amount, _country, _paid)
    return {"profiledAt": stamp(day), "rowCount": rows, "columnProfiles": [
        kinds[i % 3](rng, rows) | {"columnName": f"{kinds[i % 3].__name__[1:]}{i // 3 or ''}"} for i in range(columns)]}


def _amount(rng: np.random.Generator, rows: int) -> Entry:
    amount = rng.normal(100, 20, 500)
    low, middle, high = np.quantile(amount, [0.25, 0.5, 0.75]).tolist()
    return {"dataType": "double", "nullPercentage": float(rng.beta(20, 980) * 100), "minValue": float(amount.min()),
            "maxValue": float(amount.max()), "mean": float(amount.mean()), "stddev": float(amount.std()),
            "distinctCount": rows - int(rng.integers(50)), "quantiles": {"p25": low, "p50": middle, "p75": high}}


def _country(rng: np.random.Generator, rows: int) -> Entry:
    french = int(rng.binomial(rows, 0.3))
    return {"dataType": "varchar", "nullPercentage": 0.0, "distinctCount": 2,
            "topValues": [{"value": "DE", "count": rows - french}, {"value": "FR", "count": french}]}


def _paid(rng: np.random.Generator, rows: int) -> Entry:
    return {"dataType": "boolean", "nullPercentage": 0.0, "mean": float(rng.binomial(rows, 0.8) / rows)}


def batches(seed: int, n: int, values: int = 120) -> list[Entry]:
    """n daily batches of order ids in two formats."""
    random = Random(seed)
    return [{"timestamp": stamp(d), "values": [f"ORD-{random.randrange(10_000, 100_000)}" if random.random() < 0.8
                                               else f"DE/{random.randrange(1_000, 10_000)}" for _ in range(values)]}
            for d in range(n)]


def hours(seed: int, n: int) -> list[Entry]:
    """n hours of one metric with a day and weekends."""
    rng = np.random.default_rng(seed)
    hour = np.arange(n)
    level = 200 + 120 * np.sin(2 * np.pi * (hour % 24 - 8) / 24) + 20 * (hour // 24 % 7 < 5)
    return [{"timestamp": stamp(h / 24), "values": [round(float(v), 3)]} for h, v in enumerate(level + rng.normal(0, 8, n))]
