"""Trains the sequence model of one table: the family that tells injected faults of order and shape best, as ONNX.

    hypothesis_filter   the service's own filter, calibrated on this table; the file holds the calibration
    lstm                a forecaster of the next hours; JAX and optax fit it, and only ONNX Runtime serves it
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any, Self
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from detectors.artefact import SCHEMA, Artefact
from detectors.baselines import bucket_of, rebased_metrics, stamp
from detectors.context import utc
from detectors.sequence import model_name
from detectors.sequence_filter import RHYTHMS
from detectors.sequence_history import DETECTOR, Rows, places, rows_of
from shared.contract_sequence import MAX_METRICS, SequenceTrainRequest
from shared.documents import Document, Documents
from shared.errors import InvalidRequest
from shared.history import History
from shared.registry import Registry
from training import candidates, sequence_backtest, sequence_graph, sequence_lstm
from training.calibration import Calibration
from training.candidates import Candidate
from training.evaluation import Scores
from training.held_out import said_of
from training.sequence_backtest import MetricSeries, Shared
from training.sequence_lstm import Effort
from training.series import IntArray, NotEnoughHistory
from training.trainer import TrainedModel, Trainer

BASELINE = "hypothesis_filter"
# The baseline first: the LSTM has to beat it.
FAMILIES = (BASELINE, "lstm")


@dataclass(frozen=True, slots=True)
class Prepared:
    """The training data of one table: its metrics in buckets without gaps."""

    table_id: str
    timezone: str
    series: MetricSeries
    points: int
    excluded: int
    baseline: str | None = None  # since when the table is at another normal, which all of this was moved to

    def facts(self) -> dict[str, Any]:
        """What the job tells about its data."""
        hourly = self.series.granularity == "hourly"
        first, last = (str(np.datetime64(bucket, "h") if hourly else np.datetime64(bucket, "D"))
                       for bucket in (self.series.start, self.series.end))
        known = int(np.isfinite(self.series.values).any(axis=1).sum())
        return {"from": first, "to": last, "points": self.points, "used": known, "excluded": self.excluded,
                "missing": len(self.series.values) - known, "metrics": list(self.series.metrics)}

    def fingerprint(self) -> str:
        """SHA-256 of what is learnt and judged, in hexadecimal: another where one value or one status is another."""
        return hashlib.sha256(json.dumps([self.timezone, self.series.to_json()]).encode()).hexdigest()

    def to_json(self) -> bytes:
        own = {name: getattr(self, name) for name in ("table_id", "timezone", "points", "excluded", "baseline")}
        return json.dumps(own | {"series": self.series.to_json()}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        own = json.loads(text)
        return cls(series=MetricSeries.from_json(own.pop("series")), **own)


def prepare(request: SequenceTrainRequest, history: History | None, until: datetime | None = None) -> Prepared:
    """The buckets of the last `training_days` before `until`, stored ones with the request's merged in, or these alone.

    Raises InvalidRequest where there are none, where metrics are not named and cannot be found, or where an LSTM is asked
    for and cannot be trained here; StorageUnavailable.
    """
    if request.algorithm == "lstm":
        sequence_lstm.libraries()
    stored = _stored(request, history, until) if history is not None else []
    metrics = request.metrics or _metrics(stored)
    if not metrics:
        told = "metrics must be named for historical_data" if request.historical_data else (
            f"There is no history of {request.table_id}: POST /api/v1/observations loads it.")
        raise InvalidRequest(told, "metrics" if request.historical_data else "table_id")
    zone, granularity = request.timezone, request.granularity
    parts = [rows_of(stored, tuple(metrics), zone, granularity)]
    words = [(parts[0].at, np.array([status for *_, status in stored], "U10"))]
    sent = [point for point in request.historical_data if until is None or utc(point.timestamp, ZoneInfo(zone)) < until]
    if sent:
        at, values, _ = places(sent, metrics, "historical_data", zone, granularity)
        parts.append(Rows(at, values, np.zeros(len(at), bool)))
        words.append((at, np.full(len(at), "ok", "U10")))
    series, points, excluded = _series(request, tuple(metrics), parts, words)
    if request.baseline is None or (first := bucket_of(request.baseline, zone, granularity)) > series.end:
        return Prepared(request.table_id, zone, series, points, excluded)
    values, seen = (rebased_metrics(part, series.start, first, granularity) for part in (series.values, series.seen))
    series = replace(series, values=values, seen=np.where(np.isnan(values), seen, values))
    return Prepared(request.table_id, zone, series, points, excluded, stamp(request.baseline))


def families(request: SequenceTrainRequest, registry: Registry) -> list[str]:
    """Which families a job tries: all, or the one asked for with those it is compared with."""
    return candidates.rivals(request.algorithm, FAMILIES, model_name(request.table_id), registry)


def fit_candidate(prepared: Prepared, algorithm: str, effort: Effort | None = None) -> Candidate:
    """Back-tests one family on held-out days, then fits it on all and exports it.

    Never raises for want of data, or of what it takes to train an LSTM: the figures then say so.
    """
    began = time.perf_counter()
    figures: dict[str, Any] = {"algorithm": algorithm}
    try:
        made = _filter(prepared, figures) if algorithm == BASELINE else _lstm(prepared, figures, effort or Effort())
    except (NotEnoughHistory, InvalidRequest) as error:
        return Candidate(algorithm, figures | {"error": str(error), "seconds": round(time.perf_counter() - began, 2)})
    payload, card, scores, parity = made
    figures |= {"parity": asdict(parity), "artefact_bytes": len(payload), "seconds": round(time.perf_counter() - began, 2)}
    if not parity.holds:
        return Candidate(algorithm, figures | {"error": "the ONNX graph differs from the library"})
    return Candidate(algorithm, figures, payload, card, scores)


def judged_by(prepared: Prepared, champion: Artefact) -> Scores:
    """What a model's own file says of the held-out days of `fit_candidate`, with the same faults, in the same order.

    NaN for buckets that it has learnt from, all where it counts others. Raises NotEnoughHistory where none is held out.
    """
    return sequence_backtest.judged_by(prepared.series, prepared.timezone, champion)


def unfit(prepared: Prepared, artefact: Artefact) -> str | None:
    """Why the file cannot go on being asked about the table, None where it can."""
    card, series = artefact.card, prepared.series
    if card["granularity"] != series.granularity:
        return f"counts {card['granularity']} buckets and is not asked any more"
    return None if set(card["metrics"]) == set(series.metrics) else "was trained on other metrics and is not asked any more"


def quality(scores: Scores) -> dict[str, Any]:
    """Precision, recall, F1 and false positive rate at the usual threshold, by injected fault."""
    return candidates.quality(scores, tuple(sequence_backtest.FAULTS))


def compare(rivals: Sequence[Candidate]) -> list[Candidate]:
    """The candidates with their figures on the same buckets."""
    return candidates.compare(rivals, quality)


def choose(rivals: Sequence[Candidate], algorithm: str = "auto") -> Candidate:
    """The one asked for, else the best: the hypothesis filter unless it is beaten beyond noise. Raises InvalidRequest."""
    return candidates.choose(rivals, BASELINE, algorithm)


def _filter(prepared: Prepared, figures: dict[str, Any]) -> tuple[bytes, dict[str, Any], Scores, Any]:
    series = prepared.series
    trials = sequence_backtest.trials_of(series)
    evidence = sequence_backtest.filter_evidence(series, trials)
    scores, calibration = sequence_backtest.judged(series, trials, evidence, Shared.fit)
    figures["quality"] = quality(scores)
    card = _card(prepared, BASELINE, 0, ("numpy", "onnx", "ndonnx")) | {"quality": figures["quality"]}
    payload = sequence_graph.export_filter(calibration, len(series.metrics), card)
    return payload, card, scores, sequence_graph.filter_parity(payload, calibration, evidence.raw[0])


def _lstm(prepared: Prepared, figures: dict[str, Any], effort: Effort) -> tuple[bytes, dict[str, Any], Scores, Any]:
    figures["device"] = sequence_lstm.device()
    series = prepared.series
    trials = sequence_backtest.trials_of(series)
    evidence, errors = sequence_backtest.lstm_evidence(series, trials, effort)
    scores, calibration = sequence_backtest.judged(series, trials, evidence, Calibration.fit)
    figures["quality"] = quality(scores)
    fitted = sequence_lstm.fit(series.values, series.start, series.granularity, effort)
    fitted = replace(sequence_lstm.with_errors(fitted, errors), calibration=calibration)
    card = _card(prepared, "lstm", fitted.window, ("numpy", "onnx", "ndonnx", "spox", "jax", "optax"))
    card |= {"quality": figures["quality"], "device": figures["device"], "hidden": effort.hidden}
    payload = sequence_graph.export_lstm(fitted, series, card)
    return payload, card, scores, sequence_graph.lstm_parity(payload, fitted, series)


def _stored(request: SequenceTrainRequest, history: History, until: datetime | None) -> list[tuple[datetime, Document, str]]:
    """The last days that there are. They end with the data and not today: the same data are always the same days."""
    documents, days = Documents(history), timedelta(days=request.training_days)
    start = (until or datetime.now(UTC)) - days
    found = documents.read(DETECTOR, request.table_id, start, until)
    if not found:
        every = documents.read(DETECTOR, request.table_id, end=until)
        return [row for row in every if row[0] >= every[-1][0] - days]
    return [*documents.read(DETECTOR, request.table_id, found[-1][0] - days, start), *found]


def _metrics(stored: Sequence[tuple[datetime, Document, str]]) -> list[str]:
    """All metrics that at least half of the stored buckets have."""
    counts: dict[str, int] = {}
    for _, document, _ in stored:
        for name, value in document["values"].items():
            counts[name] = counts.get(name, 0) + (value is not None)
    return sorted(name for name, count in counts.items() if 2 * count >= len(stored))[:MAX_METRICS]


def _series(request: SequenceTrainRequest, metrics: tuple[str, ...], parts: Sequence[Rows],
            words: Sequence[tuple[IntArray, NDArray[np.str_]]]) -> tuple[MetricSeries, int, int]:
    """`parts` and the status of their buckets, of which the later count for more -> series, known and excluded buckets."""
    parts = [part for part in parts if len(part.at)]
    if not parts:
        raise InvalidRequest(f"There is no history of {request.table_id}: POST /api/v1/observations loads it.", "table_id")
    rhythm = RHYTHMS[request.granularity]
    end = max(int(part.at.max()) for part in parts)
    days = 24 if request.granularity == "hourly" else 1
    start = max(min(int(part.at.min()) for part in parts), end + 1 - request.training_days * days)
    values = np.full((end - start + 1, len(metrics)), np.nan)
    seen, excluded = np.zeros(len(values), bool), np.zeros(len(values), bool)
    for part in parts:
        inside = part.at >= start
        at = part.at[inside] - start
        values[at], excluded[at], seen[at] = part.values[inside], part.excluded[inside], True
    status = np.full(len(values), "ok", "U10")
    for buckets, said in words:
        status[buckets[buckets >= start] - start] = said[buckets >= start]
    values[status == "excluded"] = np.nan
    whole = values.copy()
    values[excluded] = np.nan
    known = np.isfinite(values).sum(axis=0)
    if (known < rhythm.cycle).any():
        few = metrics[int(known.argmin())]
        raise InvalidRequest(f"{few} has {known.min()} known values; {rhythm.cycle} are the least to learn from.", "metrics")
    series = MetricSeries(start, values, request.granularity, metrics, said_of(status.tolist()), whole)
    return series, int(seen.sum()), int(excluded.sum())


def remark(compared: Sequence[Candidate]) -> str:
    """How the LSTM did against the filter, or why there is none: the end of a decision's reason."""
    figures = {c.algorithm: c.figures for c in compared}
    lstm, own = figures.get("lstm"), figures.get(BASELINE)
    if lstm is None or own is None or "quality" not in own:
        return "No LSTM was asked for." if lstm is None else "There is nothing to compare the LSTM with."
    if "error" in lstm:
        return f"The LSTM sat out: {lstm['error']}."
    told = f"On injected faults the LSTM has F1 {lstm['quality']['f1']}, the hypothesis filter {own['quality']['f1']}"
    better = choose(compared).algorithm == "lstm"
    return told + (": the LSTM is better beyond noise." if better else ": the LSTM does not beat it beyond noise.")


