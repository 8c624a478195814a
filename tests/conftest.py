"""What every test may use: a storage account of its own on a real Azurite."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import httpx
import pytest

from tools.azurite import Azurite, free_ports
from tools.local_host import LocalHost

ROOT = Path(__file__).resolve().parent.parent
ACCOUNTS = tuple(f"test{n:03d}" for n in range(400))
_numbers = count()


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    blob, queue, table = free_ports(3)
    with Azurite(ports=(blob, queue, table), accounts=ACCOUNTS) as running:
        yield running


@pytest.fixture
def storage(azurite: Azurite) -> str:
    """The connection string of a storage account that no other test has touched."""
    return azurite.connection_string(ACCOUNTS[next(_numbers)])


@pytest.fixture(scope="session")
def service(azurite: Azurite) -> Iterator[httpx.Client]:
    """A client of the whole service, served by the local host on storage of its own."""
    account = azurite.connection_string(ACCOUNTS[next(_numbers)])
    settings = {"AzureWebJobsStorage": account, "DATA_STORAGE": account, "RECHECK_SECONDS": "0"}
    with LocalHost(app=ROOT, settings=settings) as host, client_of(host) as client:
        yield client


def client_of(host: LocalHost) -> httpx.Client:
    return httpx.Client(base_url=f"{host.url}/api", headers={"x-functions-key": host.key}, timeout=60)
