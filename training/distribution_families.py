"""The families that judge a batch of column metrics. All stand on the conditional residual: it takes time out of the metrics
and says what each should be. The baseline scores a batch by its oddest metric, the others by all of them at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ndonnx as ndx
import numpy as np
import spox
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.svm import OneClassSVM

from detectors import conditional
from detectors.conditional import Conditional, Judged
from detectors.distances import Gauge, measured
from detectors.distribution_history import learnt_from, weekdays
from detectors.profiles import Batch
from training.calibration import Calibration
from training.converters import to_model
from training.parity import Parity, through_onnx
from training.series import FloatArray, NotEnoughHistory

BASELINE = "conditional_residual"
FEWEST = 20  # batches without which a family is not tried
NEIGHBOURS = 5
DENSITY_NEIGHBOURS = 20
NOTHING = 1e-300  # smallest sum of kernels: its logarithm stays finite
# One unit in the middle layer for so many batches, and how many at most: fewer than the metrics, or nothing is learnt.
BATCHES_A_UNIT, MOST_UNITS = 8, 16
LEAST_ERROR = 0.3  # of a reconstruction, in standard deviations of a metric: what was learnt by heart is no measure


@dataclass(frozen=True, slots=True)
class Family:
    """A fitted family of one table: `rows` (h, p) are the deviations of its history.

    Raw scores are standardised by the history: 0 is usual, of order one. The baseline needs no calibration.
    """

    algorithm: str
    gauge: Gauge
    conditional: Conditional
    rows: FloatArray
    model: Any = None
    error: FloatArray | None = None  # (p,) of the autoencoder's reconstruction
    middle: float = 0.0
    spread: float = 1.0
    calibration: Calibration | None = None

    def judge(self, xp: Any, x: Any, last: Any, weekday: Any, threshold: Any) -> Judged:
        """The graph's inputs (detectors.distribution_model) -> its outputs."""
        level, z = self.conditional.standardise(xp, x, last, weekday)
        tail = self.conditional.tail
        judged = self.conditional.decide(xp, level, z, tail.inverse(xp, threshold)[:, None])
        if self.calibration is None:
            return replace(judged, score=tail.score(xp, xp.max(judged.evidence, axis=1)))
        raw = self._standard(xp, self.conditional.relations.deviations(xp, z))
        return replace(judged, score=self.calibration.score(xp, raw))

    def raw(self, inputs: dict[str, Any]) -> FloatArray:
        """(n,) scores before calibration; of the baseline its score."""
        if self.algorithm == BASELINE:
            score: FloatArray = self.judge(np, **inputs).score
            return score
        _, z = self.conditional.standardise(np, inputs["x"], inputs["last"], inputs["weekday"])
        raw: FloatArray = self._standard(np, self.conditional.relations.deviations(np, z))
        return raw

    def check_parity(self) -> Parity:
        """The graph of the fitted model against its library, on its own rows and on others up to far out."""
        rng = np.random.default_rng(0)
        rows = np.concatenate([self.rows, 3.0 * self.rows, rng.normal(0.0, 2.0, self.rows.shape)])
        if self.algorithm == BASELINE:
            relations = self.conditional.relations
            graph = through_onnx(lambda xp, a: relations.residual(xp, a + xp.asarray(relations.mean)), {"a": rows})
            library = relations.residual(np, rows + relations.mean)
        else:
            graph = through_onnx(lambda xp, a: self._anomaly(xp, a), {"a": rows})
            library = self._by_library(rows)
        odd = [values > np.quantile(library, 0.9, axis=0) + 1e-6 for values in (graph, library)]
        return Parity(float(np.abs(graph - library).max()), int((odd[0] != odd[1]).sum()), len(rows))

    def _standard(self, xp: Any, a: Any) -> Any:
        return (self._anomaly(xp, a) - self.middle) / self.spread

    def _anomaly(self, xp: Any, a: Any) -> Any:
        """(n, p) deviations -> (n,) the family's own score, higher = more anomalous."""
        match self.algorithm:
            case "autoencoder":
                return xp.max(xp.abs(a - self._reconstructed(xp, a)) / xp.asarray(self.error), axis=1)
            case "knn":
                return xp.mean(_nearest(xp, a, self.rows, NEIGHBOURS), axis=1)
            case "one_class_svm":
                # The sum of kernels vanishes with distance; the root of its negative logarithm grows with it.
                most = float(self.model[-1].dual_coef_.sum())
                kernels = self._score_samples(xp, a)
                return xp.sqrt(xp.maximum(-xp.log(xp.maximum(kernels, NOTHING) / most), 0.0))
            case _:
                return -self._score_samples(xp, a)

    def _reconstructed(self, xp: Any, a: Any) -> Any:
        (first, second), (one, two) = self.model.coefs_, self.model.intercepts_
        return xp.tanh(a @ xp.asarray(first) + xp.asarray(one)) @ xp.asarray(second) + xp.asarray(two)

    def _score_samples(self, xp: Any, a: Any) -> Any:
        """As scikit-learn has it: by scikit-learn, or in the graph."""
        if xp is np:
            return self.model.score_samples(a)
        inlined = spox.inline(to_model(self.model, self.rows.shape[1], ["scores"]))(x=a.unwrap_spox())
        return ndx.asarray(inlined["scores"])[:, 0] + float(np.ravel(self.model[-1].offset_)[0])

    def _by_library(self, rows: FloatArray) -> FloatArray:
        match self.algorithm:
            case "autoencoder":
                error: FloatArray = np.abs(rows - self.model.predict(rows).reshape(rows.shape)) / self.error
                return np.asarray(error.max(axis=1))
            case "knn":
                return np.asarray(self.model.kneighbors(rows)[0].mean(axis=1))
            case _:
                return np.asarray(self._anomaly(np, rows))


