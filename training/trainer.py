"""Training from Python, without the service: what the trainers of the detectors have in common."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from shared.contract import Input, parse
from shared.errors import InvalidRequest
from shared.registry import Registry
from training import azure_ml, candidates
from training.candidates import Candidate

MOST_BYTES = 2**30  # of a history given from Python
MOST_DAYS = 3660  # that one may look back


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

    def _best(self, kind: type[Input], body: Mapping[str, Any]) -> TrainedModel:
        """The best model for a training request that brings its own history, all of it unless the body says how much.

        Raises InvalidRequest naming the field, or telling why no family could be trained.
        """
        request: Any = parse(kind, json.dumps({"training_days": MOST_DAYS, **body}).encode(), MOST_BYTES)
        module: Any = sys.modules[type(self).__module__]  # prepare, fit_candidate and choose are those of the detector
        prepared = module.prepare(request, None)
        names = candidates.rivals(request.algorithm, module.FAMILIES, "", None)
        rivals = module.compare([module.fit_candidate(prepared, name) for name in names])
        return TrainedModel.of(request.table_id, module.choose(rivals, request.algorithm), rivals)

    def register_model(self, model: TrainedModel, name: str) -> str:
        """Publishes and promotes, and shows it in Azure ML where there is a workspace; returns the version.

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
        azure_ml.mirror(name, self._registry, manifest.version)
        return manifest.version
