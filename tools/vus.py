"""VUS-PR, the metric of the TSB-AD benchmark: how well scores rank labelled stretches when their edges are uncertain.

    python -m tools.vus DATA PREDICTIONS

prints it for each CSV of DATA (value, label) and its predictions (score). All rows count, as in the benchmark: a training
part, where a file marks one, too.

Paparrizos et al., "Volume Under the Surface", PVLDB 15(11), 2022, doi:10.14778/3551793.3551830; the details (250 cuts,
the buffer's slope, the window from the autocorrelation) are those of Liu and Paparrizos, "The Elephant in the Room",
NeurIPS 2024.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

type FloatArray = NDArray[np.float64]
type IntArray = NDArray[np.int64]

CUTS = 250
LAGS = 400  # the period is looked for among these
SHORTEST, LONGEST = 6, 303  # and is believed between these
NO_PERIOD = 125


def vus_pr(labels: IntArray, scores: FloatArray, window: int) -> float:
    """(n,) 0/1 labels, (n,) scores, highest most anomalous -> range-aware average precision, 0 to 1, a mean over buffers.

    For each buffer width of 0 to `window` points a labelled stretch gets slopes of half that width on both sides, worth
    sqrt(1 - distance / width); precision and recall count points by that worth, and recall is multiplied by the share of
    stretches that were touched. A score that is not finite counts as the lowest one.

    Raises ValueError where nothing is labelled.
    """
    if not labels.any():
        raise ValueError("VUS-PR needs at least one labelled point.")
    finite = np.isfinite(scores)
    scores = np.where(finite, scores, scores[finite].min() if finite.any() else 0.0)
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    cuts = ranked[np.linspace(0, len(scores) - 1, CUTS).astype(int)]
    flagged = np.searchsorted(-ranked, -cuts, side="right")
    inside = np.cumsum(labels[order])[flagged - 1]  # labelled points at or above each cut
    stretches = _stretches(labels)
    precision = np.empty(window + 1)
    for width in range(window + 1):
        hits = np.cumsum(_buffered(labels, stretches, width)[order])[flagged - 1]
        peaks = np.sort([scores[a:b].max() for a, b in _merged(stretches, width // 2, len(labels))])
        touched = 1.0 - np.searchsorted(peaks, cuts) / len(peaks)
        # What could have been hit is the labels, and half of what the buffers added at this cut.
        recall = np.minimum(hits / (labels.sum() + (hits - inside) / 2), 1.0) * touched
        precision[width] = np.dot(np.diff(recall, prepend=0.0), hits / flagged)
    return float(precision.mean())


def window_of(values: FloatArray) -> int:
    """(n,) series -> the width up to which buffers grow: its period, the lag of the highest peak of the autocorrelation."""
    centred = values[:20_000] - values[:20_000].mean()
    power = np.abs(np.fft.rfft(centred, 2 * len(centred))) ** 2
    correlation = np.fft.irfft(power)[3:min(LAGS + 1, len(centred))]
    peaks = 1 + np.flatnonzero((correlation[1:-1] > correlation[:-2]) & (correlation[1:-1] > correlation[2:]))
    if not len(peaks):
        return NO_PERIOD
    period = 3 + int(peaks[np.argmax(correlation[peaks])])
    return period if SHORTEST <= period <= LONGEST else NO_PERIOD


def _stretches(labels: IntArray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(labels, prepend=0, append=0))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _buffered(labels: IntArray, stretches: list[tuple[int, int]], width: int) -> FloatArray:
    worth = labels.astype(np.float64)
    slope = np.sqrt(1.0 - np.arange(1, width // 2 + 1) / max(width, 1))
    for start, end in stretches:
        after = worth[end:end + len(slope)]
        after += slope[:len(after)]
        before = worth[max(start - len(slope), 0):start]
        before += slope[:len(before)][::-1]
    worth[worth > 1.0] = 1.0
    return worth


def _merged(stretches: list[tuple[int, int]], reach: int, length: int) -> list[tuple[int, int]]:
    """The stretches with `reach` points on both sides; those that then touch are one."""
    merged: list[tuple[int, int]] = []
    for start, end in stretches:
        low, high = max(start - reach, 0), min(end + reach, length)
        if merged and low < merged[-1][1]:
            low = merged.pop()[0]
        merged.append((low, high))
    return merged


def score_folder(data: Path, predictions: Path) -> Iterator[tuple[str, float]]:
    """Each series of `data` by name, and the VUS-PR of its predictions."""
    for path in sorted(data.glob("*.csv")):
        labels, values, scores = _column(path, "label"), _column(path, "value"), _column(predictions / path.name, "score")
        yield path.stem, vus_pr(labels.astype(np.int64), scores, window_of(values))


def _column(path: Path, name: str) -> FloatArray:
    with path.open(newline="") as lines:
        return np.array([float(row[name] or "nan") for row in csv.DictReader(lines)])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.vus", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("predictions", type=Path)
    args = parser.parse_args()
    figures = dict(score_folder(args.data, args.predictions))
    for name, figure in figures.items():
        print(f"{figure:.3f}  {name}")
    print(f"{np.mean(list(figures.values())):.3f}  mean of {len(figures)}")


if __name__ == "__main__":
    main()
