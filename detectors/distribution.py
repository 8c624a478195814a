"""Is this batch like the ones before it? From a column profile and what is known of the table to a verdict.

    request + history -> batches as metrics -> the table's model (one ONNX call), else the conditional residual -> verdict
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from zoneinfo import ZoneInfo

import numpy as np

from detectors import distribution_model, schema
from detectors.baselines import taught, untaught
from detectors.champion import find_model, model_use
from detectors.conditional import FEWEST_BATCHES
from detectors.context import utc
from detectors.decision import threshold_of
from detectors.distribution_answer import Answering
from detectors.distribution_history import Fitted, Known, fit, learnt_from, rows_before, since, weekday_of
from detectors.distribution_model import Reading
from detectors.profiles import Batch, batch_of
from detectors.storing import hand_over, judged_by, recall
from shared.cache import Cache
from shared.catalogue import Catalogue, Loaded
from shared.contract import ModelUse, Status
from shared.contract_distribution import DistributionAnswer, DistributionObservation, DistributionRequest, JudgedBatch
from shared.documents import Documents
from shared.history import History
from shared.recent_documents import RecentDocuments

DETECTOR = "distribution"
BASELINE = ModelUse(name=None, version="1", algorithm="conditional_residual")
REFIT = 14  # batches, in a replay
FITS_BYTES, READINGS_BYTES = 128 * 2**20, 64 * 2**20


def model_name(table_id: str) -> str:
    """The registry's name of a table's distribution model."""
    return f"distribution-anomaly.{table_id}"


def detect(request: DistributionRequest, catalogue: Catalogue, now: datetime) -> DistributionAnswer:
    """The verdict on one batch, answered by the best there is: the table's model, else the conditional residual.

    Raises ModelNotFound (with `require_model`), ModelUnavailable (with `fallback=false`), StorageUnavailable (storage is
    down, nothing is warm and the body has no history).
    """
    began = time.perf_counter()
    told = _told(request, catalogue)
    moment = _moment(request, told.zone)
    batch = batch_of(request.current_profile, ZoneInfo(told.zone), moment)
    rows, warnings = rows_before(told.stored, request.historical_profiles, moment or now, told.zone)
    before = Known.of(since(rows, request.baseline))
    fitted_to = partial(_fitted, request, before.usual, told.zone, catalogue)
    answer = _evaluate(request, _Case(batch, moment, before, told), fitted_to, _memory(catalogue).readings)
    answer.warnings = [*told.warnings, *warnings, *answer.warnings]
    answer.latency_ms = round((time.perf_counter() - began) * 1000, 3)
    return answer


def replay(request: DistributionRequest, catalogue: Catalogue, points: int) -> Iterator[DistributionAnswer]:
    """The verdicts on the last `points` batches of the history, each with nothing but the batches before it.

    Without a model the detector is fitted anew every REFIT batches and not for each. Raises as `detect`.
    """
    told = _told(request, catalogue)
    rows, _ = rows_before(told.stored, request.historical_profiles, None, told.zone)
    readings, fitted, learnt = _memory(catalogue).readings, None, 0
    for place in range(max(len(rows) - points, 0), len(rows)):
        batch, status = rows[place]
        before = Known.of(since(rows[:place], request.baseline))
        is_new = fitted is not None and bool(before.usual) and before.usual[0] is not fitted.batches[0]
        if len(before.usual) >= FEWEST_BATCHES and (fitted is None or is_new or place - learnt >= min(REFIT, place // 4)):
            fitted, learnt = fit(before.usual, told.zone), place
        answer = _evaluate(request, _Case(batch, batch.moment, before, told), partial(_as_it_is, fitted), readings)
        if answer.is_anomaly and status == "ok":
            rows[place] = batch, "anomaly"  # as the service would have kept it
        yield answer


def observation(request: DistributionRequest, answer: DistributionAnswer, catalogue: Catalogue, now: datetime) -> str | None:
    """The message that keeps this batch in the table's history; this worker's own next verdict knows of it at once.

    None where the caller named no table or no time, or asked to leave no trace; where storage does not answer, as the
    warnings then say; and where the profile is too long for a message: it is then kept before this returns.
    """
    zone = request.timezone or "UTC"
    moment = _moment(request, zone)
    if request.table_id is None or moment is None or not request.record:
        return None
    batch = batch_of(request.current_profile, ZoneInfo(zone), moment)
    status: Status = answer.kept_as
    document = batch.to_document() | {"score": answer.table_score, **judged_by(answer, now)}
    text = json.dumps({"detector": DETECTOR, "table_id": request.table_id, "timestamp": moment.isoformat(),
                       "observed_at": now.isoformat(), "status": status, "document": document})
    message, kept = hand_over(text, observe, answer, catalogue, "this profile was")
    if kept:
        _memory(catalogue).batches.note(request.table_id, moment, batch, status)
    return message


def observe(message: bytes, history: History) -> None:
    """One judged batch from the queue. Harmless when it comes twice.

    Raises pydantic's ValidationError for a message that cannot be read, so that it ends in the poison queue.
    """
    seen = JudgedBatch.model_validate_json(message)
    Documents(history).observe(DETECTOR, seen.table_id, seen.timestamp, seen.document, seen.status)


def load(rows: Sequence[DistributionObservation], catalogue: Catalogue) -> None:
    """Keeps profiles in bulk; the next call about a table reads it anew. Raises StorageUnavailable."""
    documents = Documents(catalogue.history)
    for row in rows:
        document = batch_of(row.profile, UTC, row.moment).to_document()
        documents.record(DETECTOR, row.table_id, row.moment, document, row.status)
        _memory(catalogue).batches.forget(row.table_id)


def forget(table_id: str, column: str | None, catalogue: Catalogue) -> None:
    """Drops a table's batches from memory."""
    _memory(catalogue).batches.forget(table_id)


