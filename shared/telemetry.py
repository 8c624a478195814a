"""What the app counts while it works, as OpenTelemetry instruments of few attributes: no table is named in any of them.

    claritydq.verdict.duration    milliseconds of single requests, by detector and severity; its count is that of verdicts
    claritydq.drift.checks        by detector and verdict
    claritydq.retrainings         by detector and outcome

Nothing is recorded where OpenTelemetry is not installed, or no meter provider is set: both come with whatever exports them,
such as azure-monitor-opentelemetry.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any, Final

_METERS: Final = {"claritydq.verdict.duration": ("ms", "How long a verdict took to compute"),
                  "claritydq.drift.checks": ("{check}", "Models whose data were checked for drift"),
                  "claritydq.retrainings": ("{model}", "Models that were trained anew")}


def judged(detector: str, severity: str, milliseconds: float) -> None:
    """A request was answered."""
    if (duration := _instrument("claritydq.verdict.duration")) is not None:
        duration.record(milliseconds, _labels("severity", detector, severity))


def checked(detector: str, verdict: str) -> None:
    """A model's data were compared with those it was trained on."""
    if (checks := _instrument("claritydq.drift.checks")) is not None:
        checks.add(1, _labels("verdict", detector, verdict))


def retrained(detector: str, outcome: str) -> None:
    """A retraining decided about a model."""
    if (retrainings := _instrument("claritydq.retrainings")) is not None:
        retrainings.add(1, _labels("outcome", detector, outcome))


@cache
def _instrument(name: str) -> Any:
    if find_spec("opentelemetry") is None:
        return None
    from opentelemetry import metrics

    meter = metrics.get_meter("claritydq")
    return (meter.create_histogram if name.endswith("duration") else meter.create_counter)(name, *_METERS[name])


@cache
def _labels(name: str, detector: str, value: str) -> dict[str, str]:
    """Made once for each: names are few."""
    return {"detector": detector, name: value}
