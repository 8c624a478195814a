"""Is this row count normal? From a request and what is known of the table to a verdict.

    request + history -> dense buckets -> the table's model (volume_model), else the structural baseline -> verdict
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np

from detectors import baselines, calendar, structural, words
from detectors.champion import find_model, model_use
from detectors.context import Context, IntArray, calendar_of, gather, utc
from detectors.decision import Decision, Judgement, decide, threshold_of
from detectors.filter_bank import REMEMBER
from detectors.replays import Replays
from detectors.season import SEASONS
from detectors.storing import recall
from detectors.volume_model import Inputs, keeps_flagging, model_inputs, model_judgements
from shared.catalogue import Catalogue, Loaded
from shared.contract import (
    Deviation,
    Effect,
    HistoryPoint,
    HistoryUse,
    Holidays,
    JudgedObservation,
    ModelUse,
    Observation,
    VolumeAnswer,
    VolumeRequest,
)
from shared.history import History, Point, Series

replays = Replays()
BASELINE = ModelUse(name=None, version="1", algorithm="structural")


def model_name(table_id: str) -> str:
    """The registry's name of a table's volume model."""
    return f"volume-anomaly.{table_id}"


def detect(request: VolumeRequest, catalogue: Catalogue, now: datetime) -> VolumeAnswer:
    """The verdict on one count, answered by the best there is: the table's model, else the structural baseline.

    Raises ModelNotFound (with `require_model`), ModelUnavailable (with `fallback=false`), StorageUnavailable (storage is
    down, nothing is warm and the body has no history), InvalidRequest (a holiday calendar that does not exist).
    """
    began = time.perf_counter()
    case = place(request, look_up(request, catalogue), now)
    judgement = judge_with_own_model(case)
    answer = conclude_by_model(case, judgement) if judgement else conclude(case, judge_with_filter(case))
    answer.latency_ms = round((time.perf_counter() - began) * 1000, 3)
    return answer


def observation(request: VolumeRequest, answer: VolumeAnswer, catalogue: Catalogue, now: datetime) -> str | None:
    """The message that keeps this call in the table's history; this worker's own next verdict knows of it at once.

    None where the caller named no table or no time, or asked to leave no trace, and while storage does not answer: the
    verdict is worth more than an error, and its warnings then say that the count was not kept.
    """
    if request.table_id is None or request.timestamp is None or not request.record:
        return None
    if not catalogue.door.is_open():
        answer.warnings.append("Storage does not answer: this count was not kept in the history. Send it again later.")
        return None
    moment = utc(request.timestamp, ZoneInfo(request.timezone or "UTC"))
    seen = Point(moment, request.current_row_count, answer.kept_as,
                 answer.deviation.score if answer.deviation else None, answer.model.version if answer.model.name else None)
    catalogue.note("volume", request.table_id, seen)
    return json.dumps({"detector": "volume", "table_id": request.table_id, "timestamp": moment.isoformat(),
                       "observed_at": now.isoformat(), "value": seen.value, "status": seen.status, "score": seen.score,
                       "model": seen.model})


def observe(message: bytes, history: History) -> None:
    """One judged count from the queue. Harmless when it comes twice; of two at one time the one observed later stays.

    Raises pydantic's ValidationError for a message that cannot be read, so that it ends in the poison queue.
    """
    seen = JudgedObservation.model_validate_json(message)
    point = Point(seen.timestamp, seen.value, seen.status, seen.score, seen.model)
    history.observe("volume", seen.table_id, point, seen.observed_at)


def load(rows: Sequence[Observation], catalogue: Catalogue) -> None:
    """Keeps counts in bulk."""
    points: dict[str, list[Point]] = defaultdict(list)
    for row in rows:
        points[row.table_id].append(Point(row.timestamp, row.value, row.status))
    catalogue.record_many("volume", points)


def forget(table_id: str, column: str | None, catalogue: Catalogue) -> None:
    """Drops a table's counts from memory."""
    catalogue.forget("volume", table_id)


def replay(request: VolumeRequest, catalogue: Catalogue, points: int) -> Iterator[VolumeAnswer]:
    """The verdicts on the last `points` known buckets, each with nothing but the buckets before it. Raises as `detect`."""
    zone, granularity, now = request.timezone or "UTC", request.granularity, datetime.now(UTC)
    stored = catalogue.series("volume", request.table_id) if request.table_id else None
    # Plain counts lead up to today; dated, they stay where they are whichever bucket is judged.
    today = int(calendar.buckets(np.array([int(now.timestamp())]), zone, granularity)[0])
    plain = any(isinstance(entry, float) for entry in request.historical_data)
    known = gather(request.historical_data, stored, zone, granularity, today if plain else None)
    past = [HistoryPoint.model_construct(
        timestamp=datetime.fromtimestamp(calendar.bucket_start(known.start + i, zone, granularity), UTC), value=rows)
        for i, rows in enumerate(known.values.tolist()) if math.isfinite(rows)]
    history = {"historical_data": past} if plain else {}
    for point in past[-points:]:
        asked = {"timestamp": point.timestamp, "current_row_count": point.value, **history}
        yield detect(request.model_copy(update=asked), catalogue, now)


