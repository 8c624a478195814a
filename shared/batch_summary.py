"""How far a batch is, and in the end what became of it."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, Final

from shared import incidents
from shared.batch_items import SLOWEST
from shared.batches import Batches, Figures
from shared.tables import Tables

MAX_FAILURES: Final = 1_000
MAX_ANOMALIES: Final = 1_000
_SHOWN: Final = ("batch_id", "detector", "state", "reason", "created_at", "started_at", "finished_at")


def report(batches: Batches, record: Mapping[str, Any]) -> dict[str, Any]:
    """A batch as its route shows it: totals and counts so far, items per second and the seconds left while it runs."""
    batch_id = record["batch_id"]
    about = {name: record.get(name) for name in _SHOWN}
    about |= {"status_url": f"/api/v1/batch/{batch_id}", "results": f"{batches.results_container}/{batch_id}/part-*.ndjson"}
    if record["state"] == "succeeded":
        return about | batches.summary(batch_id)
    parts = batches.parts(batch_id)
    done = Figures.total(parts)
    rate, left = None, None
    if record["state"] == "running":
        rate = _rate(record, done.items, datetime.now(UTC))
        left = round((record["total"] - done.items) / rate, 1) if rate else None
    return about | _counts(done, record) | {"parts": len(parts), "rate": rate, "seconds_left": left}


def summed_up(batches: Batches, record: Mapping[str, Any], finished: datetime, tables: Tables) -> dict[str, Any]:
    """The summary of a batch whose chunks are all done: counts, the slowest and the failed items, anomalies, incidents.

    Of failures and anomalies the first MAX_FAILURES and the MAX_ANOMALIES worst are listed; the counts are of all.
    """
    parts = batches.parts(record["batch_id"])
    done = Figures.total(parts)
    failures: list[dict[str, Any]] = []
    anomalies: list[dict[str, Any]] = []
    slowest: list[dict[str, Any]] = []
    asked: set[str] = set()
    for digest in batches.digests(record["batch_id"], record["chunks"]):
        failures += digest["failures"][:MAX_FAILURES - len(failures)]
        slowest = heapq.nlargest(SLOWEST, (*slowest, *digest["slowest"]), key=itemgetter("latency_ms"))
        anomalies += digest["anomalies"]
        asked.update(digest["tables"])
    worst = sorted(anomalies, key=lambda one: (-incidents.SEVERITIES.index(one["severity"]), one["line"]))[:MAX_ANOMALIES]
    return {**_counts(done, record), "parts": len(parts), "rate": _rate(record, done.items, finished), "seconds_left": 0.0,
            "seconds": round(_seconds(record, finished), 3), "slowest": slowest, "failures": failures,
            "anomalous": worst, "incidents": _incidents(anomalies, asked, finished, tables)}


def _counts(done: Figures, record: Mapping[str, Any]) -> dict[str, Any]:
    return {"total": record["total"], "done": done.items, **{k: v for k, v in asdict(done).items() if k != "items"}}


def _rate(record: Mapping[str, Any], done: int, now: datetime) -> float | None:
    """Items a second of this run, None before its first part."""
    scored = done - record["done_before"]
    return round(scored / max(_seconds(record, now), 1e-3), 1) if scored else None


def _seconds(record: Mapping[str, Any], until: datetime) -> float:
    return (until - datetime.fromisoformat(record["started_at"])).total_seconds()


def _incidents(anomalies: Iterable[Mapping[str, Any]], asked: Iterable[str], now: datetime,
               tables: Tables) -> list[dict[str, Any]]:
    found = [incidents.Anomaly(one["detector"], one["table_id"], _moment(one["timestamp"], now), one["severity"],
                               one["message"]) for one in anomalies if one["table_id"]]
    if len(found) < incidents.FEWEST:
        return []
    return [incident.to_json() for incident in incidents.group(found, labels(asked, tables))]


def labels(asked: Iterable[str], tables: Tables) -> dict[str, Mapping[str, str]]:
    """The labels of every table asked about, none for one that nobody described."""
    own: dict[str, Mapping[str, str]] = {table_id: {} for table_id in asked}
    return own | {table_id: table.labels for table_id, table in tables.scan() if table_id in own}


def tables_of(batches: Batches, record: Mapping[str, Any]) -> set[str]:
    """The tables that a batch asked about."""
    return {name for digest in batches.digests(record["batch_id"], record["chunks"]) for name in digest["tables"]}


def _moment(text: str | None, now: datetime) -> datetime:
    """When an anomaly was, in UTC where it names no zone; `now` where it names no time."""
    moment = datetime.fromisoformat(text) if text else now
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
