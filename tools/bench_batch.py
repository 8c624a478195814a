"""Measures batches: how many tables are scored a second, in how much memory, and how that grows with their number.

    python -m tools.bench_batch [--tables 10000] [--models 1000] [--histories 300] [--libraries 100]

Storage is an Azurite beside it, on the same machine. Processor seconds are those of the service alone; where others use the
machine too, they say more than the clock. The full run is `--tables 100000 --models 10000`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import batched
from multiprocessing import get_context
from typing import Any

import numpy as np

from detectors import fleet, many, stacks, volume
from detectors.context import FloatArray
from detectors.directory import DETECTORS
from detectors.replays import Replays
from shared.catalogue import Catalogue, Loaded
from shared.contract import VolumeRequest
from shared.history import Point, Series
from shared.settings import Settings
from tools.azurite import Azurite, free_ports

DAYS, KINDS, TRAINED = 60, 500, 8
FIRST = datetime(2026, 6, 1, 2, tzinfo=UTC)
TOGETHER = 5000  # items of one call, as many as an activity of a batch may get
ALONE = 20
WEEK = np.array([1.0, 1.1, 1.1, 1.05, 0.9, 0.4, 0.3])
NOW = datetime(2026, 9, 1, tzinfo=UTC)


class InMemory(Catalogue):
    """Knows the tables' histories, so that the time of scoring is not that of reading them; `days` of them."""

    def __init__(self, settings: Settings, with_models: bool) -> None:
        super().__init__(settings)
        self.days, self._with_models = DAYS, with_models
        self._seconds = np.array([int((FIRST + timedelta(days=i)).timestamp()) for i in range(DAYS + 2)])
        self._fine = np.zeros(DAYS + 2, np.uint8)

    def series(self, detector: str, table_id: str, until: datetime | None = None) -> Series:
        return Series(self._seconds[: self.days], counts(table_id)[: self.days], self._fine[: self.days])

    def model(self, name: str) -> Loaded | None:
        return super().model(name) if self._with_models else None


class Meter:
    """Prints a line for each step: while it runs on a terminal, and when it is done."""

    def __init__(self) -> None:
        print(f"{'':58}{'items/s':>9}{'seconds':>9}{'processor':>10}{'peak MiB':>9}")

    def __call__(self, name: str, items: int, parts: Iterator[int]) -> tuple[float, float]:
        """Runs `parts`, each telling how many items it was; returns seconds and processor seconds of all."""
        began, processor, done = time.perf_counter(), processor_seconds(), 0
        for some in parts:
            done += some
            if sys.stderr.isatty():
                print(f"\r{name}: {done:,} of {items:,}", end="\033[K", file=sys.stderr, flush=True)
        if sys.stderr.isatty():
            print("\r", end="\033[K", file=sys.stderr)
        seconds, processor = time.perf_counter() - began, processor_seconds() - processor
        print(f"{name:58}{items / seconds:9,.0f}{seconds:9.1f}{processor:10.1f}{peak_mib():9.0f}", flush=True)
        return seconds, processor


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.bench_batch", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=10_000, help="tables without a model, at most (10000)")
    parser.add_argument("--models", type=int, default=1_000, help="tables with a model of their own (1000)")
    parser.add_argument("--histories", type=int, default=300, help="tables whose history is read from storage (300)")
    parser.add_argument("--libraries", type=int, default=100, help="tables that the libraries judge (100)")
    args = parser.parse_args()
    meter = Meter()
    blob, queue, table = free_ports(3)
    with Azurite(ports=(blob, queue, table)) as azurite:
        settings = Settings(connection_string=azurite.connection_string(), recheck_seconds=3600)
        cold, warm = without_models(settings, args.tables, meter)
        own = own_models(settings, args.models, meter)
        histories(settings, args.histories, meter)
    libraries(args.libraries, meter, {"history replayed": cold, "states of last night": warm, "own model, cold": own})