@dataclass(frozen=True, slots=True)
class Known:
    """What storage knows of the table, and what has to be said about it."""

    model: Loaded | None = None
    stored: Series | None = None
    warnings: tuple[str, ...] = ()


def look_up(request: VolumeRequest, catalogue: Catalogue) -> Known:
    """The table's model and history. Raises as `detect`."""
    name = model_name(request.table_id) if request.table_id else None
    model, warnings = find_model(request, name, catalogue, "the structural baseline", bool(request.historical_data))
    if request.table_id is None:
        return Known()
    table_id = request.table_id
    moment = utc(request.timestamp, ZoneInfo(request.timezone or "UTC")) if request.timestamp else None
    stored = recall(lambda: catalogue.series("volume", table_id, moment), warnings,
                    bool(request.historical_data) or model is not None)
    return Known(model, stored, tuple(warnings))


@dataclass(frozen=True, slots=True)
class Case:
    """One count in its place: the bucket it belongs to, its calendar and the history before it."""

    request: VolumeRequest
    known: Known
    bucket: int
    context: Context
    holiday: IntArray
    holiday_name: str | None
    moment: datetime
    due: datetime | None
    is_due: bool
    threshold: float
    taught: bool = True  # whether the model knows of the table's new normal
    since: int | None = None  # points of the new normal that its level rests on; None where there is none

    @property
    def value(self) -> float:
        return self.request.current_row_count

    @property
    def stamp(self) -> str:
        return self.moment.isoformat().replace("+00:00", "Z")

    @property
    def wants_baseline(self) -> bool:
        """Whether the structural filter has something to judge by, where no model answers."""
        return self.is_due and len(self.context.values) > 0 and self.since != 0


def place(request: VolumeRequest, known: Known, now: datetime) -> Case:
    """Raises InvalidRequest."""
    card = known.model.artefact.card if known.model else {}
    zone = request.timezone or card.get("timezone") or "UTC"
    moment = utc(request.timestamp, ZoneInfo(zone)) if request.timestamp else now
    seconds = np.array([int(moment.timestamp())], np.int64)
    bucket = int(calendar.buckets(seconds, zone, request.granularity)[0])
    context = gather(request.historical_data, known.stored, zone, request.granularity, bucket)
    holidays = request.holidays or Holidays.model_validate(card.get("holidays") or {})
    classes, names = calendar_of(holidays, context.start, bucket, request.granularity)
    due = None
    if request.delay_minutes is not None:
        end = calendar.bucket_start(bucket + 1, zone, request.granularity)
        due = datetime.fromtimestamp(end + 60 * request.delay_minutes, UTC)
    taught, since = True, None
    if request.baseline is not None and len(context.values):
        first = baselines.bucket_of(request.baseline, zone, request.granularity)
        if context.start < first <= bucket:
            context, since = baselines.rebased(context, first, classes, request.granularity)
            taught = since > 0 and baselines.has_learnt(card, request.baseline)
    return Case(request, known, bucket, context, classes, names.get(bucket), moment, due, due is None or now >= due,
                threshold_of(request), taught, since)


def conclude_by_model(case: Case, judgement: Judgement) -> VolumeAnswer:
    """The answer of the table's model, unless it did not notice that the table is at a new level.

    A model keeps the level that it was trained on and what was flagged teaches it nothing, so a lasting shift would be
    flagged for ever. Where it flagged most of the last counts in the direction of this one, as many as the structural filter
    takes to accept a level, and the filter finds this one usual, the filter's word counts. It never accepts that a table
    stopped.
    """
    if judgement.score < case.threshold:
        return conclude(case, judgement, by_model=True)
    calm, model = judge_with_filter(case), case.known.model
    if calm is None or calm.score >= case.threshold or model is None:
        return conclude(case, judgement, by_model=True)
    patience, too_low = int(SEASONS[case.request.granularity].design.patience), case.value < judgement.expected
    if not keeps_flagging(model.artefact, case.context, case.holiday, case.threshold, patience, too_low):
        return conclude(case, judgement, by_model=True)
    return conclude(case, calm, overruled=True)


def conclude(case: Case, judgement: Judgement | None, by_model: bool = False, overruled: bool = False) -> VolumeAnswer:
    """The answer from what was found; without a judgement, why there is none."""
    request, model, window = case.request, BASELINE, None
    if not case.is_due and case.due is not None:
        return _silent(case, "not_evaluated", f"This {request.granularity} bucket is still filling: it is judged "
                                              f"from {case.due.isoformat()} on.", list(case.context.warnings))
    warnings = [*case.known.warnings, *case.context.warnings]
    if case.known.model is not None:
        card = case.known.model.artefact.card
        if by_model:
            model, window = model_use(case.known.model), card["window"]
        elif overruled:
            warnings.append(f"A new level since about {_since(case)}: the model knows the one before and would have flagged "
                            "this count, the structural baseline answered.")
        elif not case.taught and request.baseline is not None:
            warnings.append(baselines.untaught(request.baseline, "the structural baseline"))
        elif card["granularity"] != request.granularity:
            warnings.append(f"The model counts {card['granularity']} buckets: the structural baseline answered.")
        else:
            warnings.append("The model has too little recent history or is too old: the structural baseline answered.")
    if judgement is None and case.since == 0:
        return _silent(case, "learning", f"A new normal began at {baselines.stamp(request.baseline)}: verdicts go on "
                                         "with the count after its first.", warnings)
    if judgement is None:
        # Empty buckets before the first rows belong to no table yet.
        begun = int((np.isfinite(case.context.values) & (np.cumsum(np.nan_to_num(case.context.values)) > 0)).sum())
        since = " since the first rows" if begun < case.context.points else ""
        return _silent(case, "learning", f"{begun} of {structural.days_needed} {request.granularity} counts known{since}: "
                                         "verdicts begin after that.", warnings)
    decision = decide(judgement, case.value, case.threshold, request)
    return _answer(case, judgement, decision, model, case.context.use(window), warnings)


