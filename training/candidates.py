"""Rival models of one table: which are tried, how they compare on the same held-out points, and which is the best.

The same for every detector: what a family is, and which faults it is tried with, is the detector's own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from shared.errors import InvalidRequest, ModelNotFound
from shared.registry import CorruptArtefact, Registry
from training import evaluation
from training.evaluation import Scores, quality
from training.series import FloatArray

__all__ = ["Candidate", "algorithm_of", "choose", "compare", "quality", "rivals"]

type Quality = Callable[[Scores], dict[str, Any]]  # figures, among them f1


@dataclass(frozen=True, slots=True)
class Candidate:
    """One family's model of one table with its figures; without a payload where it could not be trained or is not right."""

    algorithm: str
    figures: dict[str, Any]
    payload: bytes | None = None
    card: dict[str, Any] = field(default_factory=dict)
    scores: Scores | None = None

    def to_parts(self) -> dict[str, bytes]:
        """The candidate as files: figures for people, the model, and what choosing needs."""
        parts = {"json": json.dumps(self.figures).encode()}
        if self.payload is not None and self.scores is not None:
            choosing = {"card": self.card, "normal": _nulls(self.scores.normal), "faulty": _nulls(self.scores.faulty),
                        "said": self.scores.said.tolist()}
            # The figures last: they say that the candidate is complete.
            parts = {"onnx": self.payload, "choosing": json.dumps(choosing).encode(), **parts}
        return parts

    @classmethod
    def from_parts(cls, algorithm: str, parts: dict[str, bytes | None]) -> Candidate:
        figures = json.loads(parts["json"] or b"{}")
        if not parts.get("onnx"):
            return cls(algorithm, figures)
        choosing = json.loads(parts["choosing"] or b"{}")
        normal, faulty = (np.array(choosing[name], np.float64) for name in ("normal", "faulty"))
        scores = Scores(normal, faulty.reshape(len(normal), -1), np.array(choosing.get("said", ()), np.int8))
        return cls(algorithm, figures, parts["onnx"], choosing["card"], scores)


def rivals(asked: str, families: Sequence[str], name: str, registry: Registry | None) -> list[str]:
    """Which of the families a job tries: all for `auto`, else the one asked for, the first, and that of the champion.

    Without a registry there is no champion.
    """
    if asked == "auto":
        return list(families)
    wanted: set[str | None] = {asked, families[0]}
    if registry is not None and (champion := registry.champion(name)) is not None:
        wanted.add(algorithm_of(name, champion.version, registry))
    return [family for family in families if family in wanted]


def algorithm_of(name: str, version: str, registry: Registry) -> str | None:
    """The family of a published version, None where its manifest is lost. Raises StorageUnavailable."""
    try:
        return str(registry.manifest(name, version).card.get("algorithm"))
    except (CorruptArtefact, ModelNotFound):
        return None


def compare(candidates: Sequence[Candidate], quality: Quality) -> list[Candidate]:
    """The candidates with figures on the same points: what they agree to be an incident is no false alarm of anyone."""
    together = iter(evaluation.without_incidents([c.scores for c in candidates if c.scores is not None]))
    return [c if c.scores is None else _with_scores(c, scores := next(together), quality(scores)) for c in candidates]


def choose(candidates: Sequence[Candidate], baseline: str, algorithm: str = "auto") -> Candidate:
    """The one asked for, else the best by F1 on held-out points: the baseline unless it is beaten beyond noise.

    Raises InvalidRequest where nothing could be trained.
    """
    able = [c for c in candidates if c.scores is not None and algorithm in ("auto", c.algorithm)]
    if not able:
        reasons = "; ".join(f"{c.algorithm}: {c.figures.get('error')}" for c in candidates if "error" in c.figures)
        raise InvalidRequest(f"No model could be trained. {reasons}", "table_id")
    first = next((c for c in able if c.algorithm == baseline), None)
    if first is not None and first.scores is not None:
        able = [c for c in able if c.scores is not None and evaluation.beats(c.scores, first.scores)] or [first]
    return max(able, key=lambda c: c.figures["quality"]["f1"])


def _with_scores(candidate: Candidate, scores: Scores, quality: dict[str, Any]) -> Candidate:
    return replace(candidate, scores=scores, figures=candidate.figures | {"quality": quality},
                   card=candidate.card | {"quality": quality})


def _nulls(values: FloatArray) -> list[Any]:
    return [None if math.isnan(v) else v for v in values.ravel().tolist()]
