"""Raw table files as column profiles: CSV and Parquet, whatever is in them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared import frames
from shared.errors import InvalidRequest
from shared.frames import profile_file
from tests.profiles import START, ask, column, request

NAMES = ("Ada", "Grace", "Zoë", "李", "O'Neil")


def orders(rows=500, seed=0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({
        "id": np.arange(rows), "amount": rng.normal(50, 10, rows).round(2), "customer": rng.choice(NAMES, rows),
        "paid": rng.random(rows) < 0.8,
        "at": pd.Timestamp("2026-03-01") + pd.to_timedelta(rng.integers(0, 86400, rows), "s"),
        "note": np.where(rng.random(rows) < 0.3, None, "a1-" + pd.Series(np.arange(rows)).astype(str))})


def csv_of(frame: pd.DataFrame, **options) -> bytes:
    text = frame.assign(paid=frame["paid"].astype(str).str.lower()).to_csv(index=False, **options)
    return text.encode()


def parquet_of(frame: pd.DataFrame) -> bytes:
    file = io.BytesIO()
    frame.to_parquet(file)
    return file.getvalue()


def test_a_csv_file_has_the_profile_that_pandas_measures():
    frame = orders()

    profile = profile_file(csv_of(frame), START)

    assert (profile["rowCount"], profile["profiledAt"]) == (500, START.isoformat())
    kinds = [c["dataType"] for c in profile["columnProfiles"]]
    assert kinds == ["numeric", "numeric", "string", "boolean", "date", "string"]
    amount = column(profile, "amount")
    assert amount["mean"] == pytest.approx(frame["amount"].mean())
    assert amount["stddev"] == pytest.approx(frame["amount"].std(ddof=0))
    assert (amount["minValue"], amount["maxValue"]) == (frame["amount"].min(), frame["amount"].max())
    assert amount["quantiles"]["0.25"] == pytest.approx(frame["amount"].quantile(0.25))
    assert column(profile, "note")["nullPercentage"] == pytest.approx(100 * frame["note"].isna().mean())
    assert column(profile, "paid")["truePercentage"] == pytest.approx(100 * frame["paid"].mean())
    assert column(profile, "at")["maxValue"] == frame["at"].max().tz_localize("UTC").isoformat()
    assert [column(profile, name)["distinctCount"] for name in frame] == [frame[name].nunique() for name in frame]


def test_csv_and_parquet_of_one_table_have_one_profile():
    frame = orders()

    by_csv, by_parquet = profile_file(csv_of(frame)), profile_file(parquet_of(frame))

    for ours, theirs in zip(by_csv["columnProfiles"], by_parquet["columnProfiles"], strict=True):
        assert ours.pop("quantiles", None) == pytest.approx(theirs.pop("quantiles", None))
        assert ours == pytest.approx(theirs) if ours["dataType"] == "numeric" else ours == theirs


def test_the_order_of_rows_changes_nothing():
    frame = orders()

    straight, turned = profile_file(csv_of(frame)), profile_file(csv_of(frame.iloc[::-1]))

    for name in ("customer", "paid", "at"):
        assert column(turned, name) == column(straight, name)


def test_pieces_give_the_profile_of_the_whole(monkeypatch):
    frame = orders(1000)
    whole = profile_file(csv_of(frame))
    monkeypatch.setattr(frames, "PIECE", 64)

    pieces = profile_file(csv_of(frame))

    assert pieces["duplicateRowPercentage"] == whole["duplicateRowPercentage"]
    for ours, theirs in zip(pieces["columnProfiles"], whole["columnProfiles"], strict=True):
        assert ours.keys() == theirs.keys()
        assert ours.get("mean") == pytest.approx(theirs.get("mean"))
        assert ours.get("stddev") == pytest.approx(theirs.get("stddev"))
        assert ours["distinctCount"] == theirs["distinctCount"]
        assert ours.get("patterns") == theirs.get("patterns")


def test_a_profile_of_a_file_is_one_that_detect_takes():
    past = [profile_file(csv_of(orders(seed=i)), START.replace(day=2 + i)) for i in range(12)]
    broken = orders(seed=20)
    broken.loc[:200, "customer"] = None
    current = profile_file(parquet_of(broken), START.replace(day=20))

    answer = ask(current, past)

    assert (answer.is_anomaly, answer.column) == (True, "customer")


def test_no_value_of_a_text_leaves():
    told = json.dumps(profile_file(csv_of(orders())), ensure_ascii=False)

    assert not any(name in told for name in NAMES)
    assert "customer" in told


def test_duplicated_rows_are_counted():
    frame = orders(400)

    profile = profile_file(csv_of(pd.concat([frame, frame.iloc[:100]])))

    assert profile["duplicateRowPercentage"] == pytest.approx(20.0)


def test_many_distinct_values_are_counted_within_a_per_cent(monkeypatch):
    monkeypatch.setattr(frames, "MOST_HASHES", 2**14)
    rows = 100_000

    profile = profile_file(("id\n" + "\n".join(f"v{i}" for i in range(rows))).encode())

    assert column(profile, "id")["distinctCount"] == pytest.approx(rows, rel=0.03)
    assert profile["duplicateRowPercentage"] < 3


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_found(separator):
    profile = profile_file(csv_of(orders(20), sep=separator))

    assert len(profile["columnProfiles"]) == 6


def test_a_byte_order_mark_and_windows_lines_are_no_part_of_the_data():
    profile = profile_file(b"\xef\xbb\xbfa,b\r\n1,x\r\n2,y\r\n")

    assert [c["columnName"] for c in profile["columnProfiles"]] == ["a", "b"]
    assert profile["rowCount"] == 2


def test_a_single_odd_text_does_not_make_numbers_texts():
    numbers = "\n".join(["n", *map(str, range(50)), "unknown"])

    assert column(profile_file(numbers.encode()), "n")["dataType"] == "numeric"


def test_a_file_with_a_header_alone_is_a_batch_of_no_rows():
    profile = profile_file(b"a,b\n")

    assert profile["rowCount"] == 0
    assert request(profile).current_profile.row_count == 0


def test_a_column_of_nulls_is_all_null():
    profile = profile_file(b"a,b\n1,\n2,NULL\n3,n/a\n")

    assert column(profile, "b")["nullPercentage"] == 100
    assert request(profile)


def test_a_value_of_two_megabytes_is_measured():
    profile = profile_file(b"a,b\n1," + b"x" * 2**21 + b"\n2,y\n")

    assert column(profile, "b")["lengths"]["max"] == 2**21
    assert len(json.dumps(profile)) < 2000


def test_emoji_and_enormous_numbers_survive():
    profile = profile_file("🙂,n\n👩‍👩‍👧,1e308\nñ,-1e999\nx,1e-320\n".encode())

    assert column(profile, "🙂")["distinctCount"] == 3
    assert request(profile)


WRONG = {
    "nothing": (b"", "The file is empty."),
    "a line of nothing": (b"\n1,2\n", "first line of the file is empty"),
    "a long row": (b"a,b\n1,2\n1,2,3\n", "Line 3 of the CSV file has 3 cells; the header has 2."),
    "a short row": (b"a,b\n1\n", "Line 2 of the CSV file has 1 cells; the header has 2."),
    "a column twice": (b"a,a\n1,2\n", "has the column 'a' more than once"),
    "Latin 1": ("a\nKöln\n".encode("latin-1"), "The file is not UTF-8 (it has a byte 0xf6)."),
    "Latin 1 in the header": ("ö\n1\n".encode("latin-1"), "The file is not UTF-8"),
    "UTF-16": ("a,b\n1,2\n".encode("utf-16"), "The file is not UTF-8"),
    "an open quote": (b'a,b\n"1,2\n3,4\n', "cannot be read"),
    "half a Parquet file": (parquet_of(orders(50))[:2000], "The Parquet file cannot be read"),
    "four bytes of Parquet": (b"PAR1", "The Parquet file cannot be read"),
    "a name without end": (b"a" * 300 + b"\n1\n", "has a name of 300 characters"),
}


@pytest.mark.parametrize(("data", "reason"), WRONG.values(), ids=WRONG)
def test_a_file_that_cannot_be_profiled_is_refused_with_the_reason(data, reason):
    with pytest.raises(InvalidRequest) as refusal:
        profile_file(data)

    assert reason in refusal.value.message


def test_a_cell_longer_than_any_is_refused(monkeypatch):
    monkeypatch.setattr(frames, "LONGEST_CELL", 1000)

    with pytest.raises(InvalidRequest, match="field larger than field limit"):
        profile_file(b"a\n" + b"x" * 2000 + b"\n")


def test_a_nested_parquet_column_is_refused_by_name():
    file = io.BytesIO()
    pq.write_table(pa.table({"id": [1], "lines": [[{"sku": "a"}]]}), file)

    with pytest.raises(InvalidRequest, match="Column 'lines' of the Parquet file is nested"):
        profile_file(file.getvalue())


def test_every_plain_parquet_type_has_a_profile():
    table = pa.table({
        "small": pa.array([1, None, 3], pa.int8()), "decimal": pa.array([1, 2, None], pa.decimal128(10, 2)),
        "category": pa.array(["a", "b", None]).dictionary_encode(), "bytes": pa.array([b"\x00", None, b"\xff"]),
        "day": pa.array([datetime(2026, 1, 1, tzinfo=UTC).date()] * 3), "nothing": pa.nulls(3),
        "time": pa.array([datetime(2026, 1, 1, 5, tzinfo=UTC)] * 3), "float": pa.array([float("nan"), float("inf"), 1.0])})
    file = io.BytesIO()
    pq.write_table(table, file)

    profile = profile_file(file.getvalue())

    kinds = {c["columnName"]: c.get("dataType") for c in profile["columnProfiles"]}
    assert kinds == {"small": "numeric", "decimal": "numeric", "category": "string", "bytes": "string", "day": "date",
                     "nothing": None, "time": "date", "float": "numeric"}
    assert column(profile, "float")["nullPercentage"] == pytest.approx(200 / 3)
    assert request(profile)


def test_a_file_on_disk_is_read_as_its_bytes_are(tmp_path):
    path = tmp_path / "orders.parquet"
    path.write_bytes(parquet_of(orders()))

    assert profile_file(path) == profile_file(path.read_bytes())


def test_importing_the_module_loads_no_pandas():
    code = "import sys, shared.frames; print({'pandas', 'pyarrow'} & set(sys.modules))"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
