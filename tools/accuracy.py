"""How good are the detectors? Replays every group of labelled data and scores it, next to what well-known methods reach.

    python -m tools.accuracy --data DIR [--groups volume profile ...] [--out DIR] [--readme]

DIR has a folder for each group (see `python -m tools.backtest --help`); the files carry label and is_train, which only this
program looks at. Each detector runs with one configuration for all files of its group, at its own threshold; figures are
unweighted means over the files. --readme writes the table into README.md.
"""

from __future__ import annotations

import argparse
import csv
import re
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from shared.contract import Holidays
from tools import backtest, vus
from tools.backtest_volume import Options

type FloatArray = NDArray[np.float64]
type BoolArray = NDArray[np.bool_]

README = Path(__file__).resolve().parent.parent / "README.md"
COLUMNS = {"auc": "AUC", "ap": "AP", "f1": "F1", "recall": "recall", "fpr": "false positive rate",
           "event_recall": "events found", "vus_pr": "VUS-PR"}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what is replayed and how, or what a peer reached on the same files."""

    group: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)


OURS = (
    Row("volume", "structural filter, --country US", {"options": Options(holidays=Holidays(country="US"))}),
    Row("volume", "structural filter, no holidays", {}),
    Row("profile", "conditional residual"),
    Row("timeliness", "lag filter"),
    Row("pattern", "formats"),
    Row("sequence_hourly", "hypothesis filter"),
    Row("univariate", "whole series", {"batch": True}),
    Row("univariate", "point by point"),
    Row("tabular", "isolation forest and kNN, the higher rank"),
)
def _peer(group: str, name: str, **figures: float) -> Row:
    return Row(group, name, figures=figures)


# Other methods on the same files and with the same metrics, each with its usual settings.
PEERS = (
    _peer("volume", "weekday residual, MAD 84 days", auc=.888, ap=.575, f1=.595, recall=.652, fpr=.054, event_recall=.790),
    _peer("volume", "Prophet 99 %, refit a fortnight", auc=.792, ap=.494, f1=.467, recall=.487, fpr=.064, event_recall=.671),
    _peer("volume", "isolation forest on lags", auc=.816, ap=.452, f1=.392, recall=.313, fpr=.025, event_recall=.494),
    _peer("volume", "AutoARIMA 99 %", auc=.744, ap=.336, f1=.319, recall=.360, fpr=.080, event_recall=.630),
    _peer("profile", "any metric beyond 3 sigma", auc=.893, recall=.925, fpr=.556),
    _peer("profile", "autoencoder, refitted every 30 batches", auc=.883, recall=.818, fpr=.198),
    _peer("profile", "average distance to 5 neighbours", auc=.843, recall=.627, fpr=.076),
    _peer("profile", "isolation forest", auc=.587, recall=.190, fpr=.156),
    _peer("timeliness", "MAD z-score over 60 days", ap=.675, f1=.556, fpr=.047),
    _peer("timeliness", "60 minutes after due", f1=.496, fpr=.101),
    _peer("pattern", "full mask rarer than 0.5 %", f1=.920, fpr=.001),
    _peer("pattern", "trigrams of the mask", auc=.936, f1=.518),
    _peer("sequence_hourly", "matrix profile, sees the whole series", auc=.682, ap=.256),
    _peer("sequence_hourly", "z-score by hour of week over 12 hours", auc=.678, ap=.331),
    _peer("sequence_hourly", "LSTM, 168 hours to 24", auc=.629, ap=.230),
    _peer("univariate", "POLY, sees the whole series", vus_pr=.353),
    _peer("univariate", "Sub-PCA, sees the whole series", vus_pr=.275),
    _peer("univariate", "rolling interquartile range", vus_pr=.170),
    _peer("tabular", "kNN distance", auc=.835),
    _peer("tabular", "isolation forest", auc=.834),
    _peer("tabular", "autoencoder", auc=.806),
    _peer("tabular", "ECOD", auc=.803),
    _peer("tabular", "LOF", auc=.706),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.accuracy", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--groups", nargs="+", choices=backtest.MODULES, default=list(backtest.MODULES))
    parser.add_argument("--out", type=Path, metavar="DIR", help="keeps the predictions there")
    parser.add_argument("--readme", action="store_true", help="writes the table into README.md")
    args = parser.parse_args()
    chosen = [row for row in OURS if row.group in args.groups]
    for group in {row.group for row in chosen}:
        if not (args.data / group).is_dir():
            parser.exit(2, f"{args.data} has no folder {group}.\n")
    with tempfile.TemporaryDirectory() as scratch, ProcessPoolExecutor(2) as pool:
        jobs = {pool.submit(measure, row, args.data, (args.out or Path(scratch)) / slug(row)): row for row in chosen}
        measured, began = {}, time.perf_counter()
        for job in as_completed(jobs):
            measured[jobs[job].group, jobs[job].name] = job.result()
            print(f"[{len(measured)}/{len(jobs)}] {jobs[job].group}: {jobs[job].name}, {time.perf_counter() - began:.0f} s",
                  flush=True)
    table = "\n".join(lines(measured, [peer for peer in PEERS if peer.group in args.groups]))
    print(f"\n{table}")
    if args.readme:
        README.write_text(with_table(README.read_text(), table))


def slug(row: Row) -> str:
    """The folder of a row's predictions."""
    return re.sub(r"[^a-z0-9]+", "-", f"{row.group} {row.name}".lower()).strip("-")


