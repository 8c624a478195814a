"""How good is a detector? Held-out normal days, and the same days with the faults that loads really have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.series import FloatArray

# What a fault makes of a day's count, given that count, the count before it and the one four buckets before it.
FAULTS: dict[str, Callable[[FloatArray, FloatArray, FloatArray], FloatArray]] = {
    "zero": lambda value, before, other: np.zeros_like(value),
    "outage": lambda value, before, other: np.round(value * 0.05),
    "half": lambda value, before, other: np.round(value * 0.5),
    "partial": lambda value, before, other: np.round(value * 0.7),
    "dip": lambda value, before, other: np.round(value * 0.8),
    "surge": lambda value, before, other: np.round(value * 1.3),
    "duplicate": lambda value, before, other: value * 2,
    "spike": lambda value, before, other: value * 4,
    "stuck": lambda value, before, other: before,
    "wrong_weekday": lambda value, before, other: other,
}
# A lead of less is not worth giving up a baseline that goes on learning every day.
LEAD = 0.02
# Incidents are rare: precision is stated for one faulty bucket in thirty.
PREVALENCE = 1 / 30


@dataclass(frozen=True, slots=True)
class Scores:
    """Calibrated scores of held-out points: `normal` (d,), and `faulty` (d, k) of the same points with each kind of fault.

    NaN where a fault would not have changed the point, or the detector gave no verdict.
    """

    normal: FloatArray
    faulty: FloatArray


def faulty_values(values: FloatArray, before: FloatArray, other: FloatArray) -> FloatArray:
    """(d,) counts, their predecessors and those of another weekday -> (d, len(FAULTS)); NaN where nothing would change.

    A change of less than 15 % is no fault that anybody could ask to be found; an exact repeat is one of any size.
    """
    changed = np.stack([fault(values, before, other) for fault in FAULTS.values()], axis=1)
    small = np.abs(changed - values[:, None]) < 0.15 * values[:, None]
    repeat = np.array([name == "stuck" for name in FAULTS])
    return np.where((small & ~repeat) | (changed == values[:, None]) | (values[:, None] <= 0), np.nan, changed)


def without_incidents(together: Sequence[Scores], threshold: float = 0.99) -> list[Scores]:
    """The same scores without the normal days that at least half of two or more detectors flag.

    Nobody labelled them, but what unlike detectors agree on is an incident, and no false alarm of those that found it.
    """
    flags = np.mean([np.nan_to_num(scores.normal) >= threshold for scores in together], axis=0)
    incident = (flags >= 0.5) if len(together) > 2 else (flags == 1.0) & (len(together) > 1)
    return [Scores(np.where(incident, np.nan, scores.normal), scores.faulty) for scores in together]


def quality(scores: Scores, faults: Sequence[str] = tuple(FAULTS), threshold: float = 0.99) -> dict[str, Any]:
    """Precision, recall, F1 and false positive rate at a threshold; recall is the mean over the kinds of fault.

    `faults` names the columns of `scores.faulty`.
    """
    flagged, counted = _flags(scores, threshold)
    normal = np.isfinite(scores.normal)
    recall, fpr = _rates(flagged, counted, scores.normal[normal] >= threshold)
    kinds = {name: round(float(flagged[:, k].sum() / counted[:, k].sum()), 3)
             for k, name in enumerate(faults) if counted[:, k].any()}
    precision, f1 = _precision_f1(recall, fpr)
    return {"precision": round(precision, 3), "recall": round(recall, 3), "f1": round(f1, 3), "fpr": round(fpr, 4),
            "basis": "injected", "points": int(normal.sum()), "faults": int(counted.sum()), "recall_by_fault": kinds}


def beats(challenger: Scores, champion: Scores, threshold: float = 0.99, resamples: int = 500) -> bool:
    """Is the challenger's F1 better, by LEAD and beyond noise? A paired bootstrap over the days, one-sided at 5 %."""
    rng = np.random.default_rng(0)
    d = len(champion.normal)
    if _f1(challenger, threshold) - _f1(champion, threshold) < LEAD:
        return False
    gains = []
    for _ in range(resamples):
        days = rng.integers(0, d, d)
        f1 = [_f1(Scores(s.normal[days], s.faulty[days]), threshold) for s in (challenger, champion)]
        gains.append(f1[0] - f1[1])
    return float(np.quantile(gains, 0.05)) > 0


def _f1(scores: Scores, threshold: float) -> float:
    normal = scores.normal[np.isfinite(scores.normal)]
    return _precision_f1(*_rates(*_flags(scores, threshold), normal >= threshold))[1]


def _flags(scores: Scores, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    counted = np.isfinite(scores.faulty)
    return counted & (np.nan_to_num(scores.faulty) >= threshold), counted


def _rates(flagged: np.ndarray, counted: np.ndarray, alarms: np.ndarray) -> tuple[float, float]:
    kinds = counted.any(axis=0)
    recall = float(np.mean(flagged.sum(axis=0)[kinds] / counted.sum(axis=0)[kinds])) if kinds.any() else 0.0
    return recall, float(alarms.mean()) if len(alarms) else 0.0


def _precision_f1(recall: float, fpr: float) -> tuple[float, float]:
    hits, alarms = PREVALENCE * recall, (1 - PREVALENCE) * fpr
    precision = hits / (hits + alarms) if hits + alarms else 0.0
    return precision, 2 * precision * recall / (precision + recall) if precision + recall else 0.0
