"""The batches that say what is usual in a table, and the detector fitted to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from zoneinfo import ZoneInfo

import numpy as np

from detectors import conditional
from detectors.conditional import FEWEST_BATCHES, MOST_BATCHES, MOST_CELLS, Conditional
from detectors.distances import Bins, Mix, bins_of, mixes_of
from detectors.metrics import FloatArray, IntArray
from detectors.profiles import Batch, Table, aligned, batch_of, table_of
from detectors.rhythm import UNKNOWN_WEEKDAY
from shared.contract_distribution import Profile

# So many flagged batches in a row are no accident: they are what the table is like now.
ACCEPTED_AFTER = 3


@dataclass(frozen=True, slots=True)
class Known:
    """The history of one table before the judged batch, oldest first.

    `every` batch with a profile, for the schema; `usual` ones, without what was excluded or flagged, to learn from.
    """

    every: tuple[Batch, ...]
    usual: tuple[Batch, ...]
    points: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fitted:
    """The detector of one table, and what it was fitted to: it is good for exactly these batches."""

    batches: tuple[Batch, ...]
    zone: str
    features: tuple[tuple[str, str], ...]
    measured: int
    conditional: Conditional
    mixes: dict[tuple[str, str], Mix]
    bins: list[Bins]

    def metrics_of(self, batch: Batch) -> tuple[FloatArray, dict[str, tuple[float, float]]]:
        """(p,) the batch's metrics by `features`, and (psi, js) to the usual by column."""
        raw = aligned(batch, self.features)
        distance: dict[str, tuple[float, float]] = {}
        for place, (column, metric) in enumerate(self.features):
            if metric.endswith("_shift") and (shares := batch.shares.get((column, metric.removesuffix("_shift")))):
                psi, js = self.mixes[column, metric.removesuffix("_shift")].distance(shares)
                raw[place] = js
                if column not in distance or metric == "value_shift":
                    distance[column] = psi, js
        for bins in self.bins:
            distance |= bins.distance(raw)
        return raw, distance

    def is_for(self, batches: Sequence[Batch], zone: str) -> bool:
        return (len(batches) == len(self.batches) and zone == self.zone
                and all(a is b for a, b in zip(batches, self.batches, strict=True)))

    @property
    def size_bytes(self) -> int:
        return self.conditional.size_bytes + 200 * len(self.features) + 4096


def known(stored: Sequence[tuple[Batch, str]], sent: Sequence[Profile], moment: datetime | None, zone: str) -> Known:
    """The stored history with the request's merged in, up to and without `moment`.

    Of two batches at one time the request's is kept, or the later in its list. Profiles without a time are the last ones, in
    their order.
    """
    bodies = [batch_of(profile, ZoneInfo(zone)) for profile in sent]
    dated = {b.moment: (b, status) for b, status in stored if b.moment is not None}
    own = {b.moment: (b, "ok") for b in bodies if b.moment is not None}
    warnings = []
    if len(own) < sum(b.moment is not None for b in bodies):
        warnings.append("historical_profiles repeats a timestamp: its last profile was kept.")
    dated |= own
    before = sorted(m for m in dated if moment is None or m < moment)
    rows = [dated[m] for m in before] + [(b, "ok") for b in bodies if b.moment is None]
    every = tuple(b for b, status in rows if status != "excluded")
    return Known(every, _usual(rows), len(rows), tuple(warnings))


def fit(batches: tuple[Batch, ...], zone: str) -> Fitted | None:
    """The detector fitted to the latest of these batches. None while there are too few."""
    if len(batches) < FEWEST_BATCHES:
        return None
    widest = max(len(b.layout.features) for b in batches)
    latest = batches[-max(min(MOST_BATCHES, MOST_CELLS // max(widest, 1)), FEWEST_BATCHES):]
    table = table_of(latest, FEWEST_BATCHES)
    mixes, shifts = mixes_of(latest, FEWEST_BATCHES)
    merged = [*table.features, *shifts.features]
    order = sorted(range(len(merged)), key=merged.__getitem__)
    features = tuple(merged[i] for i in order)
    if not features:
        return None
    raw = np.concatenate([table.raw, shifts.raw], axis=1)[:, order]
    whole = Table(features, raw, table.rows)
    fitted = conditional.fit(raw, table.rows, whole.columns, whole.metrics, weekdays(latest, zone))
    return Fitted(batches, zone, features, len(latest), fitted, mixes, bins_of(whole))


def weekday_of(moment: datetime | None, zone: str) -> int:
    """Monday is 0; -1 where the time is not known."""
    return UNKNOWN_WEEKDAY if moment is None else moment.astimezone(ZoneInfo(zone) if zone != "UTC" else UTC).weekday()


def _usual(rows: Sequence[tuple[Batch, str]]) -> tuple[Batch, ...]:
    """Batches to learn from: flagged ones only where several came in a row."""
    kept: list[Batch] = []
    for flagged, run in groupby(((b, s) for b, s in rows if s != "excluded"), key=lambda row: row[1] == "anomaly"):
        batches = [b for b, _ in run]
        if not flagged or len(batches) >= ACCEPTED_AFTER:
            kept += batches
    return tuple(kept)


def weekdays(batches: Sequence[Batch], zone: str) -> IntArray:
    """(h,) weekday of every batch, -1 where its time is not known."""
    return np.array([weekday_of(b.moment, zone) for b in batches], np.int64)
