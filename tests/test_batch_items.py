"""One chunk: a bad item fails alone, and what storage cannot tell now is asked again later."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from detectors import many
from shared.batch_input import of_list
from shared.batch_items import MOST_BETWEEN, described, digest, figures, judge
from shared.catalogue import Catalogue
from shared.contract_tables import Table
from shared.entities import Entities
from shared.errors import StorageUnavailable
from shared.history import History
from shared.settings import Settings
from shared.tables import Tables
from tests.loopback import loopback
from tests.test_batch import item

NOW = datetime(2026, 7, 7, tzinfo=UTC)


def breaks_on_thirteen(name: str, requests: Sequence[Any], catalogue: Catalogue, now: datetime) -> list[many.Outcome]:
    """A detector with a bug."""
    if any(request.current_row_count == 13 for request in requests):
        raise ZeroDivisionError
    return many.score(name, requests, catalogue, now)


def test_an_item_that_breaks_the_detector_fails_alone() -> None:
    items = of_list([item("a"), item("b", 13), item("c")])

    judged = judge("volume", items, Catalogue(Settings()), NOW, score=breaks_on_thirteen)

    assert [(one.item_id, one.error.code if one.error else None) for one in judged] == [
        ("a", None), ("b", "InternalError"), ("c", None)]
    assert judged[0].answer is not None and judged[0].answer.status == "evaluated"


def test_a_detector_that_fails_on_every_item_is_no_fault_of_the_items() -> None:
    with pytest.raises(ZeroDivisionError):
        judge("volume", of_list([item("a", 13), item("b", 13)]), Catalogue(Settings()), NOW, score=breaks_on_thirteen)


def test_items_that_cannot_be_read_keep_the_name_they_give_themselves() -> None:
    items = of_list([{"table_id": "orders", "current_row_count": "x"}, {"request_id": "r1"}, [], "text", {"table_id": 7}])

    judged = judge("volume", items, Catalogue(Settings()), NOW)

    assert [(one.line, one.item_id) for one in judged] == [(1, "orders"), (2, "r1"), (3, None), (4, None), (5, None)]
    assert all(one.error and one.error.code == "InvalidRequest" for one in judged)


def test_the_figures_of_a_chunk_add_up_and_its_digest_names_what_matters() -> None:
    judged = judge("volume", of_list([item("a"), item("low", 5), {}, item("young", historical_data=[])]),
                   Catalogue(Settings()), NOW)

    found, told = figures(judged), digest(judged)

    assert (found.items, found.failed, found.anomalies) == (4, 1, 1)
    assert sum(found.severity.values()) == sum(found.status.values()) == 3
    assert [one["line"] for one in told["failures"]] == [3] and [one["item_id"] for one in told["anomalies"]] == ["low"]
    times = [one["latency_ms"] for one in told["slowest"]]
    assert times == sorted({one.answer.latency_ms for one in judged if one.answer}, reverse=True)


def test_a_chunk_is_not_judged_while_storage_does_not_answer() -> None:
    items = of_list([item("a"), {"table_id": "orders", "current_row_count": 1}])

    with loopback(503) as storage, pytest.raises(StorageUnavailable):
        judge("volume", items, Catalogue(storage.settings), NOW)


@pytest.mark.parametrize("others", [0, MOST_BETWEEN + 20])
def test_what_is_known_of_tables_is_found_however_many_others_lie_between_them(storage: str, others: int) -> None:
    tables = Tables(History(Settings(connection_string=storage)), "described")
    for table_id in ("a", "b5", "z"):
        tables.put(table_id, {"labels": {"source": table_id}})
    text = Table().model_dump_json()
    rows = [{"PartitionKey": "tables", "RowKey": f"b6.{n:05d}", "described": text} for n in range(others)]
    Entities(History(Settings(connection_string=storage)), "described").put_many(rows)

    known = described(["a", "b4", "b5", "c", "z"], tables)

    assert {name: known[name].labels["source"] for name in ("a", "b5", "z")} == {"a": "a", "b5": "b5", "z": "z"}
    assert known.get("b4") is None and known.get("c") is None
