"""What goes wrong with the order and shape of a day, every value staying in range: for back-tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from training.series import FloatArray

# (p,) values of a day by its phases, the day before, the same day a week ago -> the day as a fault shows it.
type Fault = Callable[[FloatArray, FloatArray, FloatArray], FloatArray]


def _frozen(day: FloatArray, before: FloatArray, week: FloatArray) -> FloatArray:
    start = len(day) // 4
    return np.concatenate([day[:start], np.full(len(day) - start, day[start])])


def _stretched(day: FloatArray, before: FloatArray, week: FloatArray) -> FloatArray:
    return np.interp(np.arange(len(day)) / 2, np.arange(len(day)), day)


def _line(day: FloatArray, before: FloatArray, week: FloatArray) -> FloatArray:
    return np.linspace(day[0], day[-1], len(day))


def _smoothed(day: FloatArray, before: FloatArray, week: FloatArray) -> FloatArray:
    return np.convolve(np.concatenate([day[:1], day, day[-1:]]), np.full(3, 1 / 3), "valid")


# What the filter has a hypothesis for.
EXPECTED: dict[str, Fault] = {
    "frozen": _frozen,
    "flattened": lambda day, before, week: day.mean() + 0.25 * (day - day.mean()),
    "mirrored": lambda day, before, week: day.max() + day.min() - day,
    "reversed": lambda day, before, week: day[::-1],
    "shifted": lambda day, before, week: np.roll(day, max(len(day) // 4, 1)),
    "copy_of_yesterday": lambda day, before, week: before,
    "copy_of_last_week": lambda day, before, week: week,
}
# What it has none for.
OTHERS: dict[str, Fault] = {
    "shifted_a_little": lambda day, before, week: np.roll(day, -max(len(day) // 8, 2)),
    "shifted_by_half": lambda day, before, week: np.roll(day, len(day) // 2),
    "shuffled": lambda day, before, week: np.random.default_rng(0).permutation(day),
    "line": _line,
    "half_as_high": lambda day, before, week: day.mean() + 0.5 * (day - day.mean()),
    "sorted": lambda day, before, week: np.sort(day),
    "stretched": _stretched,
    "smoothed": _smoothed,
}
