"""The structural baseline in its trained form: the state after the training days as initialisers of one ONNX file.

The counts since training come in `history`; a Scan takes the filters over them, skipping buckets that training saw, so
that a longer window gives the same answer. The code is the service's own (detectors/), traced.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ndonnx as ndx
import numpy as np
import onnx
import spox.opset.ai.onnx.v21 as op
from onnx import helper
from spox import Var

from detectors import structural
from detectors.filter_bank import State
from detectors.structural import Calendar, Season
from training import decision
from training.series import FloatArray, NotEnoughHistory, TrainingSeries

FEWEST = 14
OPSET, IR_VERSION = 21, 10


@dataclass(frozen=True, slots=True)
class FittedStructural:
    """The state of one table after its last training bucket."""

    state: State
    trained_until: int
    granularity: str
    window: int = 1
    valid_until: None = None

    @property
    def season(self) -> Season:
        return structural.SEASONS[self.granularity]

    @property
    def factors(self) -> tuple[str, ...]:
        return self.season.factors


def fit(series: TrainingSeries) -> FittedStructural:
    """Every count with what came before it. Raises NotEnoughHistory below two weeks of daily counts."""
    if series.usable < FEWEST:
        raise NotEnoughHistory(FEWEST, series.usable)
    state = structural.replay(series.values, series.time, series.holiday, series.granularity)
    return FittedStructural(state, series.end, series.granularity)


class _Traced:
    """The array API as ndonnx has it, with single operators where it writes several: nothing here is empty or NaN."""

    float64, int64 = ndx.float64, ndx.int64

    def __getattr__(self, name: str) -> Any:
        return getattr(ndx, name)

    def matmul(self, a: Any, b: Any) -> Any:
        return ndx.asarray(op.matmul(_var(a), _var(b)))

    def take(self, a: Any, indices: Any, axis: int) -> Any:
        return ndx.asarray(op.gather(_var(a), _var(indices), axis=axis))

    def max(self, a: Any, axis: int, keepdims: bool = False) -> Any:
        return ndx.asarray(op.reduce_max(_var(a), op.const([axis]), keepdims=int(keepdims)))

    def min(self, a: Any, axis: int, keepdims: bool = False) -> Any:
        return ndx.asarray(op.reduce_min(_var(a), op.const([axis]), keepdims=int(keepdims)))


def _var(array: Any) -> Var:
    return array.unwrap_spox()


def _graph(prefix: str, function: Callable[..., Mapping[str, Any]], arguments: Mapping[str, Any]) -> onnx.GraphProto:
    """Trace a function into a graph whose inner names carry the prefix."""
    outputs = function(**arguments)
    graph = ndx.build(dict(arguments), dict(outputs)).graph
    keep = {*arguments, *outputs}
    names = {name: prefix + name for node in graph.node for name in node.output if name and name not in keep}
    for node in graph.node:
        node.name = prefix + node.name
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    return graph


def export(fitted: FittedStructural, series: TrainingSeries, card: dict[str, Any]) -> bytes:
    """The ONNX file of a fitted table: the whole decision, with its card and a probe of what it answers here."""
    model = build(fitted)
    feeds = _probe(fitted, series)
    answers = decision.run(model.SerializeToString(), feeds)
    probe = {"inputs": _listed(feeds), "outputs": _listed(answers)}
    helper.set_model_props(model, {"card": json.dumps(card | {"probe": probe})})
    payload: bytes = model.SerializeToString(deterministic=True)
    return payload


def _probe(fitted: FittedStructural, series: TrainingSeries) -> dict[str, Any]:
    """Three counts after training, one a gap and one a spike, then an ordinary, a high, an empty and an unknown count."""
    usual = float(np.median(series.values[np.isfinite(series.values)]))
    history = np.array([[usual, np.nan, 5.0 * usual + 5.0]] * 4)
    value = np.array([usual, 3.0 * usual + 3.0, 0.0, np.nan])
    time, holiday = np.full(4, fitted.trained_until + 4), np.array([[0, 1, 0, 2], *[[0, 0, 0, 0]] * 3])
    return {"time": time, "history": history, "holiday": holiday, "value": value, "threshold": np.full(4, 0.99)}


def _listed(arrays: Mapping[str, FloatArray]) -> dict[str, Any]:
    """Arrays as nested lists for JSON, NaN as None."""
    return {name: np.where(np.isnan(part), None, part.astype(object)).tolist() for name, part in arrays.items()}


def build(fitted: FittedStructural) -> onnx.ModelProto:
    """Three traced graphs in one: what the columns are, the Scan over them, and the verdict."""
    xp, season, n, k = _Traced(), fitted.season, "n", "k"
    size, like = season.unknowns + 1, 8 if season.stride else 1
    day = {"rows": (n, 1, like, size), "classes": (n, 1, 1, 3), "looked": (n, 1, 1, size)}

    def prepare(time: Any, history: Any, holiday: Any) -> dict[str, Any]:
        columns = op.shape(_var(history), start=1)
        ago = op.range(op.neg(op.squeeze(columns)), op.const(1), op.const(1))
        buckets = time[:, None] + ndx.asarray(ago)
        calendar = structural.calendar_rows(xp, buckets, holiday, fitted.granularity)
        since = buckets[:, :-1] > fitted.trained_until
        counts = ndx.where(since, history, np.nan)[:, :, None, None, None]
        tables = op.shape(_var(time))
        begin = {
            f"begin_{name}": ndx.asarray(op.expand(op.const(part), op.concat([tables, op.const(list(part.shape[1:]))], axis=0)))
            for name, part in fitted.state._asdict().items()
        }
        past = {f"past_{name}": part[:, :-1, ...] for name, part in calendar._asdict().items()}
        judged = {f"day_{name}": part[:, -1, ...] for name, part in calendar._asdict().items()}
        news = ndx.asarray(op.reduce_max(_var(time), keepdims=0)) > fitted.trained_until + 1
        return begin | past | judged | {"past_counts": counts, "past_since": since[:, :, None, None, None], "news": news}

    def step(**now: Any) -> dict[str, Any]:
        state = State(*(now[f"now_{name}"] for name in State._fields))
        calendar = Calendar(*(now[f"now_{name}"] for name in Calendar._fields))
        after, _, _ = structural.advance(xp, state, season.design, calendar, now["now_counts"])
        # Before the end of training not even time passes.
        moments = ndx.where(now["now_since"], after.moments, state.moments)
        return {f"next_{name}": part for name, part in after._replace(moments=moments)._asdict().items()}

    def judge(value: Any, threshold: Any, **end: Any) -> dict[str, Any]:
        state = State(*(end[f"end_{name}"] for name in State._fields))
        calendar = Calendar(*(end[f"day_{name}"] for name in Calendar._fields))
        value, threshold = (part[:, None, None, None] for part in (value, threshold))
        _, answers, effects = structural.judge(xp, state, season, calendar, value, threshold)
        names = ("expected", "lower", "upper", "score")
        flat = {name: ndx.reshape(part, (-1,)) for name, part in zip(names, answers, strict=True)}
        return flat | {"effects": effects}

    def arguments(prefix: str, shapes: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
        kinds = {"looked": ndx.bool, "since": ndx.bool}
        return {f"{prefix}_{name}": ndx.argument(shape=s, dtype=kinds.get(name, ndx.float64)) for name, s in shapes.items()}

    states = {name: (n, *part.shape[1:]) for name, part in fitted.state._asdict().items()}
    one = (n, 1, 1, 1)
    number = {name: ndx.argument(shape=(n,), dtype=ndx.float64) for name in ("value", "threshold")}
    inputs = {
        "time": ndx.argument(shape=(n,), dtype=ndx.int64),
        "history": ndx.argument(shape=(n, k), dtype=ndx.float64),
        "holiday": ndx.argument(shape=(n, "k_and_judged"), dtype=ndx.int64),
    }
    before = _graph("before_", prepare, inputs)
    body = _graph("step_", step, arguments("now", states | day | {"counts": one, "since": one}))
    verdict = _graph("verdict_", judge, number | arguments("end", states) | arguments("day", day))
    past = [f"past_{name}" for name in [*day, "counts", "since"]]
    starts, ends = ([f"{prefix}_{name}" for name in states] for prefix in ("begin", "end"))
    # A Scan over no columns is an error at run time, and a training day is the usual last column.
    scanned = [f"scanned_{name}" for name in states]
    scan = helper.make_node(
        "Scan", [*starts, *past], scanned, body=body, num_scan_inputs=len(past), scan_input_axes=[1] * len(past)
    )
    nodes = [helper.make_node("Identity", [a], [f"kept_{b}"]) for a, b in zip(starts, states, strict=True)]
    described = [helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, None) for name in scanned]
    kept = [helper.make_tensor_value_info(f"kept_{name}", onnx.TensorProto.DOUBLE, None) for name in states]
    choice = helper.make_node(
        "If", ["news"], ends,
        then_branch=helper.make_graph([scan], "since_training", [], described),
        else_branch=helper.make_graph(nodes, "at_once", [], kept),
    )
    graph = helper.make_graph(
        [*before.node, choice, *verdict.node], "volume", [*before.input, *verdict.input[:2]], verdict.output
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return model
