"""POST /api/v1/detect/sequence and /train/sequence-anomaly: what comes in and what goes out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator
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

MAX_METRICS = 100
MAX_POINTS = 1000

type SequenceGranularity = Literal["hourly", "daily"]
type SequenceAlgorithm = Literal["auto", "hypothesis_filter", "lstm"]
type Hypothesis = Literal[
    "frozen", "copy_of_last_day", "copy_of_last_week", "flattened", "mirrored", "reversed", "later", "earlier",
    "other_day_type", "wild", "displaced", "out_of_range", "unlike_forecast",
]
type Severity = Literal["none", "low", "medium", "high", "critical"]
type Value = Annotated[float, Field(ge=-1e15, le=1e15, allow_inf_nan=False)]


def _different(names: object) -> object:
    if isinstance(names, list) and len({name for name in names if isinstance(name, str)}) < len(names):
        raise PydanticCustomError("metrics", "must be different names")
    return names


type Metrics = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=200)]], Field(min_length=1, max_length=MAX_METRICS),
    BeforeValidator(_different)
]


class SequencePoint(Input):
    """The metrics of one bucket, in the order of `metrics`; null where one is not known. Of one metric `value` will do."""

    timestamp: Timestamp
    values: Annotated[list[Value | None], Field(max_length=MAX_METRICS)]

    @model_validator(mode="before")
    @classmethod
    def _one(cls, data: Any) -> Any:
        alone = isinstance(data, dict) and "value" in data and "values" not in data
        return {**data, "values": [data["value"]]} if alone else data


class SequenceRequest(DetectOptions):
    """POST /api/v1/detect/sequence

    `points` are judged, each by what came before it; gaps are allowed. Of the general options `direction`, `min_change` and
    `holidays` say nothing about order and shape: no effect. `sensitivity` is per bucket, over all metrics together.
    """

    granularity: SequenceGranularity = "hourly"
    metrics: Metrics = Field(default_factory=lambda: ["value"])
    points: Annotated[list[SequencePoint], Field(min_length=1, max_length=MAX_POINTS)]
    historical_data: list[SequencePoint] = Field(default_factory=list, max_length=MAX_HISTORY)


class SequenceTrainRequest(Input):
    """POST /api/v1/train/sequence-anomaly. Without `metrics` the table's stored ones are taken, all of them."""

    table_id: TableId
    training_days: Annotated[int, Field(ge=7, le=3660)] = 90
    algorithm: SequenceAlgorithm = "auto"
    metrics: Metrics | None = None
    historical_data: list[SequencePoint] = Field(default_factory=list, max_length=MAX_HISTORY)
    promote: Literal["if_better", "never", "always"] = "if_better"
    timezone: TimeZone = "UTC"
    granularity: SequenceGranularity = "hourly"
    baseline: AwareTimestamp | None = None


class StepVerdict(BaseModel):
    """One bucket that is wrong: which metrics, with their values, and what seems to have happened to the worst of them."""

    timestamp: str
    score: float
    severity: Severity
    metrics: list[str]
    values: list[float | None] = Field(default_factory=list)
    hypothesis: Hypothesis
    description: str


class MetricVerdict(BaseModel):
    """One metric in the worst bucket. `contribution` is its share of the evidence; all shares are 1 together."""

    metric: str
    is_anomaly: bool
    score: float | None
    contribution: float
    hypothesis: Hypothesis | None = None
    value: float | None = None
    expected_value: float | None = None
    expected_range: tuple[float | None, float | None] = (None, None)


class SequenceAnswer(Answer):
    """The verdict on the points of a request: `is_anomaly` where any of them is wrong.

    `timestamp`, `metric`, `value`, `expected_range` and `deviation` are those of the worst bucket and its worst metric. The
    range is where a normal bucket's value lies; a sequence can be wrong while every value is inside. `state` is "normal", or
    the hypothesis that explains the worst bucket best.
    """

    detector: Literal["sequence"] = "sequence"
    state: Literal["normal"] | Hypothesis | None = None
    metric: str | None = None
    value: float | None = None
    expected_value: float | None = None
    deviation: Deviation | None = None
    steps: list[StepVerdict] = Field(default_factory=list)
    metrics: list[MetricVerdict] = Field(default_factory=list)
    judged: int = 0


class SequenceObservation(Input):
    """One row of POST /api/v1/observations: the metrics of one bucket, by name."""

    detector: Literal["sequence"]
    table_id: TableId
    timestamp: AwareTimestamp
    values: Annotated[dict[str, Value | None], Field(min_length=1, max_length=MAX_METRICS)]
    status: Status = "ok"


class JudgedStep(Input):
    """One bucket with its verdict; `values` in the order of the message's `metrics`."""

    timestamp: Timestamp
    values: list[Value | None]
    status: Status = "ok"
    score: float | None = None
    reasons: list[dict[str, Any]] = Field(default_factory=list)


class JudgedSteps(Input):
    """What a detect call leaves on the observations queue: its points with their verdicts."""

    detector: Literal["sequence"] = "sequence"
    table_id: TableId
    observed_at: Timestamp
    metrics: Metrics
    steps: list[JudgedStep]
    model: str | None = None
