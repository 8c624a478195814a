"""Is so large a part of a batch unusual? How many values of a kind a batch has, against how many its column usually has.

What is usual is a share learnt from the history, as uncertain as that is short, and as unsteady as it was from batch to
batch: a beta-binomial count. The evidence is a likelihood ratio, the batch's own share against the usual ones; half its
inverse stands for the tail probability, and one minus that is the score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detectors.decision import PRIOR, SEVERITIES, SEVERITY_SCORES

UNSEEN = 0.5  # values of a kind that is yet to be seen, in any history
NEVER = 0.5  # the prior chance that what a strict column never showed never happens
FEWEST_BATCHES = 5  # without which nothing is known of how batches differ ...
CONCENTRATION = 50.0  # ... and the mix of formats is taken for as steady as this many values would show


@dataclass(frozen=True, slots=True)
class Usual:
    """`count` of `rows` values in the history; `concentration` of the share between batches, in values; inf is steady.

    `never`: where `count` is 0 it may well be that this never happens.
    """

    count: float
    rows: float
    concentration: float = math.inf
    never: bool = False

    @property
    def share(self) -> float:
        return (self.count + UNSEEN) / (self.rows + 1.0)

    def score(self, k: int, n: int) -> float:
        """How unusual are k of n values? 0 at the usual share, close to 1 far above or below it."""
        if not n or k == round(n * self.share):
            return 0.0
        a, b = self._beta()
        null = _beta_binomial(k, n, a, b)
        if self.never and not self.count and k:
            # The longer the history without one, the surer that there is none.
            other = math.exp(_beta_binomial(0, round(self.rows), UNSEEN, UNSEEN))
            null += math.log((1 - NEVER) * other / (NEVER + (1 - NEVER) * other))
        return 1.0 - min(0.5 * math.exp(null - _binomial(k, n)), 1.0)

    def most(self, n: int, threshold: float) -> int:
        """The largest count of n values whose score is below the threshold: above it is an anomaly."""
        low, high = math.floor(n * self.share), n
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.score(middle, n) < threshold else (low, middle - 1)
        return low

    def least(self, n: int, threshold: float) -> int:
        """The smallest such count."""
        low, high = 0, math.floor(n * self.share)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.score(middle, n) < threshold else (middle + 1, high)
        return high

    def _beta(self) -> tuple[float, float]:
        share = self.share
        weight = 1.0 / (1.0 / self.concentration + 1.0 / (self.rows + 1.0))
        return share * weight, (1.0 - share) * weight


def concentration(counts: Sequence[int], sizes: Sequence[int]) -> float:
    """Of a share that was counts[i] of sizes[i] values in batch i, by moments; inf where batches differ no more than chance.

    None is known from fewer than FEWEST_BATCHES: inf.
    """
    k, n = np.asarray(counts, np.float64), np.asarray(sizes, np.float64)
    share = (k.sum() + UNSEEN) / (n.sum() + 1.0)
    if len(k) < FEWEST_BATCHES or n.max() < 2:
        return math.inf
    excess = float(((k - n * share) ** 2 / (n * share * (1.0 - share))).sum()) / (len(k) - 1)
    # A few batches say little: the excess over chance is drawn towards none.
    excess = 1.0 + (excess - 1.0) * len(k) / (len(k) + FEWEST_BATCHES)
    return math.inf if excess <= 1.0 else max((float(n.mean()) - 1.0) / (excess - 1.0) - 1.0, 1.0)


def severity_of(score: float, anomaly: bool) -> str:
    return SEVERITIES[max(sum(score >= s for s in SEVERITY_SCORES), 1)] if anomaly else "none"


def confidence_of(score: float, anomaly: bool) -> float:
    """The probability that the verdict is right: 1 / (4 p) is the Bayes factor, one incident a month the prior."""
    factor = 1.0 / (4.0 * max(1.0 - score, 1e-9))
    posterior = PRIOR * factor / (1.0 - PRIOR + PRIOR * factor)
    return round(posterior if anomaly else 1.0 - posterior, 4)


def _binomial(k: int, n: int) -> float:
    """Log-likelihood of k of n at its own share."""
    inside = 0.0 if k in (0, n) else k * math.log(k / n) + (n - k) * math.log1p(-k / n)
    return _choices(k, n) + inside


def _beta_binomial(k: int, n: int, a: float, b: float) -> float:
    """Log-probability of k of n where the share has a beta distribution."""
    log = math.lgamma
    return _choices(k, n) + log(k + a) + log(n - k + b) - log(n + a + b) + log(a + b) - log(a) - log(b)


def _choices(k: int, n: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
