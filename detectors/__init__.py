"""The request path: numpy, onnxruntime, pydantic and nothing heavier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detectors.anomaly_detector import AnomalyDetector

__all__ = ["AnomalyDetector"]


def __getattr__(name: str) -> Any:
    # At its first use: the detectors themselves need nothing of what it imports.
    if name == "AnomalyDetector":
        from detectors.anomaly_detector import AnomalyDetector

        return AnomalyDetector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
