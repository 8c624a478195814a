"""How good is a detector? Held-out normal days, and the same days with the faults that loads really have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
# So many neighbouring points are drawn together, and an incident is over within as many: what goes wrong lasts for days.
WEEK = 7
FEWEST_BLOCKS = 6  # of few points shorter runs are drawn: where each draw is nearly all of them, nothing would be noise
RESAMPLES = 500
TAIL = 0.05  # either side of an interval: its ends are one-sided tests at 5 %


@dataclass(frozen=True, slots=True)
class Scores:
    """Calibrated scores of held-out points: `normal` (d,), and `faulty` (d, k) of the same points with each kind of fault.

    Points are in the order of time. NaN where a fault would not have changed the point, or the detector gave no verdict.
    `said` (d,) is a person's word about each: 0 nothing, -1 expected, +1 confirmed to be an anomaly; zeros where left out.
    """

    normal: FloatArray
    faulty: FloatArray
    said: NDArray[np.int8] = field(default_factory=lambda: np.empty(0, np.int8))

    def __post_init__(self) -> None:
        if not len(self.said):
            object.__setattr__(self, "said", np.zeros(len(self.normal), np.int8))
        if not len(self.normal) == len(self.faulty) == len(self.said):
            raise ValueError(f"normal {self.normal.shape}, faulty {self.faulty.shape}, said {self.said.shape} differ in d")

    def __getitem__(self, rows: Any) -> Scores:
        """Those of some of the points: a slice, a mask (d,) or places."""
        return Scores(self.normal[rows], self.faulty[rows], self.said[rows])


@dataclass(frozen=True, slots=True)
class Difference:
    """By how much a challenger is ahead of a champion in F1 and in false positive rate, on the points that both judged.

    The intervals hold 90 % of what resampled points gave, so that either end is a one-sided test at 5 %.
    """

    f1: float
    f1_interval: tuple[float, float]
    fpr: float
    fpr_interval: tuple[float, float]


def faulty_values(values: FloatArray, before: FloatArray, other: FloatArray) -> FloatArray:
    """(d,) counts, their predecessors and those of another weekday -> (d, len(FAULTS)); NaN where nothing would change.

    A change of less than 15 % is no fault that anybody could ask to be found; an exact repeat is one of any size.
    """
    changed = np.stack([fault(values, before, other) for fault in FAULTS.values()], axis=1)
    small = np.abs(changed - values[:, None]) < 0.15 * values[:, None]
    repeat = np.array([name == "stuck" for name in FAULTS])
    return np.where((small & ~repeat) | (changed == values[:, None]) | (values[:, None] <= 0), np.nan, changed)


def incidents(together: Sequence[Scores], threshold: float = 0.99) -> NDArray[np.bool_]:
    """(d,) which points at least half of two or more detectors flag, and nobody spoke of.

    Nobody labelled them, but what unlike detectors agree on is an incident, and no false alarm of those that found it. What
    goes on for longer than a week while one of them has become used to it is no incident, but a level that the others do not
    know yet.
    """
    flags = np.mean([np.nan_to_num(scores.normal) >= threshold for scores in together], axis=0)
    agreed = (flags >= 0.5) if len(together) > 2 else (flags == 1.0) & (len(together) > 1)
    lasting = _runs(agreed) > WEEK
    incident: NDArray[np.bool_] = agreed & ~(lasting & (flags < 1.0)) & (together[0].said == 0)
    return incident


def without_incidents(together: Sequence[Scores], threshold: float = 0.99) -> list[Scores]:
    """The same scores without those of incidents."""
    incident = incidents(together, threshold) if together else np.empty(0, np.bool_)
    return [excused(scores, incident) for scores in together]


def excused(scores: Scores, incident: NDArray[np.bool_]) -> Scores:
    """The same scores, with no verdict on the points of an incident as they were."""
    return replace(scores, normal=np.where(incident, np.nan, scores.normal))


def quality(scores: Scores, faults: Sequence[str] = tuple(FAULTS), threshold: float = 0.99) -> dict[str, Any]:
    """Precision, recall, F1 and false positive rate at a threshold; recall is the mean over the kinds of fault.

    `faults` names the columns of `scores.faulty`. They come of injected faults alone: a point that a person confirmed to be
    an anomaly is neither a normal day nor one to try faults on. `labels` counts what people said, and how it was judged.
    """
    totals = _tally(scores, threshold).sum(axis=0)
    recall, fpr = _rates(totals)
    precision, f1 = (float(figure) for figure in _precision_f1(recall, fpr))
    counted, found = totals[2:].reshape(2, -1)
    kinds = {name: round(float(found[k] / counted[k]), 3) for k, name in enumerate(faults) if counted[k]}
    return {"precision": round(precision, 3), "recall": round(float(recall), 3), "f1": round(f1, 3),
            "fpr": round(float(fpr), 4), "basis": "injected", "points": int(totals[0]), "faults": int(counted.sum()),
            "recall_by_fault": kinds, "labels": labels(scores, threshold)}


def labels(scores: Scores, threshold: float = 0.99) -> dict[str, int]:
    """How many points people confirmed to be `anomalies`, those `found`, how many were `expected`, and those `flagged`."""
    flagged = np.nan_to_num(scores.normal) >= threshold
    confirmed, expected = scores.said > 0, scores.said < 0
    return {"anomalies": int(confirmed.sum()), "found": int((confirmed & flagged).sum()),
            "expected": int(expected.sum()), "flagged": int((expected & flagged).sum())}


def difference(challenger: Scores, champion: Scores, threshold: float = 0.99, resamples: int = RESAMPLES) -> Difference:
    """The challenger's F1 and false positive rate less the champion's: a paired bootstrap over the points.

    Only what both judged counts. Runs of seven points, shorter ones below 42, are drawn together (the circular block
    bootstrap of Politis and Romano 1992), since ten false alarms after one change of level are one piece of evidence and not
    ten. The same draws each time: the same scores have the same interval.
    """
    normal = np.isfinite(challenger.normal) & np.isfinite(champion.normal)
    faulty = np.isfinite(challenger.faulty) & np.isfinite(champion.faulty)
    pair = [_tally(Scores(np.where(normal, s.normal, np.nan), np.where(faulty, s.faulty, np.nan), s.said), threshold)
            for s in (challenger, champion)]
    d = max(len(normal), 1)
    block = max(min(WEEK, d // FEWEST_BLOCKS), 1)
    begins = np.random.default_rng(0).integers(0, d, (resamples, -(-d // block)))
    rates = [_rates(_resampled(tally, begins, block)) for tally in pair]
    fpr = rates[0][1] - rates[1][1]
    f1 = _precision_f1(*rates[0])[1] - _precision_f1(*rates[1])[1]
    return Difference(float(f1[0]), _interval(f1[1:]), float(fpr[0]), _interval(fpr[1:]))


def beats(challenger: Scores, champion: Scores, threshold: float = 0.99, resamples: int = RESAMPLES) -> bool:
    """Is the challenger's F1 better, by LEAD and beyond noise? One-sided at 5 %."""
    ahead = difference(challenger, champion, threshold, resamples)
    return ahead.f1 >= LEAD and ahead.f1_interval[0] > 0


