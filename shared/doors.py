"""The queue door: a detect request as a message, its answer as a message, and what is wrong with it on the poison queue.

A message is the body of a detect route with the name of its `detector`, as JSON or as JSON in base64. It may come twice and
in any order: the answer is the same, and so is the history.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from detectors.directory import detector
from shared.catalogue import Catalogue
from shared.contract import Answer, Input, parse
from shared.errors import ServiceError
from shared.judging import Judged, judge
from shared.queues import LONGEST_BYTES, Queues
from shared.tables import Tables

# As often as host.json lets a message be tried (`maxDequeueCount`).
TRIES: Final = 5
# Where the Functions host tells of a blob whose function failed that often.
BLOB_POISON: Final = "webjobs-blobtrigger-poison"
LONGEST_REASON: Final = 2_000
# What of a long answer stays in its message.
_SHORT: Final = ("message_id", "source", "result", "detector", "table_id", "request_id", "timestamp", "status", "reason",
                 "is_anomaly", "severity", "confidence", "expected_range", "message")


class Message(Input):
    """What every message says beside the fields of its detect route."""

    detector: str


def judge_message(message: bytes, catalogue: Catalogue, tables: Tables, now: datetime) -> Judged:
    """The answer to a message.

    Raises InvalidJson, InvalidRequest, NotFound for a detector that is none, and what its `detect` raises.
    """
    body = plain(message)
    kind = parse(Message, body).detector
    return judge(kind, parse(detector(kind).request, body), catalogue, tables, now)


def plain(message: bytes) -> bytes:
    """The JSON of a message, out of its base64 where it is in one. What is neither is left as it is."""
    if message.lstrip()[:1] in (b"{", b"[", b'"'):
        return message
    try:
        return base64.b64decode(message.strip(), validate=True)
    except binascii.Error:
        return message


def answer_message(answer: Answer, message_id: str, catalogue: Catalogue) -> str:
    """The message on the results queue: the answer as its route gives it, with the id of the message that asked.

    One that is too long lies in a blob, and the message says where, and what matters most.
    """
    result = {"message_id": message_id, **answer.model_dump(mode="json")}
    if len(text := json.dumps(result)) <= LONGEST_BYTES:
        return text
    container, name = catalogue.settings.results_container, f"{catalogue.settings.answers_queue}/{message_id}.json"
    catalogue.blobs.put(container, name, text.encode())
    return json.dumps({**short(result), "result": f"{container}/{name}"})


def short(result: Mapping[str, Any]) -> dict[str, Any]:
    """What of an answer goes into a message that cannot hold all of it."""
    return {key: result[key] for key in _SHORT if key in result}


def bury(message: bytes, message_id: str, error: Exception, queues: Queues, catalogue: Catalogue) -> None:
    """Puts a message on the poison queue with the reason: `{reason, code, target, id, dequeued_at, message}`.

    `message` is the text as it came. One that is too long for that, or no text, lies in a blob: `message_blob` says where.
    """
    settings = catalogue.settings
    told = error if isinstance(error, ServiceError) else ServiceError(f"{type(error).__name__}: {error}")
    record = {"reason": told.message[:LONGEST_REASON], "code": told.code,
              "target": told.target and told.target[:LONGEST_REASON],
              "id": message_id, "dequeued_at": datetime.now(UTC).isoformat(timespec="seconds")}
    try:
        text = json.dumps({**record, "message": message.decode()})
    except UnicodeDecodeError:
        text = None
    if text is None or len(text) > LONGEST_BYTES:
        name = f"{poison(settings.requests_queue)}/{message_id}"
        catalogue.blobs.put(settings.results_container, name, message)
        text = json.dumps({**record, "message": None, "message_blob": f"{settings.results_container}/{name}"})
    queues.put(poison(settings.requests_queue), text)


def poisoned(queues: Queues, names: Iterable[str]) -> dict[str, int]:
    """About how many messages wait for somebody to look at them: by the poison queue of each of these queues, and of files.

    Raises StorageUnavailable.
    """
    return {name: queues.length(name) for name in (*map(poison, names), BLOB_POISON)}


def poison(queue: str) -> str:
    """The queue of the messages of `queue` that cannot be read."""
    return f"{queue}-poison"
