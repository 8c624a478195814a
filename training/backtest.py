"""Held-out days: every family judged on days it has not seen, through one door.

The last part of the series is cut into blocks; before each, the family is fitted on everything earlier and judges the
block's days, as they were and with each fault. A block's scores are calibrated on the other blocks, so that no day helps to
judge itself; the model that leaves is fitted on everything and calibrated on all blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors import structural
from detectors.structural import DEFAULT_THRESHOLD
from training import decision
from training.calibration import Calibration
from training.evaluation import FAULTS, Scores, faulty_values
from training.parity import Parity
from training.series import FloatArray, IntArray, NotEnoughHistory, TrainingSeries

HELD_OUT = 0.45
BLOCKS = 3
FEWEST = 42
PARITY_DAYS = 14
SCORERS = ("isolation_forest", "one_class_svm", "lof")
# Four buckets earlier is another weekday; for hourly tables, another weekday at the same hour.
OTHER = {"hourly": 96, "daily": 4, "weekly": 4, "monthly": 4}


def fit(algorithm: str, series: TrainingSeries) -> Any:
    """The family's model of the whole series. Raises NotEnoughHistory."""
    if algorithm == "structural":
        from training import structural as trained

        return trained.fit(series)
    if algorithm == "prophet":
        from training import prophet_model

        return prophet_model.fit(series)
    if algorithm == "arima":
        from training import arima

        return arima.fit(series)
    if algorithm == "seasonal_decomposition":
        from training import seasonal_decomposition

        return seasonal_decomposition.fit(series)
    from training import outliers

    return outliers.fit(series, algorithm)


def export(algorithm: str, fitted: Any, calibration: Calibration | None, series: TrainingSeries,
           card: dict[str, Any]) -> bytes:
    """The whole decision as one ONNX file; the card gains what the serving side needs to feed it."""
    card |= {"schema": 1, "detector": "volume", "algorithm": algorithm, "granularity": series.granularity,
             "window": fitted.window, "factors": list(fitted.factors), "trained_until": series.end,
             "valid_until": getattr(fitted, "valid_until", None)}
    if calibration is None:
        from training import structural as trained

        return trained.export(fitted, series, card)
    write = decision.export_scorer if algorithm in SCORERS else decision.export_forecaster
    artefact: bytes = write(fitted, calibration, series, card)
    return artefact


def parity(algorithm: str, fitted: Any, series: TrainingSeries) -> Parity:
    """Does the graph say what the library says? For the structural filter: what the code says that it was traced from."""
    found: Parity = _structural_parity(series) if algorithm == "structural" else fitted.check_parity()
    return found


def _structural_parity(series: TrainingSeries) -> Parity:
    """A model of all but the last days, asked about each of these, against the filter walking over them."""
    from training import structural as trained

    days = series.time[-PARITY_DAYS:]
    graph = trained.build(trained.fit(series.until(int(days[0]) - 1))).SerializeToString()
    inputs = decision.judged(series, days, PARITY_DAYS) | {"threshold": np.full(len(days), DEFAULT_THRESHOLD)}
    scores = decision.run(graph, inputs)["score"]
    steps = list(structural.walk(series.values, series.time, series.holiday, series.granularity))[-len(days):]
    wanted = np.array([step.scores(inputs["value"][i:i + 1]).item() for i, step in enumerate(steps)])
    known = np.isfinite(wanted)
    differing = (scores[known] >= DEFAULT_THRESHOLD) != (wanted[known] >= DEFAULT_THRESHOLD)
    return Parity(float(np.max(np.abs(scores[known] - wanted[known]), initial=0.0)), int(differing.sum()), int(known.sum()))


def held_out(algorithm: str, series: TrainingSeries, observed: FloatArray) -> tuple[Scores, Calibration | None]:
    """Scores of the held-out days and the calibration made of them (None for the structural filter, which has its own).

    `series` is what a family may learn from, `observed` (m,) every count there was. Raises NotEnoughHistory.
    """
    first = _first_held_out(series)
    days = np.arange(first, len(observed))
    days = days[np.isfinite(observed[days])]
    faulty = faulty_values(observed[days], observed[days - 1], observed[days - OTHER[series.granularity]])
    if algorithm == "structural":
        return _structural_scores(series, observed, days, faulty), None
    block = np.minimum((days - first) * BLOCKS // (len(observed) - first), BLOCKS - 1)
    raw, raw_faulty = _raw_scores(algorithm, series, observed, days, block, faulty)
    # What the structural filter flagged is no witness of what is normal; as a false alarm it counts all the same.
    normal = np.where(np.isfinite(series.values[days]), raw, np.nan)
    scores, scores_faulty = np.full(len(days), np.nan), np.full(faulty.shape, np.nan)
    for b in range(BLOCKS):
        own = block == b
        others = Calibration.fit(normal[~own])
        scores[own] = others.score(np, raw[own])
        scores_faulty[own] = others.score(np, raw_faulty[own].ravel()).reshape(-1, len(FAULTS))
    return Scores(scores, scores_faulty), Calibration.fit(normal)


def structural_flags(observed: FloatArray, start: int, holiday: IntArray, granularity: str) -> NDArray[np.bool_]:
    """(m,) counts -> (m,) what the structural filter flags, each with what came before."""
    time = np.arange(start, start + len(observed))
    return np.array([step.flagged for step in structural.walk(observed, time, holiday, granularity)], np.bool_)


def _first_held_out(series: TrainingSeries) -> int:
    known = np.flatnonzero(np.isfinite(series.values))
    if len(known) < FEWEST:
        raise NotEnoughHistory(FEWEST, len(known))
    return int(known[round(len(known) * (1 - HELD_OUT))])


def _raw_scores(algorithm: str, series: TrainingSeries, observed: FloatArray, days: IntArray, block: IntArray,
                faulty: FloatArray) -> tuple[FloatArray, FloatArray]:
    raw, raw_faulty = np.full(len(days), np.nan), np.full(faulty.shape, np.nan)
    score = decision.scorer_scores if algorithm in SCORERS else decision.forecaster_scores
    for b in np.unique(block):
        own = block == b
        fitted = fit(algorithm, series.until(series.start + int(days[own][0]) - 1))
        inputs = decision.judged(series, series.start + days[own], fitted.window)
        raw[own] = score(fitted, inputs | {"value": observed[days[own]]})
        for k in range(len(FAULTS)):
            raw_faulty[own, k] = score(fitted, inputs | {"value": faulty[own, k]})
    return raw, raw_faulty


def _structural_scores(series: TrainingSeries, observed: FloatArray, days: IntArray, faulty: FloatArray) -> Scores:
    normal, changed = np.full(len(days), np.nan), np.full(faulty.shape, np.nan)
    held = {int(day): i for i, day in enumerate(days)}
    for day, step in enumerate(structural.walk(observed, series.time, series.holiday, series.granularity)):
        if (i := held.get(day)) is not None:
            scores = step.scores(np.concatenate([[observed[day]], faulty[i]]))
            normal[i], changed[i] = scores[0], scores[1:]
    return Scores(normal, changed)
