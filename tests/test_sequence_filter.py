"""The filter behind the sequence verdicts, and its replay of labelled series."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from detectors.sequence_verdict import FAR, combined, score_of, student_tail, surprise_of, with_range
from tests.sequences import DAY, HOURLY, START, USUAL, beginning, log_odds, metrics, with_fault
from tools.backtest_sequence import replay_folder


def test_later_points_never_change_earlier_scores() -> None:
    values = metrics(20, 2)
    changed = values.copy()
    changed[-30:] = np.random.default_rng(1).uniform(0, 500, (30, 2))

    assert np.array_equal(log_odds(values)[:-30], log_odds(changed)[:-30])
    assert not np.array_equal(log_odds(values)[-30:], log_odds(changed)[-30:])


def test_a_copy_of_the_filter_goes_its_own_way() -> None:
    known = beginning(USUAL)
    for row in USUAL[:400]:
        known.step(row)
    ahead = known.copy()
    for _ in range(30):
        ahead.step(np.array([5.0]))

    assert np.array_equal([known.step(row).log_odds for row in USUAL[400:]], log_odds(USUAL)[400:])


def test_a_filter_repeated_says_the_same_of_every_copy() -> None:
    known = beginning(USUAL)
    for row in USUAL[:400]:
        known.step(row)
    three = known.repeated(3)

    for row in USUAL[400:440]:
        assert three.step(np.repeat(row, 3)).log_odds == pytest.approx(np.repeat(known.step(row).log_odds, 3), abs=1e-9)


def test_permuting_metrics_permutes_the_evidence() -> None:
    values = metrics(18, 4)
    order = [2, 0, 3, 1]

    assert log_odds(values[:, order]) == pytest.approx(log_odds(values)[:, order], abs=1e-9)


@pytest.mark.parametrize("noise", ["normal", "poisson", "heavy", "walk"])
def test_clean_series_of_any_kind_are_rarely_flagged(noise: str) -> None:
    rng = np.random.default_rng(4)
    n = DAY * 40
    wave = metrics(40, noise=0.0)[:, 0]
    series = {"normal": wave + rng.normal(0, 10, n), "poisson": rng.poisson(wave), "heavy": wave + 5 * rng.standard_t(3, n),
              "walk": np.cumsum(rng.normal(0, 1, n))}[noise]

    surprise = surprise_of(log_odds(np.round(series, 2)[:, None])[HOURLY.setup:, 0])

    assert (score_of(surprise) >= 0.99).mean() <= 0.01


def test_what_lasts_is_the_new_usual_after_some_days() -> None:
    values = metrics(36)
    values[DAY * 20:] = np.roll(values[DAY * 20:], 6, axis=0)

    found = log_odds(values)[:, 0] > 2.3

    assert found[DAY * 20: DAY * 23].mean() > 0.5
    assert found[DAY * 30:].mean() < 0.05


def test_a_bucket_without_a_value_says_nothing_and_the_filter_goes_on() -> None:
    gaps = USUAL.copy()
    gaps[-40:-30] = np.nan

    evidence = log_odds(gaps)[:, 0]

    assert np.isnan(evidence[-40:-30]).all() and np.isfinite(evidence[-30:]).all()
    assert (evidence[-30:] < 2.3).all()


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0, 1e12])
def test_a_constant_series_is_normal_until_it_moves(value: float) -> None:
    values = np.full((DAY * 20, 1), value)
    values[-1] += max(abs(value), 1.0)

    evidence = log_odds(values)[:, 0]

    assert np.isfinite(evidence).all() and (evidence[HOURLY.setup:-1] < 2.3).all()
    assert evidence[-1] > evidence[-2] + 2


# Back-test


def test_the_back_test_judges_every_hour_by_those_before_it(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    values = with_fault("frozen")
    with (tmp_path / "in" / "feed.csv").open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["timestamp", "value", "label", "is_train"])
        for i, value in enumerate(values[:, 0]):
            moment = datetime.fromtimestamp(START.timestamp() + 3600 * i, UTC).replace(tzinfo=None)
            writer.writerow([moment, value, int(i >= len(values) - 18), int(i < 400)])

    told = list(replay_folder(tmp_path / "in", tmp_path / "out"))

    with (tmp_path / "out" / "feed.csv").open(newline="") as lines:
        judged = list(csv.DictReader(lines))
    assert len(judged) == len(values) and [row["score"] for row in judged[: HOURLY.setup]] == [""] * HOURLY.setup
    assert sum(int(row["is_anomaly"]) for row in judged[-18:]) > 12 and judged[-1]["hypothesis"] == "frozen"
    assert sum(int(row["is_anomaly"]) for row in judged[:-18]) <= 3 and "1 of 1 faults found" in told[0]
    surprise = combined(surprise_of(log_odds(values)))[0] + np.log1p(-FAR)  # no value lies far outside of its range here
    expected = np.maximum(surprise, 0.0)[HOURLY.setup:].tolist()
    assert [float(row["score"]) for row in judged[HOURLY.setup:]] == pytest.approx(expected)


def test_one_value_far_outside_of_its_range_is_found_at_once() -> None:
    inside, outside = with_range(np.array([[0.1, 3.0, np.nan]]), np.array([[1.0, 1.0, 50.0]]))[0], with_range(
        np.array([[0.1, 3.0, 0.1]]), np.array([[12.0, 12.0, np.nan]]))

    assert inside[0, :2].tolist() == pytest.approx([0.1 + np.log1p(-FAR), 3.0 + np.log1p(-FAR)]) and np.isnan(inside[0, 2])
    assert outside[1].tolist() == [[True, False, False]], "what the filter explains is told as that"
    assert (outside[0][0, :2] > -np.log(0.01)).all()
    # Student's t with five degrees of freedom: scipy.stats.t.sf(12, 5) * 2
    assert student_tail(np.array([12.0]))[0] == pytest.approx(-np.log(7.0895e-05), rel=1e-4)
