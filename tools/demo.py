"""A tour on real data: loads half a year of counts, trains, judges the other half day by day, tells what was found, and
asks every other detector too.

    python -m tools.demo [--port 7071] [--out out]

It talks to the service over HTTP alone, as any client would, and stops by itself.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx

from tools import demo_detectors
from tools.azurite import AzuriteError
from tools.local_host import HostError, LocalHost

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "samples" / "flights"
FIRST_JUDGED = "2013-07-01"
TRAINED = ("flights_UA", "flights_MQ")
HOLIDAYS = {"country": "US"}
ZONE = ZoneInfo("America/New_York")
# Nothing that a local.settings.json of the user may say is touched: the demo has an Azurite of its own.
DEVELOPMENT = dict.fromkeys(("AzureWebJobsStorage", "DATA_STORAGE"), "UseDevelopmentStorage=true")
CALLERS = 4


@dataclass(frozen=True, slots=True)
class Day:
    """One load of one table, and the fault that it has, if any."""

    date: str
    table: str
    rows: int
    fault: str | None

    @property
    def timestamp(self) -> str:
        """The day's load is complete shortly before midnight in New York."""
        return datetime.fromisoformat(f"{self.date}T23:50:00").replace(tzinfo=ZONE).isoformat()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=7071)
    parser.add_argument("--out", type=Path, default=ROOT / "out", help="where the picture goes (out)")
    args = parser.parse_args()
    began = time.perf_counter()
    try:
        with ExitStack() as running:
            with step("Starting Azurite and the local host"):
                host = running.enter_context(LocalHost(app=ROOT, port=args.port, settings=DEVELOPMENT))
            headers = {"x-functions-key": host.key}
            client = running.enter_context(httpx.Client(base_url=f"{host.url}/api", headers=headers, timeout=60))
            tour(client, args.out)
    except (HostError, AzuriteError) as error:
        sys.exit(f"\n{error}")
    print(f"\nThat was all, in {time.perf_counter() - began:.0f} seconds; everything is stopped. `make run` stays up.")


def tour(client: httpx.Client, out: Path) -> None:
    """Load, train, judge, report."""
    days = read_days()
    past, to_judge = [d for d in days if d.date < FIRST_JUDGED], [d for d in days if d.date >= FIRST_JUDGED]
    with step(f"Loading {len(past)} daily counts of {len({d.table for d in days})} tables (January to June 2013)") as say:
        loaded = load(client, past)
        say(f"{loaded['accepted']} kept, {loaded['rejected']} rejected")
    for table in TRAINED:
        with step(f"Training {table}: every family back-tested on held-out days") as say:
            say(train(client, table, say))
    with step(f"Judging {len(to_judge)} loads, July to December, one call each") as say:
        began = time.perf_counter()
        verdicts = judge(client, to_judge, say)
        seconds = time.perf_counter() - began
        inside = sorted(v["latency_ms"] for v in verdicts)[len(verdicts) // 2]
        say(f"{len(verdicts) / seconds:.0f} calls a second over HTTP, median {inside:.2f} ms in the detector")
    report(to_judge, verdicts)
    others(client)
    with step("Drawing flights_UA") as say:
        from tools.plot import draw_verdicts

        ours = [(d, v) for d, v in zip(to_judge, verdicts, strict=True) if d.table == "flights_UA"]
        before = [d for d in past if d.table == "flights_UA"]
        path = draw_verdicts(before, ours, out / "flights_UA.png")
        say(str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path))


def read_days() -> list[Day]:
    with (SAMPLES / "truth.csv").open(newline="") as lines:
        faults = {(row["table_id"], row["date"]): row["fault"] for row in csv.DictReader(lines)}
    with (SAMPLES / "counts.csv").open(newline="") as lines:
        return [Day(row["date"], row["table_id"], int(row["rows"]), faults.get((row["table_id"], row["date"])))
                for row in csv.DictReader(lines)]


def load(client: httpx.Client, days: list[Day]) -> dict[str, Any]:
    lines = "\n".join(json.dumps({"table_id": d.table, "timestamp": d.timestamp, "row_count": d.rows}) for d in days)
    return ok(client.post("/v1/observations", content=lines, headers={"content-type": "application/x-ndjson"}))


