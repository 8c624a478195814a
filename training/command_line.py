"""`python -m training.train_{detector}_anomaly`: from a file or the stored history to a model, without the service.

The same steps as a training job: prepare, back-test and fit every family, compare, choose, publish. What was found goes to
standard output, progress and errors to standard error. Training packages are loaded once the arguments are right.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, get_args
from zoneinfo import ZoneInfo

from pydantic import BaseModel

from detectors.directory import detector as detector_of
from shared.contract import parse
from shared.errors import InvalidRequest, ServiceError
from shared.settings import InvalidSetting
from training import data_files
from training.data_files import Columns, Told

NOTHING_TRAINED, WRONG_USE = 1, 2
MOST_BYTES = 2**30  # of a training request
LONGEST_DAYS = 3660  # that one may look back
TABLES = "; CSV, Parquet, NDJSON or JSON"
FILES = {"volume": f"a time and a count a row{TABLES}", "timeliness": f"the time of a load a row{TABLES}",
         "sequence": f"a time and metrics a row{TABLES}", "pattern": f"a value a row{TABLES}",
         "distribution": "a profile a row; NDJSON, JSON or Parquet"}


def main(detector: str, arguments: Sequence[str] | None = None) -> int:
    """0 where a model was trained, and kept as asked; 1 where none could be; 2 for a wrong argument or file."""
    parser = parser_of(detector)
    options = parser.parse_args(arguments)
    if problem := _misused(options):
        parser.error(problem)
    warnings.simplefilter("ignore")  # of the libraries: what came of it is told by the figures
    try:
        told = _read(detector, options)
        request = _request(detector, options, told)
    except InvalidRequest as error:
        print(error.message, file=sys.stderr)
        return WRONG_USE
    for remark in told.remarks:
        print(remark, file=sys.stderr)
    try:
        outcome = train(detector, request, options)
    except (ServiceError, InvalidSetting, OSError) as error:
        print(error, file=sys.stderr)
        return WRONG_USE if isinstance(error, InvalidSetting) else NOTHING_TRAINED
    print(_json(outcome) if options.json else "\n".join(words(outcome)))
    return 0


def parser_of(detector: str) -> argparse.ArgumentParser:
    """The arguments for one detector: only what its training request knows."""
    fields = detector_of(detector).train_request.model_fields
    families = _choices(fields["algorithm"].annotation)
    parser = argparse.ArgumentParser(
        prog=f"python -m training.train_{detector}_anomaly",
        description=f"Trains the {detector} model of a table: every family is back-tested on held-out data with injected "
                    "faults, fitted, and exported to ONNX; the best is chosen.",
        epilog="Storage is that of the environment: DATA_STORAGE or STORAGE_CONNECTION_STRING. Exit status: 0 trained, and "
               "kept as asked; 1 nothing could be trained or registered; 2 a wrong argument or file.")
    parser.add_argument("--table-id", required=True, metavar="ID")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, metavar="FILE", help=FILES[detector])
    source.add_argument("--from-history", action="store_true", help="learn from what the service has stored of the table")
    parser.add_argument("--algorithm", default="auto", metavar="FAMILY", choices=families,
                        help=f"one of {', '.join(families[1:])}; auto tries them all (auto)")
    parser.add_argument("--training-days", type=int, metavar="DAYS",
                        help="how far to look back (all of a file, HISTORY_DAYS of the stored history)")
    parser.add_argument("--timezone", metavar="ZONE", type=_zone, help="the table's own, such as Europe/Berlin (UTC)")
    if "granularity" in fields:
        parser.add_argument("--granularity", choices=_choices(fields["granularity"].annotation),
                            help=f"of the buckets ({fields['granularity'].default})")
    if "holidays" in fields:
        parser.add_argument("--country", metavar="CODE", help="whose public holidays to know, such as US")
        parser.add_argument("--subdivision", metavar="CODE", help="of the country, such as CA")
    if "schedule" in fields:
        parser.add_argument("--schedule", metavar="CRON", help="when loads are due (learnt from the arrivals)")
    if "metrics" in fields:
        parser.add_argument("--metrics", default="", metavar="A,B", help="which columns or stored metrics (all)")
    if "column" in fields:
        parser.add_argument("--column", default="value", metavar="NAME", help="the column that the values are of (value)")
    if detector == "volume":
        parser.add_argument("--value-column", metavar="NAME", help=f"of the file ({', '.join(data_files.COUNTS)})")
    parser.add_argument("--time-column", metavar="NAME", help="of the file (timestamp, date and the like)")
    parser.add_argument("--encoding", default="utf-8", help="of a CSV file (utf-8)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the chosen model there, as ONNX")
    parser.add_argument("--register", action="store_true", help="publish the chosen model as a new version")
    parser.add_argument("--promote", choices=("if_better", "always", "never"),
                        help="whether a registered model becomes the champion (if_better)")
    parser.add_argument("--json", action="store_true", help="the outcome as JSON")
    return parser


def train(detector: str, request: Any, options: argparse.Namespace) -> dict[str, Any]:
    """What was learnt from, every candidate's figures, which was chosen, and what became of it.

    Raises InvalidRequest where nothing could be trained, StorageUnavailable, InvalidSetting.
    """
    from tqdm import tqdm

    from shared.worker import history, registry
    from training import azure_ml, promotion
    from training.candidates import rivals

    trainer: Any = import_module(f"training.{detector}_anomaly")
    name = detector_of(detector).model_name(request)
    if options.from_history:
        request = _settled(detector, request)
    store = registry() if options.register else None
    if store is not None:
        store.champion(name)  # storage that does not answer is told before the work
    prepared = trainer.prepare(request, history() if options.from_history else None)
    fitted = []
    with tqdm(rivals(request.algorithm, trainer.FAMILIES, name, store), unit="family", desc=request.table_id) as bar:
        for family in bar:
            bar.set_postfix_str(family)
            fitted.append(trainer.fit_candidate(prepared, family))
    compared = trainer.compare(fitted)
    registered = None
    if store is not None:
        registered = promotion.conclude(trainer, prepared, fitted, name, request, store)
        registered["registration"] = azure_ml.mirror(name, store, registered["challenger"]["version"])
        chosen = registered["challenger"]["algorithm"]
    else:
        chosen = trainer.choose(compared, request.algorithm).algorithm
    if options.out:
        options.out.write_bytes(next(candidate.payload for candidate in fitted if candidate.algorithm == chosen))
    return {"detector": detector, "table_id": request.table_id, "model_name": name, "history": prepared.facts(),
            "candidates": [candidate.figures for candidate in compared], "chosen": chosen,
            "file": str(options.out) if options.out else None, "registered": registered}


def words(outcome: dict[str, Any]) -> list[str]:
    """The outcome as a table and a few sentences, for people."""
    history, chosen = outcome["history"], outcome["chosen"]
    stretch = f", {history['from'][:10]} to {history['to'][:10]}" if history["from"] else ""
    lines = [f"The {outcome['detector']} of {outcome['table_id']}: {history['used']:,} of {history['points']:,} points are "
             f"learnt from{stretch}", "",
             f"  {'family':24}{'F1':>7}{'precision':>11}{'recall':>8}{'FPR':>8}{'seconds':>9}{'KiB':>8}{'parity':>9}"]
    lines += [f"{'*' if figures['algorithm'] == chosen else ' '} {_line(figures)}" for figures in outcome["candidates"]]
    lines += ["", f"Chosen: {chosen}"]
    if outcome["file"]:
        lines.append(f"Written to {outcome['file']}")
    if registered := outcome["registered"]:
        lines.append(f"Registered as {outcome['model_name']}, version {registered['challenger']['version']}, and "
                     f"{registered['decision']}: {registered['reason']}")
        lines.append(f"Azure ML: {registered['registration']['status']}. {registered['registration']['reason']}")
    elif not outcome["file"]:
        lines.append("Nothing was kept: --out writes the model to a file, --register publishes it")
    return lines


def _line(figures: dict[str, Any]) -> str:
    """One family: its figures, or why it has none."""
    quality = figures.get("quality")
    if quality is None or "error" in figures:
        return f"{figures['algorithm']:24}  {figures['error']}"
    rates = f"{quality['f1']:7.3f}{quality['precision']:11.3f}{quality['recall']:8.3f}{quality['fpr']:8.4f}"
    return (f"{figures['algorithm']:24}{rates}{figures['seconds']:9.2f}{figures['artefact_bytes'] / 1024:8.0f}"
            f"{figures['parity']['max_difference']:9.0e}")


def _settled(detector: str, request: Any) -> Any:
    """Where the arguments say nothing, what the weekly run would take: settings of the table, or of its champion."""
    from shared.contract_retraining import RetrainRequest
    from shared.worker import catalogue, registry, tables
    from training.targets import Target, train_request

    target = Target(detector, request.table_id, getattr(request, "column", None))
    usual = train_request(target, RetrainRequest(), tables().get(request.table_id), registry(),
                          catalogue().settings.history_days)
    return usual.model_copy(update={name: getattr(request, name) for name in request.model_fields_set})


def _json(outcome: dict[str, Any]) -> str:
    """JSON has no NaN: what could not be measured is null."""
    return json.dumps(json.loads(json.dumps(outcome), parse_constant=lambda _: None))


def _misused(options: argparse.Namespace) -> str | None:
    """What is wrong with the arguments together, None where nothing is."""
    if options.promote and not options.register:
        return "--promote needs --register"
    if options.out and not options.out.parent.is_dir():
        return f"--out: there is no folder {options.out.parent}"
    return f"--out: {options.out} is a folder" if options.out and options.out.is_dir() else None


def _read(detector: str, options: argparse.Namespace) -> Told:
    given = vars(options)
    metrics = [name.strip() for name in (given.get("metrics") or "").split(",") if name.strip()]
    if options.data is None:
        return Told("", {"metrics": metrics} if metrics else {}, ())
    columns = Columns(options.time_column, given.get("value_column") or given.get("column"), metrics)
    return data_files.read(detector, options.data, columns, options.timezone or "UTC", options.encoding)


def _request(detector: str, options: argparse.Namespace, told: Told) -> BaseModel:
    """The training request that these arguments and this file make. Raises InvalidRequest."""
    given = vars(options)
    holidays = {name: given[name] for name in ("country", "subdivision") if given.get(name)}
    plain = ("table_id", "algorithm", "training_days", "timezone", "granularity", "column", "promote")
    fields = {name: given.get(name) for name in plain}
    if options.data and options.training_days is None:
        fields["training_days"] = LONGEST_DAYS
    fields |= {"holidays": holidays or None, "schedule": {"cron": given["schedule"]} if given.get("schedule") else None}
    body = told.fields | {name: value for name, value in fields.items() if value is not None}
    try:
        return parse(detector_of(detector).train_request, json.dumps(body).encode(), MOST_BYTES)
    except InvalidRequest as error:
        raise told.located(error) from None


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise argparse.ArgumentTypeError(f"{name} is no time zone of the IANA database") from None
    return name


def _choices(annotation: Any) -> tuple[str, ...]:
    """The values of a Literal, also of a named one."""
    return get_args(getattr(annotation, "__value__", annotation))
