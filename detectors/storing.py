"""What a detector does about storage that may not answer: it recalls and keeps what it can, and says what it could not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

from detectors.reasons import reasons, stored
from shared.catalogue import Catalogue
from shared.contract import Answer
from shared.errors import StorageUnavailable
from shared.history import History

# A queue message ends at 64 KiB in base64, and carries the verdict, too. What is longer is kept at once.
LONGEST_MESSAGE = 45_000


class Remembered(Protocol):
    @property
    def stale(self) -> str | None:
        """Why it may lack the latest, None when it lacks none."""
        ...


def recall[H: Remembered](read: Callable[[], H], warnings: list[str], can_do_without: bool) -> H | None:
    """What `read` finds, and a warning where it is old; None, with a warning, where storage does not answer.

    Raises StorageUnavailable then where the request cannot do without.
    """
    try:
        known = read()
    except StorageUnavailable:
        if not can_do_without:
            raise
        if not warnings:  # that the model could not be read either is said already
            warnings.append("Storage does not answer: stored history was left out.")
        return None
    if known.stale:
        warnings.append(f"The history in memory was used. {known.stale}")
    return known


def judged_by(answer: Answer, now: datetime) -> dict[str, Any]:
    """What a document says of its verdict, beside the score: the version of the model, None for the baseline, and when.

    Of an anomaly also what was wrong.
    """
    why = {"reasons": stored(reasons(answer))} if answer.is_anomaly else {}
    return {"model": answer.model.version if answer.model.name else None, "observed_at": now.isoformat(), **why}


def hand_over(message: str, observe: Callable[[bytes, History], None], answer: Answer, catalogue: Catalogue,
              what: str) -> tuple[str | None, bool]:
    """-> the message for the queue, and whether what was seen is kept, or is on its way.

    A message too long for the queue is kept before this returns, by `observe`. While storage does not answer nothing is
    kept: the verdict is worth more than an error, and its warnings say of `what` ("this batch was") to send it again.
    """
    data = message.encode()
    try:
        if not catalogue.door.is_open():
            raise StorageUnavailable("The queue does not answer.")
        if len(data) > LONGEST_MESSAGE:
            observe(data, catalogue.history)
            return None, True
    except StorageUnavailable:
        answer.warnings.append(f"Storage does not answer: {what} not kept in the history. Send it again later.")
        return None, False
    return message, True
