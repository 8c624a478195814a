"""The record of a batch and its chunks in blob storage: it outlives the engine that runs the batch.

    jobs/batches/{batch}/request.json         what was asked for
    jobs/batches/{batch}/record.json          state and totals
    jobs/batches/{batch}/chunk-00001.ndjson   the items of one activity
    jobs/batches/{batch}/digest-00001.json    what the summary wants to know of a chunk
    results/{batch}/part-00001.ndjson         the answers of a chunk; its counts beside it as metadata. It is written last
                                              and once: where it is, the chunk is done
    results/{batch}/summary.json              what became of the batch
"""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from itertools import batched
from typing import Any, Final, Self

from shared.blobs import Blobs
from shared.contract_batch import BatchRequest
from shared.errors import Conflict, InvalidJson, InvalidRequest, NotFound, PayloadTooLarge, ServiceError
from shared.settings import Settings

BATCH_ID: Final = re.compile(r"[0-9a-f]{32}")
# Of an interrupted batch a run is taken up again; `cancelled` is the caller's word, and only the caller takes it back.
FINAL: Final = ("succeeded", "failed", "cancelled")
READERS: Final = 8
_FAULTS: Final = {kind.code: kind for kind in (InvalidJson, InvalidRequest, PayloadTooLarge)}


@dataclass(frozen=True, slots=True)
class Figures:
    """The counts of a chunk or of a whole batch: `items` judged or refused, `failed` of them refused."""

    items: int = 0
    failed: int = 0
    anomalies: int = 0
    severity: Mapping[str, int] = field(default_factory=dict)
    status: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def total(cls, parts: Iterable[Self]) -> Self:
        """The figures of all parts together."""
        items = failed = anomalies = 0
        severity, status = Counter[str](), Counter[str]()
        for part in parts:
            items, failed, anomalies = items + part.items, failed + part.failed, anomalies + part.anomalies
            severity.update(part.severity)
            status.update(part.status)
        return cls(items, failed, anomalies, dict(severity), dict(status))


