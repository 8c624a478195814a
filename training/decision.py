"""Whole decisions as ONNX: a fitted family and its calibration in, one self-describing file out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import ndonnx as ndx
import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from training.calibration import Calibration
from training.series import FloatArray, TrainingSeries

IR_VERSION = 10
PROBE_THRESHOLD = 0.99
SPIKE = 5.0  # times the usual, in the probe
ASIDE = 1e-9  # relative distance between a value and a bound that excludes it
STEPS = (0.0, 0.8, 1.6, 2.4, 3.5, 5.5, 10.0)  # in spreads, either side: where a scorer's bounds are searched
FLAT = 1e-12  # the smallest rise of surprise between two steps


class Forecaster(Protocol):
    """A family that predicts a value and how far off it usually is."""

    @property
    def window(self) -> int: ...

    def forecast(self, xp: Any, time: Any, history: Any, holiday: Any) -> tuple[Any, Any, Any, Any | None]:
        """-> expected (n,), spread below (n,) and above (n,) > 0, effects (n, e) or None, all in rows; NaN where unknown."""
        ...


class Scorer(Protocol):
    """A family that ranks values without predicting one. It works in log1p(rows)."""

    @property
    def window(self) -> int: ...

    def context(self, xp: Any, time: Any, history: Any, holiday: Any) -> Any:
        """What the buckets before the judged one say, computed once for all candidate values."""
        ...

    def centre(self, xp: Any, context: Any) -> tuple[Any, Any]:
        """-> (n, 1) the most usual log1p(rows) and (n, 1) its spread; NaN where nothing is known."""
        ...

    def raw(self, xp: Any, context: Any, level: Any) -> Any:
        """(n, g) log1p of candidate values -> (n, g) raw score of order one, higher = more anomalous."""
        ...


def forecaster_scores(fitted: Forecaster, inputs: Mapping[str, Any]) -> FloatArray:
    """(n,) raw scores, deviations in spreads, of the rows that `judged` laid out: what a calibration is fitted to."""
    expected, below, above, _ = fitted.forecast(np, inputs["time"], inputs["history"], inputs["holiday"])
    raw: FloatArray = _deviation(np, inputs["value"], expected, below, above)
    return raw


def scorer_scores(fitted: Scorer, inputs: Mapping[str, Any]) -> FloatArray:
    """(n,) raw scores of the rows that `judged` laid out: what a calibration is fitted to."""
    with np.errstate(invalid="ignore"):  # 0 / 0 of an empty history is the NaN it should be
        context = fitted.context(np, inputs["time"], inputs["history"], inputs["holiday"])
        raw: FloatArray = fitted.raw(np, context, np.log1p(inputs["value"])[:, None])[:, 0]
    return raw


def export_forecaster(
    fitted: Forecaster, calibration: Calibration, series: TrainingSeries, card: dict[str, Any]
) -> bytes:
    """The ONNX file of a forecaster: bounds are the values whose score is the threshold."""

    def decide(xp: Any, time: Any, history: Any, holiday: Any, value: Any, threshold: Any) -> dict[str, Any]:
        expected, below, above, effects = fitted.forecast(xp, time, history, holiday)
        reach = xp.maximum(calibration.inverse(xp, threshold), 0.0)
        outputs = {
            "expected": expected,
            "lower": expected - reach * below,
            "upper": expected + reach * above,
            "score": calibration.score(xp, _deviation(xp, value, expected, below, above)),
        }
        return outputs if effects is None else outputs | {"effects": effects}

    return build(decide, series, card)


def export_scorer(fitted: Scorer, calibration: Calibration, series: TrainingSeries, card: dict[str, Any]) -> bytes:
    """The ONNX file of a scorer: bounds enclose the usual values around the centre, found on a grid in the same run.

    A bound between two grid points is interpolated; then the judged value's own score has the last word, so that it is
    outside the bounds exactly when its score reaches the threshold. Bounds end with the grid, ten spreads away.
    """
    sides = np.array([[-1.0, 1.0]])

    def decide(xp: Any, time: Any, history: Any, holiday: Any, value: Any, threshold: Any) -> dict[str, Any]:
        outwards, value = xp.asarray(sides), value[:, None]
        context = fitted.context(xp, time, history, holiday)
        middle, spread = fitted.centre(xp, context)
        grid = xp.maximum(middle + spread * xp.asarray(np.outer(sides, STEPS).reshape(1, -1)), 0.0)
        raw = fitted.raw(xp, context, xp.concat([xp.log(1.0 + value), grid], axis=1))
        surprise = calibration.surprise(xp, raw)
        limit = -xp.log(1.0 - threshold)[:, None]
        reach = _reach(xp, xp.reshape(surprise[:, 1:], (-1, 2, len(STEPS))), limit[:, :, None])
        own, expected = surprise[:, :1], xp.exp(middle) - 1.0

        # Seen from the centre: both bounds outwards, and so the value.
        bounds = (xp.exp(middle + spread * reach * outwards) - 1.0) * outwards
        out = value * outwards
        own_side = (value >= expected) == xp.asarray(sides > 0.0)
        inside = xp.where(own_side, xp.minimum(bounds, out - ASIDE * xp.maximum(value, 1.0)), bounds)
        bounds = xp.where(own >= limit, inside, xp.maximum(bounds, out)) * outwards
        return {
            "expected": expected[:, 0],
            "lower": bounds[:, 0],
            "upper": bounds[:, 1],
            "score": 1.0 - xp.exp(-own[:, 0]),
        }

    return build(decide, series, card)


def judged(series: TrainingSeries, time: NDArray[np.int64], window: int) -> dict[str, Any]:
    """(n,) buckets of the series -> the inputs that a model would get on those days, history NaN before the series began."""
    width = max(window, 1)
    at = np.asarray(time)[:, None] - series.start + np.arange(-width, 1)
    known = (at >= 0) & (at < len(series.values))
    inside = np.clip(at, 0, len(series.values) - 1)
    values = np.where(known, series.values[inside], np.nan)
    return {
        "time": np.asarray(time, np.int64),
        "history": values[:, :-1],
        "holiday": np.where(known, series.holiday[inside], 0),
        "value": values[:, -1],
    }


def build(decide: Callable[..., Mapping[str, Any]], series: TrainingSeries, card: dict[str, Any]) -> bytes:
    """Trace `decide(xp, time, history, holiday, value, threshold) -> outputs by name` into an ONNX file with its card.

    Inputs that it does not use are not declared. `card["window"]` says how many buckets of history it needs. The card
    gains `probe`: inputs made from the end of the series, with the outputs that this very file gave for them.
    """
    inputs = {
        "time": ndx.argument(shape=("n",), dtype=ndx.int64),
        "history": ndx.argument(shape=("n", "k"), dtype=ndx.float64),
        "holiday": ndx.argument(shape=("n", "k_and_judged"), dtype=ndx.int64),
        "value": ndx.argument(shape=("n",), dtype=ndx.float64),
        "threshold": ndx.argument(shape=("n",), dtype=ndx.float64),
    }
    outputs = dict(decide(ndx, **inputs))
    model = ndx.build(inputs, outputs, drop_unused=True)
    model.graph.input.sort(key=lambda entry: list(inputs).index(entry.name))
    feeds = _probe_inputs(series, int(card["window"]))
    feeds = {entry.name: feeds[entry.name] for entry in model.graph.input}
    share_all_but_parameters(model)
    return finished(model, feeds, card)


def finished(model: onnx.ModelProto, feeds: Mapping[str, Any], card: dict[str, Any]) -> bytes:
    """The file of a graph, with `card` in its metadata, and in the card the probe: `feeds` by the names of the graph's
    inputs, with the outputs that this very file gave for them.
    """
    model.ir_version = IR_VERSION
    probe = {"inputs": _listed(feeds), "outputs": _listed(run(model.SerializeToString(), feeds))}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {"card": json.dumps(card | {"probe": probe})})
    payload: bytes = model.SerializeToString(deterministic=True)
    return payload


def share_all_but_parameters(model: onnx.ModelProto) -> None:
    """Makes every constant that may have been learnt an initialiser which callers may replace, and so a session's own.

    Tables of one family then have files that differ in these alone. Which constants were learnt is not known here: all
    doubles are taken for it but whole numbers, which formulas are full of. One taken wrongly costs a session more or a
    microsecond a call.
    """
    graph = model.graph
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        tensor = next((entry.t for entry in node.attribute if entry.name == "value"), None)
        if tensor is None or tensor.data_type != onnx.TensorProto.DOUBLE:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim == 0 and (not math.isfinite(values) or float(values).is_integer()):
            continue
        graph.initializer.append(onnx.numpy_helper.from_array(values, node.output[0]))
        graph.input.append(onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.DOUBLE, values.shape))
        graph.node.remove(node)


def declared(model: bytes) -> list[str]:
    """The inputs that a caller has to give: the parameters bring their own values."""
    graph = onnx.ModelProto.FromString(model).graph
    parameters = {tensor.name for tensor in graph.initializer}
    return [entry.name for entry in graph.input if entry.name not in parameters]


def run(model: bytes, feeds: Mapping[str, Any]) -> dict[str, FloatArray]:
    """The outputs of an ONNX file by name, on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def _probe_inputs(series: TrainingSeries, window: int) -> dict[str, Any]:
    """An ordinary day, a history with gaps, a spike, an empty load and an unknown value: the last day that is known."""
    known = np.flatnonzero(np.isfinite(series.values))
    feeds = judged(series, np.full(5, series.start + known[-1]), window)
    feeds["history"][1, -2:] = math.nan
    feeds["value"][2:] = SPIKE * feeds["value"][2] + SPIKE, 0.0, math.nan
    return feeds | {"threshold": np.full(5, PROBE_THRESHOLD)}


def _listed(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays as nested lists for JSON, NaN as None."""
    listed = {}
    for name, array in arrays.items():
        cells = array.astype(object)
        cells[array != array] = None
        listed[name] = cells.tolist()
    return listed


def _deviation(xp: Any, value: Any, expected: Any, below: Any, above: Any) -> Any:
    """(n,) distance from the expectation in spreads of its side."""
    distance = value - expected
    return xp.abs(distance) / xp.where(distance < 0.0, below, above)


def _reach(xp: Any, surprise: Any, limit: Any) -> Any:
    """(n, 2, g) surprise at STEPS on both sides of the centre, (n, 1, 1) limit -> (n, 2) spreads to where it is reached."""
    inside = xp.cumulative_sum(xp.astype(surprise >= limit, xp.float64), axis=2)[:, :, :-1] < 0.5
    rise = xp.maximum(surprise[:, :, 1:] - surprise[:, :, :-1], FLAT)
    share = xp.minimum((limit - surprise[:, :, :-1]) / rise, 1.0)
    return xp.sum(xp.where(inside, share, 0.0) * xp.asarray(np.diff(STEPS)), axis=2)
