"""POST /api/v1/detect/timeliness and /train/timeliness-anomaly: what comes in and what goes out."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BaseModel, BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from shared.contract import (
    MAX_HISTORY,
    Answer,
    AwareTimestamp,
    DetectOptions,
    Deviation,
    Holidays,
    Input,
    Status,
    TableId,
    Timestamp,
    TimeZone,
)

type State = Literal["pending", "on_time", "late", "early", "stopped"]
type Unit = Literal["minutes_after_due", "event_lag_minutes"]
type TimelinessAlgorithm = Literal["auto", "lag_filter", "seasonal_filter", "seasonal_quantiles"]


def _cron(text: object) -> object:
    if isinstance(text, str):
        from detectors import schedule

        try:
            schedule.parse(text)
        except ValueError as error:
            raise PydanticCustomError("cron", "{reason}", {"reason": str(error)}) from None
    return text


type Minutes = Annotated[float, Field(ge=-1e7, le=1e7, allow_inf_nan=False)]
type CronText = Annotated[str, Field(max_length=200), BeforeValidator(_cron)]


class Arrival(Input):
    """One earlier load: when it came, or when it was due and by how many minutes it missed that (null: it never came)."""

    timestamp: Timestamp | None = Field(default=None, validation_alias=AliasChoices("timestamp", "arrived_at"))
    event_time: Timestamp | None = Field(default=None, validation_alias=AliasChoices("event_time", "last_event_time"))
    due_at: Timestamp | None = Field(default=None, validation_alias=AliasChoices("due_at", "expected_at"))
    lag_minutes: Minutes | None = Field(default=None, validation_alias=AliasChoices("lag_minutes", "value"))

    @model_validator(mode="after")
    def _placed(self) -> Self:
        if self.timestamp is None and self.due_at is None:
            raise PydanticCustomError("arrival", "needs a timestamp, or due_at with lag_minutes")
        return self


def _entry(entry: object) -> object:
    return {"timestamp": entry} if isinstance(entry, str) else entry


def _kind(entry: Any) -> str:
    return "point" if isinstance(entry, dict | Arrival) else "count"


# The moment of an arrival, an object, or plain minutes after due, oldest first, null for a load that never came.
type Entry = Annotated[
    Annotated[Arrival, Tag("point")] | Annotated[Minutes | None, Tag("count")], Discriminator(_kind), BeforeValidator(_entry)
]


class ScheduleGiven(Input):
    """When loads are due, in the table's time zone. Without it the schedule is learnt from the arrivals."""

    cron: CronText


class TimelinessRequest(DetectOptions):
    """POST /api/v1/detect/timeliness

    `as_of` is now where it is left out, `last_arrival` the newest of the history. `due_at` judges one due time that the
    caller knows and needs no schedule. Of the general options, `direction` spike means late only and drop early only, and
    `min_change.absolute` is in minutes.
    """

    as_of: Timestamp | None = None
    last_arrival: Timestamp | None = None
    last_event_time: Timestamp | None = None
    historical_data: list[Entry] = Field(default_factory=list, max_length=MAX_HISTORY)
    schedule: ScheduleGiven | None = None
    due_at: Timestamp | None = Field(default=None, validation_alias=AliasChoices("due_at", "expected_at"))
    sla_minutes: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] | None = None


class TimelinessTrainRequest(Input):
    """POST /api/v1/train/timeliness-anomaly"""

    table_id: TableId
    training_days: Annotated[int, Field(ge=7, le=3660)] = 90
    algorithm: TimelinessAlgorithm = "auto"
    historical_data: list[Entry] = Field(default_factory=list, max_length=MAX_HISTORY)
    promote: Literal["if_better", "never", "always"] = "if_better"
    timezone: TimeZone = "UTC"
    schedule: ScheduleGiven | None = None
    holidays: Holidays = Holidays()
    baseline: AwareTimestamp | None = None


class ScheduleUse(BaseModel):
    """The schedule that an answer rests on: given, of the table's model, learnt from the arrivals, or told due times."""

    source: Literal["given", "model", "learnt", "told"]
    description: str
    timezone: str


class EventCheck(BaseModel):
    """Is what arrived as fresh as usual? The event lag, load time less event time, judged on its own history."""

    status: Literal["evaluated", "learning"]
    is_anomaly: bool
    severity: Literal["none", "low", "medium", "high", "critical"]
    lag_minutes: float
    expected_minutes: float | None = None
    expected_range: tuple[float | None, float | None]
    score: float | None = None


class TimelinessAnswer(Answer):
    """The verdict on one expected load. `unit` says which check the range, the value and the deviation belong to.

    `value` is null while nothing has come and nothing is late; of a load that is late and still out it is the minutes so
    far. `late_after` is the moment from which a load that is still out is called late.
    """

    detector: Literal["timeliness"] = "timeliness"
    unit: Unit = "minutes_after_due"
    state: State | None = None
    value: float | None = None
    expected_value: float | None = None
    deviation: Deviation | None = None
    due_at: str | None = None
    late_after: str | None = None
    last_arrival: str | None = None
    last_lag_minutes: float | None = None
    expected_next_arrival: str | None = None
    missing_loads: int = 0
    sla_minutes: float | None = None
    event_lag_minutes: float | None = None
    event_check: EventCheck | None = None
    schedule: ScheduleUse | None = None


class ArrivalObservation(Input):
    """One row of POST /api/v1/observations: an arrival, with its minutes after due where they are known."""

    detector: Literal["timeliness"]
    table_id: TableId
    timestamp: AwareTimestamp = Field(validation_alias=AliasChoices("timestamp", "arrived_at", "last_arrival"))
    value: Minutes = Field(default=0.0, validation_alias=AliasChoices("lag_minutes", "value"))
    event_lag_minutes: Minutes | None = None
    event_time: AwareTimestamp | None = Field(default=None, validation_alias=AliasChoices("event_time", "last_event_time"))
    status: Status = "ok"

    @property
    def event_lag(self) -> float | None:
        """Minutes from the newest event to the load."""
        if self.event_time is not None:
            return (self.timestamp - self.event_time) / timedelta(minutes=1)
        return self.event_lag_minutes


class JudgedArrival(ArrivalObservation):
    """What a detect call leaves on the observations queue: the arrival with its verdict."""

    observed_at: Timestamp
    score: float | None = None
    model: str | None = None
