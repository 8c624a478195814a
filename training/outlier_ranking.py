"""Ranks the rows of one table of numbers by how odd they are, without labels: the highest of two ranks.

A row can be odd in two ways. Alone in a column or in a few: random cuts between the smallest and largest values of random
columns soon separate it from all others, which the isolation forest counts (Liu, Ting and Zhou 2008,
doi:10.1109/ICDM.2008.17). The forest looks at columns one by one, so it needs no scaling and ignores columns without
information, but a row between the clusters, ordinary in each column, takes as many cuts as any. Or alone among its nearest
rows: the mean distance to them is large (Angiulli and Pizzuti 2002, doi:10.1007/3-540-45681-3_2). Distance sees combinations
of columns, but adds the noise of all of them, and many useless columns drown a few odd ones.

Most odd rows are odd in one way and ordinary in the other. The mean of two ranks, .99 and .50, is below that of many a row
that is a little unusual in both, and the highest is not. What it costs is bounded: among normal rows a share q is beyond the
1 - q rank of one member, so at most 2 q are beyond that of either. The gain needs members that err differently, two and not
many: with each further one, the highest rank of a normal row grows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors

type FloatArray = NDArray[np.float64]

NEIGHBOURS = 20  # enough that a small cluster of odd rows does not hide itself
TREES = 600  # the ranks of rows that differ little settle with so many
FARTHEST = 20.0  # spreads: beyond them a column says no more, or one wild value would be the distance
NORMAL_IQR = 1.349  # standard deviations of a normal distribution between its quartiles
SPREAD_FLOOR = 0.2  # of the standard deviation: a column of mostly one value has no quartiles apart


def outlier_ranks(table: FloatArray) -> FloatArray:
    """(n, f) table -> (n,) score in (0, 1), highest oddest: the higher of a row's two ranks.

    A value that is NaN or infinite counts as its column's median, as no evidence. Columns of one value change nothing, equal
    rows have equal scores, and the order of the rows changes nothing; that of the columns, or their units, changes the
    random cuts and with them the ranks by about a hundredth. Where nothing varies every row has 0.5. The time grows with
    n log n for few columns and with n^2 for many.
    """
    rows = scaled(table)
    if not rows.size or len(rows) < 3:
        return np.full(len(rows), 0.5)
    return np.maximum(ranks(isolation(rows)), ranks(neighbour_distance(rows)))


def scaled(table: FloatArray) -> FloatArray:
    """(n, f) -> (n, g) columns in robust spreads from their median, cut off at FARTHEST; columns of one value are left out.

    The spread is that of the quartiles, which odd rows do not widen. A spread by all values would make a column of wild
    values small beside the others: on the 14 tables of the back-test the distance ranks better by .015 without it.
    """
    known = np.where(np.isfinite(table), table, np.nan).astype(np.float64)
    known = known[:, np.isfinite(known).any(axis=0)]
    if not known.size:
        return known
    known = known / np.maximum(np.nanmax(np.abs(known), axis=0), np.finfo(float).tiny)
    away = np.nan_to_num(known - np.nanmedian(known, axis=0))
    low, high = np.nanquantile(known, [0.25, 0.75], axis=0)
    spread = np.maximum((high - low) / NORMAL_IQR, SPREAD_FLOOR * np.nanstd(known, axis=0))
    varies = np.ptp(away, axis=0) > 0
    rows: FloatArray = np.clip(away[:, varies] / spread[varies], -FARTHEST, FARTHEST)
    return rows


def isolation(rows: FloatArray) -> FloatArray:
    """(n, g) -> (n,) isolation score, 0 to 1. The forest draws from sorted rows: the order of the table does not matter."""
    forest = IsolationForest(n_estimators=TREES, random_state=0).fit(rows[np.lexsort(rows.T)])
    score: FloatArray = -forest.score_samples(rows)
    return score


def neighbour_distance(rows: FloatArray) -> FloatArray:
    """(n, g) -> (n,) mean Euclidean distance to the nearest NEIGHBOURS other rows, or to all where there are fewer."""
    # A tree subtracts before it squares: equal rows are 0 apart, which the product of matrices rounds to something.
    nearest = NearestNeighbors(n_neighbors=min(NEIGHBOURS + 1, len(rows)), algorithm="kd_tree").fit(rows)
    distances: FloatArray = nearest.kneighbors(rows)[0][:, 1:]  # the nearest is the row itself, or its equal
    return distances.mean(axis=1)


def ranks(scores: FloatArray) -> FloatArray:
    """(n,) -> (n,) share of the scores below each, those equal to it counted half: 0 to 1, 0.5 on average."""
    ordered = np.sort(scores)
    below, not_above = np.searchsorted(ordered, scores, "left"), np.searchsorted(ordered, scores, "right")
    share: FloatArray = (below + not_above) / (2.0 * len(scores))
    return share
