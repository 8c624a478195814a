"""A load test on this machine: clients ask for verdicts while a batch runs; errors and latencies of both are told.

    python -m tools.load [--seconds 20] [--clients 4] [--items 2000]

Starts the service on storage of its own and stops it again. Nothing outside this machine is called.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tools.azurite import Azurite, AzuriteError, free_ports
from tools.local_host import HostError, LocalHost
from tools.made_up import counts

ROOT = Path(__file__).resolve().parent.parent
DAYS = 60


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of one phase: the answers by status (0: none came), and the milliseconds that each took."""

    statuses: Counter[int]
    latencies: list[float]

    @property
    def errors(self) -> int:
        return sum(count for status, count in self.statuses.items() if status != 200)

    def __str__(self) -> str:
        p50, p99 = np.quantile(self.latencies, [0.5, 0.99]) if self.latencies else (0.0, 0.0)
        return (f"{len(self.latencies):6,} calls, {self.errors} errors, p50 {p50:.1f} ms, p99 {p99:.1f} ms, "
                f"longest {max(self.latencies, default=0.0):.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.load", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each phase (20)")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--items", type=int, default=2000, help="of the batch that runs beside (2000)")
    args = parser.parse_args()
    ports = free_ports(3)
    try:
        with Azurite(ports=(ports[0], ports[1], ports[2])) as azurite:
            account = azurite.connection_string()
            settings = {"AzureWebJobsStorage": account, "DATA_STORAGE": account}
            with LocalHost(app=ROOT, port=0, settings=settings) as host:
                with client(host.url, host.key) as control:
                    load_history(control, args.clients)
                for record, title in ((False, "detect, no trace left"), (True, "detect")):
                    print(f"{title:25}{ask(host.url, host.key, args.clients, args.seconds, record)}", flush=True)
                with client(host.url, host.key) as control:
                    status_url = start_batch(control, args.items)
                    beside = ask(host.url, host.key, args.clients, args.seconds, False)
                    print(f"{'no trace, beside a batch':25}{beside}", flush=True)
                    print(f"{'the batch':25}{ended(control, status_url)}")
    except (HostError, AzuriteError) as error:
        sys.exit(str(error))


def client(url: str, key: str) -> httpx.Client:
    return httpx.Client(base_url=f"{url}/api", headers={"x-functions-key": key}, timeout=60)


def ask(url: str, key: str, clients: int, seconds: float, record: bool) -> Asked:
    """Every client asks again as soon as it is answered, each about a table of its own that the service remembers.

    With `record`, what was seen and found goes by queue into history and alerts, in the same process and on this machine.
    """
    def run(number: int) -> tuple[list[int], list[float]]:
        statuses, latencies = [], []
        point = counts(number, DAYS)[-1]
        body = {"table_id": f"load{number}", "current_row_count": point["row_count"], "timestamp": point["timestamp"],
                "record": record}
        with client(url, key) as own:
            until = time.perf_counter() + seconds
            while (began := time.perf_counter()) < until:
                try:
                    statuses.append(own.post("/v1/detect/volume", json=body).status_code)
                except httpx.HTTPError:
                    statuses.append(0)
                latencies.append((time.perf_counter() - began) * 1000)
        return statuses, latencies

    with ThreadPoolExecutor(clients) as pool:
        runs = list(pool.map(run, range(clients)))
    return Asked(Counter(status for own, _ in runs for status in own), [one for _, own in runs for one in own])


def load_history(control: httpx.Client, clients: int) -> None:
    """A table for each client, known for DAYS - 1 days."""
    rows = [{"table_id": f"load{number}", **point} for number in range(clients) for point in counts(number, DAYS)[:-1]]
    control.post("/v1/observations", content="\n".join(map(json.dumps, rows))).raise_for_status()


def start_batch(control: httpx.Client, items: int) -> str:
    """A batch of counts with their history in the request; where to ask how it goes."""
    *known, point = counts(0, DAYS)
    rows = [earlier["row_count"] for earlier in known]
    body = {"timestamp": point["timestamp"], "historical_data": rows}
    lines = [json.dumps({"request_id": str(n), "current_row_count": rows[n % len(rows)], **body}) for n in range(items)]
    accepted = control.post("/v1/batch/score?detector=volume", content="\n".join(lines),
                            headers={"content-type": "application/x-ndjson"})
    accepted.raise_for_status()
    return str(accepted.json()["status_url"]).removeprefix("/api")


def ended(control: httpx.Client, status_url: str) -> str:
    """Waits for the end of the batch and tells of it."""
    while (batch := _status(control, status_url))["state"] in ("accepted", "running"):
        time.sleep(0.5)
    return (f"{batch['state']}: {batch['done']:,} of {batch['total']:,} items, {batch['failed']} failed, "
            f"{batch['rate']} a second")


def _status(control: httpx.Client, status_url: str) -> dict[str, Any]:
    return dict(control.get(status_url).json())


if __name__ == "__main__":
    main()
