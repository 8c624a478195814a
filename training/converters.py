"""Double-precision ONNX converters for scikit-learn's outlier detectors, registered in skl2onnx.

skl2onnx's own compute in float32, which mislabels features with a large offset (bytes, epochs), and are up to a hundred
times slower for one row. These take double and give double.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import ndonnx as ndx
import numpy as np
import onnx
import onnx.utils
import spox.opset.ai.onnx.ml.v3 as trees
import spox.opset.ai.onnx.v17 as op
from numpy.typing import NDArray
from skl2onnx import to_onnx, update_registered_converter
from skl2onnx.common.data_types import DoubleTensorType, Int64TensorType
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import Pipeline
from sklearn.svm import OneClassSVM

OPSETS = {"": 21, "ai.onnx.ml": 3}
ROUNDING = 5e-8  # of a forest's score: its depths leave the operator as float32


def to_model(pipeline: Pipeline, features: int, outputs: Sequence[str] = ("label", "scores")) -> onnx.ModelProto:
    """A fitted pipeline that ends in an outlier detector -> model: `x` (n, f) double -> `label` (n,), `scores` (n, 1).

    As in scikit-learn, `scores` is the decision function: lower is more anomalous, below 0 the label is -1. Raises
    NotImplementedError for a kernel or a metric that no family here uses: refused rather than converted wrongly.
    """
    register()
    model = to_onnx(pipeline, initial_types=[("x", DoubleTensorType([None, features]))], target_opset=OPSETS)
    return onnx.utils.Extractor(model).extract_model(["x"], list(outputs))


def register() -> None:
    """Makes skl2onnx use the converters of this module, in whichever pipeline the detectors are found."""
    for detector, decision in _DECISIONS.items():
        update_registered_converter(
            detector,
            f"Double{detector.__name__}",
            _shapes,
            _converter(decision),
            options=None if detector is OneClassSVM else {"score_samples": [True, False]},
        )


def _isolation_forest(model: IsolationForest, x: ndx.Array) -> ndx.Array:
    """(n, f) -> (n, 1): scikit-learn rounds the features to float32 and compares them with thresholds in double.

    A score equal to the offset is normal there; the operator's rounding to float32 must not push it below.
    """
    rounded = x.astype(ndx.float32).astype(ndx.float64)
    depth = ndx.asarray(trees.tree_ensemble_regressor(rounded.unwrap_spox(), **_forest(model))).astype(ndx.float64)
    return -(2.0**-depth) - (float(model.offset_) - ROUNDING)


def _one_class_svm(model: OneClassSVM, x: ndx.Array) -> ndx.Array:
    if model.kernel != "rbf":
        raise NotImplementedError(f"a one-class SVM with kernel {model.kernel!r}")
    kernel = ndx.exp(_square_distances(x, model.support_vectors_) * -float(model._gamma))
    return _matmul(kernel, model.dual_coef_.T) + float(model.intercept_[0])


def _local_outlier_factor(model: LocalOutlierFactor, x: ndx.Array) -> ndx.Array:
    """Density of the k nearest training points over the point's own (Breunig et al. 2000, doi:10.1145/335191.335388)."""
    if model.effective_metric_ != "euclidean":
        raise NotImplementedError(f"a local outlier factor with metric {model.effective_metric_!r}")
    k = model.n_neighbors_
    squares = _square_distances(x, model._fit_X).unwrap_spox()
    nearest, index = op.top_k(squares, op.const(np.array([k])), largest=0, sorted=0)
    reach = op.gather(op.const(model._distances_fit_X_[:, k - 1]), index)
    density = op.gather(op.const(model._lrd), index)
    reachability = ndx.maximum(ndx.sqrt(ndx.asarray(nearest)), ndx.asarray(reach))
    factor: ndx.Array = ndx.sum(ndx.asarray(density), axis=1, keepdims=True) / k
    factor *= ndx.sum(reachability, axis=1, keepdims=True) / k + 1e-10
    return -factor - float(model.offset_)


type _Decision = Callable[[Any, ndx.Array], ndx.Array]
_DECISIONS: dict[type, _Decision] = {
    IsolationForest: _isolation_forest,
    OneClassSVM: _one_class_svm,
    LocalOutlierFactor: _local_outlier_factor,
}


def _shapes(operator: Any) -> None:
    rows = operator.inputs[0].get_first_dimension()
    operator.outputs[0].type = Int64TensorType([rows])
    for scores in operator.outputs[1:]:
        scores.type = DoubleTensorType([rows, 1])


