"""Rows of one table, ranked by how odd they are, and the files of their replay."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from numpy.random import default_rng
from numpy.typing import NDArray

from tools.backtest_tabular import replay_folder
from training.outlier_ranking import FARTHEST, NEIGHBOURS, isolation, neighbour_distance, outlier_ranks, ranks, scaled

type FloatArray = NDArray[np.float64]


def correlated(rows: int = 400) -> FloatArray:
    """Two columns that follow one another, and two of noise. Row 0 is odd in one column, row 1 only in a combination."""
    rng = default_rng(0)
    table = rng.normal(size=(rows, 4))
    table[:, 1] = table[:, 0] + 0.05 * rng.normal(size=rows)
    table[0] = (0.0, 0.0, 9.0, 0.0)
    table[1] = (1.2, -1.2, 0.0, 0.0)
    return table


def test_a_row_odd_in_one_column_and_a_row_odd_in_a_combination_are_both_on_top() -> None:
    table = correlated()

    score = outlier_ranks(table)

    assert score[0] > 0.99
    assert score[1] > 0.95
    assert score.min() > 0 and score.max() < 1


def test_the_score_is_the_higher_of_the_two_ranks() -> None:
    table = correlated()
    rows = scaled(table)

    expected = np.maximum(ranks(isolation(rows)), ranks(neighbour_distance(rows)))

    assert (outlier_ranks(table) == expected).all()
    assert (expected > ranks(isolation(rows))).any() and (expected > ranks(neighbour_distance(rows))).any()


def test_distances_equal_the_definition_row_by_row() -> None:
    rows = scaled(correlated(150))

    expected = [np.sort(np.linalg.norm(rows - row, axis=1))[1:NEIGHBOURS + 1].mean() for row in rows]

    assert np.allclose(neighbour_distance(rows), expected, atol=1e-12)


def test_ranks_are_shares_below_with_equals_counted_half() -> None:
    scores = default_rng(1).integers(0, 6, 40).astype(float)

    expected = [((scores < score).sum() + (scores == score).sum() / 2) / 40 for score in scores]

    assert np.allclose(ranks(scores), expected)


def test_the_same_table_gives_the_same_ranks_and_the_order_of_its_rows_does_not_matter() -> None:
    table = correlated()
    order = default_rng(2).permutation(len(table))

    assert (outlier_ranks(table) == outlier_ranks(table)).all()
    assert np.allclose(outlier_ranks(table[order]), outlier_ranks(table)[order], atol=1e-12)


def test_the_order_of_the_columns_and_their_units_hardly_matter() -> None:
    table = correlated()
    other = table[:, [2, 0, 3, 1]] * [1e-200, 1e6, -1.0, 1e200] + [0.0, 1e3, 5.0, 0.0]

    assert np.allclose(neighbour_distance(scaled(other)), neighbour_distance(scaled(table)), atol=1e-6)
    assert np.abs(outlier_ranks(other) - outlier_ranks(table)).mean() < 0.02


def test_columns_of_one_value_and_empty_columns_change_nothing() -> None:
    table = correlated()
    constant, empty = np.full(len(table), 3e17), np.full(len(table), np.nan)

    assert (outlier_ranks(np.column_stack([constant, table, empty])) == outlier_ranks(table)).all()


def test_missing_and_infinite_values_are_no_evidence() -> None:
    table = correlated()
    table[5, 2], table[6, 3], table[7] = np.nan, np.inf, np.nan
    filled = table.copy()
    for row, column in ((5, 2), (6, 3), *((7, column) for column in range(4))):
        filled[row, column] = np.median(table[:, column][np.isfinite(table[:, column])])

    score = outlier_ranks(table)

    assert np.isfinite(score).all()
    assert score[7] < 0.5
    assert np.abs(score - outlier_ranks(filled)).max() < 0.05


def test_equal_rows_have_equal_scores() -> None:
    table = np.repeat(default_rng(3).normal(size=(60, 30)).round(1), 3, axis=0)

    score = outlier_ranks(table).reshape(60, 3)

    assert (np.ptp(score, axis=1) == 0).all()


def test_one_wild_value_does_not_hide_another_column() -> None:
    table = default_rng(4).normal(size=(300, 2))
    table[0, 0], table[1, 1] = 1e12, 12.0

    assert (ranks(neighbour_distance(scaled(table)))[:2] > 0.99).all()
    assert np.abs(scaled(table)).max() == FARTHEST


def test_a_column_of_mostly_one_value_keeps_its_exceptions_apart() -> None:
    table = np.column_stack([np.zeros(300), default_rng(5).normal(size=300)])
    table[:3, 0] = 1.0

    assert (outlier_ranks(table)[:3] > 0.95).all()


@pytest.mark.parametrize(
    "shape", [(0, 0), (0, 3), (1, 3), (2, 2), (5, 0)], ids=["nothing", "no rows", "one row", "two rows", "no columns"]
)
def test_where_there_is_nothing_to_compare_every_row_is_in_the_middle(shape: tuple[int, int]) -> None:
    assert outlier_ranks(default_rng(6).normal(size=shape)).tolist() == [0.5] * shape[0]


@pytest.mark.parametrize("value", [0.0, 0.1, -1e300, np.nan, np.inf])
def test_a_table_of_one_value_has_every_row_in_the_middle(value: float) -> None:
    assert outlier_ranks(np.full((30, 4), value)).tolist() == [0.5] * 30


def test_a_folder_gives_a_row_of_score_and_flag_for_each_row_and_flags_the_highest_tenth(tmp_path: Path) -> None:
    table = correlated()
    np.savez(tmp_path / "7_rows.npz", X=table.astype(np.float32), y=np.zeros(len(table)))

    told = list(replay_folder(tmp_path, tmp_path / "out"))

    with (tmp_path / "out" / "7_rows.csv").open(newline="") as written:
        rows = list(csv.DictReader(written))
    assert told == ["7_rows: 400 rows, 40 flagged"]
    assert len(rows) == 400 and list(rows[0]) == ["score", "is_anomaly"]
    assert [float(row["score"]) for row in rows] == outlier_ranks(table.astype(np.float32)).tolist()
    assert rows[0]["is_anomaly"] == "1"