def without_models(settings: Settings, most: int, meter: Meter) -> tuple[float, float]:
    """The structural filter on stored states; processor seconds a table, of the first night and of the next."""
    catalogue = InMemory(settings, with_models=False)
    meter("one by one, histories replayed", ALONE, one_by_one(catalogue, names("alone", ALONE)))
    first = second = 0.0
    for size in [n for n in (1_000, 10_000, 100_000, 1_000_000) if n < most] + [most]:
        tables = names(f"fleet{size}", size)
        for night, days in (("first night, histories replayed", DAYS), ("next night, on stored states", DAYS + 1)):
            catalogue.days, volume.replays = days, Replays()
            _, processor = meter(f"{size:,} tables, {night}", size, together(catalogue, tables))
            first, second = (processor / size, second) if days == DAYS else (first, processor / size)
        meter(f"{size:,} tables, the judging of stacked states alone", size, judging(size))
    print(f"1,000,000 tables, at these rates: {first * 1e6 / 60:.0f} processor minutes the first night, "
          f"{second * 1e6 / 60:.0f} the next")
    return first, second


def own_models(settings: Settings, size: int, meter: Meter) -> float:
    """Tables with a champion of their own, cold: pointer and file read, verified, loaded, judged. Processor seconds each."""
    tables = names("own", size)
    meter(f"{size:,} models put into storage", size, published(Catalogue(settings), tables))
    catalogue = InMemory(settings, with_models=True)
    meter("one by one, cold", min(ALONE, size), one_by_one(catalogue, tables[:ALONE]))
    catalogue = InMemory(settings, with_models=True)
    _, processor = meter(f"{size:,} tables with own models, cold", size, together(catalogue, tables, min(TOGETHER, 500)))
    print(f"in memory then: {catalogue.status()['models']}")
    return processor / size


def histories(settings: Settings, size: int, meter: Meter) -> None:
    """Histories in Table storage, as a batch reads them: one query a table, several at a time."""
    tables, catalogue = names("stored", size), Catalogue(settings)
    days = [FIRST + timedelta(days=i) for i in range(DAYS)]
    points = {table: [Point(day, count) for day, count in zip(days, counts(table), strict=False)] for table in tables}
    catalogue.history.record_many("volume", points)
    for threads in (1, many.CONNECTIONS):
        fresh = Catalogue(settings)
        with ThreadPoolExecutor(threads) as pool:
            read = pool.map(partial(fresh.series, "volume"), tables)
            meter(f"{size:,} histories of {DAYS} points read, {threads} at a time", size, (1 for _ in read))


def libraries(size: int, meter: Meter, ours: dict[str, float]) -> None:
    """Plain Python: a model for each table fitted to its history and asked once, and a fitted one asked once."""
    import pandas as pd
    from prophet import Prophet
    from sklearn.ensemble import IsolationForest

    tables = names("plain", size)
    dates = pd.to_datetime([(FIRST + timedelta(days=i)).date() for i in range(DAYS + 1)])
    fitted: list[Any] = []

    def prophet(table: str) -> None:
        model = Prophet(weekly_seasonality=True, yearly_seasonality=False, interval_width=0.99)
        fitted.append(model.fit(pd.DataFrame({"ds": dates[:-1], "y": counts(table)[:DAYS]})))

    def forest(table: str) -> None:
        logs = np.log1p(counts(table)[: DAYS + 1])
        rows = np.stack([logs[7:], logs[6:-1], logs[:-7]], axis=1)
        IsolationForest(n_estimators=100, random_state=0).fit(rows[:-1]).score_samples(rows[-1:])

    day = pd.DataFrame({"ds": dates[-1:]})
    for name, calls in (("prophet, fit", (partial(prophet, t) for t in tables)),
                        ("prophet, predict", (partial(m.predict, day) for m in fitted)),
                        ("scikit-learn isolation forest, fit and score", (partial(forest, t) for t in tables))):
        _, processor = meter(f"{size:,} tables, {name}", size, _each(calls))
        ratios = ", ".join(f"{processor / size / own:,.0f} times {what}" for what, own in ours.items())
        print(f"    processor time against ours: {ratios}")


def names(prefix: str, size: int) -> list[str]:
    """Tables in the order in which they share states."""
    return sorted((f"{prefix}-{i}" for i in range(size)), key=stacks.shard)


_rng = np.random.default_rng(1)
_KINDS = np.exp(_rng.normal(8, 1, size=(KINDS, 1))) * WEEK[np.arange(DAYS + 2) % 7]
_KINDS = np.round(_KINDS * np.exp(_rng.normal(0, 0.05, size=_KINDS.shape)))


