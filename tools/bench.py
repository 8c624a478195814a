"""Measures the service side by side with the libraries it was trained with, in one run on one machine.

    python -m tools.bench [--calls 2000]

Every figure is one decision on one count of one table. Read them as ratios: machines differ, and this one may be busy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tools.azurite import Azurite, free_ports
from tools.demo import HOLIDAYS, ZONE, Day, read_days

ROOT = Path(__file__).resolve().parent.parent
TABLE = "flights_UA"
TRAINED_UNTIL = "2013-11-30"
JUDGED = "2013-12-05"
FAMILIES = ("structural", "prophet", "arima", "seasonal_decomposition", "isolation_forest", "one_class_svm", "lof")


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one call."""

    p50: float
    p99: float

    def __str__(self) -> str:
        return f"{self.p50:9.3f} {self.p99:9.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000, help="calls per figure; the slow libraries get fewer (2000)")
    args = parser.parse_args()
    blob, queue, table = free_ports(3)
    with Azurite(ports=(blob, queue, table)) as azurite:
        os.environ |= dict.fromkeys(("AzureWebJobsStorage", "DATA_STORAGE"), azurite.connection_string())
        os.environ |= {"OBSERVATIONS_QUEUE": "observations", "TASKHUB_NAME": "bench", "RECHECK_SECONDS": "3600"}
        print_import()
        asyncio.run(measure(args.calls))


