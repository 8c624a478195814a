"""A champion's own file on the held-out points of its challengers: one suite over the five detectors.

Histories are stored as the service stores them, and verdicts come from the service's own `detect`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from importlib import import_module
from itertools import count
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detectors.artefact import Artefact
from detectors.backtest import score_of
from detectors.directory import DETECTORS
from shared.catalogue import Catalogue
from shared.contract import parse
from shared.observations import load
from shared.settings import Settings
from tests.conftest import ACCOUNTS, _numbers
from tools.azurite import Azurite
from tools.made_up import Entry, arrivals, batches, counts, profiles, stamp
from training.gates import probe_of

LARGE = 2**28
EXPECTED, CONFIRMED = "expected", "confirmed"


def weeks(seed: int, n: int) -> list[Entry]:
    """n days of two metrics that repeat every week."""
    day = np.arange(n)
    usual = 200 + 60 * np.sin(2 * np.pi * day / 7)[:, None] * [1.0, -1.0]
    values = usual + np.random.default_rng(seed).normal(0, 4, usual.shape)
    return [{"timestamp": stamp(d), "values": row} for d, row in enumerate(np.round(values, 3).tolist())]


def later(entry: Entry, hours: float) -> Entry:
    return entry | {"timestamp": (datetime.fromisoformat(entry["timestamp"]) + timedelta(hours=hours)).isoformat()}


def amount(entry: Entry, mean: float) -> Entry:
    """A profile whose amounts have another mean."""
    first, *rest = entry["columnProfiles"]
    moved = {"mean": mean, "minValue": mean - 60, "maxValue": mean + 60, "quantiles": None}
    return entry | {"columnProfiles": [first | moved, *rest]}


@dataclass(frozen=True, eq=False)
class Subject:
    """A kind of table: its points, how one is stored and asked about, and what is wrong with one, or new from then on."""

    kind: str
    families: tuple[str, ...]
    known: int  # points that the champion has learnt from
    points: int
    entries: Callable[[int, int], list[Entry]]
    row: Callable[[Entry], Entry]
    asked: Callable[[Entry], Entry]
    sent: str
    broken: Callable[[Entry], Entry]
    lasting: Callable[[Entry], Entry]
    learnt_after: int  # points of a lasting change
    more: Mapping[str, Any]

    @property
    def module(self) -> Any:
        return import_module(f"training.{self.kind}_anomaly")

    def request(self, **body: Any) -> Any:
        whole = {"table_id": "orders", "training_days": 400, **self.more, **body}
        return parse(DETECTORS[self.kind].train_request, json.dumps(whole).encode(), LARGE)

    def moment(self, entry: Entry) -> datetime:
        return datetime.fromisoformat(entry.get("timestamp") or entry["profiledAt"])


SUBJECTS = {subject.kind: subject for subject in (
    Subject("volume", ("structural",), 170, 200, counts, lambda e: e,
            lambda e: {"timestamp": e["timestamp"], "current_row_count": e["row_count"]}, "historical_data",
            lambda e: e | {"row_count": 12}, lambda e: e | {"row_count": 3 * e["row_count"]}, 14, {}),
    Subject("distribution", ("knn",), 50, 64, profiles, lambda e: {"profile": e},
            lambda e: {"current_profile": e}, "historical_profiles",
            lambda e: amount(e, 900.0), lambda e: amount(e, 160.0), 7, {}),
    Subject("timeliness", ("lag_filter", "seasonal_quantiles"), 90, 120, arrivals, lambda e: e,
            lambda e: {"as_of": e["timestamp"], "last_arrival": e["timestamp"]}, "historical_data",
            lambda e: later(e, 9), lambda e: later(e, 3), 21, {}),
    Subject("pattern", ("formats", "autoencoder"), 20, 24, batches, lambda e: {"column": "order_id", **e},
            lambda e: e, "historical_data", lambda e: e | {"values": [*e["values"][20:], *["n/a"] * 20]},
            lambda e: e | {"values": [f"X{value}" for value in e["values"]]}, 8, {"column": "order_id"}),
    Subject("sequence", ("hypothesis_filter", "lstm"), 150, 182, weeks,
            lambda e: {"timestamp": e["timestamp"], "values": dict(zip(("orders", "returns"), e["values"], strict=True))},
            lambda e: {"points": [e]}, "historical_data", lambda e: e | {"values": [9_000.0, 9_000.0]},
            lambda e: e | {"values": [2 * value for value in e["values"]]}, 21,
            {"metrics": ["orders", "returns"], "granularity": "daily"}),
)}
EVERY_SUBJECT = pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)
# Volume's own tests fit anew to tell the same: its files take seconds to write.
ALL_BUT_VOLUME = pytest.mark.parametrize("subject", [s for s in SUBJECTS.values() if s.kind != "volume"],
                                         ids=[kind for kind in SUBJECTS if kind != "volume"])
EVERY_FAMILY = pytest.mark.parametrize(
    ("subject", "family"), [(s, family) for s in SUBJECTS.values() for family in s.families],
    ids=[f"{s.kind}-{family}" for s in SUBJECTS.values() for family in s.families])


_tables = count()


@pytest.fixture(scope="module")
def catalogue(azurite: Azurite) -> Catalogue:
    return Catalogue(Settings(connection_string=azurite.connection_string(ACCOUNTS[next(_numbers)])))


@dataclass(frozen=True)
class Reign:
    """A champion of a table and what it is judged on: `said` are the places of points that a person expected."""

    subject: Subject
    table: str
    entries: list[Entry]
    champion: Artefact
    prepared: Any
    said: tuple[int, ...]


@pytest.fixture(scope="module")
def reign(catalogue: Catalogue) -> Callable[[Subject, str], Reign]:
    """Champions that have learnt from the first `known` points; a person spoke of two of these and of two later ones."""

    @cache
    def reigns(subject: Subject, family: str) -> Reign:
        entries, said = subject.entries(0, subject.points), tuple(subject.known + i for i in (-4, -2, 1, 3))
        table = stored(catalogue, subject, entries, dict.fromkeys(said, EXPECTED))
        request, until = subject.request(table_id=table), subject.moment(entries[subject.known])
        champion = promote(catalogue, subject, table, family, until)
        return Reign(subject, table, entries, champion, subject.module.prepare(request, catalogue.history), said)

    return reigns


def stored(catalogue: Catalogue, subject: Subject, entries: Sequence[Entry],
           statuses: Mapping[int, str] | None = None) -> str:
    """Loads points through the bulk route; the id of their table."""
    table = f"{subject.kind}{next(_tables)}"
    rows = [{"detector": subject.kind, "table_id": table, "status": (statuses or {}).get(i, "ok"), **subject.row(entry)}
            for i, entry in enumerate(entries)]
    assert load(json.dumps(rows).encode(), catalogue)["accepted"] == len(rows)
    return table


def promote(catalogue: Catalogue, subject: Subject, table: str, family: str, until: datetime | None = None) -> Artefact:
    """Trains a table's champion on what is stored of it."""
    request = subject.request(table_id=table)
    candidate = subject.module.fit_candidate(subject.module.prepare(request, catalogue.history, until=until), family)
    assert candidate.payload is not None, candidate.figures
    name = DETECTORS[subject.kind].model_name(request)
    version = catalogue.registry.publish(name, candidate.payload, candidate.card).version
    catalogue.registry.promote(name, version, reason="test")
    return Artefact.load(candidate.payload)


