"""What may come in over HTTP and by message, checked once, and what goes out.

Input is strict: "1.5", true and null are no numbers, NaN and 1e400 no counts. Unknown fields are ignored. Every error names
the path of the field: `historical_data[3].row_count`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationError,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from shared.errors import InvalidJson, InvalidRequest, PayloadTooLarge
from shared.ids import ID_PATTERN

if TYPE_CHECKING:
    from shared.contract_feedback import Rule

MAX_BODY_BYTES = 4 * 2**20
MAX_HISTORY = 20_000


def _table_id(text: object) -> object:
    if isinstance(text, str) and not ID_PATTERN.fullmatch(text):
        raise PydanticCustomError("id", "must be 1 to 63 letters, digits, '_', '-' or single dots, a letter or digit first")
    return text


def _moment(text: object) -> object:
    # Only text: a number could be seconds or milliseconds, and guessing would misplace a whole history.
    if not isinstance(text, str):
        raise PydanticCustomError("timestamp", "must be text such as 2026-09-21T02:00:00Z")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise PydanticCustomError("timestamp", "is not a date or time such as 2026-09-21T02:00:00Z") from None
    if not 1970 < moment.year < 2200:
        raise PydanticCustomError("timestamp", "must lie between the years 1971 and 2199")
    return moment


def _aware(moment: datetime) -> datetime:
    # History has no table's zone to read it in.
    if moment.tzinfo is None:
        raise PydanticCustomError("naive", "needs a time zone, such as 2026-09-21T02:00:00Z")
    return moment


def _timezone(name: object) -> object:
    if isinstance(name, str):
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            raise PydanticCustomError("timezone", "is not a time zone of the IANA database, such as Europe/Berlin") from None
    return name


type TableId = Annotated[str, BeforeValidator(_table_id)]
type Timestamp = Annotated[datetime, BeforeValidator(_moment)]
type AwareTimestamp = Annotated[datetime, BeforeValidator(_moment), AfterValidator(_aware)]
type TimeZone = Annotated[str, BeforeValidator(_timezone)]
type Count = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]
type Granularity = Literal["hourly", "daily", "weekly", "monthly"]
type Status = Literal["ok", "anomaly", "expected", "repaired", "excluded", "confirmed"]
type Algorithm = Literal[
    "auto", "structural", "prophet", "arima", "seasonal_decomposition", "isolation_forest", "one_class_svm", "lof"
]


class Input(BaseModel):
    """Strict, and nothing in it can be changed; fields that are not known are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class HistoryPoint(Input):
    """One earlier count. `value` and `row_count` are the same field under two names."""

    timestamp: Timestamp
    value: Count = Field(validation_alias=AliasChoices("row_count", "value"))


class MinChange(Input):
    """A change has to exceed both to be worth an alert."""

    percent: Annotated[float, Field(ge=0, le=100)] = 0.0
    absolute: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


def _day(text: object) -> object:
    if isinstance(text, str):
        try:
            date.fromisoformat(text)
        except ValueError:
            raise PydanticCustomError("date", "is not a date such as 2026-12-24") from None
    return text


type Day = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$"), BeforeValidator(_day)]


class Holidays(Input):
    """Public holidays by country (and subdivision), and dates of the user's own."""

    country: Annotated[str, Field(pattern="^[A-Z]{2,3}$")] | None = None
    subdivision: Annotated[str, Field(pattern="^[A-Za-z0-9 _-]{1,40}$")] | None = None
    dates: Annotated[list[Day], Field(max_length=2000)] = []


class AlertBudget(Input):
    """The threshold that kept a table to so many alerts a month, when that was found, and the points it rests on."""

    max_alerts_per_month: Annotated[float, Field(gt=0, le=1000)]
    threshold: Annotated[float, Field(gt=0, lt=1)]
    calibrated_at: AwareTimestamp
    points: Annotated[int, Field(ge=1)]


class DetectOptions(Input):
    """What every detect route understands.

    From `baseline` on the table is at another normal. An `alert_budget` holds for the number of alerts it was found for.
    """

    table_id: TableId | None = None
    timestamp: Timestamp | None = None
    timezone: TimeZone | None = None
    granularity: Granularity = "daily"
    sensitivity: Annotated[float, Field(ge=0, le=99)] = 90.0
    direction: Literal["both", "drop", "spike"] = "both"
    min_change: MinChange = MinChange()
    holidays: Holidays | None = None
    max_alerts_per_month: Annotated[float, Field(gt=0, le=1000)] | None = None
    alert_budget: AlertBudget | None = None
    baseline: AwareTimestamp | None = None
    delay_minutes: Annotated[float, Field(ge=0, le=100_000)] | None = None
    request_id: Annotated[str, Field(max_length=200)] | None = None
    record: bool = True
    require_model: bool = False
    fallback: bool = True
    _rules: Mapping[str, Rule] = PrivateAttr(default_factory=dict)  # by id, of the table's settings: never from a body


def _is_point(entry: Any) -> str:
    return "point" if isinstance(entry, dict | HistoryPoint) else "count"


# One error for a wrong entry, about what it was meant to be, and not one for each thing it might have been.
type _Entry = Annotated[Annotated[Count, Tag("count")] | Annotated[HistoryPoint, Tag("point")], Discriminator(_is_point)]


