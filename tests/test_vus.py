"""VUS-PR against what a pencil gives, and against the definition written out point by point."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.random import default_rng
from numpy.typing import NDArray

from tools.vus import score_folder, vus_pr, window_of

type FloatArray = NDArray[np.float64]
type IntArray = NDArray[np.int64]


def plain_average_precision(labels: IntArray, scores: FloatArray, width: int) -> float:
    """One buffer width, each cut on its own: in plain loops."""
    n, half = len(labels), width // 2
    worth = labels.astype(float)
    starts = [i for i in range(n) if labels[i] and (i == 0 or not labels[i - 1])]
    ends = [i for i in range(n) if labels[i] and (i == n - 1 or not labels[i + 1])]
    for start, end in zip(starts, ends, strict=True):
        for step in range(1, half + 1):
            for i in (start - step, end + step):
                if 0 <= i < n:
                    worth[i] += np.sqrt(1 - step / width)
    worth = np.minimum(worth, 1.0)
    # Stretches whose buffers only touch stay apart.
    groups: list[list[int]] = []
    for start, end in zip(starts, ends, strict=True):
        if groups and start - half <= groups[-1][1] + half:
            groups[-1][1] = end
        else:
            groups.append([start, end])

    total, last = 0.0, 0.0
    for rank in np.linspace(0, n - 1, 250).astype(int):
        flagged = scores >= np.sort(scores)[::-1][rank]
        hits = (worth * flagged).sum()
        size = (labels.sum() + labels.sum() + (worth * flagged * (labels == 0)).sum()) / 2
        touched = np.mean([flagged[max(a - half, 0):b + half + 1].any() for a, b in groups])
        recall = min(hits / size, 1.0) * touched
        total += (recall - last) * hits / flagged.sum()
        last = recall
    return total


@pytest.mark.parametrize("seed", range(12))
def test_it_equals_the_definition_point_by_point(seed: int) -> None:
    rng = default_rng(seed)
    labels = np.zeros(150, np.int64)
    for start in rng.integers(0, 149, 1 + seed % 4):
        labels[start:start + int(rng.integers(1, 20))] = 1
    scores = rng.normal(size=150) + labels
    scores = scores.round(0 if seed % 3 else 9)  # with and without equal scores

    expected = np.mean([plain_average_precision(labels, scores, width) for width in range(10)])

    assert vus_pr(labels, scores, 9) == pytest.approx(expected, abs=1e-12)


def test_by_hand_with_a_buffer_of_one_point_on_either_side() -> None:
    labels, scores = np.array([0, 0, 1, 0, 0]), np.array([0.0, 5.0, 4.0, 3.0, 1.0])
    side = np.sqrt(1 - 1 / 2)
    # No buffer, and one of one point, which has no room: the label is found second.
    without = 1 / 2
    # Cuts after 1, 2, 3 points; then recall is full.
    hits = np.array([side, 1 + side, 1 + 2 * side])
    recall = np.minimum(hits / (1 + np.array([side, side, 2 * side]) / 2), 1.0)
    with_buffer = (np.diff(recall, prepend=0.0) * hits / [1, 2, 3]).sum()

    assert vus_pr(labels, scores, 2) == pytest.approx((without + without + with_buffer) / 3)


def test_a_perfect_score_has_one_and_the_worst_about_the_share_of_labels() -> None:
    labels = np.zeros(1000, np.int64)
    labels[400:500] = 1

    assert vus_pr(labels, labels.astype(float), 0) == pytest.approx(1.0)
    assert vus_pr(labels, -labels.astype(float), 0) == pytest.approx(0.1, abs=0.01)


def test_a_score_that_is_not_finite_counts_as_the_lowest() -> None:
    labels, scores = np.array([0, 1, 1, 0, 0, 0]), np.array([np.nan, 3.0, 2.0, np.nan, 0.5, 1.0])

    assert vus_pr(labels, scores, 4) == vus_pr(labels, np.nan_to_num(scores, nan=0.5), 4)


def test_nothing_labelled_is_refused() -> None:
    with pytest.raises(ValueError, match="labelled"):
        vus_pr(np.zeros(9, np.int64), np.zeros(9), 3)


@pytest.mark.parametrize("period", [24, 100, 288])
def test_buffers_grow_to_the_period(period: int) -> None:
    values = np.sin(np.arange(4000) * 2 * np.pi / period) + 0.1 * default_rng(0).normal(size=4000)

    assert abs(window_of(values) - period) <= 2


@pytest.mark.parametrize("values", [np.arange(3000.0), np.ones(500), np.zeros(2)])
def test_buffers_grow_to_125_points_where_there_is_no_period(values: FloatArray) -> None:
    assert window_of(values) == 125


def test_each_file_of_a_folder_gets_its_figure(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    values = np.zeros(200)
    values[80:90] = 9.0
    rows = [f"2024,{value},{int(value > 0)},0" for value in values.tolist()]
    (tmp_path / "spike.csv").write_text("\n".join(["timestamp,value,label,is_train", *rows]))
    (tmp_path / "out" / "spike.csv").write_text("\n".join(["score,is_anomaly", *(f"{v},0" for v in values.tolist())]))

    (name, figure), = score_folder(tmp_path, tmp_path / "out")

    assert name == "spike"
    assert 0.5 < figure <= 1.0
