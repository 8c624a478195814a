"""Anomalies that share time and an attribute are one incident: 200 tables of one source down at once, not 200 alarms.

Within a window of time an attribute explains anomalies where they are much denser among the tables that have it than among
all others, and too dense for chance: the tail of the hypergeometric distribution, corrected for the number of attributes
(Bonferroni). What every table shares is no explanation. The tables that one attribute explains are left out of the question
for the next, so that each anomaly is in one incident at most.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

type IntArray = NDArray[np.int64]

SEVERITIES: Final = ("none", "low", "medium", "high", "critical")
WINDOW: Final = timedelta(hours=1)
GAP: Final = timedelta(minutes=15)  # a pause this long ends a window; incidents closer than that are one
FEWEST: Final = 3  # tables
DENSER: Final = 3.0  # times as many anomalies among the tables with the attribute as among the others;
MOST, DENSER_THAN_MOST = 0.5, 1.5  # where it is most of them, others may be down for a reason of their own
CHANCE: Final = 1e-4  # of a made-up incident in a window: about one a year, where every hour has one
EVERYTHING: Final = 0.5  # share of all tables that is an incident without any attribute
OF_DETECTOR: Final = 0.1  # share of all tables from which on a detector alone explains anything
SHARED: Final = 0.9  # share of an incident's tables that have an attribute it is said to share
SHOWN_TABLES: Final = 100


class Anomaly(NamedTuple):
    """One verdict that something is wrong. `timestamp` aware."""

    detector: str
    table_id: str
    timestamp: datetime
    severity: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Factor:
    """An attribute and how it counts: `affected` of the `tables` that have it, their `share` (0-1)."""

    name: str
    value: str
    affected: int
    tables: int
    share: float


@dataclass(frozen=True, slots=True)
class Incident:
    """`factors`, the one that explains it first, are empty where most of all tables are affected; `table_ids` the first 100.

    `members` are its anomalies, in order of time.
    """

    incident_id: str
    factors: tuple[Factor, ...]
    count: int
    tables: int
    first: datetime
    last: datetime
    severity: str
    detectors: Mapping[str, int]
    table_ids: tuple[str, ...]
    message: str
    members: tuple[Anomaly, ...]

    def to_json(self) -> dict[str, Any]:
        """For answers and events: all but the members."""
        told = {name: getattr(self, name) for name in ("incident_id", "message", "severity", "count", "tables")}
        return told | {"first": self.first.isoformat(), "last": self.last.isoformat(), "detectors": dict(self.detectors),
                       "factors": [asdict(factor) for factor in self.factors], "table_ids": list(self.table_ids)}


type _Key = tuple[str, str]
_DETECTOR: Final = ":detector"  # no label's name


def group(found: Sequence[Anomaly], tables: Mapping[str, Mapping[str, str]]) -> list[Incident]:
    """The incidents among the anomalies `found`, by time; most anomalies may be in none.

    `tables` gives the labels of every table that was asked about, {} where it has none. The order of `found` makes no
    difference, and what is repeated counts once.
    """
    fleet = _Fleet(tables, found)
    building: list[tuple[_Key | None, list[Anomaly]]] = []
    latest: dict[_Key | None, list[Anomaly]] = {}
    for window in _windows(sorted(set(found), key=_order)):
        for key, members in fleet.explain(window):
            before = latest.get(key)
            if before is not None and members[0].timestamp - before[-1].timestamp <= GAP:
                before += members
            else:
                latest[key] = members
                building.append((key, members))
    return [fleet.incident(key, members) for key, members in building]


def log_tail(affected: int, having: int, all_affected: int, everything: int) -> float:
    """Natural log of P(X >= affected): so many of `having` tables hit where `all_affected` of `everything` are, by chance.

    0 where it is no more than expected. Exact otherwise.
    """
    most = min(having, all_affected)
    if affected * everything <= having * all_affected:
        return 0.0
    if affected > most:
        return -math.inf
    term = total = 1.0
    for k in range(affected, most):
        term *= (having - k) * (all_affected - k) / ((k + 1) * (everything - having - all_affected + k + 1))
        total += term
        if term < 1e-12 * total:
            break
    first = (_log_choose(having, affected) + _log_choose(everything - having, all_affected - affected)
             - _log_choose(everything, all_affected))
    return min(first + math.log(total), 0.0)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _windows(found: Sequence[Anomaly]) -> Iterator[list[Anomaly]]:
    """Runs of anomalies without a longer pause, cut where they would span more than WINDOW."""
    window: list[Anomaly] = []
    for anomaly in found:
        if window and (anomaly.timestamp - window[-1].timestamp > GAP or anomaly.timestamp - window[0].timestamp > WINDOW):
            yield window
            window = []
        window.append(anomaly)
    if window:
        yield window


class _Fleet:
    """All tables that were asked about, by number, with the tables of each attribute."""

    def __init__(self, tables: Mapping[str, Mapping[str, str]], found: Sequence[Anomaly]) -> None:
        ids = sorted({*tables, *(anomaly.table_id for anomaly in found)})
        self.number = {table_id: n for n, table_id in enumerate(ids)}
        self.labels = [tuple(tables.get(table_id, {}).items()) for table_id in ids]
        having: dict[_Key, list[int]] = defaultdict(list)
        for n, labels in enumerate(self.labels):
            for key in labels:
                having[key].append(n)
        self.having: dict[_Key, IntArray] = {key: np.array(some) for key, some in having.items() if len(some) >= FEWEST}
        self.detectors = {anomaly.detector for anomaly in found}
        self.limit = math.log(CHANCE / max(len(self.having) + len(self.detectors), 1))

    def explain(self, window: Sequence[Anomaly]) -> Iterator[tuple[_Key | None, list[Anomaly]]]:
        """What explains anomalies of the window, with those that it explains: labels, detectors, then everything at once."""
        of_table: dict[int, list[Anomaly]] = defaultdict(list)
        for anomaly in window:
            of_table[self.number[anomaly.table_id]].append(anomaly)
        asked, hit = np.ones(len(self.labels), np.bool_), np.zeros(len(self.labels), np.bool_)
        hit[list(of_table)] = True
        all_asked, all_hit = len(self.labels), len(of_table)
        for key in self._ordered(Counter(key for n in of_table for key in self.labels[n]), all_hit):
            having = self.having[key][asked[self.having[key]]]
            affected = having[hit[having]]
            if self._dense(len(affected), len(having), all_hit, all_asked):
                yield key, sorted((a for n in affected.tolist() for a in of_table[n]), key=_order)
                asked[having] = hit[having] = False
                all_asked, all_hit = all_asked - len(having), all_hit - len(affected)
        rest = sorted((a for n in np.flatnonzero(hit).tolist() for a in of_table[n]), key=_order)
        yield from self._without_labels(rest, all_asked)

    def _ordered(self, counts: Mapping[_Key, int], all_hit: int) -> list[_Key]:
        """The labels worth a question, the most surprising first."""
        everything = len(self.labels)
        asked = [(log_tail(count, len(self.having[key]), all_hit, everything), -count, key)
                 for key, count in counts.items() if count >= FEWEST]
        return [key for _, _, key in sorted(asked)]

    def _dense(self, affected: int, having: int, all_affected: int, everything: int) -> bool:
        """Whether so many of `having` tables are more than chance and what is going on elsewhere make of it."""
        return (affected >= FEWEST and having < everything
                and _denser(affected, having, all_affected, everything)
                and log_tail(affected, having, all_affected, everything) <= self.limit)

    def _without_labels(self, rest: list[Anomaly], tables: int) -> Iterator[tuple[_Key | None, list[Anomaly]]]:
        """A detector that found much more than the others did, and most of all tables at once."""
        hits = {name: len({a.table_id for a in rest if a.detector == name}) for name in sorted(self.detectors)}
        pairs, kinds = sum(hits.values()), len(hits)
        for name, affected in sorted(hits.items(), key=lambda item: (-item[1], item[0])):
            if affected >= OF_DETECTOR * tables and self._dense(affected, tables, pairs, tables * kinds):
                yield (_DETECTOR, name), [a for a in rest if a.detector == name]
                rest = [a for a in rest if a.detector != name]
                pairs, kinds = pairs - affected, kinds - 1
        affected = len({a.table_id for a in rest})
        if affected >= FEWEST and affected >= EVERYTHING * len(self.labels):
            yield None, rest

    def incident(self, key: _Key | None, members: list[Anomaly]) -> Incident:
        """In words and figures; shares are those of all tables that were asked about."""
        ids = sorted({anomaly.table_id for anomaly in members})
        factors = self._factors(key, ids)
        name = "=".join(key) if key else "everything"
        first, last = members[0].timestamp, members[-1].timestamp
        digest = hashlib.sha256(f"{name}|{first.isoformat()}".encode()).hexdigest()[:20]
        severity = max((anomaly.severity for anomaly in members), key=SEVERITIES.index)
        return Incident(digest, factors, len(members), len(ids), first, last, severity,
                        dict(sorted(Counter(a.detector for a in members).items())), tuple(ids[:SHOWN_TABLES]),
                        self._words(key, len(ids), first, last), tuple(members))

    def _factors(self, key: _Key | None, ids: Sequence[str]) -> tuple[Factor, ...]:
        """What explains it first, then every other label that nearly all of its tables share and few others have."""
        if key is None:
            return ()
        if key[0] == _DETECTOR:
            return (_factor(key, len(ids), len(self.labels)),)
        carried = Counter(pair for table_id in ids for pair in self.labels[self.number[table_id]])
        shared = [(pair, count, len(self.having[pair])) for pair, count in sorted(carried.items())
                  if pair != key and count >= SHARED * len(ids) and pair in self.having]
        everything = len(self.labels)
        return (_factor(key, len(ids), len(self.having[key])), *(
            _factor(pair, count, having) for pair, count, having in shared if having < everything
            and _denser(count, having, len(ids), everything)))

    def _words(self, key: _Key | None, count: int, first: datetime, last: datetime) -> str:
        of_label = key is not None and key[0] != _DETECTOR
        of = f"{len(self.having[key]):,} tables with {'='.join(key)}" if key and of_label else f"{len(self.labels):,} tables"
        by = f", found by {key[1]}" if key and not of_label else ""
        span = f"at {_clock(first)}" if first == last else f"from {_clock(first)} to {_clock(last)}"
        return f"{count:,} of {of}{by}, {span}."


def _factor(key: _Key, affected: int, tables: int) -> Factor:
    return Factor(key[0].lstrip(":"), key[1], affected, tables, round(affected / tables, 4))


def _denser(affected: int, having: int, all_affected: int, everything: int) -> bool:
    """Whether the share of the tables that have it is that much larger than the share of all others."""
    # Half a table more among the others, so that none at all is no infinite difference.
    share, others = affected / having, (all_affected - affected + 0.5) / (everything - having + 0.5)
    return share >= (DENSER_THAN_MOST if share >= MOST else DENSER) * others


def _order(anomaly: Anomaly) -> tuple[datetime, str, str, str, str]:
    return anomaly.timestamp, anomaly.table_id, anomaly.detector, anomaly.severity, anomaly.message


def _clock(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} {moment.tzname()}"
