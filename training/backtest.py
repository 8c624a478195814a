"""Held-out days: every family judged on days it has not seen, through one door.

The last part of the series is cut into blocks; before each, the family is fitted on everything earlier and judges the
block's days, as they were and with each fault. A block's scores are calibrated on the other blocks, so that no day helps to
judge itself; the model that leaves is fitted on everything and calibrated on all blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors import structural
from detectors.artefact import Artefact
from detectors.structural import DEFAULT_THRESHOLD
from training import decision
from training.calibration import Calibration
from training.evaluation import Scores, faulty_values
from training.parity import Parity
from training.series import FloatArray, IntArray, NotEnoughHistory, TrainingSeries

HELD_OUT = 0.45
BLOCKS = 3
FEWEST = 42
PARITY_DAYS = 14
DAYS_A_CALL = 32  # of a file that is judged: a structural one goes through the counts since its training for every row
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


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The days that models are judged on: `days` (d,) their places in the series, from `first` on.

    `values` (d,) as they were, `faulty` (d, k) with each fault, NaN where there is none to find; `said` (d,) as in Scores.
    """

    first: int
    days: IntArray
    values: FloatArray
    faulty: FloatArray
    said: NDArray[np.int8]

    @classmethod
    def of(cls, series: TrainingSeries, observed: FloatArray, judged: FloatArray, said: NDArray[np.int8]) -> HeldOut:
        """The last known 45 %. `observed` (m,) has what may be learnt, `judged` (m,) also the confirmed anomalies.

        A confirmed anomaly is judged as it was and carries no faults. Raises NotEnoughHistory.
        """
        first = _first_held_out(series)
        days = np.arange(first, len(judged))
        days = days[np.isfinite(judged[days])]
        faulty = faulty_values(observed[days], observed[days - 1], observed[days - OTHER[series.granularity]])
        return cls(first, days, judged[days], np.where(said[days, None] > 0, np.nan, faulty), said[days])

    @property
    def candidates(self) -> FloatArray:
        """(d, 1 + k) each day as it was, then with each fault."""
        return np.column_stack([self.values, self.faulty])


def held_out(algorithm: str, series: TrainingSeries, observed: FloatArray,
             held: HeldOut) -> tuple[Scores, Calibration | None]:
    """Scores of the held-out days and the calibration made of them (None for the structural filter, which has its own).

    `series` is what a family may learn from, `observed` (m,) what the structural filter does. Raises NotEnoughHistory.
    """
    days = held.days
    if algorithm == "structural":
        return _structural_scores(series, observed, held), None
    block = np.minimum((days - held.first) * BLOCKS // (len(observed) - held.first), BLOCKS - 1)
    raw = _raw_scores(algorithm, series, held, block)
    # What the structural filter flagged is no witness of what is normal; as a false alarm it counts all the same.
    normal = np.where(np.isfinite(series.values[days]), raw[:, 0], np.nan)
    scores = np.full(raw.shape, np.nan)
    for b in range(BLOCKS):
        own = block == b
        scores[own] = Calibration.fit(normal[~own]).score(np, raw[own].ravel()).reshape(-1, raw.shape[1])
    return Scores(scores[:, 0], scores[:, 1:], held.said), Calibration.fit(normal)


def judged_by(artefact: Artefact, series: TrainingSeries, observed: FloatArray, held: HeldOut) -> Scores:
    """What a file says of the held-out days that it has not learnt, and of their faults; NaN where it says nothing."""
    card, candidates = artefact.card, held.candidates
    scores = np.full(candidates.shape, np.nan)
    time = series.start + held.days
    new = time > card["trained_until"]
    if card["valid_until"] is not None:
        new &= time <= card["valid_until"]
    if card["granularity"] != series.granularity:
        new[:] = False
    places = np.flatnonzero(new)
    for some in np.split(places, np.arange(DAYS_A_CALL, len(places), DAYS_A_CALL)):
        if len(some):
            inputs = asked(artefact, series, observed, np.repeat(time[some], candidates.shape[1]))
            score = artefact.run(inputs | {"value": candidates[some].ravel()})["score"]
            scores[some] = np.where(np.isfinite(candidates[some]), score.reshape(len(some), -1), np.nan)
    return Scores(scores[:, 0], scores[:, 1:], held.said)


def asked(artefact: Artefact, series: TrainingSeries, observed: FloatArray, time: IntArray) -> dict[str, Any]:
    """(n,) ascending buckets -> the inputs that a worker would give the file about them, as decision.judged says.

    The structural file carries its state and wants every bucket since; the others want their window.
    """
    card, window = artefact.card, int(artefact.card["window"])
    if card["algorithm"] == "structural":
        window, series = max(window, int(time[-1]) - card["trained_until"] - 1), replace(series, values=observed)
    return decision.judged(series, time, window) | {"threshold": np.full(len(time), DEFAULT_THRESHOLD)}


def structural_flags(observed: FloatArray, start: int, holiday: IntArray, granularity: str) -> NDArray[np.bool_]:
    """(m,) counts -> (m,) what the structural filter flags, each with what came before."""
    time = np.arange(start, start + len(observed))
    return np.array([step.flagged for step in structural.walk(observed, time, holiday, granularity)], np.bool_)


def _first_held_out(series: TrainingSeries) -> int:
    known = np.flatnonzero(np.isfinite(series.values))
    if len(known) < FEWEST:
        raise NotEnoughHistory(FEWEST, len(known))
    return int(known[round(len(known) * (1 - HELD_OUT))])


def _raw_scores(algorithm: str, series: TrainingSeries, held: HeldOut, block: IntArray) -> FloatArray:
    """(d, 1 + k) of the days as they were and with each fault, each block by a model of what came before it."""
    candidates = held.candidates
    raw = np.full(candidates.shape, np.nan)
    score = decision.scorer_scores if algorithm in SCORERS else decision.forecaster_scores
    for b in np.unique(block):
        own = np.flatnonzero(block == b)
        days = series.start + held.days[own]
        fitted = fit(algorithm, series.until(int(days[0]) - 1))
        inputs = decision.judged(series, days, fitted.window)
        for k in range(candidates.shape[1]):
            raw[own, k] = score(fitted, inputs | {"value": candidates[own, k]})
    return raw


def _structural_scores(series: TrainingSeries, observed: FloatArray, held: HeldOut) -> Scores:
    scores = np.full(held.candidates.shape, np.nan)
    rows = dict(zip(held.days.tolist(), range(len(held.days)), strict=True))
    for day, step in enumerate(structural.walk(observed, series.time, series.holiday, series.granularity)):
        if (row := rows.get(day)) is not None:
            scores[row] = step.scores(held.candidates[row])
    return Scores(scores[:, 0], scores[:, 1:], held.said)
