"""POST /api/v1/detect/pattern and /train/pattern-anomaly: what comes in and what goes out.

Values come in and never go out: what is kept, learnt from and answered are shapes (see detectors.tally).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from shared.contract import (
    MAX_HISTORY,
    Answer,
    AwareTimestamp,
    DetectOptions,
    Deviation,
    Input,
    Status,
    TableId,
    Timestamp,
    TimeZone,
)

type PatternAlgorithm = Literal["auto", "formats", "autoencoder"]
type Policy = Literal["alert", "learn", "ignore"]

MAX_VALUES, MAX_COUNT = 1_000_000, 10**12


def _column(text: object) -> object:
    if isinstance(text, str) and not text.strip():
        raise PydanticCustomError("column", "must be the name of a column")
    return text


def _one_batch(history: object) -> object:
    """A plain list of values is one batch."""
    plain = isinstance(history, list) and history and all(value is None or isinstance(value, str) for value in history)
    return [history] if plain else history


def _counts(counts: dict[str, Any]) -> dict[str, int]:
    # Checked as a whole: an error must not name a key, which may be a value.
    if not all(type(count) is int and 0 <= count <= MAX_COUNT for count in counts.values()):
        raise PydanticCustomError("counts", "every count must be a whole number from 0 to a trillion")
    return counts


type ColumnName = Annotated[str, Field(min_length=1, max_length=256), BeforeValidator(_column)]
type Values = Annotated[list[str | None], Field(max_length=MAX_VALUES)]
type PatternCounts = Annotated[dict[str, Any], Field(max_length=MAX_VALUES), AfterValidator(_counts)]
type Share = Annotated[float, Field(ge=0, le=1)]


class PatternBatch(Input):
    """One earlier load of the column: its values, or how often each shape came."""

    timestamp: Timestamp | None = None
    values: Values | None = None
    pattern_counts: PatternCounts | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        _check_given_once(self.values, self.pattern_counts)
        return self


def _kind(entry: Any) -> str:
    return "point" if isinstance(entry, dict | PatternBatch) else "count"


# Objects, or plain lists of values; without a timestamp they are taken to be in order, oldest first.
type PatternHistory = Annotated[
    list[Annotated[Annotated[PatternBatch, Tag("point")] | Annotated[Values, Tag("count")], Discriminator(_kind)]],
    Field(max_length=MAX_HISTORY), BeforeValidator(_one_batch)]


class PatternRequest(DetectOptions):
    """POST /api/v1/detect/pattern: `values` or `pattern_counts` of one column, nulls allowed.

    `new_pattern_policy`: what raises an alarm besides a lost pattern. alert: everything unusual; learn: damage only, new
    formats become normal with time; ignore: nothing. Unusual values that hold less than `min_share` (0-1) of the batch, and
    lost patterns that used to, raise none. Of the general options, `direction` spike leaves out lost patterns and drop new
    ones; `min_change` is in points of the share (percent) and in values (absolute).
    """

    column: ColumnName = "value"
    values: Values | None = None
    pattern_counts: PatternCounts | None = None
    historical_data: PatternHistory = Field(default_factory=list)
    new_pattern_policy: Policy = "alert"
    min_share: Share = 0.0

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        _check_given_once(self.values, self.pattern_counts)
        return self


class PatternObservation(Input):
    """One row of POST /api/v1/observations: a batch of a column as it was, with what is known about it."""

    detector: Literal["pattern"]
    table_id: TableId
    column: ColumnName = "value"
    timestamp: AwareTimestamp
    values: Values | None = None
    pattern_counts: PatternCounts | None = None
    status: Status = "ok"

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        _check_given_once(self.values, self.pattern_counts)
        return self


class PatternTrainRequest(Input):
    """POST /api/v1/train/pattern-anomaly"""

    table_id: TableId
    column: ColumnName = "value"
    training_days: Annotated[int, Field(ge=7, le=3660)] = 90
    algorithm: PatternAlgorithm = "auto"
    historical_data: PatternHistory = Field(default_factory=list)
    promote: Literal["if_better", "never", "always"] = "if_better"
    timezone: TimeZone = "UTC"
    baseline: AwareTimestamp | None = None


def _check_given_once(values: object, counts: object) -> None:
    if (values is None) == (counts is None):
        raise PydanticCustomError("values", "needs values or pattern_counts, and not both")


class NewPattern(BaseModel):
    """A shape that is unusual in its column. `pattern` is at the column's level, `examples_masked` are masks.

    `kind` is new format, unusual sequence, unusual shape, or the kind of damage; `change` tells it against `nearest_known`.
    `share` is that of the batch; `first_seen` is null where nobody told a time. `score` is that of one such value.
    """

    pattern: str
    kind: str
    count: int
    share: float
    score: float
    first_seen: str | None
    nearest_known: str | None
    change: str
    examples_masked: list[str]


class KnownPattern(BaseModel):
    """A usual format of the column: its share of the batch, and of its history."""

    pattern: str
    example_masked: str
    count: int
    share: float
    expected_share: float


class LostPattern(KnownPattern):
    """A usual format that did not come; `score` says how unusual that is."""

    score: float


class PatternAnswer(Answer):
    """The verdict on one batch of a column. `value` and `expected_range` are shares (0-1) of the batch, of the values that
    `finding` names: those unusual in one way, or those of a pattern that was lost.

    `level` is how exactly formats are told apart in this column, null where it is free-form.
    """

    detector: Literal["pattern"] = "pattern"
    column: str
    rows: int
    missing: int
    finding: str | None = None
    value: float | None = None
    expected_value: float | None = None
    deviation: Deviation | None = None
    level: str | None = None
    unusual_count: int = 0
    new_patterns: list[NewPattern] = Field(default_factory=list)
    lost_patterns: list[LostPattern] = Field(default_factory=list)
    known_patterns: list[KnownPattern] = Field(default_factory=list)
    reconstruction_error: float | None = None


class JudgedBatch(Input):
    """What a detect call leaves on the observations queue: the shapes of a batch with its verdict."""

    detector: Literal["pattern"]
    table_id: TableId
    column: ColumnName
    timestamp: Timestamp
    observed_at: Timestamp
    document: dict[str, Any]
    status: Status
