"""Isolation forest, one-class SVM and local outlier factor over a count's deviations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ndonnx as ndx
import numpy as np
import onnxruntime as ort
import spox
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import RobustScaler
from sklearn.svm import OneClassSVM

from training.converters import to_model
from training.decision import judged
from training.deviations import FEATURES, Context, Deviations
from training.parity import Parity
from training.series import FloatArray, NotEnoughHistory, TrainingSeries

FEWEST = 28  # different rows to learn from
MOST = 400  # latest rows to learn from: kernels and neighbours cost time and bytes for each of them
CENTRAL = 0.98  # share of each feature's training values that a forest tells apart
WORTH = 0.1  # raw isolation score that one spread beyond them is worth
NOTHING = 1e-300  # smallest sum of kernels: its logarithm stays finite
PARITY_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Outliers:
    """A fitted detector with its features. Raw scores are standardised by the training rows: 0 is usual, of order one."""

    algorithm: str
    deviations: Deviations
    pipeline: Pipeline
    rows: FloatArray  # (m, 2) that it was fitted to
    central: FloatArray  # (2, 2) lower and upper end of the central values of each feature
    middle: float = 0.0
    spread: float = 1.0
    factors: tuple[str, ...] = ()

    @property
    def window(self) -> int:
        """Buckets of history."""
        return self.deviations.window

    def context(self, xp: Any, time: Any, history: Any, holiday: Any) -> Context:
        """What the history says about the judged buckets."""
        return self.deviations.context(xp, time, history, holiday)

    def centre(self, xp: Any, context: Context) -> tuple[Any, Any]:
        """(n, 1) the least deviating log1p(rows) and (n, 1) its spread."""
        return self.deviations.centre(xp, context)

    def raw(self, xp: Any, context: Context, level: Any) -> Any:
        """(n, g) log1p of candidate counts -> (n, g) raw score, NaN where there is no context."""
        features = xp.reshape(self.deviations.features(xp, context, level), (-1, FEATURES))
        raw = (self._anomaly(xp, features) - self.middle) / self.spread
        return xp.reshape(raw, (-1, level.shape[1]))

    def check_parity(self) -> Parity:
        """The graph's decision function and labels against scikit-learn's: training rows, and others up to far out."""
        rng = np.random.default_rng(0)
        drawn = self.rows[rng.integers(0, len(self.rows), PARITY_ROWS - len(self.rows))]
        rows = np.concatenate([self.rows, drawn * rng.lognormal(0.0, 1.5, (len(drawn), 1))])
        session = ort.InferenceSession(to_model(self.pipeline, FEATURES).SerializeToString())
        labels, scores = session.run(["label", "scores"], {"x": rows})
        difference = float(np.abs(scores[:, 0] - self.pipeline.decision_function(rows)).max())
        return Parity(difference, int((labels != self.pipeline.predict(rows)).sum()), len(rows))

    def _anomaly(self, xp: Any, features: Any) -> Any:
        """(n, 2) -> (n,) the detector's own score, made to grow without end: far out it would be the same everywhere.

        A forest knows no distance outside its training data, so spreads beyond the central values are added. The SVM's sum
        of Gaussian kernels vanishes with distance; the root of its negative logarithm grows with it, in the same order.
        """
        samples = self._score_samples(xp, features)
        if self.algorithm == "isolation_forest":
            low, high = (xp.asarray(end) for end in self.central)
            beyond = xp.maximum(xp.maximum(features - high, low - features), 0.0)
            return WORTH * xp.sum(beyond, axis=1) - samples
        if self.algorithm == "one_class_svm":
            most = float(self.pipeline[-1].dual_coef_.sum())
            return xp.sqrt(xp.maximum(-xp.log(xp.maximum(samples, NOTHING) / most), 0.0))
        return -samples

    def _score_samples(self, xp: Any, features: Any) -> Any:
        """(n, 2) -> (n,) as scikit-learn has it: by scikit-learn, or in the graph."""
        if xp is np:
            known = np.isfinite(features[:, 0])
            samples = np.full(len(features), np.nan)
            if known.any():
                samples[known] = self.pipeline.score_samples(features[known])
            return samples
        inlined = spox.inline(to_model(self.pipeline, FEATURES, ["scores"]))(x=features.unwrap_spox())
        return ndx.asarray(inlined["scores"])[:, 0] + float(np.ravel(self.pipeline[-1].offset_)[0])


def fit(series: TrainingSeries, algorithm: str) -> Outliers:
    """Fits `isolation_forest`, `one_class_svm` or `lof`. Raises NotEnoughHistory for less than 28 different rows."""
    known = np.flatnonzero(np.isfinite(series.values))
    inputs = judged(series, series.start + known, Deviations(series.granularity).window)
    past, value = (inputs["time"], inputs["history"], inputs["holiday"]), inputs["value"]
    deviations = Deviations.fit(series.granularity, *past, value)
    with np.errstate(invalid="ignore"):
        rows = deviations.features(np, deviations.context(np, *past), np.log1p(value)[:, None])[:, 0]
    rows = rows[np.isfinite(rows).all(axis=1)][-MOST:]
    if (distinct := len(np.unique(rows.round(6), axis=0))) < FEWEST:
        raise NotEnoughHistory(FEWEST, distinct)

    pipeline = make_pipeline(RobustScaler(), _detector(algorithm, len(rows))).fit(rows)
    tails = (1 - CENTRAL) / 2
    fitted = Outliers(algorithm, deviations, pipeline, rows, np.quantile(rows, [tails, 1 - tails], axis=0))
    raw = fitted._anomaly(np, rows)
    middle = float(np.median(raw))
    spread = 1.4826 * float(np.median(np.abs(raw - middle)))
    return Outliers(algorithm, deviations, pipeline, rows, fitted.central, middle, spread)


def _detector(algorithm: str, rows: int) -> IsolationForest | OneClassSVM | LocalOutlierFactor:
    """Smooth ones: small samples for trees, half the points as support vectors, half of them as neighbours."""
    match algorithm:
        case "isolation_forest":
            return IsolationForest(n_estimators=100, max_samples=min(64, rows), random_state=0)
        case "one_class_svm":
            return OneClassSVM(kernel="rbf", gamma=0.02, nu=0.5)
        case "lof":
            return LocalOutlierFactor(n_neighbors=rows // 2, novelty=True)
        case _:
            raise ValueError(f"no outlier detector is called {algorithm!r}")
