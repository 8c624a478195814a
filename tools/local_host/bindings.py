"""Input and output bindings beside the trigger: what a function is given, and where its outputs go."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tools.local_host.messages import Message, as_bytes
from tools.local_host.settings import SettingsError
from tools.local_host.storage import Storage
from tools.local_host.worker import Function, Result

_TRIGGERS = ("httpTrigger", "queueTrigger", "blobTrigger", "timerTrigger",
             "orchestrationTrigger", "activityTrigger", "entityTrigger")
_INPUTS = ("blob", "durableClient")
_OUTPUTS = ("queue", "blob", "http")


def unsupported(function: Function) -> str | None:
    """Why the local host cannot run this function; None when it can."""
    kinds = [b["type"] for b in function.inputs() if b["type"] not in _INPUTS]
    kinds += [b["type"] for b in function.outputs() if b["type"] not in _OUTPUTS]
    kinds += [function.trigger["type"]] if function.trigger["type"] not in _TRIGGERS else []
    return f"the local host has no {', '.join(kinds)} binding" if kinds else None


def binding_data(function: Function, value: Message, metadata: Mapping[str, Message]) -> dict[str, str]:
    """What `{...}` in a path can name: trigger metadata, route parameters, and the fields of a JSON body.

    Empty for a function whose bindings name nothing, so that no large body is parsed in vain.
    """
    if not any("{" in str(b.get("path") or b.get("queueName")) for b in (*function.inputs(), *function.outputs())):
        return {}
    data = {name: as_bytes(field).decode(errors="replace") for name, field in metadata.items()}
    match value.WhichOneof("data"):
        case "http":
            body, params = as_bytes(value.http.body), value.http.params
        case _:
            body, params = as_bytes(value), {}
    try:
        fields = json.loads(body) if body[:1] == b"{" else {}
    except ValueError:
        fields = {}
    return {**{k: str(v) for k, v in fields.items() if isinstance(v, str | int | float)}, **data, **params}


def fill(template: str, data: Mapping[str, str]) -> str:
    """Fills in `{name}` from binding data, makes up `{rand-guid}` and `{datetime}`. Raises SettingsError otherwise."""

    def value(found: re.Match[str]) -> str:
        name = found[1]
        if name.lower() == "rand-guid":
            return str(uuid.uuid4())
        if name.lower() == "datetime":
            return datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
        if name not in data:
            raise SettingsError(f"'{{{name}}}' in '{template}' is not in the binding data.")
        return data[name]

    return re.sub(r"\{([\w-]+)\}", value, template)


async def inputs(function: Function, data: Mapping[str, str], storage: Storage, durable_client: str) -> dict[str, Message]:
    """The values of a function's input bindings by parameter name. A blob that is not there arrives as None."""
    values: dict[str, Message] = {}
    for binding in function.inputs():
        if binding["type"] == "durableClient":
            values[binding["name"]] = Message(string=durable_client)
        else:
            content = await storage.read(binding["connection"], fill(binding["path"], data))
            values[binding["name"]] = Message(bytes=content) if content is not None else Message()
    return values


async def deliver(function: Function, result: Result, data: Mapping[str, str], storage: Storage) -> None:
    """Sends what the function put into its output bindings; a JSON array becomes one queue message per element."""
    for binding in function.outputs():
        value = result.output(binding)
        if value is None:
            continue
        if binding["type"] == "queue":
            await storage.send(binding["connection"], fill(binding["queueName"], data), _queue_contents(value))
        else:
            await storage.write(binding["connection"], fill(binding["path"], data), as_bytes(value))


def _queue_contents(value: Message) -> list[bytes]:
    if value.WhichOneof("data") != "json":
        return [as_bytes(value)]
    parsed: Any = json.loads(value.json)
    messages = parsed if isinstance(parsed, list) else [parsed]
    return [(m if isinstance(m, str) else json.dumps(m)).encode() for m in messages]
