"""Is this batch like the ones before it? From a column profile and what is known of the table to a verdict.

    request + history -> batches as metrics -> the table's model (one ONNX call), else the conditional residual -> verdict
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np

from detectors import distribution_model, schema
from detectors.champion import find_model, model_use
from detectors.conditional import FEWEST_BATCHES
from detectors.context import utc
from detectors.decision import threshold_of
from detectors.distribution_answer import Answering
from detectors.distribution_history import Fitted, Known, fit, known, learnt_from, weekday_of
from detectors.distribution_model import Reading
from detectors.profiles import Batch, batch_of
from shared.cache import Cache
from shared.catalogue import Catalogue, Loaded
from shared.contract import ModelUse, Status
from shared.contract_distribution import DistributionAnswer, DistributionRequest, JudgedBatch
from shared.documents import Documents
from shared.errors import StorageUnavailable
from shared.history import History
from shared.recent_documents import RecentDocuments

DETECTOR = "distribution"
BASELINE = ModelUse(name=None, version="1", algorithm="conditional_residual")
# A queue message ends at 64 KiB in base64. A profile of several hundred columns is longer, and is kept at once.
LONGEST_MESSAGE = 45_000
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
    case = _case(request, catalogue, now)
    answer = _evaluate(request, case, _memory(catalogue))
    answer.warnings = [*case.warnings, *case.known.warnings, *answer.warnings]
    answer.latency_ms = round((time.perf_counter() - began) * 1000, 3)
    return answer


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
    status: Status = "anomaly" if answer.is_anomaly else "ok"
    document = batch.to_document() | {"score": answer.table_score}
    message = json.dumps({"detector": DETECTOR, "table_id": request.table_id, "timestamp": moment.isoformat(),
                          "observed_at": now.isoformat(), "status": status, "document": document})
    try:
        if not catalogue.door.is_open():
            raise StorageUnavailable("The queue does not answer.")
        if len(message) > LONGEST_MESSAGE:
            observe(message.encode(), catalogue.history)
    except StorageUnavailable:
        answer.warnings.append("Storage does not answer: this profile was not kept in the history. Send it again later.")
        return None
    _memory(catalogue).batches.note(request.table_id, moment, batch, status)
    return message if len(message) <= LONGEST_MESSAGE else None


def observe(message: bytes, history: History) -> None:
    """One judged batch from the queue. Harmless when it comes twice.

    Raises pydantic's ValidationError for a message that cannot be read, so that it ends in the poison queue.
    """
    seen = JudgedBatch.model_validate_json(message)
    Documents(history).record(DETECTOR, seen.table_id, seen.timestamp, seen.document, seen.status)


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
class _Case:
    """One batch in its place: when it is of, what came before it, and the model of its table."""

    batch: Batch
    moment: datetime | None
    zone: str
    weekday: int
    known: Known
    model: Loaded | None
    warnings: tuple[str, ...]


def _case(request: DistributionRequest, catalogue: Catalogue, now: datetime) -> _Case:
    name = model_name(request.table_id) if request.table_id else None
    model, warnings = find_model(request, name, catalogue, "the conditional residual", bool(request.historical_profiles))
    zone = request.timezone or (model.artefact.card.get("timezone") if model else None) or "UTC"
    moment = _moment(request, zone)
    stored: list[tuple[Batch, str]] = []
    if request.table_id is not None:
        try:
            recent = _memory(catalogue).batches.of(request.table_id, moment)
            stored = recent.rows()
            if recent.stale:
                warnings.append(f"The history in memory was used. {recent.stale}")
        except StorageUnavailable:
            if not request.historical_profiles and model is None:
                raise
            if not warnings:
                warnings.append("Storage does not answer: stored history was left out.")
    batch = batch_of(request.current_profile, ZoneInfo(zone), moment)
    before = known(stored, request.historical_profiles, moment or now, zone)
    return _Case(batch, moment, zone, weekday_of(moment, zone), before, model, tuple(warnings))


def _evaluate(request: DistributionRequest, case: _Case, memory: _Memory) -> DistributionAnswer:
    threshold, usual = threshold_of(request), case.known.usual
    findings = schema.changes(case.batch, case.known.every)
    answering = Answering(request, case.batch, case.moment, case.known, findings, threshold)
    warnings = []
    if case.model is not None:
        artefact = case.model.artefact
        how = memory.readings.get(case.model.sha256, lambda _: Reading.of(artefact))
        raw, distance = how.gauge.measure(case.batch)
        before = usual[-1] if usual else None
        judged = distribution_model.judge(artefact, how.gauge, raw, before, case.weekday, threshold)
        if judged is not None:
            used = int(artefact.card["training"]["used"])
            return answering.judged(how.gauge.features, raw, judged, how.tail, distance, model_use(case.model), used)
        warnings.append("The batch has too few of the model's metrics: the conditional residual answered.")
    if len(usual) < FEWEST_BATCHES:
        reason = f"{len(usual)} of {FEWEST_BATCHES} profiles known: verdicts begin after that."
        answer = answering.silent("learning", reason, BASELINE)
    else:
        fitted = _fitted(request, case, memory)
        raw, distance = fitted.gauge.measure(case.batch)
        line = float(fitted.conditional.tail.inverse(np, np.float64(threshold)))
        judged = fitted.conditional.judge(raw[None], case.weekday, line)
        answer = answering.judged(fitted.gauge.features, raw, judged, fitted.conditional.tail, distance, BASELINE,
                                  len(learnt_from(usual)))
    answer.warnings = warnings
    return answer


def _fitted(request: DistributionRequest, case: _Case, memory: _Memory) -> Fitted:
    """The detector of these very batches, kept while they are the same."""
    usual, zone = case.known.usual, case.zone
    if request.table_id is None or request.historical_profiles:
        return fit(usual, zone)
    return memory.fits.get(request.table_id, lambda _: fit(usual, zone), fits=lambda kept: kept.is_for(usual, zone))


def _moment(request: DistributionRequest, zone: str) -> datetime | None:
    told = request.timestamp or request.current_profile.profiled_at
    return utc(told, ZoneInfo(zone)) if told else None
