"""Ranks the rows of labelled tables of numbers: each table alone, all its rows at once, labels not looked at.

The files are NumPy archives with an array X, (n, f). A ranking has no threshold of its own: the highest CONTAMINATION of the
rows are flagged.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from training.outlier_ranking import outlier_ranks

COLUMNS = ("score", "is_anomaly")
CONTAMINATION = 0.1  # as scikit-learn's and PyOD's examples have it


def replay_folder(folder: Path, out: Path) -> Iterator[str]:
    """Writes a file of predictions for each archive of the folder, row by row, and tells what became of it."""
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as archive:
            scores = outlier_ranks(archive["X"])
        flagged = scores > np.quantile(scores, 1.0 - CONTAMINATION)
        with (out / f"{path.stem}.csv").open("w", newline="") as lines:
            writer = csv.writer(lines)
            writer.writerow(COLUMNS)
            writer.writerows(zip(map(repr, scores.tolist()), flagged.astype(int).tolist(), strict=True))
        yield f"{path.stem}: {len(scores)} rows, {int(flagged.sum())} flagged"
