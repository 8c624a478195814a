"""Upserts in bulk for Table storage: the entity group transaction, written out by hand.

The client library spends 50 to 70 ms of its own on each hundred entities, nearly all of it in the email package; a load of
100,000 points would keep a core busy for a minute. Written out, the same request costs 3 ms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from azure.core.rest import HttpRequest
from azure.data.tables import TableClient

type Entity = Mapping[str, str | float]

MAX_ENTITIES = 100  # the service's own limit
# The emulator takes its time over partitions of many thousand entities.
READ_SECONDS = 60.0
_HEADERS = {"Content-Type": "multipart/mixed; boundary=batch_0", "Accept": "application/json",
            "DataServiceVersion": "3.0", "MaxDataServiceVersion": "3.0;NetFx"}


def upsert(table: TableClient, entities: Sequence[Entity]) -> bool:
    """Merges at most 100 entities of one partition into the table, all or none; tells whether they are kept.

    Where they are not, `TableClient.submit_transaction` says why.
    """
    request = HttpRequest("POST", f"{table.url}/$batch", headers=_HEADERS | {"x-ms-version": table.api_version},
                          content=_body(f"{table.url}/{table.table_name}", entities))
    # The library signs and retries it as one of its own; nothing public takes a request that is already written.
    response = table._client.send_request(request, stream=True, read_timeout=READ_SECONDS)
    return response.status_code == 202 and response.read().count(b"HTTP/1.1 204") == len(entities)


def _body(url: str, entities: Sequence[Entity]) -> bytes:
    changes = "".join(_change(url, number, entity) for number, entity in enumerate(entities))
    return ("--batch_0\r\nContent-Type: multipart/mixed; boundary=changeset_0\r\n\r\n"
            f"{changes}--changeset_0--\r\n\r\n--batch_0--\r\n").encode("ascii")


def _change(url: str, number: int, entity: Entity) -> str:
    partition_key, row_key = quote(str(entity["PartitionKey"]), ""), quote(str(entity["RowKey"]), "")
    doubles = {f"{name}@odata.type": "Edm.Double" for name, value in entity.items() if isinstance(value, float)}
    content = json.dumps({**entity, **doubles}, allow_nan=False)
    return ("--changeset_0\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n"
            f"Content-ID: {number}\r\n\r\n"
            f"PATCH {url}(PartitionKey='{partition_key}',RowKey='{row_key}') HTTP/1.1\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\nAccept: application/json\r\n"
            f"DataServiceVersion: 3.0\r\n\r\n{content}\r\n")
