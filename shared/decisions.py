"""What retraining decided about a model, beside the model in blob storage.

    {name}/decisions.json    the last decision with both figures, and a short list of those before it

It says nothing about which version answers: that is the champion pointer's word alone. So one that cannot be read is none,
and the next decision takes its place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from shared.blobs import Blobs
from shared.errors import Conflict
from shared.ids import check_model_name
from shared.runs import to_json
from shared.settings import Settings

MAX_BEFORE: Final = 20
MAX_BYTES: Final = 4 * 2**20
_SHORT: Final = ("run_id", "at", "outcome", "reason", "version")
type Record = dict[str, Any]


class Decisions:
    """Every method raises StorageUnavailable when the account does not answer, InvalidRequest for a bad name."""

    def __init__(self, blobs: Blobs, settings: Settings) -> None:
        self._blobs, self._container = blobs, settings.models_container

    def last(self, name: str) -> Record | None:
        """The last decision about a model, None where there was none."""
        last: Record | None = self.read(name)["last"]
        return last

    def read(self, name: str) -> Record:
        """{"last": record or None, "before": the short ones before it, latest first}."""
        return self._read(name)[0]

    def put(self, name: str, record: Mapping[str, Any]) -> None:
        """Keeps a decision as the last; said again by the same run it replaces what that run said."""
        while True:
            known, etag = self._read(name)
            last, before = known["last"], known["before"]
            if last is not None and last["run_id"] != record["run_id"]:
                before = [{key: last.get(key) for key in _SHORT}, *before]
            data = to_json({"last": record, "before": before[:MAX_BEFORE]})
            with suppress(Conflict):
                self._blobs.put(self._container, _path(name), data, if_match=etag, if_absent=etag is None)
                return

    def _read(self, name: str) -> tuple[Record, str | None]:
        found = self._blobs.get(self._container, _path(name), longest=MAX_BYTES)
        if found is None:
            return {"last": None, "before": []}, None
        try:
            record = json.loads(found.data)
            return {"last": record["last"], "before": record["before"]}, found.etag
        except (ValueError, KeyError, TypeError):
            return {"last": None, "before": []}, found.etag


def _path(name: str) -> str:
    return f"{check_model_name(name)}/decisions.json"
