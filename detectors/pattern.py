"""Do a column's values look as they always do? From a batch of values, or of their shapes, to a verdict.

    request -> tally (the only place that sees values) -> the column as it is known: the table's model, else learnt from the
    history -> unusual values and lost formats (pattern_judge) -> answer
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from detectors.baselines import taught, untaught
from detectors.champion import find_model, model_use
from detectors.context import utc
from detectors.decision import threshold_of
from detectors.pattern_answer import answered, silent
from detectors.pattern_column import Batch, Column
from detectors.pattern_history import (
    DETECTOR,
    merged,
    recent_batches,
    series_key,
    series_name,
    since,
    slug,
    tally_of,
    told,
    usable,
)
from detectors.pattern_judge import report
from detectors.storing import hand_over, judged_by, recall
from detectors.tally import Tally
from shared.cache import Cache
from shared.catalogue import Catalogue, Loaded
from shared.contract import Status
from shared.contract_pattern import JudgedBatch, PatternAnswer, PatternObservation, PatternRequest
from shared.documents import Documents
from shared.history import History
from shared.recent_documents import RecentDocuments

COLUMNS_BYTES = 64 * 2**20
BASELINE_WORDS = "its learnt formats"


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
    moment = _moment(request)
    history, said = told(request.historical_data, request.timezone or "UTC", moment)
    known = _look_up(request, catalogue, history, moment or now)
    answer = _evaluate(request, batch, known, moment)
    answer.warnings = [*known.warnings, *warnings, *said]
    answer.latency_ms = round((time.perf_counter() - began) * 1000, 3)
    return answer


def observation(request: PatternRequest, answer: PatternAnswer, catalogue: Catalogue, now: datetime) -> str | None:
    """The message that keeps the batch's shapes in the column's history; this worker's own next verdict knows of it at once.

    None where the caller named no table or no time, or asked to leave no trace; where storage does not answer, as the
    warnings then say; and where the batch is too long for a message: it is then kept before this returns.
    """
    moment = _moment(request)
    if request.table_id is None or moment is None or not request.record:
        return None
    tally, _ = tally_of(request.values, request.pattern_counts)
    status: Status = answer.kept_as
    text = json.dumps({"detector": DETECTOR, "table_id": request.table_id, "column": request.column,
                       "timestamp": moment.isoformat(), "observed_at": now.isoformat(), "status": status,
                       "document": tally.to_document() | {"score": answer.deviation.score if answer.deviation else None,
                                                          **judged_by(answer, now)}}, ensure_ascii=False)
    message, kept = hand_over(text, observe, answer, catalogue, "this batch was")
    if kept:
        _memory(catalogue).batches.note(series_key(request.table_id, request.column), moment, Batch(moment, tally), status)
    return message


def observe(message: bytes, history: History) -> None:
    """One batch from the queue. Harmless when it comes twice.

    Raises pydantic's ValidationError for a message that cannot be read, so that it ends in the poison queue.
    """
    seen = JudgedBatch.model_validate_json(message)
    Documents(history).observe(series_name(seen.column), seen.table_id, seen.timestamp, seen.document, seen.status)


def load(rows: Sequence[PatternObservation], catalogue: Catalogue) -> None:
    """Keeps batches in bulk, their shapes only; the next call about one of the columns reads it anew."""
    documents = Documents(catalogue.history)
    for row in rows:
        tally, _ = tally_of(row.values, row.pattern_counts)
        documents.record(series_name(row.column), row.table_id, row.timestamp, tally.to_document(), row.status)
        _memory(catalogue).batches.forget(series_key(row.table_id, row.column))


def forget(table_id: str, column: str | None, catalogue: Catalogue) -> None:
    """Drops a column's batches from memory."""
    _memory(catalogue).batches.forget(series_key(table_id, column or ""))


