"""How far a Prophet trend may have moved by a future day: exact quantiles in place of its simulation.

Prophet lets future slope changes arrive as a Poisson process, as many per unit of scaled time (the training window is one)
as it placed in the training window, with Laplace sizes. At `ahead` past the end of training a Poisson(changes · ahead)
number of them has happened, and one that happened at a uniform time has moved the trend by size · ahead · L U, with
L ~ Laplace(1), U ~ Uniform(0, 1). In units of the observation noise the error of the forecast is therefore

    Z = Normal(0, 1) + ratio · Σ_{i ≤ N} L_i U_i,   N ~ Poisson(count),

with count = changes · ahead and ratio = size · ahead / noise.

The characteristic function of L U is ∫₀¹ du / (1 + (w u)²) = atan(w) / w, so that of Z is

    φ(w) = exp(-w²/2 + count (atan(ratio w) / (ratio w) - 1)),

real and even, and P(Z <= x) = 1/2 + 1/π ∫₀^∞ φ(w) sin(w x) / w dw (Gil-Pelaez 1951, Biometrika 38).
Source of the process: Taylor and Letham 2018, Forecasting at scale, The American Statistician 72, section 3.1.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri

from training.series import FloatArray

INTERVAL = 0.99  # the interval that is reproduced exactly; others follow as if its shape were normal
STEPS = 48
LAST_FREQUENCY = 8.6  # exp(-w²/2) is below double precision from here on


def quantile(probability: float, count: float, ratio: float) -> float:
    """The quantile of Z in units of the observation noise; `probability` in (0.5, 0.995], `count` and `ratio` >= 0.

    The integral is a midpoint sum, which is exact but for the distribution's periodic images: its step puts them beyond
    the search range and twelve mean changes more, so the probability is right to about 1e-5.
    """
    normal = float(ndtri(probability))
    if count == 0 or ratio == 0:
        return normal
    farthest = 4 * normal * np.sqrt(1 + 2 / 3 * count * ratio**2) + 1  # Chebyshev's inequality: no quantile lies beyond
    nodes = int(np.ceil(LAST_FREQUENCY * (farthest + 12 * ratio + 10) / np.pi))
    step = LAST_FREQUENCY / nodes
    frequency = (np.arange(nodes) + 0.5) * step
    scaled = ratio * frequency
    weight = np.exp(-(frequency**2) / 2 + count * (np.arctan(scaled) / scaled - 1)) / frequency * (step / np.pi)

    def excess(x: float) -> float:
        return 0.5 + float(weight @ np.sin(frequency * x)) - probability

    return float(brentq(excess, 0.0, farthest, xtol=1e-7))


@dataclass(frozen=True, slots=True)
class Widening:
    """The 99 % half-width in units of its normal quantile, so one standard deviation at the end of training, tabulated.

    `table` (STEPS, g) by the square root of the time ahead, up to `farthest`, and by `growths` (g,): the factor by which
    multiplicative terms stretch the trend, evenly spaced, or just 1 for an additive model.
    """

    table: FloatArray
    farthest: float
    growths: FloatArray

    @classmethod
    def tabulate(cls, noise: float, changes: int, size: float, farthest: float, growths: FloatArray) -> Widening:
        """`noise` > 0 and mean absolute `size` of a slope change in the same unit; `farthest` in scaled time."""
        probability = (1 + INTERVAL) / 2
        ahead = farthest * np.linspace(0.0, 1.0, STEPS) ** 2
        table = [[quantile(probability, changes * h, g * size * h / noise) for g in growths] for h in ahead]
        return cls(np.array(table) * (noise / ndtri(probability)), farthest, growths)

    def at(self, xp: Any, ahead: Any, growth: Any) -> Any:
        """(n,) scaled time past the end of training, (n,) growth factor -> (n,) spread. Clamped to the table."""
        root = xp.sqrt(xp.clip(ahead / self.farthest, 0.0, 1.0))
        by_growth = xp.sum(_linear(xp, root, STEPS)[:, None, :] * xp.asarray(self.table.T[None, :, :]), axis=2)
        if len(self.growths) == 1:
            return by_growth[:, 0]
        low, high = float(self.growths[0]), float(self.growths[-1])
        place = xp.clip((growth - low) / (high - low), 0.0, 1.0)
        return xp.sum(by_growth * _linear(xp, place, len(self.growths)), axis=1)


def _linear(xp: Any, place: Any, steps: int) -> Any:
    """(n,) in [0, 1] -> (n, steps) weights of linear interpolation on an even grid."""
    grid = xp.asarray(np.arange(steps, dtype=np.float64)[None, :])
    return xp.maximum(1.0 - xp.abs((steps - 1.0) * place[:, None] - grid), 0.0)
