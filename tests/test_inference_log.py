"""Verdicts as Parquet files: which, under which names, and that nothing is lost or counted twice."""

from __future__ import annotations

import io
import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow.parquet as pq
import pytest

from detectors import pattern, volume
from orchestrations import inference_logs
from shared import batch_input, batch_items, inference_log, parquet, worker
from shared.batches import Batches
from shared.catalogue import Catalogue
from shared.contract import VolumeRequest
from shared.contract_batch import BatchRequest
from shared.history import Point
from shared.inference_log import COLUMNS, Logged, write_log
from shared.settings import Settings
from tests.test_batch_orchestration import JOB, Story

LOGS = "inference-logs"
DAY = datetime(2026, 9, 21, 2, tzinfo=UTC)


@pytest.fixture
def catalogue(storage: str) -> Catalogue:
    return Catalogue(Settings(connection_string=storage, logs_container=LOGS))


def rows(catalogue: Catalogue, name: str) -> list[dict[str, Any]]:
    return list(parquet.read([catalogue.blobs.get(LOGS, name).data]))  # type: ignore[union-attr]


def test_a_file_is_written_for_every_day_and_the_same_again(catalogue: Catalogue) -> None:
    logged = [Logged(DAY + timedelta(hours=hours), "orders", float(hours), score=0.5) for hours in (0, 1, 23)]

    names = [write_log("volume", logged, "batch-x-00001", catalogue.blobs, LOGS) for _ in range(2)]

    assert names[0] == names[1] == list(catalogue.blobs.names(LOGS)) == [
        "volume/date=2026-09-21/batch-x-00001.parquet", "volume/date=2026-09-22/batch-x-00001.parquet"]
    assert [row["value"] for row in rows(catalogue, names[0][0])] == [0.0, 1.0]


def test_the_columns_are_always_there_with_the_same_types(catalogue: Catalogue) -> None:
    [name] = write_log("pattern", [Logged(DAY, None)], "history", catalogue.blobs, LOGS)

    schema = pq.read_schema(io.BytesIO(catalogue.blobs.get(LOGS, name).data))  # type: ignore[union-attr]

    assert schema.names == list(COLUMNS)
    assert {str(schema.field(n).type) for n in ("timestamp", "score", "is_anomaly")} == {"timestamp[us, tz=UTC]", "double",
                                                                                       "bool"}


def test_a_batch_is_logged_with_what_was_expected_and_which_model_said_so(catalogue: Catalogue) -> None:
    history = [{"timestamp": (DAY - timedelta(days=n)).isoformat(), "row_count": 1000 + n % 7} for n in range(1, 30)]
    known: dict[str, Any] = {"historical_data": history}
    items: list[Any] = [{"table_id": "orders", "current_row_count": 200, "timestamp": DAY.isoformat(), **known},
                        {"table_id": "sales", "current_row_count": 1001, "request_id": "r-7", **known},
                        {"table_id": "new", "current_row_count": 5}, {"current_row_count": "x"}]
    batches = Batches(catalogue.blobs, catalogue.settings)
    record, _ = batches.accept(BatchRequest(detector="volume", items=items), None)
    batch_id = record["batch_id"]
    judged = batch_items.judge("volume", batch_input.of_list(items), catalogue, DAY)
    lines, digest = [one.render() for one in judged], batch_items.digest(judged)
    batches.finish_chunk(batch_id, 1, lines, digest, batch_items.figures(judged))
    batches.update(batch_id, record["instance"], chunks=1, total=4)

    names = inference_log.log_batch(batch_id, batches, catalogue.blobs, LOGS)

    today = datetime.fromisoformat(record["created_at"]).date()
    assert names == [f"volume/date={day}/batch-{batch_id}-00001.parquet" for day in ("2026-09-21", today)]
    [orders], [sales] = (rows(catalogue, name) for name in names)
    assert [orders[n] for n in ("table_id", "is_anomaly", "severity", "value")] == ["orders", True, "critical", 200]
    assert 990 < orders["expected"] < 1010 and orders["score"] > 0.99 and orders["timestamp"] == DAY
    assert (orders["correlation_id"], sales["correlation_id"]) == (batch_id, "r-7")
    assert (orders["algorithm"], orders["model_version"], orders["column"]) == ("structural", None, None)


