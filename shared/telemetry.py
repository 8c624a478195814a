"""What the app counts while it works, as OpenTelemetry instruments of few attributes: no table is named in any of them.

    claritydq.verdict.duration    milliseconds of single requests, by detector and severity; its count is that of verdicts
    claritydq.drift.checks        by detector and verdict
    claritydq.retrainings         by detector and outcome

Without a meter provider, as a distribution of the host's or of an operator's sets one, nothing is recorded.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from opentelemetry import metrics

_meter: Final = metrics.get_meter("claritydq")
_duration: Final = _meter.create_histogram("claritydq.verdict.duration", "ms", "How long a verdict took to compute")
_checks: Final = _meter.create_counter("claritydq.drift.checks", "{check}", "Models whose data were checked for drift")
_retrainings: Final = _meter.create_counter("claritydq.retrainings", "{model}", "Models that were trained anew")


def judged(detector: str, severity: str, milliseconds: float) -> None:
    """A request was answered."""
    _duration.record(milliseconds, _labels("severity", detector, severity))


def checked(detector: str, verdict: str) -> None:
    """A model's data were compared with those it was trained on."""
    _checks.add(1, _labels("verdict", detector, verdict))


def retrained(detector: str, outcome: str) -> None:
    """A retraining decided about a model."""
    _retrainings.add(1, _labels("outcome", detector, outcome))


@cache
def _labels(name: str, detector: str, value: str) -> dict[str, str]:
    """Made once for each: names are few."""
    return {"detector": detector, name: value}
