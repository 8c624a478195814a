"""The scoring script of a managed online endpoint: one registered model, asked with the body of a detect call.

Azure ML's server calls `init` once and `run` for every request. The file is ONNX with its card and probe, verified as it is
loaded; nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from detectors.anomaly_detector import AnomalyDetector
from detectors.artefact import Artefact
from shared.catalogue import Catalogue, Loaded
from shared.errors import InvalidJson, ServiceError
from shared.settings import Settings

_served: AnomalyDetector | None = None


class OneModel(Catalogue):
    """A catalogue whose one model came with the deployment. History is stored where the settings name a storage account."""

    def __init__(self, settings: Settings, served: Loaded) -> None:
        super().__init__(settings)
        self._only = served

    def model(self, name: str) -> Loaded | None:
        return self._only if name == self._only.name else None


def init() -> None:
    """Loads the model in AZUREML_MODEL_DIR, and checks it. Raises FileNotFoundError, UnusableArtefact."""
    global _served
    folder = Path(os.environ["AZUREML_MODEL_DIR"])
    path = next(iter(sorted(folder.rglob("*.onnx"))), folder / "model.onnx")
    _served = load(path, Settings.from_environment(), os.environ.get("MODEL_VERSION"), os.environ.get("MODEL_SHA256"))


def run(raw_data: str) -> Any:
    """The answer of a detect call; for a request that is refused its error, as the service has it, and its status."""
    if _served is None:
        raise RuntimeError("init() comes first.")
    try:
        return _served.predict(_parsed(raw_data))
    except ServiceError as error:
        return _refused({"error": {"code": error.code, "message": error.message, "target": error.target}}, error.status)


def load(path: Path, settings: Settings, version: str | None = None, sha256: str | None = None) -> AnomalyDetector:
    """The detector whose model lies at `path`. Raises UnusableArtefact, also where it has another SHA-256."""
    payload = path.read_bytes()
    artefact = Artefact.load(payload, sha256=sha256)
    name, column = str(artefact.card["name"]), artefact.card.get("column_name")
    kind, _, table_id = name.partition("-anomaly.")
    fixed = {"table_id": table_id.rpartition(".")[0] if column else table_id, "require_model": True}
    loaded = Loaded(name, version or path.parent.name, hashlib.sha256(payload).hexdigest(), artefact)
    return AnomalyDetector(name, kind, fixed | ({"column": column} if column else {}), OneModel(settings, loaded))


def _parsed(raw_data: str) -> dict[str, Any]:
    try:
        found = json.loads(raw_data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InvalidJson("The body is no JSON object.")
    return found


def _refused(body: dict[str, Any], status: int) -> Any:
    try:
        from azureml_inference_server_http.api.aml_response import AMLResponse
    except ImportError:  # outside Azure ML's server
        return body
    return AMLResponse(body, status, json_str=True)
