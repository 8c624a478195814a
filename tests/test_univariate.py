"""One series of numbers: what stands out looking back at all of it, and point by point."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.random import default_rng
from numpy.typing import NDArray

from detectors.univariate import FARTHEST, FEWEST, alarms, causal, standing_out, whole
from tools.backtest_univariate import replay_folder

type FloatArray = NDArray[np.float64]

STRANGE = slice(1400, 1550)


def daily(points: int = 2000, seed: int = 0) -> FloatArray:
    """A noisy daily curve of 48 points a day."""
    at = np.arange(points)
    return 50.0 + 10.0 * np.sin(at * 2 * np.pi / 48) + default_rng(seed).normal(size=points)


def plain_whole(values: FloatArray) -> FloatArray:
    """The definition, window by window."""
    n, total = len(values), np.zeros(len(values))
    series = values - np.median(values)
    series = series / np.abs(series).max()
    still = 0.02 * series.std()
    for share in (0.01, 0.02, 0.04, 0.08):
        half = max(5, round(share * n / 2))
        statistics = np.empty((n, 5))
        for i in range(n):
            window = series[max(0, i - half):i + half + 1]
            steps = np.abs(np.diff(series[max(0, i - half - 1):i + half + 1]))
            statistics[i] = (window.mean(), window.max(), -window.min(), np.log(window.std() + still),
                             np.log(steps.mean() + still))
        away = statistics - np.median(statistics, axis=0)
        z = away / (1.4826 * np.median(np.abs(away), axis=0) + 0.1 * statistics.std(axis=0) + 1e-9)
        odd = np.log1p(z**2).sum(axis=1)
        total += [odd[max(0, i - half):i + half + 1].mean() for i in range(n)]
    return total


def plain_causal(values: FloatArray) -> FloatArray:
    """The definition, point by point."""
    scores, score = np.zeros(len(values)), 0.0
    for i in range(40, len(values)):
        past = values[max(0, i - i % 20 - 4000):i - i % 20]
        middle = np.median(past)
        spread = 1.4826 * np.median(np.abs(past - middle)) + 0.05 * past.std()
        score = 0.98 * score + 0.02 * min(abs(values[i] - middle) / spread, 15.0)
        scores[i] = score
    return scores


def test_looking_back_equals_the_definition_window_by_window() -> None:
    values = np.exp(default_rng(1).normal(size=311).cumsum() / 5)

    assert np.allclose(whole(values), plain_whole(values), atol=1e-8)


def test_point_by_point_equals_the_definition() -> None:
    values = default_rng(2).standard_t(2, 4700)

    assert np.allclose(causal(values), plain_causal(values), atol=1e-9)


@pytest.mark.parametrize(
    "fault",
    [
        lambda x: x + 25,
        lambda x: x - 25,
        lambda x: 0 * x + 50,
        lambda x: 4 * x - 150,
        lambda x: x + 6 * default_rng(3).normal(size=len(x)),
    ],
    ids=["higher", "lower", "frozen", "wider", "noisier"],
)
def test_a_strange_stretch_stands_out_looking_back(fault: Callable[[FloatArray], FloatArray]) -> None:
    values = daily()
    values[STRANGE] = fault(values[STRANGE])

    evidence = whole(values)

    assert STRANGE.start <= evidence.argmax() < STRANGE.stop
    assert standing_out(evidence)[STRANGE].mean() > 0.8


def test_a_change_of_level_raises_an_alarm_while_it_lasts_and_is_accepted_in_the_end() -> None:
    values = np.append(daily(1400), daily(12_000, seed=4) + 60)

    flagged = alarms(causal(values))

    assert flagged[:1400].mean() < 0.05
    assert flagged[1405:1440].all()
    assert flagged[-3000:].mean() < 0.02


def test_normal_points_seldom_raise_an_alarm() -> None:
    rate = np.mean([alarms(causal(daily(3000, seed))).mean() for seed in range(20)])

    assert rate < 0.02


def test_later_points_never_change_earlier_scores_or_alarms() -> None:
    values = daily()
    values[STRANGE] += 25
    scores = causal(values)

    for end in (41, 250, 777, 1405, 1999):
        assert (causal(values[:end]) == scores[:end]).all()
        assert (alarms(scores[:end]) == alarms(scores)[:end]).all()


@pytest.mark.parametrize("score", [whole, causal])
def test_units_offsets_and_signs_do_not_matter(score: Callable[[FloatArray], FloatArray]) -> None:
    values = daily()
    values[STRANGE] += 25

    for factor, offset in ((1e-9, 0.0), (1e12, 3e12), (-3.0, 7.0), (1e300, 0.0)):
        assert np.allclose(score(factor * values + offset), score(values), atol=1e-6)


def test_looking_back_a_series_run_backwards_scores_the_same_backwards() -> None:
    values = daily(600)

    backwards = whole(values[::-1])[::-1]

    assert np.corrcoef(backwards, whole(values))[0, 1] > 0.99


@pytest.mark.parametrize("score", [whole, causal])
def test_missing_points_are_no_evidence(score: Callable[[FloatArray], FloatArray]) -> None:
    values = daily()
    values[STRANGE] += 25
    complete = score(values)
    values[::7] = np.nan
    values[3::70] = np.inf

    scores = score(values)

    assert np.isfinite(scores).all()
    assert np.corrcoef(scores, complete)[0, 1] > 0.95


def test_a_gap_leaves_the_score_where_it_was() -> None:
    values = daily(500)
    values[300:400] = np.nan

    assert np.ptp(causal(values)[299:400]) == 0


@pytest.mark.parametrize("score", [whole, causal])
@pytest.mark.parametrize(
    "values", [[], [3.0], [1.0, 2.0], [np.nan] * 100, [np.inf] * 3, [7.5] * 500, [0.0] * 500, [0.1] * 999]
)
def test_series_that_say_nothing_raise_no_alarm_and_score_zero_where_nothing_varies(
    score: Callable[[FloatArray], FloatArray], values: list[float]
) -> None:
    scores = score(np.array(values, np.float64))

    assert scores.shape == (len(values),)
    assert np.isfinite(scores).all()
    assert len(set(values)) > 1 or not scores.any()
    assert not alarms(scores).any()
    assert len(values) < 3 or not standing_out(scores).any()


def test_one_point_is_no_more_evidence_than_the_cap_however_far_it_is() -> None:
    values = np.zeros(200)
    values[150] = 1e308

    scores = causal(values)

    assert scores[150] == pytest.approx(FARTHEST / 50)
    assert (np.diff(scores[150:]) < 0).all()


def test_nothing_is_scored_before_there_is_a_history() -> None:
    values = daily(100)
    values[FEWEST - 1] = 1e6

    assert not causal(values)[:FEWEST].any()


@pytest.mark.parametrize("batch", [False, True])
def test_a_folder_gives_a_row_of_score_and_flag_for_each_point(tmp_path: Path, batch: bool) -> None:
    values = daily(700)
    values[500:560] += 40
    lines = [f"2024-01-01,{'' if i == 99 else repr(value)},0,0" for i, value in enumerate(values.tolist())]
    (tmp_path / "daily.csv").write_text("\n".join(["timestamp,value,label,is_train", *lines]) + "\n")

    told = list(replay_folder(tmp_path, tmp_path / "out", batch))

    with (tmp_path / "out" / "daily.csv").open(newline="") as written:
        rows = list(csv.DictReader(written))
    assert told == [f"daily: 700 points, {sum(row['is_anomaly'] == '1' for row in rows)} flagged"]
    assert len(rows) == 700 and list(rows[0]) == ["score", "is_anomaly"]
    assert 500 <= int(np.argmax([float(row["score"]) for row in rows])) < 560
    assert rows[540]["is_anomaly"] == "1" and rows[300]["is_anomaly"] == "0"
