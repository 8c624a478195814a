"""POST and GET /api/v1/tables: what is known of a table besides its history."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from shared.contract import AlertBudget, AwareTimestamp, DetectOptions, Granularity, Holidays, Input, MinChange, TimeZone
from shared.contract_feedback import MAX_RULES, Rule
from shared.contract_feedback import DetectorName as DetectorName
from shared.contract_timeliness import ScheduleGiven

MAX_LABELS = 20


def _printable(text: str) -> str:
    if not text.isprintable():
        raise PydanticCustomError("label", "must be one line of printable characters")
    return text


# A label's name becomes part of a property's name in Table storage.
type LabelName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,39}$")]
type LabelText = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
type Labels = Annotated[dict[LabelName, LabelText], Field(max_length=MAX_LABELS)]
type Direction = Literal["both", "drop", "spike"]
type RuleId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")]


class _Kept(Input):
    """A setting with a slip in its name is refused: ignored, it would be missed when it is needed."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class AlertPolicy(_Kept):
    """When an anomaly is told: `consecutive` in a row, and none within `cooldown_minutes` of the last that was told."""

    consecutive: Annotated[int, Field(ge=1, le=10)] = 1
    cooldown_minutes: Annotated[float, Field(ge=0, le=43_200, allow_inf_nan=False)] = 60.0


class DetectorSettings(_Kept):
    """What may be set for one detector alone: a smallest change is in rows for one and in minutes for another."""

    sensitivity: Annotated[float, Field(ge=0, le=99)] | None = None
    direction: Direction | None = None
    min_change: MinChange | None = None
    max_alerts_per_month: Annotated[float, Field(gt=0, le=1000)] | None = None
    delay_minutes: Annotated[float, Field(ge=0, le=100_000)] | None = None
    alerts: AlertPolicy | None = None


class CalibratedSettings(DetectorSettings):
    """The same with the thresholds that keep alert budgets, by column; "" where a table has one verdict at a time."""

    alert_budgets: Annotated[dict[str, AlertBudget], Field(max_length=500)] | None = None


class TableSettings(DetectorSettings):
    """What detect calls about this table take for granted where they do not say otherwise. `detectors` go first.

    `baselines` tell from when on a detector's table is at another normal: what came before is history of an earlier one.
    `rules` are what people said to hold always; null in place of one removes it.
    """

    timezone: TimeZone | None = None
    granularity: Granularity | None = None
    holidays: Holidays | None = None
    schedule: ScheduleGiven | None = None
    sla_minutes: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] | None = None
    owner: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)] | None = None
    detectors: Annotated[dict[DetectorName, CalibratedSettings], Field(default_factory=dict)]
    baselines: Annotated[dict[DetectorName, AwareTimestamp], Field(default_factory=dict)]
    rules: Annotated[dict[RuleId, Rule], Field(default_factory=dict, max_length=MAX_RULES)]


class Table(_Kept):
    """Free-form labels, such as source, schema, owner or schedule, and settings."""

    labels: Labels = Field(default_factory=dict)
    settings: TableSettings = Field(default_factory=lambda: TableSettings.model_validate({}))

    def policy(self, detector: str) -> AlertPolicy:
        """The alert policy of one detector."""
        own = self.settings.detectors.get(detector)  # type: ignore[call-overload]
        return (own and own.alerts) or self.settings.alerts or AlertPolicy()


def with_defaults[T: DetectOptions](request: T, table: Table | None, detector: str) -> T:
    """The request with the table's settings where the caller left a field out.

    A setting that this detector cannot take, such as a weekly granularity where it knows days and hours, is left out.
    """
    if table is None:
        return request
    settings = table.settings
    own = settings.detectors.get(detector)  # type: ignore[call-overload]
    taken = {}
    for name, field in type(request).model_fields.items():
        if name in request.model_fields_set or name not in TableSettings.model_fields:
            continue
        value = getattr(own, name, None)
        value = getattr(settings, name) if value is None else value
        if value is not None and (name != "granularity" or value in _choices(field.annotation)):
            taken[name] = value
    baseline = settings.baselines.get(detector)  # type: ignore[call-overload]
    if baseline is not None and "baseline" not in request.model_fields_set:
        taken["baseline"] = baseline
    budget = ((own and own.alert_budgets) or {}).get(getattr(request, "column", ""))
    if budget is not None and "alert_budget" not in request.model_fields_set:
        taken["alert_budget"] = budget
    rules = {rule_id: rule for rule_id, rule in settings.rules.items()
             if rule.detector == detector and rule.column in (None, getattr(request, "column", None))}
    if taken or rules:
        request = request.model_copy(update=taken)
        request._rules = rules
    return request


def _choices(annotation: object) -> tuple[str, ...]:
    """The values of a Literal, also of a named one."""
    return getattr(getattr(annotation, "__value__", annotation), "__args__", ())
