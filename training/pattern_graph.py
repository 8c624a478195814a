"""A fitted column as one ONNX file: x (n, f) -> score (n,), contribution (n, f). Its formats are in its card."""

from __future__ import annotations

import math
from typing import Any

import ndonnx as ndx
import numpy as np

from training.decision import finished
from training.pattern_families import Family


def export(fitted: Family, card: dict[str, Any]) -> bytes:
    """The score is 1 - exp(-the largest contribution). The probe: usual values, damaged, unseen and unknown ones."""
    x = ndx.argument(shape=("n", len(fitted.features)), dtype=ndx.float64)
    out = fitted.judge(ndx, x)
    out["score"] = 1.0 - ndx.exp(-ndx.max(out["contribution"], axis=1))
    model = ndx.build({"x": x}, out)
    about = {"features": list(fitted.features), "column": fitted.column.to_json()}
    return finished(model, {"x": _probe(fitted)}, card | about)


def _probe(fitted: Family) -> Any:
    examples = list(fitted.column.formats.examples.values())[:5] or ["a"]
    x = fitted.inputs([*examples, *(f"{e}#{e.swapcase()}" for e in examples), "<placeholder>", "<empty>", f" {examples[0]}"])
    return np.concatenate([x, np.full((1, x.shape[1]), math.nan)])
