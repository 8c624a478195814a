"""`python -m training.train_{detector}_anomaly`: what it reads, says, writes and registers, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from detectors.artefact import Artefact
from detectors.directory import DETECTORS
from shared import worker
from shared.contract import parse
from tests.conftest import ROOT
from tools.made_up import Entry, arrivals, batches, counts, hours, profiles
from training.command_line import NOTHING_TRAINED, WRONG_USE, main

BASELINES = {"volume": "structural", "distribution": "conditional_residual", "pattern": "formats",
             "timeliness": "lag_filter", "sequence": "hypothesis_filter"}
MADE: dict[str, list[Entry]] = {
    "volume": counts(1, 63), "timeliness": arrivals(1, 60), "distribution": profiles(1, 40), "pattern": batches(1, 8),
    "sequence": hours(1, 24 * 32)}
NOW = datetime(2026, 9, 1, tzinfo=UTC)


@pytest.fixture
def environment(storage: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The storage account that this process takes for its own."""
    monkeypatch.setenv("DATA_STORAGE", storage)
    monkeypatch.setenv("RECHECK_SECONDS", "0")
    forget()
    yield storage
    forget()


def forget() -> None:
    """What this process holds of a storage account."""
    for held in (worker.catalogue, worker.tables):
        held.cache_clear()


def written(path: Path, detector: str) -> Path:
    """What was made up, in the file that a user would have."""
    entries = MADE[detector]
    if detector == "distribution":
        path = path / "profiles.ndjson"
        path.write_text("\n".join(map(json.dumps, entries)))
        return path
    header, values = {"volume": (("date", "rows"), lambda e: [e["row_count"]]),
                      "timeliness": (("arrived_at", "source"), lambda e: ["sap"]),
                      "sequence": (("time", "orders"), lambda e: e["values"]),
                      "pattern": (("timestamp", "order_id"), lambda e: e["values"])}[detector]
    path = path / f"{detector}.csv"
    with path.open("w", newline="") as lines:
        csv.writer(lines).writerows([header, *((entry["timestamp"], v) for entry in entries for v in values(entry))])
    return path


def more(detector: str) -> list[str]:
    """The fast family, and of pattern the column."""
    return ["--algorithm", BASELINES[detector], *(["--column", "order_id"] if detector == "pattern" else [])]


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_file_becomes_a_model_with_its_figures_in_a_table(
        detector: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.onnx"

    code = main(detector, ["--table-id", "orders", "--data", str(written(tmp_path, detector)), "--out", str(out),
                           *more(detector)])

    said = capsys.readouterr()
    assert code == 0, said.err
    card = Artefact.load(out.read_bytes()).card
    assert (card["algorithm"], card["name"].startswith(f"{detector}-anomaly.orders")) == (BASELINES[detector], True)
    lines = said.out.splitlines()
    row = next(line for line in lines if BASELINES[detector] in line)
    assert row.startswith(f"* {BASELINES[detector]}") and 0 < float(row.split()[2]) <= 1, said.out
    assert f"Chosen: {BASELINES[detector]}" in lines and f"Written to {out}" in lines
    assert "1/1" in said.err


@pytest.mark.parametrize("detector", DETECTORS)
def test_the_stored_history_becomes_a_champion_that_answers(
        detector: str, environment: str, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue, kind = worker.catalogue(), DETECTORS[detector]
    *known, point = MADE[detector]
    about: dict[str, Any] = {"column": "order_id"} if detector == "pattern" else {}
    shapes = {"distribution": lambda e: {"profile": e}, "sequence": lambda e: {**e, "values": {"orders": e["values"][0]}}}
    rows = [{"detector": detector, "table_id": "orders", **about, **shapes.get(detector, dict)(entry)} for entry in known]
    kind.load([parse(kind.row, json.dumps(row).encode()) for row in rows], catalogue)
    worker.tables().put("orders", {"settings": {"timezone": "Africa/Nairobi"}})

    code = main(detector, ["--table-id", "orders", "--from-history", "--register", "--json", *more(detector)])

    said = json.loads(capsys.readouterr().out)
    assert code == 0 and said["registered"]["decision"] == "promoted"
    judged: Any = {"volume": lambda: {"current_row_count": point["row_count"], "timestamp": point["timestamp"]},
                   "timeliness": lambda: {"as_of": point["timestamp"], "last_arrival": point["timestamp"]},
                   "distribution": lambda: {"current_profile": point}, "pattern": lambda: point,
                   "sequence": lambda: {"points": [point], "metrics": ["orders"]}}[detector]()
    asked = parse(kind.request, json.dumps({"table_id": "orders", **about, **judged}).encode())
    answer = kind.detect(asked, catalogue, NOW)
    assert answer.status == "evaluated" and not answer.is_anomaly
    assert (answer.model.name, answer.model.version) == (said["model_name"], "1")
    assert answer.model.sha256 == said["registered"]["artifact"]["sha256"]
    assert catalogue.registry.manifest(said["model_name"], "1").card["timezone"] == "Africa/Nairobi"


def test_the_module_is_run_as_a_command_with_storage_from_the_environment(storage: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "training.train_volume_anomaly", "--table-id", "orders", "--data",
               str(written(tmp_path, "volume")), "--algorithm", "structural", "--register", "--json"]

    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100,
                         env={"PATH": os.environ["PATH"], "STORAGE_CONNECTION_STRING": storage})

    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert (said["chosen"], said["registered"]["champion"]) == ("structural", "1")
    assert said["model_name"] == "volume-anomaly.orders" and said["registered"]["registration"]["status"] == "skipped"


def test_registering_does_not_promote_where_that_is_asked(
        environment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--table-id", "orders", "--data", str(written(tmp_path, "pattern")), "--register", *more("pattern")]

    codes = [main("pattern", [*arguments, "--promote", promote]) for promote in ("never", "always", "never")]

    registry, name = worker.registry(), "pattern-anomaly.orders.order_id"
    [name] = list(registry.names("pattern-anomaly.orders"))
    champion = registry.champion(name)
    assert codes == [0, 0, 0] and registry.versions(name) == ["1", "2", "3"] and champion and champion.version == "2"
    assert f"Registered as {name}, version 3, and kept: " in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "told"), [
    (["--from-history"], "There is no history of orders"), (["--data", "short"], "needs 42 usable points")])
