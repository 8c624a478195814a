"""Which arrival belongs to which due time, and how many minutes after it came."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detectors.schedule import Dues

type FloatArray = NDArray[np.float64]
type IntArray = NDArray[np.int64]

# What comes in the last quarter before a due time is early for it; before that, it is late for the one before.
EARLY_SHARE = 4


def match(dues: Dues, arrivals: IntArray) -> FloatArray:
    """(m,) dues and (q,) UTC seconds of arrivals, increasing -> (m,) minutes after due, NaN where nothing came.

    Of several arrivals around one due time the one nearest to the usual minute counts; the others are reruns, or, where the
    load before is still missing, that load. Twice over: the usual minute is known after the first pass.
    """
    lags = _match(dues, arrivals, 0.0)
    known = lags[np.isfinite(lags)]
    return _match(dues, arrivals, float(np.median(known))) if len(known) else lags


def begins(dues: Dues, usual: float = 0.0) -> IntArray:
    """(m,) UTC seconds from which on an arrival belongs to each due time. `usual` is the usual lag in minutes."""
    gap = np.diff(dues.at)
    before = np.concatenate([gap[:1] if len(gap) else [86_400], gap])
    started: IntArray = dues.at + round(60 * usual) - before // EARLY_SHARE
    return started


def _match(dues: Dues, arrivals: IntArray, usual: float) -> FloatArray:
    lags = np.full(len(dues.at), np.nan)
    zone = np.searchsorted(begins(dues, usual), arrivals, side="right") - 1
    arrivals, zone = arrivals[zone >= 0], zone[zone >= 0]
    late = _minutes(arrivals, dues, zone, usual)
    order = np.lexsort((np.abs(late - usual), zone))
    own, first = np.unique(zone[order], return_index=True)
    chosen = order[first]
    lags[own] = late[chosen]
    # An arrival before the chosen one is the load before, if that one is missing.
    spare = chosen[(chosen > 0) & (own > 0) & np.isnan(lags[own - 1])] - 1
    spare = spare[zone[spare] == zone[spare + 1]]
    lags[zone[spare] - 1] = _minutes(arrivals[spare], dues, zone[spare] - 1, usual)
    return lags


def _minutes(arrivals: IntArray, dues: Dues, zone: IntArray, usual: float) -> FloatArray:
    """Minutes after due; where the clock leaves open when that is, the reading nearest to the usual."""
    late = (arrivals - dues.at[zone]) / 60.0
    minutes: FloatArray = late - np.clip(late - usual, 0.0, dues.slack[zone] / 60.0)
    return minutes
