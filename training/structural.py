"""The structural baseline in its trained form: the state after the training days as initialisers of one ONNX file.

The counts since training come in `history`; a Scan takes the filters over them, skipping buckets that training saw, so
that a longer window gives the same answer. The code is the service's own (detectors/), traced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import ndonnx as ndx
import numpy as np
import onnx
import spox.opset.ai.onnx.v21 as v21
from onnx import helper, numpy_helper

from detectors import filter_bank, structural, structural_verdict
from detectors.filter_bank import Count, Day, State
from detectors.season import SEASONS, Season
from training import decision
from training.series import NotEnoughHistory, TrainingSeries

FEWEST = 14
OPSET, IR_VERSION = 21, 10
onnx_operators: Any = v21

type Shape = tuple[int, ...]


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
        return SEASONS[self.granularity]

    @property
    def factors(self) -> tuple[str, ...]:
        return self.season.factors


def fit(series: TrainingSeries) -> FittedStructural:
    """Every count with what came before it. Raises NotEnoughHistory below four weeks of daily counts that teach."""
    state = structural.replay(series.values, series.time, series.holiday, series.granularity)
    fewest, learnt = max(FEWEST, int(SEASONS[series.granularity].design.settled)), int(state.learnt.item())
    if learnt < fewest:
        raise NotEnoughHistory(fewest, learnt)
    return FittedStructural(state, series.end, series.granularity)


class _Traced:
    """The array API as ndonnx has it, with single operators where it writes several to be safe.

    Nothing here is empty or NaN, and only numbers that are not negative are divided as integers.
    """

    float64, int64 = ndx.float64, ndx.int64

    def __getattr__(self, name: str) -> Any:
        return getattr(ndx, name)

    def matmul(self, a: Any, b: Any) -> Any:
        return ndx.asarray(onnx_operators.matmul(_var(a), _var(b)))

    def take(self, a: Any, indices: Any, axis: int) -> Any:
        return ndx.asarray(onnx_operators.gather(_var(a), _var(indices), axis=axis))

    def floor_divide(self, a: Any, b: Any) -> Any:
        return ndx.asarray(onnx_operators.div(_var(a), onnx_operators.const(b)))

    def max(self, a: Any, axis: int, keepdims: bool = False) -> Any:
        return ndx.asarray(onnx_operators.reduce_max(_var(a), onnx_operators.const([axis]), keepdims=int(keepdims)))

    def min(self, a: Any, axis: int, keepdims: bool = False) -> Any:
        return ndx.asarray(onnx_operators.reduce_min(_var(a), onnx_operators.const([axis]), keepdims=int(keepdims)))


def _var(array: Any) -> Any:
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
    return decision.finished(model, feeds, card)


def _probe(fitted: FittedStructural, series: TrainingSeries) -> dict[str, Any]:
    """Three counts after training, one a gap and one a spike, then an ordinary, a high, an empty and an unknown count."""
    usual = float(np.median(series.values[np.isfinite(series.values)]))
    history = np.array([[usual, np.nan, 5.0 * usual + 5.0]] * 4)
    value = np.array([usual, 3.0 * usual + 3.0, 0.0, np.nan])
    time, holiday = np.full(4, fitted.trained_until + 4), np.array([[0, 1, 0, 2], *[[0, 0, 0, 0]] * 3])
    return {"time": time, "history": history, "holiday": holiday, "value": value, "threshold": np.full(4, 0.99)}


def build(fitted: FittedStructural) -> onnx.ModelProto:
    """The graph of all tables whose training ended in the same bucket, with this table's state."""
    parts = fitted.state._asdict()
    model = onnx.ModelProto()
    model.CopyFrom(_stateless(fitted.granularity, fitted.trained_until, tuple(part.shape for part in parts.values())))
    model.graph.initializer.extend(numpy_helper.from_array(part, f"begin_{name}") for name, part in parts.items())
    onnx.checker.check_model(model)
    return model


