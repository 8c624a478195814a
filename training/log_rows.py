"""Families forecast log1p(rows), where seasons multiply and noise is relative; decisions are made in rows."""

from __future__ import annotations

from typing import Any

LARGEST = 35.0  # log1p of 1.6e15 rows: further than any table, and where double precision still counts one by one
NARROWEST, WIDEST = 0.01, 5.0  # spread: a table that never varied may still do so by 1 %; e^5 is a forecast of nothing
HALF_A_ROW = 0.5  # rows are whole
REACH = 3.0


def log_rows(xp: Any, rows: Any) -> Any:
    """log1p, exact to a row up to 1e12 rows; NaN stays NaN."""
    return xp.log(1.0 + rows)


def in_rows(xp: Any, mean: Any, spread: Any) -> tuple[Any, Any, Any]:
    """(n,) mean and spread of log1p(rows) -> (n,) expected rows, the spread below and the spread above, in rows.

    The sides differ: each is a third of the way from the expectation to the bound three spreads away in logarithms,
    because decisions are made out there. Expected is >= 0, a spread at least half a row.
    """
    rows = xp.exp(xp.clip(mean, 0.0, LARGEST))
    factor = xp.exp(REACH * xp.clip(spread, NARROWEST, WIDEST))
    below = xp.maximum(rows * ((1.0 - 1.0 / factor) / REACH), HALF_A_ROW)
    above = xp.maximum(rows * ((factor - 1.0) / REACH), HALF_A_ROW)
    return rows - 1.0, below, above


def effects_in_rows(xp: Any, mean: Any, parts: Any) -> Any:
    """(n,) mean of log1p(rows) and (n, e) the part each factor has in it -> (n, e) rows that would be missing without it."""
    mean = xp.clip(mean, 0.0, LARGEST)[:, None]
    return xp.exp(mean) - xp.exp(xp.clip(mean - parts, 0.0, LARGEST))
