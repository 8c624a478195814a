"""What others are told: CloudEvents 1.0 on the queue `anomalies`, and at a webhook where one is set.

Events for the webhook go over a queue of their own, `anomalies-webhook`: who finds an anomaly never waits for the receiver,
and an event that is not taken comes back later and later, for about a day, before it ends in the poison queue.

A delivery is signed as Standard Webhooks (standardwebhooks.com) has it, with the secret of WEBHOOK_SECRET:

    webhook-id: 5b0f...                the event's id, the same when it is sent again
    webhook-timestamp: 1789999200      seconds since 1970-01-01 UTC of this try; refuse what is older than five minutes
    webhook-signature: v1,K5oZfzN...   base64 of HMAC-SHA256 over `{webhook-id}.{webhook-timestamp}.{body}`

A secret that begins with `whsec_` is base64 after that; any other is taken as it is, in UTF-8.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import http.client
import json
import logging
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

from shared.queues import Queues
from shared.settings import InvalidSetting, Settings

ANOMALY, RECOVERED, INCIDENT = (f"com.claritydq.{kind}.v1" for kind in ("anomaly", "recovered", "incident"))
LONGEST_MESSAGE: Final = 2000  # characters
TRIES: Final = 34  # about a day
FIRST_PAUSE, LONGEST_PAUSE = 2, 3600  # seconds
RECEIVER_SECONDS: Final = 10.0

type Event = dict[str, Any]

log = logging.getLogger(__name__)


def cloud_event(kind: str, detector: str, subject: str, time: datetime, data: Mapping[str, Any],
                identity: Sequence[object]) -> Event:
    """A CloudEvent in JSON. Equal `kind`, `detector`, `subject` and `identity` give an equal id."""
    text = json.dumps([kind, detector, subject, *map(str, identity)])
    told = dict(data)
    told["message"] = str(told.get("message", ""))[:LONGEST_MESSAGE]
    return {"specversion": "1.0", "id": hashlib.sha256(text.encode()).hexdigest()[:32], "source": f"/claritydq/{detector}",
            "type": kind, "subject": subject, "time": time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "datacontenttype": "application/json", "data": told}


class Publisher:
    """Puts events on their queues. Raises StorageUnavailable."""

    def __init__(self, queues: Queues, settings: Settings) -> None:
        self._queues, self._settings = queues, settings

    def publish(self, event: Event) -> None:
        """An event that is published twice has the same id twice."""
        text = json.dumps(event)
        if self._settings.webhook_url:
            self._queues.put(webhook_queue(self._settings), json.dumps({"event": event, "tries": 0}))
        self._queues.put(self._settings.anomalies_queue, text)


def webhook_queue(settings: Settings) -> str:
    """The queue of events on their way to the webhook."""
    return f"{settings.anomalies_queue}-webhook"


def deliver(message: bytes, queues: Queues, settings: Settings) -> None:
    """One event from the webhook's queue. What the receiver does not take goes back there with a longer pause.

    Raises ValueError or KeyError for a message that cannot be read, InvalidSetting, StorageUnavailable.
    """
    told = json.loads(message)
    event, tries = told["event"], int(told["tries"]) + 1
    if not settings.webhook_url:
        log.warning("WEBHOOK_URL is no longer set: event %s stays undelivered.", event["id"])
        return
    problem = post(settings.webhook_url, settings.webhook_secret, event, datetime.now(UTC))
    if problem is None:
        return
    queue = webhook_queue(settings)
    if tries >= TRIES:
        log.error("The webhook did not take event %s in %d tries: %s", event["id"], tries, problem)
        queues.put(f"{queue}-poison", json.dumps({"reason": problem, "event": event, "tries": tries}))
        return
    pause = min(FIRST_PAUSE * 2 ** (tries - 1), LONGEST_PAUSE)
    log.warning("The webhook did not take event %s (%s): again in %d seconds.", event["id"], problem, pause)
    queues.put(queue, json.dumps({"event": event, "tries": tries}), delay_seconds=pause)


def post(url: str, secret: str | None, event: Event, now: datetime) -> str | None:
    """Sends one event; None where the receiver took it, else what went wrong. Redirects are not followed.

    Raises InvalidSetting for an address that is not https (http only on this machine), or a secret that is no base64.
    """
    split = urlsplit(url)
    if split.scheme != "https" and not (split.scheme == "http" and split.hostname in ("127.0.0.1", "localhost", "::1")):
        raise InvalidSetting("WEBHOOK_URL must be an https address.")
    body = json.dumps(event, separators=(",", ":")).encode()
    headers = {"Content-Type": "application/cloudevents+json; charset=utf-8", "User-Agent": "claritydq"}
    request = urllib.request.Request(url, body, headers | signature(secret, event["id"], now, body), method="POST")
    try:
        with _OPENER.open(request, timeout=RECEIVER_SECONDS) as response:
            return None if 200 <= response.status < 300 else f"status {response.status}"
    except urllib.error.HTTPError as error:
        error.close()
        return f"status {error.code}"
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {type(error).__name__}"


def signature(secret: str | None, event_id: str, now: datetime, body: bytes) -> dict[str, str]:
    """The headers a receiver verifies; without a secret those that need none. Raises InvalidSetting."""
    seconds = str(int(now.timestamp()))
    headers = {"webhook-id": event_id, "webhook-timestamp": seconds}
    if not secret:
        return headers
    try:
        key = base64.b64decode(secret[6:], validate=True) if secret.startswith("whsec_") else secret.encode()
    except binascii.Error:
        raise InvalidSetting("WEBHOOK_SECRET is not base64 after whsec_.") from None
    digest = hmac.new(key, f"{event_id}.{seconds}.".encode() + body, hashlib.sha256).digest()
    return headers | {"webhook-signature": "v1," + base64.b64encode(digest).decode()}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A signed event goes where the operator said, and nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)
