"""The batches of a column that are known: the stored ones with the request's, oldest first. Only shapes are stored."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from detectors.baselines import kept_from
from detectors.context import utc
from detectors.formats import FEWEST
from detectors.pattern_column import FEWEST_BATCHES, Batch
from detectors.tally import Tally
from shared.catalogue import Catalogue
from shared.contract_pattern import PatternBatch
from shared.documents import Document, Documents
from shared.history import LEFT_OUT
from shared.recent_documents import RecentDocuments

DETECTOR: Final = "pattern"
type Row = tuple[Batch, str]  # a batch and its status
_SIMPLE = re.compile(r"[A-Za-z0-9_-]{1,40}")
_SHAPE_BYTES = 120  # of a shape in memory, beside its characters


def slug(column: str) -> str:
    """A column's name as a part of ids and model names: itself where it may be, else what is left of it and a hash."""
    if _SIMPLE.fullmatch(column):
        return column
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", column)[:30].strip("_-") or "column"
    return f"{safe}-{hashlib.sha256(column.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def series_name(column: str) -> str:
    """The detector's name in the history: every column of a table has a series of its own."""
    return f"{DETECTOR}.{slug(column)}"


def series_key(table_id: str, column: str) -> str:
    """By what a worker remembers a column's batches."""
    return f"{table_id}:{slug(column)}"


def recent_batches(catalogue: Catalogue) -> RecentDocuments[Batch]:
    """The batches of all columns that a worker is asked about, by `series_key`."""
    return RecentDocuments(_ColumnDocuments(catalogue.history), DETECTOR, catalogue.settings, batch_of, _size,
                           catalogue.clock)


def batch_of(moment: datetime | None, document: Document) -> Batch:
    """A batch as it was stored."""
    return Batch(moment, Tally.from_document(document))


def tally_of(values: Sequence[str | None] | None, counts: dict[str, int] | None) -> tuple[Tally, list[str]]:
    """A batch as it came, and what has to be said about it."""
    if counts is None:
        return Tally.of_values(values or []), []
    tally, changed = Tally.of_counts(counts)
    return tally, [f"{changed:,} keys of pattern_counts were no shapes: they were turned into some."] if changed else []


def told(history: Sequence[PatternBatch | Sequence[str | None]], zone: str,
         before: datetime | None) -> tuple[list[Batch], list[str]]:
    """The batches of a request, oldest first, and what has to be said about them. None of `before` or later."""
    warnings: list[str] = []
    plain, dated = [], {}
    for entry in history:
        values, counts = (entry.values, entry.pattern_counts) if isinstance(entry, PatternBatch) else (entry, None)
        tally, said = tally_of(values, counts)
        warnings += said
        moment = entry.timestamp if isinstance(entry, PatternBatch) else None
        if moment is None:
            plain.append(Batch(None, tally))
            continue
        moment = utc(moment, ZoneInfo(zone))
        if moment in dated:
            warnings.append("historical_data repeats a timestamp: its last batch was kept.")
        dated[moment] = Batch(moment, tally)
    earlier = [batch for moment, batch in sorted(dated.items()) if before is None or moment < before]
    if len(earlier) < len(dated):
        warnings.append("historical_data has batches that are not before the judged one: they were left out.")
    return plain + earlier, list(dict.fromkeys(warnings))


def usable(stored: Iterable[Row]) -> tuple[list[Batch], int]:
    """The batches that may be learnt from, and how many a person left out."""
    rows = list(stored)
    kept = [batch for batch, status in rows if status not in LEFT_OUT]
    return kept, len(rows) - len(kept)


def since(rows: Sequence[tuple[Batch, str]], baseline: datetime | None) -> Sequence[tuple[Batch, str]]:
    """Those of the new normal, once there are enough batches and values to learn from; until then all."""
    def enough(own: Sequence[tuple[Batch, str]]) -> bool:
        kept, _ = usable(own)
        return len(kept) >= FEWEST_BATCHES and sum(batch.tally.rows for batch in kept) >= FEWEST

    return kept_from(rows, baseline, lambda row: row[0].timestamp, enough)


def merged(stored: Sequence[Batch], told: Sequence[Batch]) -> list[Batch]:
    """Both, oldest first: of two batches at one time the request's; without a time before all others."""
    dated = {batch.timestamp: batch for batch in (*stored, *told) if batch.timestamp is not None}
    return [b for b in told if b.timestamp is None] + [dated[moment] for moment in sorted(dated)]


class _ColumnDocuments(Documents):
    """Documents by `series_key`: every column of a table has a series of its own."""

    def changes(self, detector: str, table_id: str, start: datetime | None, since: datetime | None) -> Any:
        table, _, column = table_id.partition(":")
        return super().changes(f"{detector}.{column}", table, start, since)


def _size(batch: Batch) -> int:
    return _SHAPE_BYTES * (1 + len(batch.tally.counts)) + sum(map(len, batch.tally.counts))
