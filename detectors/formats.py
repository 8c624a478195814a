"""The formats of a column, learnt from a batch of its values, a few per cent of which may be damaged.

    learnt = learn(tally)                       # None below FEWEST values
    seen = learnt.look(shapes)                  # what they show
    nats = judge(np, seen.x, learnt.rules)      # how surprising each is, and by what

A column is judged at the finest level of detectors.shapes whose formats are nearly all known: where the chance that the next
value has a new one, by Good and Turing from those seen once, is at most UNUSUAL (Good 1953, doi:10.1093/biomet/40.3-4.237).
Damage must not count as variety. So a rare format that one slip makes of a common one is not taken for a format of the
column while it is rarer than slips are; and no more of it is believed than the damage that cannot be mistaken (white space
at the ends, copies, placeholders) vouches for. At coarse levels Transitions give a second opinion.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from detectors import shapes, slips, tally
from detectors.tally import Tally
from detectors.transitions import Transitions

type FloatArray = NDArray[np.float64]

FEWEST = 30  # values without which nothing is said
MOST_SHAPES = 5_000  # of a history with more a random part is learnt from
UNUSUAL = 0.005  # a format is unusual where at most so many normal values have one as rare
CORE, CORE_ROWS, COVER = 0.02, 5, 0.8  # core formats have this share and so many values, and together hold this much
HABIT = 0.03  # white space, placeholders and the like that are commoner are the column's own way
SLIPS = 0.0125  # a damaged format is at most this fraction as common as what it was, and a kind of slip at most this share
VOUCHED, UNVOUCHED = 2.0, 1.0  # slips believed for each unmistakable one, and without any
MOST_RARE = 400  # a level with more rare formats is not looked at for slips
TYPICAL_WORDS = 4  # of prose, at the coarse levels
DAMAGED = -math.log(1e-4)  # nats of a value that shows damage
FORMAT_BYTES = 300  # of a format with its count in memory
RUNS, PROSE_LEVEL, STRICT_LEVEL, STRICT_ROWS = 2, 5, 2, 10

NEW, SEQUENCE = "new format", "unusual sequence"
FEATURES = ("format_count", "damage", "sequence_surprise")
_TWO_WORDS = re.compile(r"(?<=[^\W\d_]) (?=[^\W\d_])")


class Seen(NamedTuple):
    """What n shapes show: `x` (n, 3) FEATURES; the damage, "" for none; the format at the column's level, or a mark."""

    x: FloatArray
    damage: list[str]
    keys: list[str]


class Rules(NamedTuple):
    """How features become nats: the numbers a graph needs.

    A format seen fewer than `counts[i]` times (k,) is surprising by `nats[i]` more, (k,). A sequence surprise of `cut` is as
    unusual as UNUSUAL, and each `scale` nats more e times more so.
    """

    counts: tuple[float, ...]
    nats: tuple[float, ...]
    cut: float
    scale: float


@dataclass(frozen=True)
class Formats:
    """What is known of a column: `rows` values with a format were learnt from; `level` is None where none can be told.

    `core` formats and `rare` ones that are taken for normal, each by its count; `suspects` are rare ones taken for damage,
    each with (slip, what it was, count). `habits` are universal slips that are usual here, `usual` how many values of the
    history are unusual in each way. `examples` has the commonest mask of every core format.
    """

    rows: int
    level: int | None
    core: Mapping[str, int] = field(default_factory=dict)
    rare: Mapping[str, int] = field(default_factory=dict)
    suspects: Mapping[str, tuple[str, str, int]] = field(default_factory=dict)
    habits: frozenset[str] = frozenset()
    usual: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, str] = field(default_factory=dict)
    rules: Rules = field(default_factory=lambda: Rules((), (), math.inf, 1.0))
    strict: bool = False
    transitions: Transitions | None = None

    def count(self, format_: str) -> int:
        """How often a format was seen."""
        if format_ in self.suspects:
            return self.suspects[format_][2]
        return self.core.get(format_) or self.rare.get(format_, 0)

    def look(self, some: Sequence[str]) -> Seen:
        """What the shapes show."""
        odd = slips.universals(some)
        masks = list(some)
        damage = [""] * len(some)
        for i, kind in odd.items():
            masks[i] = tally.plain(some[i])
            if kind not in self.habits:
                damage[i] = kind
        keys = shapes.formats(masks, self.key_level)
        for i in odd:
            keys[i] = keys[i] or some[i]
        x = np.zeros((len(some), len(FEATURES)))
        x[:, 0] = self.rows
        if self.level is not None:
            for i in [i for i, key in enumerate(keys) if key not in self.core and masks[i]]:
                key = keys[i]
                x[i, 0] = self.count(key)
                if not damage[i] and key in self.suspects:
                    damage[i] = self.suspects[key][0]
        x[[i for i, kind in enumerate(damage) if kind], 1] = 1.0
        if self.transitions is not None:
            x[:, 2] = self.transitions.surprises(masks)
            x[[i for i in odd if not masks[i]], 2] = 0.0
        return Seen(x, damage, keys)

    @property
    def free_form(self) -> bool:
        """Can nothing be told from the formats of values?"""
        return self.level is None and self.transitions is None

    @property
    def key_level(self) -> int:
        """The level at which the column's values are told apart."""
        return RUNS if self.level is None else self.level

    @property
    def size_bytes(self) -> int:
        """In memory, roughly."""
        known = FORMAT_BYTES * (len(self.core) + len(self.rare) + len(self.suspects) + 1)
        return known + (self.transitions.size_bytes if self.transitions else 0)

    def to_json(self) -> dict[str, Any]:
        return {"rows": self.rows, "level": self.level, "core": dict(self.core), "rare": dict(self.rare),
                "suspects": {k: list(v) for k, v in self.suspects.items()}, "habits": sorted(self.habits),
                "usual": dict(self.usual), "examples": dict(self.examples), "rules": self.rules._asdict(),
                "strict": self.strict, "transitions": self.transitions and self.transitions.to_json()}

    @classmethod
    def from_json(cls, own: Mapping[str, Any]) -> Self:
        rules = own["rules"]
        return cls(own["rows"], own["level"], own["core"], own["rare"], {k: tuple(v) for k, v in own["suspects"].items()},
                   frozenset(own["habits"]), own["usual"], own["examples"],
                   Rules(tuple(rules["counts"]), tuple(rules["nats"]), rules["cut"], rules["scale"]), own["strict"],
                   Transitions.from_json(own["transitions"]) if own["transitions"] else None)


