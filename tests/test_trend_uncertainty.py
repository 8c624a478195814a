"""The quantiles of a Prophet trend's future, against draws from the very process."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.random import default_rng
from scipy.special import ndtri

from training.trend_uncertainty import STEPS, Widening, quantile

DRAWS = 100_000


@pytest.mark.parametrize(("count", "ratio"), [(0.01, 3.0), (0.5, 0.5), (2.0, 3.0), (25.0, 0.3), (25.0, 5.0), (0.3, 300.0)])
def test_draws_of_the_process_fall_below_a_quantile_as_often_as_it_says(count: float, ratio: float) -> None:
    rng = default_rng(7)
    changes = rng.poisson(count, DRAWS)
    moved = rng.laplace(size=changes.sum()) * rng.random(changes.sum())
    draws = rng.normal(size=DRAWS) + ratio * np.bincount(np.repeat(np.arange(DRAWS), changes), moved, DRAWS)

    for probability in (0.6, 0.9, 0.975, 0.995):
        share = (draws <= quantile(probability, count, ratio)).mean()
        assert share == pytest.approx(probability, abs=4 * np.sqrt(probability * (1 - probability) / DRAWS))


@pytest.mark.parametrize(("count", "ratio"), [(0.0, 3.0), (5.0, 0.0), (5.0, 1e-9)])
def test_without_a_change_of_trend_the_noise_is_normal(count: float, ratio: float) -> None:
    assert quantile(0.995, count, ratio) == pytest.approx(ndtri(0.995), rel=1e-6)


def test_the_table_is_within_a_thousandth_of_the_quantiles_between_its_points() -> None:
    growths = np.linspace(0.5, 1.5, 9)
    widening = Widening.tabulate(noise=0.02, changes=25, size=0.05, farthest=4.0, growths=growths)
    ahead, growth = np.array([0.003, 0.11, 0.9, 2.7, 3.99]), np.array([0.53, 0.9, 1.01, 1.2, 1.47])

    exact = [quantile(0.995, 25 * h, g * 0.05 * h / 0.02) * 0.02 / ndtri(0.995) for h, g in zip(ahead, growth, strict=True)]
    np.testing.assert_allclose(widening.at(np, ahead, growth), exact, rtol=3e-3)
    assert widening.table.shape == (STEPS, 9)


def test_the_spread_is_the_noise_up_to_the_end_of_training_and_stops_growing_with_the_table() -> None:
    widening = Widening.tabulate(noise=0.02, changes=25, size=0.05, farthest=4.0, growths=np.ones(1))

    spread = widening.at(np, np.array([-1.0, 0.0, 1.0, 4.0, 9.0]), 1.0)

    assert spread[0] == spread[1] == pytest.approx(0.02)
    assert spread[1] < spread[2] < spread[3] == spread[4]
