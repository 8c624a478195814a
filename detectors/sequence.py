"""Does a series keep its order and shape, though every value is in range? From points of some metrics to a verdict.

    request + history -> buckets (sequence_history) -> the hypothesis filter (sequence_filter), or the table's LSTM
                      -> surprise by metric -> one score a bucket (sequence_verdict) -> answer (sequence_answer)
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from detectors import calendar
from detectors.artefact import Artefact
from detectors.baselines import bucket_of, rebased_metrics, taught
from detectors.champion import find_model, model_use
from detectors.context import utc
from detectors.decision import threshold_of
from detectors.reasons import reasons_of_step, stored
from detectors.sequence_answer import BASELINE, OUT_OF_RANGE, UNLIKE, Evidence, answered, silent
from detectors.sequence_filter import RHYTHMS
from detectors.sequence_history import (
    DETECTOR,
    Judged,
    Known,
    Row,
    Rows,
    StoredRows,
    digest,
    judged_of,
    known_of,
    places,
    row_bytes,
    stamp,
)
from detectors.sequence_states import States
from detectors.sequence_verdict import reach_of, scales_off, surprise_of, with_range
from detectors.storing import hand_over, recall
from shared.catalogue import Catalogue, Loaded
from shared.contract import Deviation
from shared.contract_sequence import JudgedSteps, SequenceAnswer, SequenceObservation, SequencePoint, SequenceRequest
from shared.documents import Documents
from shared.history import CONNECTIONS, History
from shared.recent_documents import RecentDocuments

ENOUGH = 0.5  # share of the first buckets, and of an LSTM's window, in which a metric must be known


def model_name(table_id: str) -> str:
    """The registry's name of a table's sequence model."""
    return f"sequence-anomaly.{table_id}"


def detect(request: SequenceRequest, catalogue: Catalogue, now: datetime) -> SequenceAnswer:
    """The verdict on the points, each by what came before it, answered by the table's model, else the hypothesis filter.

    Raises ModelNotFound (with `require_model`), ModelUnavailable (with `fallback=false`), StorageUnavailable (storage is
    down, nothing is warm and the body has no history), InvalidRequest (values that do not fit the metrics).
    """
    began = time.perf_counter()
    answer = _detect(request, catalogue, now)
    answer.latency_ms = round((time.perf_counter() - began) * 1000, 3)
    return answer


def observation(request: SequenceRequest, answer: SequenceAnswer, catalogue: Catalogue, now: datetime) -> str | None:
    """The message that keeps these points in the table's history; this worker's own next verdict knows of them at once.

    None where the caller named no table, or asked to leave no trace; where storage does not answer, as the warnings then
    say; and where the points are too many for a message: they are then kept before this returns.
    """
    if request.table_id is None or not request.record:
        return None
    zone = ZoneInfo(request.timezone or "UTC")
    moments = [utc(point.timestamp, zone) for point in request.points]
    flagged = {step.timestamp: step for step in answer.steps}
    wrong = [flagged.get(stamp(moment)) for moment in moments]
    statuses = ["anomaly" if step else "excluded" if answer.kept_as == "excluded" else "ok" for step in wrong]
    steps = [{"timestamp": moment.isoformat(), "values": point.values, "status": status} | (
              {"score": step.score, "reasons": stored(reasons_of_step(step))} if step else {})
             for moment, point, status, step in zip(moments, request.points, statuses, wrong, strict=True)]
    text = json.dumps({"detector": DETECTOR, "table_id": request.table_id, "observed_at": now.isoformat(),
                       "metrics": request.metrics, "steps": steps,
                       "model": answer.model.version if answer.model.name else None})
    message, kept = hand_over(text, observe, answer, catalogue, "these points were")
    if kept:
        documents = _memory(catalogue).documents
        for moment, point, status in zip(moments, request.points, statuses, strict=True):
            row = digest(moment, {"values": dict(zip(request.metrics, point.values, strict=True))})
            documents.note(request.table_id, moment, row, status)
    return message


def observe(message: bytes, history: History) -> None:
    """Judged points from the queue. Harmless when they come twice.

    Raises pydantic's ValidationError for a message that cannot be read, so that it ends in the poison queue.
    """
    seen = JudgedSteps.model_validate_json(message)
    _each([(seen.table_id, step.timestamp, {"values": dict(zip(seen.metrics, step.values, strict=True)),
                                            "score": step.score, "reasons": step.reasons, "model": seen.model,
                                            "observed_at": seen.observed_at.isoformat()}, step.status)
           for step in seen.steps], Documents(history).observe)


def load(rows: Sequence[SequenceObservation], catalogue: Catalogue) -> None:
    """Keeps points in bulk."""
    _each([(row.table_id, row.timestamp, {"values": row.values}, row.status) for row in rows],
          Documents(catalogue.history).record)
    for table_id in {row.table_id for row in rows}:
        _memory(catalogue).documents.forget(table_id)


def forget(table_id: str, column: str | None, catalogue: Catalogue) -> None:
    """Drops a table's points from memory."""
    _memory(catalogue).documents.forget(table_id)


