"""What was judged of one table, as it is stored: points with their status, and with the score where a detector gave one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from detectors.pattern_history import series_name
from shared.documents import Documents
from shared.history import History, partition, row_key

# Detectors whose points are documents; all others keep a number a point.
DOCUMENTS = ("distribution", "pattern", "sequence")
# Who answers where a table has no model.
BASELINES = {"volume": "structural", "distribution": "conditional_residual", "pattern": "formats",
             "timeliness": "lag_filter", "sequence": "hypothesis_filter"}
_COLUMNS = ["RowKey", "value", "status", "score", "model", "observed_at"]


@dataclass(frozen=True, slots=True)
class Seen:
    """One stored point. `judged`: a detector gave a verdict, calibrated `score` in [0, 1] where it kept one.

    `model` is the version that judged, None for the baseline; `observed_at` when, None where that was not kept. `status` is
    the verdict, or a person's word in its place. `value` is None of a document.
    """

    timestamp: datetime
    status: str
    judged: bool
    score: float | None = None
    model: str | None = None
    observed_at: datetime | None = None
    value: float | None = None


def verdicts(history: History, detector: str, table_id: str, column: str | None = None, start: datetime | None = None,
             end: datetime | None = None) -> Iterator[Seen]:
    """The stored points from `start` on and before `end`, oldest first, page by page. `column` where the detector has some.

    Raises StorageUnavailable, InvalidRequest for an id that is none.
    """
    if detector in DOCUMENTS:
        name = series_name(column) if detector == "pattern" and column is not None else detector
        for moment, document, status in Documents(history).read(name, table_id, start, end):
            seen = document.get("observed_at")
            score = document.get("score")
            # Of a sequence only what was flagged has a score.
            judged = score is not None or (detector == "sequence" and "score" in document)
            yield Seen(moment, status, judged, score, document.get("model"),
                       datetime.fromisoformat(seen) if seen else None)
        return
    where = f"PartitionKey eq '{partition(detector, table_id)}'"
    where += f" and RowKey ge '{row_key(start)}'" if start else ""
    where += f" and RowKey lt '{row_key(end)}'" if end else ""
    for row in history._query(where, _COLUMNS):
        score, seen = row.get("score"), row.get("observed_at")
        yield Seen(datetime.fromisoformat(row["RowKey"]), row["status"], score is not None, score, row.get("model"),
                   datetime.fromisoformat(seen) if seen else None, row["value"])


# Seconds that a verdict took are counted in classes, each a fifth wider than the one before.
A_DOUBLING = 4


@dataclass(slots=True)
class Counts:
    """Judged points: `flagged` ones that nobody spoke of, those called `expected` or `confirmed`, and their latencies.

    `latency` counts classes of seconds from a point's time to its verdict.
    """

    judged: int = 0
    flagged: int = 0
    expected: int = 0
    confirmed: int = 0
    latency: Counter[int] = field(default_factory=Counter)

    def add(self, seen: Seen) -> None:
        """A point that was judged; nothing is counted of one that was excluded or repaired."""
        if not seen.judged or seen.status in ("excluded", "repaired"):
            return
        self.judged += 1
        self.flagged += seen.status == "anomaly"
        self.expected += seen.status == "expected"
        self.confirmed += seen.status == "confirmed"
        if seen.observed_at is not None:
            self.latency[latency_class((seen.observed_at - seen.timestamp).total_seconds())] += 1

    def merge(self, other: Counts) -> None:
        self.judged += other.judged
        self.flagged += other.flagged
        self.expected += other.expected
        self.confirmed += other.confirmed
        self.latency.update(other.latency)


@dataclass(frozen=True, slots=True)
class Months:
    """Counts by calendar month (`2026-11`, UTC, of the points) and by the algorithm that judged."""

    months: Mapping[str, Mapping[str, Counts]] = field(default_factory=dict)

    @classmethod
    def of(cls, seen: Iterable[Seen], algorithms: Mapping[str | None, str]) -> Self:
        """`algorithms` by version, None standing for no model."""
        months: dict[str, dict[str, Counts]] = {}
        for one in seen:
            if one.judged:
                own = months.setdefault(month_of(one.timestamp), {})
                own.setdefault(algorithms.get(one.model, "unknown"), Counts()).add(one)
        return cls(months)

    def between(self, first: str, last: str) -> Months:
        """Those from month `first` to month `last`, both included."""
        return Months({month: own for month, own in self.months.items() if first <= month <= last})

    def each(self) -> Iterator[tuple[str, Counts]]:
        """Every month's counts with their algorithm."""
        return ((algorithm, counts) for own in self.months.values() for algorithm, counts in own.items())

    def __or__(self, later: Months) -> Months:
        return Months({**self.months, **later.months})

    def to_json(self) -> dict[str, Any]:
        return {month: {algorithm: [c.judged, c.flagged, c.expected, c.confirmed, *(n for pair in sorted(c.latency.items())
                                                                                    for n in pair)]
                        for algorithm, c in own.items()} for month, own in sorted(self.months.items())}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        return cls({month: {algorithm: _counts(*numbers) for algorithm, numbers in own.items()}
                    for month, own in told.items()})


def _counts(judged: int, flagged: int, expected: int, confirmed: int, *latency: int) -> Counts:
    return Counts(judged, flagged, expected, confirmed, Counter(dict(zip(latency[::2], latency[1::2], strict=True))))


def month_of(moment: datetime) -> str:
    """`2026-11`"""
    return f"{moment:%Y-%m}"


def latency_class(seconds: float) -> int:
    """The class of so many seconds; all below one are of the first."""
    return math.ceil(A_DOUBLING * math.log2(max(seconds, 1.0)))


def latency_seconds(classes: Counter[int], share: float) -> float | None:
    """The quantile of counted classes: the middle of the one it falls into, within a tenth; None where none is counted."""
    below, total = 0, classes.total()
    for one, count in sorted(classes.items()):
        below += count
        if below >= share * total:
            return round(2.0 ** ((one - 0.5) / A_DOUBLING), 1) if one else 1.0
    return None
