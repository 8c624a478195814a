"""The blob door: what becomes of a file, without a host."""

import gzip
import io
import json
import re
import resource
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from detectors import volume
from shared import drops
from shared.catalogue import Catalogue
from shared.contract import Observation
from shared.drops import File, Limits
from shared.settings import Settings
from shared.tables import Tables
from tests.profiles import batch

WRITTEN = datetime(2026, 7, 6, 3, 20, tzinfo=UTC)
NOW = WRITTEN + timedelta(minutes=1)
CSV = b"id,amount,city\n" + b"".join(b"%d,%d.5,Ulm\n" % (i, i % 7) for i in range(200))


def gzipped(data: bytes) -> bytes:
    """The same bytes whenever it is called: tests are named after them."""
    return gzip.compress(data, mtime=0)


@pytest.fixture
def catalogue(storage: str) -> Catalogue:
    return Catalogue(Settings(connection_string=storage, recheck_seconds=0, tables_table="described"))


def file(name: str, content: bytes) -> File:
    starts = range(0, len(content), 999_983)
    return File(name, len(content), "0x1", WRITTEN, lambda: (content[i:i + starts.step] for i in starts))


def judge(catalogue: Catalogue, dropped: File, limits: Limits | None = None) -> drops.Told:
    return drops.judge_file(dropped, catalogue, Tables(catalogue.history, "described", 0), NOW, limits or Limits())


def drop(catalogue: Catalogue, name: str, content: bytes) -> dict[str, Any]:
    """The result kept beside a file. Every message says where it is."""
    told = judge(catalogue, file(name, content))
    messages = [json.loads(text) for text in told.results]
    [place] = {m["result"] for m in messages}
    container, _, kept = place.partition("/")
    result: dict[str, Any] = json.loads(catalogue.blobs.get(container, kept).data)  # type: ignore[union-attr]
    assert {m["source"] for m in messages} == {result["source"]} == {f"profiles/{name}"}
    assert [m.get("detector") for m in messages] == [a["detector"] for a in result.get("answers", [{"detector": None}])]
    return {**result, "observations": told.observations}


def parquet(**columns: Any) -> bytes:
    pq.write_table(pa.table(columns), stream := io.BytesIO())
    return stream.getvalue()


@pytest.mark.parametrize(("name", "content"), [
    ("orders/batch.csv", CSV),
    ("orders/deep/batch.CSV.gz", gzipped(CSV)),
    ("orders/batch.csv.gz", gzipped(CSV[:1000]) + gzipped(CSV[1000:])),
    ("orders/batch.parquet", parquet(id=list(range(200)), city=["Ulm"] * 200)),
    ("orders/batch.parquet.gz", gzipped(parquet(id=list(range(200)), city=["Ulm"] * 200))),
    ("orders/batch.json", json.dumps({"rowCount": 200, "columnProfiles": []}).encode()),
    ("orders/batch.json.gz", gzipped(b"\xef\xbb\xbf" + json.dumps({"rowCount": 200, "columnProfiles": []}).encode())),
    ("orders/request.json", json.dumps({"current_profile": {"rowCount": 200, "columnProfiles": []}}).encode()),
])
def test_a_file_of_every_kind_is_judged_and_its_count_too(catalogue: Catalogue, name: str, content: bytes) -> None:
    result = drop(catalogue, name, content)

    assert result["result"] == f"results/{name}.json"
    assert [a["detector"] for a in result["answers"]] == ["distribution", "volume"]
    assert [a["table_id"] for a in result["answers"]] == ["orders", "orders"]
    assert result["answers"][1]["value"] == 200 and result["answers"][1]["timestamp"] == "2026-07-06T03:20:00Z"
    kept = [json.loads(text) for text in result["observations"]]
    assert [(o["detector"], o["table_id"]) for o in kept] == [("distribution", "orders"), ("volume", "orders")]


def test_a_batch_that_is_not_like_those_before_is_found(catalogue: Catalogue) -> None:
    request = {"historical_profiles": [batch(i) for i in range(30)], "current_profile": batch(30)}
    request["current_profile"]["columnProfiles"][0]["nullPercentage"] = 60.0  # type: ignore[index]

    result = drop(catalogue, "orders/today.json", json.dumps(request).encode())

    assert result["answers"][0]["is_anomaly"] and result["answers"][0]["metric"]
    assert result["answers"][0]["timestamp"] == result["answers"][1]["timestamp"] == "2026-04-01T06:00:00Z"


