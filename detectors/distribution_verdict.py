"""From evidence to a verdict on a batch and on each of its columns.

One threshold holds for the largest of all metrics, so the false alarm rate is that of the whole table, however many metrics
it has. An alarm is a value outside its expected range, which is never narrower than an effect worth reporting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detectors.attribution import worst
from detectors.conditional import Judged
from detectors.decision import BUCKETS_A_MONTH, PRIOR, SEVERITIES, SEVERITY_SCORES
from detectors.metrics import BoolArray, FloatArray
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
    """A batch in numbers. `place` is the worst metric's, None where no metric could be judged."""

    score: float
    is_anomaly: bool
    place: int | None
    columns: list[ColumnVerdict]
    tests: int

    @property
    def severity(self) -> str:
        return severity_of(self.score, self.is_anomaly)

    @property
    def confidence(self) -> float:
        return confidence_of(self.score, self.is_anomaly)


def threshold_of(request: DetectOptions) -> float:
    """The calibrated score from which on a batch is an anomaly, as for every detector: 0.99 at sensitivity 90."""
    rate = 10 ** (-2 - (90 - request.sensitivity) / 45)
    if request.max_alerts_per_month is not None:
        rate = min(rate, request.max_alerts_per_month / BUCKETS_A_MONTH[request.granularity])
    return 1 - rate


def severity_of(score: float, is_anomaly: bool) -> str:
    if not is_anomaly:
        return "none"
    return SEVERITIES[max(sum(score >= step for step in SEVERITY_SCORES), 1)]


def confidence_of(score: float, is_anomaly: bool) -> float:
    """The probability that the verdict, either way, is right: a tail probability p is a Bayes factor of 1 / (4 p)."""
    factor = 1 / (4 * max(1 - score, 1e-9))
    posterior = PRIOR * factor / (1 - PRIOR + PRIOR * factor)
    return min(round(posterior if is_anomaly else 1 - posterior, 4), 0.9999)


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
    wanted = known & watched(raw, judged, request)
    evidence = np.where(wanted, judged.evidence[0], 0.0)
    starts = _starts(features)
    largest = np.maximum.reduceat(evidence, starts)
    scores = np.minimum(tail.score(np, largest), HIGHEST)
    shares = _shares(largest) if judged.contribution is None else np.add.reduceat(judged.contribution[0], starts)
    columns = []
    for at, end, own, score, share in zip(starts.tolist(), [*starts[1:].tolist(), len(features)], largest.tolist(),
                                          scores.tolist(), shares.tolist(), strict=True):
        if not known[at:end].any():
            continue
        j = at + int(np.argmax(np.where(known[at:end], evidence[at:end], -1.0)))
        odd = own >= line
        columns.append(ColumnVerdict.model_construct(
            column=features[j][0] or None, is_anomaly=odd, severity=severity_of(score, odd),
            metric=features[j][1], value=_rounded(raw[j]), expected_value=_rounded(judged.expected[0, j]),
            expected_range=(_rounded(judged.lower[0, j]), _rounded(judged.upper[0, j])),
            score=round(score, 6), contribution=round(share, 4)))
    score = float(scores.max(initial=0.0))
    if judged.score is not None:
        # Of a model's alarm that no metric bears out, a caller who asked for large drops alone hears nothing.
        asked = request.direction != "both" or request.min_change.percent > 0 or request.min_change.absolute > 0
        score = min(float(judged.score[0]), HIGHEST) if not asked or (evidence >= line).any() else score
    score = max([score, *(f.score for f in findings)])
    place = _place(features, evidence, judged, line) if known.any() else None
    return Verdict(score, score >= threshold, place, columns, int(known.sum()))


def _place(features: tuple[tuple[str, str], ...], evidence: FloatArray, judged: Judged, line: float) -> int:
    if judged.contribution is None or evidence.max() >= line:
        return worst(evidence, features, line)
    return int(judged.contribution[0].argmax())


def _shares(largest: FloatArray) -> FloatArray:
    """(c,) evidence of every column -> (c,) its share of what is held against the batch."""
    excess = np.maximum(largest - USUAL_EVIDENCE, 0.0) ** 2
    return excess / excess.sum() if excess.any() else np.full(len(excess), 1 / len(excess))


def changed(finding: Finding, threshold: float) -> ColumnVerdict:
    """A change of the schema as the verdict on its column."""
    odd = finding.score >= threshold
    return ColumnVerdict(column=finding.column, is_anomaly=odd, severity=severity_of(finding.score, odd),  # type: ignore[arg-type]
                         metric=finding.change, score=round(finding.score, 6))


def unjudged(columns: Mapping[str, tuple[str, str]]) -> list[ColumnVerdict]:
    """Columns without a verdict, with their status and the reason."""
    return [ColumnVerdict(column=column, status=status, reason=reason)  # type: ignore[arg-type]
            for column, (status, reason) in columns.items()]


def _starts(features: tuple[tuple[str, str], ...]) -> np.ndarray:
    """(c,) where each column's metrics begin."""
    return np.array([i for i, (column, _) in enumerate(features) if i == 0 or column != features[i - 1][0]], np.int64)


def _rounded(value: float) -> float | None:
    """Six digits, None for what is not known or has no end."""
    return float(f"{value:.6g}") if np.isfinite(value) else None


