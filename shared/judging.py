"""One request through its detector, whichever door it came by: with its table's settings, and what is to be kept of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from detectors.directory import detector
from shared import telemetry
from shared.catalogue import Catalogue
from shared.contract import Answer, DetectOptions
from shared.tables import Tables, settled
from shared.telling import with_verdict

# Clocks and time zones differ by less.
AHEAD = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer, and the message with what was seen and found, for the observations queue; None where there is none."""

    answer: Answer
    observation: str | None


def judge(kind: str, request: DetectOptions, catalogue: Catalogue, tables: Tables, now: datetime) -> Judged:
    """The answer of detector `kind`; what the request leaves open is as its table's settings say.

    Raises NotFound for a detector that is none, and what its `detect` raises.
    """
    asked = detector(kind)
    request, warnings = settled(request, kind, tables)
    answer = asked.detect(request, catalogue, now)
    telemetry.judged(kind, answer.severity, answer.latency_ms)
    if answer.timestamp and datetime.fromisoformat(answer.timestamp) > now + AHEAD:
        warnings = [*warnings, f"The timestamp {answer.timestamp} lies in the future."]
    answer.warnings = [*warnings, *answer.warnings]
    seen = asked.observation(request, answer, catalogue, now)
    return Judged(answer, with_verdict(seen, request, answer, now, catalogue.door.is_open()))
