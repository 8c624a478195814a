"""A fitted distribution model as one ONNX file: the whole decision with its card and a probe of what it answers here."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from typing import Any

import ndonnx as ndx
import numpy as np

from detectors.artefact import Artefact
from detectors.conditional import Judged
from training.decision import finished
from training.distribution_families import Family
from training.parity import Parity

OUTPUTS = ("score", "evidence", "expected", "lower", "upper")
# A graph may differ by rounding, no more: a forest's depths are single precision, and are divided by their spread. Scores so
# close to the threshold may fall on either side.
TOLERANCE = 1e-5


def export(family: Family, inputs: dict[str, Any], card: dict[str, Any]) -> bytes:
    """`inputs` are some of the graph's, of usual batches: the probe is the first, as it is, with gaps, and ten times it."""
    p = len(family.gauge.features)
    arguments = {"x": ndx.argument(shape=("n", p), dtype=ndx.float64),
                 "last": ndx.argument(shape=("n", p), dtype=ndx.float64),
                 "weekday": ndx.argument(shape=("n",), dtype=ndx.int64),
                 "threshold": ndx.argument(shape=("n",), dtype=ndx.float64)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a lossy arc sine, which detectors.metrics refines
        judged = family.judge(ndx, **arguments)
    model = ndx.build(arguments, {name: getattr(judged, name) for name in OUTPUTS}, drop_unused=True)
    feeds = {name: np.repeat(value[:1], 3, axis=0) for name, value in inputs.items()}
    feeds["x"][1, ::7], feeds["x"][2] = np.nan, 10.0 * feeds["x"][2]
    declared = [entry.name for entry in model.graph.input]
    feeds = {name: feeds[name] for name in declared}
    tail = {name: value.tolist() for name, value in asdict(family.conditional.tail).items()}
    return finished(model, feeds, card | {"gauge": family.gauge.to_json(), "tail": tail})


def parity(payload: bytes, family: Family, inputs: dict[str, Any]) -> Parity:
    """Does the file say what the library says? Largest difference of a score or, in units of the range, of a bound."""
    library = family.judge(np, **inputs)
    graph = Judged(**Artefact.load(payload).run(inputs))
    width = np.maximum(library.upper - library.lower, 1e-9)
    parts = [np.abs(graph.score - library.score)]
    parts += [np.abs(getattr(graph, side) - getattr(library, side)) / np.maximum(width, 1e-6 * np.abs(library.expected))
              for side in ("expected", "lower", "upper")]
    worst = max(float(np.nanmax(part, initial=0.0)) for part in parts)
    threshold = inputs["threshold"]
    clear = np.abs(library.score - threshold) > TOLERANCE
    labels = ((graph.score >= threshold) != (library.score >= threshold)) & clear
    return Parity(worst, int(labels.sum()), len(threshold), TOLERANCE)


def worst(*parities: Parity) -> Parity:
    """Several comparisons as one."""
    return Parity(max(p.max_difference for p in parities), sum(p.label_differences for p in parities),
                  min(p.rows for p in parities), TOLERANCE)