def test_a_count_far_below_those_before_is_found(catalogue: Catalogue) -> None:
    known = [Observation(table_id="orders", timestamp=(WRITTEN - timedelta(days=d)).isoformat(), value=1000.0 + d % 3)
              for d in range(1, 40)]

    volume.load(known, catalogue)

    count = drop(catalogue, "orders/2026-07-06.csv", CSV)["answers"][1]

    assert count["is_anomaly"] and count["direction"] == "drop" and count["timestamp"] == "2026-07-06T00:00:00Z"


def test_what_a_request_in_a_file_says_counts(catalogue: Catalogue) -> None:
    asked = {"current_profile": {"rowCount": 1, "columnProfiles": []}, "timestamp": "2026-07-01T12:00:00", "request_id": "r",
             "timezone": "Europe/Berlin", "record": False}

    result = drop(catalogue, "orders/x.json", json.dumps(asked).encode())

    assert [(a["request_id"], a["timestamp"]) for a in result["answers"]] == [("r", "2026-07-01T10:00:00Z")] * 2
    assert result["observations"] == []


def test_a_header_alone_is_a_batch_of_no_rows(catalogue: Catalogue) -> None:
    assert drop(catalogue, "orders/none.csv", b"id,amount\n")["answers"][1]["value"] == 0


NESTED = parquet(id=[1, 2], where=[{"x": 1, "y": 2}, {"x": 3, "y": 4}])


@pytest.mark.parametrize(("name", "content", "code", "words"), [
    ("orders/empty.csv", b"", "InvalidRequest", "empty"),
    ("orders/empty.json", b"", "InvalidRequest", "empty"),
    ("orders/empty.parquet", b"", "InvalidRequest", "empty"),
    ("orders/empty.csv.gz", gzipped(b""), "InvalidRequest", "empty"),
    ("orders/nothing.csv.gz", b"", "InvalidRequest", "empty"),
    ("orders/x.txt", b"hello", "InvalidRequest", ".csv"),
    ("orders/x.gz", b"hello", "InvalidRequest", ".csv"),
    ("orders/x.csv.gz", b"hello", "InvalidRequest", "gzip"),
    ("orders/x.csv.gz", gzipped(CSV)[:-30], "InvalidRequest", "middle"),
    ("orders/x.csv.gz", gzipped(CSV) + b"more", "InvalidRequest", "gzip"),
    ("orders/x.csv", b"a,b\n1,2\n3\n", "InvalidRequest", "cells"),
    ("orders/x.parquet", b"hello", "InvalidRequest", "Parquet"),
    ("orders/x.parquet", NESTED[:60] + NESTED[90:], "InvalidRequest", "Parquet"),
    ("orders/nested.parquet", NESTED, "InvalidRequest", "nested"),
    ("orders/x.json", b"{", "InvalidJson", "JSON"),
    ("orders/x.json", b"[" * 100_000, "InvalidJson", "JSON"),
    ("orders/x.json", b"[]", "InvalidRequest", "current_profile"),
    ("orders/x.json", b'{"rowCount": -1, "columnProfiles": []}', "InvalidRequest", "rowCount"),
    ("orders/x.json", b'{"table_id": "other", "current_profile": {"rowCount": 1, "columnProfiles": []}}',
     "InvalidRequest", "another table"),
    ("bad id!/x.csv", CSV, "InvalidRequest", "An id"),
])
def test_a_file_that_cannot_be_read_is_reported_with_the_reason(catalogue: Catalogue, name: str, content: bytes, code: str,
                                                                words: str) -> None:
    result = drop(catalogue, name, content)

    assert result["error"]["code"] == code and words in result["error"]["message"]
    assert result["observations"] == []


@pytest.mark.parametrize(("name", "words"), [
    ("small.csv.gz", "times its size"), ("large.csv.gz", "unpacked"), ("x.json.gz", "unpacked")])
def test_a_zip_bomb_is_given_up_before_it_fills_memory_or_disk(catalogue: Catalogue, name: str, words: str) -> None:
    packed = bomb(20 if name.startswith("small") else 40)
    before = peak_megabytes()

    result = drop(catalogue, f"orders/{name}", packed)

    assert result["error"]["code"] == "PayloadTooLarge" and words in result["error"]["message"]
    assert len(packed) < 2**21 and peak_megabytes() - before < 64


