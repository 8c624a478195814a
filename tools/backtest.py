"""Replays labelled data through the code behind the endpoints, each point judged with nothing but the points before it.

    python -m tools.backtest GROUP DIR --out DIR

GROUP says what a file of DIR holds, and with it which detector is asked:

    volume           a day's count a row         date, rows
    profile          a column profile a row      column__metric ..., t
    timeliness       an expected arrival a row   feed, expected_at, lag_minutes
    pattern          a value a row               value, is_train
    sequence_hourly  an hour a row               timestamp, one metric or more
    univariate       a point a row               value
    tabular          .npz, a row of numbers a row; ranked all at once

Labels are not looked at. For each file one of the same length is written with score and is_anomaly (and more, by group);
a row without a verdict has them empty.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path

from shared.contract import Algorithm, Holidays
from tools.backtest_volume import Options

MODULES = {"volume": "volume", "profile": "distribution", "timeliness": "timeliness", "pattern": "pattern",
           "sequence_hourly": "sequence", "univariate": "univariate", "tabular": "tabular"}
ALGORITHMS = Algorithm.__value__.__args__


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.backtest", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", choices=MODULES, metavar="GROUP", help=", ".join(MODULES))
    parser.add_argument("folder", type=Path, metavar="DIR", help="labelled files, one table each")
    parser.add_argument("--out", type=Path, required=True, help="where the predictions go")
    parser.add_argument("--batch", action="store_true", help="univariate: score each series as a whole, not point by point")
    volume = parser.add_argument_group("volume")
    volume.add_argument("--algorithm", choices=ALGORITHMS, default="structural")
    volume.add_argument("--country", help="public holidays of this country, such as US")
    volume.add_argument("--sensitivity", type=float, default=90.0, help="0-99, higher flags more (90)")
    volume.add_argument("--refit-days", type=int, default=28, help="a family is trained again after so many days (28)")
    volume.add_argument("--warm-up", type=int, default=90, help="days before a family is trained for the first time (90)")
    volume.add_argument("--workers", type=int, default=2, help="processes (2)")
    args = parser.parse_args()
    if not any(args.folder.glob("*.npz" if args.group == "tabular" else "*.csv")):
        parser.exit(2, f"There is no file to replay in {args.folder}.\n")
    if args.group == "volume":
        options = Options(args.algorithm, Holidays(country=args.country), args.sensitivity, args.refit_days, args.warm_up)
        replayed = replay("volume", args.folder, args.out, options=options, workers=args.workers)
    else:
        replayed = replay(args.group, args.folder, args.out, **({"batch": True} if args.batch else {}))
    began, files = time.perf_counter(), 0
    for files, line in enumerate(replayed, 1):
        print(f"[{files}] {line}", flush=True)
    print(f"{files} files in {time.perf_counter() - began:.0f} s -> {args.out}")


def replay(group: str, folder: Path, out: Path, **options: object) -> Iterator[str]:
    """Writes the predictions of a group's files and tells what became of each; `options` are the group's own."""
    module = import_module(f"tools.backtest_{MODULES[group]}")
    lines: Iterator[str] = partial(module.replay_folder, **options)(folder, out)
    return lines


if __name__ == "__main__":
    main()