async def measure(calls: int) -> None:
    from tools.local_host.worker import Worker

    # The app first, alone: training imports would be counted as its own.
    worker = await Worker.start(ROOT)
    days = [d for d in read_days() if d.table == TABLE]
    load_history(days)
    models = train_families(days)
    print(f"\n{'':44}{'p50 ms':>9} {'p99 ms':>9}")
    handler, decision = {}, {}
    for family, payload in models.items():
        handler[family] = timed(handler_call(request_body(days, family)), calls)
        decision[family] = timed(decision_call(payload), calls)
        report(f"(a) detect handler, in-process: {family}", handler[family])
        report("    of that, the ONNX decision", decision[family])
    untrained = handler_call(request_body(days, "untrained"))
    report("(a) structural baseline, no model, 334 days", timed(untrained, calls // 20))
    for family in ("structural", "prophet"):
        call = worker_call(worker, request_body(days, family))
        report(f"(b) through the worker library: {family}", await timed_async(call, calls))
    for name, call, against in library_calls(days):
        taken = timed(call, max(calls // 40, 20))
        report(f"(c) {name}", taken)
        ratios = taken.p50 / decision[against].p50, taken.p50 / handler[against].p50
        print(f"    {ratios[0]:.0f} times our decision, {ratios[1]:.0f} times our whole handler")
    for family, payload in models.items():
        report(f"(e) load and verify {family}", timed(load_call(payload), max(calls // 40, 20)))


def print_import() -> None:
    """(d) three fresh interpreters each, the best of them."""
    script = ("import time, resource; t = time.perf_counter(); import {}; print(time.perf_counter() - t, "
              "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)")
    print(f"{'':44}{'seconds':>9} {'MiB':>9}")
    for name in ("function_app", "numpy", "azure.functions", "prophet", "sklearn.ensemble"):
        runs = []
        for _ in range(3):
            said = subprocess.run([sys.executable, "-W", "ignore", "-c", script.format(name)], cwd=ROOT, capture_output=True,
                                  text=True, check=True).stdout.split()
            runs.append((float(said[0]), float(said[1])))
        best = min(runs)
        print(f"{'(d) import ' + name:44}{best[0]:9.2f} {best[1]:9.0f}")


def load_history(days: list[Day]) -> None:
    from shared import observations
    from shared.worker import catalogue

    for family in (*FAMILIES, "untrained"):
        lines = "\n".join(json.dumps({"table_id": family, "timestamp": d.timestamp, "row_count": d.rows})
                          for d in days if d.date < JUDGED)
        observations.load(lines.encode(), catalogue())


def train_families(days: list[Day]) -> dict[str, bytes]:
    """One table a family, all with the same history."""
    from detectors.volume import model_name
    from shared.contract import Holidays, TrainRequest
    from shared.worker import history, registry
    from training import volume_anomaly

    models = {}
    print(f"\n{'training, one table of 334 days':44}{'seconds':>9} {'KB':>9}   parity with its library")
    for family in FAMILIES:
        request = TrainRequest(table_id=family, training_days=400, timezone=ZONE.key, algorithm=family,  # type: ignore[arg-type]
                               holidays=Holidays(**HOLIDAYS))  # type: ignore[arg-type]
        stored = history().read("volume", family)
        cut = int(np.searchsorted(stored.seconds, _seconds(TRAINED_UNTIL)))
        until = type(stored)(stored.seconds[:cut], stored.values[:cut], stored.status[:cut])
        candidate = volume_anomaly.fit_candidate(volume_anomaly.prepared(request, until), family)
        if candidate.payload is None:
            print(f"{family:44} {candidate.figures['error']}")
            continue
        models[family] = candidate.payload
        version = registry().publish(model_name(family), candidate.payload, candidate.card).version
        registry().promote(model_name(family), version, reason="benchmark")
        f = candidate.figures
        size, parity = len(candidate.payload) / 1024, f["parity"]["max_difference"]
        print(f"{family:44}{f['seconds']:9.2f} {size:9.1f}   {parity:.1e}", flush=True)
    return models


def request_body(days: list[Day], table: str) -> bytes:
    day = next(d for d in days if d.date == JUDGED)
    return json.dumps({"table_id": table, "current_row_count": day.rows, "timestamp": day.timestamp, "timezone": ZONE.key,
                       "holidays": HOLIDAYS}).encode()


def handler_call(body: bytes) -> Callable[[], Any]:
    """The function's own code, called as the worker calls it."""
    import azure.functions as func

    import function_app

    handler = function_app.detect._function.get_user_function()
    url = "http://localhost/api/v1/detect/volume"
    request = func.HttpRequest("POST", url, route_params={"detector": "volume"}, body=body)

    class Out(func.Out[str]):
        def set(self, value: str) -> None:
            self.value = value

        def get(self) -> str:
            return self.value

    assert handler(request, Out()).status_code == 200
    return lambda: handler(request, Out())


def decision_call(payload: bytes) -> Callable[[], Any]:
    """The model alone on the probe's first row: features, model, calibration and bounds in one ONNX Runtime call."""
    import onnx

    from detectors.artefact import Artefact

    artefact = Artefact.load(payload)
    card = {entry.key: entry.value for entry in onnx.load_model_from_string(payload).metadata_props}["card"]
    probe = json.loads(card)["probe"]["inputs"]
    whole = {known.name for known in artefact._session.get_inputs() if known.type == "tensor(int64)"}
    feeds = {name: np.array(probe[name][:1], np.int64 if name in whole else np.float64) for name in artefact.inputs}
    return lambda: artefact.run(feeds)


def worker_call(worker: Any, body: bytes) -> Callable[[], Awaitable[Any]]:
    headers = {"content-type": "application/json"}
    return lambda: worker.request("POST", "http://localhost/api/v1/detect/volume", headers, body)


def library_calls(days: list[Day]) -> list[tuple[str, Callable[[], Any], str]]:
    """The same decision by the libraries themselves: (name, call, the family it is compared with)."""
    import pandas as pd
    from prophet import Prophet
    from sklearn.ensemble import IsolationForest
    from sklearn.neighbors import LocalOutlierFactor
    from sklearn.svm import OneClassSVM

    past = [d for d in days if d.date <= TRAINED_UNTIL]
    frame = pd.DataFrame({"ds": pd.to_datetime([d.date for d in past]), "y": [float(d.rows) for d in past]})
    prophet = Prophet(weekly_seasonality=True, yearly_seasonality=False, interval_width=0.99)
    prophet.add_country_holidays("US")
    prophet.fit(frame)
    day = pd.DataFrame({"ds": [pd.Timestamp(JUDGED)]})
    features = np.random.default_rng(0).normal(size=(330, 8))
    calls: list[tuple[str, Callable[[], Any], str]] = []
    calls.append(("prophet.predict, one day", partial(prophet.predict, day), "prophet"))
    for family, model in (("isolation_forest", IsolationForest(n_estimators=100, random_state=0)),
                          ("one_class_svm", OneClassSVM(nu=0.05)), ("lof", LocalOutlierFactor(novelty=True))):
        model.fit(features)
        calls.append((f"scikit-learn {family}, one row", partial(model.score_samples, features[:1]), family))
    return calls


def load_call(payload: bytes) -> Callable[[], Any]:
    from detectors.artefact import Artefact

    return lambda: Artefact.load(payload)


def timed(call: Callable[[], Any], calls: int) -> Timing:
    for _ in range(max(calls // 20, 3)):
        call()
    taken = np.empty(calls)
    for i in range(calls):
        began = time.perf_counter_ns()
        call()
        taken[i] = time.perf_counter_ns() - began
    return Timing(*(np.quantile(taken, [0.5, 0.99]) / 1e6))


async def timed_async(call: Callable[[], Awaitable[Any]], calls: int) -> Timing:
    for _ in range(max(calls // 20, 3)):
        await call()
    taken = np.empty(calls)
    for i in range(calls):
        began = time.perf_counter_ns()
        await call()
        taken[i] = time.perf_counter_ns() - began
    return Timing(*(np.quantile(taken, [0.5, 0.99]) / 1e6))


def report(name: str, timing: Timing) -> None:
    print(f"{name:44}{timing}", flush=True)


def _seconds(date: str) -> int:
    return int(np.datetime64(f"{date}T23:59:59").astype(np.int64)) + 5 * 3600


if __name__ == "__main__":
    main()
    print(f"\npeak memory of this run: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
