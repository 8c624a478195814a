"""Is this worker fit to answer? What GET /api/health says."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from shared import doors
from shared.catalogue import Catalogue
from shared.errors import ServiceError
from shared.events import webhook_queue
from shared.queues import Queues
from shared.registry import Registry
from shared.settings import Settings

STARTED = datetime.now(UTC)


def report(catalogue: Catalogue, registry: Registry, queues: Queues) -> dict[str, Any]:
    """`healthy`; `degraded` when storage does not answer (warm models and histories in a request still do).

    `poison` counts the messages of each queue that could not be read and wait for somebody to look at them.
    """
    now, status = datetime.now(UTC), catalogue.status()
    # Anybody may ask: names of models are names of tables, so they are counted and not told.
    status["refused"] = len(status["refused"])
    storage: dict[str, Any] = {"reachable": True, "reason": None}
    poison = None
    try:
        next(registry.names(), None)
        poison = doors.poisoned(queues, watched(catalogue.settings))
    except ServiceError as error:
        storage = {"reachable": False, "reason": error.message}
    return {"status": "healthy" if storage["reachable"] else "degraded", "time": now.isoformat(timespec="seconds"),
            "uptime_seconds": round((now - STARTED).total_seconds()), "storage": storage, "poison": poison, **status}


def watched(settings: Settings) -> tuple[str, ...]:
    """The queues whose messages somebody has to read."""
    return settings.requests_queue, settings.observations_queue, webhook_queue(settings)
