"""Column profiles as they may come in, and the verdict on one.

Field names are accepted in camelCase, PascalCase and snake_case: `columnName`, `ColumnName` and `column_name` are one field.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

from shared.contract import (
    Answer,
    AwareTimestamp,
    Count,
    DetectOptions,
    Holidays,
    Input,
    Status,
    TableId,
    Timestamp,
    TimeZone,
)

MAX_COLUMNS = 5_000
MAX_PROFILES = 1_000
MAX_LABELS = 1_000
# Beyond this a minimum or a mean is no longer a number that a double can hold with its neighbours.
LARGEST = 1e300

type Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
type Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
type Percentage = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
type Algorithm = Literal["auto", "conditional_residual", "isolation_forest", "one_class_svm", "lof", "autoencoder", "knn"]

_SEPARATORS = re.compile(r"[_\-\s]")
_LEVEL = re.compile(r"(?:p|q|percentile|quantile)?\s*(\d+(?:\.\d+)?)\s*%?", re.IGNORECASE)


def _names(*names: str) -> Any:
    """A field under several names; errors call it by the first."""
    return Field(validation_alias=AliasChoices(*names))


def _plain(key: str) -> str:
    return _SEPARATORS.sub("", key).lower()


class _Shaped(Input):
    """An object whose keys may be written in any case, with or without underscores."""

    @model_validator(mode="before")
    @classmethod
    def _any_case(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {_spelled(cls, key): value for key, value in data.items()}


@lru_cache(4096)
def _spelled(kind: type[BaseModel], key: str) -> str:
    """The contract's spelling of a key."""
    return _spelling(kind).get(_plain(key), key)


@cache
def _spelling(kind: type[BaseModel]) -> dict[str, str]:
    """Every accepted name of every field, plain, with the contract's spelling of it."""
    aliases = ((name, field.validation_alias) for name, field in kind.model_fields.items())
    names = ([str(a) for a in alias.choices] if isinstance(alias, AliasChoices) else [name] for name, alias in aliases)
    return {_plain(name): group[0] for group in names for name in group}


def _extreme(value: Any) -> bool | float | str:
    """The smallest or largest value of a column, whatever its type."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int | float) and abs(value) <= LARGEST:
        return float(value)
    raise PydanticCustomError("extreme", "must be a number, a text or a boolean")


type Extreme = Annotated[bool | float | str, PlainValidator(_extreme)]


class TopValue(_Shaped):
    """A frequent value with how often it came: a count, a share from 0 to 1, or a percentage."""

    value: Any = None
    count: Annotated[Count | None, _names("count", "rows", "occurrences")] = None
    share: Annotated[Share | None, _names("share", "frequency", "ratio")] = None
    percentage: Annotated[Percentage | None, _names("percentage", "percent")] = None


class Lengths(_Shaped):
    """Lengths of a text column's values, in characters."""

    min: Annotated[Count | None, _names("min", "minLength", "minimum")] = None
    max: Annotated[Count | None, _names("max", "maxLength", "maximum")] = None
    mean: Annotated[Count | None, _names("mean", "avg", "average", "meanLength", "avgLength")] = None
    std: Annotated[Count | None, _names("std", "stddev", "stdev")] = None


