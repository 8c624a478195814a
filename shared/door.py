"""Is the queue service there? Asked before a message is handed to an output binding.

A binding that cannot deliver fails the whole call after the function has returned. So that a verdict is not lost with the
message, the function looks first whether anything listens: one TCP connection, and not more often than a few times a second.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from shared.settings import Settings

LOOK_SECONDS = 0.25
CONNECT_SECONDS = 0.5


class Door:
    """The queue endpoint of the data storage account. May be asked from any thread."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._address, self._clock = _address(settings), clock
        self._looked_at, self._open = -LOOK_SECONDS, True

    def is_open(self) -> bool:
        """What was seen at most LOOK_SECONDS ago. True where the endpoint is not known: the binding has the last word."""
        if self._address is None:
            return True
        now = self._clock()
        if now - self._looked_at >= LOOK_SECONDS:
            try:
                socket.create_connection(self._address, CONNECT_SECONDS).close()
                self._open = True
            except OSError:
                self._open = False
            self._looked_at = now
        return self._open


def _address(settings: Settings) -> tuple[str, int] | None:
    uri = settings.queue_uri
    if uri is None and settings.connection_string:
        parts = dict(part.split("=", 1) for part in settings.connection_string.split(";") if "=" in part)
        suffix = parts.get("EndpointSuffix", "core.windows.net")
        uri = parts.get("QueueEndpoint") or f"https://{parts.get('AccountName', '')}.queue.{suffix}"
    if uri is None or not re.match(r"https?://[^/]", uri):
        return None
    split = urlsplit(uri)
    return (split.hostname or "", split.port or (443 if split.scheme == "https" else 80))