@lru_cache(maxsize=8)
def _stateless(granularity: str, trained_until: int, state: tuple[Shape, ...]) -> onnx.ModelProto:
    """Three traced graphs in one: the columns as the filters see them, the Scan over them, the verdict.

    Tables whose training ended in one bucket differ in their state alone: that is an input here.
    """
    dims = dict(zip(State._fields, state, strict=True))
    inputs = {
        "time": ndx.argument(shape=("n",), dtype=ndx.int64),
        "history": ndx.argument(shape=("n", "k"), dtype=ndx.float64),
        "holiday": ndx.argument(shape=("n", "k_and_judged"), dtype=ndx.int64),
    }
    before = _graph("before_", partial(_columns, SEASONS[granularity], trained_until, dims), inputs)
    step, verdict = _filters(granularity, state)
    shapes, past = tuple(dims), [entry.name for entry in step.input[len(dims):]]

    scan = helper.make_node(
        "Scan", [*(f"wide_{name}" for name in shapes), *past], [f"scanned_{name}" for name in shapes],
        body=step, num_scan_inputs=len(past), scan_input_axes=[1] * len(past),
    )
    widen = [
        helper.make_node("Expand", [f"begin_{name}", f"shape_{name}"], [f"wide_{name}"]) for name in shapes
    ]
    # Training saw the usual last column. A Scan over no columns would be an error at run time.
    choice = helper.make_node(
        "If", ["is_news"], [f"end_{name}" for name in shapes],
        then_branch=helper.make_graph([*widen, scan], "since_training", [], _described("scanned_", shapes)),
        else_branch=helper.make_graph(
            [helper.make_node("Identity", [f"begin_{name}"], [f"same_{name}"]) for name in shapes],
            "as_trained", [], _described("same_", shapes),
        ),
    )
    # Inputs in the file as well: such tables compute with one session, each from its own state.
    states = [helper.make_tensor_value_info(f"begin_{name}", onnx.TensorProto.DOUBLE, shape) for name, shape in dims.items()]
    graph = helper.make_graph(
        [*before.node, choice, *verdict.node], "volume", [*before.input, *verdict.input[:2], *states], verdict.output
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


@lru_cache(maxsize=4)
def _filters(granularity: str, state: tuple[Shape, ...]) -> tuple[onnx.GraphProto, onnx.GraphProto]:
    """One column, and the verdict: the same for all tables with states of these shapes. Tracing takes a second."""
    season = SEASONS[granularity]
    shapes = {name: ("n", *shape[1:]) for name, shape in zip(State._fields, state, strict=True)}
    size, rows = season.cycle.shape[1], 8 if season.stride else 1
    day = {
        "rows": ("n", 1, rows, size), "looked": ("n", 1, 1, size), "classes": ("n", 1, 1, 3),
        "ordinary": ("n", 1, 1, 1), "teaches": ("n", 1, 1, 1),
    }
    past = {f"past_{name}": shape for name, shape in day.items()}
    past |= dict.fromkeys([*(f"count_{name}" for name in Count._fields), "past_new"], ("n", 1, 1, 1))
    judged = {name: ndx.argument(shape=("n",), dtype=ndx.float64) for name in ("value", "threshold")}
    step = _graph("step_", partial(_step, season), _arguments(shapes, "old_") | _arguments(past))
    verdict = _graph("verdict_", partial(_verdict, season), judged | _arguments(day, "day_") | _arguments(shapes, "end_"))
    return step, verdict


def _columns(season: Season, trained_until: int, state: Mapping[str, Shape], time: Any, history: Any,
             holiday: Any) -> dict[str, Any]:
    """The buckets of `history`, and last the judged one, as the filters see them; what training saw has no count."""
    tables, columns = onnx_operators.shape(_var(time)), onnx_operators.shape(_var(history), start=1)
    ago = onnx_operators.range(
        onnx_operators.neg(onnx_operators.squeeze(columns)), onnx_operators.const(1), onnx_operators.const(1)
    )
    buckets = time[:, None] + ndx.asarray(ago)
    seen = season.days(_Traced(), buckets, holiday)._asdict()
    new = buckets[:, :-1] > trained_until
    counts = filter_bank.count(_Traced(), ndx.where(new, history, np.float64("nan"))[:, :, None, None, None])
    latest = ndx.asarray(onnx_operators.reduce_max(_var(time), keepdims=0))
    return {
        "is_news": latest > trained_until + 1,
        "past_new": new[:, :, None, None, None],
        **{f"count_{name}": part for name, part in counts._asdict().items()},
        **{f"past_{name}": part[:, :-1, ...] for name, part in seen.items()},
        **{f"day_{name}": part[:, -1, ...] for name, part in seen.items()},
        **{f"shape_{name}": _shape(tables, shape) for name, shape in state.items()},
    }


def _shape(tables: Any, shape: Shape) -> Any:
    """The shape of a part of the state for so many tables."""
    return ndx.asarray(onnx_operators.concat([tables, onnx_operators.const(shape[1:])], axis=0))


def _step(season: Season, **now: Any) -> dict[str, Any]:
    """One column. Before the end of training not even time passes."""
    state = State(*(now[f"old_{name}"] for name in State._fields))
    day = Day(*(now[f"past_{name}"] for name in Day._fields))
    seen = Count(*(now[f"count_{name}"] for name in Count._fields))
    design = replace(season.design, needed=0)
    after, _, _ = structural.advance(_Traced(), state, design, day, seen)
    after = after._replace(moments=ndx.where(now["past_new"], after.moments, state.moments))
    return {f"new_{name}": part for name, part in after._asdict().items()}


def _verdict(season: Season, value: Any, threshold: Any, **end: Any) -> dict[str, Any]:
    """The judged bucket, after the last column."""
    state = State(*(end[f"end_{name}"] for name in State._fields))
    day = Day(*(end[f"day_{name}"] for name in Day._fields))
    counts, thresholds = value[:, None, None, None], threshold[:, None, None, None]
    answer = structural_verdict.judge(_Traced(), state, season, day, counts, thresholds)._asdict()
    effects = answer.pop("effects")
    return {name: ndx.reshape(part, (-1,)) for name, part in answer.items()} | {"effects": effects}


def _arguments(shapes: Mapping[str, tuple[Any, ...]], prefix: str = "") -> dict[str, Any]:
    kinds = dict.fromkeys(("past_looked", "past_teaches", "count_some", "count_known", "past_new"), ndx.bool)
    kinds |= dict.fromkeys(("day_looked", "day_teaches"), ndx.bool)
    return {
        prefix + name: ndx.argument(shape=shape, dtype=kinds.get(prefix + name, ndx.float64))
        for name, shape in shapes.items()
    }


def _described(prefix: str, names: Iterable[str]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(prefix + name, onnx.TensorProto.DOUBLE, None) for name in names]
