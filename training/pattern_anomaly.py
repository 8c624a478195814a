"""Trains the pattern model of one string column: its formats, alone or with an autoencoder, whichever finds more."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any, get_args

from detectors import tally
from detectors.artefact import SCHEMA, Artefact
from detectors.baselines import stamp
from detectors.pattern import model_name
from detectors.pattern_column import Batch, Column
from detectors.pattern_history import Row, batch_of, merged, series_name, since, told, usable
from detectors.tally import Tally
from shared.contract_pattern import PatternAlgorithm, PatternTrainRequest
from shared.documents import Documents
from shared.errors import InvalidRequest
from shared.history import History
from shared.registry import Registry
from training import candidates, pattern_backtest, pattern_graph
from training.candidates import Candidate
from training.evaluation import Scores
from training.pattern_families import fit
from training.pattern_faults import FAULTS
from training.series import NotEnoughHistory
from training.trainer import TrainedModel, Trainer

BASELINE = "formats"
# The baseline first: the others have to beat it.
FAMILIES = tuple(name for name in get_args(PatternAlgorithm.__value__) if name != "auto")


@dataclass(frozen=True, slots=True)
class Prepared:
    """The training data of one column: its batches with their status, oldest first, as shapes; `excluded` are left out.

    Those that were confirmed are among them, to be judged, and are not learnt from.
    """

    table_id: str
    column: str
    timezone: str
    rows: tuple[Row, ...]
    excluded: int = 0
    baseline: str | None = None  # since when the column is at another normal, where this is only what came since

    @property
    def batches(self) -> list[Batch]:
        """What is learnt from."""
        return usable(self.rows)[0]

    def facts(self) -> dict[str, Any]:
        """What the job tells about its data."""
        batches, points = self.batches, len(self.rows) + self.excluded
        stamps = [_stamp(batch.timestamp) for batch in batches if batch.timestamp]
        return {"column": self.column, "from": stamps[0] if stamps else None, "to": stamps[-1] if stamps else None,
                "points": points, "used": len(batches), "excluded": points - len(batches),
                "missing": 0, "values": sum(batch.tally.rows for batch in batches)}

    def fingerprint(self) -> str:
        """SHA-256 of what is learnt and judged, in hexadecimal: another where one count or one status is another."""
        own = [self.column, self.timezone, self._listed()]
        return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> bytes:
        own = {"table_id": self.table_id, "column": self.column, "timezone": self.timezone, "excluded": self.excluded,
               "baseline": self.baseline}
        return json.dumps(own | {"rows": self._listed()}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Prepared:
        own = json.loads(text)
        rows = ((Batch(datetime.fromisoformat(b["timestamp"]) if b["timestamp"] else None,
                       Tally(b["patterns"], b["missing"])), b["status"]) for b in own.pop("rows"))
        return cls(rows=tuple(rows), **own)

    def _listed(self) -> list[Any]:
        return [{"timestamp": batch.timestamp and batch.timestamp.isoformat(), "missing": batch.tally.missing,
                 "patterns": dict(batch.tally.counts), "status": status} for batch, status in self.rows]


def prepare(request: PatternTrainRequest, history: History | None, until: datetime | None = None) -> Prepared:
    """The batches of the last `training_days` before `until`, stored ones with the request's merged in.

    Raises InvalidRequest where there is none to learn from, StorageUnavailable.
    """
    documents = Documents(history).read(series_name(request.column), request.table_id, end=until) if history else ()
    statuses = {moment: status for moment, _, status in documents}
    stored = [batch_of(moment, document) for moment, document, _ in documents]
    sent = told(request.historical_data, request.timezone, until)[0]
    statuses |= dict.fromkeys((batch.timestamp for batch in sent if batch.timestamp), "ok")
    before = [(b, statuses[b.timestamp] if b.timestamp else "ok") for b in merged(stored, sent)]
    rows = since(before, request.baseline)
    dated = [b.timestamp for b in usable(rows)[0] if b.timestamp]
    first = dated[-1] - timedelta(days=request.training_days) if dated else None
    recent = [row for row in rows if row[0].timestamp is None or first is None or row[0].timestamp > first]
    kept = tuple(row for row in recent if row[1] != "excluded")
    if not any(batch.tally.rows for batch in usable(kept)[0]):
        raise InvalidRequest(f"There is no history of {request.table_id}, column {request.column}: send historical_data, or "
                             "values with a timestamp to /api/v1/detect/pattern.", "table_id")
    return Prepared(request.table_id, request.column, request.timezone, kept, len(recent) - len(kept),
                    stamp(request.baseline) if len(rows) < len(before) else None)


def families(request: PatternTrainRequest, registry: Registry) -> list[str]:
    """Which families a job tries: all, or the one asked for with those it is compared with."""
    return candidates.rivals(request.algorithm, FAMILIES, model_name(request.table_id, request.column), registry)


def fit_candidate(prepared: Prepared, algorithm: str) -> Candidate:
    """Back-tests one family on held-out values, then fits it on all and exports it. Never raises for want of data."""
    began = time.perf_counter()
    figures: dict[str, Any] = {"algorithm": algorithm}
    try:
        batches = prepared.batches
        column = Column.of(batches)
        if column is None:
            raise NotEnoughHistory(pattern_backtest.FEWEST, sum(batch.tally.rows for batch in batches))
        if column.formats.free_form and algorithm != BASELINE:
            return Candidate(algorithm, figures | {"error": "the column is free-form: its shapes tell nothing"})
        scores = pattern_backtest.held_out(algorithm, prepared.rows)
        fitted = fit(algorithm, column, tally.merged(batch.tally for batch in batches))
    except NotEnoughHistory as error:
        return Candidate(algorithm, figures | {"error": str(error), "seconds": round(time.perf_counter() - began, 2)})
    figures["quality"] = quality(scores)
    card = _card(prepared, algorithm) | {"quality": figures["quality"]}
    payload = pattern_graph.export(fitted, card)
    parity = fitted.check_parity(payload)
    figures |= {"parity": asdict(parity), "artefact_bytes": len(payload), "seconds": round(time.perf_counter() - began, 2)}
    if not parity.holds:
        return Candidate(algorithm, figures | {"error": "the ONNX graph differs from its library"})
    return Candidate(algorithm, figures, payload, card, scores)


def judged_by(prepared: Prepared, champion: Artefact) -> Scores:
    """What a model's own file says of the held-out values and batches of `fit_candidate`, with the same faults, in order.

    NaN for those that it has learnt from, and all where it reads other features. Raises NotEnoughHistory where none is held
    out.
    """
    return pattern_backtest.judged_by(prepared.rows, champion)


def quality(scores: Scores) -> dict[str, Any]:
    """Precision, recall, F1 and false positive rate for one value, by injected fault."""
    return candidates.quality(scores, tuple(FAULTS))


def compare(rivals: Sequence[Candidate]) -> list[Candidate]:
    """The candidates with their figures on the same values."""
    return candidates.compare(rivals, quality)


def choose(rivals: Sequence[Candidate], algorithm: str = "auto") -> Candidate:
    """The one asked for, else the best: the formats alone unless they are beaten beyond noise. Raises InvalidRequest."""
    return candidates.choose(rivals, BASELINE, algorithm)


class PatternAnomalyTrainer(Trainer):
    """Training from Python, without the service: the values of a string column in, a registered model out.

        trainer = PatternAnomalyTrainer()
        model = trainer.train(table_id="orders", column="order_id", values=["ORD-48213", "DE/ORD-48214"])
        trainer.register_model(model, "pattern-anomaly.orders.order_id")
    """

    def train(self, table_id: str, values: Iterable[Any], column: str = "value", algorithm: str = "auto",
              **options: Any) -> TrainedModel:
        """`values`: texts, None where missing, of one batch; or batches, as `historical_data` of the training request.

        `options` are its other fields. Raises InvalidRequest naming the field, or telling why no family could be trained.
        """
        return self._best(PatternTrainRequest, {"table_id": table_id, "column": column, "algorithm": algorithm,
                                                "historical_data": list(values), **options})


def _card(prepared: Prepared, algorithm: str) -> dict[str, Any]:
    return {"schema": SCHEMA, "detector": "pattern", "algorithm": algorithm,
            "name": model_name(prepared.table_id, prepared.column), "column_name": prepared.column,
            "window": 0, "valid_until": None, "factors": [], "timezone": prepared.timezone, "baseline": prepared.baseline,
            "trained_at": _stamp(datetime.now(UTC)), "training": prepared.facts(),
            "libraries": {name: version(name) for name in ("numpy", "scikit-learn", "onnx", "ndonnx")}}


def _stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
