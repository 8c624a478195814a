"""Blob storage: conditions, and what never reaches it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from shared.blobs import NOT_MODIFIED, Blobs
from shared.errors import Conflict, InvalidRequest, PayloadTooLarge, StorageUnavailable
from shared.history import History
from shared.ids import ID_PATTERN, check_id, check_model_name
from shared.registry import Registry
from shared.settings import Settings
from tests.loopback import Loopback, loopback

# What a path must not hold, and what an id must not be besides.
BAD_PATHS = ["", ".", "..", "../x", "a/../b", "a\\b", "a..b", "%2e%2e", "a%2fb", "a b", "a\n", ".a", "a.", "a?b", "a#b",
             "é", "a\0"]
BAD_IDS = [*BAD_PATHS, "a/b", "/", "-a", "_a", "a" * 64]


@pytest.fixture
def blobs(storage: str) -> Blobs:
    return Blobs(Settings(connection_string=storage))


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Loopback]:
    with loopback(getattr(request, "param", 404)) as running:
        yield running


@pytest.mark.parametrize("text", ["a", "orders", "Orders_2-x.y", "0", "a" * 63, "a.b.c", "a-", "a_"])
def test_ids_of_letters_digits_and_inner_punctuation_pass(text):
    assert check_id(text, "table_id") == text
    assert ID_PATTERN.fullmatch(text)


@pytest.mark.parametrize("text", BAD_IDS)
def test_every_other_id_is_refused_by_the_name_of_its_field(text):
    with pytest.raises(InvalidRequest) as error:
        check_id(text, "table_id")

    assert error.value.target == "table_id"


def test_the_longest_kind_and_table_make_a_model_name():
    assert check_model_name(f"{'k' * 63}.{'t' * 63}")
    with pytest.raises(InvalidRequest, match="at most 127"):
        check_model_name("m" * 128)


@pytest.mark.parametrize("bad", BAD_PATHS)
def test_no_bad_name_ever_reaches_storage(server, bad):
    blobs, history = Blobs(server.settings), History(server.settings)
    registry = Registry(blobs, server.settings)
    calls = [
        lambda: blobs.get("models", f"a/{bad}/model.onnx"),
        lambda: blobs.put("models", f"a/{bad}/model.onnx", b""),
        lambda: blobs.delete("models", f"a/{bad}/b"),
        lambda: list(blobs.stream("models", f"a/{bad}/b")),
        lambda: registry.champion(bad + "." + bad),
        lambda: registry.publish(f"volume-anomaly.{bad}", b"", {}),
        lambda: registry.versions(f"volume-anomaly.{bad}"),
        lambda: registry.manifest("volume-anomaly.orders", bad),
        lambda: registry.promote("volume-anomaly.orders", bad, reason=""),
        lambda: registry.rollback(f"volume-anomaly.{bad}"),
        lambda: history.read("volume", bad),
        lambda: history.read(bad, "orders"),
        lambda: history.record("volume", bad, []),
        lambda: list(history.tables(bad)),
    ]

    for call in calls:
        with pytest.raises(InvalidRequest):
            call()

    assert server.paths == []


def test_a_good_name_is_the_path_that_is_asked_for(server):
    Registry(Blobs(server.settings), server.settings).champion("volume-anomaly.orders")

    assert server.paths == ["/account/models/volume-anomaly.orders/champion.json"]


@pytest.mark.parametrize("server", [401, 403, 429, 500, 503], indirect=True)
def test_an_account_that_refuses_is_unavailable_and_its_address_stays_private(server):
    for call in (lambda: Blobs(server.settings).get("models", "a"),
                 lambda: Blobs(server.settings).put("models", "a", b""),
                 lambda: list(Blobs(server.settings).names("models")),
                 lambda: History(server.settings).read("volume", "orders")):
        with pytest.raises(StorageUnavailable) as error:
            call()

        assert "127.0.0.1" not in error.value.message

    assert len(server.paths) <= 2 * 4


def test_an_account_that_swallows_every_packet_is_reported_within_seconds():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as stack:
        address = server.getsockname()
        for _ in range(4):  # a full queue: the kernel drops whoever connects next
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        at = f"http://127.0.0.1:{address[1]}/account"
        blobs = Blobs(Settings(connection_string=f"AccountName=account;AccountKey=a2V5;BlobEndpoint={at}"))

        began = time.monotonic()
        with pytest.raises(StorageUnavailable):
            blobs.get("models", "a")

        assert time.monotonic() - began < 4


def test_a_container_is_created_by_the_first_write(blobs):
    assert blobs.get("fresh", "a/b") is None
    assert list(blobs.names("fresh")) == list(blobs.folders("fresh")) == list(blobs.stream("fresh", "a")) == []

    blobs.put("fresh", "a/b", b"one")

    assert blobs.get("fresh", "a/b").data == b"one"


def test_a_blob_that_has_not_changed_is_not_sent_again(blobs):
    first = blobs.put("models", "a", b"one")

    assert blobs.get("models", "a", first) is NOT_MODIFIED
    second = blobs.put("models", "a", b"two")
    assert blobs.get("models", "a", first).data == b"two"
    assert blobs.get("models", "a", second) is NOT_MODIFIED


def test_conditions_let_one_writer_win(blobs):
    etag = blobs.put("models", "a", b"one", if_absent=True)

    with pytest.raises(Conflict):
        blobs.put("models", "a", b"two", if_absent=True)
    blobs.put("models", "a", b"three", if_match=etag)
    with pytest.raises(Conflict):
        blobs.put("models", "a", b"four", if_match=etag)
    with pytest.raises(Conflict):
        blobs.put("models", "missing", b"five", if_match=etag)

    assert blobs.get("models", "a").data == b"three"


def test_a_blob_that_is_too_long_is_not_read(blobs):
    blobs.put("models", "a", b"12345")

    assert blobs.get("models", "a", longest=5).data == b"12345"
    with pytest.raises(PayloadTooLarge):
        blobs.get("models", "a", longest=4)


def test_an_empty_blob_is_read_as_empty(blobs):
    blobs.put("models", "a", b"")

    assert blobs.get("models", "a").data == b""


def test_names_and_folders_are_listed_under_a_prefix(blobs):
    for name in ("a/1/x", "a/2/y", "b/1/x", "ab"):
        blobs.put("models", name, b"")

    assert list(blobs.names("models", "a/")) == ["a/1/x", "a/2/y"]
    assert list(blobs.folders("models")) == ["a", "b"]
    assert list(blobs.folders("models", "a/")) == ["a/1", "a/2"]


def test_deleting_what_is_not_there_is_fine(blobs):
    blobs.put("models", "a", b"one")

    blobs.delete("models", "a")
    blobs.delete("models", "a")

    assert blobs.get("models", "a") is None
