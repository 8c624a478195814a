"""POST /api/v1/batch/score: many items for one detector, in the body, in a blob, or one for each table that is known."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from shared.contract import Input
from shared.errors import InvalidRequest
from shared.ids import check_blob_name

INPUT_CONTAINER: Final = "batches"
INPUT_KINDS: Final = ("ndjson", "csv", "parquet")
MAX_BODY_BYTES: Final = 16 * 2**20


def _input_blob(name: object) -> object:
    # One container alone: with the app's identity any other blob could be read by naming it.
    if isinstance(name, str):
        try:
            check_blob_name(name)
        except InvalidRequest as error:
            raise PydanticCustomError("blob", "{reason}", {"reason": error.message}) from None
        if not name.startswith(f"{INPUT_CONTAINER}/") or name.rpartition(".")[2] not in INPUT_KINDS:
            raise PydanticCustomError("blob", "must be a blob batches/NAME that ends in .ndjson, .csv or .parquet")
    return name


class BatchRequest(Input):
    """Exactly one of `items`, `input_blob` and `tables` says what is to be scored.

    `items` are bodies of the detector's own route; `defaults` are fields for all items that do not set them. A batch with an
    `idempotency_key` that is known already is that batch, and does not run twice.
    """

    detector: Annotated[str, Field(max_length=40)]
    items: Annotated[list[Any], Field(min_length=1)] | None = None
    input_blob: Annotated[str, BeforeValidator(_input_blob)] | None = None
    tables: Literal["all"] | None = None
    defaults: dict[str, Any] = Field(default_factory=dict)
    idempotency_key: Annotated[str, Field(min_length=1, max_length=200)] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if len(self._sources()) != 1:
            raise PydanticCustomError("source", "needs one of items, input_blob and tables, and not more")
        return self

    @property
    def source(self) -> str:
        """Which of the three it is."""
        return self._sources()[0]

    def _sources(self) -> list[str]:
        return [name for name in ("items", "input_blob", "tables") if getattr(self, name) is not None]
