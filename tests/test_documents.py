"""Documents of tables on a real Table storage emulator."""

from __future__ import annotations

import random
import string
from datetime import UTC, datetime, timedelta, timezone
from threading import Thread

import pytest

from shared.documents import CHUNK_BYTES, MAX_BYTES, Documents
from shared.errors import InvalidRequest, NotFound, PayloadTooLarge, StorageUnavailable
from shared.history import History, Point
from shared.settings import Settings
from tests.loopback import loopback

DAY = datetime(2026, 3, 1, 2, tzinfo=UTC)


def day(number: int) -> datetime:
    return DAY + timedelta(days=number)


@pytest.fixture
def history(storage: str) -> History:
    return History(Settings(connection_string=storage))


@pytest.fixture
def documents(history: History) -> Documents:
    return Documents(history)


def noise(characters: int) -> str:
    """Text that does not compress below three quarters."""
    return "".join(random.Random(0).choices(string.ascii_letters + string.digits, k=characters))


def test_documents_come_back_by_time_as_they_were_with_their_status(documents):
    first, second = {"rows": 3, "é": [None, 1.5, {"deep": "🙂"}]}, {"rows": 4}
    documents.record("distribution", "orders", day(1), second, "anomaly")
    documents.record("distribution", "orders", day(0), first)

    kept = documents.read("distribution", "orders")

    assert kept == [(day(0), first, "ok"), (day(1), second, "anomaly")]
    assert kept[0][0].utcoffset() == timedelta(0)


def test_a_table_that_is_not_known_has_no_documents(documents):
    assert documents.read("distribution", "orders") == []


def test_a_later_document_replaces_the_one_of_the_same_time_even_when_it_is_shorter(documents):
    documents.record("distribution", "orders", day(0), {"text": noise(4 * CHUNK_BYTES)}, "anomaly")

    documents.record("distribution", "orders", day(0).astimezone(timezone(timedelta(hours=2))), {"text": "short"})

    assert documents.read("distribution", "orders") == [(day(0), {"text": "short"}, "ok")]


def test_a_range_holds_its_start_and_not_its_end(documents):
    for n in range(6):
        documents.record("distribution", "orders", day(n), {"n": n})

    assert [d["n"] for _, d, _ in documents.read("distribution", "orders", day(2), day(4))] == [2, 3]
    assert [d["n"] for _, d, _ in documents.read("distribution", "orders", start=day(4))] == [4, 5]
    assert [d["n"] for _, d, _ in documents.read("distribution", "orders", end=day(1))] == [0]


def test_a_document_of_the_largest_size_is_kept_whole(documents):
    large = {"text": noise(int(MAX_BYTES * 1.32))}

    documents.record("distribution", "orders", day(0), large)

    assert documents.read("distribution", "orders") == [(day(0), large, "ok")]


def test_a_document_that_is_too_large_is_refused_and_the_limit_named(documents):
    with pytest.raises(PayloadTooLarge, match="at most 737,280 are kept"):
        documents.record("distribution", "orders", day(0), {"text": noise(2 * MAX_BYTES)})

    assert documents.read("distribution", "orders") == []


def test_documents_and_points_of_one_table_and_detector_do_not_meet(documents, history):
    history.record("distribution", "orders", [Point(day(0), 7.0)])
    documents.record("distribution", "orders", day(0), {"n": 1})
    documents.record("distribution", "customers", day(0), {"n": 2})
    documents.record("pattern", "orders", day(0), {"n": 3})

    assert history.read("distribution", "orders").values.tolist() == [7.0]
    assert [d["n"] for _, d, _ in documents.read("distribution", "orders")] == [1]
    assert list(history.tables("distribution")) == ["customers", "orders"]


def test_a_status_set_by_a_user_leaves_the_document_alone(documents):
    documents.record("distribution", "orders", day(0), {"n": 1}, "anomaly")

    documents.set_status("distribution", "orders", day(0), "expected")

    assert documents.read("distribution", "orders") == [(day(0), {"n": 1}, "expected")]


def test_what_is_not_there_or_no_status_or_no_id_is_said(documents):
    documents.record("distribution", "orders", day(0), {})

    with pytest.raises(NotFound, match="orders has no document at 2026-03-02"):
        documents.set_status("distribution", "orders", day(1), "expected")
    with pytest.raises(InvalidRequest, match="A status is one of ok"):
        documents.record("distribution", "orders", day(0), {}, "fine")
    with pytest.raises(InvalidRequest) as refused:
        documents.read("distribution", "../orders")
    assert refused.value.target == "table_id"
    with pytest.raises(InvalidRequest, match="time zone"):
        documents.record("distribution", "orders", DAY.replace(tzinfo=None), {})


def test_writers_at_once_lose_nothing(documents):
    threads = [Thread(target=documents.record, args=("distribution", "orders", day(n), {"n": n})) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [d["n"] for _, d, _ in documents.read("distribution", "orders")] == list(range(8))


def test_an_account_that_refuses_is_reported_as_unavailable():
    with loopback(503) as server, pytest.raises(StorageUnavailable):
        Documents(History(server.settings)).read("distribution", "orders")


def test_what_changed_since_the_last_look_is_found_and_nothing_else(documents, monkeypatch):
    monkeypatch.setattr("shared.documents.OVERLAP", timedelta(0))
    for n in range(3):
        documents.record("distribution", "orders", day(n), {"n": n})
    _, seen = documents.changes("distribution", "orders", None, None)
    documents.record("distribution", "orders", day(3), {"n": 3})
    documents.set_status("distribution", "orders", day(1), "expected")

    found, latest = documents.changes("distribution", "orders", day(1), seen + timedelta(microseconds=1000))

    assert [(d["n"], status) for _, d, status in found] == [(1, "expected"), (3, "ok")]
    assert latest > seen
