"""Scores labelled series of numbers: each point by what came before it, or, as a batch, by the whole series.

The CSV files have the column value, oldest first; an empty value is a missing point. Nothing else is looked at.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from detectors import univariate

COLUMNS = ("score", "is_anomaly")


def replay_folder(folder: Path, out: Path, batch: bool = False) -> Iterator[str]:
    """Writes a file of predictions for each CSV of the folder, row by row, and tells what became of it."""
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="") as lines:
            values = np.array([float(row["value"] or "nan") for row in csv.DictReader(lines)], np.float64)
        scores = univariate.whole(values) if batch else univariate.causal(values)
        flagged = univariate.standing_out(scores) if batch else univariate.alarms(scores)
        with (out / path.name).open("w", newline="") as lines:
            writer = csv.writer(lines)
            writer.writerow(COLUMNS)
            writer.writerows(zip(map(repr, scores.tolist()), flagged.astype(int).tolist(), strict=True))
        yield f"{path.stem}: {len(values)} points, {int(flagged.sum())} flagged"
