"""The names that become parts of blob names and table keys, and the one rule they keep.

Storage clients resolve `..` in a path, so with a managed identity a name holding `../` reaches other containers. Every
name is checked here before it becomes part of an address.
"""

from __future__ import annotations

import re

from shared.errors import InvalidRequest

# A dot at the end is refused with the rest: Azure drops it from a path segment. To be used with `fullmatch`.
_RULE = r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9_.-]{0,%d}(?<!\.)"
MAX_ID, MAX_MODEL_NAME = 63, 127
ID_PATTERN = re.compile(_RULE % (MAX_ID - 1))
MODEL_NAME_PATTERN = re.compile(_RULE % (MAX_MODEL_NAME - 1))
# Blobs may lie in folders such as `date=2026-09-21`.
_SEGMENT = re.compile((_RULE % 254).replace("_.-]", "_.=-]"))
MAX_BLOB_NAME = 1024


def check_id(text: str, target: str, pattern: re.Pattern[str] = ID_PATTERN) -> str:
    """The id as it came. Raises InvalidRequest naming `target`."""
    if not isinstance(text, str) or not pattern.fullmatch(text):
        raise InvalidRequest("An id begins with a letter or a digit, goes on with these, '_', '-' or single dots, "
                             "does not end with a dot, and has at most "
                             f"{MAX_ID if pattern is ID_PATTERN else MAX_MODEL_NAME} characters.", target)
    return text


def check_model_name(text: str, target: str = "model") -> str:
    """`{kind}.{table_id}`, such as `volume-anomaly.orders`: an id of at most 127 characters. Raises InvalidRequest."""
    return check_id(text, target, MODEL_NAME_PATTERN)


def check_blob_name(text: str, target: str = "blob") -> str:
    """Ids joined by `/`, which may hold `=` here. Raises InvalidRequest."""
    if not isinstance(text, str) or len(text) > MAX_BLOB_NAME or not all(map(_SEGMENT.fullmatch, text.split("/"))):
        raise InvalidRequest("A blob name is a path of ids.", target)
    return text