def _each(entries: Sequence[tuple[str, datetime, dict[str, Any], str]],
          keep: Callable[[str, str, datetime, dict[str, Any], str], object]) -> None:
    def record(entry: tuple[str, datetime, dict[str, Any], str]) -> None:
        keep(DETECTOR, *entry)

    if entries:
        record(entries[0])  # creates what is missing
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(record, entries[1:]))


def replay(request: SequenceRequest, catalogue: Catalogue, points: int) -> Iterator[SequenceAnswer]:
    """The verdicts on the last `points` buckets of the history, each by what came before it. Raises as `detect`.

    All of them are asked about in one go, as a request with so many points is; each answer then tells of one.
    """
    zone = ZoneInfo(request.timezone or "UTC")
    history = [(utc(point.timestamp, zone), point.values) for point in request.historical_data]
    if request.table_id is not None:
        stored = _memory(catalogue).documents.of(request.table_id).entries
        if "metrics" not in request.model_fields_set:  # all that are known
            every = sorted({name for (names, _), _ in stored.values() for name in names})
            request = request.model_copy(update={"metrics": every or request.metrics})
        for moment, ((names, row), _) in stored.items():
            values = dict(zip(names, row.tolist(), strict=True))
            history.append((moment, [values.get(name) for name in request.metrics]))
    history.sort(key=itemgetter(0))
    known = [SequencePoint.model_construct(timestamp=moment, values=values) for moment, values in history]
    before, judged = known[:-points], known[-points:]
    if not judged:
        return
    asked = {"points": judged, "historical_data": before if request.historical_data else []}
    answer = detect(request.model_copy(update=asked), catalogue, datetime.now(UTC))
    steps = {step.timestamp: step for step in answer.steps}
    rest = answer.model_copy(update={
        "is_anomaly": False, "severity": "none", "state": "normal", "deviation": None, "steps": [], "metrics": [],
        "value": None, "expected_value": None, "expected_range": (None, None)})
    for point in judged:
        told: dict[str, Any] = {"timestamp": stamp(point.timestamp)}
        if (step := steps.get(told["timestamp"])) is not None:
            deviation = Deviation(absolute=0.0, percent=None, score=step.score, threshold=threshold_of(request))
            told |= {"is_anomaly": True, "severity": step.severity, "state": step.hypothesis, "steps": [step],
                     "message": step.description, "deviation": deviation}
        yield rest.model_copy(update=told)


@dataclass(frozen=True, slots=True)
class _Memory:
    """What a worker keeps of the tables it is asked about: their documents, those as arrays, and states of the filter."""

    documents: RecentDocuments[Row]
    rows: StoredRows
    states: States


def _memory(catalogue: Catalogue) -> _Memory:
    return catalogue.memory(DETECTOR, lambda own: _Memory(
        RecentDocuments(Documents(own.history), DETECTOR, own.settings, digest, row_bytes, own.clock),
        StoredRows(), States()))


