"""The record of a training job in blob storage: it outlives the engine that runs the job.

    jobs/{job_id}/request.json    what was asked for, with its history: orchestrations carry only the id
    jobs/{job_id}/job.json        state, progress, result
    jobs/{job_id}/{algorithm}.*   what each candidate left: its model and its figures
"""

from __future__ import annotations

import json
import re
import uuid
from datetime import UTC, datetime
from typing import Any

from shared.blobs import Blobs
from shared.errors import NotFound

JOB_ID = re.compile(r"[0-9a-f]{32}")
FINAL = ("succeeded", "failed")


class Jobs:
    """Reads and writes job records. Job ids are made here and checked at every door."""

    def __init__(self, blobs: Blobs, container: str) -> None:
        self._blobs, self._container = blobs, container

    def accept(self, kind: str, request: str, **facts: Any) -> dict[str, Any]:
        """Keeps the request and an `accepted` record of a new job; returns the record."""
        job_id = uuid.uuid4().hex
        self.write(job_id, "request.json", request.encode())
        now = datetime.now(UTC).isoformat()
        record = {"job_id": job_id, "kind": kind, "state": "accepted", "created_at": now, "updated_at": now, **facts}
        self.write(job_id, "job.json", json.dumps(record).encode())
        return record

    def record(self, job_id: str) -> dict[str, Any]:
        """Raises NotFound."""
        data = self.read(job_id, "job.json")
        if data is None:
            raise NotFound(f"There is no job {job_id}.", "job_id")
        return dict(json.loads(data))

    def progress(self, job_id: str) -> dict[str, Any]:
        """The record of a running job with the figures of the candidates that are done. Raises NotFound."""
        record = self.record(job_id)
        if record["state"] in FINAL:
            return record
        planned = record.get("algorithms", [])
        done = [figures for name in planned if (figures := self.read(job_id, f"{name}.json")) is not None]
        return record | {"progress": {"done": len(done), "total": len(planned)}, "candidates": [json.loads(d) for d in done]}

    def update(self, job_id: str, **facts: Any) -> dict[str, Any]:
        """Changes the record and returns it. Only the job's own steps write it, one at a time."""
        record = self.record(job_id) | facts | {"updated_at": datetime.now(UTC).isoformat()}
        self.write(job_id, "job.json", json.dumps(record).encode())
        return record

    def read(self, job_id: str, name: str) -> bytes | None:
        """One file of a job, None where it is not there. Raises NotFound for what cannot be a job's id."""
        found = self._blobs.get(self._container, f"{_checked(job_id)}/{name}")
        return None if found is None else found.data

    def write(self, job_id: str, name: str, data: bytes) -> None:
        self._blobs.put(self._container, f"{_checked(job_id)}/{name}", data)


def _checked(job_id: str) -> str:
    if not JOB_ID.fullmatch(job_id):
        raise NotFound("A job id has 32 hexadecimal digits.", "job_id")
    return job_id