class Histogram(_Shaped):
    """Counts between edges: one edge more than counts, increasing."""

    edges: Annotated[list[Number], Field(min_length=2, max_length=1001)]
    counts: Annotated[list[Count], Field(min_length=1, max_length=1000)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.edges) != len(self.counts) + 1:
            raise PydanticCustomError("histogram", "edges must be one more than counts")
        if any(a >= b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise PydanticCustomError("histogram", "edges must increase")
        return self


@lru_cache(4096)
def _level(key: str) -> float:
    """`p25`, `q25`, `25%`, `25` and `0.25` are 0.25; without a letter or a sign, up to 1 is a share and more is per cent."""
    text = {"median": "0.5", "min": "0", "max": "1"}.get(key.lower(), key.strip())
    digits = found[1] if (found := _LEVEL.fullmatch(text)) else "inf"
    number = float(digits)
    level = number if number <= 1 and (text == digits or "." in digits) else number / 100
    if level > 1:
        raise PydanticCustomError("quantile", "has a level that is none, such as 0.25, p25 or 25%: {key}", {"key": key})
    return round(level, 6)


def _quantiles(data: Any) -> Any:
    """`{"p25": 1, "0.5": 2, "95%": 3}` -> `{0.25: 1, 0.5: 2, 0.95: 3}`."""
    if not isinstance(data, dict):
        return data
    return {_level(str(key)): value for key, value in data.items() if value is not None}


def _top_values(data: Any) -> Any:
    """Objects as they are; `["a", "b"]` are values without counts, `[["a", 3]]` and `{"a": 3}` values with counts."""
    if isinstance(data, dict):
        data = list(data.items())
    if not isinstance(data, list):
        return data
    return [entry if isinstance(entry, dict) else
            {"value": entry[0], "count": entry[1]} if isinstance(entry, list | tuple) and len(entry) == 2 else
            {"value": entry} for entry in data]


class ColumnProfile(_Shaped):
    """What was measured of one column. Only its name is required; what is null counts as not measured."""

    name: Annotated[str, Field(min_length=1, max_length=256, validation_alias=AliasChoices("columnName", "column", "name"))]
    data_type: Annotated[str | None, Field(max_length=200), _names("dataType", "type")] = None
    null_percentage: Annotated[Percentage | None, _names("nullPercentage", "nullPercent")] = None
    null_count: Annotated[Count | None, _names("nullCount", "nulls")] = None
    distinct_count: Annotated[Count | None, _names("distinctCount", "uniqueCount", "distinct")] = None
    min_value: Annotated[Extreme | None, _names("minValue", "min", "minimum")] = None
    max_value: Annotated[Extreme | None, _names("maxValue", "max", "maximum")] = None
    mean: Annotated[Number | None, _names("mean", "avg", "average")] = None
    stddev: Annotated[Annotated[float, Field(ge=0, le=LARGEST)] | None, _names("stddev", "std", "standardDeviation")] = None
    quantiles: Annotated[dict[float, Number] | None, BeforeValidator(_quantiles), _names("quantiles", "percentiles")] = None
    top_values: Annotated[Annotated[list[TopValue], Field(max_length=MAX_LABELS)] | None, BeforeValidator(_top_values),
                          _names("topValues", "mostFrequent")] = None
    lengths: Annotated[Lengths | None, _names("lengths", "length")] = None
    patterns: Annotated[Annotated[dict[str, Count], Field(max_length=MAX_LABELS)] | None, _names("patterns")] = None
    histogram: Annotated[Histogram | None, _names("histogram")] = None
    zero_percentage: Annotated[Percentage | None, _names("zeroPercentage")] = None
    negative_percentage: Annotated[Percentage | None, _names("negativePercentage")] = None
    empty_percentage: Annotated[Percentage | None, _names("emptyPercentage")] = None
    top_percentage: Annotated[Percentage | None, _names("topPercentage")] = None
    true_percentage: Annotated[Percentage | None, _names("truePercentage")] = None
    digit_percentage: Annotated[Percentage | None, _names("digitPercentage")] = None
    upper_percentage: Annotated[Percentage | None, _names("upperPercentage", "uppercasePercentage")] = None
    space_percentage: Annotated[Percentage | None, _names("spacePercentage")] = None
    non_ascii_percentage: Annotated[Percentage | None, _names("nonAsciiPercentage")] = None


class Profile(_Shaped):
    """One batch of a table, as a profile of its columns."""

    profiled_at: Annotated[Timestamp | None, _names("profiledAt", "timestamp")] = None
    row_count: Annotated[Count, Field(validation_alias=AliasChoices("rowCount", "rows"))]
    duplicate_row_percentage: Annotated[Percentage | None, _names("duplicateRowPercentage")] = None
    columns: Annotated[list[ColumnProfile], Field(max_length=MAX_COLUMNS,
                                                  validation_alias=AliasChoices("columnProfiles", "columns"))]

    @model_validator(mode="after")
    def _distinct_names(self) -> Self:
        if len({c.name for c in self.columns}) < len(self.columns):
            twice = Counter(c.name for c in self.columns).most_common(1)[0][0]
            raise PydanticCustomError("duplicate", "describes the column {name} twice", {"name": twice})
        return self


class DistributionRequest(DetectOptions):
    """POST /api/v1/detect/distribution"""

    current_profile: Profile
    historical_profiles: Annotated[list[Profile], Field(max_length=MAX_PROFILES, default_factory=list)]


class DistributionObservation(Input):
    """One row of POST /api/v1/observations: the profile of a batch, with what is known about it."""

    detector: Literal["distribution"]
    table_id: TableId
    timestamp: Timestamp | None = None
    profile: Profile
    status: Status = "ok"

    @property
    def moment(self) -> datetime:
        """When the batch is of: `timestamp`, else the profile's own time."""
        moment = self.timestamp or self.profile.profiled_at
        assert moment is not None, "checked when it was read"
        return moment.astimezone(UTC)

    @model_validator(mode="after")
    def _aware(self) -> Self:
        moment = self.timestamp or self.profile.profiled_at
        if moment is None or moment.tzinfo is None:
            raise PydanticCustomError("naive", "timestamp, or the profile's profiledAt, is needed with a time zone")
        return self


class DistributionTrainRequest(Input):
    """POST /api/v1/train/distribution-anomaly"""

    table_id: TableId
    training_days: Annotated[int, Field(ge=7, le=3660)] = 90
    algorithm: Algorithm = "auto"
    historical_profiles: Annotated[list[Profile], Field(max_length=MAX_PROFILES, default_factory=list)]
    promote: Literal["if_better", "never", "always"] = "if_better"
    timezone: TimeZone = "UTC"
    granularity: Literal["hourly", "daily", "weekly", "monthly"] = "daily"
    holidays: Holidays = Holidays()
    baseline: AwareTimestamp | None = None


class JudgedBatch(Input):
    """What a detect call leaves on the observations queue: the batch in metrics, without any text of the table's."""

    detector: Literal["distribution"] = "distribution"
    table_id: TableId
    timestamp: Timestamp
    observed_at: Timestamp
    status: Status
    document: dict[str, Any]


@dataclass(slots=True)
class ColumnVerdict:
    """The worst metric of one column. `column` is null for the table's own metrics (row_count, dup_row_rate).

    `expected_range` and the values are in the metric's own unit, shares from 0 to 1; `contribution` is the column's share
    of all the evidence against the batch, and the contributions add up to 1.
    """

    column: str | None
    status: Literal["evaluated", "learning", "not_evaluated"] = "evaluated"
    reason: str | None = None
    is_anomaly: bool = False
    severity: Literal["none", "low", "medium", "high", "critical"] = "none"
    metric: str | None = None
    value: float | None = None
    expected_value: float | None = None
    expected_range: tuple[float | None, float | None] = (None, None)
    score: float = 0.0
    contribution: float = 0.0


@dataclass(slots=True)
class Distance:
    """How far a column's distribution is from the usual one.

    Population stability index (0 and more; 0.1 and 0.25 are the customary marks), Jensen-Shannon distance (0 to 1, base 2),
    and the rows of this batch it rests on.
    """

    psi: float
    js: float
    n: int


class DistributionAnswer(Answer):
    """The verdict on one batch. `expected_range`, `value` and `metric` are those of the worst column."""

    detector: Literal["distribution"] = "distribution"
    table_score: float | None = None
    threshold: float | None = None
    column: str | None = None
    metric: str | None = None
    value: float | None = None
    expected_value: float | None = None
    columns: Annotated[list[ColumnVerdict], Field(default_factory=list)]
    tests_performed: int = 0
    multiple_testing: str = ""
    distance: Annotated[dict[str, Distance], Field(default_factory=dict)]
