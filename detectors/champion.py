"""The model that a request is answered with, and what has to be said where it is not the one that should."""

from __future__ import annotations

from shared.catalogue import Catalogue, Loaded
from shared.contract import DetectOptions, ModelUse
from shared.errors import ModelNotFound, ModelUnavailable, StorageUnavailable


def find_model(request: DetectOptions, name: str | None, catalogue: Catalogue, baseline: str,
               has_history: bool) -> tuple[Loaded | None, list[str]]:
    """The model called `name` and warnings; None where there is none, and `baseline` (in words) is to answer.

    `name` is None for a request without a table, `has_history` tells whether the request brings its own. Raises
    ModelNotFound (with `require_model`), ModelUnavailable (with `fallback=false`), StorageUnavailable (storage is down,
    nothing is warm and the request has no history).
    """
    if name is None:
        if request.require_model:
            raise ModelNotFound("A model is required, and the request names no table.", "table_id")
        return None, []
    model, warnings = None, []
    try:
        model = catalogue.model(name)
        if model is not None and model.stale:
            warnings.append(f"The model in memory answered. {model.stale}")
    except ModelUnavailable as error:
        if not request.fallback:
            raise
        warnings.append(f"The table's model could not be used, {baseline} answered: {error.message}")
    except StorageUnavailable as error:
        if not request.fallback:
            raise ModelUnavailable(error.message) from error
        if not has_history:
            raise
        warnings.append("Storage does not answer: the verdict rests on the history of the request alone.")
    if model is None and request.require_model:
        raise ModelNotFound(f"There is no model {name}.", "table_id")
    return model, warnings


def model_use(loaded: Loaded) -> ModelUse:
    """What an answer tells of the model behind it."""
    card = loaded.artefact.card
    return ModelUse(name=loaded.name, version=loaded.version, algorithm=card["algorithm"], sha256=loaded.sha256,
                    trained_at=card.get("trained_at"), quality=card.get("quality"))
