"""Trains the distribution model of one table: every family back-tested on held-out batches, the best exported to ONNX."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any, get_args

import numpy as np

from detectors.artefact import SCHEMA, Artefact
from detectors.baselines import stamp
from detectors.distribution import DETECTOR, model_name
from detectors.distribution_history import Row, learnable, learnt_from, rows_before, since
from detectors.distribution_model import LEAST_KNOWN, Reading
from detectors.profiles import Batch
from shared.contract_distribution import Algorithm, DistributionTrainRequest
from shared.documents import Documents
from shared.errors import InvalidRequest
from shared.history import History
from shared.registry import Registry
from training import candidates, distribution_backtest, distribution_graph
from training.candidates import Candidate
from training.distribution_families import BASELINE, fit
from training.distribution_faults import KINDS
from training.evaluation import Scores
from training.series import NotEnoughHistory
from training.trainer import TrainedModel, Trainer

# The baseline first: the others have to beat it.
FAMILIES = tuple(name for name in get_args(Algorithm.__value__) if name != "auto")
PARITY_BATCHES = 60


@dataclass(frozen=True, slots=True)
class Prepared:
    """The training data of one table: batches with their status, oldest first, of `points` that are known.

    Those that were flagged or confirmed are among them, to be judged; only the usual ones are learnt from.
    """

    table_id: str
    timezone: str
    rows: tuple[Row, ...]
    points: int
    baseline: str | None = None  # since when the table is at another normal, where this is only what came since

    @property
    def batches(self) -> tuple[Batch, ...]:
        """What is learnt from."""
        return tuple(batch for (batch, _), learnt in zip(self.rows, learnable(self.rows), strict=True) if learnt)

    def facts(self) -> dict[str, Any]:
        """What the job tells about its data."""
        batches = self.batches
        moments = [_stamp(batch.moment) for batch in batches if batch.moment]
        return {"from": moments[0] if moments else None, "to": moments[-1] if moments else None, "points": self.points,
                "used": len(batches), "excluded": self.points - len(batches), "missing": 0}

    def fingerprint(self) -> str:
        """SHA-256 of what is learnt and judged, in hexadecimal: another where one metric or one status is another."""
        return hashlib.sha256(json.dumps([self.timezone, self._listed()], sort_keys=True).encode()).hexdigest()

    def to_json(self) -> bytes:
        return json.dumps({"table_id": self.table_id, "timezone": self.timezone, "points": self.points,
                           "baseline": self.baseline, "rows": self._listed()}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Prepared:
        own = json.loads(text)
        rows = tuple((Batch.from_document(moment and datetime.fromisoformat(moment), document), status)
                     for moment, document, status in own.pop("rows"))
        return cls(rows=rows, **own)

    def _listed(self) -> list[Any]:
        return [[batch.moment and batch.moment.isoformat(), batch.to_document(), status] for batch, status in self.rows]


def prepare(request: DistributionTrainRequest, history: History | None, until: datetime | None = None) -> Prepared:
    """The batches of the last `training_days` before `until`, stored ones with the request's merged in.

    Raises InvalidRequest where there is none to learn from.
    """
    documents = Documents(history).read(DETECTOR, request.table_id, end=until) if history else []
    stored = [(Batch.from_document(moment, document), status) for moment, document, status in documents]
    before, _ = rows_before(stored, request.historical_profiles, until, request.timezone)
    rows = since(before, request.baseline)
    usual = [batch for (batch, _), learnt in zip(rows, learnable(rows), strict=True) if learnt]
    if not usual:
        raise InvalidRequest(f"There is no history of {request.table_id}: send historical_profiles, or profiles with their "
                             "time to /api/v1/detect/distribution.", "table_id")
    dated = [batch.moment for batch in usual if batch.moment]
    start = max(dated) - timedelta(days=request.training_days) if dated else None
    recent = [row for row in rows if start is None or row[0].moment is None or row[0].moment >= start]
    kept = [row for row in recent if row[1] != "excluded"]
    latest = len(learnt_from([batch for batch, _ in kept]))
    return Prepared(request.table_id, request.timezone, tuple(kept[-latest:]), len(recent),
                    stamp(request.baseline) if len(rows) < len(before) else None)


def families(request: DistributionTrainRequest, registry: Registry) -> list[str]:
    """Which families a job tries: all, or the one asked for with those it is compared with."""
    return candidates.rivals(request.algorithm, FAMILIES, model_name(request.table_id), registry)


def fit_candidate(prepared: Prepared, algorithm: str) -> Candidate:
    """Back-tests one family on held-out batches, then fits it on all and exports it. Never raises for want of data."""
    began = time.perf_counter()
    figures: dict[str, Any] = {"algorithm": algorithm}
    batches, zone = prepared.batches, prepared.timezone
    try:
        scores, calibration = distribution_backtest.held_out(algorithm, prepared.rows, zone)
        fitted = replace(fit(algorithm, batches, zone), calibration=calibration)
    except NotEnoughHistory as error:
        return Candidate(algorithm, figures | {"error": str(error), "seconds": round(time.perf_counter() - began, 2)})
    figures["quality"] = quality(scores)
    card = _card(prepared, algorithm) | {"quality": figures["quality"]}
    latest = np.flatnonzero(learnable(prepared.rows))[1:][-PARITY_BATCHES:]
    inputs = distribution_backtest.inputs_of(fitted.gauge, prepared.rows, latest, zone)
    payload = distribution_graph.export(fitted, inputs, card)
    parity = distribution_graph.worst(fitted.check_parity(), distribution_graph.parity(payload, fitted, inputs))
    figures |= {"parity": asdict(parity), "artefact_bytes": len(payload), "seconds": round(time.perf_counter() - began, 2)}
    if not parity.holds:
        return Candidate(algorithm, figures | {"error": "the ONNX graph differs from its library"})
    return Candidate(algorithm, figures, payload, card, scores)


def judged_by(prepared: Prepared, champion: Artefact) -> Scores:
    """What a model's own file says of the held-out batches of `fit_candidate`, with the same faults, in the same order.

    NaN for batches that it has learnt from, and where it gives no verdict. Raises NotEnoughHistory where none is held out.
    """
    return distribution_backtest.judged_by(prepared.rows, champion)


def unfit(prepared: Prepared, artefact: Artefact) -> str | None:
    """Why the file cannot go on being asked about the table, None where it can."""
    raw, _ = Reading.of(artefact).gauge.measure(prepared.rows[-1][0])
    is_known = np.isfinite(raw).mean() >= LEAST_KNOWN
    return None if is_known else "knows too few of the table's metrics and is not asked any more"


def quality(scores: Scores) -> dict[str, Any]:
    """Precision, recall, F1 and false positive rate at the usual threshold, by injected fault."""
    return candidates.quality(scores, KINDS)


def compare(rivals: Sequence[Candidate]) -> list[Candidate]:
    """The candidates with their figures on the same batches."""
    return candidates.compare(rivals, quality)


def choose(rivals: Sequence[Candidate], algorithm: str = "auto") -> Candidate:
    """The one asked for, else the best: the conditional residual unless it is beaten beyond noise. Raises InvalidRequest."""
    return candidates.choose(rivals, BASELINE, algorithm)


class DistributionAnomalyTrainer(Trainer):
    """Training from Python, without the service: column profiles in, a registered model out.

        trainer = DistributionAnomalyTrainer()
        model = trainer.train(column_profiles=profiles, algorithm="auto", table_id="orders")
        trainer.register_model(model, "distribution-anomaly.orders")
    """

    def train(self, column_profiles: Iterable[Mapping[str, Any]], algorithm: str = "auto", table_id: str = "table",
              **options: Any) -> TrainedModel:
        """`column_profiles`: one profile for each batch, as POST /api/v1/detect/distribution takes them.

        `options` are the other fields of the training request. Raises InvalidRequest naming the field, or telling why no
        family could be trained.
        """
        return self._best(DistributionTrainRequest, {"table_id": table_id, "algorithm": algorithm,
                                                     "historical_profiles": list(column_profiles), **options})


def _card(prepared: Prepared, algorithm: str) -> dict[str, Any]:
    return {"schema": SCHEMA, "detector": DETECTOR, "algorithm": algorithm, "name": model_name(prepared.table_id),
            "window": 1, "valid_until": None, "factors": [], "timezone": prepared.timezone, "baseline": prepared.baseline,
            "trained_at": _stamp(datetime.now(UTC)), "training": prepared.facts(),
            "libraries": {name: version(name) for name in ("numpy", "scikit-learn", "onnx", "ndonnx")}}


def _stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