class SequenceAnomalyTrainer(Trainer):
    """Training from Python, without the service: metrics by the hour or the day in, a registered model out.

        trainer = SequenceAnomalyTrainer()
        model = trainer.train(table_id="orders", historical_data=frame)
        trainer.register_model(model, "sequence-anomaly.orders")
    """

    def train(self, table_id: str, historical_data: Any, algorithm: str = "auto", **options: Any) -> TrainedModel:
        """`historical_data`: a pandas data frame with `timestamp` and a column for each metric; NaN where not known.

        `options` are the other fields of the training request. Raises InvalidRequest naming the field, or telling why no
        family could be trained.
        """
        frame = historical_data.set_index("timestamp")
        metrics = options.pop("metrics", None) or list(frame.columns)
        points = [{"timestamp": moment if isinstance(moment, str) else moment.isoformat(),
                   "values": [None if value != value else float(value) for value in row]}
                  for moment, row in zip(frame.index, frame[metrics].itertuples(index=False, name=None), strict=True)]
        return self._best(SequenceTrainRequest, {"table_id": table_id, "algorithm": algorithm, "metrics": metrics,
                                                 "historical_data": points, **options})


def _card(prepared: Prepared, algorithm: str, window: int, libraries: Sequence[str]) -> dict[str, Any]:
    series = prepared.series
    return {"schema": SCHEMA, "detector": "sequence", "algorithm": algorithm, "name": model_name(prepared.table_id),
            "window": window, "granularity": series.granularity, "metrics": list(series.metrics),
            "trained_until": series.end, "valid_until": None, "factors": [], "timezone": prepared.timezone,
            "baseline": prepared.baseline,
            "trained_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "training": prepared.facts(), "libraries": {name: version(name) for name in libraries}}
