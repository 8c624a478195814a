"""Held-out arrivals: every family judges what it has not seen, as it was and with the faults that feeds have.

The last part of the series is cut into blocks; a family is fitted on what came before a block and judges its arrivals, each
by the arrivals before it. A calibration is made of the other blocks, so that no arrival helps to judge itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from detectors import lags
from detectors.artefact import Artefact
from shared.history import STATUSES
from training.calibration import Calibration
from training.evaluation import Scores
from training.held_out import said_of
from training.lag_families import FEWEST, LagSeries, SeasonalQuantiles, fit
from training.series import FloatArray, IntArray, NotEnoughHistory

HELD_OUT, BLOCKS = 0.45, 3
# A fault in units of the feed's own spread, later or earlier than it was; a drift ends there, having grown for some loads.
FAULTS = {"late": 3.0, "very_late": 10.0, "early": -3.5, "drift": 2.7}
DRIFT = np.array([0.7, 1.2, 1.7, 2.2])  # the loads before it
THRESHOLD = 0.99


def judged(series: LagSeries, at: IntArray, window: int = lags.WINDOW) -> dict[str, Any]:
    """Places (n,) in the series -> what a model would get for each: the lags before it, its own, and their hours."""
    n = len(at)
    history = np.full((n, window), np.nan)
    time = np.repeat(series.hours[at, None], window + 1, axis=1)
    before, known = series.learnable(), np.cumsum(series.learnt) - series.learnt
    for row, end in enumerate(known[at].tolist()):
        start = max(lags.accepted_from(before.lags[:end]), end - window)
        if start < end:
            history[row, start - end:] = before.lags[start:end]
            time[row, start - end - 1 : -1] = before.hours[start:end]
    return {"time": time, "history": history, "value": series.lags[at], "threshold": np.full(n, THRESHOLD)}


def faulty(inputs: dict[str, Any], kind: str, below: float, above: float) -> dict[str, Any]:
    """The same arrivals with a fault of a kind; `below` and `above` are the feed's spread in minutes."""
    size = FAULTS[kind]
    history = inputs["history"]
    if kind == "drift":
        history = history.copy()
        history[:, -len(DRIFT):] += DRIFT * above
    return inputs | {"history": history, "value": inputs["value"] + size * (above if size > 0 else below)}


@dataclass(frozen=True, slots=True)
class Trials:
    """The held-out arrivals: `at` (d,) places in the series, and the feed's spread in minutes before them."""

    at: IntArray
    below: float
    above: float

    @classmethod
    def of(cls, series: LagSeries) -> Trials:
        """Raises NotEnoughHistory."""
        known = np.flatnonzero(series.learnt)
        if len(known) < FEWEST:
            raise NotEnoughHistory(FEWEST, len(known))
        first = round(len(known) * (1 - HELD_OUT))
        return cls(np.arange(known[first], len(series)), *spread(series.lags[known[:first]]))

    def cases(self, usual: dict[str, Any]) -> list[dict[str, Any]]:
        """What a model gets for the arrivals -> the same as it was, and with each fault."""
        return [usual, *(faulty(usual, kind, self.below, self.above) for kind in FAULTS)]

    def scores(self, series: LagSeries, scores: FloatArray) -> Scores:
        """(d, 1 + k) scores; no fault is put into an arrival that was confirmed to be one."""
        own = series[self.at]
        said = said_of(STATUSES[code] for code in own.status.tolist())
        return Scores(scores[:, 0], np.where(own.learnt[:, None], scores[:, 1:], np.nan), said)


def held_out(algorithm: str, series: LagSeries) -> tuple[Scores, Calibration | None]:
    """Scores of the held-out arrivals, and the calibration made of them where the family needs one.

    Raises NotEnoughHistory.
    """
    trials = Trials.of(series)
    at = trials.at
    block = np.minimum((at - at[0]) * BLOCKS // len(at), BLOCKS - 1)
    cases = trials.cases(judged(series, at))
    raw = np.full((len(at), len(cases)), np.nan)
    for b in np.unique(block):
        own = np.flatnonzero(block == b)
        fitted = fit(algorithm, series[: at[own[0]]])
        for k, case in enumerate(cases):
            part = {name: array[own] for name, array in case.items()}
            raw[own, k] = _raw(fitted, part)
    if algorithm != "seasonal_quantiles":
        return trials.scores(series, raw), None
    witness, scores = np.where(series.learnt[at], raw[:, 0], np.nan), np.full(raw.shape, np.nan)
    for b in np.unique(block):
        others = Calibration.fit(witness[block != b])
        own = block == b
        scores[own] = others.score(np, raw[own].ravel()).reshape(-1, raw.shape[1])
    return trials.scores(series, scores), Calibration.fit(witness)


def judged_by(series: LagSeries, served: LagSeries | None, champion: Artefact) -> Scores:
    """The same arrivals with the same faults by a file, which is fed with `served`: their lags by its own schedule.

    NaN for arrivals that it has learnt from and such as its schedule has no due time for, all where `served` is None.
    Raises NotEnoughHistory.
    """
    trials = Trials.of(series)
    scores = np.full((len(trials.at), 1 + len(FAULTS)), np.nan)
    if served is not None:
        came = series.came[trials.at]
        place = {second: i for i, second in enumerate(served.came.tolist())}
        rows = np.flatnonzero([second in place for second in came.tolist()])
        at = np.array([place[second] for second in came[rows].tolist()], np.int64)
        new = served.hours[at] > champion.card["trained_until"]
        cases = trials.cases(judged(served, at[new], champion.card["window"])) if new.any() else []
        for k, case in enumerate(cases):
            scores[rows[new], k] = champion.run(case)["score"]
    return trials.scores(series, scores)


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
