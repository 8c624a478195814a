"""Sequence models as ONNX files: what a family knows of one table, with its card and a probe of what it answers here.

    hypothesis_filter   log odds of the filter, which the service runs itself -> surprise, calibrated on this table
    lstm                the whole decision: values of the last week and hours -> surprise, expectation and range
"""

from __future__ import annotations

from typing import Any

import ndonnx as ndx
import numpy as np
import spox.opset.ai.onnx.v21 as op

from detectors.artefact import Artefact
from training import sequence_lstm
from training.decision import finished
from training.parity import Parity
from training.sequence_backtest import MetricSeries, Surprising
from training.sequence_lstm import GRAIN, Lstm
from training.series import FloatArray

PARITY_ROWS, PROBE_ROWS = 200, 3
# Float32 may differ by this much of a grain between machines; the probe's hidden states keep that far from where they round.
SAFE = 0.02
TOLERANCE = 1e-3  # of a spread: less than one grain of the hidden state is worth


def export_filter(calibration: Surprising, metrics: int, card: dict[str, Any]) -> bytes:
    """The probe: no evidence, some, much, and none known."""
    log_odds = ndx.argument(shape=("n", "m"), dtype=ndx.float64)
    model = ndx.build({"log_odds": log_odds}, {"surprise": calibration.surprise(ndx, log_odds)})
    probe = np.repeat(np.array([-9.0, 0.0, 12.0, np.nan])[:, None], metrics, axis=1)
    return _finished(model, {"log_odds": probe}, card)


def filter_parity(payload: bytes, calibration: Surprising, log_odds: FloatArray) -> Parity:
    """(k, m) log odds -> largest difference of a surprise."""
    known = log_odds[np.isfinite(log_odds).all(axis=1)]
    graph = Artefact.load(payload).run({"log_odds": known})["surprise"]
    library = calibration.surprise(np, known)
    line = -np.log(0.01)
    labels = int(((graph >= line) != (library >= line)).any(axis=1).sum())
    return Parity(float(np.abs(graph - library).max(initial=0.0)), labels, len(known), 1e-9)


def export_lstm(model: Lstm, series: MetricSeries, card: dict[str, Any]) -> bytes:
    """The graph around the native LSTM operator. The probe: ordinary hours at the end, one with gaps, one that is frozen."""
    m = len(series.metrics)
    inputs = {"time": ndx.argument(shape=("n",), dtype=ndx.int64),
              "window": ndx.argument(shape=("n", model.window, m), dtype=ndx.float64)}
    built = ndx.build(inputs, judge(ndx, model, inputs["time"], inputs["window"], lambda read: _hidden_in_onnx(model, read)))
    return _finished(built, _probe(model, series), card)


def judge(xp: Any, model: Lstm, time: Any, window: Any, hidden: Any) -> dict[str, Any]:
    """What the served file answers: surprise, expected, lower, upper, (n, m) each."""
    assert model.calibration is not None, "a model without calibration has no surprise"
    out = model.judge(xp, time, window, hidden)
    return {"surprise": model.calibration.surprise(xp, out.pop("raw")), **out}


def lstm_parity(payload: bytes, model: Lstm, series: MetricSeries) -> Parity:
    """ONNX Runtime against JAX on the last buckets: the largest difference of an expectation in spreads, and of labels."""
    ends = np.arange(max(model.window - 1, len(series.values) - PARITY_ROWS), len(series.values))
    time, windows = sequence_lstm.windows_of(series.values, series.start, ends, model.window)
    library = judge(np, model, time, windows, sequence_lstm.hidden_by_jax(model))
    graph = Artefact.load(payload).run({"time": time, "window": windows})
    expected = [part["expected"] for part in (graph, library)]
    levels = [np.where(model.root, np.sqrt(np.maximum(part, 0.0)), part) for part in expected]
    difference = np.abs(levels[0] - levels[1]) / model.spread
    line = -np.log(0.01)
    labels = (graph["surprise"] >= line) != (library["surprise"] >= line)
    unclear = np.abs(library["surprise"] - line) < 10 * TOLERANCE
    return Parity(float(difference.max(initial=0.0)), int((labels & ~unclear).sum()), len(ends), TOLERANCE)


def _hidden_in_onnx(model: Lstm, read: Any) -> Any:
    """(n, read, f) float64 -> (n, hidden) float64, by the operator, which knows float32 alone."""
    weights = model.weights
    rows = op.transpose(op.cast(read.unwrap_spox(), to=np.float32), perm=[1, 0, 2])
    bias = np.concatenate([weights["B"], np.zeros_like(weights["B"])])
    # The operator wants a leading axis of directions.
    w, r, b = (op.const(np.ascontiguousarray(part[None])) for part in (weights["W"], weights["R"], bias))
    _, state, _ = op.lstm(rows, w, r, b, hidden_size=weights["R"].shape[1])  # type: ignore[attr-defined]
    return ndx.asarray(op.cast(op.squeeze(state, op.const(np.array([0]))), to=np.float64))


def _probe(model: Lstm, series: MetricSeries) -> dict[str, Any]:
    """Rows whose hidden states are far from where rounding tips over, on this machine and so on any other."""
    ends = np.arange(model.window - 1, len(series.values))[::-1][:PARITY_ROWS]
    time, windows = sequence_lstm.windows_of(series.values, series.start, ends, model.window)
    windows = windows.copy()
    windows[1::3, -5:-2] = np.nan
    windows[2::3, -6:] = windows[2::3, -6:-5]
    _, _, read = model.features(np, time, windows)
    grains = sequence_lstm.hidden_by_jax(model)(read) * GRAIN
    margin = np.abs(grains - np.floor(grains) - 0.5).min(axis=1)
    best = [int(part[np.argmax(margin[part])]) for part in (np.arange(kind, len(ends), 3) for kind in range(PROBE_ROWS))]
    safe = [row for row in best if margin[row] > SAFE] or best[:1]
    return {"time": time[safe], "window": windows[safe]}


def _finished(model: Any, feeds: dict[str, Any], card: dict[str, Any]) -> bytes:
    model.graph.input.sort(key=lambda entry: list(feeds).index(entry.name))
    return finished(model, feeds, card)
