"""Versions that never change and a pointer that one writer at a time moves."""

from __future__ import annotations

import hashlib
import json
from threading import Barrier, Thread

import pytest

from shared import registry as module
from shared.blobs import NOT_MODIFIED, Blobs
from shared.errors import Conflict, InvalidRequest, ModelNotFound, PayloadTooLarge
from shared.registry import CorruptArtefact, Manifest, Registry
from shared.settings import Settings

NAME = "volume-anomaly.orders"
CARD = {"algorithm": "prophet", "window": 28}


@pytest.fixture
def blobs(storage: str) -> Blobs:
    return Blobs(Settings(connection_string=storage))


@pytest.fixture
def registry(blobs: Blobs) -> Registry:
    return Registry(blobs, Settings())


def test_versions_are_numbered_from_one_and_keep_their_card(registry):
    first, second = registry.publish(NAME, b"one", CARD), registry.publish(NAME, b"two", {})

    assert (first.version, second.version) == ("1", "2")
    assert registry.versions(NAME) == ["1", "2"]
    assert registry.manifest(NAME, "1") == first
    assert first.card == CARD
    assert (first.sha256, first.size) == (hashlib.sha256(b"one").hexdigest(), 3)
    assert registry.fetch(NAME, "2") == b"two"


def test_version_ten_comes_after_version_nine(registry):
    for number in range(11):
        registry.publish(NAME, bytes([number]), {})

    assert registry.versions(NAME) == [str(number) for number in range(1, 12)]


def test_names_are_listed_by_prefix(registry):
    for name in ("volume-anomaly.orders", "volume-anomaly.items", "pattern-anomaly.items"):
        registry.publish(name, b"one", {})

    assert list(registry.names()) == ["pattern-anomaly.items", "volume-anomaly.items", "volume-anomaly.orders"]
    assert list(registry.names("volume-anomaly.")) == ["volume-anomaly.items", "volume-anomaly.orders"]


def test_nothing_is_there_before_the_first_version(registry):
    assert registry.champion(NAME) is None
    assert registry.versions(NAME) == list(registry.names()) == []
    for call in (lambda: registry.manifest(NAME, "1"), lambda: registry.fetch(NAME, "1"),
                 lambda: registry.promote(NAME, "1", reason=""), lambda: registry.rollback(NAME)):
        with pytest.raises(ModelNotFound):
            call()


def test_a_version_that_is_no_number_is_refused(registry):
    for version in ("", "0", "01", "1.0", "-1", "latest", "../1", "²", "1" * 10):
        with pytest.raises(InvalidRequest):
            registry.manifest(NAME, version)


def test_a_champion_lists_the_champions_before_it(registry):
    for number in range(1, 4):
        registry.publish(NAME, bytes([number]), {})
        registry.promote(NAME, str(number), reason=f"better {number}")

    champion = registry.champion(NAME)

    assert (champion.version, champion.current.reason) == ("3", "better 3")
    assert [(p.version, p.reason) for p in champion.previous] == [("2", "better 2"), ("1", "better 1")]
    assert champion.current.sha256 == registry.manifest(NAME, "3").sha256


def test_promoting_the_champion_changes_nothing(registry):
    registry.publish(NAME, b"one", {})

    first = registry.promote(NAME, "1", reason="first")

    assert registry.promote(NAME, "1", reason="again") == first == registry.champion(NAME)


def test_a_pointer_that_has_not_moved_is_not_sent_again(registry):
    registry.publish(NAME, b"one", {})
    registry.publish(NAME, b"two", {})
    first = registry.promote(NAME, "1", reason="first")

    assert registry.champion(NAME, first.etag) is NOT_MODIFIED
    registry.promote(NAME, "2", reason="second")
    assert registry.champion(NAME, first.etag).version == "2"


