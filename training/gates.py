"""What a model's file has to be before its figures count: right, small and fast. And what makes a champion leave.

A decision is timed as a worker makes it: the whole ONNX file, on one thread, by that thread's own processor time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from detectors.artefact import Artefact
from shared.errors import ModelUnavailable
from training.candidates import Candidate
from training.parity import Parity

type Measure = Callable[[Artefact, Mapping[str, NDArray[Any]]], float]  # the p95 of one decision in milliseconds
type Failed = Literal["parity", "too_large", "slow"]

# The largest file of any family has a twentieth of it. In memory it would take 10 MiB, a sixth of what MODEL_CACHE_BYTES is
# by default: one such model would drive out five of others.
MOST_BYTES = 4 * 2**20
# Six times what the slowest family takes, and no more than the rest of a request: 10,000 tables of a batch then take four
# minutes of one core. The structural file reaches it some hundred days after its training.
BUDGET_MS = 25.0
WARM_UP, CALLS, FEWEST_CALLS, SECONDS = 10, 300, 30, 1.0


def passed(trainer: Any, prepared: Any, candidate: Candidate, measure: Measure) -> tuple[Failed | None, str, dict[str, Any]]:
    """-> the first gate that a candidate's file fails, None where it passes; why; and what was measured at each."""
    name, payload, parity = candidate.algorithm, candidate.payload or b"", candidate.figures.get("parity")
    gates: dict[str, Any] = {"parity": {"holds": is_right(parity), **(parity or {})},
                             "bytes": {"holds": len(payload) <= MOST_BYTES, "measured": len(payload), "most": MOST_BYTES}}
    if not gates["parity"]["holds"]:
        return "parity", f"The file of {name} says something else than the library that trained it.", gates
    if not gates["bytes"]["holds"]:
        return "too_large", f"The file of {name} has {len(payload):,} bytes, more than {MOST_BYTES:,}.", gates
    try:
        artefact = Artefact.load(payload)
    except ModelUnavailable as error:
        gates["parity"]["holds"] = False
        return "parity", f"The file of {name} cannot be used: {error.message}", gates
    feeds = trainer.question(prepared, artefact) if hasattr(trainer, "question") else probe_of(payload)
    p95 = round(measure(artefact, feeds), 2)
    gates["p95_ms"] = {"holds": p95 <= BUDGET_MS, "measured": p95, "most": BUDGET_MS}
    if p95 > BUDGET_MS:
        return "slow", f"{name} takes {p95} ms for a decision (95th percentile), more than {BUDGET_MS:g}.", gates
    return None, "", gates


def leaving(trainer: Any, prepared: Any, champion: Artefact, measure: Measure) -> tuple[str | None, float | None]:
    """Why a champion cannot go on serving well, None where it can; and its p95 where that grows with time."""
    p95 = round(measure(champion, trainer.question(prepared, champion)), 2) if hasattr(trainer, "question") else None
    why = trainer.unfit(prepared, champion) if hasattr(trainer, "unfit") else None
    if prepared.baseline is not None and champion.card.get("baseline") != prepared.baseline:
        why = "was trained without the new normal and is not asked any more"
    if why is None and p95 is not None and p95 > BUDGET_MS:
        why = f"takes {p95} ms for a decision, more than {BUDGET_MS:g}: it goes through every count since its training"
    return why, p95


def is_right(parity: Mapping[str, Any] | None) -> bool:
    """Whether a candidate's figures say that its file is as its library, or say nothing of it."""
    return parity is None or Parity(**parity).holds


def p95_ms(artefact: Artefact, feeds: Mapping[str, NDArray[Any]]) -> float:
    """The 95th percentile of 300 calls after a warm-up, fewer where they take longer than a second, in milliseconds.

    Processor time and not that of the clock on the wall: machines are shared, and a model is refused for what it is, not
    for its neighbours.
    """
    for _ in range(WARM_UP):
        artefact.run(feeds)
    taken: list[float] = []
    while len(taken) < CALLS and (len(taken) < FEWEST_CALLS or sum(taken) < SECONDS):
        began = time.thread_time()
        artefact.run(feeds)
        taken.append(time.thread_time() - began)
    return float(np.quantile(taken, 0.95)) * 1000


def probe_of(payload: bytes) -> dict[str, NDArray[Any]]:
    """The inputs of a file's probe: a few rows such as it is asked about."""
    model = onnx.load_from_string(payload)
    card = json.loads(next(entry.value for entry in model.metadata_props if entry.key == "card"))
    kinds = {entry.name: onnx.helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)
             for entry in model.graph.input}
    return {name: np.array(rows, kinds[name]) for name, rows in card["probe"]["inputs"].items() if name in kinds}
