"""Training from Python, without the service: what the trainers of the detectors have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from shared.errors import InvalidRequest
from shared.registry import Registry
from training.candidates import Candidate


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """What a trainer's `train` returns: the chosen model and the figures of every candidate."""

    table_id: str
    algorithm: str
    quality: dict[str, Any]
    candidates: list[dict[str, Any]]
    payload: bytes
    card: dict[str, Any]

    @classmethod
    def of(cls, table_id: str, best: Candidate, rivals: Sequence[Candidate]) -> Self:
        figures = [rival.figures for rival in rivals]
        return cls(table_id, best.algorithm, best.figures["quality"], figures, best.payload or b"", best.card)


class Trainer:
    """Registers what was trained: in `registry`, or where none is given in that of the environment's storage."""

    def __init__(self, registry: Registry | None = None) -> None:
        self._registry = registry

    def register_model(self, model: TrainedModel, name: str) -> str:
        """Publishes and promotes; returns the version.

        Raises InvalidRequest for a name under which nobody would look for a model of this detector, StorageUnavailable.
        """
        kind = str(model.card.get("detector", "volume"))
        if not name.startswith(f"{kind}-anomaly."):
            raise InvalidRequest(f"The name of a model of {kind} is {kind}-anomaly.{{table_id}}.", "name")
        if self._registry is None:
            from shared.worker import registry

            self._registry = registry()
        manifest = self._registry.publish(name, model.payload, model.card)
        self._registry.promote(name, manifest.version, reason="registered from Python")
        return manifest.version
