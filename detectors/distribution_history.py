"""The batches that say what is usual in a table, and the detector fitted to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Self
from zoneinfo import ZoneInfo

import numpy as np

from detectors import conditional
from detectors.baselines import kept_from
from detectors.conditional import FEWEST_BATCHES, MOST_BATCHES, MOST_CELLS, Conditional
from detectors.distances import Gauge, measured
from detectors.metrics import BoolArray, IntArray
from detectors.profiles import Batch, batch_of
from detectors.rhythm import UNKNOWN_WEEKDAY
from shared.contract_distribution import Profile
from shared.history import LEFT_OUT

# So many flagged batches in a row are no accident: they are what the table is like now. Nor is half of so MANY.
ACCEPTED_AFTER = 3
MANY = 12

type Row = tuple[Batch, str]  # a batch and its status


@dataclass(frozen=True, slots=True)
class Known:
    """The history of one table before the judged batch, oldest first.

    `every` batch with a profile, for the schema; `usual` ones, without what was excluded or flagged, to learn from.
    """

    every: tuple[Batch, ...]
    usual: tuple[Batch, ...]
    points: int

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Self:
        usual = tuple(batch for (batch, _), learnt in zip(rows, learnable(rows), strict=True) if learnt)
        return cls(tuple(b for b, status in rows if status not in LEFT_OUT), usual, len(rows))


@dataclass(frozen=True, slots=True)
class Fitted:
    """The detector of one table, and what it was fitted to: it is good for exactly these batches."""

    batches: tuple[Batch, ...]
    zone: str
    gauge: Gauge
    conditional: Conditional

    def is_for(self, batches: Sequence[Batch], zone: str) -> bool:
        return (len(batches) == len(self.batches) and zone == self.zone
                and all(a is b for a, b in zip(batches, self.batches, strict=True)))

    @property
    def size_bytes(self) -> int:
        return self.conditional.size_bytes + self.gauge.size_bytes


def rows_before(
    stored: Sequence[Row], sent: Sequence[Profile], moment: datetime | None, zone: str
) -> tuple[list[Row], list[str]]:
    """The stored history with the request's merged in, up to and without `moment`, or all of it; and warnings.

    Of two batches at one time the request's is kept, or the later in its list. Profiles without a time are the last ones, in
    their order.
    """
    bodies = [batch_of(profile, ZoneInfo(zone)) for profile in sent]
    dated = {b.moment: (b, status) for b, status in stored if b.moment is not None}
    own = {b.moment: (b, "ok") for b in bodies if b.moment is not None}
    repeated = len(own) < sum(b.moment is not None for b in bodies)
    warnings = ["historical_profiles repeats a timestamp: its last profile was kept."] if repeated else []
    dated |= own
    before = sorted(m for m in dated if moment is None or m < moment)
    return [dated[m] for m in before] + [(b, "ok") for b in bodies if b.moment is None], warnings


def fit(batches: tuple[Batch, ...], zone: str) -> Fitted:
    """The detector fitted to the latest of these batches, FEWEST_BATCHES or more."""
    latest = learnt_from(batches)
    gauge, past = measured(latest, FEWEST_BATCHES)
    fitted = conditional.fit(past.raw, past.rows, past.columns, past.metrics, weekdays(latest, zone))
    return Fitted(batches, zone, gauge, fitted)


def learnt_from(batches: Sequence[Batch]) -> Sequence[Batch]:
    """The latest, fewer of wide tables, so that a fit takes about a second at most."""
    widest = max(len(b.layout.features) for b in batches)
    return batches[-max(min(MOST_BATCHES, MOST_CELLS // max(widest, 1)), FEWEST_BATCHES):]


def weekday_of(moment: datetime | None, zone: str) -> int:
    """Monday is 0; -1 where the time is not known."""
    return UNKNOWN_WEEKDAY if moment is None else moment.astimezone(ZoneInfo(zone) if zone != "UTC" else UTC).weekday()


def since(rows: Sequence[Row], baseline: datetime | None) -> Sequence[Row]:
    """Those of the new normal, once they are enough to learn from; until then all."""
    return kept_from(rows, baseline, lambda row: row[0].moment, lambda own: int(learnable(own).sum()) >= FEWEST_BATCHES)


def learnable(rows: Sequence[Row]) -> BoolArray:
    """(m,) which batches may be learnt from: flagged ones only where they are what the table is like now.

    That is where ACCEPTED_AFTER came in a row, or on one weekday week after week, or where half of MANY are flagged. Were
    none of them learnt, a change that shows on Mondays alone would be told every Monday from then on.
    """
    learnt = np.array([status not in LEFT_OUT for _, status in rows], np.bool_)
    own = np.flatnonzero(learnt)
    flagged = np.array([rows[place][1] == "anomaly" for place in own.tolist()], np.bool_)
    accepted = _in_a_row(flagged)
    if not accepted[flagged].all():
        moments = [rows[place][0].moment for place in own.tolist()]
        weekdays = np.array([-1 if moment is None else moment.weekday() for moment in moments])
        for weekday in range(7):
            accepted[weekdays == weekday] |= _in_a_row(flagged[weekdays == weekday])
        if len(own) >= MANY:
            window = np.ones(MANY, np.int64)
            accepted |= np.convolve(2 * np.convolve(flagged, window, "valid") >= MANY, window) > 0
    learnt[own] = accepted | ~flagged
    return learnt


def _in_a_row(flagged: BoolArray) -> BoolArray:
    """(k,) -> (k,) whether so many are flagged around each that it is no accident."""
    lengths = [(value, len(list(run))) for value, run in groupby(flagged.tolist())]
    return np.repeat([value and length >= ACCEPTED_AFTER for value, length in lengths], [length for _, length in lengths]
                     ).astype(np.bool_)


def weekdays(batches: Sequence[Batch], zone: str) -> IntArray:
    """(h,) weekday of every batch, -1 where its time is not known."""
    return np.array([weekday_of(b.moment, zone) for b in batches], np.int64)
