"""Did the load come when it should? From a request and what is known of the feed to a verdict.

    request + history -> the load in question (timeliness_case) -> the table's model (one ONNX call), else the lag filter
                      -> state, range and late_after (timeliness_verdict) -> answer
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import numpy as np

from detectors.baselines import taught, untaught
from detectors.champion import find_model, model_use
from detectors.decision import threshold_of
from detectors.storing import recall
from detectors.timeliness_answer import answered, judge_events, silent
from detectors.timeliness_case import Case, Place, build
from detectors.timeliness_history import gather, seconds
from detectors.timeliness_verdict import find, judge_with_filter, judge_with_model, minutes_of
from shared.catalogue import Catalogue, Loaded
from shared.contract_timeliness import ArrivalObservation, JudgedArrival, TimelinessAnswer, TimelinessRequest
from shared.errors import StorageUnavailable
from shared.history import History, Point, Series

# Arrivals are points of the history: when they came, and as value the minutes after due. Their event lags lie beside them.
DETECTOR, EVENTS = "timeliness", "timeliness-events"
LONG_SILENCE = 1.5  # of the usual distance between two arrivals


def model_name(table_id: str) -> str:
    """The registry's name of a table's timeliness model."""
    return f"timeliness-anomaly.{table_id}"


def detect(request: TimelinessRequest, catalogue: Catalogue, now: datetime) -> TimelinessAnswer:
    """The verdict on the load that is due, answered by the best there is: the table's model, else the lag filter.

    Raises ModelNotFound (with `require_model`), ModelUnavailable (with `fallback=false`), StorageUnavailable (storage is
    down, nothing is warm and the body has no history), InvalidRequest (what detectors.timeliness_case refuses).
    """
    began = time.perf_counter()
    known = _look_up(request, catalogue)
    card = known.model.artefact.card if known.model else {}
    case = build(request, card, known.stored, known.events, now)
    answer = silent(request, case) if case.place is None else _evaluate(request, case, case.place, known)
    answer.warnings = [*known.warnings, *case.arrivals.warnings, *answer.warnings]
    answer.latency_ms = round((time.perf_counter() - began) * 1000, 3)
    return answer


def observation(request: TimelinessRequest, answer: TimelinessAnswer, catalogue: Catalogue, now: datetime) -> str | None:
    """The message that keeps the newest arrival in the feed's history; this worker's own next verdict knows of it at once.

    None where the caller named no table or no arrival, or asked to leave no trace, for an arrival that is known already,
    and while storage does not answer: the warnings then say that it was not kept.
    """
    if request.table_id is None or request.last_arrival is None or not request.record:
        return None
    try:
        known = catalogue.series(DETECTOR, request.table_id).seconds if catalogue.door.is_open() else None
    except StorageUnavailable:
        known = None
    if known is None:
        answer.warnings.append("Storage does not answer: this arrival was not kept in the history. Send it again later.")
        return None
    zone = answer.schedule.timezone if answer.schedule else request.timezone or "UTC"
    second = seconds(request.last_arrival, zone)
    told = answer.schedule is not None and answer.schedule.source == "told"
    if second in known or (told and answer.last_lag_minutes is None):
        return None
    judged = answer.state in ("on_time", "late", "early") and answer.unit == "minutes_after_due" and not answer.missing_loads
    moment = datetime.fromtimestamp(second, UTC)
    seen = Point(moment, answer.last_lag_minutes or 0.0, "ok" if answer.is_anomaly and not judged else answer.kept_as,
                 answer.deviation.score if judged and answer.deviation else None,
                 answer.model.version if answer.model.name else None)
    catalogue.note(DETECTOR, request.table_id, seen)
    if answer.event_lag_minutes is not None:
        catalogue.note(EVENTS, request.table_id, Point(moment, answer.event_lag_minutes))
    return json.dumps(asdict(seen) | {"detector": DETECTOR, "table_id": request.table_id, "observed_at": now.isoformat(),
                                      "timestamp": moment.isoformat(), "event_lag_minutes": answer.event_lag_minutes})


def observe(message: bytes, history: History) -> None:
    """One arrival from the queue. Harmless when it comes twice; of two reports the one observed later stays.

    Raises pydantic's ValidationError for a message that cannot be read, so that it ends in the poison queue.
    """
    seen = JudgedArrival.model_validate_json(message)
    point = Point(seen.timestamp, seen.value, seen.status, seen.score, seen.model)
    history.observe(DETECTOR, seen.table_id, point, seen.observed_at)
    if seen.event_lag is not None:
        history.observe(EVENTS, seen.table_id, Point(seen.timestamp, seen.event_lag), seen.observed_at)


def load(rows: Sequence[ArrivalObservation], catalogue: Catalogue) -> None:
    """Keeps arrivals in bulk."""
    arrivals: dict[str, list[Point]] = defaultdict(list)
    events: dict[str, list[Point]] = defaultdict(list)
    for row in rows:
        arrivals[row.table_id].append(Point(row.timestamp, row.value, row.status))
        if row.event_lag is not None:
            events[row.table_id].append(Point(row.timestamp, row.event_lag, row.status))
    catalogue.record_many(DETECTOR, arrivals)
    catalogue.record_many(EVENTS, events)


def forget(table_id: str, column: str | None, catalogue: Catalogue) -> None:
    """Drops a feed's arrivals from memory."""
    catalogue.forget(DETECTOR, table_id)
    catalogue.forget(EVENTS, table_id)


