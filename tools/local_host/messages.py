"""What passes between a Functions host and Microsoft's worker library.

In Azure these are protobuf messages on a gRPC stream (azure-functions-language-worker-protobuf). The library only reads
and writes their fields, so in one process plain objects of the same shape do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import format_datetime
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any


class Message(SimpleNamespace):
    """A message with the fields that were set; of a union, the one that is."""

    def WhichOneof(self, group: str) -> str | None:
        return next(iter(vars(self)), None)


class ParameterBinding(Message):
    def WhichOneof(self, group: str) -> str:
        return "data"


class StatusResult(Message):
    Failure, Success = 0, 1


class BindingInfo(Message):
    out, inout, undefined = 1, 2, None


class RpcHttpCookie(Message):
    SameSite = SimpleNamespace(**{"None": None, "Lax": "Lax", "Strict": "Strict", "ExplicitNone": "None"})


_PLAIN = ("TypedData", "RpcHttp", "RpcException", "RpcFunctionMetadata", "RpcRetryOptions", "FunctionMetadataResponse",
          "InvocationResponse", "WorkerInitResponse", "WorkerMetadata",
          "NullableBool", "NullableDouble", "NullableString", "NullableTimestamp")
PROTOS = SimpleNamespace(ParameterBinding=ParameterBinding, StatusResult=StatusResult, BindingInfo=BindingInfo,
                         RpcHttpCookie=RpcHttpCookie, **dict.fromkeys(_PLAIN, Message))


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer as it goes on the wire."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


def http_request(method: str, url: str, headers: Mapping[str, str], query: Mapping[str, str],
                 params: Mapping[str, str], body: bytes) -> Message:
    """`params` are the values of the route's parameters, `query` those of the URL."""
    return Message(http=Message(method=method, url=url, headers=headers, query=query, params=params,
                                body=Message(bytes=body)))


def http_response(value: Message | None) -> Response:
    """What a function returned, as an answer: its HttpResponse, text as text/plain, nothing as 204."""
    match value.WhichOneof("data") if value is not None else None:
        case "http":
            assert value is not None
            headers = [*value.http.headers.items(), *(("set-cookie", _cookie(c)) for c in value.http.cookies or ())]
            return Response(int(value.http.status_code), tuple(headers), as_bytes(value.http.body))
        case None:
            return Response(HTTPStatus.NO_CONTENT)
        case "bytes":
            kind = "application/octet-stream"
        case "json":
            kind = "application/json"
        case _:
            kind = "text/plain; charset=utf-8"
    return Response(HTTPStatus.OK, (("content-type", kind),), as_bytes(value))


def as_bytes(value: Message | None) -> bytes:
    """The content of a string, bytes or json message; numbers as their text; nothing as b""."""
    content = next(iter(vars(value).values()), b"") if value is not None else b""
    return content if isinstance(content, bytes) else str(content).encode()


def _cookie(cookie: Message) -> str:
    def value(field: str) -> Any:
        return getattr(getattr(cookie, field, None), "value", None)

    parts = [f"{cookie.name}={cookie.value}"]
    if expires := value("expires"):
        parts.append(f"Expires={format_datetime(expires.ToDatetime())}".replace("-0000", "GMT"))
    if (age := value("max_age")) is not None:
        parts.append(f"Max-Age={age:.0f}")
    parts += [f"{key}={found}" for key, field in (("Domain", "domain"), ("Path", "path")) if (found := value(field))]
    parts += [key for key, field in (("Secure", "secure"), ("HttpOnly", "http_only")) if value(field)]
    parts += [f"SameSite={cookie.same_site}"] if cookie.same_site else []
    return "; ".join(parts)
