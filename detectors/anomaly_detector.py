"""The detectors from Python, without HTTP: `AnomalyDetector.from_registry("volume-anomaly.orders").predict({...})`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from detectors import volume
from shared.catalogue import Catalogue
from shared.contract import VolumeRequest, parse
from shared.errors import InvalidRequest, ModelNotFound
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class AnomalyDetector:
    """One model of the registry, kept up to date with its champion, as the service does. Leaves no trace in the history."""

    name: str
    table_id: str
    catalogue: Catalogue

    @classmethod
    def from_registry(cls, name: str, settings: Settings | None = None) -> Self:
        """Loads and verifies the champion of `name`, from the storage that `settings` (or the environment) names.

        Raises ModelNotFound, ModelUnavailable, StorageUnavailable, and InvalidRequest for a name that is none.
        """
        kind, _, table_id = name.partition(".")
        if kind != "volume-anomaly" or not table_id:
            raise InvalidRequest("A model's name is volume-anomaly.{table_id}.", "name")
        catalogue = Catalogue(settings or Settings.from_environment())
        if catalogue.model(name) is None:
            raise ModelNotFound(f"There is no model {name}.", "name")
        return cls(name, table_id, catalogue)

    def predict(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a detect call -> its answer. Raises InvalidRequest naming the wrong field."""
        body = {**request, "table_id": self.table_id, "require_model": True}
        parsed = parse(VolumeRequest, json.dumps(body, default=_text).encode())
        return volume.detect(parsed, self.catalogue, datetime.now(UTC)).model_dump(mode="json")


def _text(value: object) -> object:
    """Dates as text and numpy's numbers as numbers; anything else is no field of a request."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "item"):
        return value.item()
    raise InvalidRequest(f"{type(value).__name__} has no place in a request.")