@dataclass(frozen=True, slots=True)
class _Memory:
    """What a worker keeps of the tables it is asked about: their batches, detectors fitted to them, and models' cards."""

    batches: RecentDocuments[Batch]
    fits: Cache[str, Fitted]
    readings: Cache[str, Reading]


def _memory(catalogue: Catalogue) -> _Memory:
    return catalogue.memory(DETECTOR, _new_memory)


def _new_memory(catalogue: Catalogue) -> _Memory:
    clock = catalogue.clock
    batches = RecentDocuments(Documents(catalogue.history), DETECTOR, catalogue.settings, Batch.from_document,
                              lambda batch: batch.size_bytes, clock)
    fits = Cache[str, Fitted](FITS_BYTES, math.inf, clock, size=lambda f: f.size_bytes, aged=lambda f, _: f)
    readings = Cache[str, Reading](READINGS_BYTES, math.inf, clock, size=lambda r: r.gauge.size_bytes, aged=lambda r, _: r)
    return _Memory(batches, fits, readings)


@dataclass(frozen=True, slots=True)
class _Told:
    """What storage knows of the table, and what has to be said about it."""

    model: Loaded | None
    zone: str
    stored: list[tuple[Batch, str]]
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class _Case:
    """One batch in its place: when it is of, and what came before it."""

    batch: Batch
    moment: datetime | None
    known: Known
    told: _Told


def _told(request: DistributionRequest, catalogue: Catalogue) -> _Told:
    name = model_name(request.table_id) if request.table_id else None
    model, warnings = find_model(request, name, catalogue, "the conditional residual", bool(request.historical_profiles))
    zone = request.timezone or (model.artefact.card.get("timezone") if model else None) or "UTC"
    table_id, can_do_without, recent = request.table_id, bool(request.historical_profiles) or model is not None, None
    if table_id is not None:
        recent = recall(lambda: _memory(catalogue).batches.of(table_id, _moment(request, zone)), warnings, can_do_without)
    stored = recent.rows() if recent is not None else []
    return _Told(model, zone, stored, warnings)


def _evaluate(request: DistributionRequest, case: _Case, fitted_to: Callable[[], Fitted | None],
              readings: Cache[str, Reading]) -> DistributionAnswer:
    """By the model, else by what `fitted_to` gives, which is asked only then: None while too little is known."""
    threshold, usual, model = threshold_of(request), case.known.usual, case.told.model
    findings = schema.changes(case.batch, case.known.every)
    answering = Answering(request, case.batch, case.moment, case.known, findings, threshold)
    weekday, warnings, answer = weekday_of(case.moment, case.told.zone), list[str](), None
    if model is not None and request.baseline is not None and not taught(model.artefact.card, request.baseline, case.moment):
        warnings.append(untaught(request.baseline, "the conditional residual"))
        model = None
    if model is not None:
        how = readings.get(model.sha256, lambda _: Reading.of(model.artefact))
        raw, distance = how.gauge.measure(case.batch)
        before = usual[-1] if usual else None
        judged = distribution_model.judge(model.artefact, how.gauge, raw, before, weekday, threshold)
        if judged is not None:
            used = int(model.artefact.card["training"]["used"])
            answer = answering.judged(how.gauge.features, raw, judged, how.tail, distance, model_use(model), used)
        else:
            warnings.append("The batch has too few of the model's metrics: the conditional residual answered.")
    if answer is None and (fitted := fitted_to()) is not None:
        raw, distance = fitted.gauge.measure(case.batch)
        line = float(fitted.conditional.tail.inverse(np, np.float64(threshold)))
        judged = fitted.conditional.judge(raw[None], weekday, line)
        answer = answering.judged(fitted.gauge.features, raw, judged, fitted.conditional.tail, distance, BASELINE,
                                  len(learnt_from(usual)))
    if answer is None:
        reason = f"{len(usual)} of {FEWEST_BATCHES} profiles known: verdicts begin after that."
        answer = answering.silent("learning", reason, BASELINE)
    answer.warnings = warnings
    return answer


def _as_it_is(fitted: Fitted | None) -> Fitted | None:
    return fitted


def _fitted(request: DistributionRequest, usual: tuple[Batch, ...], zone: str, catalogue: Catalogue) -> Fitted | None:
    """The detector of these very batches, kept while they are the same."""
    if len(usual) < FEWEST_BATCHES:
        return None
    if request.table_id is None or request.historical_profiles:
        return fit(usual, zone)
    fits = _memory(catalogue).fits
    return fits.get(request.table_id, lambda _: fit(usual, zone), fits=lambda kept: kept.is_for(usual, zone))


def _moment(request: DistributionRequest, zone: str) -> datetime | None:
    told = request.timestamp or request.current_profile.profiled_at
    return utc(told, ZoneInfo(zone)) if told else None