def judge(xp: Any, x: Any, rules: Rules) -> Any:
    """(n, 3) features -> (n, 3) nats of surprise by feature, in array-API code; the largest is the value's.

    1 - exp(-nats) is the score: an upper bound of the share of normal values that are less unusual.
    """
    count, damage, surprise = x[:, 0:1], x[:, 1:2], x[:, 2:3]
    nats = xp.zeros_like(count)
    if rules.counts:
        below = xp.astype(count < xp.asarray(np.array([rules.counts])), xp.float64)
        nats = xp.sum(below * xp.asarray(np.array([rules.nats])), axis=1, keepdims=True)
    sequence = xp.zeros_like(count)
    if math.isfinite(rules.cut):
        sequence = xp.maximum((surprise - rules.cut) / rules.scale - math.log(UNUSUAL), 0.0)
    return xp.concat([nats, damage * DAMAGED, sequence], axis=1)


def learn(batch: Tally) -> Formats | None:
    """The formats of a column's history; None where it has fewer than FEWEST values."""
    counts, total = batch.counts, batch.rows
    if total < FEWEST:
        return None
    damage: Counter[str] = Counter()
    for shape, count in counts.items():
        damage[slips.universal(shape)] += count
    del damage[""]
    habits = frozenset(kind for kind, count in damage.items() if count >= HABIT * total)
    masks: Counter[str] = Counter()
    for shape, count in counts.items():
        kind = slips.universal(shape)
        if (not kind or kind in habits) and (mask := tally.plain(shape)):
            masks[mask] += count
    usual = {kind: count for kind, count in damage.items() if kind not in habits}
    vouching = sum(usual.get(kind, 0) for kind in slips.UNMISTAKABLE)
    rows = sum(masks.values())
    known: dict[str, Any] = {"rows": rows, "habits": habits}
    chosen = _choose(masks, rows, vouching)
    if (chosen is None or chosen.level >= PROSE_LEVEL) and _is_prose(masks, rows):
        return Formats(level=None, usual=usual, **known)
    if chosen is None:
        transitions = Transitions.fit(masks)
        if transitions is None:
            return Formats(level=None, usual=usual, **known)
        rules = Rules((), (), transitions.cut, transitions.scale)
        usual[SEQUENCE] = transitions.beyond
        return Formats(level=None, usual=usual, rules=rules, transitions=transitions, **known)
    transitions = None
    if chosen.level:
        normal = {mask: masks[mask] for mask, format_ in zip(masks, shapes.formats(list(masks), chosen.level), strict=True)
                  if chosen.normal(format_)}
        transitions = Transitions.fit(normal)
    return chosen.finished(masks, usual, habits, transitions)


