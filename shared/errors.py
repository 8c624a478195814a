"""Every error the service answers with.

    ServiceError                 500  InternalError (never raised as such)
    ├── InvalidJson              400  the body is not JSON
    ├── InvalidRequest           422  JSON, but a field is wrong: `target` is its path
    ├── NotFound                 404
    │   └── ModelNotFound        404  only where the caller asked for a model and nothing else
    ├── Conflict                 409  somebody else moved it first, or it is already there
    ├── PayloadTooLarge          413
    ├── StorageUnavailable       503  storage does not answer; trying again later may help
    └── ModelUnavailable         503  there is a model and it cannot be used; only with fallback=false

A leaf exists where a caller would act differently. Anything else rises, for the host to log or redeliver.
"""

from __future__ import annotations

from typing import Any


class ServiceError(Exception):
    """An error with an HTTP status, a code for programs, a message for people and the path of what is wrong."""

    status = 500
    code = "InternalError"

    def __init__(self, message: str, target: str | None = None, details: list[dict[str, Any]] | None = None) -> None:
        super().__init__(message)
        self.message, self.target, self.details = message, target, details or []

    def render(self) -> dict[str, Any]:
        """The body of the answer."""
        body = {"code": self.code, "message": self.message, "target": self.target, "details": self.details}
        return {"error": body}


class InvalidJson(ServiceError):
    status, code = 400, "InvalidJson"


class InvalidRequest(ServiceError):
    status, code = 422, "InvalidRequest"


class NotFound(ServiceError):
    status, code = 404, "NotFound"


class ModelNotFound(NotFound):
    code = "ModelNotFound"


class Conflict(ServiceError):
    status, code = 409, "Conflict"


class PayloadTooLarge(ServiceError):
    status, code = 413, "PayloadTooLarge"


class StorageUnavailable(ServiceError):
    status, code = 503, "StorageUnavailable"


class ModelUnavailable(ServiceError):
    status, code = 503, "ModelUnavailable"