def _tally(scores: Scores, threshold: float) -> FloatArray:
    """(d, 2 + 2 k) what each point adds to the rates, as 0 and 1: normal, alarm, counted by fault, found by fault."""
    injected = scores.said <= 0
    normal, counted = np.isfinite(scores.normal) & injected, np.isfinite(scores.faulty) & injected[:, None]
    alarm = normal & (np.nan_to_num(scores.normal) >= threshold)
    found = counted & (np.nan_to_num(scores.faulty) >= threshold)
    return np.column_stack([normal, alarm, counted, found]).astype(np.float64)


def _resampled(tally: FloatArray, begins: NDArray[np.int64], block: int) -> FloatArray:
    """(d, c) -> (1 + r, c) totals: of every point, then of the runs of `block` that begin where each of r draws says."""
    d = len(tally)
    runs = np.stack([np.roll(tally, -i, axis=0) for i in range(block)]).sum(axis=0) if d else tally
    return np.stack([tally.sum(axis=0), *(runs[begin].sum(axis=0) for begin in begins if d)])


def _rates(totals: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(..., 2 + 2 k) -> (...) recall, the mean over the kinds of fault that there are, and false positive rate."""
    normal, alarm, (counted, found) = totals[..., 0], totals[..., 1], np.split(totals[..., 2:], 2, axis=-1)
    by_kind = np.divide(found, counted, out=np.zeros_like(found), where=counted > 0)
    recall: FloatArray = by_kind.sum(axis=-1) / np.maximum((counted > 0).sum(axis=-1), 1)
    return recall, np.divide(alarm, normal, out=np.zeros_like(alarm), where=normal > 0)


def _precision_f1(recall: FloatArray, fpr: FloatArray) -> tuple[FloatArray, FloatArray]:
    hits, alarms = PREVALENCE * recall, (1 - PREVALENCE) * fpr
    precision = np.divide(hits, hits + alarms, out=np.zeros_like(hits), where=hits + alarms > 0)
    both = precision + recall
    return precision, np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)


def _interval(gains: FloatArray) -> tuple[float, float]:
    low, high = np.quantile(gains, [TAIL, 1 - TAIL]) if len(gains) else (0.0, 0.0)
    return float(low), float(high)


def _runs(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(d,) -> (d,) how many points in a row are flagged around each, 0 for the others."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    lengths = np.zeros(len(flags), np.int64)
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        lengths[begin:end] = end - begin
    return lengths
