"""The sentences of a verdict on a batch."""

from __future__ import annotations

from collections.abc import Sequence

from detectors.metrics import CHARACTER_SHARES, DISTANCES, ROW_SHARES, TABLE
from detectors.schema import Finding

NAMES = {
    "null_rate": "share of nulls", "zero_rate": "share of zeros", "neg_rate": "share of negative values",
    "empty_rate": "share of empty texts", "true_rate": "share of true", "top_freq": "share of the commonest value",
    "distinct_ratio": "distinct values per row", "dup_row_rate": "share of duplicated rows", "digit_frac": "share of digits",
    "upper_frac": "share of capitals", "space_frac": "share of blanks", "nonascii_frac": "share of non-ASCII characters",
    "row_count": "number of rows", "distinct_count": "number of distinct values", "pattern_count": "number of patterns",
    "len_min": "shortest length", "len_max": "longest length", "len_mean": "mean length", "len_std": "spread of lengths",
    "min": "minimum", "max": "maximum", "mean": "mean", "std": "standard deviation", "first_age": "age of the oldest date",
    "last_age": "age of the newest date", "value_shift": "distance to the usual mix of values",
    "pattern_shift": "distance to the usual mix of patterns",
}
CHANGES = {"new_column": "is new", "vanished_column": "is gone", "type_changed": "changed its type"}
CHANGES_OF_SEVERAL = {"vanished_column": "gone", "new_column": "new", "type_changed": "of another type"}
MOST_NAMED = 3
TOGETHER = "The metrics together are unlike those before. The most unusual is "


def of_metric(column: str, metric: str, value: float, expected: float, lower: float, upper: float) -> str:
    """`email: share of nulls 12.4%; 0.3% expected (0%-1.1%).`"""
    name = NAMES.get(metric, f"{metric[1:]}% quantile" if metric[:1] == "q" else metric)
    subject = name if column == TABLE else f"{column}: {name}"
    shown = [_number(x, metric) for x in (value, expected, lower, upper)]
    return f"{subject[:1].upper() + subject[1:] if column == TABLE else subject} {shown[0]}; {shown[1]} expected " \
           f"({shown[2]} to {shown[3]})."


def of_change(finding: Finding) -> str:
    """`Column email is gone.`"""
    types = f" from {finding.before} to {finding.after}" if finding.change == "type_changed" else ""
    return f"Column {finding.column} {CHANGES[finding.change]}{types}."


def of_changes(findings: Sequence[Finding]) -> str:
    """Every change where they are few, else how many columns changed how, and some of their names.

    `8 columns are gone (city, name, zip, ...). 8 columns are new (town, ...).`
    """
    if len(findings) <= MOST_NAMED:
        return " ".join(of_change(finding) for finding in findings)
    sentences = []
    for change, told in CHANGES_OF_SEVERAL.items():
        columns = [finding.column for finding in findings if finding.change == change]
        if columns:
            names = ", ".join([*columns[:MOST_NAMED], *(["..."] if len(columns) > MOST_NAMED else [])])
            sentences.append(f"{len(columns)} column{'s are' if len(columns) > 1 else ' is'} {told} ({names}).")
    return " ".join(sentences)


def of_rest(odd: int, columns: int) -> str:
    """How many columns are odd, where it is more than the one that was named."""
    return f" {odd} of {columns} columns are odd." if odd > 1 else ""


def _number(value: float, metric: str) -> str:
    if metric in ROW_SHARES or metric in CHARACTER_SHARES:
        return f"{100 * value:.3g}%"
    if metric in DISTANCES:
        return f"{value:.2f}"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:,.4g}"
