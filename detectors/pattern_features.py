"""What an autoencoder sees of a shape: numbers that tell masks apart without telling values.

How many characters there are of each class, how many in all, how many runs, and how often a run of one class follows one of
another; everything as log(1 + n).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detectors import shapes, tally
from detectors.formats import FEATURES

type FloatArray = NDArray[np.float64]

_CLASSES = ("9", "A", "a", "ä", " ", "-", "_", ".", "/", ":", ",")
_CLASS_NAMES = ("digits", "upper case", "lower case", "other letters", "spaces", "hyphens", "underscores", "points",
                "slashes", "colons", "commas", "other characters")
_GROUPS = ("digits", "upper case", "lower case", "other letters", "spaces", "separators", "other characters")
_GROUP_OF = np.array([0, 1, 2, 3, 4, 5, 5, 5, 5, 5, 5, 6])
_CLASS_OF = np.full(256, len(_CLASSES))
_CLASS_OF[[ord(c) for c in _CLASSES]] = np.arange(len(_CLASSES))

SHAPE_FEATURES = (*(f"number of {name}" for name in _CLASS_NAMES), "length", "number of runs",
                  *(f"{after} after {before}" for before in ("the start", *_GROUPS) for after in (*_GROUPS, "the end")))


def with_shape(x: FloatArray, some: Sequence[str]) -> FloatArray:
    """(n, 3) features of detectors.formats -> (n, 3 + f) the same with those of the shapes themselves."""
    return np.concatenate([x, shape_features([tally.plain(shape) for shape in some])], axis=1)


def shape_features(masks: Sequence[str]) -> FloatArray:
    """(n, f) SHAPE_FEATURES of each mask."""
    n = len(masks)
    codes, bounds = shapes.characters(masks)
    classes = _CLASS_OF[np.where(codes < 256, codes, 0)]
    sizes = np.diff(bounds)
    owner = np.repeat(np.arange(n), sizes)
    amounts = np.bincount(owner * len(_CLASS_NAMES) + classes, minlength=n * len(_CLASS_NAMES)).reshape(n, -1)
    first = np.ones(len(codes), np.bool_)
    first[1:] = (codes[1:] != codes[:-1]) | (owner[1:] != owner[:-1])
    group, run_owner = _GROUP_OF[classes[first]], owner[first]
    runs = np.bincount(run_owner, minlength=n)
    # Every mask as start, its runs, end: a pair for each neighbours.
    ends = np.cumsum(runs)
    before = np.insert(group + 1, ends - runs, 0)
    after = np.insert(group, ends, len(_GROUPS))
    width = len(_GROUPS) + 1
    pair_owner = np.repeat(np.arange(n), runs + 1)
    pairs = np.bincount((pair_owner * width + before) * width + after, minlength=n * width * width).reshape(n, -1)
    return np.log1p(np.concatenate([amounts, sizes[:, None], runs[:, None], pairs], axis=1))


NAMES = (*FEATURES, *SHAPE_FEATURES)
