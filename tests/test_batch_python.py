"""Batches from Python, and from the command line against a service that runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from orchestrations.batch_scoring import BatchScorer
from shared.catalogue import Catalogue
from shared.errors import InvalidRequest, ModelNotFound
from shared.history import History
from shared.settings import Settings
from tests.conftest import ACCOUNTS, ROOT
from tests.test_batch import item, settings
from tests.test_service import counts
from tools import batch
from tools.azurite import Azurite
from tools.local_host import LocalHost
from training.volume_anomaly import VolumeAnomalyTrainer


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(rows, index=[f"row {n}" for n in range(len(rows))])


def test_every_row_of_a_frame_gets_a_verdict_or_what_is_wrong_with_it(storage: str,
                                                                      capfd: pytest.CaptureFixture[str]) -> None:
    bad = {**item("bad"), "current_row_count": float("nan")}
    rows = frame(item("good"), item("low", 7), bad, item("young", historical_data=[]))

    verdicts = BatchScorer(Settings(connection_string=storage)).score_batch(model_name="volume", input_data=rows)

    assert list(verdicts.index) == list(rows.index) and list(verdicts["item_id"]) == ["good", "low", "bad", "young"]
    assert list(verdicts["is_anomaly"][["row 0", "row 1", "row 3"]]) == [False, True, False]
    assert verdicts["status"]["row 3"] == "learning" and verdicts["severity"]["row 1"] == "critical"
    assert "current_row_count" in verdicts["error"]["row 2"] and pd.isna(verdicts["status"]["row 2"])
    assert verdicts["lower"]["row 0"] < 1010 < verdicts["upper"]["row 0"]
    assert "4/4" in capfd.readouterr().err  # the bar has reached its end


def test_a_named_model_judges_every_row_and_leaves_no_trace(storage: str) -> None:
    known = Settings(connection_string=storage)
    history = pd.DataFrame(counts(91))
    trainer = VolumeAnomalyTrainer(Catalogue(known).registry)
    trained = trainer.train(table_id="orders", historical_data=history, algorithm="structural")
    trainer.register_model(trained, "volume-anomaly.orders")
    rows = frame({"current_row_count": 1000, "timestamp": pd.Timestamp("2026-08-31T02:00:00Z")},
                 {"current_row_count": 300, "timestamp": pd.Timestamp("2026-08-31T02:00:00Z"), "table_id": "another"})

    verdicts = BatchScorer(known).score_batch("volume-anomaly.orders", rows, progress=False)

    assert list(verdicts["item_id"]) == ["orders"] * 2 and list(verdicts["is_anomaly"]) == [False, True]
    assert not len(History(known).read("volume", "orders", pd.Timestamp("2026-08-31", tz="UTC").to_pydatetime()).values)


def test_a_model_that_is_none_is_said(storage: str) -> None:
    scorer = BatchScorer(Settings(connection_string=storage))

    with pytest.raises(ModelNotFound):
        scorer.score_batch("volume-anomaly.nothing", frame(item(1)), progress=False)
    with pytest.raises(InvalidRequest):
        scorer.score_batch("weather", frame(item(1)), progress=False)


@pytest.fixture(scope="module")
def host(azurite: Azurite) -> Iterator[LocalHost]:
    with LocalHost(ROOT, settings(azurite.connection_string(ACCOUNTS[-8]))) as running:
        yield running


def command(host: LocalHost, *arguments: object) -> int:
    return batch.main([*map(str, arguments), "--url", host.url, "--key", host.key])


def test_a_file_is_scored_from_the_command_line(host: LocalHost, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "items.ndjson", tmp_path / "answers.ndjson"
    path.write_text("\n".join([*(json.dumps(item(n, 9 if n == 2 else 1010)) for n in range(20)), "broken"]))

    assert command(host, path, "--out", out) == 0

    told = capfd.readouterr()
    assert "succeeded: 21 of 21 items, 1 of them failed, 1 anomalies" in told.out
    assert "line 3, 2: 9 rows" in told.out and "line 21: The body is not JSON" in told.out
    assert "21/21" in told.err
    assert [json.loads(line)["line"] for line in out.read_text().splitlines()] == list(range(1, 22))


def test_a_csv_file_that_names_nothing_fails_with_the_reason(host: LocalHost, tmp_path: Path,
                                                             capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "items.csv"
    path.write_text("nothing\n1\n")

    assert command(host, path) == 1
    assert "The first line of a csv file" in capfd.readouterr().out


@pytest.mark.parametrize(("arguments", "said"), [(["gone.csv"], "gone.csv"), (["README.md"], "is none of"),
                                                 (["--all-tables", "--detector", "weather"], "no detector 'weather'")])
def test_what_cannot_be_scored_is_said_in_one_line(host: LocalHost, arguments: list[str], said: str,
                                                   capfd: pytest.CaptureFixture[str]) -> None:
    assert command(host, *arguments) == 1
    error = capfd.readouterr().err
    assert said in error and "Traceback" not in error


def test_a_wrong_key_and_a_service_that_is_not_there_are_said(host: LocalHost, capfd: pytest.CaptureFixture[str]) -> None:
    assert batch.main(["--all-tables", "--url", host.url, "--key", "guessed"]) == 1
    assert "refuses this key" in capfd.readouterr().err
    assert batch.main(["--all-tables", "--url", "http://127.0.0.1:9"]) == 1
    assert "does not answer" in capfd.readouterr().err


def test_the_help_says_what_can_be_given(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        batch.parse(["--help"])
    told = capfd.readouterr().out
    assert all(word in told for word in ("--idempotency-key", "--all-tables", ".parquet", "Exit status"))


