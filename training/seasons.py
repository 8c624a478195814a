"""The seasons of a table's counts, and gaps filled from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from training.series import FloatArray, NotEnoughHistory, TrainingSeries

WEEK = {"daily": 7, "hourly": 168}
DAY = {"daily": 1, "hourly": 24}
FEWEST_WEEKS = 4


def known_part(series: TrainingSeries) -> TrainingSeries:
    """The series from its first to its last known value.

    Raises NotEnoughHistory below four weeks of usable points, ValueError for a granularity without a weekly season.
    """
    if series.granularity not in WEEK:
        raise ValueError(f"{series.granularity} tables have no weekly season; daily and hourly ones do")
    needed = FEWEST_WEEKS * WEEK[series.granularity]
    if series.usable < needed:
        raise NotEnoughHistory(needed, series.usable)
    known = np.flatnonzero(np.isfinite(series.values))
    inside = slice(known[0], known[-1] + 1)
    return replace(
        series, start=series.start + int(known[0]), values=series.values[inside], holiday=series.holiday[inside]
    )  # fmt: skip


def filled(values: FloatArray, period: int) -> FloatArray:
    """(m,) -> (m,) with each NaN interpolated between the known values of the same phase, the nearest one at the ends.

    A phase that is never known is interpolated between its neighbours. At least one value must be known.
    """
    result = values.copy()
    for phase in range(min(period, len(values))):
        result[phase::period] = _interpolated(values[phase::period])
    return _interpolated(result)


def _interpolated(values: FloatArray) -> FloatArray:
    known = np.flatnonzero(np.isfinite(values))
    return np.interp(np.arange(len(values)), known, values[known]) if len(known) else values
