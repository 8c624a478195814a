"""A model as it is served: one ONNX file that holds the whole decision. The only home of onnxruntime.

The file's metadata holds a card, and the card a probe: inputs with the outputs that training saw. Loading replays it, so a
file that would answer differently here is refused before it answers anybody.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, Self

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as native

from detectors import onnx_file
from shared.errors import ModelUnavailable

SCHEMA = 1
PROBE_TOLERANCE = 1e-9
# What a session keeps in memory, measured with the arena off: a file's first 64 KiB are mostly graph, which grows about
# 33-fold, the rest mostly weights, which double.
SESSION_BYTES, GRAPH_BYTES, GRAPH_GROWTH, WEIGHT_GROWTH = 64 * 1024, 64 * 1024, 33, 2

# Files that share a session keep their parameters and their card, about as much as the file itself.
SESSIONS_KEPT = 32

_DTYPES = {"tensor(double)": np.float64, "tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}
# ONNX Runtime's errors have no common base of their own.
_NATIVE_ERRORS = (native.EPFail, native.Fail, native.InvalidArgument, native.InvalidGraph, native.InvalidProtobuf,
                  native.ModelLoaded, native.NoModel, native.NoSuchFile, native.NotImplemented, native.RuntimeException)


class UnusableArtefact(ModelUnavailable):
    """The file is no model, is not the one that was published, or answers differently from its training."""


@dataclass(frozen=True, slots=True)
class Artefact:
    """A loaded model. `run` may be called from any thread; `size_bytes` is about what it keeps in memory.

    `card` is the trainer's, without the probe. Models that differ in their parameters alone compute with one session, so
    that one more of a kind costs about a millisecond and little memory.
    """

    card: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    size_bytes: int
    _session: ort.InferenceSession
    _parameters: Mapping[str, NDArray[np.float64]]

    @classmethod
    def load(cls, payload: bytes, *, sha256: str | None = None) -> Self:
        """From the bytes of the file: nothing outside it is read. Raises UnusableArtefact with the reason."""
        if sha256 is not None and hashlib.sha256(payload).hexdigest() != sha256:
            raise UnusableArtefact("The model's SHA-256 is not the one it was published with.")
        parts = onnx_file.parts(payload)
        session, is_new = _sessions.of(payload, parts.skeleton if parts else None)
        parameters = parts.parameters if parts else {}
        text = session.get_modelmeta().custom_metadata_map.get("card") if parts is None else parts.metadata.get("card")
        card = _card(text)
        probe = card.pop("probe")
        size = _memory(len(payload)) if is_new else len(payload)
        artefact = cls(card, tuple(i.name for i in session.get_inputs()), tuple(o.name for o in session.get_outputs()),
                       size, session, parameters)
        artefact._replay(probe)
        return artefact

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Every output by its name; of `feeds` only what the model declares. Raises KeyError for an input not given."""
        own = {name: feeds[name] for name in self.inputs}
        values = self._session.run(self.outputs, {**self._parameters, **own} if self._parameters else own)
        return dict(zip(self.outputs, values, strict=True))

    @property
    def algorithm(self) -> str:
        return str(self.card["algorithm"])

    @property
    def version(self) -> str | None:
        """As the trainer wrote it into the card, None where it did not."""
        return self.card.get("version")

    def _replay(self, probe: Any) -> None:
        """Raises UnusableArtefact unless the probe gives what it gave in training."""
        try:
            declared = {i.name: _DTYPES[i.type] for i in self._session.get_inputs()}
            got = self.run({name: np.array(probe["inputs"][name], dtype) for name, dtype in declared.items()})
            wanted = {name: np.array(probe["outputs"][name], np.float64) for name in self.outputs}
        except (KeyError, TypeError, ValueError, *_NATIVE_ERRORS) as error:
            raise UnusableArtefact(f"The model's probe cannot be replayed: {error!r}") from error
        for name in self.outputs:
            if got[name].shape != wanted[name].shape or not _equal(got[name], wanted[name]):
                raise UnusableArtefact(f"The model's probe gives another {name} here than in training.")


class _Sessions:
    """The latest sessions of files that differ in their parameters alone. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: OrderedDict[bytes, ort.InferenceSession] = OrderedDict()

    def of(self, payload: bytes, skeleton: bytes | None) -> tuple[ort.InferenceSession, bool]:
        """A session for the file, and whether it had to be made. Raises UnusableArtefact."""
        if skeleton is None:
            return _session(payload), True
        with self._lock:
            kept = self._kept.get(skeleton)
            if kept is not None:
                self._kept.move_to_end(skeleton)
                return kept, False
            session = self._kept[skeleton] = _session(payload)
            if len(self._kept) > SESSIONS_KEPT:
                self._kept.popitem(last=False)
            return session, True


_sessions = _Sessions()


def _session(payload: bytes) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(payload, _options(), providers=["CPUExecutionProvider"])
    except _NATIVE_ERRORS as error:
        raise UnusableArtefact(f"The model cannot be loaded: {_first_line(error)}") from error


def _memory(payload_bytes: int) -> int:
    graph = min(payload_bytes, GRAPH_BYTES)
    return SESSION_BYTES + GRAPH_GROWTH * graph + WEIGHT_GROWTH * (payload_bytes - graph)


def _equal(got: NDArray[Any], wanted: NDArray[np.float64]) -> bool:
    """Within 1e-9 of the value, or of one where that is smaller; NaN equals NaN."""
    return bool(np.allclose(got, wanted, rtol=PROBE_TOLERANCE, atol=PROBE_TOLERANCE, equal_nan=True))


def _card(text: str | None) -> dict[str, Any]:
    try:
        card = dict(json.loads(text or ""))
    except (TypeError, ValueError) as error:
        raise UnusableArtefact(f"The model has no card that can be read: {error!r}") from error
    if missing := [field for field in ("schema", "algorithm", "probe") if field not in card]:
        raise UnusableArtefact(f"The model's card has no {' and no '.join(missing)}.")
    if card["schema"] != SCHEMA:
        raise UnusableArtefact(f"The model's card has schema {card['schema']}; this app reads {SCHEMA}.")
    return card


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


def _options() -> ort.SessionOptions:
    """One thread a call, because calls take microseconds; no arena, because sessions are many and small."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4  # what goes wrong is raised
    return options
