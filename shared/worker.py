"""What one worker process holds: made at first use, kept for its life, and nothing at import."""

from __future__ import annotations

from functools import cache

from shared.alerts import Alerts
from shared.batches import Batches
from shared.catalogue import Catalogue
from shared.decisions import Decisions
from shared.events import Publisher
from shared.feedback import Feedback
from shared.freshness import Sweep, Watch
from shared.history import History
from shared.jobs import Jobs
from shared.monitoring import Monitoring
from shared.queues import Queues
from shared.registry import Registry
from shared.retrainings import Retrainings
from shared.settings import Settings
from shared.tables import Tables


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


@cache
def queues() -> Queues:
    return Queues(Settings.from_environment())


@cache
def tables() -> Tables:
    settings = Settings.from_environment()
    return Tables(history(), settings.tables_table, settings.recheck_seconds)


@cache
def batches() -> Batches:
    return Batches(catalogue().blobs, catalogue().settings)


@cache
def retrainings() -> Retrainings:
    return Retrainings(catalogue().blobs, catalogue().settings)


@cache
def decisions() -> Decisions:
    return Decisions(catalogue().blobs, catalogue().settings)


@cache
def alerts() -> Alerts:
    settings = catalogue().settings
    return Alerts(history(), settings.alerts_table, settings.recheck_seconds)


@cache
def feedback() -> Feedback:
    return Feedback(history(), catalogue().settings.feedback_table)


@cache
def monitoring() -> Monitoring:
    return Monitoring(history(), catalogue().settings.monitoring_table)


@cache
def publisher() -> Publisher:
    return Publisher(queues(), catalogue().settings)


@cache
def watch() -> Watch:
    return Watch(history(), catalogue().settings.alerts_table)


def sweep() -> Sweep:
    return Sweep(catalogue(), tables(), alerts(), watch(), publisher())