def replay(request: TimelinessRequest, catalogue: Catalogue, points: int) -> Iterator[TimelinessAnswer]:
    """The verdicts on the last `points` arrivals, each asked for at that moment; before one that ends a long silence, the
    verdict on the silence too. Raises as `detect`.
    """
    stored = catalogue.series(DETECTOR, request.table_id) if request.table_id else None
    known = gather(request.historical_data, None, stored, None, request.timezone or "UTC", 2**40).at
    usual = float(np.median(np.diff(known))) if len(known) > 1 else 0.0
    for before, came in zip(known[:-1][-points:].tolist(), known[1:][-points:].tolist(), strict=True):
        if came - before > LONG_SILENCE * usual:
            yield _asked_at(came - 60, None, request, catalogue)
        yield _asked_at(came, came, request, catalogue)


def _asked_at(second: int, arrival: int | None, request: TimelinessRequest, catalogue: Catalogue) -> TimelinessAnswer:
    moment, came = datetime.fromtimestamp(second, UTC), arrival and datetime.fromtimestamp(arrival, UTC)
    return detect(request.model_copy(update={"as_of": moment, "last_arrival": came}), catalogue, moment)


@dataclass(frozen=True, slots=True)
class _Known:
    """What storage knows of the feed, and what has to be said about it."""

    model: Loaded | None = None
    stored: Series | None = None
    events: Series | None = None
    warnings: tuple[str, ...] = ()


def _look_up(request: TimelinessRequest, catalogue: Catalogue) -> _Known:
    table_id = request.table_id
    name = model_name(table_id) if table_id else None
    model, warnings = find_model(request, name, catalogue, "the lag filter", bool(request.historical_data))
    if table_id is None:
        return _Known()
    asked = request.as_of or request.timestamp
    until = datetime.fromtimestamp(seconds(asked, request.timezone or "UTC"), UTC) if asked else None
    can_do_without = bool(request.historical_data) or model is not None
    stored = recall(lambda: catalogue.series(DETECTOR, table_id, until), warnings, can_do_without)
    events = None
    if request.last_event_time and stored is not None:
        events = recall(lambda: catalogue.series(EVENTS, table_id, until), [], can_do_without)
    return _Known(model, stored, events, tuple(warnings))


def _evaluate(request: TimelinessRequest, case: Case, place: Place, known: _Known) -> TimelinessAnswer:
    threshold = threshold_of(request, place.loads_a_month)
    minutes, model = minutes_of(place, case.as_of), known.model
    is_taught = model is None or taught(model.artefact.card, request.baseline, datetime.fromtimestamp(case.as_of, UTC))
    judgement = judge_with_model(model.artefact, place, minutes, threshold) if model and is_taught else None
    by_model = judgement is not None
    judgement = judgement or judge_with_filter(place.before, minutes, threshold)
    known_arrivals = len(case.arrivals.at) + len(case.arrivals.lags)
    finding = find(place, case.as_of, judgement, threshold, request, known=known_arrivals > 0)
    answer = answered(request, case, place, finding, threshold)
    if model and by_model:
        answer.model = model_use(model)
    elif request.baseline is not None and not is_taught:
        answer.warnings.append(untaught(request.baseline, "the lag filter"))
    elif model:
        answer.warnings.append("The model has too little recent history: the lag filter answered.")
    if math.isfinite(place.lag) and answer.event_lag_minutes is not None:
        judge_events(answer, case.arrivals.event_lag[:-1], threshold)
    return answer
