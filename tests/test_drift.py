"""Drift: three distances with thresholds that know the sample sizes, and what is taken out of a series before."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.counts import WEEK
from training import drift
from training.drift import ALPHA, FloatArray, compare

ROUNDS = 300
values = st.lists(st.integers(-1000, 1000), min_size=30, max_size=120).map(lambda xs: np.array(xs, np.float64))


def noise(seed: int, size: int, memory: float = 0.0) -> FloatArray:
    """A first-order autoregression with deviation 1."""
    shocks = np.random.default_rng(seed).normal(size=size + 50)
    for i in range(1, len(shocks)):
        shocks[i] = memory * shocks[i - 1] + math.sqrt(1 - memory**2) * shocks[i]
    return shocks[50:]


def counts(seed: int, days: int, *, growth: float = 0.0, memory: float = 0.0) -> FloatArray:
    """Logs of counts with a weekly pattern and 10 % noise."""
    day = np.arange(days)
    rows = 10_000 * WEEK[day % 7] * np.exp(growth * day + 0.1 * noise(seed, days, memory))
    return np.log1p(np.round(rows))


def drifts(series: FloatArray, recent: int) -> bool:
    """Whether the last values of a daily series have drifted, seasons and growth taken out."""
    day = np.arange(len(series))
    late = day >= len(series) - recent
    found = drift.compare_features({"row_count": drift.steadied(series, day, day % 7, late)}, late)
    return bool(found) and found["row_count"].level == "large"


@given(values, values)
@settings(max_examples=60, deadline=None)
def test_figures_do_not_depend_on_which_sample_is_called_recent(a: FloatArray, b: FloatArray) -> None:
    there, back = compare(a, b), compare(b, a)

    assert (there is None) == (back is None)
    if there and back:
        for figure in ("psi", "js", "ks"):
            assert getattr(there, figure).value == pytest.approx(getattr(back, figure).value, abs=1e-12)
            assert getattr(there, figure).large == pytest.approx(getattr(back, figure).large)


@given(values, values)
@settings(max_examples=60, deadline=None)
def test_figures_are_the_same_under_any_increasing_transformation(a: FloatArray, b: FloatArray) -> None:
    as_it_is, bent = compare(a, b), compare(np.exp(a / 500), np.exp(b / 500))

    assert (as_it_is is None) == (bent is None)
    if as_it_is and bent:
        assert bent.to_json() == as_it_is.to_json()


@given(values, values)
@settings(max_examples=60, deadline=None)
def test_figures_keep_within_their_bounds(a: FloatArray, b: FloatArray) -> None:
    found = compare(a, b)

    if found:
        assert found.psi.value >= 0 and 0 <= found.js.value <= 1 and 0 <= found.ks.value <= 1
        assert all(figure.moderate <= figure.large for figure in (found.psi, found.js, found.ks))
        assert found.recent <= len(b) and found.reference <= len(a)


@given(values)
@settings(max_examples=40, deadline=None)
def test_a_sample_has_not_drifted_from_itself(a: FloatArray) -> None:
    found = compare(a, a)

    if found:
        assert (found.psi.value, found.js.value, found.ks.value) == (0, 0, 0) and found.level == "none"


def test_constant_columns_are_alike_and_another_constant_is_drift() -> None:
    same, other, stuck = (compare(a, b) for a, b in ((np.ones(60), np.ones(28)), (np.ones(60), np.full(28, 2.0)),
                                                     (noise(1, 60), np.full(28, 9.0))))

    assert same is not None and other is not None and stuck is not None
    assert (same.level, other.level, stuck.level) == ("none", "large", "large")


@pytest.mark.parametrize(("degrees", "quantile"), [(1, 3.8415), (2, 5.9915), (4, 9.4877), (9, 16.9190)])
def test_chi_squared_is_that_of_the_tables(degrees: int, quantile: float) -> None:
    assert drift.chi2_quantile(0.95, degrees) == pytest.approx(quantile, abs=1e-4)
    assert drift.chi2_tail(quantile, degrees) == pytest.approx(0.05, abs=1e-5)


@given(st.floats(0.001, 0.2), st.integers(10, 2000), st.integers(10, 2000))
def test_the_critical_distance_shrinks_with_more_values_and_grows_with_certainty(alpha: float, n: int, m: int) -> None:
    critical = drift.ks_critical(alpha, n, m)

    assert drift.ks_critical(alpha, 4 * n, 4 * m) < critical or critical == 1
    assert drift.ks_critical(alpha / 10, n, m) >= critical
    assert critical == drift.ks_critical(alpha, m, n) <= 1


@pytest.mark.parametrize("memory", [0.0, 0.5])
@pytest.mark.parametrize(("recent", "reference"), [(20, 60), (28, 100), (100, 300)])
def test_without_drift_about_one_table_in_a_hundred_is_said_to_drift(recent: int, reference: int, memory: float) -> None:
    found = [compare(x[:reference], x[reference:]) for x in (noise(seed, recent + reference, memory)
                                                             for seed in range(ROUNDS))]

    beyond = sum(one is not None and one.level == "large" for one in found)

    # Twelve of 300 or more come of a probability of 1 % once in 20,000 times.
    assert beyond < 4 * ALPHA * ROUNDS


def test_with_thousands_of_values_what_is_significant_and_small_is_no_drift() -> None:
    found = compare(noise(1, 4000), noise(2, 4000) + 0.12)

    assert found is not None and found.ks.value > drift.ks_critical(ALPHA, 4000, 4000)
    assert found.level == "none"


def test_between_the_two_thresholds_of_practice_a_change_is_moderate() -> None:
    found = compare(noise(1, 4000), noise(2, 4000) + 0.4)

    assert found is not None and 0.1 < found.psi.value < 0.25 and found.level == "moderate"


def test_of_few_values_no_index_is_believed_that_chance_may_have_made() -> None:
    found = compare(noise(3, 30), noise(4, 14))

    assert found is not None and found.psi.large > 2 * drift.PSI["large"] and found.level == "none"


def test_more_features_raise_every_threshold() -> None:
    one, many = (compare(noise(1, 100), noise(2, 28), features) for features in (1, 50))

    assert one is not None and many is not None
    assert many.psi.large > one.psi.large and many.ks.large > one.ks.large


def test_values_that_hang_together_count_for_less() -> None:
    alone, together = (drift.effective_sizes(noise(1, 2000, memory), noise(2, 500, memory)) for memory in (0.0, 0.5))

    assert alone == pytest.approx((2000, 500), rel=0.1)
    # 1 + 2 sum of 2/pi asin(0.48^k), of an autocorrelation of ranks of 0.48: about 2.2 values make one.
    assert together == pytest.approx((2000 / 2.2, 500 / 2.2), rel=0.15)


@pytest.mark.parametrize("seed", range(5))
def test_half_as_many_rows_again_are_drift_after_two_weeks(seed: int) -> None:
    series = counts(seed, 134)
    series[-14:] += math.log(1.5)

    assert drifts(series, 14)


@pytest.mark.parametrize("factor", [1.2, 0.8])
def test_a_fifth_more_or_less_is_drift_after_four_weeks(factor: float) -> None:
    found = 0
    for seed in range(20):
        series = counts(seed, 148, memory=0.5)
        series[-28:] += math.log(factor)
        found += drifts(series, 28)

    assert found >= 16


@pytest.mark.parametrize("growth", [0.0, 0.001, 0.005])
def test_a_weekly_season_and_growth_that_go_on_are_no_drift(growth: float) -> None:
    beyond = sum(drifts(counts(seed, 148, growth=growth), 28) for seed in range(60))

    assert beyond <= 5


def test_growth_that_turns_into_a_fall_is_drift() -> None:
    series = counts(1, 148, growth=0.01)
    series[-28:] -= 0.03 * np.arange(28)

    assert not drifts(series[:120], 28)
    assert drifts(series, 28)


def test_gaps_are_left_out() -> None:
    series = counts(1, 148)
    series[::9] = np.nan

    assert not drifts(series, 28)
    series[-28:] += 1.0
    assert drifts(series, 28)


def test_too_few_values_are_not_compared() -> None:
    assert compare(noise(1, 27), noise(2, 28)) is None
    assert compare(noise(1, 100), noise(2, 13)) is None
    assert compare(np.arange(100.0), np.arange(100.0, 114.0)) is None  # each hardly differs from the one before