def prepared_of(catalogue: Catalogue, subject: Subject, entries: Sequence[Entry],
                statuses: Mapping[int, str] | None = None) -> Any:
    table = stored(catalogue, subject, entries, statuses)
    return subject.module.prepare(subject.request(table_id=table), catalogue.history)


def sent(subject: Subject, entries: Sequence[Entry], **body: Any) -> Any:
    """The same without storage: the points come with the request."""
    return subject.request(**{subject.sent: list(entries)}, **body)


def detect(subject: Subject, catalogue: Catalogue, table: str | None, entry: Entry, **body: Any) -> Any:
    asked = DETECTORS[subject.kind]
    whole = {**subject.more, "table_id": table, "record": False, **subject.asked(entry), **body}
    return asked.detect(parse(asked.request, json.dumps(whole).encode(), LARGE), catalogue, subject.moment(entry))


# A champion's file


@EVERY_FAMILY
def test_a_file_says_of_later_points_what_detect_says_and_nothing_of_those_it_has_learnt(
    subject: Subject, family: str, reign: Callable[[Subject, str], Reign], catalogue: Catalogue
) -> None:
    own = reign(subject, family)

    scores = subject.module.judged_by(own.prepared, own.champion)

    answers = [detect(subject, catalogue, own.table, own.entries[place], require_model=True) for place in own.said[2:]]
    assert [answer.model.algorithm for answer in answers] == [family] * 2
    expected = [np.nan, np.nan, *(score_of(answer) for answer in answers)]
    assert scores.normal[scores.said < 0] == pytest.approx(expected, abs=1e-4, nan_ok=True)  # stored to six digits


@ALL_BUT_VOLUME
def test_a_file_is_judged_on_the_points_and_faults_of_the_back_test(
    subject: Subject, reign: Callable[[Subject, str], Reign]
) -> None:
    own = reign(subject, subject.families[0])
    challenger = subject.module.fit_candidate(own.prepared, subject.families[0])

    scores = subject.module.judged_by(own.prepared, own.champion)

    assert scores.normal.shape == challenger.scores.normal.shape and scores.faulty.shape == challenger.scores.faulty.shape
    assert (scores.said == challenger.scores.said).all() and (scores.said < 0).sum() == len(own.said)
    new = np.isfinite(scores.normal)
    assert 0 < new.sum() < len(new) and (np.diff(new.astype(int)) >= 0).all()  # learnt first, then new
    assert not np.isfinite(scores.faulty[~new]).any()
    assert (np.isfinite(scores.faulty) == np.isfinite(challenger.scores.faulty))[new].mean() > 0.95


