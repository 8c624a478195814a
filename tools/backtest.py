"""Replays labelled series through the code behind the endpoints, each day judged with nothing but the days before it.

    python -m tools.backtest volume DIR --out DIR [--algorithm A] [--country US]

DIR holds CSV files with the columns date, rows (and label, is_train, which nobody looks at). For each, a CSV of the same
length is written with score, is_anomaly, lower, upper and expected; a day without a verdict has them empty. A trained family
is fitted again every --refit-days days on the days before, at least --warm-up of them; until then, and where it has no
verdict, the structural baseline answers, as in the service. Days that are flagged stay out of what families learn from.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from detectors import structural
from detectors.artefact import Artefact
from detectors.context import Context, FloatArray, IntArray, calendar_of
from detectors.decision import Decision, Judgement, decide, threshold_of
from detectors.volume import judge_with_model
from shared.contract import Algorithm, Holidays, TrainRequest, VolumeRequest
from shared.history import ANOMALY, OK, Series

COLUMNS = ("score", "is_anomaly", "lower", "upper", "expected")
ALGORITHMS = Algorithm.__value__.__args__
NO_HOLIDAYS = Holidays()


@dataclass(frozen=True, slots=True)
class Options:
    """How to replay. `algorithm` is a family or auto; days count buckets."""

    algorithm: str = "structural"
    holidays: Holidays = NO_HOLIDAYS
    sensitivity: float = 90.0
    refit_days: int = 28
    warm_up: int = 90
    training_days: int = 400


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.backtest", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", choices=["volume"])
    parser.add_argument("folder", type=Path, metavar="DIR", help="labelled CSV files, one table each")
    parser.add_argument("--out", type=Path, required=True, help="where the predictions go")
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="structural")
    parser.add_argument("--country", help="public holidays of this country, such as US")
    parser.add_argument("--sensitivity", type=float, default=90.0, help="0-99, higher flags more (90)")
    parser.add_argument("--refit-days", type=int, default=28)
    parser.add_argument("--warm-up", type=int, default=90, help="days before a family is trained for the first time (90)")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    files = sorted(args.folder.glob("*.csv"))
    if not files:
        parser.exit(2, f"There is no CSV file in {args.folder}.\n")
    args.out.mkdir(parents=True, exist_ok=True)
    options = Options(args.algorithm, Holidays(country=args.country), args.sensitivity, args.refit_days, args.warm_up)
    began = time.perf_counter()
    with ProcessPoolExecutor(args.workers) as pool:
        for number, line in enumerate(pool.map(partial(replay_file, out=args.out, options=options), files), 1):
            print(f"[{number}/{len(files)}] {line}", flush=True)
    print(f"{len(files)} files in {time.perf_counter() - began:.0f} s -> {args.out}")


def replay_file(path: Path, out: Path, options: Options) -> str:
    """Replays one file and tells what became of it."""
    with path.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    days = np.array([row["date"][:10] for row in rows], "datetime64[D]").astype(np.int64)
    values = np.array([float(row["rows"]) for row in rows])
    flagged = 0
    with (out / path.name).open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(COLUMNS)
        for judged in replay(days, values, options):
            flagged += judged is not None and judged[0].is_anomaly
            writer.writerow(_row(judged))
    return f"{path.stem}: {len(rows)} days, {flagged} flagged"


def replay(days: IntArray, values: FloatArray, options: Options) -> Iterator[tuple[Decision, Judgement] | None]:
    """(m,) day buckets, consecutive, and their counts -> a verdict each, None while the detector learns."""
    holiday, _ = calendar_of(options.holidays, int(days[0]), int(days[-1]), "daily")
    request = VolumeRequest.model_validate({"row_count": 0, "current_row_count": 0.0, "sensitivity": options.sensitivity})
    threshold = threshold_of(request)
    status, artefact = np.full(len(days), OK, np.uint8), None
    for i, step in enumerate(structural.walk(values, days, holiday)):
        day, value = int(days[i]), values[i]
        if options.algorithm != "structural" and i >= options.warm_up and (i - options.warm_up) % options.refit_days == 0:
            artefact = _train(days[:i], values[:i], status[:i], options)
        judgement = None
        if artefact is not None:
            context = Context(int(days[0]), values[:i], status[:i], i)
            judgement = judge_with_model(artefact, context, holiday[:i + 1], day, value, threshold)
        if judgement is None and step.ready:
            verdict = structural.judge_next(step.state, day, int(holiday[i]), value, threshold)
            judgement = Judgement(verdict.score, verdict.expected, verdict.lower, verdict.upper, verdict.effects)
        if judgement is None:
            yield None
            continue
        decision = decide(judgement, value, threshold, request)
        status[i] = ANOMALY if decision.is_anomaly else OK
        yield decision, judgement


def _train(days: IntArray, values: FloatArray, status: np.ndarray, options: Options) -> Artefact | None:
    """What the training job would serve on this day: the family asked for, or the best of all."""
    from training import volume_anomaly

    request = TrainRequest(table_id="replayed", training_days=min(options.training_days, 3660), holidays=options.holidays)
    prepared = volume_anomaly.prepared(request, Series(days * 86_400, values, status))
    names = volume_anomaly.FAMILIES if options.algorithm == "auto" else (options.algorithm,)
    candidates = volume_anomaly.compare([volume_anomaly.fit_candidate(prepared, name) for name in names])
    if all(candidate.payload is None for candidate in candidates):
        return None
    return Artefact.load(volume_anomaly.choose(candidates, options.algorithm).payload or b"")


def _row(judged: tuple[Decision, Judgement] | None) -> tuple[object, ...]:
    if judged is None:
        return ("", 0, "", "", "")
    decision, judgement = judged
    upper = "" if decision.upper is None else decision.upper
    # The raw score tells apart what the verdict's rounding would not: a ranking needs it.
    return (repr(judgement.score), int(decision.is_anomaly), decision.lower, upper, round(judgement.expected, 3))


if __name__ == "__main__":
    main()
