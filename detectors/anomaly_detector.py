"""The detectors from Python, without HTTP: `AnomalyDetector.from_registry("volume-anomaly.orders").predict({...})`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from detectors.directory import DETECTORS
from shared.catalogue import Catalogue
from shared.contract import parse
from shared.errors import InvalidRequest, ModelNotFound
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class AnomalyDetector:
    """One model of the registry, kept up to date with its champion, as the service does. Leaves no trace in the history."""

    name: str
    kind: str
    fixed: Mapping[str, Any]
    catalogue: Catalogue

    @classmethod
    def from_registry(cls, name: str, settings: Settings | None = None) -> Self:
        """Loads and verifies the champion of `name`, from the storage that `settings` (or the environment) names.

        Raises ModelNotFound, ModelUnavailable, StorageUnavailable, and InvalidRequest for a name that is none.
        """
        kind, _, table_id = name.partition("-anomaly.")
        if kind not in DETECTORS or not table_id:
            raise InvalidRequest(f"A model's name is {{detector}}-anomaly.{{table_id}}, of {', '.join(DETECTORS)}.", "name")
        catalogue = Catalogue(settings or Settings.from_environment())
        if (model := catalogue.model(name)) is None:
            raise ModelNotFound(f"There is no model {name}.", "name")
        # A column's model has the column in its name, after the table.
        fixed = {"column": column} if (column := model.artefact.card.get("column_name")) else {}
        table_id = table_id.rpartition(".")[0] if fixed else table_id
        return cls(name, kind, {"table_id": table_id, "require_model": True, **fixed}, catalogue)

    def predict(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a detect call -> its answer. Raises InvalidRequest naming the wrong field."""
        asked = DETECTORS[self.kind]
        parsed = parse(asked.request, json.dumps({**request, **self.fixed}, default=_text).encode())
        return asked.detect(parsed, self.catalogue, datetime.now(UTC)).model_dump(mode="json")


def _text(value: object) -> object:
    """Dates as text and numpy's numbers as numbers; anything else is no field of a request."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "item"):
        return value.item()
    raise InvalidRequest(f"{type(value).__name__} has no place in a request.")
