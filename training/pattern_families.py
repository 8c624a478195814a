"""What can be trained on a string column: its formats alone, or with them an autoencoder over what its shapes look like."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor

from detectors import formats, shapes
from detectors.formats import FEATURES
from detectors.pattern_column import SHAPE, UNUSUAL_NATS, Column, Usual
from detectors.pattern_judge import with_shape
from detectors.tally import Tally, plain
from training.calibration import Calibration
from training.decision import run
from training.parity import Parity
from training.series import NotEnoughHistory

type FloatArray = NDArray[np.float64]

HIDDEN, EPOCHS = (12, 4, 12), 30
FEWEST = 200  # values with a format, for an autoencoder
FOLDS = 3
REPEATS = 20  # a mask is learnt from so often at most: a common one needs no more
MOST_ROWS = 2_000
FLAT = 0.05  # the least spread of a feature: one that never differs would make any difference infinite


class Family(Protocol):
    """A fitted column: features in, surprise out."""

    @property
    def column(self) -> Column: ...

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the columns of `x`."""
        ...

    def inputs(self, some: list[str]) -> FloatArray:
        """(n, f) features of each shape."""
        ...

    def judge(self, xp: Any, x: Any) -> dict[str, Any]:
        """`contribution` (n, f) nats of surprise by feature, the largest of a value its own, and whatever else it tells."""
        ...

    def check_parity(self, payload: bytes) -> Parity:
        """Does the ONNX file say what the library says?"""
        ...


@dataclass(frozen=True, slots=True)
class KnownFormats:
    """The statistical baseline as a graph: the decision of detectors.formats."""

    column: Column

    @property
    def features(self) -> tuple[str, ...]:
        return FEATURES

    def inputs(self, some: list[str]) -> FloatArray:
        return self.column.formats.look(some).x

    def judge(self, xp: Any, x: Any) -> dict[str, Any]:
        return {"contribution": formats.judge(xp, x, self.column.formats.rules)}

    def check_parity(self, payload: bytes) -> Parity:
        """Against numpy, in nats, on formats of every count and surprises up to three cuts."""
        rules = self.column.formats.rules
        count = np.append(np.arange(20.0), [100.0, 1e6])
        surprise = np.linspace(0.0, 3.0 * min(rules.cut, 10.0), len(count))
        x = np.stack([count, np.arange(len(count)) % 2.0, surprise], axis=1)
        return _parity(payload, x, formats.judge(np, x, rules))


@dataclass(frozen=True, slots=True)
class Autoencoder:
    """A network that is taught to repeat the shape features of normal values; what it cannot repeat is unusual.

    It joins the opinions of the formats and adds one: a value's surprise is the largest of all.
    """

    column: Column
    network: MLPRegressor
    mean: FloatArray
    spread: FloatArray
    calibration: Calibration

    @property
    def features(self) -> tuple[str, ...]:
        return (*FEATURES, *shapes.FEATURES)

    def inputs(self, some: list[str]) -> FloatArray:
        return with_shape(self.column.formats.look(some).x, some)

    def judge(self, xp: Any, x: Any) -> dict[str, Any]:
        known = formats.judge(xp, x[:, : len(FEATURES)], self.column.formats.rules)
        squares = self._residuals(xp, x[:, len(FEATURES):]) ** 2
        error = xp.mean(squares, axis=1, keepdims=True)
        nats = self.calibration.surprise(xp, xp.log(1.0 + error[:, 0]))[:, None]
        own = nats * (squares / xp.maximum(xp.max(squares, axis=1, keepdims=True), 1e-12))
        return {"contribution": xp.concat([known, own], axis=1), "error": error[:, 0]}

    def _residuals(self, xp: Any, shape: Any) -> Any:
        z = (shape - xp.asarray(self.mean)) / xp.asarray(self.spread)
        layer, last = z, len(self.network.coefs_) - 1
        for i, (weights, bias) in enumerate(zip(self.network.coefs_, self.network.intercepts_, strict=True)):
            layer = xp.matmul(layer, xp.asarray(weights)) + xp.asarray(bias)
            layer = layer if i == last else xp.tanh(layer)
        return z - layer

    def check_parity(self, payload: bytes) -> Parity:
        """Against scikit-learn's own prediction, in nats, on the formats known and on damaged ones."""
        examples = list(self.column.formats.examples.values()) or ["a"]
        some = [*examples, *(e.swapcase() for e in examples), *(e + e for e in examples), *(e[:-1] + "ä" for e in examples)]
        x = self.inputs(some)
        z = (x[:, len(FEATURES):] - self.mean) / self.spread
        squares = (z - self.network.predict(z).reshape(z.shape)) ** 2
        nats = self.calibration.surprise(np, np.log1p(squares.mean(axis=1)))
        known = formats.judge(np, x[:, : len(FEATURES)], self.column.formats.rules)
        return _parity(payload, x, np.maximum(known.max(axis=1), nats)[:, None])


