"""The second half of the demo: the other detectors on real flights, what they found and what they got wrong."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import batched, groupby
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

SAMPLES = Path(__file__).resolve().parent.parent / "samples" / "flights"
ZONE = ZoneInfo("America/New_York")
VALUES_A_BATCH = 15

type Post = Callable[[str, Any], dict[str, Any]]  # route and body (a list is sent as NDJSON) -> the answer


@dataclass(frozen=True, slots=True)
class Asked:
    """One call: what it was about, what was wrong with that (None: nothing), and the answer."""

    what: str
    fault: str | None
    verdict: dict[str, Any]

    @property
    def outcome(self) -> str:
        if self.verdict["is_anomaly"]:
            return "found" if self.fault else "false alarm"
        return "missed" if self.fault else "normal"


def distribution(post: Post) -> Iterator[Asked]:
    """Three months of profiles, then September: each day as it was, and with a column broken."""
    with (SAMPLES / "profiles.ndjson").open() as lines:
        days = [json.loads(line) for line in lines]
    post("observations", [{"detector": "distribution", "table_id": "flights", "profile": day["profile"]}
                          for day in days if not day["judge"]])
    for day in [day for day in days if day["judge"]]:
        fault = day["fault"] and f"{day['fault']} in {day['column'] or 'the table'}"
        body = {"table_id": "flights", "current_profile": day["profile"], "timezone": ZONE.key, "record": fault is None}
        yield Asked(day["profile"]["profiledAt"][:10], fault, post("detect/distribution", body))


def pattern(post: Post) -> Iterator[Asked]:
    """Tail numbers of aircraft: 728 to learn from, then others in small batches, most with a wrong one or two."""
    rows = read("tailnums.csv")
    known = [row["tailnum"] for row in rows if row["is_train"] == "1" and not row["fault"]]
    about = {"table_id": "flights", "column": "tailnum"}
    post("observations", [{"detector": "pattern", **about, "timestamp": "2013-06-01T00:00:00Z", "values": known}])
    judged = [row for row in rows if row["is_train"] == "0"]
    for number, batch in enumerate(batched(judged, VALUES_A_BATCH, strict=False), 1):
        body = {**about, "timestamp": "2013-06-02T00:00:00Z", "values": [row["tailnum"] for row in batch], "record": False}
        faults = ", ".join(sorted({row["fault"] for row in batch} - {""}))
        yield Asked(f"batch {number}", faults or None, post("detect/pattern", body))


def timeliness(post: Post) -> Iterator[Asked]:
    """A daily arrival due at 21:50 in New York: 200 days to learn from, then day by day."""
    days = [(moment(row["due_at"]), float(row["lag_minutes"]) if row["lag_minutes"] else None, row["fault"])
            for row in read("arrivals.csv")]
    post("observations", [
        {"detector": "timeliness", "table_id": "arrivals", "timestamp": (due + timedelta(minutes=lag)).isoformat(),
         "lag_minutes": lag} for due, lag, _ in days[:200] if lag is not None])
    for due, lag, fault in days[200:]:
        body = {"table_id": "arrivals", "due_at": due.isoformat(), "timezone": ZONE.key}
        if lag is None:  # it never came: asked the next evening
            body |= {"as_of": (due + timedelta(hours=20)).isoformat()}
        else:
            came = (due + timedelta(minutes=lag)).isoformat()
            body |= {"as_of": came, "last_arrival": came}
        yield Asked(f"{due:%Y-%m-%d}", fault or None, post("detect/timeliness", body))


def sequence(post: Post) -> Iterator[Asked]:
    """Departures an hour from Newark: eleven weeks to learn from, then day by day, 24 values a call."""
    rows = read("hourly.csv")
    hours = [{"timestamp": moment(row["hour"]).isoformat(), "flights": int(row["flights"])} for row in rows]
    learnt = 11 * 7 * 24
    post("observations", [{"detector": "sequence", "table_id": "departures", "timestamp": hour["timestamp"],
                           "values": {"flights": hour["flights"]}} for hour in hours[:learnt]])
    for day, some in groupby(range(learnt, len(rows)), lambda place: rows[place]["hour"][:10]):
        places = list(some)
        body = {"table_id": "departures", "metrics": ["flights"], "timezone": ZONE.key,
                "points": [{"timestamp": hours[i]["timestamp"], "values": [hours[i]["flights"]]} for i in places]}
        faults = {rows[i]["fault"] for i in places} - {""}
        yield Asked(day, ", ".join(sorted(faults)) or None, post("detect/sequence", body))


DETECTORS: dict[str, Callable[[Post], Iterator[Asked]]] = {
    "distribution": distribution, "pattern": pattern, "timeliness": timeliness, "sequence": sequence}


def summary(name: str, asked: list[Asked]) -> Iterator[str]:
    """How many were found, missed and wrongly flagged, and the first verdict of each kind."""
    faulty = sum(a.fault is not None for a in asked)
    found, alarms = (sum(a.outcome == kind for a in asked) for kind in ("found", "false alarm"))
    yield f"{name}: found {found} of {faulty} faulty, {alarms} false alarms on {len(asked) - faulty} normal"
    for kind in ("found", "missed", "false alarm", "normal"):
        first = next((a for a in asked if a.outcome == kind), None)
        if first is not None:
            truth = f" (truth: {first.fault})" if first.fault else ""
            yield f"    {kind:<12} {first.what}{truth}: {first.verdict['message']}"


def read(name: str) -> list[dict[str, str]]:
    with (SAMPLES / name).open(newline="") as lines:
        return list(csv.DictReader(lines))


def moment(text: str) -> datetime:
    """Wall time in New York."""
    return datetime.fromisoformat(text).replace(tzinfo=ZONE)