def counts(table: str) -> FloatArray:
    """Its rows on every day: a weekly pattern with noise, of a size of its own."""
    number = int(table.rpartition("-")[2])
    found: FloatArray = _KINDS[number % KINDS] + number // KINDS
    return found


def requests(catalogue: InMemory, tables: Sequence[str]) -> list[VolumeRequest]:
    """The day after each table's history."""
    at, day = (FIRST + timedelta(days=catalogue.days)).isoformat(), catalogue.days
    return [VolumeRequest(table_id=t, timestamp=at, current_row_count=float(counts(t)[day])) for t in tables]  # type: ignore[arg-type]


def together(catalogue: InMemory, tables: Sequence[str], size: int = TOGETHER) -> Iterator[int]:
    for some in batched(tables, size, strict=False):
        outcomes = many.score("volume", requests(catalogue, some), catalogue, NOW)
        if errors := [outcome.error for outcome in outcomes if outcome.error]:
            print(f"{len(errors)} items could not be judged: {errors[0]}")
        yield len(outcomes)


def one_by_one(catalogue: InMemory, tables: Sequence[str]) -> Iterator[int]:
    for request in requests(catalogue, tables):
        DETECTORS["volume"].detect(request, catalogue, NOW)
        yield 1


def judging(size: int) -> Iterator[int]:
    """What scoring comes to once states and counts are there: verdicts on many tables in one pass."""
    start, none = 20_000, np.zeros(DAYS, np.int64)
    pasts = [fleet.Past(start, counts(f"t-{i}")[:DAYS], none) for i in range(min(size, KINDS))]
    known = fleet.replay(pasts, "daily")
    for some in batched(range(size), TOGETHER, strict=False):
        asked = [fleet.Asked(known[i % len(known)], start + DAYS, 0, float(counts(f"t-{i}")[DAYS]), 0.99) for i in some]
        yield len(fleet.judge(asked, "daily"))


def published(catalogue: Catalogue, tables: Sequence[str]) -> Iterator[int]:
    """A champion for each table, of one of a few trained models, with a file of its own: written as the registry writes."""
    with ProcessPoolExecutor(1, get_context("spawn")) as alone:
        files = alone.submit(trained).result()
    container = catalogue.settings.models_container
    catalogue.registry.publish("bench", b"", {})  # makes the container

    def put(i: int) -> int:
        name = volume.model_name(tables[i])
        file = files[i % len(files)].replace(b'"name": "a-table-0000000"', f'"name": "a-table-{i:07d}"'.encode())
        digest = hashlib.sha256(file).hexdigest()
        pointer = {"version": "1", "sha256": digest, "promoted_at": "", "reason": "", "previous": []}
        catalogue.blobs.put(container, f"{name}/1/model.onnx", file)
        catalogue.blobs.put(container, f"{name}/champion.json", json.dumps(pointer).encode())
        return 1

    with ThreadPoolExecutor(many.CONNECTIONS) as pool:
        yield from pool.map(put, range(len(tables)))


def trained() -> list[bytes]:
    """Files of a few tables; in a process of its own, so that the memory of training is not taken for that of scoring."""
    from training import backtest, decision
    from training.calibration import Calibration
    from training.series import TrainingSeries

    files, start = [], (FIRST.date() - datetime(1970, 1, 1).date()).days
    for i in range(TRAINED):
        family = ("seasonal_decomposition", "arima", "prophet")[i % 3]
        series = TrainingSeries(start, counts(f"t-{i}")[:DAYS], np.zeros(DAYS, np.int64))
        fitted = backtest.fit(family, series)
        raw = decision.forecaster_scores(fitted, decision.judged(series, series.time[-30:], fitted.window))
        card = {"name": "a-table-0000000", "timezone": "UTC", "holidays": {}}
        files.append(backtest.export(family, fitted, Calibration.fit(raw), series, card))
    return files


def processor_seconds() -> float:
    """Of this process and of what it started and waited for: prophet fits in a program of its own."""
    both = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _each(calls: Iterator[Callable[[], Any]]) -> Iterator[int]:
    for call in calls:
        call()
        yield 1


if __name__ == "__main__":
    main()