def _detect(request: SequenceRequest, catalogue: Catalogue, now: datetime) -> SequenceAnswer:
    name = model_name(request.table_id) if request.table_id else None
    model, warnings = find_model(request, name, catalogue, "the hypothesis filter", bool(request.historical_data))
    zone = request.timezone or (model.artefact.card.get("timezone") if model else None) or "UTC"
    at, values, moments = places(request.points, request.metrics, "points", zone, request.granularity)
    if len(np.unique(at)) < len(at):
        warnings.append(f"points has several of one {request.granularity} bucket: the last of each was kept.")
    full = len(at)
    if request.delay_minutes is not None:
        ends = [calendar.bucket_start(bucket + 1, zone, request.granularity) for bucket in at.tolist()]
        full = sum(now.timestamp() >= end + 60 * request.delay_minutes for end in ends)
    if not full:
        due = datetime.fromtimestamp(ends[0] + 60 * (request.delay_minutes or 0), UTC)
        return silent(request, None, Known(int(at[0]), np.empty((0, len(request.metrics)))), "not_evaluated",
                      f"This {request.granularity} bucket is still filling: it is judged from {due.isoformat()} on.")
    if full < len(at):
        warnings.append(f"{len(at) - full} points are still filling: they were not judged.")
    judged = judged_of(at[:full], values[:full], moments[:full])
    parts = _history(request, catalogue, judged, zone, model is not None, warnings)
    known = known_of(parts, judged.first, len(request.metrics), request.granularity)
    if request.baseline is not None:
        first = bucket_of(request.baseline, zone, request.granularity)
        known = replace(known, values=rebased_metrics(known.values, known.start, first, request.granularity))
    answer = _evaluate(request, catalogue, judged, known, zone, model)
    answer.warnings = [*warnings, *answer.warnings]
    return answer


def _history(request: SequenceRequest, catalogue: Catalogue, judged: Judged, zone: str, has_model: bool,
             warnings: list[str]) -> list[Rows]:
    """What is stored, with the request's after it; `warnings` are added to. Raises StorageUnavailable."""
    parts: list[Rows] = []
    metrics = tuple(request.metrics)
    if request.table_id is not None:
        memory = _memory(catalogue)
        table_id, first = request.table_id, judged.stamps[0]
        recent = recall(lambda: memory.documents.of(table_id, first), warnings, bool(request.historical_data) or has_model)
        if recent is not None:
            parts = memory.rows.of(table_id, recent, metrics, zone, request.granularity)
    if request.historical_data:
        at, values, _ = places(request.historical_data, request.metrics, "historical_data", zone, request.granularity)
        parts.append(Rows(at, values, np.zeros(len(at), bool)))
        if at[-1] >= judged.first:
            warnings.append("historical_data has points that are not before the judged ones: they were left out.")
        if len(np.unique(at)) < len(at):
            warnings.append("historical_data has several points of one bucket: the last of each was kept.")
    return parts


def _evaluate(request: SequenceRequest, catalogue: Catalogue, judged: Judged, known: Known, zone: str,
              model: Loaded | None) -> SequenceAnswer:
    threshold, warnings = threshold_of(request), []
    needed = RHYTHMS[request.granularity].setup
    if model is not None and (reason := _unfit(model.artefact, request, judged.stamps[-1])):
        warnings.append(f"{reason}: the hypothesis filter answered.")
        model = None
    if model is not None and model.artefact.card["algorithm"] == "lstm":
        evidence = forecast_evidence(model.artefact, request.metrics, judged, known)
        if np.isfinite(evidence.surprise).any():
            used = min(int(model.artefact.card["window"]), len(known.values))
            return answered(request, judged, known, evidence, threshold, used, model_use(model))
        warnings.append("The model has too little recent history: the hypothesis filter answered.")
        model = None
    key = (request.table_id, tuple(request.metrics), zone, request.granularity) if request.table_id else None
    states = _memory(catalogue).states if key else States()
    found = filter_evidence(states, key, judged, known, request.granularity, threshold, model.artefact if model else None)
    if found is None or not np.isfinite(found.surprise).any():
        if found is not None and not np.isfinite(judged.values).any():
            answer = silent(request, judged, known, "not_evaluated", "The points hold no value.")
        else:
            answer = silent(request, judged, known, "learning", f"{known.points} of {needed} {request.granularity} points "
                                                                "known: verdicts begin after that.")
    else:
        used = int(np.isfinite(known.values).any(axis=1).sum())
        answer = answered(request, judged, known, found, threshold, used, model_use(model) if model else BASELINE)
    answer.warnings = warnings
    return answer


