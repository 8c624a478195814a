"""Does the ONNX graph say what the library says?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ndonnx as ndx
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from training.series import FloatArray


@dataclass(frozen=True, slots=True)
class Parity:
    """The comparison of a family's graph, run by ONNX Runtime, with the library that fitted it.

    `max_difference` is the largest difference over `rows` points in the family's own unit (its `check_parity` says which),
    `label_differences` the number of points that one calls normal and the other not.
    """

    max_difference: float
    label_differences: int
    rows: int
    tolerance: float = 1e-6

    @property
    def holds(self) -> bool:
        """Whether the graph may be published. NaN never holds, and neither does a comparison of nothing."""
        return self.rows > 0 and self.label_differences == 0 and self.max_difference <= self.tolerance

    @classmethod
    def of(
        cls, graph: FloatArray, library: FloatArray, observed: FloatArray, spread: float,
        unit: FloatArray | float | None = None, tolerance: float = 1e-6,
    ) -> Parity:
        """(m,) expectations of both, compared in `unit` (one spread if not given).

        What was observed more than three spreads away, of those points that were, is called anomalous.
        """
        difference = np.abs(graph - library) / (spread if unit is None else unit)
        far = [np.abs(observed - expected) > 3 * spread for expected in (graph, library)]
        return cls(float(np.max(difference, initial=0.0)), int((far[0] != far[1]).sum()), len(graph), tolerance)


def through_onnx(function: Callable[..., Any], feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """The answer of `function(xp, **feeds)`, traced into a graph and run by ONNX Runtime; the first axis is symbolic."""
    kinds = {np.dtype(np.int64): ndx.int64, np.dtype(np.float64): ndx.float64}
    arguments = {name: ndx.argument(shape=("n", *a.shape[1:]), dtype=kinds[a.dtype]) for name, a in feeds.items()}
    model = ndx.build(arguments, {"answer": function(ndx, **arguments)}, drop_unused=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    used = {entry.name: feeds[entry.name] for entry in session.get_inputs()}
    answer: NDArray[Any] = session.run(["answer"], used)[0]
    return answer
