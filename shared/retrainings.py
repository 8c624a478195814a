"""The record of a retraining and of each of its models in blob storage, and what is told of it.

    jobs/retraining/{run}/plan-00001.json   which models are to be trained, GROUP in a file
    jobs/retraining/{run}/attempt-00001     how many attempts at a model ended with their process, one that goes on included
    jobs/retraining/scheduled-{only}.json   which run a timer started last
    results/{run}/model-00001.json          what was decided about a model
"""

from __future__ import annotations

import json
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import batched
from typing import Any, Final

from shared.contract_retraining import RetrainRequest
from shared.errors import Conflict, NotFound, StorageUnavailable
from shared.runs import Runs, id_of_key, to_json

GROUP: Final = 200
READERS: Final = 8
MAX_LISTED: Final = 1_000
PROMOTED: Final = ("first", "better", "refreshed", "forced")
SKIPPED: Final = ("unchanged", "not_drifted", "too_little_history", "untrainable", "failed")
REASON: Final = 300  # of a reason beside a piece, in characters: the whole of it is in the piece
_SHOWN: Final = ("run_id", "state", "reason", "created_at", "started_at", "finished_at", "asked", "unknown_tables")


class Retrainings(Runs):
    """Reads and writes retrainings. A piece is the decision about one model; a part of the results is GROUP of them."""

    noun, id_name, folder, route = "retraining", "run_id", "retraining", "/api/v1/retrain"
    orchestrator, piece = "retrain_models", "model-{:05d}.json"

    def accept(self, request: RetrainRequest, key: str | None = None) -> tuple[dict[str, Any], bool]:
        """The record of a retraining, and whether it is new. Raises Conflict for a key that stands for another request."""
        asked = request.model_dump(mode="json", exclude={"idempotency_key"})
        # Many tables are a count in the record: it is read before every model.
        told = asked | {"tables": asked["tables"] and len(asked["tables"])}
        return self.begin(to_json(asked), key, asked=told)

    def request(self, run_id: str) -> RetrainRequest:
        return RetrainRequest.model_validate_json(self.read(run_id, "request.json") or b"")

    def write_plan(self, run_id: str, targets: Iterable[Mapping[str, Any]]) -> int:
        """Keeps which models are to be trained; how many they are."""
        total = 0
        for number, some in enumerate(batched(targets, GROUP, strict=False), 1):
            self.write(run_id, f"plan-{number:05d}.json", json.dumps(some).encode())
            total += len(some)
        return total

    def target(self, run_id: str, number: int) -> dict[str, Any]:
        """The model with this number, from 1 on, of the plan."""
        plan = json.loads(self.read(run_id, f"plan-{(number - 1) // GROUP + 1:05d}.json") or b"[]")
        return dict(plan[(number - 1) % GROUP])

    def decide(self, run_id: str, number: int, decision: Mapping[str, Any]) -> None:
        """Keeps what became of a model, once: what whoever was first decided stays."""
        figures = {"name": decision["name"], "detector": decision["detector"], "outcome": decision["outcome"],
                   "reason": decision["reason"][:REASON], "version": decision["version"], "seconds": decision["seconds"]}
        self.finish_piece(run_id, number, to_json(decision), figures)

    @contextmanager
    def attempt(self, run_id: str, number: int) -> Iterator[int]:
        """Around the training of a model; how many attempts at it in this run ended with their process, without a word."""
        name = f"attempt-{number:05d}"
        died = int(self.read(run_id, name) or 0)
        self.write(run_id, name, b"%d" % (died + 1))
        try:
            yield died
        finally:
            with suppress(StorageUnavailable):
                self.write(run_id, name, b"%d" % died)

    def part(self, run_id: str, part: int) -> bytes:
        """The decisions about models (part - 1) GROUP + 1 and on, as far as they are made, as NDJSON. Raises NotFound."""
        total = self.record(run_id)["total"]
        if total is None or not 1 <= part <= parts_of(total):
            known = f"it has parts 1 to {parts_of(total)}" if total else "it has none (yet)"
            raise NotFound(f"There is no part {part} of this retraining: {known}.", "part")
        numbers = range((part - 1) * GROUP + 1, min(part * GROUP, total) + 1)
        with ThreadPoolExecutor(READERS) as pool:
            found = pool.map(lambda number: self.result(run_id, number), numbers)
            return b"".join(b"%s\n" % line for line in found if line is not None)

    def scheduled(self, only: str) -> tuple[str | None, str | None]:
        """The id of the run that the timer of such runs started last, and that word's ETag; (None, None) for none."""
        found = self._blobs.get(self._jobs, f"{self.folder}/scheduled-{only}.json")
        return (json.loads(found.data)["run_id"], found.etag) if found else (None, None)

    def reserve(self, only: str, etag: str | None) -> str | None:
        """A key for the next run of that timer; None where somebody else was quicker since `etag`."""
        key = uuid.uuid4().hex
        try:
            self._blobs.put(self._jobs, f"{self.folder}/scheduled-{only}.json", to_json({"run_id": id_of_key(key)}),
                            if_match=etag, if_absent=etag is None)
        except Conflict:
            return None
        return key


