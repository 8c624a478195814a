"""Which column and metric a verdict names."""

from __future__ import annotations

from detectors.metrics import TABLE, FloatArray


def worst(evidence: FloatArray, features: tuple[tuple[str, str], ...], line: float) -> int:
    """The place of the metric with the most evidence.

    Duplicated rows show in every column of ids too, and more clearly; where the table's own share of duplicates is odd, it
    is the reason.
    """
    duplicates = features.index((TABLE, "dup_row_rate")) if (TABLE, "dup_row_rate") in features[:2] else None
    if duplicates is not None and evidence[duplicates] >= line:
        return duplicates
    return int(evidence.argmax())
