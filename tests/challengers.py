"""Real models of one made-up table: candidates, the champion they meet, and what was decided."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any

from detectors.artefact import Artefact
from shared.contract import TrainRequest, parse
from tools.made_up import START, counts
from training import backtest, gates, promotion, volume_anomaly
from training.candidates import Candidate
from training.evaluation import Scores
from training.promotion import Decision, Reigning
from training.volume_anomaly import Prepared

DAYS, KNOWN = 280, 250  # of the table; and those that its champion has learnt
NAME = "volume-anomaly.orders"
FAMILIES = ("structural", "seasonal_decomposition")


def asked(**options: Any) -> TrainRequest:
    body = {"table_id": "orders", "training_days": 400, "historical_data": counts(0, DAYS), **options}
    return parse(TrainRequest, json.dumps(body).encode(), 2**26)


@cache
def prepared(days: int = DAYS) -> Prepared:
    return volume_anomaly.prepare(asked(), None, START + timedelta(days=days, hours=-1))


def back_tested(data: Prepared, algorithm: str) -> Candidate:
    """A candidate of other data, but for its file, which takes seconds and is that of the table as it was made up."""
    scores, _ = backtest.held_out(algorithm, data.series, data.observed, data.held_out())
    made = candidate(algorithm)
    return replace(made, scores=scores, card=made.card | {"baseline": data.baseline})


@cache
def candidate(algorithm: str, days: int = DAYS) -> Candidate:
    made = volume_anomaly.fit_candidate(prepared(days), algorithm)
    assert made.payload is not None, made.figures
    return made


def champion(algorithm: str, days: int = KNOWN, **card: Any) -> Reigning:
    artefact = Artefact.load(candidate(algorithm, days).payload or b"")
    return Reigning(NAME, "3", "", algorithm, replace(artefact, card={**artefact.card, **card}))


def quick(artefact: Artefact, feeds: Mapping[str, Any]) -> float:
    """A third of a millisecond for every bucket that a decision goes through, whatever the machine does."""
    columns: int = feeds["history"].shape[1]
    return columns / 3


def decided(against: Reigning | None, rivals: list[Candidate] | None = None, measure: gates.Measure = quick,
            **options: Any) -> Decision:
    made = [candidate(family) for family in FAMILIES] if rivals is None else rivals
    return promotion.decide(volume_anomaly, prepared(), made, against, asked(**options), measure)


def with_scores(made: Candidate, change: Any) -> Candidate:
    """The candidate with scores that `change(normal, faulty)` made of copies of its own."""
    scores = made.scores
    assert scores is not None
    normal, faulty = scores.normal.copy(), scores.faulty.copy()
    change(normal, faulty)
    return replace(made, scores=Scores(normal, faulty, scores.said))
