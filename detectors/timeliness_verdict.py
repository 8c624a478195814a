"""From lags to a verdict: is the load in question on time, late, early, not due yet, or has the feed stopped?

The value is inside its range exactly when it is no anomaly: `direction`, `min_change` and `sla_minutes` move the range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors import lags
from detectors.artefact import Artefact
from detectors.decision import MOST_CERTAIN, Judgement, confidence_of, severity_of
from detectors.timeliness_case import Place
from shared.contract_timeliness import State, TimelinessRequest

type FloatArray = NDArray[np.float64]

STOPPED = 3  # loads in a row that stayed out: the feed has stopped
CERTAIN = 1 - 1e-9  # score of a load that stayed out until the next one was due


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict in numbers, minutes after due. `state` and `judgement` are None where nothing can be said yet.

    `value` is None while nothing has come and nothing is late; `upper` and `lower` None where the range is open; `out` loads
    are late and still out; `breached` says that it is later than was agreed.
    """

    state: State | None
    is_anomaly: bool
    value: float | None
    lower: float | None
    upper: float | None
    score: float
    judgement: Judgement | None
    out: int = 0
    breached: bool = False

    @property
    def severity(self) -> str:
        return "critical" if self.state == "stopped" else severity_of(self.score, self.is_anomaly)

    @property
    def confidence(self) -> float:
        """0 without a verdict; an agreement is kept or it is not."""
        if self.state is None or self.state == "pending":
            return 0.0
        return MOST_CERTAIN if self.breached else confidence_of(self.score, self.is_anomaly)


def minutes_of(place: Place, as_of: int) -> float:
    """Minutes after due: of the arrival, or so far."""
    return place.lag if math.isfinite(place.lag) else (as_of - place.due - place.slack) / 60.0


def judge_with_filter(before: FloatArray, value: float, threshold: float) -> Judgement | None:
    """(b,) lags before, oldest first -> the lag filter's judgement, None while fewer than its FEWEST are known."""
    history = np.full((1, max(len(before[-lags.WINDOW:]), lags.RECENT)), np.nan)
    if len(before):
        history[0, -len(before[-lags.WINDOW:]):] = before[-lags.WINDOW:]
    with np.errstate(invalid="ignore", over="ignore"):
        verdict = lags.judge(np, history, np.array([value]), np.array([threshold]))
    return _judgement(*(answer.item() for answer in verdict))


def judge_with_model(artefact: Artefact, place: Place, value: float, threshold: float) -> Judgement | None:
    """One ONNX call; None where the model has too little to go by."""
    window = artefact.card["window"]
    known = min(window, len(place.before))
    history, hours = np.full((1, window), np.nan), np.full((1, window + 1), place.hours[-1])
    if known:
        history[0, -known:] = place.before[-known:]
        hours[0, -known - 1:] = place.hours[-known - 1:]
    out = artefact.run({"time": hours, "history": history, "value": np.array([value]), "threshold": np.array([threshold])})
    return _judgement(*(out[name].item() for name in ("expected", "lower", "upper", "score")))


def _judgement(expected: float, lower: float, upper: float, score: float) -> Judgement | None:
    return None if math.isnan(score) else Judgement(score, expected, lower, upper)


def find(place: Place, as_of: int, judgement: Judgement | None, threshold: float, request: TimelinessRequest,
         known: bool) -> Finding:
    """`known` says that something has arrived before: a feed that never began has not stopped."""
    lower, upper = _range(judgement, request)
    value = round(minutes_of(place, as_of), 2)
    arrived = math.isfinite(place.lag)
    score = judgement.score if judgement else 0.0
    out = 0 if arrived else _out(place, as_of, upper, judgement is None, request)
    if arrived:
        state: State = "late" if value > upper else "early" if value < lower else "on_time"
    else:
        state = "stopped" if out >= STOPPED and known else "late" if value > upper else "pending"
        score = CERTAIN if out > 1 else score
    if judgement is None and state in ("on_time", "pending"):
        return Finding(None, False, value if arrived else None, None, _open(upper), 0.0, None)
    anomaly = state not in ("on_time", "pending")
    score = min(max(score, threshold), CERTAIN) if anomaly else min(score, math.nextafter(threshold, 0))
    breached = anomaly and request.sla_minutes is not None and value > request.sla_minutes
    upper = min(upper, value - 0.01) if state == "stopped" else upper
    return Finding(state, anomaly, None if state == "pending" else value, _open(lower), _open(upper), score, judgement, out,
                   breached)


def _range(judgement: Judgement | None, request: TimelinessRequest) -> tuple[float, float]:
    """The minutes after due that are no anomaly, to the hundredth."""
    lower, upper = -math.inf, math.inf
    if judgement is not None:
        margin = request.min_change.absolute
        if request.direction != "spike":
            lower = min(judgement.lower, judgement.expected - margin)
        if request.direction != "drop":
            upper = max(judgement.upper, judgement.expected + margin)
    if request.sla_minutes is not None:
        upper = min(upper, request.sla_minutes)
    low = math.floor(lower * 100) / 100 if math.isfinite(lower) else lower
    return low, math.ceil(upper * 100) / 100 if math.isfinite(upper) else upper


def _out(place: Place, as_of: int, upper: float, learning: bool, request: TimelinessRequest) -> int:
    """How many loads are late and still out. While nothing is known of lags, one is late when the next is due."""
    if learning and request.direction != "drop":
        return max(len(place.out) - 1, int((as_of > place.out + place.slack + 60 * upper).sum()))
    return int((as_of > place.out + place.slack + 60 * upper).sum())


def _open(bound: float) -> float | None:
    return bound if math.isfinite(bound) else None
