"""A table's trained model, asked about one batch.

Its graph takes `x` (n, p) metrics by the card's gauge, `last` (n, p) those of the batch before, `weekday` (n,) from Monday
on, 7 where unknown, and `threshold` (n,). It gives `score` (n,), `evidence`, `expected`, `lower` and `upper` (n, p).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from detectors.artefact import Artefact
from detectors.conditional import Judged
from detectors.distances import Gauge
from detectors.metrics import FloatArray, IntArray
from detectors.profiles import Batch, aligned
from detectors.rhythm import UNKNOWN_WEEKDAY
from detectors.tails import Tail

UNKNOWN_DAY = 7
# With fewer of its metrics a batch is not the kind that the model was trained on.
LEAST_KNOWN = 0.5


@dataclass(frozen=True, slots=True)
class Reading:
    """What a card says about how to feed its graph and how to read it."""

    gauge: Gauge
    tail: Tail

    @classmethod
    def of(cls, artefact: Artefact) -> Reading:
        tail = artefact.card["tail"]
        return cls(Gauge.from_json(artefact.card["gauge"]), Tail(np.array(tail["evidence"]), np.array(tail["surprise"])))


def feeds(x: FloatArray, last: FloatArray, weekday: IntArray, threshold: float) -> dict[str, Any]:
    """(n, p) metrics of batches and of those before each, (n,) weekdays with -1 for unknown ones -> the graph's inputs."""
    days = np.where(weekday == UNKNOWN_WEEKDAY, UNKNOWN_DAY, weekday).astype(np.int64)
    return {"x": x, "last": last, "weekday": days, "threshold": np.full(len(x), threshold)}


def judge(artefact: Artefact, gauge: Gauge, raw: FloatArray, before: Batch | None, weekday: int,
          threshold: float) -> Judged | None:
    """(p,) metrics of a batch -> what the model makes of them; None where half of them are not known."""
    if np.isfinite(raw).mean() < LEAST_KNOWN:
        return None
    last = aligned(before, gauge.features) if before is not None else np.full(len(raw), np.nan)
    out = artefact.run(feeds(raw[None], last[None], np.array([weekday]), threshold))
    return Judged(out["evidence"], out["expected"], out["lower"], out["upper"], out["score"])
