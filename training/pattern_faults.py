"""What exports, imports and people do to a value: the faults that a detector of formats is measured with.

A fault takes a value, or its shape, which breaks the same way; None where it would change nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

PLACEHOLDERS = ("N/A", "null", "unknown", "???", "-", "none")
PREFIXES = ("ID:", "+", "#")
SEPARATORS = " -_./:"
LOOK_ALIKES = {"0": "O", "1": "Il", "5": "S", "8": "B", "9": "B"}  # 9 stands for every digit in a shape

type Fault = Callable[[Random, str], str | None]


def _case(random: Random, value: str) -> str | None:
    return value.swapcase() if value.swapcase() != value else None


def _padding(random: Random, value: str) -> str | None:
    return random.choice((" " + value, value + " "))


def _doubled(random: Random, value: str) -> str | None:
    return value + value or None


def _foreign(random: Random, value: str) -> str | None:
    if not value:
        return None
    at = random.randrange(len(value))
    return f"{value[:at]}é{value[at + 1:]}"


def _separator_lost(random: Random, value: str) -> str | None:
    at = _separator(random, value)
    return None if at is None else value[:at] + value[at + 1:]


def _separator_swapped(random: Random, value: str) -> str | None:
    at = _separator(random, value)
    return None if at is None else value[:at] + random.choice(SEPARATORS.replace(value[at], "")) + value[at + 1:]


def _letter_for_digit(random: Random, value: str) -> str | None:
    places = [i for i, c in enumerate(value) if c in LOOK_ALIKES]
    if not places:
        return None
    at = random.choice(places)
    return value[:at] + random.choice(LOOK_ALIKES[value[at]]) + value[at + 1:]


def _cut(random: Random, value: str) -> str | None:
    return value[:random.randrange(1, len(value))] if len(value) > 1 else None


def _prefix(random: Random, value: str) -> str | None:
    return random.choice(PREFIXES) + value


def _placeholder(random: Random, value: str) -> str | None:
    return random.choice(PLACEHOLDERS)


def _separator(random: Random, value: str) -> int | None:
    places = [i for i, c in enumerate(value) if not c.isalnum()]
    return random.choice(places) if places else None


FAULTS: dict[str, Fault] = {
    "case": _case,
    "padding": _padding,
    "doubled": _doubled,
    "foreign letter": _foreign,
    "separator lost": _separator_lost,
    "separator swapped": _separator_swapped,
    "letter for digit": _letter_for_digit,
    "cut": _cut,
    "prefix": _prefix,
    "placeholder": _placeholder,
}