def fit(algorithm: str, batches: Sequence[Batch], zone: str) -> Family:
    """A family fitted to the latest of the batches, oldest first. Raises NotEnoughHistory for less than 20."""
    if len(batches) < FEWEST:
        raise NotEnoughHistory(FEWEST, len(batches))
    latest = learnt_from(batches)
    gauge, past = measured(latest, conditional.FEWEST_BATCHES)
    days = weekdays(latest, zone)
    base = conditional.fit(past.raw, past.rows, past.columns, past.metrics, days)
    before = np.concatenate([past.raw[:1], past.raw[:-1]])
    _, z = base.standardise(np, past.raw, before, days)
    family = Family(algorithm, gauge, base, base.relations.deviations(np, z))
    return family if algorithm == BASELINE else _standardised(_learnt(family))


def _learnt(family: Family) -> Family:
    rows, h = family.rows, len(family.rows)
    match family.algorithm:
        case "isolation_forest":
            forest = IsolationForest(n_estimators=100, max_samples=min(64, h), random_state=0)
            return replace(family, model=make_pipeline(forest).fit(rows))
        case "one_class_svm":
            return replace(family, model=make_pipeline(OneClassSVM(gamma=1.0 / rows.shape[1], nu=0.5)).fit(rows))
        case "lof":
            neighbours = min(DENSITY_NEIGHBOURS, h // 2)
            return replace(family, model=make_pipeline(LocalOutlierFactor(n_neighbors=neighbours, novelty=True)).fit(rows))
        case "knn":
            return replace(family, model=NearestNeighbors(n_neighbors=NEIGHBOURS).fit(rows))
        case "autoencoder":
            units = min(max(h // BATCHES_A_UNIT, 2), MOST_UNITS, max(rows.shape[1] // 2, 1))
            network = MLPRegressor(hidden_layer_sizes=(units,), activation="tanh", alpha=1.0, max_iter=200, random_state=0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # 200 rounds are what it gets
                network.fit(rows, rows if rows.shape[1] > 1 else rows[:, 0])
            error = np.sqrt(((rows - network.predict(rows).reshape(rows.shape)) ** 2).mean(axis=0))
            return replace(family, model=network, error=np.maximum(error, LEAST_ERROR))
        case _:
            raise ValueError(f"no family is called {family.algorithm!r}")


def _standardised(family: Family) -> Family:
    """Raw scores about 0 and of order one for the batches learnt from."""
    raw = family._anomaly(np, family.rows)
    middle = float(np.median(raw))
    spread = 1.4826 * float(np.median(np.abs(raw - middle)))
    return replace(family, middle=middle, spread=max(spread, 1e-3 * max(abs(middle), 1e-3)))


def _nearest(xp: Any, a: Any, points: FloatArray, k: int) -> Any:
    """(n, p), (h, p) -> (n, k) the smallest distances."""
    norms = xp.sum(a * a, axis=1, keepdims=True) + xp.asarray((points**2).sum(axis=1))
    squares = norms - a @ xp.asarray(2.0 * points.T)
    return xp.sqrt(xp.maximum(xp.sort(squares, axis=1)[:, :k], 0.0))
