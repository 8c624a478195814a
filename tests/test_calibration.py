"""A calibrated score of 0.99 is exceeded by one normal point in 100, whatever the raw score looks like."""

from __future__ import annotations

from collections.abc import Callable

import ndonnx as ndx
import numpy as np
import pytest
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from training.calibration import Calibration
from training.decision import run
from training.series import NotEnoughHistory

type Floats = NDArray[np.float64]
type Draw = Callable[[Generator, int], Floats]

RAW_SCORES: dict[str, Draw] = {
    "half normal": lambda rng, n: np.abs(rng.normal(size=n)),
    "exponential": lambda rng, n: rng.exponential(size=n),
    "half t with 5 degrees of freedom": lambda rng, n: np.abs(rng.standard_t(5, size=n)),
    "chi-squared": lambda rng, n: rng.chisquare(8, size=n) / 4,
    "two-sided normal": lambda rng, n: rng.normal(size=n),
    "log-normal": lambda rng, n: np.exp(0.5 * rng.normal(size=n)),
}


@pytest.mark.parametrize("shape", RAW_SCORES)
@pytest.mark.parametrize("points", [20, 60, 200])
def test_the_share_of_normal_points_above_a_score_is_what_the_score_says(shape: str, points: int) -> None:
    rng, draw = default_rng(1), RAW_SCORES[shape]
    population = np.sort(draw(rng, 100_000))
    thresholds = np.array([0.5, 0.9, 0.99, 0.9999])

    shares = np.array(
        [
            1 - np.searchsorted(population, Calibration.fit(draw(rng, points)).inverse(np, thresholds)) / 100_000
            for _ in range(400)
        ]
    )
    share, error = shares.mean(axis=0), shares.std(axis=0) / np.sqrt(len(shares))

    assert abs(share[0] - 0.5) < 3 * error[0] + 0.005
    assert abs(share[1] - 0.1) < 3 * error[1] + 0.01
    assert (0.002 if points == 20 else 0.005) < share[2] < 0.0115 + 3 * error[2]
    assert share[3] < 0.0006


def test_score_and_inverse_undo_each_other() -> None:
    calibration = Calibration.fit(default_rng(2).exponential(size=60))
    scores = np.concatenate([np.linspace(0, 0.99, 200), 1 - np.logspace(-2, -6, 50)])
    raw = np.linspace(calibration.knots[0], calibration.knots[-1] + 20 * calibration.scale, 500)

    assert np.abs(calibration.score(np, calibration.inverse(np, scores)) - scores).max() < 1e-9
    assert np.abs(calibration.inverse(np, calibration.score(np, raw)) - raw).max() < 1e-9


def test_a_higher_raw_score_always_scores_higher() -> None:
    calibration = Calibration.fit(default_rng(3).exponential(size=100))
    raw = np.linspace(calibration.knots[0], calibration.knots[-1] + 10 * calibration.scale, 10_000)

    assert (np.diff(calibration.score(np, raw)) > 0).all()
    assert calibration.score(np, np.array([-5.0, 1e6])).tolist() == [0.0, pytest.approx(1.0, abs=1e-12)]


@pytest.mark.parametrize("values", [[0.0], [3.5], [0.0, 1.0], [0.0, 0.0, 0.0, 2.0], [1e6]])
def test_ties_and_constant_scores_are_calibrated_without_a_jump_in_time_or_sign(values: list[float]) -> None:
    calibration = Calibration.fit(np.resize(np.array(values), 60))
    scores = np.linspace(0.01, 0.999, 300)
    raw = calibration.inverse(np, scores)

    assert (np.diff(raw) > 0).all()
    assert np.abs(calibration.score(np, raw) - scores).max() < 1e-9
    assert calibration.score(np, np.array([max(values) + 10.0]))[0] > 0.99


@pytest.mark.parametrize("anomalies", [1, 2, 3])
def test_a_few_anomalies_among_the_held_out_points_do_not_move_the_threshold(anomalies: int) -> None:
    clean = np.abs(default_rng(4).normal(size=60))
    dirty = clean.copy()
    dirty[:anomalies] = [40.0, 1e4, 1e9][:anomalies]
    threshold = np.array([0.99])

    assert Calibration.fit(dirty).inverse(np, threshold)[0] < 1.3 * Calibration.fit(clean).inverse(np, threshold)[0]


def test_a_table_that_often_jumps_keeps_its_jumps_as_normal() -> None:
    raw = np.abs(default_rng(5).normal(size=100))
    raw[:10] = 40.0

    assert Calibration.fit(raw).inverse(np, np.array([0.99]))[0] > 30.0


def test_missing_scores_are_left_out_and_come_out_as_missing() -> None:
    raw = default_rng(6).exponential(size=60)
    calibration = Calibration.fit(np.concatenate([raw, [np.nan, np.inf]]))

    assert (calibration.knots == Calibration.fit(raw).knots).all()
    assert np.isnan(calibration.score(np, np.array([np.nan, 1.0]))).tolist() == [True, False]


def test_fewer_than_twenty_points_are_refused() -> None:
    with pytest.raises(NotEnoughHistory) as refused:
        Calibration.fit(np.append(np.arange(19.0), np.nan))

    assert (refused.value.needs, refused.value.has) == (20, 19)


def test_the_graph_computes_what_numpy_computes() -> None:
    calibration = Calibration.fit(default_rng(7).exponential(size=60))
    raw, score = (ndx.argument(shape=("n",), dtype=ndx.float64) for _ in range(2))
    outputs = {"scored": calibration.score(ndx, raw), "inverted": calibration.inverse(ndx, score)}
    model = ndx.build({"raw": raw, "score": score}, outputs).SerializeToString()
    feeds = {
        "raw": np.array([-3.0, 0.0, 0.5, 2.0, 50.0, np.nan]),
        "score": np.array([-1, 0.0, 0.5, 0.99, 1 - 1e-9, 1.0]),
    }

    answers = run(model, feeds)

    assert np.allclose(answers["scored"], calibration.score(np, feeds["raw"]), rtol=1e-13, atol=0, equal_nan=True)
    with np.errstate(divide="ignore"):
        assert np.allclose(answers["inverted"], calibration.inverse(np, feeds["score"]), rtol=1e-12, atol=0)
