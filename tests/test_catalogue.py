"""What a worker keeps in memory: fresh enough, bounded, and there when storage is not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shared.cache import OUTAGE_SECONDS
from shared.catalogue import Catalogue
from shared.errors import InvalidRequest, StorageUnavailable
from shared.history import Point
from shared.settings import Settings
from tests.catalogues import NAME, RECHECK, Clock, counting, factor, promote
from tests.onnx_models import model
from tools.azurite import Azurite, free_ports

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def catalogue(storage: str, clock: Clock) -> Catalogue:
    return counting(Settings(connection_string=storage), clock)


# Models


def test_a_name_without_a_champion_has_no_model(catalogue):
    catalogue.registry.publish(NAME, model(1.0), {})

    assert catalogue.model(NAME) is None


def test_the_champion_answers_with_its_version_hash_and_card(catalogue):
    promote(catalogue, 2.0)

    loaded = catalogue.model(NAME)

    manifest = catalogue.registry.manifest(NAME, "1")
    assert (loaded.name, loaded.version, loaded.sha256, loaded.stale) == (NAME, "1", manifest.sha256, None)
    assert manifest.card == {"factor": 2.0}
    assert factor(loaded) == 2.0


def test_a_promotion_is_seen_after_the_recheck_time_and_not_before(catalogue, clock):
    promote(catalogue, 2.0)
    catalogue.model(NAME)
    promote(catalogue, 3.0)

    clock.pass_(RECHECK - 1)
    assert factor(catalogue.model(NAME)) == 2.0
    clock.pass_(1)
    assert factor(catalogue.model(NAME)) == 3.0


def test_a_first_promotion_is_seen_after_the_recheck_time(catalogue, clock):
    assert catalogue.model(NAME) is None
    promote(catalogue, 2.0)

    assert catalogue.model(NAME) is None
    clock.pass_(RECHECK)
    assert factor(catalogue.model(NAME)) == 2.0


def test_a_rollback_brings_the_version_before_back(catalogue, clock):
    promote(catalogue, 2.0)
    promote(catalogue, 3.0)
    assert factor(catalogue.model(NAME)) == 3.0

    catalogue.registry.rollback(NAME)
    clock.pass_(RECHECK)

    loaded = catalogue.model(NAME)
    assert (factor(loaded), loaded.version, loaded.stale) == (2.0, "1", None)


def test_an_unchanged_model_is_never_downloaded_again(catalogue, clock):
    promote(catalogue, 2.0)

    loaded = {id(catalogue.model(NAME).artefact)}
    for _ in range(5):
        clock.pass_(RECHECK)
        loaded.add(id(catalogue.model(NAME).artefact))

    assert len(loaded) == catalogue.registry.downloads == 1


def test_many_callers_at_once_load_a_model_once(catalogue):
    promote(catalogue, 2.0)

    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(catalogue.model, [NAME] * 8))

    assert catalogue.registry.downloads == 1
    assert len({id(one.artefact) for one in loaded}) == 1


def test_the_same_version_number_with_another_file_is_another_model(catalogue, clock):
    promote(catalogue, 2.0)
    catalogue.model(NAME)
    for blob in list(catalogue.blobs.names("models")):
        catalogue.blobs.delete("models", blob)

    assert promote(catalogue, 3.0) == "1"
    clock.pass_(RECHECK)

    assert factor(catalogue.model(NAME)) == 3.0


def test_a_registry_that_was_emptied_leaves_no_model(catalogue, clock):
    promote(catalogue, 2.0)
    catalogue.model(NAME)
    catalogue.blobs.delete("models", f"{NAME}/champion.json")

    clock.pass_(RECHECK)

    assert catalogue.model(NAME) is None


def test_models_in_memory_are_bounded_and_the_latest_used_stay(storage, clock):
    names = [f"volume-anomaly.t{n}" for n in range(8)]
    catalogue = counting(Settings(connection_string=storage, model_cache_bytes=320_000), clock)
    for name in names:
        promote(catalogue, 2.0, name)

    for name in names:
        clock.pass_(1)
        catalogue.model(names[0])
        catalogue.model(name)
        assert catalogue.status()["models"]["bytes"] <= 320_000

    downloads = catalogue.registry.downloads
    catalogue.model(names[0])
    catalogue.model(names[-1])
    assert catalogue.registry.downloads == downloads
    catalogue.model(names[1])
    assert catalogue.registry.downloads == downloads + 1


def test_a_model_larger_than_the_bound_still_answers(storage, clock):
    catalogue = counting(Settings(connection_string=storage, model_cache_bytes=1), clock)
    promote(catalogue, 2.0)

    assert factor(catalogue.model(NAME)) == factor(catalogue.model(NAME)) == 2.0


def test_a_name_that_is_none_is_refused_and_not_kept(catalogue):
    for _ in range(2):
        with pytest.raises(InvalidRequest):
            catalogue.model("../secrets")

    assert catalogue.status()["models"]["bytes"] == 0


# History


def points(*values: float) -> list[Point]:
    return [Point(NOON + timedelta(days=n), value) for n, value in enumerate(values)]


def test_a_series_is_read_once_and_again_after_the_recheck_time(catalogue, clock):
    catalogue.history.record("volume", "orders", points(1.0, 2.0))
    first = catalogue.series("volume", "orders", NOON)
    catalogue.history.record("volume", "orders", points(1.0, 2.0, 3.0))

    assert catalogue.series("volume", "orders", NOON) is first
    clock.pass_(RECHECK)
    assert catalogue.series("volume", "orders", NOON).values.tolist() == [1.0, 2.0, 3.0]


def test_a_series_holds_the_days_before_the_time_that_is_asked_about(storage, clock):
    catalogue = Catalogue(Settings(connection_string=storage, history_days=100), clock)
    catalogue.history.record("volume", "orders", [Point(NOON + timedelta(days=n), n) for n in range(0, 400, 40)])

    def values(days: int) -> list[float]:
        return catalogue.series("volume", "orders", NOON + timedelta(days=days)).values.tolist()

    assert values(320) == [200, 240, 280, 320, 360]
    assert values(360) == values(300) == [200, 240, 280, 320, 360]
    assert values(220) == [120, 160, 200, 240, 280, 320, 360]
    assert catalogue.series("volume", "orders", datetime.min.replace(tzinfo=UTC)).values[0] == 0


def test_a_noted_point_is_seen_by_the_next_call_and_survives_a_recheck(catalogue, clock):
    catalogue.history.record("volume", "orders", points(1.0, 2.0))
    catalogue.series("volume", "orders", NOON)

    catalogue.note("volume", "orders", Point(NOON + timedelta(days=2), 9.0, "anomaly"))

    assert catalogue.series("volume", "orders", NOON).values.tolist() == [1.0, 2.0, 9.0]
    clock.pass_(RECHECK)
    assert catalogue.series("volume", "orders", NOON).values.tolist() == [1.0, 2.0, 9.0]
    clock.pass_(10 * RECHECK)
    assert catalogue.series("volume", "orders", NOON).values.tolist() == [1.0, 2.0]


def test_a_table_that_is_forgotten_is_read_again(catalogue):
    catalogue.history.record("volume", "orders", points(1.0))
    catalogue.series("volume", "orders", NOON)
    catalogue.note("volume", "orders", Point(NOON + timedelta(days=9), 9.0))
    catalogue.history.record("volume", "orders", points(5.0))

    catalogue.forget("volume", "orders")

    assert catalogue.series("volume", "orders", NOON).values.tolist() == [5.0]


def test_noting_and_forgetting_what_is_not_in_memory_is_fine(catalogue):
    catalogue.note("volume", "orders", points(1.0)[0])
    catalogue.forget("volume", "orders")

    assert len(catalogue.series("volume", "orders").seconds) == 0


# Storage that is down


@pytest.fixture
def own_azurite(tmp_path: Path) -> Iterator[Azurite]:
    blob, queue, table = free_ports(3)
    with Azurite(tmp_path, (blob, queue, table)) as running:
        yield running


def test_a_worker_lives_through_an_outage_of_storage(own_azurite, clock):
    catalogue = counting(Settings(connection_string=own_azurite.connection_string()), clock)
    promote(catalogue, 2.0)
    promote(catalogue, 5.0, "volume-anomaly.cold")
    catalogue.history.record("volume", "orders", points(1.0, 2.0))
    catalogue.model(NAME)
    catalogue.series("volume", "orders", NOON)

    own_azurite.stop()

    # Fresh: nobody asks storage. Due: storage is asked, does not answer, and what is in memory says so.
    assert catalogue.model(NAME).stale is None
    clock.pass_(RECHECK)
    began = time.perf_counter()
    loaded, series = catalogue.model(NAME), catalogue.series("volume", "orders", NOON)
    assert (factor(loaded), loaded.stale) == (2.0, "Storage does not answer.")
    assert (series.values.tolist(), series.stale) == ([1.0, 2.0], "Storage does not answer.")
    catalogue.note("volume", "orders", Point(NOON + timedelta(days=2), 3.0))
    assert catalogue.series("volume", "orders", NOON).values.tolist() == [1.0, 2.0, 3.0]

    # Cold: nothing is known, and that is said quickly.
    for call in (lambda: catalogue.model("volume-anomaly.cold"), lambda: catalogue.series("volume", "cold")):
        with pytest.raises(StorageUnavailable):
            call()
    assert time.perf_counter() - began < 3
    assert catalogue.status()["storage_error"] == "Storage does not answer."

    own_azurite.start()
    clock.pass_(OUTAGE_SECONDS)

    assert (factor(catalogue.model(NAME)), catalogue.model(NAME).stale) == (2.0, None)
    assert catalogue.series("volume", "orders", NOON).stale is None
    assert factor(catalogue.model("volume-anomaly.cold")) == 5.0
    assert catalogue.status()["storage_error"] is None


def test_a_missing_connection_is_an_outage_that_names_the_setting(clock):
    catalogue = Catalogue(Settings(), clock)

    for call in (lambda: catalogue.model(NAME), lambda: catalogue.series("volume", "orders")):
        with pytest.raises(StorageUnavailable, match="DATA_STORAGE"):
            call()
