"""Models that cannot be used, and who answers instead."""

from __future__ import annotations

import numpy as np
import pytest

from shared.catalogue import REFUSED_SECONDS, Catalogue
from shared.errors import ModelUnavailable
from shared.settings import Settings
from tests.catalogues import NAME, RECHECK, Clock, counting, factor, overwrite, promote
from tests.onnx_models import model


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def catalogue(storage: str, clock: Clock) -> Catalogue:
    return counting(Settings(connection_string=storage), clock)


BROKEN = {
    "truncated": lambda good: good[:-20],
    "corrupt": lambda good: bytes([good[0] ^ 1]) + good[1:],
    "tampered": lambda good: good.replace(np.float64(3.0).tobytes(), np.float64(3.1).tobytes()),
    "swapped": lambda good: model(9.0),
    "empty": lambda good: b"",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_champion_is_refused_and_the_model_before_it_answers(catalogue, clock, kind):
    promote(catalogue, 2.0)
    catalogue.model(NAME)
    overwrite(catalogue, promote(catalogue, 3.0), BROKEN[kind](model(3.0)))
    clock.pass_(RECHECK)

    loaded = catalogue.model(NAME)

    assert (factor(loaded), loaded.version) == (2.0, "1")
    assert loaded.stale.startswith("version 2 cannot be used: ")
    assert catalogue.status()["refused"] == [{"name": NAME, "version": "2", "reason": loaded.stale}]


@pytest.mark.parametrize("kind", BROKEN)
def test_a_worker_that_starts_beside_a_broken_champion_falls_back_to_the_one_before(catalogue, kind):
    promote(catalogue, 2.0)
    overwrite(catalogue, promote(catalogue, 3.0), BROKEN[kind](model(3.0)))

    loaded = catalogue.model(NAME)

    assert (factor(loaded), loaded.version) == (2.0, "1")
    assert loaded.stale.startswith("version 2 cannot be used: ")


def test_a_model_whose_probe_differs_is_refused(catalogue, clock):
    promote(catalogue, 2.0)
    catalogue.model(NAME)
    wrong = model(3.0, probe={"inputs": {"value": [1.0]}, "outputs": {"score": [2.9]}})
    catalogue.registry.promote(NAME, catalogue.registry.publish(NAME, wrong, {}).version, reason="never replayed")
    clock.pass_(RECHECK)

    loaded = catalogue.model(NAME)

    assert factor(loaded) == 2.0
    assert "probe" in loaded.stale


def test_another_models_file_and_manifest_together_are_refused(catalogue, clock):
    promote(catalogue, 2.0)
    catalogue.model(NAME)
    version = promote(catalogue, 3.0)
    promote(catalogue, 8.0, "volume-anomaly.items")
    promote(catalogue, 9.0, "volume-anomaly.items")
    for file in ("model.onnx", "manifest.json"):
        other = catalogue.blobs.get("models", f"volume-anomaly.items/2/{file}")
        catalogue.blobs.put("models", f"{NAME}/{version}/{file}", other.data)
    clock.pass_(RECHECK)

    assert factor(catalogue.model(NAME)) == 2.0


def test_a_forged_file_with_a_forged_manifest_is_refused(catalogue, clock):
    promote(catalogue, 2.0)
    catalogue.model(NAME)
    promote(catalogue, 3.0)
    forged = catalogue.registry.publish(NAME, model(9.0), {})
    blob = catalogue.blobs.get("models", f"{NAME}/{forged.version}/manifest.json").data
    overwrite(catalogue, "2", model(9.0))
    catalogue.blobs.put("models", f"{NAME}/2/manifest.json", blob.replace(b'"version": "3"', b'"version": "2"'))
    clock.pass_(RECHECK)

    loaded = catalogue.model(NAME)

    assert factor(loaded) == 2.0
    assert "the SHA-256 it was promoted with" in loaded.stale


def test_a_version_that_vanished_is_refused(catalogue, clock):
    promote(catalogue, 2.0)
    catalogue.model(NAME)
    version = promote(catalogue, 3.0)
    catalogue.blobs.delete("models", f"{NAME}/{version}/model.onnx")
    clock.pass_(RECHECK)

    assert (factor(catalogue.model(NAME)), catalogue.model(NAME).stale is None) == (2.0, False)


def test_a_pointer_that_cannot_be_read_keeps_the_model(catalogue, clock):
    promote(catalogue, 2.0)
    catalogue.model(NAME)
    catalogue.blobs.put("models", f"{NAME}/champion.json", b"{")
    clock.pass_(RECHECK)

    loaded = catalogue.model(NAME)

    assert factor(loaded) == 2.0
    assert "champion.json" in loaded.stale


def test_without_any_model_to_fall_back_to_the_reason_is_raised(catalogue):
    overwrite(catalogue, promote(catalogue, 2.0), b"broken")

    for _ in range(2):
        with pytest.raises(ModelUnavailable, match="version 1 cannot be used"):
            catalogue.model(NAME)

    assert catalogue.registry.downloads == 1


def test_a_refused_version_is_not_downloaded_every_minute(catalogue, clock):
    promote(catalogue, 2.0)
    catalogue.model(NAME)
    version = promote(catalogue, 3.0)
    overwrite(catalogue, version, b"broken")
    clock.pass_(RECHECK)
    catalogue.model(NAME)
    downloads = catalogue.registry.downloads

    for _ in range(5):
        clock.pass_(RECHECK)
        assert catalogue.model(NAME).stale
    assert catalogue.registry.downloads == downloads

    overwrite(catalogue, version, model(3.0))
    clock.pass_(REFUSED_SECONDS)
    loaded = catalogue.model(NAME)
    assert (factor(loaded), loaded.stale) == (3.0, None)


def test_a_pointer_that_moves_on_ends_a_refusal_at_once(catalogue, clock):
    promote(catalogue, 2.0)
    catalogue.model(NAME)
    overwrite(catalogue, promote(catalogue, 3.0), b"broken")
    clock.pass_(RECHECK)
    catalogue.model(NAME)

    promote(catalogue, 4.0)
    clock.pass_(RECHECK)

    loaded = catalogue.model(NAME)
    assert (factor(loaded), loaded.stale, catalogue.status()["refused"]) == (4.0, None, [])
