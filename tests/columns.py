"""What the tests of value formats share: columns that are made up, and questions about them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from detectors import pattern
from shared.catalogue import Catalogue
from shared.contract import parse
from shared.contract_pattern import PatternAnswer, PatternRequest
from shared.settings import Settings

NOW = datetime(2026, 6, 12, 9, tzinfo=UTC)
NO_STORAGE = Catalogue(Settings())


def day(number: int) -> datetime:
    return datetime(2026, 5, 1, 2, tzinfo=UTC) + timedelta(days=number)


def orders(size: int, seed: int = 0) -> list[str]:
    """(size,) ids such as ORD-48213, every fifth with a country in front: DE/ORD-48213."""
    random = Random(seed)
    ids = [f"ORD-{random.randrange(10_000, 100_000)}" for _ in range(size)]
    return [f"{random.choice(('DE', 'FR'))}/{text}" if i % 5 == 0 else text for i, text in enumerate(ids)]


def request(**body: Any) -> PatternRequest:
    return parse(PatternRequest, json.dumps(body).encode(), limit=2**26)


def ask(catalogue: Catalogue = NO_STORAGE, **body: Any) -> PatternAnswer:
    """The verdict on a batch; `historical_data` is a thousand orders where it is left out and no table is named."""
    if "table_id" not in body:
        body.setdefault("historical_data", [orders(1000)])
    return pattern.detect(request(**body), catalogue, NOW)