def test_a_table_with_too_little_history_is_told_so(
        arguments: list[str], told: str, environment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = tmp_path / "short.csv"
    short.write_text("date,rows\n2026-01-01,5\n2026-01-02,6\n")

    code = main("volume", ["--table-id", "orders", "--algorithm", "structural",
                           *(str(short) if argument == "short" else argument for argument in arguments)])

    assert (code, told in (said := capsys.readouterr().err)) == (NOTHING_TRAINED, True), said


def test_storage_that_is_not_set_is_told_before_the_training(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("DATA_STORAGE", "STORAGE_CONNECTION_STRING", "AzureWebJobsStorage"):
        monkeypatch.delenv(name, raising=False)
    forget()

    code = main("volume", ["--table-id", "orders", "--data", str(written(tmp_path, "volume")), "--register"])

    assert code == NOTHING_TRAINED
    assert capsys.readouterr().err.startswith("The app setting DATA_STORAGE is missing: set it to a storage connection")


@pytest.mark.parametrize("arguments", [
    [], ["--table-id", "orders"], ["--table-id", "orders", "--data", "a.csv", "--from-history"],
    ["--table-id", "orders", "--from-history", "--promote", "always"],
    ["--table-id", "orders", "--from-history", "--algorithm", "lstm"],
    ["--table-id", "orders", "--from-history", "--timezone", "Mars/Olympus"],
    ["--table-id", "orders", "--from-history", "--out", "/no/such/folder/model.onnx"],
], ids=["nothing", "no source", "two sources", "promote alone", "another detector's family", "zone", "folder"])
def test_wrong_arguments_end_with_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main("volume", arguments)

    assert ended.value.code == WRONG_USE and "usage: python -m training.train_volume_anomaly" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "told"), [
    (["--table-id", "a/b"], "table_id: must be 1 to 63 letters"), (["--training-days", "3"], "training_days: ")])
def test_arguments_that_the_request_refuses_are_named(
        arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main("volume", ["--table-id", "orders", "--from-history", *arguments])

    assert (code, capsys.readouterr().err.startswith(told)) == (WRONG_USE, True)
