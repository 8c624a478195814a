"""A fitted timeliness model as one ONNX file: the whole decision with its card and a probe of what it answers here."""

from __future__ import annotations

from typing import Any

import ndonnx as ndx
import numpy as np

from detectors.artefact import Artefact
from detectors.lags import Verdict
from training.decision import finished
from training.lag_backtest import judged
from training.lag_families import Family, LagSeries
from training.parity import Parity

PARITY_ROWS = 60


def export(fitted: Family, series: LagSeries, card: dict[str, Any]) -> bytes:
    """Inputs that the family does not use are not declared. The probe: an ordinary load, gaps, a late and an unknown one."""
    inputs = {
        "time": ndx.argument(shape=("n", "k_and_judged"), dtype=ndx.int64),
        "history": ndx.argument(shape=("n", "k"), dtype=ndx.float64),
        "value": ndx.argument(shape=("n",), dtype=ndx.float64),
        "threshold": ndx.argument(shape=("n",), dtype=ndx.float64),
    }
    model = ndx.build(inputs, fitted.judge(ndx, **inputs)._asdict(), drop_unused=True)
    model.graph.input.sort(key=lambda entry: list(inputs).index(entry.name))
    feeds = judged(series, np.full(4, len(series) - 1))
    feeds["history"][1, -2:] = np.nan
    feeds["value"][2:] = feeds["value"][2] + 1e3, np.nan
    feeds = {entry.name: feeds[entry.name] for entry in model.graph.input}
    return finished(model, feeds, card)


def parity(payload: bytes, fitted: Family, series: LagSeries) -> Parity:
    """Does the file say what numpy says? Largest difference of a score or, in units of the range, of a bound."""
    inputs = judged(series, np.arange(max(len(series) - PARITY_ROWS, 1), len(series)))
    with np.errstate(invalid="ignore", over="ignore"):
        library = fitted.judge(np, **inputs)
    graph = Verdict(**Artefact.load(payload).run(inputs))
    width = library.upper - library.lower
    score = np.abs(graph.score - library.score)
    bounds = [np.abs(a - b) / width for a, b in zip(graph[:3], library[:3], strict=True)]
    known = np.isfinite(library.score)
    labels = (graph.score >= inputs["threshold"]) != (library.score >= inputs["threshold"])
    worst = float(np.max(np.stack([score, *bounds])[:, known], initial=0.0))
    return Parity(worst, int(labels.sum() + (np.isnan(graph.score) == known).sum()), int(known.sum()))
