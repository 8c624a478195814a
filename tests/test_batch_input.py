"""Reading the items of a batch: every good one as it was sent, every bad one with its line, and bounded memory."""

import io
import json
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest

from shared.batch_input import MAX_ITEM_BYTES, Item, fields_of, filled, of_file, of_list, of_rows
from shared.contract import VolumeRequest
from shared.contract_timeliness import TimelinessRequest
from shared.errors import InvalidRequest, ServiceError


def told(items: Iterator[Item]) -> list[tuple[int, Any]]:
    """(line, item as Python has it or the code of its error)."""
    return [(line, item.code if isinstance(item, ServiceError) else json.loads(item)) for line, item in items]


def volume(kind: str, *chunks: bytes) -> list[tuple[int, Any]]:
    return told(of_file(kind, chunks, VolumeRequest))


def parquet(frame: pd.DataFrame) -> bytes:
    file = io.BytesIO()
    frame.to_parquet(file, row_group_size=2)
    return file.getvalue()


def test_lines_are_put_together_from_chunks_and_empty_ones_keep_their_number() -> None:
    chunks = b'\xef\xbb\xbf{"a": 1}\r\n\n{"a"', b': 2}\n{"a": 3}'

    assert volume("ndjson", *chunks) == [(1, {"a": 1}), (3, {"a": 2}), (4, {"a": 3})]


def test_a_line_that_is_too_long_is_an_error_and_the_next_one_is_read() -> None:
    long = [b'{"a": "', *[b"x" * 2**20] * (MAX_ITEM_BYTES // 2**20 + 1), b'"}\n{"a": 1}\n']

    assert volume("ndjson", *long) == [(1, "PayloadTooLarge"), (2, {"a": 1})]


def test_an_endless_line_is_not_held_in_memory() -> None:
    endless = (b"x" * 2**20 for _ in range(200))

    tracemalloc.start()
    items = told(of_file("ndjson", endless, VolumeRequest))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert items == [(1, "PayloadTooLarge")]
    assert peak < 8 * MAX_ITEM_BYTES


def test_text_columns_of_a_csv_file_stay_text_and_the_others_are_read_as_json() -> None:
    text = b'table_id,current_row_count,historical_data,record\n0042,17,"[1, 2]",false\norders,"1,000",,\n'

    assert volume("csv", text) == [
        (2, {"table_id": "0042", "current_row_count": 17, "historical_data": [1, 2], "record": False}),
        (3, {"table_id": "orders", "current_row_count": "1,000"})]


def test_a_csv_line_with_too_few_cells_is_reported_where_it_is() -> None:
    text = b'table_id;current_row_count\n"two\nlines";1\nshort\n\nlast;2\n'

    assert volume("csv", text) == [(2, {"table_id": "two\nlines", "current_row_count": 1}), (4, "InvalidRequest"),
                                   (6, {"table_id": "last", "current_row_count": 2})]


def test_a_quote_that_is_never_closed_ends_in_an_error() -> None:
    open_quote = b'table_id,current_row_count\n"open,1\n' + b"row,2\n" * (MAX_ITEM_BYTES // 6 + 10)

    items = volume("csv", open_quote)

    assert items[0] == (2, "InvalidRequest") and items[-1][1] == {"table_id": "row", "current_row_count": 2}


@pytest.mark.parametrize("text", [b"", b"some,other,table\n1,2,3\n", b"table_id,table_id\na,b\n", b"\x00\x01\x02"])
def test_a_file_whose_first_line_names_no_field_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidRequest, match="first line"):
        volume("csv", text)


def test_bytes_that_are_no_text_spoil_their_own_line_alone() -> None:
    bad, good = volume("csv", b"table_id,current_row_count\nb\xff,1\ngood,2\n")

    with pytest.raises(ValueError):
        VolumeRequest.model_validate_json(json.dumps(bad[1]))
    assert good == (3, {"table_id": "good", "current_row_count": 2})


def test_parquet_columns_of_any_kind_become_fields_and_gaps_are_left_out() -> None:
    frame = pd.DataFrame({
        "table_id": ["a", None, "c"], "current_row_count": [1.0, float("nan"), 3.0],
        "timestamp": pd.to_datetime(["2026-01-01", "2026-01-02", None], utc=True),
        "historical_data": [[1, 2], [], None], "min_change": [{"percent": 1.0, "absolute": None}] * 3})

    assert volume("parquet", parquet(frame)) == [
        (1, {"table_id": "a", "current_row_count": 1, "timestamp": "2026-01-01T00:00:00+00:00", "historical_data": [1, 2],
             "min_change": {"percent": 1}}),
        (2, {"timestamp": "2026-01-02T00:00:00+00:00", "historical_data": [], "min_change": {"percent": 1}}),
        (3, {"table_id": "c", "current_row_count": 3, "min_change": {"percent": 1}})]


@pytest.mark.parametrize("spoil", [lambda data: b"", lambda data: data[:-20],
                                   lambda data: data[:30] + b"\xff" * 60 + data[90:]])
def test_a_parquet_file_that_is_none_is_refused(spoil: Any) -> None:
    data = parquet(pd.DataFrame({"table_id": [f"t{n}" for n in range(50)]}))

    with pytest.raises(InvalidRequest, match="Parquet"):
        volume("parquet", spoil(data))


def test_rows_of_python_become_json_and_what_cannot_is_an_error() -> None:
    rows = pd.DataFrame({"a": pd.to_datetime(["2026-01-01", None]), "b": [1, 2]}).to_dict("records")

    assert told(of_rows([*rows, {"c": datetime(2026, 1, 1, tzinfo=UTC)}, {"c": object()}])) == [
        (1, {"a": "2026-01-01T00:00:00", "b": 1}), (2, {"b": 2}), (3, {"c": "2026-01-01T00:00:00+00:00"}),
        (4, "InvalidRequest")]


def test_defaults_fill_in_what_an_item_does_not_say() -> None:
    items = filled(of_list([{"a": 1}, {"b": 2}, "no object"]), {"a": 0, "c": 0})

    assert told(items) == [(1, {"a": 1, "c": 0}), (2, {"a": 0, "c": 0, "b": 2}), (3, "no object")]


def test_the_fields_that_take_text_are_known_from_the_contract() -> None:
    volume, timeliness = fields_of(VolumeRequest), fields_of(TimelinessRequest)

    assert all(volume[name] for name in ("table_id", "timestamp", "timezone", "granularity", "request_id"))
    assert all(timeliness[name] for name in ("last_arrival", "as_of", "due_at"))
    assert not any(volume[name] for name in ("current_row_count", "historical_data", "record", "sensitivity"))
