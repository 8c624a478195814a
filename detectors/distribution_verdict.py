"""From evidence to a verdict on a batch and on each of its columns.

One threshold holds for the largest of all metrics, so the false alarm rate is that of the whole table, however many metrics
it has. An alarm is a value outside its expected range, which is never narrower than an effect worth reporting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from detectors.attribution import worst
from detectors.conditional import Judged
from detectors.decision import severity_of
from detectors.metrics import BoolArray, FloatArray, IntArray
from detectors.profiles import ById
from detectors.schema import Finding
from detectors.tails import Tail
from shared.contract import DetectOptions
from shared.contract_distribution import ColumnVerdict

METHOD = "one threshold for the largest of all metrics, calibrated on the table's own batches"
# Evidence that every metric of a normal batch has; only what goes beyond it is held against a column.
USUAL_EVIDENCE = 1.0
# No score is higher: a batch like no other is still one of a finite number that were seen.
HIGHEST = 1 - 1e-9


@dataclass(frozen=True, slots=True)
class Verdict:
    """A batch in numbers. `place` is the worst metric's, None where no metric could be judged; `borne_out` says whether it
    is odd itself.
    """

    score: float
    is_anomaly: bool
    place: int | None
    columns: list[ColumnVerdict]
    tests: int
    borne_out: bool


def watched(raw: FloatArray, judged: Judged, request: DetectOptions) -> BoolArray:
    """(p,) which changes the caller wants to hear of: in the direction asked for, and not smaller than `min_change`."""
    expected = judged.expected[0]
    with np.errstate(invalid="ignore"):
        margin = np.maximum(request.min_change.percent / 100 * np.abs(expected), request.min_change.absolute)
        large = ~(np.abs(raw - expected) <= margin) | (margin == 0)
        if request.direction == "both":
            return np.asarray(large)
        return np.asarray(large & ((raw < expected) if request.direction == "drop" else (raw > expected)))


def verdict(features: tuple[tuple[str, str], ...], raw: FloatArray, judged: Judged, tail: Tail, findings: Sequence[Finding],
            request: DetectOptions, threshold: float) -> Verdict:
    """(p,) metrics of one batch and what was made of them -> the verdict on it and on every column that was judged."""
    line = float(tail.inverse(np, np.float64(threshold)))
    known = np.isfinite(raw)
    asked = request.direction != "both" or request.min_change.percent > 0 or request.min_change.absolute > 0
    wanted = known & watched(raw, judged, request) if asked else known
    evidence = np.where(wanted, judged.evidence[0], 0.0)
    groups = _groups(ById(features))
    largest = np.maximum.reduceat(evidence, groups.starts)
    worsts = _worst_of_each(np.where(known, evidence, -1.0), groups)
    scores = np.minimum(tail.score(np, largest), HIGHEST)
    odd = largest >= line
    borne_out = bool(odd.any())
    told = _rounded(np.stack([raw, judged.expected[0], judged.lower[0], judged.upper[0]])[:, worsts])
    columns = [
        ColumnVerdict(column=features[j][0] or None, is_anomaly=is_odd,
                      severity=severity_of(score, is_odd),  # type: ignore[arg-type]
                      metric=features[j][1], value=value, expected_value=expected, expected_range=(low, high),
                      score=rounded, contribution=share)
        for j, is_known, is_odd, score, rounded, share, value, expected, low, high in zip(
            worsts.tolist(), known[worsts].tolist(), odd.tolist(), scores.tolist(), np.round(scores, 6).tolist(),
            np.round(_shares(largest), 4).tolist(), *told, strict=True) if is_known]
    score = float(scores.max(initial=0.0))
    if judged.score is not None:
        # Of a model's alarm that no metric bears out, a caller who asked for large drops alone hears nothing.
        score = min(float(judged.score[0]), HIGHEST) if not asked or borne_out else score
    score = max([score, *(f.score for f in findings)])
    place = worst(evidence, features, line) if known.any() else None
    return Verdict(score, score >= threshold, place, columns, int(known.sum()), borne_out)


def _shares(largest: FloatArray) -> FloatArray:
    """(c,) evidence of every column -> (c,) its share of what is held against the batch."""
    excess = np.maximum(largest - USUAL_EVIDENCE, 0.0) ** 2
    return excess / excess.sum() if excess.any() else np.full(len(excess), 1 / len(excess))


def shared_out(columns: Sequence[ColumnVerdict], tail: Tail) -> None:
    """Gives the changes of the schema, which have no evidence of their own, their part of what is held against the batch.

    A change counts as a metric with the same score would.
    """
    scores = np.array([column.score for column in columns])
    largest = np.asarray(tail.inverse(np, np.minimum(scores, HIGHEST)))
    for column, share in zip(columns, np.round(_shares(largest), 4).tolist(), strict=True):
        column.contribution = share


def changed(finding: Finding, threshold: float) -> ColumnVerdict:
    """A change of the schema as the verdict on its column."""
    odd = finding.score >= threshold
    return ColumnVerdict(column=finding.column, is_anomaly=odd, severity=severity_of(finding.score, odd),  # type: ignore[arg-type]
                         metric=finding.change, score=round(finding.score, 6))


@dataclass(frozen=True, slots=True)
class _Groups:
    """The metrics of c columns, sorted by column: `starts` (c,) where each column's begin, `sizes` (c,) how many it has."""

    starts: IntArray
    sizes: IntArray


@lru_cache(64)
def _groups(key: ById) -> _Groups:
    columns = [column for column, _ in key.features]
    starts = np.array([i for i, column in enumerate(columns) if i == 0 or column != columns[i - 1]], np.int64)
    return _Groups(starts, np.diff(starts, append=len(columns)))


def _worst_of_each(evidence: FloatArray, groups: _Groups) -> IntArray:
    """(c,) the place of every column's first metric with its largest evidence."""
    largest = np.repeat(np.maximum.reduceat(evidence, groups.starts), groups.sizes)
    candidates = np.flatnonzero(evidence == largest)
    return candidates[np.searchsorted(candidates, groups.starts)]


def _rounded(values: FloatArray) -> list[list[float | None]]:
    """(k, c) to six digits, None for what is not known or has no end."""
    finite = np.isfinite(values)
    digits = 10.0 ** np.clip(5 - np.floor(np.log10(np.where(finite & (values != 0), np.abs(values), 1.0))), -290, 290)
    rounded = (np.rint(np.where(finite, values, 0.0) * digits) / digits).astype(object)
    rounded[~finite] = None
    told: list[list[float | None]] = rounded.tolist()
    return told
