"""What one worker process holds: made at first use, kept for its life, and nothing at import."""

from __future__ import annotations

from functools import cache

from shared.catalogue import Catalogue
from shared.history import History
from shared.jobs import Jobs
from shared.registry import Registry
from shared.settings import Settings


@cache
def catalogue() -> Catalogue:
    return Catalogue(Settings.from_environment())


def history() -> History:
    return catalogue().history


def registry() -> Registry:
    return catalogue().registry


@cache
def jobs() -> Jobs:
    return Jobs(catalogue().blobs, Settings.from_environment().jobs_container)
