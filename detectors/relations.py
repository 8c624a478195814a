"""What a metric should be, given the other columns of the same batch.

Each column's block of metrics is predicted by ridge regression from all other columns; the block minus its prediction is the
residual. All blocks come from one inverse, Omega = (A'A + lambda I)^-1: the residual of block c is Omega_cc^-1 (Omega a)_c,
and that of a past batch without its own help follows from Sherman and Morrison's formula, so nothing is fitted twice. Omega
itself is never formed: with A = U S V' everything is a product with V, whose width is the smaller of batches and metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detectors.metrics import FloatArray, IntArray

# In units of the mean eigenvalue, over as many as there can be: strong, medium and weak coupling between columns.
PENALTIES = (0.1, 0.5, 3.0)
CLIP = 6.0  # standardised metrics teach, and predict others, no more than this
# A relation has to cut the error a little before it replaces the metric's own mean.
GAIN = 0.98
# The spread is at least this share of the plain standard deviation, so that a rare but known second mode is not far out.
KEPT_SPREAD = 0.5
WINSOR = 6.0  # in median absolute deviations, when centre and spread are estimated
LEAST_FREEDOM = 0.02  # of 1 - leverage: a batch that explains itself alone says nothing about others


@dataclass(frozen=True, slots=True)
class Relations:
    """p metrics in c columns and what ties them; r is the rank of the history, b the size of the largest column.

    `centre`, `scale`, `mean` (p,): a metric is standardised, clipped, and `mean` is the mean of that over the history.
    `directions` (p, r) are V; `own` (c, b, b) and `pull` (r, p) make the residual own @ block - V'a @ pull; `blocks` (c, b)
    places of a column's metrics, p where there is none; `places` (p,) a metric's place among the flattened blocks.
    """

    centre: FloatArray
    scale: FloatArray
    mean: FloatArray
    directions: FloatArray
    own: FloatArray
    pull: FloatArray
    blocks: IntArray
    places: IntArray

    def standardise(self, xp: Any, steady: Any) -> Any:
        """(n, p) metrics on the even scale without their rhythm -> (n, p) z, NaN where not measured."""
        return (steady - xp.asarray(self.centre)) / xp.asarray(self.scale)

    def deviations(self, xp: Any, z: Any) -> Any:
        """(n, p) z -> (n, p) distance from the mean of the history, limited; 0 where not measured."""
        mean = xp.asarray(self.mean)
        return xp.where(xp.isnan(z), 0.0, xp.clip(z, -CLIP, CLIP) - mean)

    def residual(self, xp: Any, z: Any) -> Any:
        """(n, p) z -> (n, p) what the other columns do not explain of it; NaN where not measured."""
        a = self.deviations(xp, z)
        c, b = self.blocks.shape
        padded = xp.concat([a, xp.zeros_like(a[:, :1])], axis=1)
        block = xp.reshape(xp.take(padded, xp.asarray(self.blocks.ravel()), axis=1), (-1, c, b, 1))
        own = xp.reshape(xp.matmul(xp.asarray(self.own), block), (-1, c * b))
        pulled = (a @ xp.asarray(self.directions)) @ xp.asarray(self.pull)
        residual = xp.take(own, xp.asarray(self.places), axis=1) - pulled
        return residual + (z - xp.clip(z, -CLIP, CLIP))

    @property
    def size_bytes(self) -> int:
        return sum(part.nbytes for part in (self.directions, self.own, self.pull)) + 64 * len(self.mean)


def relate(even: FloatArray, floor: FloatArray, columns: Sequence[str]) -> tuple[Relations, FloatArray]:
    """(h, p) history on the even scale, (p,) smallest believable spread, (p,) sorted column of each metric.

    Returns the relations and the (h, p) residuals of the past batches, each judged without its own help, NaN where a metric
    was not measured. For every metric the penalty is taken, or no relation at all, that has the smallest such error.
    """
    h = len(even)
    known = np.isfinite(even)
    centre, scale = _spread(even, floor)
    z = np.where(known, (even - centre) / scale, np.nan)
    w = np.where(known, np.clip(z, -CLIP, CLIP), np.nan)
    counts = known.sum(axis=0)
    mean = np.nansum(w, axis=0) / counts
    a = np.where(known, w - mean, 0.0)
    past = (z - mean) * counts / np.maximum(counts - 1, 1)
    error = GAIN * loo_error(past)
    blocks, places = _blocks(columns)
    left, weights, directions = _decompose(a)
    gap = np.append(a, np.zeros((h, 1)), axis=1)
    v = np.append(directions, np.zeros((1, directions.shape[1])), axis=0)[blocks]
    unit = weights.sum() / min(a.shape) or 1.0
    own = np.broadcast_to(np.eye(blocks.shape[1]), (*blocks.shape, blocks.shape[1])).copy()
    pull = np.zeros_like(directions)
    for penalty in PENALTIES:
        shrink = weights / (weights + penalty * unit)
        inverse = np.linalg.inv(np.eye(blocks.shape[1]) - (v * shrink) @ v.swapaxes(1, 2))  # Omega_cc^-1 / lambda
        drawn = np.append((a @ directions * shrink) @ directions.T, np.zeros((h, 1)), axis=1)
        u = (gap - drawn)[:, blocks]  # lambda (Omega a) by column, of every past batch
        freedom = np.maximum(1 - (left**2 * shrink).sum(axis=1) - 1 / h, LEAST_FREEDOM)
        block = np.matmul(inverse, u[..., None])[..., 0]
        leverage = (u * block).sum(axis=2) / (penalty * unit * freedom[:, None])
        loo = (block / (freedom[:, None] * (1 + leverage))[..., None]).reshape(h, -1)[:, places]
        loo = np.where(known, loo + (z - w), np.nan)
        better = loo_error(loo) < error
        error = np.where(better, loo_error(loo), error)
        past[:, better] = loo[:, better]
        chosen = np.append(better, False)[blocks]
        own[chosen] = inverse[chosen]
        pulls = np.matmul(inverse, v * shrink).reshape(-1, len(weights))[places]
        pull[better] = pulls[better]
    return Relations(centre, scale, mean, directions, own, np.ascontiguousarray(pull.T), blocks, places), past


def loo_error(past: FloatArray) -> FloatArray:
    """(h, p) residuals -> (p,) their typical size: half by the median, half by the clipped root mean square."""
    root = np.sqrt(np.nanmean(np.clip(past, -5, 5) ** 2, axis=0))
    error: FloatArray = np.nanmedian(np.abs(past), axis=0) + 0.5 * root
    return error


def _spread(even: FloatArray, floor: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Winsorised mean and spread of every metric."""
    middle = np.nanmedian(even, axis=0)
    wide = WINSOR * np.maximum(1.4826 * np.nanmedian(np.abs(even - middle), axis=0), floor)
    centre = np.nanmean(np.clip(even, middle - wide, middle + wide), axis=0)
    off = even - centre
    wide = WINSOR * np.maximum(1.4826 * np.nanmedian(np.abs(off), axis=0), floor)
    inner = np.sqrt(np.nanmean(np.clip(off, -wide, wide) ** 2, axis=0))
    plain = np.sqrt(np.nanmean(off**2, axis=0))
    return centre, np.sqrt(np.maximum(inner, KEPT_SPREAD * plain) ** 2 + floor**2)


def _blocks(columns: Sequence[str]) -> tuple[IntArray, IntArray]:
    _, column = np.unique(np.array(columns, dtype=object), return_inverse=True)
    sizes = np.bincount(column)
    inside = np.arange(len(column)) - (np.cumsum(sizes) - sizes)[column]
    blocks = np.full((len(sizes), sizes.max()), len(column), np.int64)
    blocks[column, inside] = np.arange(len(column))
    return blocks, column * sizes.max() + inside


def _decompose(a: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(h, p) -> U (h, r), squared singular values (r,), V (p, r), from the eigenvectors of the smaller product."""
    h, p = a.shape
    values, vectors = np.linalg.eigh(a @ a.T if h < p else a.T @ a)
    kept = values > 1e-10 * max(values[-1], 1e-30)
    kept[-1] = True  # of a history that never varied a direction of no weight
    values, vectors = values[kept], vectors[:, kept]
    other = (a.T @ vectors if h < p else a @ vectors) / np.sqrt(np.maximum(values, 1e-30))
    return (vectors, values, other) if h < p else (other, values, vectors)
