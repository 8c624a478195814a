"""POST /api/v1/retrain: which models are to be trained anew, and on what was known when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal, Self, get_args

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from detectors.directory import DETECTORS
from shared.contract import AwareTimestamp, Input, TableId
from shared.contract_tables import DetectorName

type Outcome = Literal["first", "better", "refreshed", "forced",
                       "worse", "equal", "overfitted", "slow", "too_large", "parity", "labels", "never",
                       "unchanged", "not_drifted", "too_little_history", "untrainable", "failed"]

SKEW: Final = timedelta(days=1)  # how far ahead the clock of whoever asks may be


def _past(moment: datetime) -> datetime:
    if moment > datetime.now(UTC) + SKEW:
        # What was checked as of that day would be taken for the latest until it comes.
        raise PydanticCustomError("as_of", "must not lie in the future")
    return moment


class RetrainRequest(Input):
    """What is left out means all of it. A slip in a name is refused: ignored, it would retrain everything.

    `as_of` trains as if it were then: of histories and words about them only what was before. `only` changed leaves out
    tables whose data are those of the last time, drifted all but those whose data drifted; `force` trains these as well.
    A retraining with an `idempotency_key` that is known already is that one, and does not run twice.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    detectors: Annotated[list[DetectorName], Field(min_length=1, max_length=len(DETECTORS))] | None = None
    tables: Annotated[list[TableId], Field(min_length=1, max_length=10_000)] | None = None
    as_of: Annotated[AwareTimestamp, AfterValidator(_past)] | None = None
    algorithm: Annotated[str, Field(max_length=40)] = "auto"
    promote: Literal["if_better", "never", "always"] = "if_better"
    force: bool = False
    only: Literal["all", "changed", "drifted"] = "changed"
    idempotency_key: Annotated[str, Field(min_length=1, max_length=200)] | None = None

    @model_validator(mode="after")
    def _known_everywhere(self) -> Self:
        for name in self.kinds:
            if self.algorithm not in algorithms(name):
                raise PydanticCustomError(
                    "algorithm", "{asked} is none of {detector}, which has {known}: say in detectors which it is meant for",
                    {"field": "algorithm", "asked": self.algorithm, "detector": name,
                     "known": ", ".join(algorithms(name))})
        return self

    @property
    def kinds(self) -> list[str]:
        """The detectors whose models are meant, each once."""
        return list(dict.fromkeys(self.detectors or DETECTORS))


def algorithms(name: str) -> tuple[str, ...]:
    """What a training request of detector `name` may ask for."""
    annotation = DETECTORS[name].train_request.model_fields["algorithm"].annotation
    return get_args(getattr(annotation, "__value__", annotation))