class _Level(NamedTuple):
    """A column seen at one level."""

    level: int
    rows: int
    counts: Counter[str]
    core: dict[str, int]
    suspects: dict[str, tuple[str, str, int]]
    unseen: float  # the chance that the next value has a new format

    @property
    def limit(self) -> float:
        return max(UNUSUAL, 0.5 / self.rows)

    @property
    def rare(self) -> dict[str, int]:
        """Formats that are neither core nor taken for damage."""
        return {f: n for f, n in self.counts.items() if f not in self.core and f not in self.suspects}

    def steps(self) -> list[tuple[float, float]]:
        """(count, share of normal values whose format was seen no oftener), up to the last that is unusual."""
        steps, mass = [(0.5, self.unseen)], 0
        for count, formats_ in sorted(Counter(self.rare.values()).items()):
            mass += count * formats_
            if mass > self.limit * self.rows or count >= UNUSUAL * self.rows:
                break
            steps.append((count + 0.5, max(self.unseen, mass / self.rows)))
        return steps

    def normal(self, format_: str) -> bool:
        return format_ in self.core or (format_ not in self.suspects and self.counts[format_] > self.steps()[-1][0])

    def finished(self, masks: Mapping[str, int], usual: dict[str, int], habits: frozenset[str],
                 transitions: Transitions | None) -> Formats:
        steps = self.steps()
        nats = [math.log(self.limit / UNUSUAL) - math.log(share) for _, share in steps]
        drops = tuple(a - b for a, b in zip(nats, [*nats[1:], 0.0], strict=True))
        rare = self.rare
        for slip, _, count in self.suspects.values():
            usual[slip] = usual.get(slip, 0) + count
        # What came once and is taken for damage was new when it came, and so is the next of its kind.
        once = sum(count == 1 for *_, count in self.suspects.values())
        usual[NEW] = once + sum(count for count in rare.values() if count < steps[-1][0])
        if transitions is not None:
            usual[SEQUENCE] = transitions.beyond
        examples: dict[str, str] = {}
        for mask, format_ in zip(masks, shapes.formats(list(masks), self.level), strict=True):
            if format_ in self.core and masks[mask] > masks.get(examples.get(format_, ""), 0):
                examples[format_] = mask
        cut, scale = (transitions.cut, transitions.scale) if transitions else (math.inf, 1.0)
        strict = self.level <= STRICT_LEVEL and all(count > STRICT_ROWS for count in rare.values())
        return Formats(self.rows, self.level, self.core, rare, self.suspects, habits, usual, examples,
                       Rules(tuple(count for count, _ in steps), drops, cut, scale), strict, transitions)


def _choose(masks: Mapping[str, int], rows: int, vouching: int) -> _Level | None:
    """The finest level at which nearly every format is known."""
    if not rows:
        return None
    common = [mask for mask, count in masks.items() if count >= CORE * rows]
    between = slips.separators(common)
    for level in range(len(shapes.LEVELS)):
        seen = _look(masks, rows, level, between, vouching)
        if seen.unseen <= seen.limit:
            return seen
    return None


def _look(masks: Mapping[str, int], rows: int, level: int, between: Sequence[str], vouching: int) -> _Level:
    counts: Counter[str] = Counter()
    example: dict[str, str] = {}
    for mask, format_ in zip(masks, shapes.formats(list(masks), level), strict=True):
        counts[format_] += masks[mask]
        if masks[mask] > masks.get(example.get(format_, ""), 0):
            example[format_] = mask
    core = {f: count for f, count in counts.items() if count >= max(CORE * rows, CORE_ROWS)}
    if sum(core.values()) < COVER * rows:
        core = {}
    rare = [f for f, count in counts.items() if f not in core and count < HABIT * rows]
    suspects: dict[str, tuple[str, str, int]] = {}
    if core and len(rare) <= MOST_RARE:
        explained = slips.explain([example[f] for f in rare], level, core, between)
        suspects = {f: (slip, was, counts[f]) for f, (slip, was) in zip(rare, explained, strict=True)
                    if slip and counts[f] <= max(1.0, SLIPS * core[was])}
        of_kind: Counter[str] = Counter()
        for slip, _, count in suspects.values():
            of_kind[slip] += count
        suspects = {f: told for f, told in suspects.items() if of_kind[told[0]] <= max(2.0, SLIPS * rows)}
    sure = sum(count for slip, _, count in suspects.values() if slip in slips.UNMISTAKABLE)
    doubtful = sum(count == 1 for slip, _, count in suspects.values() if slip not in slips.UNMISTAKABLE)
    unbelieved = max(0.0, doubtful - VOUCHED * (vouching + sure) - UNVOUCHED)
    once = sum(counts[f] == 1 for f in rare if f not in suspects)
    return _Level(level, rows, counts, core, suspects, (once + unbelieved + 0.5) / rows)


def _is_prose(masks: Mapping[str, int], rows: int) -> bool:
    """Does a typical value have so many words with nothing but a space between them?"""
    wordy = sum(count for mask, count in masks.items() if len(_TWO_WORDS.findall(mask)) >= TYPICAL_WORDS - 1)
    return wordy > rows / 2
