"""Do a column's values look as they always do? From a batch of values, or of their shapes, to a verdict.

    request -> tally (the only place that sees values) -> the column as it is known: the table's model, else learnt from the
    history -> unusual values and lost formats (pattern_judge) -> answer
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from detectors.context import utc
from detectors.decision import threshold_of
from detectors.pattern_answer import answered, silent
from detectors.pattern_column import Batch, Column
from detectors.pattern_history import merged, series_name, slug, stored, tally_of, told
from detectors.pattern_judge import report
from shared.catalogue import Catalogue, Loaded
from shared.contract import ModelUse
from shared.contract_pattern import JudgedBatch, PatternAnswer, PatternRequest
from shared.documents import Documents
from shared.errors import ModelNotFound, ModelUnavailable, StorageUnavailable
from shared.history import History

HISTORY_DAYS = 90
KEPT_COLUMNS = 64  # learnt columns a worker remembers
_columns: OrderedDict[Hashable, Column | None] = OrderedDict()


def model_name(table_id: str, column: str = "value") -> str:
    """The registry's name of a column's pattern model."""
    return f"pattern-anomaly.{table_id}.{slug(column)}"


def detect(request: PatternRequest, catalogue: Catalogue, now: datetime) -> PatternAnswer:
    """The verdict on one batch, answered by the best there is: the column's model, else its formats learnt on the spot.

    Raises ModelNotFound (with `require_model`), ModelUnavailable (with `fallback=false`), StorageUnavailable (storage is
    down, nothing is warm and the body has no history).
    """
    began = time.perf_counter()
    batch, warnings = tally_of(request.values, request.pattern_counts)
    zone = request.timezone or "UTC"
    moment = utc(request.timestamp, ZoneInfo(zone)) if request.timestamp else None
    history, said = told(request.historical_data, zone, moment)
    known = _look_up(request, catalogue, history, moment or now)
    threshold = threshold_of(request)
    if known.column is None or not batch.rows:
        answer = silent(request, batch, known.column, known.seen, moment)
    else:
        found = report(batch, known.column, known.model.artefact if known.model else None, threshold)
        answer = answered(request, batch, known.column, found, threshold, moment)
        if known.model:
            answer.model = _model_use(known.model)
    answer.history.excluded = known.excluded
    answer.warnings = [*known.warnings, *warnings, *said]
    answer.latency_ms = round((time.perf_counter() - began) * 1000, 3)
    return answer


def observation(request: PatternRequest, answer: PatternAnswer, catalogue: Catalogue, now: datetime) -> str | None:
    """The message that keeps the batch's shapes in the column's history.

    None where the caller named no table or no time, or asked to leave no trace, and while storage does not answer: the
    warnings then say that it was not kept.
    """
    if request.table_id is None or request.timestamp is None or not request.record:
        return None
    if not catalogue.door.is_open():
        answer.warnings.append("Storage does not answer: this batch was not kept in the history. Send it again later.")
        return None
    batch, _ = tally_of(request.values, request.pattern_counts)
    moment = utc(request.timestamp, ZoneInfo(request.timezone or "UTC"))
    return json.dumps({"detector": "pattern", "table_id": request.table_id, "column": request.column,
                       "timestamp": moment.isoformat(), "observed_at": now.isoformat(), "document": batch.to_document(),
                       "status": "anomaly" if answer.is_anomaly else "ok"}, ensure_ascii=False)


def observe(message: bytes, history: History) -> None:
    """One batch from the queue. Harmless when it comes twice.

    Raises pydantic's ValidationError for a message that cannot be read, so that it ends in the poison queue.
    """
    seen = JudgedBatch.model_validate_json(message)
    Documents(history).record(series_name(seen.column), seen.table_id, seen.timestamp, seen.document, seen.status)


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of the column, of how many values (`seen`), and what has to be said about it."""

    column: Column | None
    seen: int
    model: Loaded | None = None
    excluded: int = 0
    warnings: tuple[str, ...] = ()


def _look_up(request: PatternRequest, catalogue: Catalogue, history: Sequence[Batch], before: datetime) -> _Known:
    table_id, warnings, model = request.table_id, [], None
    if table_id is None:
        if request.require_model:
            raise ModelNotFound("A model is required, and the request names no table.", "table_id")
        return _learnt(history)
    try:
        model = catalogue.model(model_name(table_id, request.column))
        if model is not None and model.stale:
            warnings.append(f"The model in memory answered. {model.stale}")
    except ModelUnavailable as error:
        if not request.fallback:
            raise
        warnings.append(f"The column's model could not be used, its formats were learnt from the history: {error.message}")
    except StorageUnavailable as error:
        if not request.fallback:
            raise ModelUnavailable(error.message) from error
        if not history:
            raise
        warnings.append("Storage does not answer: the verdict rests on the history of the request alone.")
        return _learnt(history, warnings=warnings)
    if model is not None:
        column = _remembered(model.sha256, lambda: Column.from_json(model.artefact.card["column"]))
        return _Known(column, column.rows if column else 0, model, warnings=tuple(warnings))
    if request.require_model:
        raise ModelNotFound(f"There is no model {model_name(table_id, request.column)}.", "table_id")
    excluded = 0
    try:
        kept, excluded = stored(catalogue.history, table_id, request.column, HISTORY_DAYS, before)
        history = merged(kept, history)
    except StorageUnavailable:
        if not history:
            raise
        warnings.append("Storage does not answer: stored history was left out.")
    return _learnt(history, excluded, warnings)


def _learnt(history: Sequence[Batch], excluded: int = 0, warnings: Sequence[str] = ()) -> _Known:
    content = tuple((batch.timestamp, hash(frozenset(batch.tally.counts.items()))) for batch in history)
    column = _remembered(content, lambda: Column.of(history))
    return _Known(column, sum(batch.tally.rows for batch in history), None, excluded, tuple(warnings))


def _remembered(key: Hashable, make: Callable[[], Column | None]) -> Column | None:
    """A column by what it was made of: the same history is learnt once."""
    try:
        _columns.move_to_end(key)
        return _columns[key]
    except KeyError:
        column = _columns[key] = make()
        while len(_columns) > KEPT_COLUMNS:
            _columns.popitem(last=False)
        return column


def _model_use(loaded: Loaded) -> ModelUse:
    card = loaded.artefact.card
    return ModelUse(name=loaded.name, version=loaded.version, algorithm=card["algorithm"], sha256=loaded.sha256,
                    trained_at=card.get("trained_at"), quality=card.get("quality"))
