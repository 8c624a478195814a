"""Many verdicts at once: what a batch is scored with."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import batched
from typing import Any

from detectors import stacks, volume_batch
from detectors.directory import DETECTORS, Detector
from shared.cache import OUTAGE_SECONDS
from shared.catalogue import Catalogue
from shared.contract import Answer
from shared.errors import ServiceError, StorageUnavailable

# So many requests wait for storage at the same time: as many as the client libraries keep connections open.
CONNECTIONS = 10
# What is held in memory does not grow with the batch: so many requests are looked up and judged together.
TOGETHER = 1024
# Caches leave storage alone for so long after it did not answer one question.
PAUSE_SECONDS = OUTAGE_SECONDS


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one item: its answer, and the message that keeps what was seen; or what was wrong with it."""

    answer: Answer | None = None
    observation: str | None = None
    error: ServiceError | None = None


def score(name: str, requests: Sequence[Any], catalogue: Catalogue, now: datetime) -> list[Outcome]:
    """The outcomes of `requests`, checked requests of detector `name`, in their order. One bad item fails itself alone.

    They are those of asking one by one, in this order: a count of a table that is kept is history to the table's next one.
    """
    outcomes = _scored(DETECTORS[name], name, requests, catalogue, now)
    missed = [i for i, outcome in enumerate(outcomes) if isinstance(outcome.error, StorageUnavailable)]
    if 0 < len(missed) < len(requests):  # an account that answered others was busy, and not down
        time.sleep(PAUSE_SECONDS)
        again = _scored(DETECTORS[name], name, [requests[i] for i in missed], catalogue, now)
        for i, outcome in zip(missed, again, strict=True):
            outcomes[i] = outcome
    return outcomes


def _scored(detector: Detector, name: str, requests: Sequence[Any], catalogue: Catalogue, now: datetime) -> list[Outcome]:
    outcomes = dict[int, Outcome]()
    detect_many = volume_batch.detect_many if name == "volume" else _one_by_one(detector)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for wave in _waves(requests):
            near = sorted(wave, key=lambda i: stacks.shard(requests[i].table_id or ""))
            for some in batched(near, TOGETHER, strict=False):
                answers = detect_many([requests[i] for i in some], catalogue, now, pool)
                for i, answer in zip(some, answers, strict=True):
                    if isinstance(answer, ServiceError):
                        outcomes[i] = Outcome(error=answer)
                    else:
                        outcomes[i] = Outcome(answer, detector.observation(requests[i], answer, catalogue, now))
    return [outcomes[i] for i in range(len(requests))]


def _waves(requests: Sequence[Any]) -> Iterable[list[int]]:
    """Indices of requests that do not depend on each other: those about one table after as many that are kept."""
    kept, waves = Counter[str](), defaultdict[int, list[int]](list)
    for i, request in enumerate(requests):
        waves[kept[request.table_id]].append(i)
        if request.table_id is not None and request.record:
            kept[request.table_id] += 1
    return waves.values()


def _one_by_one(detector: Detector) -> Callable[[Sequence[Any], Catalogue, datetime, Executor], list[Answer | ServiceError]]:
    """Detectors whose work is mostly waiting for storage: several requests wait at the same time."""

    def detect_many(requests: Sequence[Any], catalogue: Catalogue, now: datetime,
                    pool: Executor) -> list[Answer | ServiceError]:
        def outcome(request: Any) -> Answer | ServiceError:
            try:
                return detector.detect(request, catalogue, now)
            except ServiceError as error:
                return error

        return list(pool.map(outcome, requests))

    return detect_many
