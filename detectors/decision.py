"""From a score to a verdict.

The score comes from the model; the threshold, what the user asked for and the domain of a count are applied here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.contract import DetectOptions

SEVERITIES = ("none", "low", "medium", "high", "critical")
SEVERITY_SCORES = (0.99, 0.995, 0.999, 0.9999)
BUCKETS_A_MONTH = {"hourly": 730.5, "daily": 30.44, "weekly": 4.35, "monthly": 1.0}
# Tables have about one incident a month: the prior with which a score becomes a probability.
PRIOR = 1 / 30
MOST_CERTAIN = 0.9999  # confidence: nothing is certain


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a model says of one value, before direction, minimum change and the domain of a count are applied."""

    score: float
    expected: float
    lower: float
    upper: float
    effects: Mapping[str, float] = field(default_factory=dict)


def threshold_of(request: DetectOptions, judged_a_month: float | None = None) -> float:
    """The calibrated score from which on something is an anomaly.

    `sensitivity` 90 keeps one alarm in 100 normal verdicts, and each 45 points are a factor of ten: 45 keeps one in 1,000,
    0 one in 10,000. `max_alerts_per_month` can only raise the threshold: to the one that was calibrated for this number by
    the table's past, else to the nominal rate; a month has `judged_a_month` verdicts, one for each bucket where that is left
    out.
    """
    rate, budget = 10 ** (-2 - (90 - request.sensitivity) / 45), request.alert_budget
    if budget is not None and budget.max_alerts_per_month == request.max_alerts_per_month:
        return max(1 - rate, budget.threshold)
    if request.max_alerts_per_month is not None:
        rate = min(rate, request.max_alerts_per_month / (judged_a_month or BUCKETS_A_MONTH[request.granularity]))
    return 1 - rate


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict in numbers: the range is open at None, and the value is outside exactly when it is an anomaly."""

    is_anomaly: bool
    severity: str
    confidence: float
    lower: float | None
    upper: float | None
    score: float
    direction: str | None
    held_back: str | None = None


def decide(judgement: Judgement, value: float, threshold: float, request: DetectOptions) -> Decision:
    """Applies what the user asked for (direction, smallest change worth an alert) and what a count can be (whole, >= 0)."""
    j = judgement
    margin = max(request.min_change.percent / 100 * j.expected, request.min_change.absolute)
    lower, upper = min(j.lower, j.expected - margin), max(j.upper, j.expected + margin)
    drops, spikes = request.direction != "spike", request.direction != "drop"
    drop = value <= j.expected
    held_back = None
    if j.score >= threshold and margin > 0 and abs(value - j.expected) <= margin:
        held_back = "less than the smallest change worth an alert"
    elif j.score >= threshold and not (drops if drop else spikes):
        held_back = f"but only {request.direction}s are watched for"
    anomaly = j.score >= threshold and held_back is None
    score = math.nextafter(threshold, 0) if held_back else min(j.score, 1 - 1e-9)
    low = max(math.ceil(lower - 1e-9), 0) if drops and math.isfinite(lower) else 0
    high = math.floor(upper + 1e-9) if spikes and math.isfinite(upper) else None
    stuck = False
    if not anomaly:
        low = min(low, math.floor(value))
        high = None if high is None else max(high, math.ceil(value))
    elif drop and value >= low:
        # A repeated count lies where counts are expected: the range then ends next to it.
        low, stuck = math.floor(value) + 1, value > 0
        high = None if high is None else max(high, low)
    elif not drop and (high is None or value <= high):
        high, stuck = math.ceil(value) - 1, True
        low = min(low, high)
    severity = severity_of(score, anomaly, steps_worse=int(value == 0))  # an empty load is one step worse
    direction = ("stuck" if stuck else "drop" if drop else "spike") if anomaly else None
    return Decision(anomaly, severity, confidence_of(score, anomaly), float(low), None if high is None else float(high),
                    score, direction, held_back)


def severity_of(score: float, is_anomaly: bool, steps_worse: int = 0) -> str:
    """How bad, from the calibrated score: a low threshold can flag below the first step, yet an anomaly is at least low."""
    if not is_anomaly:
        return "none"
    return SEVERITIES[min(max(sum(score >= s for s in SEVERITY_SCORES), 1) + steps_worse, 4)]


def confidence_of(score: float, is_anomaly: bool) -> float:
    """The probability that the verdict is right.

    A tail probability p = 1 - score is worth a Bayes factor of 1 / (4 p) against normal, and tables have about one incident
    a month. On 17 real tables this said .54, .79, .96 and 1.00 of what was flagged from .99, .995, .999 and .9999 on, where
    .54, .78, .73 and .97 were faults, and .97 of what was not flagged, where .975 was normal; of the lateness of 13 feeds
    .55, .78, .95 and 1.00, where .65, .68, .81 and .96 were faults, and .95, where .96 was normal.
    """
    factor = 1 / (4 * max(1 - score, 1e-9))
    posterior = PRIOR * factor / (1 - PRIOR + PRIOR * factor)
    return min(round(posterior if is_anomaly else 1 - posterior, 4), MOST_CERTAIN)
