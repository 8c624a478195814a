"""What one worker process holds: made at first use, kept for its life, and nothing at import."""

from __future__ import annotations

from functools import cache

from shared.blobs import Blobs
from shared.catalogue import Catalogue
from shared.history import History
from shared.jobs import Jobs
from shared.registry import Registry
from shared.settings import Settings


@cache
def settings() -> Settings:
    return Settings.from_environment()


@cache
def blobs() -> Blobs:
    return Blobs(settings())


@cache
def history() -> History:
    return History(settings())


@cache
def registry() -> Registry:
    return Registry(blobs(), settings())


@cache
def catalogue() -> Catalogue:
    return Catalogue(settings())


@cache
def jobs() -> Jobs:
    return Jobs(blobs(), settings().jobs_container)
