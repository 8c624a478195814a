"""The record of a run and of its pieces in blob storage: it outlives the engine that works on the run.

    jobs/{folder}/{id}/request.json   what was asked for
    jobs/{folder}/{id}/record.json    state and totals
    results/{id}/{piece}              what one activity made of its share, its figures beside it as metadata. It is written
                                      last and once: where it is, that share is done
    results/{id}/summary.json         what became of the run
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, ClassVar, Final

from shared.blobs import Blobs
from shared.errors import Conflict, NotFound
from shared.settings import Settings

RUN_ID: Final = re.compile(r"[0-9a-f]{32}")
# Of an interrupted run the work is taken up again; `cancelled` is the caller's word, and only the caller takes it back.
FINAL: Final = ("succeeded", "failed", "cancelled")


class Runs:
    """Reads and writes runs of one kind. Their ids are made here and checked at every door.

    A kind says what it is called, where its files lie, under which route it is shown, and which orchestrator works on it.
    """

    noun: ClassVar[str]
    id_name: ClassVar[str]
    folder: ClassVar[str]
    route: ClassVar[str]
    orchestrator: ClassVar[str]
    piece: ClassVar[str]  # the name of a piece, by its number
    told: ClassVar[tuple[str, ...]] = ()  # facts of the record that whoever starts a run is told again

    def __init__(self, blobs: Blobs, settings: Settings) -> None:
        self._blobs, self._jobs, self.results_container = blobs, settings.jobs_container, settings.results_container

    def begin(self, request: bytes, key: str | None, **facts: Any) -> tuple[dict[str, Any], bool]:
        """The `accepted` record of a run, and whether it is new; its `instance` is the run of the engine that works on it.

        Raises Conflict for a key that stands for another request.
        """
        run_id = id_of_key(key) if key else uuid.uuid4().hex
        try:
            self._blobs.put(self._jobs, self._path(run_id, "request.json"), request, if_absent=True)
        except Conflict:
            if self.read(run_id, "request.json") != request:
                raise Conflict(f"This idempotency key belongs to a {self.noun} with another request.",
                               "idempotency_key") from None
        now = _now()
        record = {self.id_name: run_id, "instance": f"{run_id}-1", **facts, "state": "accepted", "reason": None,
                  "created_at": now, "updated_at": now, "total": None}
        try:
            self._blobs.put(self._jobs, self._path(run_id, "record.json"), to_json(record), if_absent=True)
        except Conflict:
            return self.record(run_id), False
        return record, True

    def record(self, run_id: str) -> dict[str, Any]:
        """Raises NotFound."""
        return self._change(run_id, lambda record: {})

    def update(self, run_id: str, instance: str, **facts: Any) -> dict[str, Any]:
        """Changes the record and returns it, unless the run has ended or another one of the engine has taken over."""
        return self._change(run_id, lambda record: facts if is_current(record, instance) else {})

    def cancel(self, run_id: str) -> dict[str, Any]:
        """Ends the run, unless it has ended. Raises NotFound."""
        return self._change(run_id, lambda record: {} if record["state"] in FINAL else {
            "state": "cancelled", "reason": "It was cancelled.", "finished_at": _now()})

    def take_up(self, seen: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """A new instance for a run whose record was `seen`, and whether it is this caller's: of several one gets it."""
        run_id, number = seen[self.id_name], int(seen["instance"].rpartition("-")[2]) + 1
        mine = {"instance": f"{run_id}-{number}", "state": "accepted", "reason": None, "finished_at": None,
                "claim": uuid.uuid4().hex}
        record = self._change(run_id, lambda now: mine if now["updated_at"] == seen["updated_at"] else {})
        return record, record.get("claim") == mine["claim"]

    def read(self, run_id: str, name: str) -> bytes | None:
        """One of the run's own files, None where it is not there."""
        found = self._blobs.get(self._jobs, self._path(run_id, name))
        return None if found is None else found.data

    def write(self, run_id: str, name: str, data: bytes) -> None:
        self._blobs.put(self._jobs, self._path(run_id, name), data)

    def is_done(self, run_id: str, number: int) -> bool:
        name = self._result(run_id, self.piece.format(number))
        return next(self._blobs.names(self.results_container, name), None) == name

    def finish_piece(self, run_id: str, number: int, data: bytes, figures: Mapping[str, Any]) -> None:
        """Writes what became of a piece, once: the results of whoever was first stay."""
        with suppress(Conflict):
            self._blobs.put(self.results_container, self._result(run_id, self.piece.format(number)), data, if_absent=True,
                            metadata={"figures": to_json(figures).decode("ascii")})

    def figures(self, run_id: str) -> list[dict[str, Any]]:
        """The figures of every piece that is done, in order."""
        found = self._blobs.metadata(self.results_container, self._result(run_id, self.piece.partition("{")[0]))
        return [json.loads(beside["figures"]) for _, beside in found]

    def result(self, run_id: str, number: int) -> bytes | None:
        """What became of a piece, None where it is not done."""
        found = self._blobs.get(self.results_container, self._result(run_id, self.piece.format(number)))
        return None if found is None else found.data

    def write_summary(self, run_id: str, summary: Mapping[str, Any]) -> None:
        self._blobs.put(self.results_container, self._result(run_id, "summary.json"), to_json(summary))

    def summary(self, run_id: str) -> dict[str, Any]:
        found = self._blobs.get(self.results_container, self._result(run_id, "summary.json"))
        return dict(json.loads(found.data)) if found else {}

    def _change(self, run_id: str, facts_of: Callable[[dict[str, Any]], Mapping[str, Any]]) -> dict[str, Any]:
        """The record after the change. `facts_of` is asked again when somebody else was quicker. Raises NotFound."""
        path = self._path(run_id, "record.json")
        while True:
            found = self._blobs.get(self._jobs, path)
            if found is None:
                raise NotFound(f"There is no {self.noun} {run_id}.", self.id_name)
            record = json.loads(found.data)
            if not (facts := facts_of(record)):
                return dict(record)
            record |= {**facts, "updated_at": _now()}
            with suppress(Conflict):
                self._blobs.put(self._jobs, path, to_json(record), if_match=found.etag)
                return dict(record)

    def _path(self, run_id: str, name: str) -> str:
        return f"{self.folder}/{self._checked(run_id)}/{name}"

    def _result(self, run_id: str, name: str) -> str:
        return f"{self._checked(run_id)}/{name}"

    def _checked(self, run_id: str) -> str:
        if not RUN_ID.fullmatch(run_id):
            raise NotFound(f"A {self.id_name.replace('_', ' ')} has 32 hexadecimal digits.", self.id_name)
        return run_id


def id_of_key(key: str) -> str:
    """The id of the run that an idempotency key stands for."""
    return sha256(key.encode()).hexdigest()[:32]


def is_current(record: Mapping[str, Any], instance: str) -> bool:
    """Whether the run goes on, and in this instance of the engine."""
    return record["instance"] == instance and record["state"] not in FINAL


def to_json(document: Mapping[str, Any]) -> bytes:
    """Compact JSON in ASCII. Raises ValueError for NaN."""
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()


def _now() -> str:
    return datetime.now(UTC).isoformat()
