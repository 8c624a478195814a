"""A new normal: what history is worth from before the moment since when a table is at another level.

    rebased        counts: moved to the new level, so that season and spread survive; rebased_metrics for other values
    rebased_lags   minutes after due: moved by the difference
    kept_from      batches and shapes: dropped, once enough is known since

Training and serving call the same functions, so that a model is asked about what it was taught.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from detectors import calendar
from detectors.context import Context, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class _Span:
    """By granularity: buckets of a season, buckets before the baseline that tell it, buckets since that tell the level."""

    season: int
    before: int
    since: int


SPANS = {"hourly": _Span(168, 672, 168), "daily": _Span(7, 56, 28), "weekly": _Span(1, 26, 8), "monthly": _Span(1, 12, 6)}
# The level is found anew after so many points, half as many again each time: a table's filter is then replayed a few times
# and not with every bucket.
STEPS = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 28, 48, 96, 168])
LAGS_BEFORE, LAGS_SINCE = 45, 28  # arrivals that tell the usual lag before and since


def bucket_of(baseline: datetime, zone: str, granularity: str) -> int:
    """The first bucket of the new normal: the one that the moment belongs to."""
    return int(calendar.buckets(np.array([int(baseline.timestamp())], np.int64), zone, granularity)[0])


def rebased(known: Context, first: int, holiday: IntArray, granularity: str) -> tuple[Context, int]:
    """The history with everything before bucket `first` moved to the level since, and how many points that rests on.

    holiday (>= m,) the classes of its buckets. On the scale of log(1 + rows) the move is the median, over the first points
    since, of what each has over the median of its place in the season before: a ratio that single faults do not bend, known
    after one point and better with more. Empty loads stay empty and tell no level. With 0 points nothing is moved.
    """
    at = min(max(first - known.start, 0), len(known.values))
    levels = np.log1p(known.normal)
    span = SPANS[granularity]
    days = _ordinary(np.where(known.values[at:] > 0, levels[at:], np.nan), holiday[at:])
    if not np.isfinite(days).any():  # all of them flagged, before anybody said that they are normal
        days = _ordinary(np.where(known.values[at:] > 0, np.log1p(known.learnable[at:]), np.nan), holiday[at:])
    move, points = _move(_ordinary(levels[:at], holiday[:at]), days, known.start, span)
    if not move:
        return known, points
    earlier = known.values[:at]
    moved = np.where(earlier > 0, np.expm1(np.maximum(np.log1p(earlier) + move, 0.0)), earlier)
    return replace(known, values=np.concatenate([moved, known.values[at:]])), points


def rebased_metrics(values: FloatArray, start: int, first: int, granularity: str) -> FloatArray:
    """(n, m) metrics by bucket from `start` on, NaN where unknown -> (n, m), what is before bucket `first` moved likewise.

    Each metric by a ratio where all that is known of it is above zero, else by a difference.
    """
    at, columns = min(max(first - start, 0), len(values)), []
    for metric in values.T:
        is_ratio = bool((metric[np.isfinite(metric)] > 0).all())
        levels = np.log(metric) if is_ratio else metric
        move, _ = _move(levels[:at], levels[at:], start, SPANS[granularity])
        moved = (metric[:at] * np.exp(move) if is_ratio else metric[:at] + move) if move else metric[:at]
        columns.append(np.concatenate([moved, metric[at:]]))
    return np.stack(columns, axis=1)


def _move(before: FloatArray, since: FloatArray, start: int, span: _Span) -> tuple[float, int]:
    """The median, over the first known levels since, of what each has over the median of its place in the season before, and
    of how many that is. 0.0 where either side knows none. `before` begins with bucket `start`, `since` follows it."""
    told = np.flatnonzero(np.isfinite(since))
    told = told[: min(STEPS[np.searchsorted(STEPS, len(told), "right") - 1], span.since)] if len(told) else told
    begin = max(len(before) - span.before, 0)
    earlier = before[begin:]
    if not len(told) or not np.isfinite(earlier).any():
        return 0.0, len(told)
    places, usual = (start + begin + np.arange(len(earlier))) % span.season, np.nanmedian(earlier)
    season = [_median(earlier[places == place], usual) for place in range(span.season)]
    expected = np.array(season)[(start + len(before) + told) % span.season]
    return float(np.median(since[told] - expected)), len(told)


def rebased_lags(lags: FloatArray, since: int) -> FloatArray:
    """(m,) minutes after due, oldest first, of which those from place `since` on belong to the new normal -> (m,), the
    earlier ones moved by the difference of the medians. The same where either side has none."""
    before, after = lags[max(since - LAGS_BEFORE, 0) : since], lags[since : since + LAGS_SINCE]
    before, after = before[np.isfinite(before)], after[np.isfinite(after)]
    if not len(before) or not len(after):
        return lags
    return np.concatenate([lags[:since] + (np.median(after) - np.median(before)), lags[since:]])


def kept_from[T](rows: Sequence[T], baseline: datetime | None, moment: Callable[[T], datetime | None],
                 enough: Callable[[Sequence[T]], bool]) -> Sequence[T]:
    """The rows of the new normal where they are `enough` to judge by, else all. Those without a moment are earlier ones."""
    if baseline is None:
        return rows
    since = [row for row in rows if (at := moment(row)) is not None and at >= baseline]
    return since if len(since) < len(rows) and enough(since) else rows


def has_learnt(card: Mapping[str, Any], baseline: datetime | None) -> bool:
    """Whether a model was trained with this baseline; without one there is nothing to learn."""
    return baseline is None or card.get("baseline") == stamp(baseline)


def taught(card: Mapping[str, Any], baseline: datetime | None, moment: datetime | None) -> bool:
    """The same for what is of `moment` (of today where that is not told): before the baseline there is nothing to know."""
    is_before = baseline is not None and moment is not None and moment.tzinfo is not None and moment < baseline
    return is_before or has_learnt(card, baseline)


def stamp(baseline: datetime | None) -> str | None:
    """As a model's card has it."""
    return None if baseline is None else baseline.astimezone(UTC).isoformat().replace("+00:00", "Z")


def untaught(baseline: datetime, what: str) -> str:
    """The warning where a model is not asked."""
    return (f"A new normal began at {stamp(baseline)}: the model was trained without it, and {what} answers until it is "
            "trained again.")


def _ordinary(levels: FloatArray, holiday: IntArray) -> FloatArray:
    """Without holidays, where that leaves anything."""
    days = np.where(holiday[: len(levels)] == 0, levels, np.nan)
    return days if np.isfinite(days).any() else levels


def _median(levels: FloatArray, otherwise: float) -> float:
    known = levels[np.isfinite(levels)]
    return float(np.median(known)) if len(known) else otherwise