def filter_evidence(states: States, key: object, judged: Judged, known: Known, granularity: str, threshold: float,
                    artefact: Artefact | None = None) -> Evidence | None:
    """The hypothesis filter's, calibrated by the artefact where there is one. None while too little is known."""
    rhythm = RHYTHMS[granularity]
    history = known.values
    lead = len(history)
    if lead >= rhythm.setup:
        state = states.after(key, known.start, history, granularity)
        ahead, first = judged.values, 0
    else:
        rows = np.concatenate([history, judged.values])
        if len(rows) <= rhythm.setup:
            return None
        state = States().after(None, known.start if lead else judged.first, rows[: rhythm.setup], granularity)
        ahead, first = judged.values[rhythm.setup - lead:], rhythm.setup - lead
        history = rows[: rhythm.setup]
    given = judged.given[judged.given >= first]
    empty = np.full((len(judged.given), ahead.shape[1]), np.nan)
    log_odds, level, scale, t = empty.copy(), empty.copy(), np.ones_like(empty), empty.copy()
    hypothesis = np.zeros(empty.shape, np.intp)
    place = {int(row) - first: len(judged.given) - len(given) + i for i, row in enumerate(given)}
    for i, row in enumerate(ahead):
        step = state.step(row)
        if (j := place.get(i)) is not None:
            log_odds[j], hypothesis[j], level[j], scale[j] = step
            t[j] = np.abs(state.level_of(row) - step.expected) / step.scale
    log_odds[:, np.isfinite(history).sum(axis=0) < ENOUGH * rhythm.setup] = np.nan
    surprise = surprise_of(log_odds) if artefact is None else artefact.run({"log_odds": log_odds})["surprise"]
    surprise, outside = with_range(surprise, t)
    names = np.where(outside, OUT_OF_RANGE, np.array(rhythm.hypotheses)[hypothesis])
    reach = reach_of(threshold) * scale
    expected, lower, upper = (state.in_own_unit(part) for part in (level, level - reach, level + reach))
    return Evidence(surprise, names, expected, lower, upper)


def forecast_evidence(artefact: Artefact, metrics: Sequence[str], judged: Judged, known: Known) -> Evidence:
    """An LSTM's: what the last hours have against the forecast made before them. NaN where too little is known."""
    card = artefact.card
    order = [metrics.index(name) for name in card["metrics"]]
    window = int(card["window"])
    rows = np.concatenate([np.full((window, len(metrics)), np.nan), known.values, judged.values])[:, order]
    at = window + len(known.values) + judged.given
    windows = rows[at[:, None] + np.arange(1 - window, 1)]
    out = artefact.run({"time": judged.first + judged.given, "window": windows})
    seen = np.isfinite(windows)
    out["surprise"][(seen.mean(axis=1) < ENOUGH) | ~seen[:, -1]] = np.nan
    back = np.argsort(order)
    surprise, expected, lower, upper = (out[name][:, back] for name in ("surprise", "expected", "lower", "upper"))
    surprise, outside = with_range(surprise, scales_off(windows[:, -1][:, back], expected, upper))
    return Evidence(surprise, np.where(outside, OUT_OF_RANGE, UNLIKE), expected, lower, upper)


def _unfit(artefact: Artefact, request: SequenceRequest, moment: datetime) -> str | None:
    """Why a model cannot answer a request about points up to `moment`."""
    card = artefact.card
    if card["granularity"] != request.granularity:
        return f"The model counts {card['granularity']} buckets"
    if set(card["metrics"]) != set(request.metrics):
        return "The model was trained on other metrics"
    if not taught(card, request.baseline, moment):
        return "The model was trained without the new normal"
    return None
