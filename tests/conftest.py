"""What every test may use: a storage account of its own on a real Azurite."""

from collections.abc import Iterator
from itertools import count

import pytest

from tools.azurite import Azurite, free_ports

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
