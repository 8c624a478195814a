"""Simulated tables: batches of rows with columns of every kind, profiled as they would come in."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from detectors import distribution
from shared.catalogue import Catalogue
from shared.contract import parse
from shared.contract_distribution import DistributionAnswer, DistributionRequest
from shared.settings import Settings

START = datetime(2026, 3, 2, 6, tzinfo=UTC)  # a Monday
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def day(i: int) -> str:
    return (START + timedelta(days=i)).isoformat()


def batch(i: int, columns: int = 8, rows: int = 1000) -> dict[str, Any]:
    """The profile of day i: amounts, cities, dates and flags in turn, the same for the same i."""
    rng = np.random.default_rng([i, columns])
    n = int(rng.poisson(rows))
    makers = (amounts, cities, dates, flags)
    return {"profiledAt": day(i), "rowCount": n,
            "columnProfiles": [makers[c % 4](f"{makers[c % 4].__name__}{c:03d}", rng, n, i) for c in range(columns)]}


def amounts(name: str, rng: np.random.Generator, n: int, i: int) -> dict[str, Any]:
    x = rng.normal(50, 10, 200)
    nulls = rng.binomial(n, 0.02)
    return {"columnName": name, "dataType": "decimal(10,2)", "nullPercentage": 100 * nulls / n, "distinctCount": n - nulls,
            "minValue": x.min(), "maxValue": x.max(), "mean": x.mean(), "stddev": x.std(),
            "quantiles": {f"p{100 * q:g}": float(np.quantile(x, q)) for q in LEVELS}}


def cities(name: str, rng: np.random.Generator, n: int, i: int) -> dict[str, Any]:
    counts = rng.multinomial(n, [0.5, 0.3, 0.15, 0.05])
    return {"columnName": name, "dataType": "varchar", "nullPercentage": 0.0, "distinctCount": 4,
            "topValues": [{"value": city, "count": int(c)}
                          for city, c in zip(("Berlin", "Köln", "Ulm", "Aue"), counts, strict=True)],
            "lengths": {"min": 3, "max": 6, "mean": 4.7 + rng.normal(0, 0.02), "std": 1.3}, "patterns": {"Aaaaaa": n}}


def dates(name: str, rng: np.random.Generator, n: int, i: int) -> dict[str, Any]:
    newest = START + timedelta(days=i, minutes=float(rng.normal(-60, 5)))
    return {"columnName": name, "dataType": "timestamp", "nullPercentage": 0.0, "distinctCount": int(rng.binomial(n, 0.9)),
            "minValue": (newest - timedelta(days=1)).isoformat(), "maxValue": newest.isoformat()}


def flags(name: str, rng: np.random.Generator, n: int, i: int) -> dict[str, Any]:
    return {"columnName": name, "dataType": "boolean", "nullPercentage": 0.0, "distinctCount": 2,
            "mean": float(rng.binomial(n, 0.3) / n)}


def history(n: int, columns: int = 8, rows: int = 1000) -> list[dict[str, Any]]:
    return [batch(i, columns, rows) for i in range(n)]


def column(profile: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in profile["columnProfiles"] if c["columnName"] == name)
    return found


def request(current: dict[str, Any], past: Any = (), **body: Any) -> DistributionRequest:
    whole = {"current_profile": current, "historical_profiles": list(past)} | body
    return parse(DistributionRequest, json.dumps(whole).encode(), limit=2**30)


def offline() -> Catalogue:
    """A catalogue for requests that name no table, and so need no storage."""
    return Catalogue(Settings())


def ask(current: dict[str, Any], past: Any = (), **body: Any) -> DistributionAnswer:
    """The verdict on a profile, with the history of the request alone."""
    return distribution.detect(request(current, past, **body), offline(), datetime.now(UTC))