def test_rolling_back_twice_goes_back_two_champions(registry):
    for number in range(1, 4):
        registry.publish(NAME, bytes([number]), {})
        registry.promote(NAME, str(number), reason="better")

    versions = [registry.rollback(NAME).version, registry.rollback(NAME, reason="still worse").version]

    assert versions == ["2", "1"]
    assert registry.champion(NAME).current.reason == "still worse"
    assert registry.versions(NAME) == ["1", "2", "3"]
    with pytest.raises(Conflict, match="first champion"):
        registry.rollback(NAME)


def test_a_promotion_is_refused_when_the_champion_is_not_the_one_it_was_measured_against(registry):
    for payload in (b"one", b"two", b"three"):
        registry.publish(NAME, payload, {})
    registry.promote(NAME, "1", reason="first", expected=None)

    with pytest.raises(Conflict):
        registry.promote(NAME, "2", reason="no champion then", expected=None)
    registry.promote(NAME, "2", reason="better than 1", expected="1")
    with pytest.raises(Conflict, match="is version 2, not 1"):
        registry.promote(NAME, "3", reason="better than 1", expected="1")

    assert registry.champion(NAME).version == "2"


def test_publishers_at_the_same_time_get_a_version_each_and_none_is_lost(registry):
    payloads = [f"model {number}".encode() for number in range(6)]

    published = together(*(lambda p=payload: registry.publish(NAME, p, {}) for payload in payloads))

    assert sorted(m.version for m in published) == ["1", "2", "3", "4", "5", "6"]
    assert [registry.fetch(NAME, m.version) for m in published] == payloads


def test_of_two_publishers_with_the_same_champion_in_mind_one_wins_the_promotion(registry, blobs):
    registry.publish(NAME, b"old", {})
    registry.promote(NAME, "1", reason="first")

    def challenge(payload: bytes) -> str:
        own = Registry(blobs, Settings())
        version = own.publish(NAME, payload, {}).version
        own.promote(NAME, version, reason="better than 1", expected="1")
        return version

    outcomes = together(lambda: challenge(b"a"), lambda: challenge(b"b"))

    winners = [o for o in outcomes if isinstance(o, str)]
    assert len(winners) == 1
    assert isinstance(next(o for o in outcomes if not isinstance(o, str)), Conflict)
    assert registry.champion(NAME).version == winners[0]
    assert registry.versions(NAME) == ["1", "2", "3"]


def test_promotions_at_the_same_time_without_a_condition_all_happen(registry):
    for number in range(1, 5):
        registry.publish(NAME, bytes([number]), {})

    together(*(lambda v=str(number): registry.promote(NAME, v, reason="") for number in range(1, 5)))

    champion = registry.champion(NAME)
    assert {champion.version, *(p.version for p in champion.previous)} == {"1", "2", "3", "4"}


class Crash(BaseException):
    """The process ends here."""


class CrashingBlobs(Blobs):
    """Storage whose client dies at the first write of a name with this ending."""

    ending = ""

    def put(self, container, name, data, **condition):
        if name.endswith(self.ending):
            raise Crash
        return super().put(container, name, data, **condition)


@pytest.mark.parametrize("ending", ["2/model.onnx", "2/manifest.json", "champion.json"])
def test_a_crash_at_any_step_of_a_promotion_leaves_the_old_champion_working(registry, storage, ending):
    registry.publish(NAME, b"one", {})
    registry.promote(NAME, "1", reason="first")
    crashing = CrashingBlobs(Settings(connection_string=storage))
    crashing.ending = ending

    with pytest.raises(Crash):
        dying = Registry(crashing, Settings())
        dying.promote(NAME, dying.publish(NAME, b"two", {}).version, reason="better")

    assert registry.champion(NAME).version == "1"
    assert registry.fetch(NAME, "1") == b"one"
    after = registry.publish(NAME, b"three", {})
    assert registry.promote(NAME, after.version, reason="better").version == after.version
    assert registry.fetch(NAME, after.version) == b"three"


