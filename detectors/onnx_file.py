"""Which part of an ONNX file is its table's own, and which thousands of tables have in common.

Training writes what it learnt as initialisers that are inputs of the graph as well, so that a caller may give others. Files
that differ in nothing else compute with one session, each with its own parameters. Just enough of protocol buffers to find
them (https://protobuf.dev/programming-guides/encoding, field numbers of onnx.proto3).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL_GRAPH, _MODEL_METADATA = 7, 14
_GRAPH_INITIALISER, _GRAPH_INPUT, _VALUE_NAME = 5, 11, 1
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_DOUBLE = 11


@dataclass(frozen=True, slots=True)
class Parts:
    """`parameters` and `metadata` by name, and a SHA-256 of everything else."""

    parameters: Mapping[str, NDArray[np.float64]]
    metadata: Mapping[str, str]
    skeleton: bytes


def parts(file: bytes) -> Parts | None:
    """None where nothing can be shared: no parameters, or no file that could be read this way."""
    try:
        return _parts(file)
    except (IndexError, StopIteration, ValueError):
        return None


def _parts(file: bytes) -> Parts | None:
    skeleton, tensors, inputs = hashlib.sha256(), list[tuple[str, int, int, int]](), set[str]()
    metadata, whole = dict[str, str](), list[tuple[int, int]]()
    for number, begin, at, end in _fields(file, 0, len(file)):
        if number == _MODEL_GRAPH:
            for part, first, inside, last in _fields(file, at, end):
                if part == _GRAPH_INPUT:
                    inputs.add(_text(file, inside, last, _VALUE_NAME))
                if part == _GRAPH_INITIALISER:
                    tensors.append((_text(file, inside, last, _TENSOR_NAME), first, inside, last))
                else:
                    whole.append((first, last))
        elif number == _MODEL_METADATA:
            metadata[_text(file, at, end, _ENTRY_KEY)] = _text(file, at, end, _ENTRY_VALUE)
        else:
            whole.append((begin, end))
    parameters = {}
    for name, first, inside, last in tensors:
        if name in inputs:
            array = _tensor(file, inside, last)
            parameters[name] = array
            skeleton.update(f"{name} {array.shape}\n".encode())
        else:
            whole.append((first, last))
    if not parameters:
        return None
    for begin, end in whole:
        skeleton.update(memoryview(file)[begin:end])
    return Parts(parameters, metadata, skeleton.digest())


def _tensor(file: bytes, at: int, end: int) -> NDArray[np.float64]:
    """Raises ValueError for one that is not kept as plain doubles within the file."""
    shape, kind, raw = [], 0, b""
    for number, _, inside, last in _fields(file, at, end):
        if number == _TENSOR_DIMS:
            while inside < last:  # one, or several packed
                size, inside = _varint(file, inside)
                shape.append(size)
        elif number == _TENSOR_TYPE:
            kind, _ = _varint(file, inside)
        elif number == _TENSOR_RAW:
            raw = file[inside:last]
        elif number != _TENSOR_NAME:
            raise ValueError(f"field {number}")
    if kind != _DOUBLE:
        raise ValueError(f"data type {kind}")
    return np.frombuffer(raw, "<f8").reshape(shape)


def _text(file: bytes, at: int, end: int, wanted: int) -> str:
    return next(file[inside:last].decode() for number, _, inside, last in _fields(file, at, end) if number == wanted)


def _fields(file: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: number, where it begins, where its content begins, where that ends."""
    while at < end:
        begin = at
        key, at = _varint(file, at)
        kind = key & 7
        inside = at
        if kind == _VARINT:
            _, at = _varint(file, at)
        elif kind == _FIXED64:
            at += 8
        elif kind == _FIXED32:
            at += 4
        elif kind == _BYTES:
            size, inside = _varint(file, at)
            at = inside + size
        else:
            raise ValueError(f"wire type {kind}")
        if at > end:
            raise ValueError("a field ends outside its message")
        yield key >> 3, begin, inside, at


def _varint(file: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = file[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
