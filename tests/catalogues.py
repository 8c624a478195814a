"""What the tests of the catalogue share: a clock, a registry that counts, and models to promote."""

from __future__ import annotations

import numpy as np

from shared.catalogue import Catalogue, Loaded
from shared.registry import Registry
from shared.settings import Settings
from tests.onnx_models import model

NAME = "volume-anomaly.orders"
RECHECK = 60.0


class Clock:
    """Seconds that only pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


class CountingRegistry(Registry):
    """Counts the pointers and the model files it was asked for."""

    downloads = 0
    looks = 0

    def champion(self, name, etag=None):
        self.looks += 1
        return super().champion(name, etag)

    def promoted(self, name, promotion):
        self.downloads += 1
        return super().promoted(name, promotion)


def counting(settings: Settings, clock: Clock) -> Catalogue:
    catalogue = Catalogue(settings, clock)
    catalogue.registry = CountingRegistry(catalogue.blobs, settings)
    return catalogue


def promote(catalogue: Catalogue, factor: float, name: str = NAME) -> str:
    """Publishes and promotes score = factor * value; returns the version."""
    version = catalogue.registry.publish(name, model(factor), {"factor": factor}).version
    catalogue.registry.promote(name, version, reason="test")
    return version


def factor(loaded: Loaded | None) -> float:
    """What the model really computes."""
    assert loaded is not None
    return loaded.artefact.run({"value": np.array([1.0])})["score"].item()


def overwrite(catalogue: Catalogue, version: str, payload: bytes) -> None:
    """Changes a published file behind the registry's back."""
    catalogue.blobs.put("models", f"{NAME}/{version}/model.onnx", payload)
