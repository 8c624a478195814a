"""How formats, and what is wrong with one, are told."""

from __future__ import annotations

from difflib import SequenceMatcher
from itertools import groupby

from detectors import slips, tally
from detectors.formats import RUNS, SEQUENCE
from detectors.pattern_column import SHAPE

_LENGTHS = ("", "", "{2}", "{3}", "{4}", "{5-8}", "{9-16}", "{17+}")
_CLASSES = "Aaä9²"
MOST_DIFFERENCES = 3
LONGEST = 100
_CHANGES = {
    slips.PADDING: "white space at an end",
    slips.PLACEHOLDER: "a placeholder and no value",
    slips.EMPTY: "nothing",
    slips.DOUBLED: "the same text twice",
    slips.CONTROL: "a control character or one that cannot be read",
    slips.CASE: "letters of another case",
    slips.FOREIGN: "a character of another alphabet or encoding",
    slips.LETTER: "a letter where a digit belongs",
    slips.CUT: "the end is missing",
}


def rendered(format_: str, level: int) -> str:
    """A format for people: A99, or A9{2}, or A+9+, ... by its level of detectors.shapes."""
    if format_ in (tally.EMPTY, tally.PLACEHOLDER):
        return format_
    if level == 1:
        parts = (_LENGTHS[int(c)] if before in _CLASSES and c in "1234567" else c
                 for before, c in zip("\n" + format_, format_, strict=False))
        return "".join(parts)
    if level == RUNS:
        return "".join(f"{c}+" if c in _CLASSES else c for c in format_)
    if level in (4, 5):
        return format_.replace("w", "a+").replace("9", "9+")
    return "{" + format_ + "}" if level == 6 else format_


def change(kind: str, slip: str, mask: str, nearest: str) -> str:
    """What sets a mask apart from the nearest known one, "" for none: in words where the slip is known, else as edits."""
    if text := _CHANGES.get(kind) or _CHANGES.get(slip):
        return text
    if not nearest:
        return "no known format is like it"
    if edits := differences(nearest, mask):
        return ", ".join(edits)
    return "an unusual sequence of known parts" if kind in (SEQUENCE, SHAPE) else "another format"


def differences(known: str, mask: str) -> list[str]:
    """How to make the mask from the known one; nothing where that takes more than a few steps."""
    before, after = _parts(known), _parts(mask)
    told: list[str] = []
    for kind, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        old, new = "".join(before[a:b]), "".join(after[c:d])
        if kind == "replace":
            told.append(f"'{new}' instead of '{old}'")
        elif kind == "delete":
            told.append(f"without '{old}'")
        elif kind == "insert":
            told.append(f"'{new}' added")
    distinct = list(dict.fromkeys(told))
    return distinct if len(distinct) <= MOST_DIFFERENCES else []


def likeness(known: str, mask: str) -> float:
    """0 to 1, the share of what they have in common."""
    return SequenceMatcher(None, _parts(known), _parts(mask), autojunk=False).ratio()


def shortened(text: str) -> str:
    """At most LONGEST characters, cut in the middle."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST - 30]}…{text[-29:]}"


def percent(share: float) -> str:
    """0.123 -> 12.3%; what is there is never told as 0%."""
    if 0 < share < 0.0005:
        return "under 0.1%"
    return f"{100 * share:.1f}".removesuffix(".0") + "%"


def unusual(count: int, rows: int, kind: str, usual: float, upper: float) -> str:
    """`12 of 1,000 values (1.2%) are unusual: padding. At most 0.3% are as a rule.`"""
    be = "is" if count == 1 else "are"
    kinds = "" if kind == "unusual" else f" ({kind})"
    rule = "none" if not upper and usual < 0.001 else f"up to {percent(upper)}" if upper else percent(usual)
    return f"{count:,} of {rows:,} values ({percent(count / rows)}) {be} unusual{kinds}; {rule} is usual."


def lost(pattern: str, share: float, rows: int) -> str:
    return f"No value has the format {pattern} any more, which {percent(share)} had; {rows:,} values came."


def normal(rows: int, missing: int, formats: int, count: int) -> str:
    nulls = f" and {missing:,} nulls" if missing else ""
    rare = f", {count:,} of them unusual, which is usual here" if count else ""
    return f"{rows:,} values{nulls}{rare}: {formats} known format{'' if formats == 1 else 's'}, nothing new, nothing lost."


def _parts(mask: str) -> list[str]:
    """Characters; of a long mask its runs, which are fewer."""
    return list(mask) if len(mask) <= LONGEST else ["".join(run) for _, run in groupby(mask)]

