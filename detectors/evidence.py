"""How much a residual says, as if it were one draw from a standard normal distribution.

The variance of a metric's residuals is estimated with a prior: sampling theory says what it should be, and counts as much
as PRIOR_BATCHES batches (moderated t, Smyth 2004, https://doi.org/10.2202/1544-6115.1027). A metric that never varied is so
not taken for a constant after eight batches, and it is after hundreds; otherwise short histories raise many false alarms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from detectors.metrics import FloatArray

PRIOR_BATCHES = 4.0
RECENT = 4
# Mean |residual| of the last RECENT batches to a standard deviation: sqrt(pi / 2) for a normal distribution.
RECENT_FACTOR = math.sqrt(math.pi / 2)


def floor_of(noise: FloatArray, batches: int) -> FloatArray:
    """(p,) sampling noise -> the smallest standard deviation to believe in after so many batches."""
    return noise * math.sqrt(PRIOR_BATCHES / (PRIOR_BATCHES + batches))


def largest_usual(batches: int) -> float:
    """About the largest of so many normal residuals, in standard deviations: 2.0 of 8, 2.5 of 30, 3.2 of 200."""
    return max(2.0, 0.97 * math.sqrt(2 * math.log(max(batches, 2))))


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large p residuals usually are: `size` in their unit, and the degrees of `freedom` with which that is known."""

    size: FloatArray
    freedom: FloatArray

    def evidence(self, xp: Any, residual: Any) -> Any:
        """(n, p) residuals -> (n, p) evidence >= 0 on the scale of a standard normal, 0 where not measured.

        A t quantile becomes a normal one by Wallace (1959, https://doi.org/10.1214/aoms/1177706078).
        """
        v = xp.asarray(self.freedom)
        t = xp.where(xp.isnan(residual), 0.0, residual) / xp.asarray(self.size)
        return xp.sqrt(v * xp.log1p(t * t / v)) * xp.asarray(_wallace(self.freedom))

    def reach(self, xp: Any, evidence: Any) -> Any:
        """(n, 1) evidence -> (n, p) the residual that has it."""
        v = xp.asarray(self.freedom)
        root = evidence / xp.asarray(_wallace(self.freedom))
        return xp.asarray(self.size) * xp.sqrt(v * xp.expm1(xp.clip(root * root / v, 0.0, 600.0)))


def sizes_of(past: FloatArray, floor: FloatArray) -> Sizes:
    """(h, p) residuals of the past, (p,) smallest believable size -> their sizes.

    Besides the moderated standard deviation a size is at least what the largest residual of the past asks for, so that heavy
    tails get a wide scale by themselves, and what the last few batches show, so that unrest is not reported every day.
    """
    absolute = np.abs(np.nan_to_num(past))
    counts = np.isfinite(past).sum(axis=0)
    size = np.sqrt((absolute**2).sum(axis=0) / (PRIOR_BATCHES + counts) + floor**2)
    size = np.maximum(size, absolute.max(axis=0) / largest_usual(len(past)))
    size = np.maximum(size, RECENT_FACTOR * absolute[-RECENT:].mean(axis=0))
    return Sizes(size, PRIOR_BATCHES + counts - 1.0)


def past_evidence(past: FloatArray, floor: FloatArray) -> FloatArray:
    """(h, p) residuals -> (h,) the largest evidence in each past batch, each measured by the other batches alone."""
    absolute = np.abs(np.nan_to_num(past))
    h, counts = len(past), np.isfinite(past).sum(axis=0)
    others = (absolute**2).sum(axis=0) - absolute**2
    top = np.sort(absolute, axis=0)[-2:]
    largest = np.where(absolute == top[1], top[0], top[1])
    size = np.sqrt(others / (PRIOR_BATCHES + counts - 1) + floor**2)
    size = np.maximum(size, largest / largest_usual(h - 1))
    sums = np.cumsum(np.vstack([np.zeros((1, absolute.shape[1])), absolute]), axis=0)
    before = (sums[RECENT:-1] - sums[: -RECENT - 1]) / RECENT
    size[RECENT:] = np.maximum(size[RECENT:], RECENT_FACTOR * before)
    evidence: FloatArray = Sizes(size, PRIOR_BATCHES + counts - 2.0).evidence(np, past).max(axis=1)
    return evidence


def _wallace(freedom: FloatArray) -> FloatArray:
    return (8 * freedom + 1) / (8 * freedom + 3)
