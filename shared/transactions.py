"""Upserts in bulk for Table storage: the entity group transaction, written out by hand.

The client library spends 50 to 70 ms of its own on each hundred entities, nearly all of it in the email package; a load of
100,000 points would keep a core busy for a minute. Written out, the same request costs 3 ms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from azure.core.rest import HttpRequest

type Entity = Mapping[str, str | float]

MAX_ENTITIES = 100  # the service's own limit
_HEADERS = {"Content-Type": "multipart/mixed; boundary=batch_0", "Accept": "application/json",
            "DataServiceVersion": "3.0", "MaxDataServiceVersion": "3.0;NetFx"}


def upserts(account_url: str, table: str, api_version: str, entities: Sequence[Entity]) -> HttpRequest:
    """The request that merges 1 to 100 entities of one partition into the table, all or none; text and doubles only."""
    changes = "".join(_change(f"{account_url}/{table}", number, entity) for number, entity in enumerate(entities))
    content = ("--batch_0\r\nContent-Type: multipart/mixed; boundary=changeset_0\r\n\r\n"
               f"{changes}--changeset_0--\r\n\r\n--batch_0--\r\n")
    return HttpRequest("POST", f"{account_url}/$batch", headers=_HEADERS | {"x-ms-version": api_version},
                       content=content.encode("ascii"))


def kept(status: int, answer: bytes, entities: Sequence[Entity]) -> bool:
    """Whether the answer says that every entity was merged."""
    return status == 202 and answer.count(b"HTTP/1.1 204") == len(entities)


def _change(url: str, number: int, entity: Entity) -> str:
    partition_key, row_key = quote(str(entity["PartitionKey"]), ""), quote(str(entity["RowKey"]), "")
    doubles = {f"{name}@odata.type": "Edm.Double" for name, value in entity.items() if isinstance(value, float)}
    content = json.dumps({**entity, **doubles}, allow_nan=False)
    return ("--changeset_0\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n"
            f"Content-ID: {number}\r\n\r\n"
            f"PATCH {url}(PartitionKey='{partition_key}',RowKey='{row_key}') HTTP/1.1\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\nAccept: application/json\r\n"
            f"DataServiceVersion: 3.0\r\n\r\n{content}\r\n")
