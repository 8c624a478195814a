"""Replays labelled hourly series through the filter behind the endpoint, each hour judged by nothing but those before it.

The CSV files have the columns timestamp (local time, in order) and one or more metrics; label and is_train are read for what
is printed alone. `score` is the surprise of all metrics together, -ln of the probability of a false alarm. The last line is
about faults that the filter has no hypothesis for, put into days without a label: how it does where it was not made for it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from detectors.context import FloatArray, IntArray
from detectors.decision import threshold_of
from detectors.sequence_filter import RHYTHMS, Filter
from detectors.sequence_verdict import combined, score_of, surprise_of, with_range
from shared.contract import DetectOptions
from training.sequence_faults import OTHERS

ABOUT = ("timestamp", "label", "is_train", "kind")
COLUMNS = ("score", "is_anomaly", "metric", "hypothesis")
HOUR, DAY = 3600, 24  # seconds, hours


def replay_folder(folder: Path, out: Path) -> Iterator[str]:
    """Writes a file of predictions for each CSV of the folder, row by row, and tells what became of it."""
    out.mkdir(parents=True, exist_ok=True)
    others = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        metrics = [name for name in rows[0] if name not in ABOUT]
        hours = np.array([_hour(row["timestamp"]) for row in rows], np.int64)
        values = np.array([[float(row[name] or "nan") for name in metrics] for row in rows])
        judged = replay(hours, values, metrics)
        with (out / path.name).open("w", newline="") as lines:
            writer = csv.writer(lines)
            writer.writerow(COLUMNS)
            writer.writerows(judged)
        yield f"{path.stem}: {summary(rows, judged)}"
        if "label" in rows[0] and (measured := unforeseen(hours, values, metrics, rows)):
            others.append(measured)
    if others:
        auc, precision, found, alarms = np.mean(others, axis=0)
        yield (f"faults without a hypothesis: AUC {auc:.3f}, AP {precision:.3f}, {found:.2f} of them found, "
               f"false positive rate {alarms:.4f}")


def replay(hours: IntArray, values: FloatArray, metrics: list[str]) -> list[tuple[object, ...]]:
    """(n,) hours since 1970, (n, m) values -> a row of COLUMNS each, empty while the filter is learning."""
    rhythm = RHYTHMS["hourly"]
    threshold = threshold_of(DetectOptions(granularity="hourly"))
    start, places = int(hours[0]), hours - hours[0]
    series = np.full((int(places[-1]) + 1, values.shape[1]), np.nan)
    series[places] = values
    state = Filter.begin(series[: rhythm.setup], start, rhythm)
    steps = [state.step(row) for row in series]
    levels = np.array([state.level_of(row) for row in series])
    t = np.abs(levels - np.array([step.expected for step in steps])) / np.array([step.scale for step in steps])
    surprise, outside = with_range(surprise_of(np.array([step.log_odds for step in steps])), t)
    together, contributions = combined(surprise)
    flagged, worst = score_of(together) >= threshold, contributions.argmax(axis=1)
    verdicts: list[tuple[object, ...]] = []
    for place in places.tolist():
        if place < rhythm.setup or np.isnan(together[place]):
            verdicts.append(("", 0, "", ""))
            continue
        j = int(worst[place])
        hypothesis = "out_of_range" if outside[place, j] else rhythm.hypotheses[steps[place].hypothesis[j]]
        verdicts.append((repr(float(together[place])), int(flagged[place]), metrics[j], hypothesis))
    return verdicts


def unforeseen(hours: IntArray, values: FloatArray, metrics: list[str], rows: list[dict[str, str]]
               ) -> tuple[float, float, float, float] | None:
    """AUC, average precision, share found and false positive rate of OTHERS, three days of each, the same every time.

    They go into whole days after the training part, two days or more from a label and from each other. Hours with a label,
    and the day after them, do not count. None where there is no such day.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    label = np.array([row["label"] == "1" for row in rows])
    counted = np.array([row.get("is_train") != "1" for row in rows]) & (np.diff(hours, prepend=hours[0] - 1) == 1)
    near = np.convolve(label, np.ones(4 * DAY), "same") > 0
    free = [i for i in range(8 * DAY, len(hours) - DAY) if hours[i] % DAY == 0 and counted[i - 7 * DAY : i + DAY].all()
            and not near[i : i + DAY].any()]
    days: list[int] = []
    for day in np.random.default_rng(0).permutation(free).tolist():
        if all(abs(day - other) >= 3 * DAY for other in days):
            days.append(day)
    changed, injected = values.copy(), np.zeros(len(hours), bool)
    for number, day in enumerate(days[: 3 * len(OTHERS)]):
        fault, metric = list(OTHERS.values())[number % len(OTHERS)], number % len(metrics)
        own, before, week = (values[day - lag : day - lag + DAY, metric] for lag in (0, DAY, 7 * DAY))
        changed[day : day + DAY, metric] = fault(own, before, week)
        injected[day : day + DAY] = (changed != values)[day : day + DAY].any(axis=1)
    if not injected.any():
        return None
    judged = replay(hours, changed, metrics)
    score, flagged = np.array([float(str(row[0] or 0.0)) for row in judged]), np.array([row[1] == 1 for row in judged])
    after = np.convolve(label, np.ones(DAY + 1))[: len(label)] > 0
    told = counted & ~after
    found = np.mean([flagged[day : day + DAY].any() for day in days[: 3 * len(OTHERS)]])
    return (float(roc_auc_score(injected[told], score[told])), float(average_precision_score(injected[told], score[told])),
            float(found), float(flagged[told & ~injected].mean()))


def summary(rows: list[dict[str, str]], judged: list[tuple[object, ...]]) -> str:
    """How many hours were flagged, and what share of the labelled and of the other ones."""
    flagged = np.array([row[1] == 1 for row in judged])
    told = f"{len(rows)} hours, {flagged.sum()} flagged"
    if "label" not in rows[0]:
        return told
    counted = np.array([row.get("is_train") != "1" for row in rows])
    label = np.array([row["label"] == "1" for row in rows])
    edges = np.flatnonzero(np.diff(np.r_[0, label & counted, 0]))
    events = [flagged[a:b].any() for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return (f"{told}; {sum(events)} of {len(events)} faults found, recall by hour {flagged[label & counted].mean():.3f}, "
            f"false positive rate {flagged[~label & counted].mean():.4f}")


def _hour(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) // HOUR
