"""What the back-tests of documents have in common: what a person said of a point, and whether a file has learnt from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WORDS = {"expected": -1, "confirmed": 1}


def said_of(statuses: Iterable[str]) -> NDArray[np.int8]:
    """(d,) statuses of the history -> (d,) what `evaluation.Scores` calls `said`."""
    return np.array([_WORDS.get(status, 0) for status in statuses], np.int8)


def is_new(moment: datetime | None, card: Mapping[str, Any]) -> bool:
    """Is a point later than all that a model was trained on? Cards tell the time to the second, and of a point without a
    time nobody knows.
    """
    until = card["training"]["to"]
    return moment is not None and until is not None and moment.replace(microsecond=0) > datetime.fromisoformat(until)
