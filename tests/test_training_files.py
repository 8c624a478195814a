"""The files that training reads: the same table in every format, and what is wrong in one told with its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training import data_files
from training.command_line import WRONG_USE, main
from training.data_files import Columns

NO_TIME = "there is no column timestamp (or date, time, ds, day), but 'day_of', 'rows'; --time-column names another."
NO_COUNT = "there is no column row_count (or value, rows, count, y), but 'date', 'n'; --value-column names another."
NO_ARRIVAL = ("there is no column arrived_at (or arrival, timestamp, date, time, ds, day), but 'loaded'; --time-column "
              "names another.")
NO_PROFILE = ("this is no profile, it has no columnProfiles; profiles are JSON, NDJSON or Parquet in the shape of POST "
              "/api/v1/detect/distribution.")
NO_DATE = "is no date or time such as 2026-09-21 or 2026-09-21T02:00:00Z."
THOUSANDS = "numbers are written as 1234.5, without separators of thousands."
OPEN_QUOTE = "it cannot be read (unexpected end of data); look for a quote that is not closed."
CP1252 = "the byte 0xe4 is not UTF-8; save the file as UTF-8, or name its encoding, such as --encoding cp1252."
TWICE = "2026-01-01T00:00:00+00:00 comes again, after line 2: keep one of them."
NOT_JSON = "this is no JSON: Expecting"


def saved(tmp_path: Path, text: str | bytes, name: str = "counts.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(("text", "told"), [
    ("", ": the file is empty."),
    (" \n\n", ": the file is empty."),
    ("date,rows\n", ": there are no rows under the first line."),
    ("day_of,rows\n2026-01-01,5\n", f": {NO_TIME}"),
    ("date,n\n2026-01-01,5\n", f": {NO_COUNT}"),
    ("date,rows\n2026-01-01,5\n2026-01-02,many\n", ", line 3, column rows: 'many' is no number."),
    ('date,rows\n2026-01-01,"1,204"\n', f", line 2, column rows: '1,204' is no number: {THOUSANDS}"),
    ("date,rows\n2026-01-01,inf\n", ", line 2, column rows: 'inf' is no number."),
    ("date,rows\n2026-01-01,-5\n", ", line 2, row_count: Input should be greater than or equal to 0."),
    ("date,rows\n01.02.2026,5\n", f", line 2, column date: '01.02.2026' {NO_DATE}"),
    ("date,rows\n\n,5\n", ", line 3, column date: there is no time."),
    ("date,rows\n2026-01-01,5\n2026-01-02,6\n2026-01-01,7\n", f", line 4: {TWICE}"),
    ("date,rows\n2026-01-01\n", ", line 2: 1 cell; the first line names 2 columns."),
    ("date,rows,rows\n2026-01-01,1,2\n", ", line 1: the column 'rows' is there more than once."),
    ("date,rows\n2026-01-01,\n2026-01-02,NA\n", ": no row has a value."),
    ('date,rows\n2026-01-01,5\n"2026-01-02,5\n', f", line 3: {OPEN_QUOTE}"),
    ("date,läden,rows\n2026-01-01,x,5\n".encode("cp1252"), f", line 1: {CP1252}"),
    (b"PK\x03\x04 sheet", ": this is a workbook or a ZIP archive: save the sheet as CSV."),
    ("date,rows\n1066-10-14,5\n", ", line 2, timestamp: must lie between the years 1971 and 2199."),
])
def test_what_is_wrong_in_a_file_is_told_with_its_place(
        text: str | bytes, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main("volume", ["--table-id", "orders", "--data", str(saved(tmp_path, text))])

    assert (code, capsys.readouterr().err) == (WRONG_USE, f"counts.csv{told}\n")


@pytest.mark.parametrize(("detector", "name", "text", "told"), [
    ("volume", "a.json", '[{"date": "2026-01-01", "rows": true}]', ", entry 1, column rows: True is no number."),
    ("volume", "a.json", "{", f": {NOT_JSON} property name"),
    ("volume", "a.ndjson", '{"date": "2026-01-01", "rows": 5}\n\n{"date": 7}\n', f", line 3, column date: 7 {NO_DATE}"),
    ("volume", "a.ndjson", "[1, 2]\n", ", line 1: this is no JSON object with a name for every value."),
    ("volume", "a.ndjson", "x\n", f", line 1: {NOT_JSON} value"),
    ("volume", "a.parquet", "PAR1 and no more", ": The Parquet file cannot be read after row 0: "),
    ("distribution", "a.csv", "column,nulls\nid,5\n", f", line 2: {NO_PROFILE}"),
    ("distribution", "a.ndjson", '{"columnProfiles": []}\n', ", line 1, rowCount: Field required."),
    ("pattern", "a.csv", "value\nA\n", ": there is no column 'order_id', but 'value'; --column names another."),
    ("timeliness", "a.csv", "loaded\n2026-01-01\n", f": {NO_ARRIVAL}"),
    ("sequence", "a.csv", "time\n2026-01-01\n", ": there is no metric: every column but the time is one."),
    ("sequence", "a.csv", "time,a\n2026-01-01,b\n", ", line 2, column a: 'b' is no number."),
])
def test_other_files_are_refused_as_plainly(
        detector: str, name: str, text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--column", "order_id"] if detector == "pattern" else []

    code = main(detector, ["--table-id", "orders", "--data", str(saved(tmp_path, text, name)), *more])

    assert (code, (said := capsys.readouterr().err).startswith(f"{name}{told}")) == (WRONG_USE, True), said


ROWS = "date,rows\n2026-01-01,5\n2026-01-02,6.5\n"


@pytest.mark.parametrize(("name", "text", "encoding"), [
    ("a.csv", ROWS.encode(), "utf-8"), ("a.txt", ROWS.replace(",", ";").encode(), "utf-8"),
    ("a.tsv", ROWS.replace(",", "\t").encode(), "utf-8"), ("a.csv", ROWS.replace(",", "|").encode("utf-8-sig"), "utf-8"),
    ("a.csv", ROWS.encode("utf-16"), "utf-8"), ("a.csv", ROWS.replace("\n", "\r\n").encode(), "utf-8"),
    ("a.csv", "\nDATE,größe,Rows\n2026-01-01,x,5\n2026-01-02,,6.5\n".encode("cp1252"), "cp1252"),
    ("a.ndjson", b'{"ds": "2026-01-01", "y": 5}\n{"ds": "2026-01-02", "y": 6.5}', "utf-8"),
    ("a.json", b'[{"ds": "2026-01-01", "y": 5}, {"ds": "2026-01-02", "y": "6.5"}]', "utf-8"),
], ids=["comma", "semicolon", "tab", "bar with a mark", "utf-16", "windows lines", "cp1252", "ndjson", "json"])
def test_a_table_is_the_same_in_every_format(name: str, text: bytes, encoding: str, tmp_path: Path) -> None:
    told = data_files.read("volume", saved(tmp_path, text, name), Columns(), "Europe/Berlin", encoding)

    assert told.fields == {"historical_data": [{"timestamp": "2026-01-01T00:00:00+01:00", "row_count": 5.0},
                                               {"timestamp": "2026-01-02T00:00:00+01:00", "row_count": 6.5}]}
    assert not told.remarks


def test_a_parquet_file_of_pandas_is_read(tmp_path: Path) -> None:
    import pandas as pd

    path = tmp_path / "counts.parquet"
    pd.DataFrame({"day": pd.to_datetime(["2026-01-01", "2026-01-02"]), "n": [5, None]}).to_parquet(path)

    told = data_files.read("volume", path, Columns(value="N"), "UTC")

    assert told.fields["historical_data"] == [{"timestamp": "2026-01-01T00:00:00+00:00", "row_count": 5.0}]
    assert told.remarks == ["counts.parquet: 1 rows without a value were left out."]


def test_rows_in_any_order_are_sorted_and_that_is_said(tmp_path: Path) -> None:
    lines = ROWS.splitlines()
    shuffled = saved(tmp_path, "\n".join([lines[0], lines[2], lines[1]]))

    told = data_files.read("volume", shuffled, Columns(), "UTC")

    assert [entry["row_count"] for entry in told.fields["historical_data"]] == [5.0, 6.5]
    assert told.places == ["line 3", "line 2"]
    assert told.remarks == ["counts.csv: the rows were not in the order of time and have been sorted."]


def test_values_of_one_local_day_are_a_batch_and_empty_ones_are_missing(tmp_path: Path) -> None:
    path = saved(tmp_path, "when,code\n2026-01-02T01:00Z,NA\n2026-01-01T23:30Z,A1\n2026-01-01T12:00Z,\n")

    told = data_files.read("pattern", path, Columns(time="when", value="code"), "Europe/Berlin")

    assert told.fields["historical_data"] == [{"values": [None], "timestamp": "2026-01-01T00:00:00+01:00"},
                                              {"values": ["NA", "A1"], "timestamp": "2026-01-02T00:00:00+01:00"}]


def test_due_times_tell_of_loads_that_never_came(tmp_path: Path) -> None:
    path = saved(tmp_path, "due_at,lag_minutes\n2026-01-01T02:00Z,4\n2026-01-02T02:00Z,\n,7\n")

    told = data_files.read("timeliness", path, Columns(), "UTC")

    assert told.fields["historical_data"] == [{"due_at": "2026-01-01T02:00:00+00:00", "lag_minutes": 4.0},
                                              {"due_at": "2026-01-02T02:00:00+00:00"}]
    assert told.remarks == ["counts.csv: 1 rows without a value were left out."]


def test_profiles_as_they_were_loaded_into_the_history_are_read_too(tmp_path: Path) -> None:
    profile = {"rowCount": 5, "columnProfiles": []}
    lines = [{"table_id": "orders", "timestamp": "2026-01-02T00:00Z", "profile": profile},
             {**profile, "profiledAt": "2026-01-01"}]

    told = data_files.read("distribution", saved(tmp_path, json.dumps(lines), "p.json"), Columns(), "UTC")

    assert told.fields["historical_profiles"] == [{**profile, "profiledAt": "2026-01-01T00:00:00+00:00"},
                                                  {**profile, "profiledAt": "2026-01-02T00:00:00+00:00"}]