def replay(request: PatternRequest, catalogue: Catalogue, points: int) -> Iterator[PatternAnswer]:
    """The verdicts on the last `points` batches, each with nothing but the batches before it. Raises as `detect`."""
    memory, table_id = _memory(catalogue), request.table_id
    model, warnings = find_model(request, _name(request), catalogue, BASELINE_WORDS, bool(request.historical_data))
    recent = memory.batches.of(series_key(table_id, request.column)).rows() if table_id else []
    batches = merged(usable(recent)[0], told(request.historical_data, request.timezone or "UTC", None)[0])
    for i in range(max(len(batches) - points, 0), len(batches)):
        at = batches[i].timestamp
        known = (_of_model(memory, model, warnings) if model and taught(model.artefact.card, request.baseline, at)
                 else _learnt(memory, _since(batches[:i], request), 0, warnings))
        answer = _evaluate(request, batches[i].tally, known, batches[i].timestamp)
        answer.warnings = list(known.warnings)
        yield answer


@dataclass(frozen=True, slots=True)
class _Memory:
    """What a worker keeps of the columns it is asked about: their batches, and what was learnt of each, by what from."""

    batches: RecentDocuments[Batch]
    columns: Cache[Hashable, tuple[Column | None]]

    def column(self, key: Hashable, make: Callable[[], Column | None]) -> Column | None:
        return self.columns.get(key, lambda _: (make(),))[0]


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of the column, from how many values (`rows`), and what has to be said about it."""

    column: Column | None
    rows: int
    model: Loaded | None = None
    excluded: int = 0
    warnings: Sequence[str] = ()


def _look_up(request: PatternRequest, catalogue: Catalogue, history: Sequence[Batch], before: datetime) -> _Known:
    table_id, memory = request.table_id, _memory(catalogue)
    model, warnings = find_model(request, _name(request), catalogue, BASELINE_WORDS, bool(history))
    if model is not None and request.baseline is not None and not taught(model.artefact.card, request.baseline, before):
        warnings.append(untaught(request.baseline, BASELINE_WORDS))
    elif model is not None:
        return _of_model(memory, model, warnings)
    excluded = 0
    if table_id is not None:
        key = series_key(table_id, request.column)
        recent = recall(lambda: memory.batches.of(key, before), warnings, bool(history))
        if recent is not None:
            kept, excluded = usable((batch, status) for batch, status in recent.rows()
                                    if batch.timestamp is not None and batch.timestamp < before)
            history = merged(kept, history)
    history = _since(history, request)
    return _learnt(memory, history, excluded, warnings)


def _since(history: Sequence[Batch], request: PatternRequest) -> Sequence[Batch]:
    return [batch for batch, _ in since([(batch, "ok") for batch in history], request.baseline)]


def _of_model(memory: _Memory, model: Loaded, warnings: Sequence[str]) -> _Known:
    column = memory.column(model.sha256, lambda: Column.from_json(model.artefact.card["column"]))
    return _Known(column, column.rows if column else 0, model, warnings=warnings)


def _learnt(memory: _Memory, history: Sequence[Batch], excluded: int, warnings: Sequence[str]) -> _Known:
    column = memory.column(tuple((batch.timestamp, batch.tally.key) for batch in history), lambda: Column.of(history))
    return _Known(column, sum(batch.tally.rows for batch in history), None, excluded, warnings)


def _evaluate(request: PatternRequest, batch: Tally, known: _Known, moment: datetime | None) -> PatternAnswer:
    threshold = threshold_of(request)
    if known.column is None or not batch.rows:
        answer = silent(request, batch, known.column, known.rows, moment)
    else:
        found = report(batch, known.column, known.model.artefact if known.model else None, threshold)
        answer = answered(request, batch, known.column, found, threshold, moment)
        if known.model:
            answer.model = model_use(known.model)
    answer.history.excluded = known.excluded
    return answer


def _name(request: PatternRequest) -> str | None:
    return model_name(request.table_id, request.column) if request.table_id else None


def _moment(request: PatternRequest) -> datetime | None:
    return utc(request.timestamp, ZoneInfo(request.timezone or "UTC")) if request.timestamp else None


def _memory(catalogue: Catalogue) -> _Memory:
    return catalogue.memory(DETECTOR, _new_memory)


def _new_memory(catalogue: Catalogue) -> _Memory:
    columns = Cache[Hashable, tuple[Column | None]](
        COLUMNS_BYTES, math.inf, catalogue.clock, size=lambda known: known[0].size_bytes if known[0] else 0,
        aged=lambda known, _: known)
    return _Memory(recent_batches(catalogue), columns)
