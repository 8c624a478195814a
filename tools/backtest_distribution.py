"""Replays tables of labelled column profiles: each batch judged with nothing but the clean batches before it.

A row is a batch: part, t, copy, label, is_train, kind, column, severity, seed and `<column>__<metric>`. Copies of one batch
share their t; at step t the history is the rows with copy = clean and a smaller t. Written are score, is_anomaly, the column
and metric that are named and its bounds; the labels are read for the printed summary alone.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from detectors import conditional
from detectors.attribution import worst
from detectors.metrics import TABLE, FloatArray, IntArray
from detectors.rhythm import UNKNOWN_WEEKDAY

ABOUT = ("part", "t", "copy", "label", "is_train", "kind", "column", "severity", "seed")
COLUMNS = ("score", "is_anomaly", "column", "metric", "lower", "upper")
THRESHOLD = 0.99


@dataclass(frozen=True, slots=True)
class Replayed:
    """One file: `features` (p,) column and metric, sorted; `raw` (m, p); what else a row says, by name."""

    features: tuple[tuple[str, str], ...]
    raw: FloatArray
    weekday: IntArray
    about: dict[str, list[str]]

    @property
    def time(self) -> IntArray:
        return np.array(self.about["t"], np.int64)

    @property
    def clean(self) -> IntArray:
        """Rows that become history, by time."""
        rows = np.flatnonzero(np.array(self.about["copy"]) == "clean")
        return rows[np.argsort(self.time[rows], kind="stable")]


def replay_folder(folder: Path, out: Path, most: int = conditional.MOST_BATCHES) -> Iterator[str]:
    """Writes predictions for every CSV file of the folder and tells what became of it; `most` cuts the history."""
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*.csv")):
        table = read(path)
        rows = [verdict or ("", 0, "", "", "", "") for verdict in replay(table, most)]
        with (out / path.name).open("w", newline="") as lines:
            writer = csv.writer(lines)
            writer.writerow(COLUMNS)
            writer.writerows(rows)
        yield f"{path.stem}: {summary(table, rows)}"


def replay(table: Replayed, most: int) -> list[tuple[object, ...] | None]:
    """A verdict for each row of the file, None while there is too little history."""
    verdicts: list[tuple[object, ...] | None] = [None] * len(table.raw)
    columns, metrics = [c for c, _ in table.features], [m for _, m in table.features]
    clean, time = table.clean, table.time
    counts = table.raw[:, table.features.index((TABLE, "row_count"))]
    for step in np.unique(time):
        past = clean[time[clean] < step][-most:]
        if len(past) < conditional.FEWEST_BATCHES:
            continue
        rows = np.flatnonzero(time == step)
        fitted = conditional.fit(table.raw[past], counts[past], columns, metrics, table.weekday[past])
        line = float(fitted.tail.inverse(np, np.float64(THRESHOLD)))
        judged = fitted.judge(table.raw[rows], int(table.weekday[rows[0]]), line)
        scores = fitted.tail.score(np, judged.evidence.max(axis=1))
        for i, row in enumerate(rows):
            j = worst(judged.evidence[i], table.features, line)
            column, metric = table.features[j]
            verdicts[row] = (repr(float(scores[i])), int(scores[i] >= THRESHOLD), column, metric,
                             float(judged.lower[i, j]), float(judged.upper[i, j]))
    return verdicts


def read(path: Path) -> Replayed:
    """One file; a metric named distinct_ratio also gives the number of distinct values."""
    with path.open(newline="") as lines:
        header, *body = csv.reader(lines)
    about = {name: [row[header.index(name)] for row in body] for name in ABOUT if name in header}
    values = {_feature(name): np.array([float(row[i] or "nan") for row in body])
              for i, name in enumerate(header) if name not in ABOUT}
    counts = values[TABLE, "row_count"]
    values |= {(column, "distinct_count"): np.round(ratio * counts)
               for (column, metric), ratio in values.items() if metric == "distinct_ratio"}
    features = tuple(sorted(values))
    weekday = np.array([_weekday(part) for part in about["part"]], np.int64)
    return Replayed(features, np.column_stack([values[f] for f in features]), weekday, about)


def summary(table: Replayed, rows: list[tuple[object, ...]]) -> str:
    """How many batches were flagged, and how often the right column was named."""
    counted = np.array(table.about["is_train"]) == "0"
    label = np.array(table.about["label"]) == "1"
    flagged = np.array([row[1] == 1 for row in rows])
    truth = [name.split("<->") for name in table.about["column"]]
    blamed = [i for i in np.flatnonzero(flagged & label & counted) if truth[i] != [""]]
    right = sum(rows[i][2] in truth[i] for i in blamed)
    return (f"{counted.sum()} batches, recall {flagged[counted & label].mean():.3f}, false positive rate "
            f"{flagged[counted & ~label].mean():.3f}, right column named in {right} of {len(blamed)} alarms")


def _feature(name: str) -> tuple[str, str]:
    column, _, metric = name.rpartition("__")
    return column or TABLE, metric


def _weekday(part: str) -> int:
    try:
        return date.fromisoformat(part[:10]).weekday() if len(part) >= 10 else UNKNOWN_WEEKDAY
    except ValueError:
        return UNKNOWN_WEEKDAY
