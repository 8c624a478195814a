"""`python -m tools.batch FILE`: scores a file of items as one batch of the service, and shows how far it is."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from shared.blobs import Blobs
from shared.contract_batch import INPUT_CONTAINER
from shared.errors import ServiceError
from shared.settings import InvalidSetting, Settings
from tools.local_host.process import DEFAULT_KEY

USAGE_ERROR = 2
ENDED = ("succeeded", "failed", "cancelled", "interrupted")
POLL_SECONDS = 1.0
MAX_UPLOAD_BYTES = 64 * 2**20
KINDS = {".ndjson": "application/x-ndjson", ".jsonl": "application/x-ndjson", ".csv": "text/csv",
         ".parquet": "application/vnd.apache.parquet"}
FILE_ENDS = {kind: ending for ending, kind in reversed(KINDS.items())}
SHOWN = 5


class Failed(Exception):
    """The batch cannot be scored; the message is for people."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.batch", formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Scores many items as one batch: the lines of FILE, each the body of a detect call, or every table "
                    "that the service knows.",
        epilog="Ctrl-C leaves the batch running and tells how to cancel it. Exit status: 0 it succeeded, 1 it did not, "
               "2 wrong use.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("file", nargs="?", type=Path, metavar="FILE", help=f"what to score: {', '.join(KINDS)}")
    source.add_argument("--all-tables", action="store_true", help="the newest point of every table with a history")
    parser.add_argument("--detector", default="volume", help="who judges")
    parser.add_argument("--url", default="http://localhost:7071", help="where the service is")
    parser.add_argument("--key", default=os.environ.get("LOCAL_HOST_KEY", DEFAULT_KEY),
                        help="its function key (setting LOCAL_HOST_KEY)")
    parser.add_argument("--idempotency-key", default="", metavar="TEXT",
                        help="the same one goes on with an interrupted batch and never scores anything twice; by default a "
                             "new one")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the answers there, as NDJSON")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        with httpx.Client(base_url=options.url, headers={"x-functions-key": options.key}, timeout=120) as service:
            batch = _asked(service.post("/api/v1/batch/score", **_request(options)))
            try:
                done = watch(service, batch["status_url"])
            except KeyboardInterrupt:
                print(f"\nThe batch goes on: GET {options.url}{batch['status_url']}\n"
                      f"To end it: POST {options.url}{batch['cancel_url']}", file=sys.stderr)
                return 1
            if options.out:
                write(service, done, options.out)
    except (Failed, ServiceError, InvalidSetting, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except httpx.HTTPError as error:
        print(f"{options.url} does not answer ({error}). `make run` starts the service.", file=sys.stderr)
        return 1
    for line in words(done):
        print(line)
    return 0 if done["state"] == "succeeded" else 1


def watch(service: httpx.Client, url: str) -> dict[str, Any]:
    """Shows a bar until the batch has ended; its last status."""
    with tqdm(unit="item") as bar:
        while True:
            answer = service.get(url)
            batch = _asked(answer)
            bar.total, bar.n = batch["total"], batch["done"]
            bar.set_description(batch["state"], refresh=False)
            bar.set_postfix({"failed": batch["failed"], "anomalies": batch["anomalies"]})
            if batch["state"] in ENDED:
                return batch
            # The more parts there are, the more work it is to count them.
            time.sleep(max(POLL_SECONDS, 5 * answer.elapsed.total_seconds()))


def write(service: httpx.Client, batch: dict[str, Any], path: Path) -> None:
    """The answers so far, in the order of the input."""
    with path.open("wb") as file:
        for part in range(1, batch["parts"] + 1):
            answer = service.get(f"{batch['status_url']}/parts/{part}")
            if answer.status_code == httpx.codes.OK:  # of a batch that was cancelled some may be missing
                file.write(answer.content)


def words(batch: dict[str, Any]) -> list[str]:
    """The summary for people."""
    lines = [f"{batch['state']}: {batch['done']:,} of {batch['total'] or 0:,} items, {batch['failed']:,} of them failed, "
             f"{batch['anomalies']:,} anomalies"]
    if batch.get("seconds"):
        lines[0] += f", in {batch['seconds']:,.1f} s ({batch['rate'] or 0:,.0f} a second)"
    if batch["reason"]:
        lines.append(batch["reason"])
    counts = ", ".join(f"{count:,} {name}" for name, count in batch["severity"].items() if name != "none")
    lines += [f"Severities: {counts}"] if counts else []
    for title, key in (("Incidents", "incidents"), ("Anomalies", "anomalous"), ("Failed", "failures")):
        if found := batch.get(key):
            lines.append(f"{title}:")
            lines += [f"  {_one(entry)}" for entry in found[:SHOWN]]
            lines += [f"  and {len(found) - SHOWN:,} more"] if len(found) > SHOWN else []
    return [*lines, f"Answers: {batch['results']}"]


def _one(entry: dict[str, Any]) -> str:
    where = f"line {entry['line']}" + (f", {entry['item_id']}" if entry["item_id"] else "") + ": " if "line" in entry else ""
    return f"{where}{entry['message']}"


def _request(options: argparse.Namespace) -> dict[str, Any]:
    """What to post: a small file as it is, a large one by the name of a blob."""
    headers = {"Idempotency-Key": options.idempotency_key or uuid.uuid4().hex}
    if options.file is None:
        return {"headers": headers, "json": {"detector": options.detector, "tables": "all"}}
    kind = KINDS.get(options.file.suffix.lower())
    if kind is None:
        raise Failed(f"{options.file} is none of {', '.join(KINDS)}.")
    if options.file.stat().st_size <= MAX_UPLOAD_BYTES:
        return {"headers": {**headers, "Content-Type": kind}, "params": {"detector": options.detector},
                "content": options.file.read_bytes()}
    with options.file.open("rb") as file:
        name = f"uploads/{hashlib.file_digest(file, 'sha256').hexdigest()[:32]}{FILE_ENDS[kind]}"
        Blobs(Settings.from_environment()).put(INPUT_CONTAINER, name, file)
    return {"headers": headers, "json": {"detector": options.detector, "input_blob": f"{INPUT_CONTAINER}/{name}"}}


def _asked(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_success:
        return dict(answer.json())
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        raise Failed("The service refuses this key.")
    try:
        raise Failed(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        raise Failed(f"The service answered {answer.status_code}.") from None


if __name__ == "__main__":
    sys.exit(main())
