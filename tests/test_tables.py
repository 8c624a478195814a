"""Labels and settings of tables, on a real Table storage emulator."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared import tables as known
from shared.contract import VolumeRequest, parse
from shared.contract_sequence import SequenceRequest
from shared.contract_tables import Table, with_defaults
from shared.contract_timeliness import TimelinessRequest
from shared.errors import InvalidJson, InvalidRequest, NotFound, PayloadTooLarge
from shared.history import History
from shared.settings import Settings
from shared.tables import Tables, merged

CLOCK = [0.0]


@pytest.fixture
def tables(storage: str) -> Tables:
    return Tables(History(Settings(connection_string=storage)), "described", 60.0, lambda: CLOCK[0])


def say(tables: Tables, table_id: str, **patch: Any) -> dict[str, Any]:
    return known.describe(tables, table_id, json.dumps(patch).encode())


def table(**settings: Any) -> Table:
    return Table.model_validate_json(json.dumps({"settings": settings}))


def volume(**body: Any) -> VolumeRequest:
    return parse(VolumeRequest, json.dumps({"current_row_count": 1, **body}).encode())


def test_a_table_that_nobody_described_is_none_and_the_list_is_empty(tables):
    assert tables.get("orders") is None
    assert known.listing(tables, {}) == {"tables": [], "next": None}
    with pytest.raises(NotFound):
        known.description(tables, "orders")


def test_given_fields_replace_null_removes_and_others_stay(tables):
    say(tables, "orders", labels={"source": "sap", "owner": "ann"}, settings={"sensitivity": 80, "timezone": "Asia/Tokyo"})

    shown = say(tables, "orders", labels={"owner": None, "schema": "dwh"}, settings={"timezone": None, "sla_minutes": 30})

    assert shown == {"table_id": "orders", "labels": {"source": "sap", "schema": "dwh"},
                     "settings": {"sensitivity": 80.0, "sla_minutes": 30.0}}
    assert known.description(tables, "orders") == shown


def test_what_was_said_of_a_detector_alone_is_merged_too(tables):
    say(tables, "orders", settings={"detectors": {"volume": {"sensitivity": 70, "alerts": {"consecutive": 3}}}})

    say(tables, "orders", settings={"detectors": {"volume": {"sensitivity": None}}})

    assert tables.get("orders").policy("volume").consecutive == 3
    assert tables.get("orders").settings.detectors["volume"].sensitivity is None


@pytest.mark.parametrize(("patch", "target"), [
    ({"labels": {"1source": "a"}}, "labels"), ({"labels": {"source": ""}}, "labels"), ({"labels": {"source": 5}}, "labels"),
    ({"labels": {"source": "a\nb"}}, "labels"), ({"labels": {f"l{n}": "x" for n in range(21)}}, "labels"),
    ({"settings": {"sensitivty": 80}}, "settings"), ({"settings": {"sensitivity": 100}}, "settings"),
    ({"settings": {"timezone": "Mars/Base"}}, "settings"), ({"settings": {"schedule": {"cron": "whenever"}}}, "settings"),
    ({"settings": {"alerts": {"consecutive": 0}}}, "settings"), ({"settings": {"detectors": {"weather": {}}}}, "settings"),
])
def test_what_is_wrong_is_refused_by_its_path_and_nothing_is_kept(tables, patch, target):
    with pytest.raises(InvalidRequest) as refused:
        say(tables, "orders", **patch)

    assert str(refused.value.target).startswith(target)
    assert tables.get("orders") is None


@pytest.mark.parametrize("table_id", ["../other", "a'b", "", "x" * 64])
def test_an_id_that_is_none_reaches_no_storage(tables, table_id):
    with pytest.raises(InvalidRequest):
        say(tables, table_id, labels={})


def test_a_body_that_cannot_be_kept_is_refused(tables):
    with pytest.raises(InvalidJson):
        known.describe(tables, "orders", b"{")
    with pytest.raises(InvalidRequest):
        known.describe(tables, "orders", b"[]")
    with pytest.raises(PayloadTooLarge):
        known.describe(tables, "orders", b" " * 300_000)
    with pytest.raises(PayloadTooLarge):
        dates = {"dates": [f"20{n % 90 + 10}-01-01" for n in range(2000)]}
        say(tables, "orders", settings={"holidays": dates}, labels={f"l{n}": "x" * 200 for n in range(20)})


def test_tables_are_listed_by_prefix_page_and_label(tables):
    for n in range(12):
        say(tables, f"sales.t{n:02d}", labels={"source": "o'neill & sons" if n % 2 else "sap", "team": "ab"[n // 6]})
    say(tables, "stock", labels={"source": "sap"})

    def ids(**params: str) -> list[str]:
        return [entry["table_id"] for entry in known.listing(tables, params)["tables"]]

    assert len(ids()) == 13
    assert ids(prefix="sales.") == [f"sales.t{n:02d}" for n in range(12)]
    assert ids(label="source:sap", after="sales.t06") == ["sales.t08", "sales.t10", "stock"]
    assert ids(label="source:o'neill & sons,team:a") == ["sales.t01", "sales.t03", "sales.t05"]
    first = known.listing(tables, {"limit": "5"})
    assert first["next"] == "sales.t04" and len(first["tables"]) == 5
    assert ids(after=first["next"], limit="1") == ["sales.t05"]
    for wrong in ({"label": "source"}, {"label": "so'urce:sap"}, {"limit": "0"}, {"prefix": "a'"}):
        with pytest.raises(InvalidRequest):
            known.listing(tables, wrong)


def test_two_who_describe_a_table_at_once_both_are_heard(tables, storage):
    other = Tables(History(Settings(connection_string=storage)), "described")
    say(tables, "orders", labels={"source": "sap"})
    read = tables._read
    interrupted = []

    def interrupt(table_id: str) -> Any:
        seen = read(table_id)
        if not interrupted:
            interrupted.append(say(other, "orders", labels={"owner": "ann"}))
        return seen

    tables._read = interrupt
    assert say(tables, "orders", labels={"schema": "dwh"})["labels"] == {"source": "sap", "owner": "ann", "schema": "dwh"}


def test_what_is_known_is_remembered_for_a_while_and_own_changes_are_seen_at_once(tables, storage):
    other = Tables(History(Settings(connection_string=storage)), "described")
    say(tables, "orders", settings={"sensitivity": 50})
    assert tables.get("orders").settings.sensitivity == 50

    say(other, "orders", settings={"sensitivity": 60})

    assert tables.get("orders").settings.sensitivity == 50
    CLOCK[0] += 61
    assert tables.get("orders").settings.sensitivity == 60


def test_tables_with_a_schedule_of_their_own_are_found(tables):
    say(tables, "hourly", settings={"schedule": {"cron": "5 * * * *"}})
    say(tables, "learnt", settings={"sensitivity": 50})

    assert list(tables.scheduled()) == ["hourly"]


def test_a_merge_patch_does_what_the_standard_says():
    assert merged({"a": "b", "c": {"d": "e", "f": "g"}}, {"a": "z", "c": {"f": None}}) == {"a": "z", "c": {"d": "e"}}
    assert merged({"a": [1, 2]}, {"a": [3]}) == {"a": [3]}
    assert merged({}, {"a": {"bb": {"ccc": None}}}) == {"a": {"bb": {}}}


def test_a_request_takes_from_the_table_what_its_caller_left_out():
    asked = with_defaults(volume(sensitivity=95), table(sensitivity=50, timezone="Europe/Berlin", sla_minutes=5), "volume")

    assert (asked.sensitivity, asked.timezone) == (95, "Europe/Berlin")
    assert not hasattr(asked, "sla_minutes")
    assert with_defaults(asked, None, "volume") is asked


def test_without_storage_a_request_goes_on_as_it_came_and_says_so(tables):
    away = Settings(connection_string="AccountName=a;AccountKey=a2V5;TableEndpoint=http://127.0.0.1:9/a")
    asked, warnings = known.settled(volume(table_id="orders"), "volume", Tables(History(away), "described"))
    assert asked.sensitivity == 90 and "settings were left out" in warnings[0]

    say(tables, "orders", settings={"sensitivity": 50})
    asked, warnings = known.settled(volume(table_id="orders"), "volume", tables)
    assert asked.sensitivity == 50 and warnings == []
    assert known.settled(volume(), "volume", tables) == (volume(), [])


def test_settings_of_one_detector_go_before_those_of_all():
    both = table(sensitivity=50, direction="drop", detectors={"volume": {"sensitivity": 99}})

    assert with_defaults(volume(), both, "volume").sensitivity == 99
    assert with_defaults(volume(), both, "volume").direction == "drop"
    assert with_defaults(TimelinessRequest(), both, "timeliness").sensitivity == 50


def test_a_granularity_that_a_detector_does_not_know_is_left_out():
    points = [{"timestamp": "2026-01-01T00:00:00Z", "values": [1.0]}]
    request = parse(SequenceRequest, json.dumps({"points": points}).encode())

    assert with_defaults(request, table(granularity="weekly"), "sequence").granularity == "hourly"
    assert with_defaults(request, table(granularity="daily"), "sequence").granularity == "daily"
    assert with_defaults(volume(), table(granularity="weekly"), "volume").granularity == "weekly"


def test_the_schedule_of_a_table_reaches_the_timeliness_detector():
    settings = table(schedule={"cron": "30 6 * * 1-5"}, sla_minutes=45)

    asked = with_defaults(TimelinessRequest(), settings, "timeliness")

    assert asked.schedule.cron == "30 6 * * 1-5" and asked.sla_minutes == 45
