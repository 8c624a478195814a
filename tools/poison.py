"""`python -m tools.poison`: messages that could not be used, with their reasons, and sending them again.

    python -m tools.poison                 how many there are, and the first 32
    python -m tools.poison replay [ID...]  sends all of them, or those with these ids, to their queue again
    python -m tools.poison drop ID...      deletes them

The storage account is that of the environment, or of local.settings.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shared.blobs import Blobs
from shared.doors import TRIES, poison
from shared.queues import Queues, Waiting
from shared.settings import Settings
from tools.local_host.settings import load_local_settings


@dataclass(frozen=True, slots=True)
class Poisoned:
    """A message of the poison queue: the reason that was recorded, or what is known of one that the host put there."""

    id: str
    when: str
    code: str
    reason: str
    text: str | None
    blob: str | None = None

    @classmethod
    def read(cls, id: str, text: str) -> Poisoned:
        try:
            record = json.loads(text)
            return cls(record["id"], record["dequeued_at"], record["code"], record["reason"], record["message"],
                       record.get("message_blob"))
        except (ValueError, KeyError, TypeError):
            reason = f"The host gave it up after {TRIES} tries; its log says why."
            return cls(id, "", "HostGaveUp", reason, text)

    def message(self, blobs: Blobs) -> str | None:
        """What was sent, as it was; None where that is gone or no text."""
        if self.blob is None:
            return self.text
        found = blobs.get(*self.blob.split("/", 1))
        try:
            return found.data.decode() if found else None
        except UnicodeDecodeError:
            return None


def listed(queues: Queues, queue: str) -> Iterator[str]:
    """How many there are, and a line for each of the first 32."""
    yield f"{queues.length(poison(queue))} on {poison(queue)}"
    for known in waiting(queues, queue):
        yield f"{known.id}  {known.when or '-'}  {known.code}: {known.reason}"


def waiting(queues: Queues, queue: str) -> list[Poisoned]:
    """The first 32, which stay where they are."""
    return [Poisoned.read(id, text) for id, text in queues.peek(poison(queue)).items()]


def replay(queues: Queues, blobs: Blobs, queue: str, ids: frozenset[str] = frozenset()) -> Iterator[str]:
    """Sends the messages with these ids again, or all, and tells of each. What was sent leaves the poison queue."""
    for known, taken in _taken(queues, queue, ids):
        text = known.message(blobs)
        if text is None:
            yield f"{known.id} stays: {known.blob} is gone, or no text."
            continue
        queues.put(queue, text)
        taken.delete()
        yield f"{known.id} is sent again."


def drop(queues: Queues, queue: str, ids: frozenset[str]) -> Iterator[str]:
    """Deletes the messages with these ids and tells of each."""
    for known, taken in _taken(queues, queue, ids):
        taken.delete()
        yield f"{known.id} is deleted."


def _taken(queues: Queues, queue: str, ids: frozenset[str]) -> Iterator[tuple[Poisoned, Waiting]]:
    for taken in queues.take(poison(queue), seconds=30):
        known = Poisoned.read(taken.id, taken.text)
        if not ids or known.id in ids:
            yield known, taken


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.poison", formatter_class=argparse.RawDescriptionHelpFormatter,
                                     description=__doc__)
    parser.add_argument("what", nargs="?", choices=("list", "replay", "drop"), default="list")
    parser.add_argument("ids", nargs="*", metavar="ID")
    parser.add_argument("--queue", help="where the messages were meant for; by default the queue of detect requests")
    options = parser.parse_args(arguments)
    if options.what == "drop" and not options.ids:
        parser.error("drop needs the ids of what is to be deleted")
    load_local_settings(Path(), print)
    settings, ids = Settings.from_environment(), frozenset(options.ids)
    queues, queue = Queues(settings), options.queue or settings.requests_queue
    match options.what:
        case "replay":
            lines = replay(queues, Blobs(settings), queue, ids)
        case "drop":
            lines = drop(queues, queue, ids)
        case _:
            lines = listed(queues, queue)
    for line in lines:
        print(line)


if __name__ == "__main__":
    main()
