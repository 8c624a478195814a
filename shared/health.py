"""Is this worker fit to answer? What GET /api/health says."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from shared.catalogue import Catalogue
from shared.errors import ServiceError
from shared.registry import Registry

STARTED = datetime.now(UTC)


def report(catalogue: Catalogue, registry: Registry) -> dict[str, Any]:
    """`healthy`; `degraded` when storage does not answer (warm models and histories in a request still do)."""
    now, status = datetime.now(UTC), catalogue.status()
    # Anybody may ask: names of models are names of tables, so they are counted and not told.
    status["refused"] = len(status["refused"])
    storage: dict[str, Any] = {"reachable": True, "reason": None}
    try:
        next(registry.names(), None)
    except ServiceError as error:
        storage = {"reachable": False, "reason": error.message}
    return {"status": "healthy" if storage["reachable"] else "degraded", "time": now.isoformat(timespec="seconds"),
            "uptime_seconds": round((now - STARTED).total_seconds()), "storage": storage, **status}