def parts_of(total: int) -> int:
    """How many parts the results of so many models have."""
    return -(-total // GROUP)


def report(runs: Retrainings, record: Mapping[str, Any]) -> dict[str, Any]:
    """A retraining as its route shows it: outcomes so far, models per minute and the seconds left while it runs."""
    run_id = record["run_id"]
    about = {name: record.get(name) for name in _SHOWN}
    about |= {"status_url": f"{runs.route}/{run_id}", "results": f"{runs.results_container}/{run_id}/model-*.json"}
    if record["state"] == "succeeded":
        return about | runs.summary(run_id)
    made = runs.figures(run_id)
    rate, left = None, None
    if record["state"] == "running":
        rate = _per_minute(record, len(made), datetime.now(UTC))
        left = round((record["total"] - len(made)) / rate * 60, 1) if rate else None
    return about | _counts(record, made) | {"models_per_minute": rate, "seconds_left": left}


def summed_up(record: Mapping[str, Any], made: Sequence[Mapping[str, Any]], finished: datetime) -> dict[str, Any]:
    """The summary of a retraining whose models are all decided about: counts, the new champions, what was left out and why.

    Of each list the first MAX_LISTED; the parts have all.
    """
    promoted = [{key: one[key] for key in ("name", "version", "outcome")} for one in made if one["outcome"] in PROMOTED]
    skipped = [{key: one[key] for key in ("name", "outcome", "reason")} for one in made if one["outcome"] in SKIPPED]
    return {**_counts(record, made), "models_per_minute": _per_minute(record, len(made), finished), "seconds_left": 0.0,
            "seconds": round(_seconds(record, finished), 3),
            "slowest_seconds": max((one["seconds"] for one in made), default=0.0),
            "promoted": promoted[:MAX_LISTED], "skipped": skipped[:MAX_LISTED]}


def _counts(record: Mapping[str, Any], made: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    detectors = defaultdict[str, Counter[str]](Counter)
    for one in made:
        detectors[one["detector"]][one["outcome"]] += 1
    outcomes = sum(detectors.values(), Counter[str]())
    total = record["total"]
    return {"total": total, "done": len(made), "parts": None if total is None else parts_of(total),
            "outcomes": dict(outcomes), "detectors": {name: dict(counts) for name, counts in sorted(detectors.items())}}


def _per_minute(record: Mapping[str, Any], done: int, now: datetime) -> float | None:
    """Models a minute of this run of the engine, None before its first one."""
    trained = done - record["done_before"]
    return round(60 * trained / max(_seconds(record, now), 1e-3), 1) if trained else None


def _seconds(record: Mapping[str, Any], until: datetime) -> float:
    return (until - datetime.fromisoformat(record["started_at"])).total_seconds()
