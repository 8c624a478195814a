"""A fitted column as one ONNX file: x (n, f) -> score (n,), contribution (n, f). Its formats are in its card."""

from __future__ import annotations

import json
import math
from typing import Any

import ndonnx as ndx
import numpy as np
import onnx

from training.decision import IR_VERSION, run
from training.pattern_families import Family


def export(fitted: Family, card: dict[str, Any]) -> bytes:
    """The score is 1 - exp(-the largest contribution). The probe: usual values, damaged, unseen and unknown ones."""
    x = ndx.argument(shape=("n", len(fitted.features)), dtype=ndx.float64)
    out = fitted.judge(ndx, x)
    out["score"] = 1.0 - ndx.exp(-ndx.max(out["contribution"], axis=1))
    model = ndx.build({"x": x}, out)
    model.ir_version = IR_VERSION
    feeds = {"x": _probe(fitted)}
    answers = run(model.SerializeToString(), feeds)
    probe = {"inputs": {"x": _listed(feeds["x"])}, "outputs": {name: _listed(answer) for name, answer in answers.items()}}
    del model.metadata_props[:]
    whole = card | {"features": list(fitted.features), "column": fitted.column.to_json(), "probe": probe}
    onnx.helper.set_model_props(model, {"card": json.dumps(whole)})
    payload: bytes = model.SerializeToString(deterministic=True)
    return payload


def _probe(fitted: Family) -> Any:
    examples = list(fitted.column.formats.examples.values())[:5] or ["a"]
    x = fitted.inputs([*examples, *(f"{e}#{e.swapcase()}" for e in examples), "<placeholder>", "<empty>", f" {examples[0]}"])
    return np.concatenate([x, np.full((1, x.shape[1]), math.nan)])


def _listed(array: Any) -> list[Any]:
    """As nested lists for JSON, NaN as None."""
    cells = array.astype(object)
    cells[array != array] = None
    listed: list[Any] = cells.tolist()
    return listed
