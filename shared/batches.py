"""The record of a batch and its chunks in blob storage. Its pieces are the parts of its results.

    jobs/batches/{batch}/chunk-00001.ndjson   the items of one activity
    jobs/batches/{batch}/digest-00001.json    what the summary wants to know of a chunk
    results/{batch}/part-00001.ndjson         the answers of a chunk
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import batched
from typing import Any, Final, Self

from shared.contract_batch import BatchRequest
from shared.errors import InvalidJson, InvalidRequest, NotFound, PayloadTooLarge, ServiceError
from shared.runs import Runs, to_json

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


class Batches(Runs):
    """Reads and writes batches."""

    noun, id_name, folder, route = "batch", "batch_id", "batches", "/api/v1/batch"
    orchestrator, piece, told = "score_batch", "part-{:05d}.ndjson", ("detector",)

    def accept(self, request: BatchRequest, key: str | None) -> tuple[dict[str, Any], bool]:
        """The record of a batch, and whether it is new. Raises Conflict for a key that stands for another request."""
        body = request.model_dump_json(exclude={"idempotency_key"}).encode()
        return self.begin(body, key, detector=request.detector, source=request.source, chunks=None)

    def request(self, batch_id: str) -> BatchRequest:
        return BatchRequest.model_validate_json(self.read(batch_id, "request.json") or b"")

    def write_chunk(self, batch_id: str, chunk: int, items: Iterable[tuple[int, bytes | ServiceError]]) -> None:
        lines = (b"%d fault %s" % (line, json.dumps(fault_of(item)).encode()) if isinstance(item, ServiceError)
                 else b"%d item %s" % (line, item) for line, item in items)
        self.write(batch_id, f"chunk-{chunk:05d}.ndjson", b"\n".join(lines))

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

    def finish_chunk(self, batch_id: str, chunk: int, lines: Iterable[bytes], digest: Mapping[str, Any],
                     figures: Figures) -> None:
        """Writes what became of a chunk, once: the results of whoever was first stay."""
        self.write(batch_id, f"digest-{chunk:05d}.json", to_json(digest))
        self.finish_piece(batch_id, chunk, b"".join(b"%s\n" % line for line in lines), asdict(figures))

    def parts(self, batch_id: str) -> list[Figures]:
        """The figures of every chunk that is done, in order."""
        return [Figures(**figures) for figures in self.figures(batch_id)]

    def part(self, batch_id: str, chunk: int) -> bytes:
        """The answers of a chunk as NDJSON. Raises NotFound."""
        found = self.result(batch_id, chunk)
        if found is None:
            last = self.record(batch_id)["chunks"]
            known = f"; its parts are 1 to {last}" if last else ""
            raise NotFound(f"Part {chunk} of this batch is not there (yet){known}.", "part")
        return found

    def digests(self, batch_id: str, chunks: int) -> Iterator[dict[str, Any]]:
        """What the summary wants to know of each chunk, in order."""
        with ThreadPoolExecutor(READERS) as pool:
            for some in batched(range(1, chunks + 1), 4 * READERS, strict=False):
                for data in pool.map(lambda chunk: self.read(batch_id, f"digest-{chunk:05d}.json"), some):
                    yield json.loads(data or b"{}")


def fault_of(error: ServiceError) -> dict[str, Any]:
    """What is said about an item that has no answer."""
    return {"code": error.code, "message": error.message, "target": error.target}
