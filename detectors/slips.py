"""Ways in which a format gets damaged, undone: which slip would turn this mask into a known one?

People and exports add white space, prefixes and whole copies, change case, lose, add or swap separators, type a letter for a
digit, take a text in another encoding, cut what is too long. Undoing is tried on masks, which break as their values do.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from detectors import shapes, tally

PADDING, PLACEHOLDER, EMPTY, CONTROL, DOUBLED = "padding", "placeholder", "empty", "control character", "doubled"
CASE, PREFIX, SUFFIX, FOREIGN, LETTER, CUT = "case", "prefix", "suffix", "foreign character", "letter for digit", "cut"
SWAPPED, LOST = "separator swapped", "separator lost"
# Damage in any column, whatever its formats; the others need a format that they are the damage of.
UNIVERSAL = (PADDING, PLACEHOLDER, EMPTY, DOUBLED, CONTROL)
# Nothing else looks like these, so that they tell how much damage there is.
UNMISTAKABLE = (PADDING, PLACEHOLDER, DOUBLED, CONTROL, FOREIGN)
LONGEST = 64  # in a longer mask no separator is looked for
MOST_SEPARATORS = 8
ALPHABET = shapes.LEVELS.index("alphabet")

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200b\u2028\u2029\u202a-\u202e\ufeff\ufffd]")
_NOT_ASCII = re.compile("[^\x00-\x7f]")
_LETTER = re.compile("[^\\W\\d_]")


def universals(some: Sequence[str]) -> dict[int, str]:
    """The damage that shapes show whatever their column, by their place."""
    joined = "".join(some)
    if joined.isascii() and joined.isprintable():  # then only marks and spaces at the ends are odd
        lines = "\n".join(("", *some, ""))
        if not ("\n " in lines or " \n" in lines or "\n<" in lines):
            return {}
        return {i: universal(shape) for i, shape in enumerate(some) if shape[0] in "< " or shape[-1] == " "}
    return {i: kind for i, shape in enumerate(some) if (kind := universal(shape))}


def universal(shape: str) -> str:
    """The damage that a shape shows whatever its column, or ""."""
    if shape[:1] == "<":
        if shape == tally.EMPTY:
            return EMPTY
        if shape == tally.PLACEHOLDER:
            return PLACEHOLDER
        if shape.startswith(tally.DOUBLED):
            return DOUBLED
    if shape != shape.strip():
        return PADDING
    return CONTROL if not shape.isprintable() and _CONTROL.search(shape) else ""


def undone(mask: str, separators: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(slip, what the mask was before it) for every slip that can be undone in one step."""
    n = len(mask)
    if n > 1 and mask[: n // 2] * 2 == mask:
        yield DOUBLED, mask[: n // 2]
    for other in {mask.lower(), mask.upper(), mask.title(), mask.swapcase()} - {mask}:
        yield CASE, other
    for k in range(1, min(4, n)):
        if not mask[k - 1].isalnum():
            yield PREFIX, mask[k:]
        if not mask[-k].isalnum():
            yield SUFFIX, mask[:-k]
    if not mask.isascii():
        for one in ("a", "A", "9", "", *separators):
            yield FOREIGN, _NOT_ASCII.sub(one, mask)
    if n <= LONGEST:
        yield from _misplaced(mask, separators)
    if _LETTER.search(mask):
        yield LETTER, _LETTER.sub("9", mask)


def _misplaced(mask: str, separators: Sequence[str]) -> Iterator[tuple[str, str]]:
    for i, c in enumerate(mask):
        before, after = mask[:i], mask[i + 1:]
        if c.isalpha():
            yield LETTER, f"{before}9{after}"
        for separator in separators:
            yield LOST, f"{before}{separator}{c}{after}"
            if separator != c and not c.isalnum():
                yield SWAPPED, f"{before}{separator}{after}"


def separators(masks: Collection[str]) -> tuple[str, ...]:
    """What stands between letters and digits in these masks."""
    return tuple(sorted({c for mask in masks for c in mask if not c.isalnum()}))[:MOST_SEPARATORS]


def explain(masks: Sequence[str], level: int, known: dict[str, int], between: Sequence[str]) -> list[tuple[str, str]]:
    """For each mask the slip that it is most likely the result of, and the known format that it was; "" where there is none.

    `known` formats at this level by how often they came: of several that a mask may have been, the commonest.
    """
    steps = [(i, slip, before) for i, mask in enumerate(masks) for slip, before in undone(mask, between) if before]
    best: list[tuple[int, str, str]] = [(0, "", "")] * len(masks)
    for (i, slip, _), format_ in zip(steps, shapes.formats([before for *_, before in steps], level), strict=True):
        if (count := known.get(format_, 0)) > best[i][0]:
            best[i] = (count, slip, format_)
    for i, format_ in enumerate(shapes.formats(masks, level)):
        if not best[i][0] and level < ALPHABET:  # the start of an alphabet is no alphabet cut short
            longer = [other for other in known if other.startswith(format_) and other != format_]
            if longer:
                commonest = max(longer, key=lambda other: known[other])
                best[i] = (known[commonest], CUT, commonest)
    return [(slip, format_) for _, slip, format_ in best]