def _converter(decision: _Decision) -> Callable[[Any, Any, Any], None]:
    def convert(scope: Any, operator: Any, container: Any) -> None:
        x = ndx.argument(shape=("n", operator.raw_operator.n_features_in_), dtype=ndx.float64)
        scores = decision(operator.raw_operator, x)
        label = ndx.where(scores[:, 0] < 0.0, ndx.asarray(-1), ndx.asarray(1))
        samples = scores + float(np.ravel(operator.raw_operator.offset_)[0])
        outputs = {"label": label, "scores": scores, "score_samples": samples}
        wanted = dict(itertools.islice(outputs.items(), len(operator.outputs)))
        graph = ndx.build({"x": x}, wanted).graph
        ends = [variable.onnx_name for variable in [*operator.inputs, *operator.outputs]]
        names = dict(zip(["x", *wanted], ends, strict=True))
        for node in graph.node:
            for name in [*node.input, *node.output]:
                if name and name not in names:
                    names[name] = scope.get_unique_variable_name(name)
            container.add_node(
                node.op_type,
                [names.get(name, "") for name in node.input],
                [names.get(name, "") for name in node.output],
                op_domain=node.domain,
                op_version=OPSETS[node.domain],
                name=scope.get_unique_operator_name(node.op_type),
                **{entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute},
            )

    return convert


def _square_distances(x: ndx.Array, points: NDArray[np.float64]) -> ndx.Array:
    """(n, f), (m, f) -> (n, m), from the middle of the points, or a common offset would eat the digits."""
    middle = points.mean(axis=0)
    x, points = x - ndx.asarray(middle), points - middle
    norms = ndx.asarray((points**2).sum(axis=1))
    squares = ndx.sum(x * x, axis=1, keepdims=True) + norms + _matmul(x, -2.0 * points.T)
    return ndx.maximum(squares, 0.0)


def _matmul(x: ndx.Array, matrix: NDArray[np.float64]) -> ndx.Array:
    """(n, a), (a, b) -> (n, b); ndonnx's own `@` brings a subgraph for empty arrays."""
    return ndx.asarray(op.matmul(x.unwrap_spox(), op.const(np.ascontiguousarray(matrix))))


def _average_path(points: int) -> float:
    """Mean depth of an unsuccessful search among n points: c(n) of Liu et al. 2008 (doi:10.1109/ICDM.2008.17)."""
    if points <= 2:
        return float(points == 2)
    return 2.0 * (math.log(points - 1.0) + np.euler_gamma) - 2.0 * (points - 1.0) / points


def _forest(model: IsolationForest) -> dict[str, Any]:
    """The forest as attributes of TreeEnsembleRegressor; a leaf weighs what a point that ends there has as depth.

    Depths are divided by their longest mean, so that the operator's rounding to float32 costs less than ROUNDING.
    """
    parts = [_tree(model, number) for number in range(len(model.estimators_))]
    nodes = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    leaf, values, depths = nodes["modes"] == "LEAF", nodes.pop("values"), nodes.pop("depths")
    longest = len(model.estimators_) * _average_path(model._max_samples)
    return {f"nodes_{name}": column.tolist() for name, column in nodes.items()} | {
        "nodes_values_as_tensor": values,
        "target_treeids": nodes["treeids"][leaf].tolist(),
        "target_nodeids": nodes["nodeids"][leaf].tolist(),
        "target_ids": [0] * int(leaf.sum()),
        "target_weights_as_tensor": depths[leaf] / longest,
        "n_targets": 1,
    }


def _tree(model: IsolationForest, number: int) -> dict[str, NDArray[Any]]:
    """One row for each node of a tree; splits are in the columns of the whole forest."""
    tree, columns = model.estimators_[number].tree_, np.asarray(model.estimators_features_[number])
    leaf = tree.children_left == -1
    return {
        "treeids": np.full(len(leaf), number),
        "nodeids": np.arange(len(leaf)),
        "featureids": np.where(leaf, 0, columns[np.where(leaf, 0, tree.feature)]),
        "modes": np.where(leaf, "LEAF", "BRANCH_LEQ"),
        "values": np.where(leaf, 0.0, tree.threshold),
        "truenodeids": np.where(leaf, 0, tree.children_left),
        "falsenodeids": np.where(leaf, 0, tree.children_right),
        "missing_value_tracks_true": np.where(leaf, 0, tree.missing_go_to_left),
        "depths": model._decision_path_lengths[number] + [_average_path(n) for n in tree.n_node_samples] - 1.0,
    }