class ForgetfulBlobs(Blobs):
    """Storage that loses the answer to the first file, every manifest and every pointer: the client writes them twice."""

    def put(self, container, name, data, **condition):
        if name.endswith((".json", "/1/model.onnx")):
            super().put(container, name, data, **condition)
        return super().put(container, name, data, **condition)


def test_writes_whose_answer_was_lost_are_not_mistaken_for_somebody_elses(storage):
    registry = Registry(ForgetfulBlobs(Settings(connection_string=storage)), Settings())

    for payload in (b"one", b"two", b"three"):
        registry.promote(NAME, registry.publish(NAME, payload, {}).version, reason="better")

    assert [registry.fetch(NAME, version) for version in registry.versions(NAME)] == [b"one", b"two", b"three"]

    back = registry.rollback(NAME)
    assert registry.champion(NAME) == back
    assert registry.fetch(NAME, back.version) == b"two"


def test_a_version_without_a_manifest_is_not_there(registry, blobs):
    blobs.put("models", f"{NAME}/1/model.onnx", b"half")

    assert registry.versions(NAME) == []
    with pytest.raises(ModelNotFound):
        registry.promote(NAME, "1", reason="")
    assert registry.publish(NAME, b"whole", {}).version == "2"


@pytest.mark.parametrize(("stored", "reason"), [
    (b"on", "2 bytes instead of 3"), (b"", "0 bytes instead of 3"), (b"onE", "SHA-256"), (b"one more", "more than 3"),
    (None, "missing")])
def test_a_file_that_is_not_the_published_one_is_refused(registry, blobs, stored, reason):
    registry.publish(NAME, b"one", {})
    path = f"{NAME}/1/model.onnx"
    blobs.delete("models", path) if stored is None else blobs.put("models", path, stored)

    with pytest.raises(CorruptArtefact, match=reason):
        registry.fetch(NAME, "1")


@pytest.mark.parametrize("record", ["", "[]", "{}", "{", '{"version": 1}', "null"])
def test_records_that_cannot_be_read_are_reported_as_corrupt(registry, blobs, record):
    registry.publish(NAME, b"one", {})
    registry.promote(NAME, "1", reason="")
    for path in (f"{NAME}/champion.json", f"{NAME}/1/manifest.json"):
        blobs.put("models", path, record.encode())

    with pytest.raises(CorruptArtefact):
        registry.champion(NAME)
    with pytest.raises(CorruptArtefact):
        registry.manifest(NAME, "1")


def test_the_manifest_of_another_model_is_refused(registry, blobs):
    registry.publish(NAME, b"one", {})
    registry.publish("volume-anomaly.items", b"two", {})
    for file in ("model.onnx", "manifest.json"):
        blobs.put("models", f"{NAME}/1/{file}", blobs.get("models", f"volume-anomaly.items/1/{file}").data)

    with pytest.raises(CorruptArtefact, match=r"is that of volume-anomaly\.items 1"):
        registry.fetch(NAME, "1")


def test_a_model_that_is_too_large_is_neither_kept_nor_read(registry, blobs, monkeypatch):
    registry.publish(NAME, b"four", {})
    monkeypatch.setattr(module, "MAX_ARTEFACT_BYTES", 3)

    with pytest.raises(PayloadTooLarge):
        registry.publish(NAME, b"four", {})
    with pytest.raises(CorruptArtefact, match="claims 4 bytes"):
        registry.fetch(NAME, "1")


def test_a_manifest_is_plain_json(registry, blobs):
    manifest = registry.publish(NAME, b"one", CARD)

    stored = json.loads(blobs.get("models", f"{NAME}/1/manifest.json").data)

    assert Manifest(**stored) == manifest


def together(*calls):
    """What each call returned or raised, all of them started at the same moment."""
    barrier, outcomes = Barrier(len(calls)), [None] * len(calls)

    def run(number: int) -> None:
        barrier.wait()
        try:
            outcomes[number] = calls[number]()
        except Exception as error:
            outcomes[number] = error

    threads = [Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes
