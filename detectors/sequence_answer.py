"""How a sequence verdict is told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.context import FloatArray
from detectors.decision import confidence_of, severity_of
from detectors.sequence_history import Judged, Known, stamp
from detectors.sequence_verdict import combined, score_of
from detectors.words import number
from shared.contract import Deviation, HistoryUse, ModelUse
from shared.contract_sequence import MetricVerdict, SequenceAnswer, SequenceRequest, StepVerdict

BASELINE = ModelUse(name=None, version="1", algorithm="hypothesis_filter")
UNLIKE, OUT_OF_RANGE = "unlike_forecast", "out_of_range"
IN_WORDS = {
    "hourly": {
        "frozen": "repeats its last value", "copy_of_last_day": "is a copy of the day before",
        "copy_of_last_week": "is a copy of the week before", "flattened": "has lost the shape of its day",
        "mirrored": "is high where it is usually low", "reversed": "runs through its day backwards",
        "later": "comes about 6 hours late", "earlier": "comes about 6 hours early",
        "other_day_type": "looks like another kind of day", "wild": "jumps about far more than usual",
        "displaced": "left its usual level", OUT_OF_RANGE: "lies far outside of its range",
        UNLIKE: "does not go on as its recent days let expect",
    },
    "daily": {
        "frozen": "repeats its last value", "copy_of_last_week": "is a copy of the week before",
        "flattened": "has lost the shape of its week", "mirrored": "is high where it is usually low",
        "reversed": "runs through its week backwards", "later": "comes about a day late",
        "earlier": "comes about a day early", "wild": "jumps about far more than usual", "displaced": "left its usual level",
        OUT_OF_RANGE: "lies far outside of its range", UNLIKE: "does not go on as its recent weeks let expect",
    },
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks against each judged bucket and metric, (j, m) each; NaN surprise where nothing can be said.

    `hypothesis` are names; `expected`, `lower`, `upper` of a normal bucket, in the metric's own unit.
    """

    surprise: FloatArray
    hypothesis: NDArray[Any]
    expected: FloatArray
    lower: FloatArray
    upper: FloatArray


def answered(request: SequenceRequest, judged: Judged, known: Known, evidence: Evidence, threshold: float, used: int,
             model: ModelUse) -> SequenceAnswer:
    """`used` rows of the history taught the model. At least one bucket and metric has evidence."""
    together, contributions = combined(evidence.surprise)
    scores, alone = score_of(together), score_of(evidence.surprise)
    evaluated = np.isfinite(scores)
    flagged = evaluated & (scores >= threshold)
    worst = int(np.nanargmax(scores))
    metrics = _metrics(request, judged, evidence, contributions, alone, bool(flagged[worst]), worst, threshold)
    blamed = int(contributions[worst].argmax())
    anomaly, score = bool(flagged.any()), float(scores[worst])
    steps = [_step(request, judged.stamps[i], judged.values[judged.given[i]], evidence.hypothesis[i], contributions[i],
                   alone[i] >= threshold, scores[i]) for i in np.flatnonzero(flagged).tolist()]
    of_worst = metrics[blamed]
    change = None if of_worst.value is None or of_worst.expected_value is None else of_worst.value - of_worst.expected_value
    return SequenceAnswer(
        is_anomaly=anomaly, severity=severity_of(score, anomaly),  # type: ignore[arg-type]
        confidence=confidence_of(score, anomaly), expected_range=of_worst.expected_range,
        message=_message(request, steps, int(evaluated.sum()), judged.stamps[worst], of_worst),
        status="evaluated", table_id=request.table_id, request_id=request.request_id, timestamp=stamp(judged.stamps[worst]),
        state=of_worst.hypothesis if anomaly else "normal", metric=of_worst.metric, value=of_worst.value,
        expected_value=of_worst.expected_value,
        deviation=None if change is None else Deviation(absolute=_short(change), percent=None, score=_down(score),
                                                        threshold=round(threshold, 6)),
        steps=steps, metrics=metrics, judged=int(evaluated.sum()), history=use_of(known, used), model=model,
    )


def silent(request: SequenceRequest, judged: Judged | None, known: Known, status: str, reason: str) -> SequenceAnswer:
    """No verdict, and why: never an anomaly, never certain."""
    last = judged.stamps[-1] if judged is not None else None
    return SequenceAnswer(
        is_anomaly=False, severity="none", confidence=0.0, expected_range=(None, None), message=reason,
        status=status, reason=reason, table_id=request.table_id, request_id=request.request_id,  # type: ignore[arg-type]
        timestamp=stamp(last) if last else None, history=use_of(known, 0), model=BASELINE,
    )


def use_of(known: Known, used: int) -> HistoryUse:
    missing = len(known.values) - int(np.isfinite(known.values).any(axis=1).sum()) - known.excluded
    return HistoryUse(points=known.points, used=used, excluded=known.excluded, missing=max(missing, 0))


def _metrics(request: SequenceRequest, judged: Judged, evidence: Evidence, contributions: FloatArray, alone: FloatArray,
             flagged: bool, at: int, threshold: float) -> list[MetricVerdict]:
    values = judged.values[judged.given[at]]
    verdicts = []
    for j, name in enumerate(request.metrics):
        score = float(alone[at, j])
        if math.isnan(score):
            verdicts.append(MetricVerdict(metric=name, is_anomaly=False, score=None, contribution=0.0))
            continue
        wrong = flagged and score >= threshold
        verdicts.append(MetricVerdict(
            metric=name, is_anomaly=wrong, score=_down(score), contribution=round(float(contributions[at, j]), 4),
            hypothesis=str(evidence.hypothesis[at, j]) if wrong else None,  # type: ignore[arg-type]
            value=float(values[j]), expected_value=_short(evidence.expected[at, j]),
            expected_range=(_short(evidence.lower[at, j]), _short(evidence.upper[at, j]))))
    return verdicts


def _step(request: SequenceRequest, moment: datetime, values: FloatArray, hypotheses: NDArray[Any],
          contributions: FloatArray, wrong: NDArray[np.bool_], score: float) -> StepVerdict:
    # Together they are beyond the threshold, so the worst is so alone.
    order = np.argsort(-contributions, kind="stable").tolist()
    blamed = [j for j in order if wrong[j] or j == order[0]]
    names = [request.metrics[j] for j in blamed]
    hypothesis = str(hypotheses[order[0]])
    return StepVerdict(timestamp=stamp(moment), score=_down(score), severity=severity_of(score, True),  # type: ignore[arg-type]
                       metrics=names, values=[_short(values[j]) if math.isfinite(values[j]) else None for j in blamed],
                       hypothesis=hypothesis,  # type: ignore[arg-type]
                       description=f"{_listed(names)} {IN_WORDS[request.granularity][hypothesis]}.")


def _message(request: SequenceRequest, steps: Sequence[StepVerdict], judged: int, at: datetime, worst: MetricVerdict) -> str:
    """`2 of 24 hours are unusual, the worst 2026-09-21T14:00:00Z: amount repeats its last value (412; 9,728 expected).`"""
    unit = {"hourly": "hour", "daily": "day"}[request.granularity] + ("" if judged == 1 else "s")
    if not steps:
        return f"{judged} {unit} judged: order and shape as usual."
    what = IN_WORDS[request.granularity][worst.hypothesis or "displaced"]
    seen = f"{number(worst.value or 0.0)}; {number(worst.expected_value or 0.0)} expected"
    verb = "is" if len(steps) == 1 else "are"
    return f"{len(steps)} of {judged} {unit} {verb} unusual, the worst {stamp(at)}: {worst.metric} {what} ({seen})."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"


def _short(value: float) -> float:
    """Six digits are enough to read."""
    return float(f"{value:.6g}")


def _down(score: float) -> float:
    """Never up to a threshold or 1 by rounding."""
    return math.floor(score * 1e6) / 1e6
