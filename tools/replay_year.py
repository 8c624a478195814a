"""A year of daily loads lived through day by day by the running service, with and without retraining and feedback.

    python -m tools.replay_year [--data DIR] [--out out/replay-year] [--tables 5] [--algorithm structural]

Three copies of every table see the same loads and the same faults. `frozen` is trained once and never again; `weekly` is
retrained every week; `taught` is retrained, too, and its owner says every morning which of yesterday's alarms were right.
On the way a level changes for good, and a poor model is put in charge by force and rolled back the next day. The clock is
simulated: every call says which day it is, and every retraining run as of when it is to be taken.

Everything goes over HTTP through the local host. The page that comes out tells how good the verdicts of each copy were,
month by month, what every retraining decided and why, and shows each table with its alarms.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
from tqdm import tqdm

from tools import replay_report
from tools.azurite import AzuriteError
from tools.local_host import HostError, LocalHost
from tools.replay_report import ARMS, Event, Load, Verdict, Year

ROOT: Final = Path(__file__).resolve().parent.parent
SAMPLES: Final = ROOT / "samples" / "flights"
# A worker looks this often whether a model changed: a simulated week is over in seconds.
RECHECK_SECONDS: Final = 1
DEVELOPMENT: Final = {"AzureWebJobsStorage": "UseDevelopmentStorage=true", "DATA_STORAGE": "UseDevelopmentStorage=true",
                      "RECHECK_SECONDS": str(RECHECK_SECONDS)}
LEARNING_DAYS: Final = 90
CALLERS: Final = 6
SHIFT: Final = 1.6
POOR: Final = "isolation_forest"
SHIFT_NOTICED: Final = 7  # so long the owner knows an alarm for the new level that it is
WAIT_SECONDS: Final = 60  # for an observation to come from the queue
SETTINGS: Final = {"holidays": {"country": "US"}}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.replay_year", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of CSV files with date, rows and label (the bundled flights)")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "replay-year", help="where the page goes")
    parser.add_argument("--algorithm", default="structural",
                        help="what is tried every week: one family (%(default)s), or auto, all of them, as the timer does, "
                             "which takes ten times as long")
    parser.add_argument("--tables", type=int, default=5, help="how many tables (%(default)s)")
    parser.add_argument("--days", type=int, default=365, help="how many days (%(default)s)")
    parser.add_argument("--port", type=int, default=0)
    args = parser.parse_args(argv)
    loads = _within(read_folder(args.data) if args.data else read_samples(), args.tables, args.days)
    try:
        with LocalHost(app=ROOT, port=args.port, settings=DEVELOPMENT) as host, \
                httpx.Client(base_url=f"{host.url}/api", headers={"x-functions-key": host.key}, timeout=120) as client:
            year = Replay(client, args.algorithm).run(loads)
    except (HostError, AzuriteError) as error:
        sys.exit(f"\n{error}")
    print(replay_report.as_text(year))
    page = replay_report.write(year, args.out)
    print(f"\n{page.resolve().relative_to(ROOT) if page.resolve().is_relative_to(ROOT) else page}: the page with the plots.")


def read_samples() -> list[Load]:
    """The flights a day of five carriers, with the faults that were put in."""
    with (SAMPLES / "truth.csv").open(newline="") as lines:
        faults = {(row["table_id"], row["date"]): row["fault"] for row in csv.DictReader(lines)}
    with (SAMPLES / "counts.csv").open(newline="") as lines:
        return [Load(date.fromisoformat(row["date"]), row["table_id"], int(row["rows"]),
                     faults.get((row["table_id"], row["date"]))) for row in csv.DictReader(lines)]


def read_folder(folder: Path) -> list[Load]:
    """Labelled counts, a CSV file a table."""
    loads = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="") as lines:
            loads += [Load(date.fromisoformat(row["date"][:10]), path.stem, round(float(row["rows"])),
                           "fault" if row["label"] == "1" else None) for row in csv.DictReader(lines)]
    if not loads:
        sys.exit(f"{folder} has no CSV file.")
    return loads


class Replay:
    """Lives through the loads, one day after the other; tables that begin in different years live side by side."""

    def __init__(self, client: httpx.Client, algorithm: str) -> None:
        self._client, self._algorithm = client, algorithm
        self._year = Year()
        self._to_teach: list[Verdict] = []

    def run(self, loads: Sequence[Load]) -> Year:
        """Everything: the first quarter is loaded and learnt, the rest is judged day by day."""
        began = time.perf_counter()
        tables = sorted({load.table for load in loads})
        by_table = {table: _with_a_shift([load for load in loads if load.table == table], n % 2 == 0)
                    for n, table in enumerate(tables)}
        self._year.shifts = {table: shift for table, (_, shift) in by_table.items() if shift}
        days = max(len(some) for some, _ in by_table.values())
        middle = LEARNING_DAYS + (days - LEARNING_DAYS) // 14 * 7 + 2  # between two retrainings
        self._begin({table: some[:LEARNING_DAYS] for table, (some, _) in by_table.items()})
        for n in tqdm(range(LEARNING_DAYS, days), desc="Days", unit="day", file=sys.stderr):
            today = [some[n] for some, _ in by_table.values() if n < len(some)]
            if (n - LEARNING_DAYS) % 7 == 0 and n > LEARNING_DAYS:
                self._retrain([some[n] for some, _ in by_table.values() if n < len(some)])
            if n == middle:
                self._put_in_charge(today[0])
            if n == middle + 1:
                self._roll_back(today[0])
            self._teach(self._to_teach)
            self._to_teach = self._judge(today)
        self._year.seconds = time.perf_counter() - began
        return self._year

    def _begin(self, learnt: dict[str, list[Load]]) -> None:
        """The first quarter as history, and the first model of every copy."""
        names = [(table, arm) for table in learnt for arm in ARMS]
        for table, arm in names:
            self._post(f"v1/tables/{_copy(table, arm)}", {"labels": {"arm": arm}, "settings": SETTINGS})
        rows = [{"table_id": _copy(table, arm), "timestamp": load.timestamp, "row_count": load.rows}
                for table, arm in names for load in learnt[table]]
        self._client.post("v1/observations", content="\n".join(map(json.dumps, rows))).raise_for_status()
        ends = {table: some[-1].day + timedelta(days=1) for table, some in learnt.items()}
        self._run_of([(table, arm) for table, arm in names], ends, algorithm=self._algorithm)

    def _judge(self, today: Sequence[Load]) -> list[Verdict]:
        def ask(pair: tuple[Load, str]) -> Verdict:
            load, arm = pair
            answer = self._post("v1/detect/volume", {"table_id": _copy(load.table, arm), "current_row_count": load.rows,
                                                     "timestamp": load.timestamp})
            lower, upper = answer["expected_range"]
            return Verdict(arm, load, answer["is_anomaly"], answer["expected_value"], lower, upper,
                           answer["model"]["algorithm"])

        with ThreadPoolExecutor(CALLERS) as pool:
            verdicts = list(pool.map(ask, [(load, arm) for load in today for arm in ARMS]))
        self._year.verdicts += verdicts
        return verdicts

    def _teach(self, verdicts: Sequence[Verdict]) -> None:
        """The owner of the `taught` copies looks at yesterday's alarms, and says of a new level that it is one."""
        for verdict in verdicts:
            if verdict.arm != "taught" or not verdict.is_anomaly:
                continue
            shift = self._year.shifts.get(verdict.load.table)
            if verdict.load.fault:
                label = "anomaly"
            elif shift and 0 <= (verdict.load.day - shift).days < SHIFT_NOTICED:
                label = "new_normal"
            else:
                label = "expected"
            self._say({"table_id": _copy(verdict.load.table, "taught"), "detector": "volume",
                       "timestamp": verdict.load.timestamp, "label": label, "scope": "once"})
            self._note(verdict.load, "taught", "feedback", label)

    def _say(self, word: dict[str, Any]) -> None:
        """A word of feedback; what it is about may still be on its way from the queue into the history."""
        for _ in range(WAIT_SECONDS):
            answer = self._client.post("v1/feedback", json=word)
            if answer.status_code != httpx.codes.NOT_FOUND:
                break
            time.sleep(1)
        _ok(answer)

    def _retrain(self, today: Sequence[Load]) -> None:
        """A retraining run over the copies that are retrained; tables of different years are of different runs."""
        pairs = [(load.table, arm) for load in today for arm in ARMS if arm != "frozen"]
        self._run_of(pairs, {load.table: load.day for load in today}, algorithm=self._algorithm)

    def _put_in_charge(self, load: Load) -> None:
        """Somebody makes a model of four months the champion: what `promote` always is for, and what it can do."""
        job = self._post("v1/train/volume-anomaly", {"table_id": _copy(load.table, "taught"), "training_days": 120,
                                                     "algorithm": POOR, "promote": "always"})
        self._ended(job["status_url"])
        self._note(load, "taught", "forced", f"{POOR} of the last four months was made the champion by force")
        time.sleep(RECHECK_SECONDS + 0.5)

    def _roll_back(self, load: Load) -> None:
        name = f"volume-anomaly.{_copy(load.table, 'taught')}"
        back = self._post(f"v1/models/{name}/rollback", {"reason": "too many false alarms"})
        self._note(load, "taught", "rollback", f"back to version {back['champion']['version']}")
        time.sleep(RECHECK_SECONDS + 0.5)

    def _run_of(self, pairs: Sequence[tuple[str, str]], until: dict[str, date], **options: Any) -> None:
        """One run for each day on which tables are; waits for it and for workers to see its champions."""
        of_day: dict[date, list[tuple[str, str]]] = defaultdict(list)
        for table, arm in pairs:
            of_day[until[table]].append((table, arm))
        for day, some in of_day.items():
            as_of = datetime(day.year, day.month, day.day, tzinfo=UTC).isoformat()
            run = self._post("v1/retrain", {"detectors": ["volume"], "tables": [_copy(*pair) for pair in some],
                                            "as_of": as_of, **options})
            self._keep(day, some, list(self._decisions(run["run_id"], self._ended(run["status_url"]))))
        time.sleep(RECHECK_SECONDS + 0.5)

    def _ended(self, status_url: str) -> dict[str, Any]:
        while (status := self._get(status_url.removeprefix("/api/")))["state"] not in ("succeeded", "failed", "interrupted"):
            time.sleep(0.2)
        if status["state"] != "succeeded":
            sys.exit(f"\n{status_url} has {status['state']}: {status['reason']}")
        return status

    def _keep(self, day: date, pairs: Sequence[tuple[str, str]], decisions: list[dict[str, Any]]) -> None:
        of_copy = {_copy(*pair): pair for pair in pairs}
        for decision in decisions:
            table, arm = of_copy[decision["table_id"]]
            self._year.decisions.append({**decision, "day": day.isoformat(), "table": table, "arm": arm})
            self._year.events.append(Event(day, table, arm, decision["outcome"], decision["reason"]))

    def _decisions(self, run_id: str, status: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for part in range(1, (status.get("parts") or 0) + 1):
            answer = self._client.get(f"v1/retrain/{run_id}/parts/{part}")
            if answer.is_success:
                yield from map(json.loads, filter(None, answer.text.split("\n")))

    def _note(self, load: Load, arm: str, kind: str, text: str) -> None:
        self._year.events.append(Event(load.day, load.table, arm, kind, text))

    def _post(self, route: str, body: Any) -> dict[str, Any]:
        return _ok(self._client.post(route, json=body))

    def _get(self, route: str) -> dict[str, Any]:
        return _ok(self._client.get(route))


def _with_a_shift(loads: list[Load], shifts: bool) -> tuple[list[Load], date | None]:
    """The loads of one table; for some of them its level changes for good after two thirds of the time."""
    if not shifts or len(loads) < 2 * LEARNING_DAYS:
        return loads, None
    at = len(loads) * 2 // 3
    moved = [Load(load.day, load.table, round(load.rows * SHIFT), load.fault) for load in loads[at:]]
    return [*loads[:at], *moved], loads[at].day


def _within(loads: Sequence[Load], tables: int, days: int) -> list[Load]:
    """The first tables, and of each the first days."""
    taken: dict[str, list[Load]] = defaultdict(list)
    for load in loads:
        taken[load.table].append(load)
    return [load for table in sorted(taken)[:tables] for load in sorted(taken[table], key=lambda one: one.day)[:days]]


def _copy(table: str, arm: str) -> str:
    return f"{table}.{arm}"


def _ok(response: httpx.Response) -> dict[str, Any]:
    if response.is_success:
        return dict(response.json())
    sys.exit(f"\n{response.request.method} {response.request.url.path}: {response.status_code} {response.text[:500]}")


if __name__ == "__main__":
    main()
