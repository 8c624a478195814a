"""Replays labelled feeds through the code behind the endpoint, each arrival judged with nothing but the arrivals before it.

The CSV files have the columns feed, expected_at, lag_minutes (empty: it never came); the due times are told, as by a
scheduler that knows them. Labels are not looked at. Feeds know nothing of each other.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detectors.decision import Judgement, threshold_of
from detectors.lags import FEWEST, accepted_from
from detectors.timeliness_verdict import CERTAIN, judge_with_filter
from shared.contract_timeliness import TimelinessRequest

type FloatArray = NDArray[np.float64]

COLUMNS = ("score", "is_anomaly", "lower", "upper", "expected")
LOADS_A_MONTH = 30.44


def replay_folder(folder: Path, out: Path) -> Iterator[str]:
    """Writes a file of predictions for each CSV of the folder, row by row, and tells what became of it."""
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        feeds: dict[str, list[int]] = defaultdict(list)
        for number, row in enumerate(rows):
            feeds[row["feed"]].append(number)
        judged: list[tuple[object, ...]] = [()] * len(rows)
        for numbers in feeds.values():
            numbers.sort(key=lambda number: rows[number]["expected_at"])
            lags = np.array([float(rows[number]["lag_minutes"] or "nan") for number in numbers])
            for number, verdict in zip(numbers, replay(lags), strict=True):
                judged[number] = verdict
        with (out / path.name).open("w", newline="") as lines:
            writer = csv.writer(lines)
            writer.writerow(COLUMNS)
            writer.writerows(judged)
        yield f"{path.stem}: {len(feeds)} feeds, {len(rows)} loads, {sum(bool(row[1]) for row in judged)} flagged"


def replay(lags: FloatArray) -> Iterator[tuple[object, ...]]:
    """(m,) minutes after due of one feed, NaN for what never came -> a row of COLUMNS each, empty while learning."""
    threshold = threshold_of(TimelinessRequest(), LOADS_A_MONTH)
    for i, lag in enumerate(lags.tolist()):
        before = lags[:i][np.isfinite(lags[:i])]
        before = before[accepted_from(before):]
        # What never came is late from `upper` on; when the next load is due it is missing.
        judgement = judge_with_filter(before, 0.0 if np.isnan(lag) else lag, threshold) if len(before) >= FEWEST else None
        yield _row(judgement, np.isnan(lag), threshold)


def _row(judgement: Judgement | None, missing: bool, threshold: float) -> tuple[object, ...]:
    if judgement is None:
        return ("", 0, "", "", "")
    score = CERTAIN if missing else judgement.score
    bounds = (round(number, 3) for number in (judgement.lower, judgement.upper, judgement.expected))
    return (repr(score), int(score >= threshold), *bounds)
