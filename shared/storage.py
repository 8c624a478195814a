"""How the storage account is reached, and what is said when it does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from azure.core.exceptions import HttpResponseError, IncompleteReadError, ServiceRequestError, ServiceResponseError

from shared.errors import StorageUnavailable
from shared.settings import CONNECTIONS, InvalidSetting, Settings

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

# An account that is down is reported within about three seconds: two tries to connect, no pause between them.
TRIES = 2
CONNECT_SECONDS = 1.4
READ_SECONDS = 10.0

# 401, 403 and 429 are a matter of the account, not of the request: keys in rotation, a role not there yet, a throttle.
_ACCOUNT_STATUS = frozenset({401, 403, 408, 429})


@contextmanager
def answering() -> Iterator[None]:
    """Raises StorageUnavailable where the account does not answer, or refuses this app. Other errors pass."""
    try:
        yield
    except (ServiceRequestError, ServiceResponseError, IncompleteReadError) as error:
        # The endpoint stays out of the message: it goes to callers. The cause has it, for the log.
        raise StorageUnavailable("Storage does not answer.") from error
    except HttpResponseError as error:
        status = error.status_code
        if status is None or status in _ACCOUNT_STATUS or status >= 500:
            raise StorageUnavailable(f"Storage refuses requests ({error_code(error)}).") from error
        raise


def error_code(error: HttpResponseError) -> str:
    """The service's own word for an error, such as ContainerNotFound; its status where it has none."""
    code = getattr(error, "error_code", None) or error.status_code or type(error).__name__
    return str(getattr(code, "value", code))


def missing_connection(service: str) -> StorageUnavailable:
    name = CONNECTIONS[0]
    return StorageUnavailable(f"The app setting {name} is missing: set it to a storage connection string, "
                              f"or {name}__{service}ServiceUri to use an identity.")


@contextmanager
def readable_connection() -> Iterator[None]:
    """Raises InvalidSetting where the client library cannot read the connection string. Keys stay out of the message."""
    try:
        yield
    except ValueError:
        raise InvalidSetting(f"{CONNECTIONS[0]} is no storage connection string.") from None


def client[C](kind: type[C], retry: Any, service: str, uri: str | None, settings: Settings) -> C:
    """A client of class `kind` for the blob or queue `service`: by the connection string, else at `uri` as an identity.

    `retry` is the LinearRetry of that client's package. Raises StorageUnavailable where neither is set, InvalidSetting.
    """
    policy = retry(backoff=0, retry_total=TRIES - 1, random_jitter_range=0)
    options = {"connection_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS, "retry_policy": policy}
    make: Any = kind  # the packages share no base class that says what both have
    if settings.connection_string:
        with readable_connection():
            made: C = make.from_connection_string(settings.connection_string, **options)
    elif uri:
        made = make(uri, credential(settings.client_id), **options)
    else:
        raise missing_connection(service)
    return made


@cache
def credential(client_id: str | None) -> TokenCredential:
    """The identity of this app: the user-assigned one with `client_id`, else what Azure finds around it."""
    from azure.identity import DefaultAzureCredential, ManagedIdentityCredential

    # Left alone the package waits five minutes for an answer, four times.
    bounds: dict[str, Any] = {"connection_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS, "retry_total": 2}
    return ManagedIdentityCredential(client_id=client_id, **bounds) if client_id else DefaultAzureCredential(**bounds)
