"""Pictures of verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def draw_verdicts(before: Sequence[Any], judged: Sequence[tuple[Any, dict[str, Any]]], path: Path) -> Path:
    """One table's counts, the range that was expected of each judged day, and what was flagged, as PNG.

    `before` are the days that were only learnt from, `judged` the days with their verdicts; a day has date, rows and fault.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(13, 5), dpi=110, layout="constrained")
    days = _dates([d for d, _ in judged])
    lower = [v["expected_range"][0] for _, v in judged]
    upper = [v["expected_range"][1] for _, v in judged]
    expected = [v["expected_value"] for _, v in judged]
    axes.plot(_dates(before), [d.rows for d in before], color="0.6", lw=0.9, label="learnt from")
    axes.fill_between(days, lower, upper, color="tab:blue", alpha=0.18, lw=0, label="expected range")
    axes.plot(days, expected, color="tab:blue", lw=0.8, alpha=0.7, label="expected")
    axes.plot(days, [d.rows for d, _ in judged], color="0.15", lw=1.0, label="rows")
    groups = {
        "fault, found": ([i for i, (d, v) in enumerate(judged) if v["is_anomaly"] and d.fault], "o", "tab:red"),
        "false alarm": ([i for i, (d, v) in enumerate(judged) if v["is_anomaly"] and not d.fault], "D", "tab:orange"),
        "fault, missed": ([i for i, (d, v) in enumerate(judged) if not v["is_anomaly"] and d.fault], "x", "tab:red"),
    }
    for label, (at, marker, colour) in groups.items():
        axes.plot(days[at], [judged[i][0].rows for i in at], marker, color=colour, ms=6, ls="", label=label)
    axes.set_title(f"{judged[0][0].table}: rows a day")
    axes.set_ylim(bottom=0, top=1.35 * max(max(d.rows for d, _ in judged), max(d.rows for d in before)))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncols=7, loc="upper center", frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
    return path


def _dates(days: Sequence[Any]) -> NDArray[np.datetime64]:
    return np.array([d.date for d in days], "datetime64[D]")
