"""The smallest models that are whole artefacts: score = factor * value, with card and probe."""

from __future__ import annotations

import json
from typing import Any

import ndonnx as ndx
import onnx

PROBE_VALUES = (1.0, -2.5, None)


def card(factor: float, **fields: Any) -> dict[str, Any]:
    """What the metadata of `model(factor)` says; `fields` go over it."""
    probe = {"inputs": {"value": list(PROBE_VALUES)},
             "outputs": {"score": [v if v is None else factor * v for v in PROBE_VALUES]}}
    return {"schema": 1, "algorithm": "structural", "version": "7", "probe": probe} | fields


def model(factor: float, **fields: Any) -> bytes:
    """The file; `fields` change its card."""
    return with_card(_graph(factor), card(factor, **fields))


def with_card(graph: onnx.ModelProto, card: Any) -> bytes:
    entry = graph.metadata_props.add()
    entry.key, entry.value = "card", card if isinstance(card, str) else json.dumps(card)
    return graph.SerializeToString()


def _graph(factor: float) -> onnx.ModelProto:
    value = ndx.argument(shape=("n",), dtype=ndx.float64)
    return ndx.build({"value": value}, {"score": value * factor})
