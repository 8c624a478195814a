"""What the registry holds, for people: the list of models, and one model with its versions."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from shared.contract import Input, parse, whole_number
from shared.decisions import Decisions
from shared.errors import ModelNotFound, ServiceError
from shared.ids import check_model_name
from shared.registry import Champion, Manifest, Registry

PAGE = 100
READERS = 8


def listing(registry: Registry, params: Mapping[str, str]) -> dict[str, Any]:
    """Models by name: `prefix`, `after` (a name: the next page) and `limit` up to 1,000. Raises InvalidRequest.

    `next` is what to give as `after` for more, null at the end.
    """
    limit = whole_number(params, "limit", PAGE, 1, 1000)
    prefix, after = params.get("prefix", ""), params.get("after", "")
    names = [check_model_name(text) for text in (prefix, after) if text]
    found = (name for name in registry.names(prefix if names else "") if name > after)
    page = list(islice(found, limit + 1))
    with ThreadPoolExecutor(READERS) as pool:
        entries = list(pool.map(lambda name: _entry(registry, name), page[:limit]))
    return {"models": entries, "next": page[limit - 1] if len(page) > limit else None}


def description(registry: Registry, decisions: Decisions, name: str) -> dict[str, Any]:
    """One model: its champion with figures, the champions before, every version, and what retraining decided last.

    Raises ModelNotFound.
    """
    versions, decided = registry.versions(name), decisions.read(name)
    if not versions and decided["last"] is None:
        raise ModelNotFound(f"There is no model {name}.", "name")
    champion = registry.champion(name)
    return _entry(registry, name, champion) | {
        "versions": [_facts(registry.manifest(name, version)) for version in reversed(versions[-50:])],
        "previous": [asdict(p) for p in champion.previous] if champion else [],
        "decision": decided["last"], "decisions_before": decided["before"],
    }


class RollbackRequest(Input):
    """POST /api/v1/models/{name}/rollback, with or without a body; a version is refused, as another one would answer."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    reason: Annotated[str, Field(max_length=500)] | None = None


def rollback(registry: Registry, name: str, body: bytes) -> dict[str, Any]:
    """Makes the champion before this one the champion again; workers take it up within RECHECK_SECONDS.

    Raises ModelNotFound where there is no champion, Conflict where there was none before it, InvalidRequest.
    """
    asked = parse(RollbackRequest, body or b"{}")
    left = registry.champion(name)
    back = registry.rollback(name, reason=asked.reason)
    return _entry(registry, name, back) | {"rolled_back": left and left.version}


def _entry(registry: Registry, name: str, champion: Champion | None = None) -> dict[str, Any]:
    try:
        champion = champion or registry.champion(name)
        facts = _facts(registry.manifest(name, champion.version)) if champion else None
    except ServiceError as error:
        return {"name": name, "champion": None, "problem": error.message}
    if champion is None or facts is None:
        return {"name": name, "champion": None}
    current = champion.current
    return {"name": name, "champion": facts | {"promoted_at": current.promoted_at, "reason": current.reason}}


def _facts(manifest: Manifest) -> dict[str, Any]:
    card = manifest.card
    return {"version": manifest.version, "algorithm": card.get("algorithm"), "created_at": manifest.created_at,
            "sha256": manifest.sha256, "bytes": manifest.size, "training": card.get("training"),
            "quality": card.get("quality")}