@EVERY_SUBJECT
def test_a_file_that_does_not_fit_the_table_gives_no_verdict_and_no_error(
    subject: Subject, reign: Callable[[Subject, str], Reign]
) -> None:
    own = reign(subject, subject.families[0])
    card: Any = {"volume": {"granularity": "hourly"}, "timeliness": {"timezone": "Asia/Tokyo"},
            "pattern": {"features": ["length"]}, "sequence": {"metrics": ["orders"]}}.get(subject.kind, {})
    prepared, champion = own.prepared, replace(own.champion, card={**own.champion.card, **card})
    if subject.kind == "distribution":
        renamed = json.loads(json.dumps(own.entries).replace('"columnName": "', '"columnName": "new_'))
        prepared = subject.module.prepare(sent(subject, renamed), None)

    scores = subject.module.judged_by(prepared, champion)

    assert np.isnan(scores.normal).all() and np.isnan(scores.faulty).all() and len(scores.normal)


# What is prepared


@EVERY_SUBJECT
def test_only_what_was_before_a_day_is_prepared_for_it(subject: Subject, catalogue: Catalogue) -> None:
    entries = subject.entries(1, subject.points)
    table, until = stored(catalogue, subject, entries), subject.moment(entries[subject.known])
    request = subject.request(table_id=table)

    then = subject.module.prepare(request, catalogue.history, until=until)

    own = prepared_of(catalogue, subject, entries[:subject.known])
    assert then.fingerprint() == own.fingerprint() and then.facts() == own.facts()
    assert subject.module.prepare(sent(subject, entries), None, until=until).fingerprint() == own.fingerprint()
    assert subject.module.prepare(request, catalogue.history).fingerprint() != own.fingerprint()


@EVERY_SUBJECT
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.randoms(use_true_random=False), place=st.integers(0, 10**6))
def test_a_fingerprint_is_that_of_the_data_and_not_of_how_they_came(subject: Subject, order: Random, place: int) -> None:
    entries = subject.entries(1, subject.known)
    shuffled = entries.copy()
    order.shuffle(shuffled)
    changed = entries.copy()
    changed[place % len(entries)] = subject.broken(entries[place % len(entries)])

    one, again, other = (subject.module.prepare(sent(subject, some, table_id=table), None)
                         for some, table in ((entries, "a"), (shuffled, "b"), (changed, "a")))

    assert one.fingerprint() == again.fingerprint() != other.fingerprint()
    assert subject.module.Prepared.from_json(one.to_json()).fingerprint() == one.fingerprint()
    assert len(bytes.fromhex(one.fingerprint())) == 32


@EVERY_SUBJECT
def test_a_fingerprint_changes_with_the_status_of_one_point(subject: Subject, catalogue: Catalogue) -> None:
    entries = subject.entries(1, subject.known)

    prints = [prepared_of(catalogue, subject, entries, {subject.known - 3: status}).fingerprint()
              for status in ("ok", EXPECTED, CONFIRMED, "excluded", "ok")]

    assert len(set(prints)) == 4 and prints[0] == prints[-1]


@ALL_BUT_VOLUME
def test_what_was_confirmed_is_judged_and_never_learnt(subject: Subject, catalogue: Catalogue) -> None:
    entries, places = subject.entries(2, subject.points), (3, subject.points - 3)
    for place in places:
        entries[place] = subject.broken(entries[place])
    told, left_out = (prepared_of(catalogue, subject, entries, dict.fromkeys(places, status))
                      for status in (CONFIRMED, "excluded"))
    family = subject.families[0]

    one, other = (subject.module.fit_candidate(prepared, family) for prepared in (told, left_out))

    assert one.card["training"]["used"] == other.card["training"]["used"]
    probe = probe_of(one.payload)
    files = [Artefact.load(candidate.payload).run(probe) for candidate in (one, other)]
    assert all(np.array_equal(files[0][name], files[1][name], equal_nan=True) for name in files[0])
    word = one.scores.said > 0
    assert word.sum() == 1 and one.scores.normal[word] >= 0.99 and not np.isfinite(one.scores.faulty[word]).any()
    labels = one.figures["quality"]["labels"]
    assert (labels["anomalies"], labels["found"]) == (1, 1)
    assert one.scores.normal[~word] == pytest.approx(other.scores.normal, nan_ok=True)


# Lasting changes


@ALL_BUT_VOLUME
def test_a_lasting_change_that_was_flagged_point_by_point_is_learnt(subject: Subject, catalogue: Catalogue) -> None:
    begin, end = subject.known, subject.known + subject.learnt_after
    entries = subject.entries(0, end + 1)
    entries[begin:] = [subject.lasting(entry) for entry in entries[begin:]]
    table = stored(catalogue, subject, entries[:end], dict.fromkeys(range(begin, end), "anomaly"))

    promote(catalogue, subject, table, subject.families[0])

    before = detect(subject, catalogue, None, entries[begin], **{subject.sent: entries[:begin]})
    after = detect(subject, catalogue, table, entries[end], require_model=True)
    assert before.is_anomaly and not after.is_anomaly