def judge_with_own_model(case: Case) -> Judgement | None:
    """The table's model on its bucket, None where there is none that can say something."""
    row, model = own_model_inputs(case), case.known.model
    return model_judgements(model.artefact, [row])[0] if model and row else None


def own_model_inputs(case: Case) -> Inputs | None:
    """What the table's model is to be asked, None where there is none that could be."""
    model = case.known.model
    if not case.is_due or not case.taught or model is None:
        return None
    if model.artefact.card["granularity"] != case.request.granularity:
        return None
    return model_inputs(model.artefact, case.context, case.holiday, case.bucket, case.value, case.threshold)


def _since(case: Case) -> str:
    """The day on which the level began that the structural filter accepted last, or is about to accept."""
    context, request = case.context, case.request
    state = replays.state(request.table_id, context.start, context.learnable, case.holiday[:-1], request.granularity)
    # A level is accepted with the bucket after as many as the filter has patience for.
    accepted = case.bucket - 1 - int(REMEMBER - state.remembered.item()) if state.change.item() else case.bucket
    first = max(accepted - int(SEASONS[request.granularity].design.patience), context.start)
    began = calendar.bucket_start(first, request.timezone or "UTC", request.granularity)
    return datetime.fromtimestamp(began, UTC).date().isoformat()


def judge_with_filter(case: Case) -> Judgement | None:
    """The structural filter on the case's bucket, None where it has nothing to judge by or is still learning."""
    if not case.wants_baseline:
        return None
    return judge_with_baseline(case.context, case.holiday, case.bucket, case.value, case.threshold,
                               case.request.granularity, case.request.table_id)


def judge_with_baseline(context: Context, holiday: IntArray, bucket: int, value: float, threshold: float,
                        granularity: str, table_id: str | None = None) -> Judgement | None:
    """The structural filter, replayed over what is new in the history. None while it is still learning."""
    if not len(context.values):
        return None
    state = replays.state(table_id, context.start, context.learnable, holiday[:-1], granularity)
    return judgement_of(structural.judge_next(state, bucket, int(holiday[-1]), value, threshold, granularity))


def judgement_of(verdict: structural.Verdict) -> Judgement | None:
    """None while the filter is still learning."""
    if not verdict.ready:
        return None
    return Judgement(verdict.score, verdict.expected, verdict.lower, verdict.upper, verdict.effects)


def _answer(case: Case, judgement: Judgement, decision: Decision, model: ModelUse, history: HistoryUse,
            warnings: list[str]) -> VolumeAnswer:
    request, value, expected = case.request, case.value, judgement.expected
    change = value - expected
    percent = round(100 * change / expected, 1) if expected > 0 else None
    return VolumeAnswer(
        is_anomaly=decision.is_anomaly, severity=decision.severity, confidence=decision.confidence,  # type: ignore[arg-type]
        expected_range=(decision.lower, decision.upper),
        message=words.volume(value, expected, decision, request.granularity, case.bucket, case.holiday_name,
                             known_calendar=request.timestamp is not None),
        status="evaluated", table_id=request.table_id, request_id=request.request_id,
        timestamp=case.stamp if request.timestamp else None, value=value,
        expected_value=round(expected, 2), direction=decision.direction,  # type: ignore[arg-type]
        deviation=Deviation(absolute=round(change, 2), percent=percent, score=math.floor(decision.score * 1e6) / 1e6,
                            threshold=round(case.threshold, 6)),
        explanation=[Effect(factor=name, effect=round(effect, 2)) for name, effect in judgement.effects.items()],
        history=history, model=model, warnings=warnings,
    )


def _silent(case: Case, status: str, reason: str, warnings: list[str]) -> VolumeAnswer:
    """No verdict, and why: never an anomaly, never certain, every count allowed."""
    request, value = case.request, case.value
    return VolumeAnswer(
        is_anomaly=False, severity="none", confidence=0.0, expected_range=(0.0, None),
        message=f"{value:,.0f} rows. {reason}", status=status, reason=reason,  # type: ignore[arg-type]
        table_id=request.table_id, request_id=request.request_id,
        timestamp=case.stamp if request.timestamp else None, value=value,
        history=case.context.use(), model=BASELINE, warnings=warnings or list(case.context.warnings),
    )