def test_a_parquet_file_of_more_rows_than_anybody_has_is_refused(catalogue: Catalogue) -> None:
    many = pa.chunked_array([pa.DictionaryArray.from_arrays(pa.array([0] * 2**20, pa.int8()), ["x"])] * 60)
    pq.write_table(pa.table({"x": many}), stream := io.BytesIO())

    result = drop(catalogue, "orders/long.parquet", stream.getvalue())

    assert result["error"]["code"] == "PayloadTooLarge" and "62,914,560 rows" in result["error"]["message"]


def test_a_file_over_the_limit_is_not_even_fetched(catalogue: Catalogue) -> None:
    def never() -> Iterator[bytes]:
        raise AssertionError("it was read")
        yield b""

    told = judge(catalogue, File("orders/x.csv", 200_000_000, "0x1", WRITTEN, never), Limits(100_000_000))

    assert json.loads(told.results[0])["error"]["message"] == "The file has 200,000,000 bytes; at most 100,000,000 are read."


def test_a_long_table_is_read_in_pieces(catalogue: Catalogue) -> None:
    content = b"id,amount\n" + b"".join(b"%d,%d\n" % (i, i % 1000) for i in range(80_000))
    before = peak_megabytes()

    result = drop(catalogue, "orders/long.csv", content)

    assert result["answers"][1]["value"] == 80_000
    assert peak_megabytes() - before < 150


@pytest.mark.parametrize("name", ["orders/_SUCCESS", "orders/.part.csv.crc"])
def test_markers_of_other_tools_are_left_alone(catalogue: Catalogue, name: str) -> None:
    assert judge(catalogue, file(name, b"")) == drops.Told()


def test_a_name_that_is_no_path_of_ids_has_its_result_under_one_that_is(catalogue: Catalogue) -> None:
    result = drop(catalogue, "orders/date=2026-07-05/Umsätze 1.csv", CSV)

    assert re.fullmatch("results/orders/[0-9a-f]{12}-date_2026-07-05_Ums_tze_1_csv.json", result["result"])
    assert result["answers"][1]["timestamp"] == "2026-07-05T00:00:00Z"
    assert drops.result_name("a b/x.csv").startswith("unnamed/")
    assert drops.result_name("orders/a b.csv") != drops.result_name("orders/a_b.csv")


@pytest.mark.parametrize(("name", "moment"), [
    ("2026-09-21.csv", datetime(2026, 9, 21)),
    ("orders_20260921.csv.gz", datetime(2026, 9, 21)),
    ("2026_09_21-0001.parquet", datetime(2026, 9, 21)),
    ("2026-09-21T0230Z.csv", datetime(2026, 9, 21, 2, 30, tzinfo=UTC)),
    ("20260921T023015.csv", datetime(2026, 9, 21, 2, 30, 15)),
    ("year=2025/2026-09-20/2026-09-21.csv", datetime(2026, 9, 21)),
    ("2026-13-40.csv", None),
    ("1202609211.csv", None),
    ("orders.csv", None),
])
def test_the_time_of_a_batch_is_the_date_in_its_name(name: str, moment: datetime | None) -> None:
    assert drops.moment_of(name) == moment


def test_an_answer_too_long_for_a_message_is_told_in_short(catalogue: Catalogue) -> None:
    request = json.dumps({"historical_profiles": [batch(i, 400) for i in range(12)], "current_profile": batch(12, 400)})

    told = judge(catalogue, file("orders/wide.json", request.encode()))

    short = json.loads(told.results[0])
    assert len(told.results[0]) < 61_440
    assert "columns" not in short and short["detector"] == "distribution"
    assert short["result"] == "results/orders/wide.json.json"


def test_a_long_error_is_told_in_short_too(catalogue: Catalogue) -> None:
    columns = [{"columnName": f"c{i}", "quantiles": {"x" * 900: 1}} for i in range(100)]

    told = judge(catalogue, file("orders/x.json", json.dumps({"rowCount": 1, "columnProfiles": columns}).encode()))

    short = json.loads(told.results[0])
    assert short["error"]["code"] == "InvalidRequest" and "quantiles" in short["error"]["message"]
    assert short["error"]["details"] == [] and len(told.results[0]) < 61_440


def test_a_date_in_the_name_of_the_table_is_no_time(catalogue: Catalogue) -> None:
    assert drop(catalogue, "orders_20240101/x.csv", CSV)["answers"][1]["timestamp"] == "2026-07-06T03:20:00Z"


def bomb(times: int) -> bytes:
    """So many times 32 MiB in a thousandth of that."""
    return _zeros() * times


@cache
def _zeros() -> bytes:
    return gzipped(bytes(32 * 2**20))


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