def train(client: httpx.Client, table: str, say: Any) -> str:
    job = ok(client.post("/v1/train/volume-anomaly", json={"table_id": table, "training_days": 365, "holidays": HOLIDAYS,
                                                           "timezone": ZONE.key}))
    while True:
        status = ok(client.get(job["status_url"].removeprefix("/api")))
        if status["state"] == "succeeded":
            break
        if status["state"] in ("failed", "interrupted"):
            sys.exit(f"\nTraining {table} {status['state']}: {status['reason']}")
        progress = status.get("progress", {"done": 0, "total": 0})
        say(f"{progress['done']} of {progress['total']} families", end="\r")
        time.sleep(0.5)
    result = status["result"]
    rows = sorted((c for c in result["candidates"] if "quality" in c), key=lambda c: -c["quality"]["f1"])
    best = result["challenger"]["algorithm"]
    figures = ", ".join(f"{c['algorithm']}{'*' if c['algorithm'] == best else ''} {c['quality']['f1']:.2f}" for c in rows)
    return f"F1 {figures}"


def judge(client: httpx.Client, days: list[Day], say: Any) -> list[dict[str, Any]]:
    """Tables at once, the days of a table one after the other."""
    by_table: dict[str, list[Day]] = defaultdict(list)
    for day in days:
        by_table[day.table].append(day)
    done: list[None] = []

    def judge_table(some: list[Day]) -> dict[Day, dict[str, Any]]:
        verdicts = {}
        for day in some:
            body = {"table_id": day.table, "current_row_count": day.rows, "timestamp": day.timestamp,
                    "timezone": ZONE.key, "holidays": HOLIDAYS}
            verdicts[day] = ok(client.post("/v1/detect/volume", json=body))
            done.append(None)
            if len(done) % 50 == 0:
                say(f"{len(done)} of {len(days)}", end="\r")
        return verdicts

    found: dict[Day, dict[str, Any]] = {}
    with ThreadPoolExecutor(CALLERS) as pool:
        for verdicts in pool.map(judge_table, by_table.values()):
            found |= verdicts
    return [found[day] for day in days]


def report(days: list[Day], verdicts: list[dict[str, Any]]) -> None:
    """The verdicts that matter, and how they compare with what was really done to the data."""
    print(f"\n  {'table':<11} {'day':<11} {'verdict':<9} {'truth':<14} message")
    hits = alarms = 0
    missed: dict[str, int] = defaultdict(int)
    for day, verdict in zip(days, verdicts, strict=True):
        if not verdict["is_anomaly"]:
            if day.fault:
                missed[day.fault] += 1
            continue
        hits, alarms = hits + (day.fault is not None), alarms + (day.fault is None)
        truth = day.fault or "no fault"
        print(f"  {day.table:<11} {day.date:<11} {verdict['severity']:<9} {truth:<14} {verdict['message']}")
    faulty = sum(day.fault is not None for day in days)
    normal = len(days) - faulty
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(missed.items())) or "none"
    print(f"\n  Found {hits} of {faulty} faulty days; missed: {kinds}.")
    print(f"  {alarms} false alarms on {normal} normal days ({alarms / normal:.1%}).\n")


def others(client: httpx.Client) -> None:
    """The other detectors: how they did, and one verdict of each kind, right and wrong."""
    def post(route: str, body: Any) -> dict[str, Any]:
        content = "\n".join(map(json.dumps, body)) if isinstance(body, list) else json.dumps(body)
        return ok(client.post(f"/v1/{route}", content=content))

    told: list[str] = []
    for name, ask in demo_detectors.DETECTORS.items():
        with step(f"Asking the {name} detector") as say:
            asked = []
            for one in ask(post):
                asked.append(one)
                say(f"{len(asked)} calls", end="\r")
            say(f"{len(asked)} calls")
        told += demo_detectors.summary(name, asked)
    print("\n" + "\n".join(f"  {line}" for line in told) + "\n")


def ok(response: httpx.Response) -> dict[str, Any]:
    """The answer's JSON; anything but success ends the demo with what the service said."""
    if response.is_success:
        return dict(response.json())
    sys.exit(f"\n{response.request.method} {response.request.url.path}: {response.status_code} {response.text}")


@contextmanager
def step(title: str) -> Iterator[Any]:
    """One line of progress: what is being done, and what came of it."""
    began, last = time.perf_counter(), [""]
    terminal = sys.stdout.isatty()

    def say(text: str, end: str = "") -> None:
        last[0] = last[0] if end else text
        if terminal:
            print(f"\r\033[K  {title} ... {text}", end="", flush=True)

    print(f"  {title} ...", end="" if terminal else "\n", flush=True)
    yield say
    took = f"{time.perf_counter() - began:.1f} s"
    ended = f"{last[0]} ({took})" if last[0] else took
    print(f"\r\033[K  {title}: {ended}" if terminal else f"    {ended}", flush=True)


if __name__ == "__main__":
    main()
