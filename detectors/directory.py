"""The detectors by name: what may be asked of each, and who answers. Routes, queues, jobs and batches find them here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from detectors import timeliness, volume
from shared.catalogue import Catalogue
from shared.contract import Answer, DetectOptions, Input, Observation, TrainRequest, VolumeRequest
from shared.contract_timeliness import ArrivalObservation, TimelinessRequest, TimelinessTrainRequest
from shared.errors import NotFound
from shared.history import History


@dataclass(frozen=True, slots=True)
class Detector:
    """One kind of anomaly.

    `detect` answers a `request`; `observation` then gives the message that keeps what was seen, and `observe` reads it from
    the queue. `load` keeps `row`s of history in bulk. Models are trained by `training.{name}_anomaly` on a `train_request`;
    `model_name` tells their name in the registry, of either request (None where it names no table).
    """

    request: type[DetectOptions]
    detect: Callable[[Any, Catalogue, datetime], Answer]
    observation: Callable[[Any, Any, Catalogue, datetime], str | None]
    observe: Callable[[bytes, History], None]
    row: type[Input]
    load: Callable[[Sequence[Any], Catalogue], None]
    train_request: type[Input]
    model_name: Callable[[Any], str]


DETECTORS = {
    "volume": Detector(VolumeRequest, volume.detect, volume.observation, volume.observe, Observation, volume.load,
                       TrainRequest, lambda request: volume.model_name(request.table_id)),
    "timeliness": Detector(TimelinessRequest, timeliness.detect, timeliness.observation, timeliness.observe,
                           ArrivalObservation, timeliness.load, TimelinessTrainRequest,
                           lambda request: timeliness.model_name(request.table_id)),
}


def detector(name: str) -> Detector:
    """Raises NotFound, with the names there are."""
    found = DETECTORS.get(name)
    if found is None:
        raise NotFound(f"There is no detector {name[:40]!r}: it is one of {', '.join(DETECTORS)}.", "detector")
    return found
