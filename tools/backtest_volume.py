"""Replays labelled daily counts through the code behind the endpoint, each day judged with nothing but the days before it.

The CSV files have the columns date, rows; labels are not looked at. A trained family is fitted again every so many days on
the days before; until it is there, and where it has no verdict, the structural baseline answers, as in the service. Days
that are flagged stay out of what families learn from.
"""

from __future__ import annotations

import csv
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
from detectors.season import SEASONS
from detectors.volume import judgement_of
from detectors.volume_model import judge_with_model, keeps_flagging
from shared.contract import Holidays, TrainRequest, VolumeRequest
from shared.history import ANOMALY, OK, Series

COLUMNS = ("score", "is_anomaly", "lower", "upper", "expected")
NO_HOLIDAYS = Holidays()
PATIENCE = int(SEASONS["daily"].design.patience)


@dataclass(frozen=True, slots=True)
class Options:
    """How to replay. `algorithm` is a family or auto; days count buckets."""

    algorithm: str = "structural"
    holidays: Holidays = NO_HOLIDAYS
    sensitivity: float = 90.0
    refit_days: int = 28
    warm_up: int = 90
    training_days: int = 400


def replay_folder(folder: Path, out: Path, options: Options | None = None, workers: int = 1) -> Iterator[str]:
    """Writes a file of predictions for each CSV of the folder, row by row, and tells what became of it."""
    out.mkdir(parents=True, exist_ok=True)
    replay_file = partial(_replay_file, out=out, options=options or Options())
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(replay_file, sorted(folder.glob("*.csv")))


def _replay_file(path: Path, out: Path, options: Options) -> str:
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
        judgement, verdict = None, structural.judge_next(step.state, day, int(holiday[i]), value, threshold)
        calm = judgement_of(verdict) if step.ready else None
        if artefact is not None:
            context = Context(int(days[0]), values[:i], status[:i], i)
            judgement = judge_with_model(artefact, context, holiday[:i + 1], day, value, threshold)
            if judgement is not None and calm is not None and calm.score < threshold <= judgement.score and keeps_flagging(
                    artefact, context, holiday, threshold, PATIENCE, value < judgement.expected):
                judgement = calm
        judgement = judgement or calm
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

