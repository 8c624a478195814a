"""Tables with a known pattern, and a fitted family run the way it is served."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ndonnx as ndx
import numpy as np
import onnxruntime as ort
from numpy.random import default_rng
from numpy.typing import NDArray

from detectors.calendar import holiday_classes
from training.series import TrainingSeries

type Graph = Callable[[Mapping[str, Any]], list[NDArray[np.float64]]]

MONDAY = 19_002  # 2022-01-10
WEEK = np.array([1.0, 1.1, 1.1, 1.05, 0.9, 0.4, 0.3])  # Monday to Sunday


def daily(
    days: int, *, rows: float = 10_000.0, noise: float = 0.03, country: str | None = None, holiday: float = 1.0
) -> TrainingSeries:
    """A weekly pattern around `rows`, `noise` in log units, times `holiday` on the holidays of the country."""
    start = MONDAY
    time = np.arange(start, start + days)
    classes, names = holiday_classes(start, start + days + 400, country)
    classes = classes[:days]
    level = rows * WEEK[(time + 3) % 7] * np.where(classes == 2, holiday, 1.0)
    return TrainingSeries(start, np.round(level * np.exp(noise * default_rng(days).normal(size=days))), classes, names)


def hourly(days: int, *, rows: float = 1_000.0, noise: float = 0.05) -> TrainingSeries:
    """Busy afternoons, quiet nights and weekends."""
    start = MONDAY * 24
    time = np.arange(start, start + 24 * days)
    level = rows * WEEK[(time // 24 + 3) % 7] * (1.2 + np.sin((time % 24 - 9) * np.pi / 12))
    values = np.round(level * np.exp(noise * default_rng(days).normal(size=len(time))))
    return TrainingSeries(start, values, np.zeros(len(time), np.int64), granularity="hourly")


def served(fitted: Any) -> Graph:
    """`fitted.forecast` as a graph in ONNX Runtime: inputs by name -> expected, spread below, spread above, effects."""
    inputs = {
        "time": ndx.argument(shape=("n",), dtype=ndx.int64),
        "history": ndx.argument(shape=("n", "k"), dtype=ndx.float64),
        "holiday": ndx.argument(shape=("n", "k_and_judged"), dtype=ndx.int64),
    }
    names = ["expected", "below", "above", "effects"]
    outputs = dict(zip(names, fitted.forecast(ndx, **inputs), strict=True))
    model = ndx.build(inputs, outputs, drop_unused=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    used = [entry.name for entry in session.get_inputs()]

    def run(feeds: Mapping[str, Any]) -> list[NDArray[np.float64]]:
        answers: list[NDArray[np.float64]] = session.run(names, {name: feeds[name] for name in used})
        return answers

    return run


def unknown(time: NDArray[np.int64], window: int) -> dict[str, NDArray[Any]]:
    """The inputs of days about whose past nothing is known."""
    n = len(time)
    return {"time": time, "history": np.full((n, window), np.nan), "holiday": np.zeros((n, window + 1), np.int64)}