class Batches:
    """Reads and writes batches. Batch ids are made here and checked at every door."""

    def __init__(self, blobs: Blobs, settings: Settings) -> None:
        self._blobs, self._jobs, self.results_container = blobs, settings.jobs_container, settings.results_container

    def accept(self, request: BatchRequest, key: str | None) -> tuple[dict[str, Any], bool]:
        """The `accepted` record of a batch, and whether it is new; its `instance` is the run of the engine that works on it.

        Raises Conflict for a key that stands for another request.
        """
        batch_id = id_of_key(key) if key else uuid.uuid4().hex
        body = request.model_dump_json(exclude={"idempotency_key"}).encode()
        try:
            self._blobs.put(self._jobs, _path(batch_id, "request.json"), body, if_absent=True)
        except Conflict:
            if self.read(batch_id, "request.json") != body:
                raise Conflict("This idempotency key belongs to a batch with another request.", "idempotency_key") from None
        now = _now()
        record = {"batch_id": batch_id, "instance": f"{batch_id}-1", "detector": request.detector,
                  "source": request.source, "state": "accepted", "reason": None, "created_at": now, "updated_at": now,
                  "chunks": None, "total": None}
        try:
            self._blobs.put(self._jobs, _path(batch_id, "record.json"), _json(record), if_absent=True)
        except Conflict:
            return self.record(batch_id), False
        return record, True

    def record(self, batch_id: str) -> dict[str, Any]:
        """Raises NotFound."""
        return self._change(batch_id, lambda record: {})

    def update(self, batch_id: str, instance: str, **facts: Any) -> dict[str, Any]:
        """Changes the record and returns it, unless the batch has ended or another run has taken over."""
        return self._change(batch_id, lambda record: facts if is_current(record, instance) else {})

    def cancel(self, batch_id: str) -> dict[str, Any]:
        """Ends the batch, unless it has ended. Raises NotFound."""
        return self._change(batch_id, lambda record: {} if record["state"] in FINAL else {
            "state": "cancelled", "reason": "It was cancelled.", "finished_at": _now()})

    def take_up(self, seen: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """A new run of a batch whose record was `seen`, and whether it is this caller's: of several one gets it."""
        run = int(seen["instance"].rpartition("-")[2]) + 1
        mine = {"instance": f"{seen['batch_id']}-{run}", "state": "accepted", "reason": None, "finished_at": None,
                "claim": uuid.uuid4().hex}
        record = self._change(seen["batch_id"], lambda now: mine if now["updated_at"] == seen["updated_at"] else {})
        return record, record.get("claim") == mine["claim"]

    def request(self, batch_id: str) -> BatchRequest:
        return BatchRequest.model_validate_json(self.read(batch_id, "request.json") or b"")

    def read(self, batch_id: str, name: str) -> bytes | None:
        found = self._blobs.get(self._jobs, _path(batch_id, name))
        return None if found is None else found.data

    def write_chunk(self, batch_id: str, chunk: int, items: Iterable[tuple[int, bytes | ServiceError]]) -> None:
        lines = (b"%d fault %s" % (line, json.dumps(fault_of(item)).encode()) if isinstance(item, ServiceError)
                 else b"%d item %s" % (line, item) for line, item in items)
        self._blobs.put(self._jobs, _path(batch_id, f"chunk-{chunk:05d}.ndjson"), b"\n".join(lines))

    def chunk(self, batch_id: str, chunk: int) -> list[tuple[int, bytes | ServiceError]]:
        """The items of a chunk, and the errors found in place of some, with their lines."""
        rows: list[tuple[int, bytes | ServiceError]] = []
        for text in (self.read(batch_id, f"chunk-{chunk:05d}.ndjson") or b"").split(b"\n"):
            line, kind, item = text.split(b" ", 2)
            if kind == b"fault":
                fault = json.loads(item)
                rows.append((int(line), _FAULTS.get(fault["code"], InvalidRequest)(fault["message"], fault["target"])))
            else:
                rows.append((int(line), item))
        return rows

    def is_done(self, batch_id: str, chunk: int) -> bool:
        name = _path(batch_id, _part(chunk), "")
        return next(self._blobs.names(self.results_container, name), None) == name

    def finish_chunk(self, batch_id: str, chunk: int, lines: Iterable[bytes], digest: Mapping[str, Any],
                     figures: Figures) -> None:
        """Writes what became of a chunk, once: the results of whoever was first stay."""
        self._blobs.put(self._jobs, _path(batch_id, f"digest-{chunk:05d}.json"), _json(digest))
        with suppress(Conflict):
            self._blobs.put(self.results_container, _path(batch_id, _part(chunk), ""), b"".join(b"%s\n" % t for t in lines),
                            if_absent=True, metadata={"figures": _json(asdict(figures)).decode("ascii")})

    def parts(self, batch_id: str) -> list[Figures]:
        """The figures of every chunk that is done, in order."""
        found = self._blobs.metadata(self.results_container, _path(batch_id, "part-", ""))
        return [Figures(**json.loads(beside["figures"])) for _, beside in found]

    def part(self, batch_id: str, chunk: int) -> bytes:
        """The answers of a chunk as NDJSON. Raises NotFound."""
        found = self._blobs.get(self.results_container, _path(batch_id, _part(chunk), ""))
        if found is None:
            last = self.record(batch_id)["chunks"]
            known = f"; its parts are 1 to {last}" if last else ""
            raise NotFound(f"Part {chunk} of this batch is not there (yet){known}.", "part")
        return found.data

    def digests(self, batch_id: str, chunks: int) -> Iterator[dict[str, Any]]:
        """What the summary wants to know of each chunk, in order."""
        with ThreadPoolExecutor(READERS) as pool:
            for some in batched(range(1, chunks + 1), 4 * READERS, strict=False):
                for data in pool.map(lambda chunk: self.read(batch_id, f"digest-{chunk:05d}.json"), some):
                    yield json.loads(data or b"{}")

    def write_summary(self, batch_id: str, summary: Mapping[str, Any]) -> None:
        self._blobs.put(self.results_container, _path(batch_id, "summary.json", ""), _json(summary))

    def summary(self, batch_id: str) -> dict[str, Any]:
        found = self._blobs.get(self.results_container, _path(batch_id, "summary.json", ""))
        return dict(json.loads(found.data)) if found else {}

    def _change(self, batch_id: str, facts_of: Callable[[dict[str, Any]], Mapping[str, Any]]) -> dict[str, Any]:
        """The record after the change. `facts_of` is asked again when somebody else was quicker. Raises NotFound."""
        path = _path(batch_id, "record.json")
        while True:
            found = self._blobs.get(self._jobs, path)
            if found is None:
                raise NotFound(f"There is no batch {batch_id}.", "batch_id")
            record = json.loads(found.data)
            if not (facts := facts_of(record)):
                return dict(record)
            record |= {**facts, "updated_at": _now()}
            with suppress(Conflict):
                self._blobs.put(self._jobs, path, _json(record), if_match=found.etag)
                return dict(record)


def id_of_key(key: str) -> str:
    """The id of the batch that an idempotency key stands for."""
    return sha256(key.encode()).hexdigest()[:32]


def is_current(record: Mapping[str, Any], instance: str) -> bool:
    """Whether the batch goes on, and in this run of the engine."""
    return record["instance"] == instance and record["state"] not in FINAL


def fault_of(error: ServiceError) -> dict[str, Any]:
    """What is said about an item that has no answer."""
    return {"code": error.code, "message": error.message, "target": error.target}


def _path(batch_id: str, name: str, folder: str = "batches/") -> str:
    if not BATCH_ID.fullmatch(batch_id):
        raise NotFound("A batch id has 32 hexadecimal digits.", "batch_id")
    return f"{folder}{batch_id}/{name}"


def _part(chunk: int) -> str:
    return f"part-{chunk:05d}.ndjson"


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()


def _now() -> str:
    return datetime.now(UTC).isoformat()