class VolumeRequest(DetectOptions):
    """POST /api/v1/detect/volume"""

    current_row_count: Count = Field(validation_alias=AliasChoices("current_row_count", "row_count"))
    historical_data: Annotated[list[_Entry], Field(max_length=MAX_HISTORY)] = []


class TrainRequest(Input):
    """POST /api/v1/train/{detector}-anomaly"""

    table_id: TableId
    training_days: Annotated[int, Field(ge=7, le=3660)] = 90
    algorithm: Algorithm = "auto"
    historical_data: Annotated[list[HistoryPoint], Field(max_length=MAX_HISTORY)] = []
    promote: Literal["if_better", "never", "always"] = "if_better"
    timezone: TimeZone = "UTC"
    granularity: Granularity = "daily"
    holidays: Holidays = Holidays()
    baseline: AwareTimestamp | None = None


class Observation(Input):
    """One row of POST /api/v1/observations: a count as it was, with what is known about it."""

    table_id: TableId
    timestamp: AwareTimestamp
    value: Count = Field(validation_alias=AliasChoices("row_count", "value"))
    detector: Literal["volume"] = "volume"
    status: Status = "ok"


class JudgedObservation(Input):
    """What a detect call leaves on the observations queue: the count with its verdict."""

    detector: Literal["volume"]
    table_id: TableId
    timestamp: Timestamp
    observed_at: Timestamp
    value: Count
    status: Status
    score: float | None = None
    model: str | None = None


class Deviation(BaseModel):
    absolute: float
    percent: float | None
    score: float
    threshold: float


class Effect(BaseModel):
    factor: str
    effect: float


class HistoryUse(BaseModel):
    """How much history there was: `used` of `points` buckets taught the model, `missing` buckets had no count."""

    points: int
    used: int
    excluded: int
    missing: int


class ModelUse(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    name: str | None
    version: str
    algorithm: str
    sha256: str | None = None
    trained_at: str | None = None
    quality: dict[str, Any] | None = None


class RuleUse(BaseModel):
    """The rule of the table's settings that a verdict follows, and on which days it holds."""

    id: str
    label: Literal["expected", "anomaly", "ignore"]
    when: str


class Answer(BaseModel):
    """What every detect route answers. An open end of `expected_range` is null."""

    is_anomaly: bool
    severity: Literal["none", "low", "medium", "high", "critical"]
    confidence: float
    expected_range: tuple[float | None, float | None]
    message: str
    status: Literal["evaluated", "learning", "not_evaluated"]
    reason: str | None = None
    detector: str
    table_id: str | None = None
    request_id: str | None = None
    timestamp: str | None = None
    history: HistoryUse
    model: ModelUse
    latency_ms: float = 0.0
    warnings: list[str] = []
    rule: RuleUse | None = None

    @property
    def kept_as(self) -> Literal["ok", "anomaly", "excluded"]:
        """The status of what was judged in the history."""
        if self.rule is not None and self.rule.label == "ignore":
            return "excluded"
        return "anomaly" if self.is_anomaly else "ok"


class VolumeAnswer(Answer):
    """The verdict on one count."""

    detector: Literal["volume"] = "volume"
    value: float
    expected_value: float | None = None
    direction: Literal["drop", "spike", "stuck"] | None = None
    deviation: Deviation | None = None
    explanation: list[Effect] = []


def parse[T: BaseModel](kind: type[T], body: bytes, limit: int = MAX_BODY_BYTES) -> T:
    """The checked request. Raises PayloadTooLarge, InvalidJson, or InvalidRequest naming the first wrong field."""
    check_size(body, limit)
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise refusal(error.errors(include_url=False, include_input=False)) from None


def check_size(body: bytes, limit: int) -> None:
    """Raises PayloadTooLarge."""
    if len(body) > limit:
        raise PayloadTooLarge(f"The body has {len(body):,} bytes; at most {limit:,} are read.")


def refusal(errors: Sequence[ErrorDetails]) -> InvalidJson | InvalidRequest:
    """What pydantic found wrong, as the error that the caller gets.

    A check of several fields together says with `field` which of them it is about.
    """
    if errors[0]["type"] == "json_invalid":
        return InvalidJson(f"The body is not JSON: {errors[0].get('ctx', {}).get('error', errors[0]['msg'])}.")
    details = {path: {"code": error["type"], "target": path, "message": error["msg"]}
               for error in errors for path in [field_path((*error["loc"], *_field(error)))]}
    first = next(iter(details.values()))
    where = first["target"] or "The body"
    more = f" ({len(details) - 1} more fields are wrong.)" if len(details) > 1 else ""
    return InvalidRequest(f"{where}: {first['message']}.{more}", first["target"] or None, list(details.values())[:100])


def _field(error: ErrorDetails) -> tuple[str, ...]:
    field = error.get("ctx", {}).get("field")
    return (field,) if isinstance(field, str) else ()


def field_path(location: tuple[int | str, ...]) -> str:
    """`("historical_data", 3, "point", "row_count")` -> `historical_data[3].row_count`: tags of alternatives drop out."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part not in ("point", "count"):
            path += f".{part}" if path else part
    return path


def whole_number(params: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    """A query parameter. Raises InvalidRequest naming it."""
    text = params.get(name)
    if text is None:
        return default
    if not text.isdecimal() or not least <= int(text) <= most:
        raise InvalidRequest(f"{name} must be a whole number from {least} to {most}.", name)
    return int(text)
