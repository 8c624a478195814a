"""POST and GET /api/v1/feedback, and the rules that a word said "always" becomes: what comes in and what is kept."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from shared.contract import AwareTimestamp, Input, TableId, Timestamp, TimeZone
from shared.contract_pattern import ColumnName

MAX_RULES = 50
MAX_RULE_NOTE = 100
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

type DetectorName = Literal["volume", "distribution", "pattern", "timeliness", "sequence"]
type Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]


def _not_zero(number: int) -> int:
    if number == 0:
        raise PydanticCustomError("zero", "counts from 1, or from the end of the month from -1")
    return number


class When(Input):
    """Days of a calendar, in the table's time zone: all that is given must hold.

    `day` and `working_day` (Monday to Friday without the table's holidays) count within a month, from its end where they are
    negative; `nth` says which `weekday` of the month, -1 the last. A `day` with a `month` is a date of every year. `hour` is
    for tables of hours.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    weekday: Weekday | None = None
    nth: Annotated[int, Field(ge=-1, le=5), AfterValidator(_not_zero)] | None = None
    day: Annotated[int, Field(ge=-31, le=31), AfterValidator(_not_zero)] | None = None
    working_day: Annotated[int, Field(ge=-23, le=23), AfterValidator(_not_zero)] | None = None
    month: Annotated[int, Field(ge=1, le=12)] | None = None
    holiday: Literal[True] | None = None
    hour: Annotated[int, Field(ge=0, le=23)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not any(value is not None for value in self.__dict__.values()):
            raise PydanticCustomError("when", "needs a weekday, a day, a working_day, a month, a holiday or an hour")
        if self.nth is not None and self.weekday is None:
            raise PydanticCustomError("when", "needs a weekday beside it", {"field": "nth"})
        return self


class Bound(Input):
    """How far a judged point was from what was expected of it: `name` says in what, a direction, a metric or a finding."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: Annotated[str, Field(max_length=600)]
    value: Annotated[float, Field(allow_inf_nan=False)] | None = None
    expected: Annotated[float, Field(allow_inf_nan=False)] | None = None


class Rule(Input):
    """What holds for a detector's verdicts about a table (or a column of it) on the days of `when`, always without.

    expected: nothing that is no further from what is expected than the `bounds` is an anomaly; ignore: nothing is judged;
    anomaly: whatever is as far as the `bounds` is one.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    detector: DetectorName
    label: Literal["expected", "anomaly", "ignore"]
    column: ColumnName | None = None
    when: When | None = None
    timezone: TimeZone | None = None
    bounds: Annotated[list[Bound], Field(max_length=50, default_factory=list)]
    created_at: AwareTimestamp | None = None
    note: Annotated[str, Field(max_length=MAX_RULE_NOTE)] = ""

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.label != "anomaly" and self.when is None:
            raise PydanticCustomError("when", "is needed: without days, nothing would ever be told", {"field": "when"})
        if self.label != "ignore" and not self.bounds:
            raise PydanticCustomError("bounds", "are needed: something worse would be hidden, or everything told",
                                      {"field": "bounds"})
        return self


class FeedbackRequest(Input):
    """POST /api/v1/feedback: what a person says of one judged point.

    `timestamp` is that of the point, or any time of its hour, day, week or month; without a zone it is the table's own.
    `label` none takes back what was said. `when` says on which days a word holds always, in place of what history tells.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    table_id: TableId
    detector: DetectorName
    timestamp: Timestamp
    label: Literal["expected", "anomaly", "ignore", "new_normal", "none"]
    scope: Literal["once", "always"] = "once"
    note: Annotated[str, Field(max_length=1000)] = ""
    column: ColumnName | None = None
    when: When | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.detector == "pattern" and self.column is None:
            raise PydanticCustomError("column", "is needed: every column has its own verdicts", {"field": "column"})
        if self.detector != "pattern" and self.column is not None:
            raise PydanticCustomError("column", "does not belong here: only the verdicts of pattern are about one",
                                      {"field": "column"})
        if self.when is not None and (self.scope != "always" or self.label in ("new_normal", "none")):
            raise PydanticCustomError("when", "is for expected, anomaly and ignore with the scope always", {"field": "when"})
        return self