def measure(row: Row, data: Path, out: Path) -> dict[str, float]:
    """Replays a group and returns the mean of each metric over its files (of timeliness: over its feeds)."""
    for _ in backtest.replay(row.group, data / row.group, out, **row.options):
        pass
    figures = [metrics(*part) for path in sorted((data / row.group).iterdir()) if path.suffix in (".csv", ".npz")
               for part in parts(path, out / f"{path.stem}.csv")]
    mean = {name: float(np.mean([f[name] for f in figures])) for name in figures[0]}
    if row.group == "univariate":
        mean = {"vus_pr": float(np.mean([figure for _, figure in vus.score_folder(data / row.group, out)]))}
    return mean


def parts(path: Path, predicted: Path) -> Iterator[tuple[NDArray[np.int64], FloatArray, BoolArray]]:
    """(n,) labels, scores (NaN: no verdict) and flags of the rows that count; a part for each feed that has both labels."""
    with predicted.open(newline="") as text:
        rows = list(csv.DictReader(text))
    scores = np.array([float(row["score"] or "nan") for row in rows])
    flags = np.array([row["is_anomaly"] in ("1", "1.0", "True") for row in rows])
    if path.suffix == ".npz":
        with np.load(path) as archive:
            labels = archive["y"].astype(np.int64)
        yield labels, scores, flags
        return
    with path.open(newline="") as text:
        data = list(csv.DictReader(text))
    if len(data) != len(rows):
        raise ValueError(f"{path.name}: {len(rows)} predictions for {len(data)} rows")
    labels = np.array([int(row["label"]) for row in data])
    counted = np.array([row["is_train"] == "0" and row.get("natural_missing", "0") in ("0", "") for row in data])
    feeds = np.array([row.get("feed", "") for row in data])
    for feed in dict.fromkeys(feeds.tolist()):
        at = counted & (feeds == feed)
        if 0 < labels[at].sum() < at.sum():
            yield labels[at], scores[at], flags[at]


def metrics(labels: NDArray[np.int64], scores: FloatArray, flags: BoolArray) -> dict[str, float]:
    """Of the ranking (AUC, AP) and at the detector's own threshold; no point adjustment. Without a verdict: ranks last."""
    known = np.isfinite(scores)
    ranked = np.where(known, scores, scores[known].min() if known.any() else 0.0)
    faulty = labels == 1
    hits, alarms, missed = (int((a & b).sum()) for a, b in ((flags, faulty), (flags, ~faulty), (~flags, faulty)))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], labels, [0]])))
    return {"auc": float(roc_auc_score(labels, ranked)), "ap": float(average_precision_score(labels, ranked)),
            "f1": 2 * hits / max(2 * hits + alarms + missed, 1), "recall": hits / max(hits + missed, 1),
            "fpr": alarms / max(int((~faulty).sum()), 1),
            "event_recall": float(np.mean([flags[a:b].any() for a, b in zip(edges[::2], edges[1::2], strict=True)]))}


def lines(measured: dict[tuple[str, str], dict[str, float]], peers: list[Row]) -> Iterator[str]:
    """The table in Markdown: each group's own rows in bold, then its peers'."""
    yield f"| group | method | {' | '.join(COLUMNS.values())} |"
    yield "|---|---|" + "---|" * len(COLUMNS)
    for group in backtest.MODULES:
        for row in OURS:
            if (row.group, row.name) in measured and row.group == group:
                yield _line(group, f"**{row.name}**", measured[group, row.name])
        for peer in peers:
            if peer.group == group:
                yield _line(group, peer.name, peer.figures)


def _line(group: str, name: str, figures: dict[str, float]) -> str:
    told = (f"{figures[c]:.3f}".removeprefix("0") if c in figures else "" for c in COLUMNS)
    return f"| {group} | {name} | {' | '.join(told)} |"


def with_table(readme: str, table: str) -> str:
    """The README with the accuracy table between its marks replaced. Raises ValueError where they are missing."""
    begin, end = "<!-- accuracy: begin -->\n", "<!-- accuracy: end -->"
    if begin not in readme or end not in readme:
        raise ValueError(f"README.md lacks the lines {begin.strip()} and {end}")
    return readme[:readme.index(begin) + len(begin)] + table + "\n" + readme[readme.index(end):]


if __name__ == "__main__":
    main()
