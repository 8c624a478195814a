"""Replays labelled string columns: each value judged with the column's history alone, through the detector's own code.

The CSV files have the columns value, is_train (and label, kind, which nobody looks at): the history is the values with
is_train = 1, all the others are judged. A CSV of the same length is written with score and is_anomaly, both empty for the
history and for a column without a verdict.

    python -m tools.backtest_pattern [--rows 1000] [--columns url email]

does the same with columns made up to be hard (URLs, page ranges, names of the world, prose), half of them clean values and
half with one fault each, and tells by column how many false alarms there are and how many of the faults are found; a column
that abstains finds what is wrong in any column.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detectors import formats
from detectors.pattern_column import UNUSUAL_NATS, Batch, Column
from detectors.tally import Tally, shapes_of
from tools import pattern_columns

type FloatArray = NDArray[np.float64]

COLUMNS = ("score", "is_anomaly")
JUDGED = 1000  # values of a made-up column
SEEDS = 4


def replay_folder(folder: Path, out: Path) -> Iterator[str]:
    """Writes a file of predictions for each CSV of the folder, row by row, and tells what became of it."""
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        judged = [i for i, row in enumerate(rows) if row["is_train"] != "1"]
        history = [row["value"] for row in rows if row["is_train"] == "1"]
        verdicts: list[tuple[object, ...]] = [("", 0)] * len(rows)
        nats = replay(history, [rows[i]["value"] for i in judged])
        if nats is not None:
            for i, surprise in zip(judged, nats.tolist(), strict=True):
                # Nats rank what a score so close to one would not tell apart.
                verdicts[i] = (repr(surprise), int(surprise >= UNUSUAL_NATS))
        with (out / path.name).open("w", newline="") as lines:
            writer = csv.writer(lines)
            writer.writerow(COLUMNS)
            writer.writerows(verdicts)
        flagged = sum(bool(flag) for _, flag in verdicts)
        yield f"{path.stem}: {len(history)} values of history, {len(judged)} judged, {flagged} flagged"


def replay(history: Sequence[str], values: Sequence[str]) -> FloatArray | None:
    """(n,) nats of surprise of each value, None where the history is too short."""
    column = Column.of([Batch(None, Tally.of_values(history))])
    if column is None:
        return None
    some = shapes_of(values)
    nats: FloatArray = formats.judge(np, column.formats.look(some).x, column.formats.rules).max(axis=1)
    return nats


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.backtest_pattern", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000], help="values of history (1000)")
    parser.add_argument("--dirty", type=float, nargs="+", default=[0.0, 0.03], help="share of faults in it (0 and 0.03)")
    parser.add_argument("--columns", nargs="+", choices=list(pattern_columns.COLUMNS), default=list(pattern_columns.COLUMNS))
    args = parser.parse_args()
    for rows in args.rows:
        for dirty in args.dirty:
            print(f"\nhistory of {rows} values, {dirty:.0%} of them with a fault")
            for line in made_up(args.columns, rows, dirty):
                print(line, flush=True)


def made_up(names: Sequence[str], rows: int, dirty: float) -> Iterator[str]:
    """False positive rate and recall of made-up columns, then their mean and the recall of every kind of fault."""
    means, found, put = [], Counter[str](), Counter[str]()
    for name in names:
        alarms, hits, faults = 0, 0, 0
        for seed in range(SEEDS):
            history = pattern_columns.with_faults(pattern_columns.column(name, rows, seed), dirty, seed)[0]
            clean = pattern_columns.column(name, JUDGED, 1000 + seed)
            damaged, kinds = pattern_columns.with_faults(pattern_columns.column(name, JUDGED, 2000 + seed), 1.0, 1000 + seed)
            nats = replay(history, [*clean, *damaged])
            flags = np.zeros(2 * JUDGED, np.bool_) if nats is None else nats >= UNUSUAL_NATS
            alarms += int(flags[:JUDGED].sum())
            for kind, flag in zip(kinds, flags[JUDGED:].tolist(), strict=True):
                if kind:
                    faults, hits = faults + 1, hits + flag
                    put[kind] += 1
                    found[kind] += flag
        means.append((alarms / (SEEDS * JUDGED), hits / max(faults, 1)))
        yield f"{name:14} fpr {means[-1][0]:.4f}  recall {means[-1][1]:.3f}"
    fpr, recall = np.mean(means, axis=0)
    yield f"{'MEAN':14} fpr {fpr:.4f}  recall {recall:.3f}"
    yield "recall by fault: " + ", ".join(f"{kind} {found[kind] / put[kind]:.2f}" for kind in put)


if __name__ == "__main__":
    main()
