"""The detectors by name: what may be asked of each, and who answers. Routes, queues, jobs and batches find them here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import ModuleType
from typing import Any

from detectors import distribution, pattern, sequence, timeliness, volume
from detectors.rules import ruled, ruled_replay
from shared.catalogue import Catalogue
from shared.contract import Answer, DetectOptions, Input, Observation, TrainRequest, VolumeRequest
from shared.contract_distribution import DistributionObservation, DistributionRequest, DistributionTrainRequest
from shared.contract_pattern import PatternObservation, PatternRequest, PatternTrainRequest
from shared.contract_sequence import SequenceObservation, SequenceRequest, SequenceTrainRequest
from shared.contract_timeliness import ArrivalObservation, TimelinessRequest, TimelinessTrainRequest
from shared.errors import NotFound
from shared.history import History


@dataclass(frozen=True, slots=True)
class Detector:
    """One kind of anomaly. Its verdicts follow the rules of the table's settings.

    `detect` answers a `request`; `observation` then gives the message that keeps what was seen, and `observe` reads it from
    the queue. `load` keeps `row`s of history in bulk. `replay` takes a request, with `blank` for what it would judge, and
    yields the answers about the last so many points of the past, oldest first. `forget` drops what a worker has in memory of
    a table (and column). `training.{name}_anomaly` trains a model on a
    `train_request`; `model_name` tells its name in the registry.
    """

    request: type[DetectOptions]
    row: type[Input]
    train_request: type[Input]
    blank: dict[str, Any]
    detect: Callable[[Any, Catalogue, datetime], Answer]
    observation: Callable[[Any, Any, Catalogue, datetime], str | None]
    observe: Callable[[bytes, History], None]
    load: Callable[[Sequence[Any], Catalogue], None]
    replay: Callable[[Any, Catalogue, int], Iterator[Answer]]
    forget: Callable[[str, str | None, Catalogue], None]
    model_name: Callable[[Any], str]


def _detector(module: ModuleType, request: type[DetectOptions], row: type[Input], train_request: type[Input],
              blank: dict[str, Any], model_name: Callable[[Any], str] | None = None) -> Detector:
    return Detector(request, row, train_request, blank, ruled(module.detect), module.observation, module.observe,
                    module.load, ruled_replay(module.replay), module.forget,
                    model_name or (lambda asked: module.model_name(asked.table_id)))


DETECTORS = {
    "volume": _detector(volume, VolumeRequest, Observation, TrainRequest, {"current_row_count": 0}),
    "distribution": _detector(distribution, DistributionRequest, DistributionObservation, DistributionTrainRequest,
                              {"current_profile": {"rowCount": 0, "columns": []}}),
    "pattern": _detector(pattern, PatternRequest, PatternObservation, PatternTrainRequest, {"values": []},
                         lambda asked: pattern.model_name(asked.table_id, asked.column)),
    "timeliness": _detector(timeliness, TimelinessRequest, ArrivalObservation, TimelinessTrainRequest, {}),
    "sequence": _detector(sequence, SequenceRequest, SequenceObservation, SequenceTrainRequest,
                          {"points": [{"timestamp": "2000-01-01T00:00:00Z", "values": []}]}),
}


def detector(name: str) -> Detector:
    """Raises NotFound, with the names there are."""
    found = DETECTORS.get(name)
    if found is None:
        raise NotFound(f"There is no detector {name[:40]!r}: it is one of {', '.join(DETECTORS)}.", "detector")
    return found
