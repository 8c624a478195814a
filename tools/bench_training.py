"""How many tables a minute are trained on two cores: every family of every detector, alone and two at once, as Markdown.

    python -m tools.bench_training [--detectors volume pattern]

One table is a family's whole way, as a training job takes it: back-test, fit, export to ONNX, parity. `auto` is the way of a
table: prepare, every family in turn, compare, choose. The tables are made up and of the usual size; each process trains one
before anything is measured, as a worker does that trains a fleet. Storage has no part in it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from threading import BrokenBarrierError
from typing import Any

from detectors.directory import DETECTORS
from shared.contract import parse
from tools.bench_detectors import TABLES

PROCESSES = 2
WAIT_SECONDS = 600.0  # for the other process
FLEETS = (1_000, 10_000, 100_000)
AUTO = "auto"
_together: Any = None  # the barrier that processes meet at


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one table in one process: seconds on the clock, and of processors (more than one where a library has threads)."""

    clock: float
    processor: float


@dataclass(frozen=True, slots=True)
class Throughput:
    """What a family takes: alone, and when every process trains one."""

    detector: str
    family: str
    alone: Cost
    together: Sequence[Cost]

    @property
    def a_minute(self) -> tuple[float, float]:
        """Tables by one process alone, and by all together."""
        return 60 / self.alone.clock, sum(60 / cost.clock for cost in self.together)

    @property
    def processor(self) -> float:
        """Seconds a table, while every core is busy."""
        return sum(cost.processor for cost in self.together) / len(self.together)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.bench_training", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detectors", nargs="+", choices=TABLES, default=list(TABLES))
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # a process a core: threads of one would take from the other
    found = []
    print("| training | processor, s a table | tables a minute, one process | two processes |\n|---|---|---|---|")
    for name in args.detectors:
        for throughput in measured(name):
            found.append(throughput)
            one, two = throughput.a_minute
            whole = throughput.family == AUTO
            title = f"**{name}, {TABLES[name].title}: auto**" if whole else f"{name}: {throughput.family}"
            print(f"| {title} | {throughput.processor:.2f} | {one:.1f} | {two:.1f} |", flush=True)
    print("\n| core-hours a week, `auto` | " + " | ".join(f"{fleet:,} tables" for fleet in FLEETS) + " |")
    print("|---|" + "---|" * len(FLEETS))
    for throughput in found:
        if throughput.family == AUTO:
            hours = (throughput.processor * fleet / 3600 for fleet in FLEETS)
            print(f"| {throughput.detector} | " + " | ".join(f"{hour:,.1f}" for hour in hours) + " |")


def measured(detector: str) -> Iterator[Throughput]:
    """Every family and `auto`; a family that cannot be trained here is left out."""
    context = get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    with ProcessPoolExecutor(PROCESSES, context, _meet_at, (barrier,)) as pool:
        def together(seed: int) -> list[dict[str, Cost]]:
            runs = [pool.submit(train, detector, seed + number, True) for number in range(PROCESSES)]
            return [run.result() for run in runs]

        together(0)  # imports, first compilations, and every process has begun
        alone = pool.submit(train, detector, PROCESSES, False).result()
        side_by_side = together(PROCESSES + 1)
    for family, cost in alone.items():
        yield Throughput(detector, family, cost, [costs[family] for costs in side_by_side])


def train(detector: str, seed: int, meets: bool) -> dict[str, Cost]:
    """What one made-up table costs, by family and in all; `meets` begins when the other processes do."""
    warnings.simplefilter("ignore")
    table, trainer = TABLES[detector], import_module(f"training.{detector}_anomaly")
    body = {"table_id": "bench", "training_days": 400, table.history: table.entries(seed, table.known), **dict(table.more)}
    request: Any = parse(DETECTORS[detector].train_request, json.dumps(body).encode(), 2**30)
    if meets:
        try:
            _together.wait(WAIT_SECONDS)
        except BrokenBarrierError:
            raise RuntimeError("The other process did not begin.") from None
    costs, began = {}, _now()
    prepared, rivals = trainer.prepare(request, None), []
    for family in trainer.FAMILIES:
        start = _now()
        rivals.append(trainer.fit_candidate(prepared, family))
        if rivals[-1].payload is not None:
            costs[family] = _since(start)
    trainer.choose(trainer.compare(rivals))
    return costs | {AUTO: _since(began)}


def _meet_at(barrier: Any) -> None:
    global _together
    _together = barrier


def _now() -> Cost:
    return Cost(time.perf_counter(), time.process_time())


def _since(start: Cost) -> Cost:
    now = _now()
    return Cost(now.clock - start.clock, now.processor - start.processor)


if __name__ == "__main__":
    main()
