"""Held-out arrivals: every family judges what it has not seen, as it was and with the faults that feeds have.

The last part of the series is cut into blocks; a family is fitted on what came before a block and judges its arrivals, each
by the arrivals before it. A calibration is made of the other blocks, so that no arrival helps to judge itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from detectors import lags
from training.calibration import Calibration
from training.evaluation import Scores
from training.lag_families import LagSeries, SeasonalQuantiles, fit
from training.series import FloatArray, IntArray

HELD_OUT, BLOCKS = 0.45, 3
# A fault in units of the feed's own spread, later or earlier than it was; a drift ends there, having grown for some loads.
FAULTS = {"late": 3.0, "very_late": 10.0, "early": -3.5, "drift": 2.7}
DRIFT = np.array([0.7, 1.2, 1.7, 2.2])  # the loads before it
THRESHOLD = 0.99


def judged(series: LagSeries, at: IntArray) -> dict[str, Any]:
    """Places (n,) in the series -> what a model would get for each: the lags before it, its own, and their hours."""
    n = len(at)
    history = np.full((n, lags.WINDOW), np.nan)
    time = np.repeat(series.hours[at, None], lags.WINDOW + 1, axis=1)
    for row, i in enumerate(at.tolist()):
        start = max(lags.accepted_from(series.lags[:i]), i - lags.WINDOW)
        if start < i:
            history[row, start - i:] = series.lags[start:i]
            time[row, start - i - 1:] = series.hours[start : i + 1]
    return {"time": time, "history": history, "value": series.lags[at], "threshold": np.full(n, THRESHOLD)}


def faulty(inputs: dict[str, Any], kind: str, below: float, above: float) -> dict[str, Any]:
    """The same arrivals with a fault of a kind; `below` and `above` are the feed's spread in minutes."""
    size = FAULTS[kind]
    history = inputs["history"]
    if kind == "drift":
        history = history.copy()
        history[:, -len(DRIFT):] += DRIFT * above
    return inputs | {"history": history, "value": inputs["value"] + size * (above if size > 0 else below)}


def held_out(algorithm: str, series: LagSeries) -> tuple[Scores, Calibration | None]:
    """Scores of the held-out arrivals, and the calibration made of them where the family needs one.

    Raises NotEnoughHistory.
    """
    fit(algorithm, series)
    first = round(len(series) * (1 - HELD_OUT))
    below, above = spread(series.lags[:first])
    at = np.arange(first, len(series))
    block = np.minimum((at - first) * BLOCKS // max(len(at), 1), BLOCKS - 1)
    cases = [judged(series, at)]
    cases += [faulty(cases[0], kind, below, above) for kind in FAULTS]
    raw = np.full((len(at), len(cases)), np.nan)
    for b in np.unique(block):
        own = np.flatnonzero(block == b)
        fitted = fit(algorithm, series.first(int(at[own[0]])))
        for k, case in enumerate(cases):
            part = {name: array[own] for name, array in case.items()}
            raw[own, k] = _raw(fitted, part)
    if algorithm != "seasonal_quantiles":
        return Scores(raw[:, 0], raw[:, 1:]), None
    scores = np.full(raw.shape, np.nan)
    for b in np.unique(block):
        others = Calibration.fit(raw[block != b, 0])
        own = block == b
        scores[own] = others.score(np, raw[own].ravel()).reshape(-1, raw.shape[1])
    return Scores(scores[:, 0], scores[:, 1:]), Calibration.fit(raw[:, 0])


def spread(known: FloatArray) -> tuple[float, float]:
    """(m,) lags -> minutes of a usual deviation below and above the median, of no family in particular."""
    tenth, middle, most = np.quantile(known, [0.1, 0.5, 0.8])
    return (max((middle - tenth) / lags.NORMAL_90, lags.FLOOR), max((most - middle) / lags.NORMAL_80, lags.FLOOR))


def calibrated(fitted: Any, calibration: Calibration | None) -> Any:
    """The fitted family with what held-out arrivals taught it."""
    return fitted if calibration is None else replace(fitted, calibration=calibration)


def _raw(fitted: Any, inputs: dict[str, Any]) -> FloatArray:
    with np.errstate(invalid="ignore", over="ignore"):
        if isinstance(fitted, SeasonalQuantiles):
            distance: FloatArray = fitted.distance(np, inputs["time"], inputs["history"], inputs["value"])[-1]
            return distance
        score: FloatArray = fitted.judge(np, **inputs).score
        return score