def fit(algorithm: str, column: Column, history: Tally) -> Family:
    """Raises NotEnoughHistory."""
    return KnownFormats(column) if algorithm == "formats" else _fit_autoencoder(column, history)


def _fit_autoencoder(column: Column, history: Tally) -> Autoencoder:
    """From the values that the formats find nothing wrong with. Calibrated on those that a fold's network has not seen.

    Raises NotEnoughHistory below FEWEST.
    """
    baseline = KnownFormats(column)
    some = list(history.counts)
    fine = baseline.judge(np, baseline.inputs(some))["contribution"].max(axis=1, initial=0.0) < UNUSUAL_NATS
    masks: Counter[str] = Counter()
    for shape, usual in zip(some, fine, strict=True):
        if usual and (mask := plain(shape)):
            masks[mask] += history.counts[shape]
    if masks.total() < FEWEST:
        raise NotEnoughHistory(FEWEST, masks.total())
    x = shapes.features(list(masks))
    weights = np.fromiter(masks.values(), np.int64, len(masks))
    generator = np.random.default_rng(0)
    mean, spread = x.mean(axis=0), np.maximum(x.std(axis=0), FLAT)
    z = (x - mean) / spread
    fold = generator.integers(0, FOLDS, len(masks))
    raw = np.empty(len(masks))
    for out in range(FOLDS):
        if (fold == out).any() and (fold != out).any():
            network = _network(z[fold != out], weights[fold != out], generator)
            raw[fold == out] = _raw(network, z[fold == out])
    if len(masks) < 2 * FOLDS:  # a handful of masks: none can be left out
        raw = _raw(_network(z, weights, generator), z)
    calibration = Calibration.fit(np.repeat(raw, np.minimum(weights, max(MOST_ROWS // len(masks), 1))))
    beyond = float(weights[calibration.surprise(np, raw) >= UNUSUAL_NATS].sum())
    column = _used_to(column, max(beyond, formats.UNUSUAL * column.rows))
    return Autoencoder(column, _network(z, weights, generator), mean, spread, calibration)


def _used_to(column: Column, count: float) -> Column:
    """The column with so many unusual shapes in its history; between batches as unsteady as the unsteadiest damage."""
    steady = min((usual.concentration for usual in column.usual.values()), default=math.inf)
    return replace(column, usual={**column.usual, SHAPE: Usual(count, column.rows, steady)})


def _network(z: FloatArray, weights: NDArray[np.int64], generator: np.random.Generator) -> MLPRegressor:
    rows = np.repeat(np.arange(len(z)), np.minimum(weights, REPEATS))
    if len(rows) > MOST_ROWS:
        rows = generator.choice(rows, MOST_ROWS, replace=False)
    network = MLPRegressor(hidden_layer_sizes=HIDDEN, activation="tanh", alpha=1e-3, batch_size=min(64, len(rows)),
                           learning_rate_init=0.01, max_iter=EPOCHS, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # so many epochs and no more are meant
        return network.fit(z[rows], z[rows])


def _raw(network: MLPRegressor, z: FloatArray) -> FloatArray:
    error: FloatArray = np.log1p(((z - network.predict(z).reshape(z.shape)) ** 2).mean(axis=1))
    return error


def _parity(payload: bytes, x: FloatArray, library: FloatArray) -> Parity:
    graph = run(payload, {"x": x})["contribution"]
    ours, theirs = graph.max(axis=1), library.max(axis=1)
    labels = (ours >= UNUSUAL_NATS) != (theirs >= UNUSUAL_NATS)
    return Parity(float(np.max(np.abs(ours - theirs), initial=0.0)), int(labels.sum()), len(x))
