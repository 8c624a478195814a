"""Many verdicts at once: what a batch is scored with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from detectors.directory import DETECTORS
from shared.catalogue import Catalogue
from shared.contract import Answer
from shared.errors import ServiceError


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one item: its answer, and the message that keeps what was seen; or what was wrong with it."""

    answer: Answer | None = None
    observation: str | None = None
    error: ServiceError | None = None


def score(name: str, requests: Sequence[Any], catalogue: Catalogue, now: datetime) -> list[Outcome]:
    """The outcomes of `requests`, checked requests of detector `name`, in their order. One bad item fails itself alone."""
    detector, outcomes = DETECTORS[name], []
    for request in requests:
        try:
            answer = detector.detect(request, catalogue, now)
            outcomes.append(Outcome(answer, detector.observation(request, answer, catalogue, now)))
        except ServiceError as error:
            outcomes.append(Outcome(error=error))
    return outcomes
