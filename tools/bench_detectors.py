"""Every detector with each of its families: training one table, the artefact, its parity, and one warm decision in process.

    python -m tools.bench_detectors [--calls 200] [--detectors volume pattern ...]

The ONNX call is the whole decision of a model: features, model, calibration and bounds. `detect` is what the service does
with it: looks up in memory what is known of the table, prepares the values, makes the ONNX call, puts the answer into words.
The tables are made up; distribution has 100 columns and pattern 10,000 values a call.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from typing import Any

from detectors.directory import DETECTORS
from shared.catalogue import Catalogue
from shared.contract import parse
from shared.errors import ServiceError
from shared.settings import Settings
from tools.azurite import Azurite, free_ports
from tools.bench import decision_call, timed
from tools.made_up import Entry, arrivals, batches, counts, hours, profiles

NOW = datetime(2027, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Table:
    """`known` points of made-up history, as observations and as a training request wants them, and one point to judge."""

    title: str
    known: int
    entries: Callable[[int, int], list[Entry]]
    judged: Callable[[Entry], Entry]
    history: str = "historical_data"
    more: tuple[tuple[str, Any], ...] = ()
    row: Callable[[Entry], Entry] = dict


TABLES = {
    "volume": Table("180 days", 180, counts, lambda e: {"timestamp": e["timestamp"], "current_row_count": e["row_count"]}),
    "timeliness": Table("180 loads", 180, arrivals, lambda e: {"as_of": e["timestamp"], "last_arrival": e["timestamp"]}),
    "distribution": Table("60 profiles of 100 columns", 60, lambda seed, n: profiles(seed, n, 100),
                          lambda e: {"current_profile": e}, "historical_profiles", row=lambda e: {"profile": e}),
    "pattern": Table("10 batches of 10,000 values", 10, lambda seed, n: batches(seed, n, 10_000), dict,
                     more=(("column", "order_id"),)),
    "sequence": Table("70 days of hours", 70 * 24, hours, lambda e: {"points": [e]}, more=(("metrics", ["orders"]),),
                      row=lambda e: e | {"values": {"orders": e["values"][0]}}),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.bench_detectors", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200, help="decisions per figure (200)")
    parser.add_argument("--detectors", nargs="+", choices=TABLES, default=list(TABLES))
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # the libraries' own, of training
    ports = free_ports(3)
    print(f"{'detector and family':40}{'training s':>11}{'KiB':>8}{'parity':>9}{'ONNX ms':>9}{'detect ms':>10}{'p99':>8}")
    with Azurite(ports=(ports[0], ports[1], ports[2])) as azurite:
        for name in args.detectors:
            catalogue = Catalogue(Settings(connection_string=azurite.connection_string(), recheck_seconds=3600))
            for line in measure(name, catalogue, args.calls):
                print(line, flush=True)


def measure(name: str, catalogue: Catalogue, calls: int) -> Iterator[str]:
    """A line for the statistical baseline and one for each family."""
    table, detector = TABLES[name], DETECTORS[name]
    trainer: Any = import_module(f"training.{name}_anomaly")
    *history, point = table.entries(0, table.known + 1)
    yield f"{name}, {table.title}"
    about = dict(table.more)
    for family in (None, *trainer.FAMILIES):
        table_id = family or "baseline"
        rows = [{"detector": name, "table_id": table_id, **about, **table.row(entry)} for entry in history]
        detector.load([parse(detector.row, json.dumps(row).encode(), 2**26) for row in rows], catalogue)
        trained = ""
        if family is not None:
            body = {"table_id": table_id, "training_days": 400, table.history: history, **about}
            request = parse(detector.train_request, json.dumps(body).encode(), 2**30)
            candidate = trainer.fit_candidate(trainer.prepare(request, None), family)
            figures = candidate.figures
            if candidate.payload is None:
                yield f"    {family:36} {figures['error']}"
                continue
            model = detector.model_name(request)
            version = catalogue.registry.publish(model, candidate.payload, candidate.card).version
            catalogue.registry.promote(model, version, reason="benchmark")
            alone = timed(decision_call(candidate.payload), calls).p50
            trained = (f"{figures['seconds']:11.2f}{len(candidate.payload) / 1024:8.1f}"
                       f"{figures['parity']['max_difference']:9.0e}{alone:9.3f}")
        body = {"table_id": table_id, **about, **table.judged(point), "record": False}
        asked = parse(detector.request, json.dumps(body).encode(), 2**26)
        try:
            taken = timed(partial(detector.detect, asked, catalogue, NOW), calls)
        except ServiceError as error:
            yield f"    {family or 'baseline':36}{trained:37} {error.message}"
            continue
        yield f"    {family or 'baseline, no model':36}{trained:37}{taken.p50:10.3f}{taken.p99:8.2f}"


if __name__ == "__main__":
    main()