def test_what_came_through_any_door_is_logged_from_the_history(catalogue: Catalogue) -> None:
    for value, status, hours in ((1000.0, "ok", 0), (10.0, "anomaly", 1), (20.0, "expected", 2), (5.0, "ok", 24)):
        point = Point(DAY + timedelta(hours=hours), value, status, score=value / 1000, model="3")
        catalogue.history.record("volume", "orders", [point])
    catalogue.history.record("volume", "loaded", [Point(DAY, 7.0)])

    [name] = inference_log.log_day("volume", date(2026, 9, 21), catalogue.history, catalogue.blobs, LOGS)

    found = rows(catalogue, name)
    assert name == "volume/date=2026-09-21/history-00001.parquet"
    assert [(row["value"], row["is_anomaly"], row["score"]) for row in found] == [
        (1000.0, False, 1.0), (10.0, True, 0.01), (20.0, None, 0.02)]
    assert {(row["table_id"], row["model_version"]) for row in found} == {("orders", "3")}


def test_a_fleet_is_logged_so_many_tables_in_a_file(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference_log, "SERIES_A_FILE", 2)
    catalogue.history.record_many("volume", {f"t{n}": [Point(DAY, 1.0, score=0.5)] for n in range(5)})

    names = [inference_log.log_day("volume", DAY.date(), catalogue.history, catalogue.blobs, LOGS) for _ in range(2)]

    assert names[0] == names[1] == list(catalogue.blobs.names(LOGS))
    assert [[row["table_id"] for row in rows(catalogue, name)] for name in names[0]] == [["t0", "t1"], ["t2", "t3"], ["t4"]]


def test_every_column_of_pattern_is_logged(catalogue: Catalogue) -> None:
    from detectors.directory import DETECTORS

    for n in range(8):
        for column in ("email", "Größe in cm"):
            asked = {"table_id": "customers", "column": column, "values": [f"a{n}@b.c"] * 50,
                     "timestamp": (DAY - timedelta(days=7 - n)).isoformat()}
            request = DETECTORS["pattern"].request.model_validate_json(json.dumps(asked))
            answer = pattern.detect(request, catalogue, DAY)
            message = pattern.observation(request, answer, catalogue, DAY)
            pattern.observe((message or "").encode(), catalogue.history)

    [name] = inference_log.log_day("pattern", DAY.date(), catalogue.history, catalogue.blobs, LOGS)

    columns = {row["column"] for row in rows(catalogue, name)}
    assert "email" in columns and len(columns) == 2


def test_a_verdict_that_was_none_is_not_logged(catalogue: Catalogue) -> None:
    request = VolumeRequest(table_id="new", current_row_count=5)
    answer = json.loads(volume.detect(request, catalogue, DAY).model_dump_json())

    assert answer["status"] != "evaluated" and inference_log.of_answer(answer, DAY, "c") is None


def test_a_batch_that_is_finished_is_logged_where_a_container_is_set() -> None:
    logging, plain = (Story(JOB, plan_batch={"chunks": 1}, finish_batch=done) for done in ({"to_log": True}, {}))

    for story in (logging, plain):
        story.tell("score_batch")

    assert logging.calls == [*plain.calls, ("log_batch", JOB)]


def test_without_a_container_nothing_is_written(monkeypatch: pytest.MonkeyPatch, storage: str) -> None:
    monkeypatch.setenv("DATA_STORAGE", storage)
    monkeypatch.delenv("INFERENCE_LOGS_CONTAINER", raising=False)
    worker.catalogue.cache_clear()

    job = {"batch_id": "0" * 32, "day": "2026-09-21", "detector": "volume"}
    written = [activity._function.get_user_function()(job)  # type: ignore[attr-defined]
               for activity in (inference_logs.log_batch, inference_logs.log_day)]

    worker.catalogue.cache_clear()
    assert written == [0, 0]
