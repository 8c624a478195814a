"""The shape of a value: what can be told about it without telling it.

A mask replaces letters by A or a, digits by 9 and leaves the rest: `N16911` -> `A99999`, `Zoë` -> `Aaä`. The mask of a mask
is itself, so masks can be sent in place of values. `formats` makes them coarser, in six steps:

    0 mask        N-16.911/7x   A-99.999/9a     every character
    1 lengths     N-16.911/7x   A1-92.93/91a1   runs, with the class of their length: 1, 2, 3, 4, 5-8, 9-16, 17 and more
    2 runs        N-16.911/7x   A-9.9/9a        runs, whatever their length
    3 characters  N-16.911/7x   x-xx.xxx/xx     letters and digits alike
    4 tokens      N-16.911/7x   w-9/9w          words of any case, and numbers
    5 shape       on/the/road   w/w             words with digits are words; of equal units in a row one is kept
    6 alphabet    N-16.911/7x   -./9a           the set of classes and other characters

All of them work on many values at once: a few passes over their joined characters, not a call for each.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

type Codes = NDArray[np.uint8] | NDArray[np.uint32]
type IntArray = NDArray[np.int64]
type BoolArray = NDArray[np.bool_]

# What stands for a character outside ASCII: a letter of either case or of none, a digit, an accent on its own, an emoji.
UPPER, LOWER, CASELESS, DIGIT, ACCENT, SYMBOL = "Ä", "ä", "文", "²", "◌", "☺"
LONGEST, HEAD = 256, 224  # of a longer value the first 224 and the last 31 characters count
LENGTHS = (1, 2, 3, 4, 8, 16)  # the class of a run's length is how many of these it exceeds, and one
END = "\x1e"  # between values while they are joined; inside a value it counts as another control character
END_RUN = ord(END) << 3 | 1
LEVELS = ("mask", "lengths", "runs", "characters", "tokens", "shape", "alphabet")


class _Classes(dict[int, str]):
    """Character -> what stands for it, filled as characters are met: translating stays one loop in C."""

    def __missing__(self, code: int) -> str:
        kind = _class_of(chr(code))
        if len(self) < 20_000:
            self[code] = kind
        return kind


def _class_of(character: str) -> str:
    if character.isascii():
        return "9" if character.isdigit() else "A" if character.isupper() else "a" if character.islower() else character
    if character.isalpha():
        return UPPER if character.isupper() else LOWER if character.islower() else CASELESS
    if character.isnumeric():
        return DIGIT
    category = unicodedata.category(character)
    if category.startswith("M") or character == "\u200d":
        return ACCENT
    return SYMBOL if category in ("So", "Sk", "Co", "Cn", "Cs") or character > "\uffff" else character


_CLASSES = _Classes({ord(ACCENT): ACCENT})


def masks(values: Sequence[str]) -> list[str]:
    """The mask of every value, in order. A long value is cut in its middle first, so that none costs more than others."""
    if not values:
        return []
    short = [v if len(v) <= LONGEST else f"{v[:HEAD]}…{v[HEAD + 1 - LONGEST:]}" for v in values]
    joined = END.join(short)
    if joined.count(END) >= len(short):
        joined = END.join([v.replace(END, "\x1f") for v in short])
    return joined.translate(_CLASSES).split(END)


def formats(masks: Sequence[str], level: int) -> list[str]:
    """The masks at a level of abstraction, 0 to 6, in order."""
    if level == 0 or not masks:
        return list(masks)
    if level == 6:
        return _alphabets(_codes(masks))
    codes = _LEVELS[level](_codes(masks))
    wide = codes.dtype != np.uint8
    text = codes.tobytes().decode("utf-32-le", "surrogatepass") if wide else codes.tobytes().decode("ascii")
    return text.split(END)[:-1]


def runs(masks: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """-> (t,) every run of equal characters as `code << 3 | class of its length`, END_RUN after each mask's, and (n,) where
    each mask's begin.
    """
    codes = _codes(masks)
    at = _starts(codes, codes != ord(END))
    own = codes[at]
    first = np.append(0, np.flatnonzero(own == ord(END))[:-1] + 1)
    return own.astype(np.int32) << 3 | _length_class(at, len(codes)), first


def _codes(masks: Sequence[str]) -> Codes:
    """One code for each character, END after every mask; letters outside ASCII are all the same from here on."""
    joined = END.join(masks) + END
    if joined.isascii():
        return np.frombuffer(joined.encode("ascii"), np.uint8)
    folded = joined.replace(UPPER, LOWER).replace(CASELESS, LOWER)
    return np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), np.uint32)


_OTHER, _NUMERAL, _LETTER = 0, 1, 2
_KINDS = np.zeros(256, np.uint8)
_KINDS[[ord("9"), ord(DIGIT)]] = _NUMERAL
_KINDS[[ord("A"), ord("a"), ord(LOWER)]] = _LETTER
_LENGTH_CLASS = (np.searchsorted(LENGTHS, np.arange(LENGTHS[-1] + 2)) + 1).astype(np.int32)


def _kinds(codes: Codes) -> NDArray[np.uint8]:
    return _KINDS[codes if codes.dtype == np.uint8 else np.where(codes < 256, codes, 0)]


def _starts(codes: Codes, joins: BoolArray) -> NDArray[np.intp]:
    """Where runs begin: only characters that may join are in a run with the one before them."""
    starts = np.ones(len(codes), np.bool_)
    starts[1:] = (codes[1:] != codes[:-1]) | ~joins[1:]
    return np.flatnonzero(starts)


def _length_class(at: NDArray[np.intp], end: int) -> NDArray[np.int32]:
    lengths = np.empty(len(at), np.intp)
    np.subtract(at[1:], at[:-1], out=lengths[:-1])
    lengths[-1] = end - at[-1]
    return _LENGTH_CLASS.take(lengths, mode="clip")


def _lengths(codes: Codes) -> Codes:
    classed = _kinds(codes) != _OTHER
    at = _starts(codes, classed)
    pairs = np.zeros((len(at), 2), codes.dtype)
    pairs[:, 0] = codes[at]
    pairs[:, 1] = np.where(classed[at], ord("0") + _length_class(at, len(codes)), 0)
    flat: Codes = pairs.ravel()
    kept: Codes = flat[flat != 0]
    return kept


def _runs(codes: Codes) -> Codes:
    runs: Codes = codes[_starts(codes, codes != ord(END))]
    return runs


def _characters(codes: Codes) -> Codes:
    known = (_kinds(codes) != _OTHER) & (codes < 128)
    return np.where(known, ord("x"), codes)


def _tokens(codes: Codes) -> Codes:
    kinds = _kinds(codes)
    codes = np.where(kinds == _LETTER, ord("w"), np.where(kinds == _NUMERAL, ord("9"), codes))
    at = _starts(codes, kinds != _OTHER)
    codes, number = codes[at], kinds[at] == _NUMERAL
    inside = np.zeros(len(codes), np.bool_)  # the point or comma inside a number, and the digits after it
    inside[1:-1] = ((codes[1:-1] == ord(".")) | (codes[1:-1] == ord(","))) & number[:-2] & number[2:]
    inside[1:] |= inside[:-1]
    return codes[~inside]


def _shape(codes: Codes) -> Codes:
    codes = _tokens(codes)
    token = (codes == ord("w")) | (codes == ord("9"))
    first = np.ones(len(codes), np.bool_)
    first[1:] = ~(token[1:] & token[:-1])  # a word next to a number is one mixed word
    at = np.flatnonzero(first)
    codes, token = np.where(np.diff(at, append=len(codes)) > 1, ord("w"), codes[at]), token[at]
    # A unit is a token with what stands after it. Of equal units in a row one is kept.
    end = codes == ord(END)
    units = np.flatnonzero(token | end | np.append(True, end[:-1]))
    size = np.diff(units, append=len(codes))
    same = np.zeros(len(units), np.bool_)
    same[1:] = token[units[1:]] & (size[1:] == size[:-1]) & (size[1:] <= 4)
    for step in range(4):
        here = codes[np.minimum(units + step, len(codes) - 1)]
        same[1:] &= (here[1:] == here[:-1]) | (size[1:] <= step)
    return codes[np.repeat(~same, size)]


def _alphabets(codes: Codes) -> list[str]:
    codes = np.where(codes == ord("A"), ord("a"), codes)
    found = np.flatnonzero(np.bincount(codes)) if codes.dtype == np.uint8 else np.unique(codes)
    found = found[found != ord(END)]
    ends = np.flatnonzero(codes == ord(END))
    starts = np.append(0, ends[:-1] + 1)
    texts, which = [""], np.zeros(len(ends), np.int64)  # distinct alphabets so far, and which of them a mask has
    for part in (found[i:i + 63] for i in range(0, len(found), 63)):  # so many characters are the bits of one number
        bit = np.zeros(int(codes.max()) + 1, np.int64)
        bit[part] = 1 << np.arange(len(part))
        sets, has = np.unique(np.bitwise_or.reduceat(bit[codes], starts), return_inverse=True)
        pairs, which = np.unique(which * len(sets) + has, return_inverse=True)
        letters = ["".join(chr(c) for i, c in enumerate(part) if own >> i & 1) for own in sets.tolist()]
        texts = [texts[pair // len(sets)] + letters[pair % len(sets)] for pair in pairs.tolist()]
    return [texts[i] for i in which.tolist()]


_LEVELS: tuple[Callable[[Codes], Codes], ...] = (lambda codes: codes, _lengths, _runs, _characters, _tokens, _shape)


# What an autoencoder sees of a shape: numbers that tell masks apart without telling values.
_COUNTED = ("9", "A", "a", LOWER, " ", "-", "_", ".", "/", ":", ",")
_COUNTED_NAMES = ("digits", "upper case", "lower case", "other letters", "spaces", "hyphens", "underscores", "points",
                  "slashes", "colons", "commas", "other characters")
_GROUPS = ("digits", "upper case", "lower case", "other letters", "spaces", "separators", "other characters")
_GROUP_OF = np.array([0, 1, 2, 3, 4, 5, 5, 5, 5, 5, 5, 6])
_PLACE = np.full(256, len(_COUNTED))
_PLACE[[ord(c) for c in _COUNTED]] = np.arange(len(_COUNTED))
FEATURES = (*(f"number of {name}" for name in _COUNTED_NAMES), "length", "number of runs",
            *(f"{after} after {before}" for before in ("the start", *_GROUPS) for after in (*_GROUPS, "the end")))


def features(masks: Sequence[str]) -> NDArray[np.float64]:
    """(n, f) FEATURES of each mask: how many characters of each class, and in all, how many runs, and how often a run of one
    class follows one of another; everything as log(1 + count).
    """
    n = len(masks)
    codes = _codes(masks)
    ends = np.flatnonzero(codes == ord(END))
    sizes = np.diff(ends, prepend=-1) - 1
    inside = np.ones(len(codes), np.bool_)
    inside[ends] = False
    codes, owner = codes[inside], np.repeat(np.arange(n), sizes)
    classes = _PLACE[np.where(codes < 256, codes, 0)]
    amounts = np.bincount(owner * len(_COUNTED_NAMES) + classes, minlength=n * len(_COUNTED_NAMES)).reshape(n, -1)
    first = np.ones(len(codes), np.bool_)
    first[1:] = (codes[1:] != codes[:-1]) | (owner[1:] != owner[:-1])
    group, run_owner = _GROUP_OF[classes[first]], owner[first]
    runs = np.bincount(run_owner, minlength=n)
    # Every mask as start, its runs, end: a pair for each neighbours.
    ends = np.cumsum(runs)
    before = np.insert(group + 1, ends - runs, 0)
    after = np.insert(group, ends, len(_GROUPS))
    width = len(_GROUPS) + 1
    pair_owner = np.repeat(np.arange(n), runs + 1)
    pairs = np.bincount((pair_owner * width + before) * width + after, minlength=n * width * width).reshape(n, -1)
    return np.log1p(np.concatenate([amounts, sizes[:, None], runs[:, None], pairs], axis=1))
