"""Which arrival belongs to which due time, and how many minutes after it came."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.schedule import DAY, Dues

type FloatArray = NDArray[np.float64]
type IntArray = NDArray[np.int64]

# What comes in the last quarter before a due time is early for it; before that, it is late for the one before.
EARLY_SHARE = 4


class Matched(NamedTuple):
    """(m,) minutes after each due time, NaN where nothing came, and (m,) which arrival that was, -1 for none."""

    lag: FloatArray
    arrival: IntArray


def match(dues: Dues, arrivals: IntArray) -> Matched:
    """(m,) dues and (q,) UTC seconds of arrivals, increasing -> what came for each.

    Of several arrivals around one due time the one nearest to the usual minute counts; the others are reruns, or, where the
    load before is still missing, that load. Twice over: the usual minute is known after the first pass.
    """
    first = _match(dues, arrivals, 0.0)
    known = first.lag[np.isfinite(first.lag)]
    return _match(dues, arrivals, float(np.median(known))) if len(known) else first


def begins(dues: Dues, usual: float = 0.0) -> IntArray:
    """(m,) UTC seconds from which on an arrival belongs to each due time. `usual` is the usual lag in minutes."""
    gap = np.diff(dues.at)
    before = np.concatenate([gap[:1] if len(gap) else [DAY], gap])
    started: IntArray = dues.at + round(60 * usual) - before // EARLY_SHARE
    return started


def minutes_after(moment: IntArray, at: IntArray, slack: IntArray, usual: float) -> FloatArray:
    """Minutes after due; where the clock leaves open when that is, the reading nearest to the usual."""
    late = (moment - at) / 60.0
    minutes: FloatArray = late - np.clip(late - usual, 0.0, slack / 60.0)
    return minutes


def _match(dues: Dues, arrivals: IntArray, usual: float) -> Matched:
    matched = Matched(np.full(len(dues.at), np.nan), np.full(len(dues.at), -1))
    zone = np.searchsorted(begins(dues, usual), arrivals, side="right") - 1
    skipped = int((zone < 0).sum())
    arrivals, zone = arrivals[skipped:], zone[skipped:]
    late = minutes_after(arrivals, dues.at[zone], dues.slack[zone], usual)
    order = np.lexsort((np.abs(late - usual), zone))
    own, first = np.unique(zone[order], return_index=True)
    chosen = order[first]
    matched.lag[own], matched.arrival[own] = late[chosen], chosen + skipped

    # An arrival before the chosen one is the load before, if that one is missing.
    spare = chosen[(chosen > 0) & (own > 0) & np.isnan(matched.lag[own - 1])] - 1
    spare = spare[zone[spare] == zone[spare + 1]]
    before = zone[spare] - 1
    matched.lag[before] = minutes_after(arrivals[spare], dues.at[before], dues.slack[before], usual)
    matched.arrival[before] = spare + skipped
    return matched
