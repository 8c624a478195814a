"""Which column and metric a verdict names."""

from __future__ import annotations

from detectors.metrics import TABLE, FloatArray


def worst(evidence: FloatArray, features: tuple[tuple[str, str], ...], line: float) -> int:
    """The place of the metric with the most evidence.

    Duplicated rows show in every column of ids, missing ones in every number of distinct values, and more clearly; where the
    table's own metric is odd, it is the reason.
    """
    place = int(evidence.argmax())
    odd = {metric: own for own, (column, metric) in enumerate(features[:2]) if column == TABLE and evidence[own] >= line}
    if "dup_row_rate" in odd:
        return odd["dup_row_rate"]
    return odd.get("row_count", place) if features[place][1] == "distinct_count" else place
