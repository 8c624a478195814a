"""A table's volume model asked about its counts: one ONNX call for rows of one shape."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.artefact import Artefact
from detectors.context import Context, IntArray
from detectors.decision import Judgement

type Inputs = Mapping[str, NDArray[Any]]  # of a model, by name


def judge_with_model(artefact: Artefact, context: Context, holiday: IntArray, bucket: int, value: float,
                     threshold: float) -> Judgement | None:
    """One ONNX call. None where the model has nothing to go by: no usable history in its window, or it is too old."""
    row = model_inputs(artefact, context, holiday, bucket, value, threshold)
    return model_judgements(artefact, [row])[0] if row else None


def model_inputs(artefact: Artefact, context: Context, holiday: IntArray, bucket: int, value: float,
                 threshold: float) -> Inputs | None:
    """One row of a model's inputs; None where it is too old. Rows of one shape may be judged together."""
    card = artefact.card
    if card["valid_until"] is not None and bucket > card["valid_until"]:
        return None
    # The structural model carries its state and wants every bucket since; the others want their window.
    structural_model = card["algorithm"] == "structural"
    columns = max(card["window"], bucket - card["trained_until"] - 1 if structural_model else 1)
    source = context.learnable if structural_model else context.normal
    history = np.full((1, columns), np.nan)
    if known := min(columns, len(source)):
        history[0, -known:] = source[-known:]
    holidays = np.zeros((1, columns + 1), np.int64)
    held = min(columns + 1, len(holiday))
    holidays[0, -held:] = holiday[-held:]
    return {"time": np.array([bucket], np.int64), "history": history, "holiday": holidays, "value": np.array([value]),
            "threshold": np.array([threshold])}


def model_judgements(artefact: Artefact, rows: Sequence[Inputs]) -> list[Judgement | None]:
    """One ONNX call for rows of one shape; None where the model has too little history in its window."""
    feeds = rows[0] if len(rows) == 1 else {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    out = {name: values.tolist() for name, values in artefact.run(feeds).items()}
    factors = artefact.card["factors"] if "effects" in out else ()
    effects = [dict(zip(factors, row, strict=True)) for row in out.get("effects", [()] * len(rows))]
    judgements = map(Judgement, out["score"], out["expected"], out["lower"], out["upper"], effects)
    return [None if math.isnan(judgement.score) else judgement for judgement in judgements]


def keeps_flagging(artefact: Artefact, context: Context, holiday: IntArray, threshold: float, points: int,
                   too_low: bool) -> bool:
    """Whether the model flags most of the last known `points` counts, and all of these on one side.

    holiday (>= m,) the classes of the context's buckets. Each count is judged by what was learnt before it.
    """
    last = np.flatnonzero(np.isfinite(context.learnable))[-points:].tolist()
    if len(last) < points:
        return False
    rows = [model_inputs(artefact, context.until(i), holiday[: i + 1], context.start + i, float(context.values[i]),
                         threshold) for i in last]
    known = [row for row in rows if row is not None]
    # The structural model counts on from its training: its rows differ in length.
    calls = [[row] for row in known] if artefact.algorithm == "structural" else [known] if known else []
    found = [judgement for call in calls for judgement in model_judgements(artefact, call)]
    alike = [j is not None and j.score >= threshold and bool(row["value"].item() < j.expected) == too_low
             for row, j in zip(known, found, strict=True)]
    return 2 * sum(alike) > points
