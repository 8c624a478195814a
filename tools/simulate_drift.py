"""How often drift is said to be where there is none, and found where there is some: the table in docs/quality.md.

    python -m tools.simulate_drift
"""

from __future__ import annotations

import math

import numpy as np

from training import drift
from training.drift import FloatArray

WEEK = np.log([1.0, 1.1, 1.1, 1.05, 0.9, 0.4, 0.3])
ROUNDS = 400


def counts(generator: np.random.Generator, days: int, memory: float, noise: float, growth: float) -> FloatArray:
    """Logs of daily counts: a week, growth, and noise that remembers the day before."""
    shocks = generator.normal(size=days + 30)
    for i in range(1, len(shocks)):
        shocks[i] = memory * shocks[i - 1] + math.sqrt(1 - memory**2) * shocks[i]
    day = np.arange(days)
    series: FloatArray = WEEK[day % 7] + growth * day + noise * shocks[30:]
    return series


def found(recent: int, reference: int, memory: float = 0.0, noise: float = 0.1, change: float = 1.0,
          growth: float = 0.0) -> float:
    """The share of tables that are said to have drifted after their counts were multiplied by `change`."""
    generator = np.random.default_rng(recent + reference)
    day = np.arange(recent + reference)
    late, drifted = day >= reference, 0
    for _ in range(ROUNDS):
        series = counts(generator, len(day), memory, noise, growth) + np.where(late, math.log(change), 0.0)
        views = drift.steadied(series, day, day % 7, late)
        compared = drift.compare_features({"row_count": views}, late)
        drifted += bool(compared) and compared["row_count"].level == "large"
    return drifted / ROUNDS


if __name__ == "__main__":
    print("recent reference | none  none, r=.5 | +20 %  -20 %  +50 %  -50 % | +50 %, 30 % noise  +50 %, r=.5")
    for recent, reference in ((14, 60), (20, 60), (28, 120), (60, 365), (200, 1000)):
        figures = [found(recent, reference), found(recent, reference, memory=0.5),
                   *(found(recent, reference, change=change) for change in (1.2, 0.8, 1.5, 0.5)),
                   found(recent, reference, noise=0.3, change=1.5), found(recent, reference, memory=0.5, change=1.5)]
        print(recent, reference, *(f"{100 * share:.1f} %" for share in figures), sep=" | ", flush=True)
    print("growth of 0.1 %, 0.2 %, 0.5 % a day:", [found(28, 120, growth=growth) for growth in (0.001, 0.002, 0.005)])
