"""Turns what a route returns, or raises, into an HTTP answer. With function_app.py the only home of azure.functions."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

import azure.functions as func
from pydantic import BaseModel

from shared.errors import ServiceError


def answer(body: BaseModel | Mapping[str, Any], status: int = 200,
           headers: Mapping[str, str] | None = None) -> func.HttpResponse:
    """JSON without white space; NaN cannot get into it."""
    if isinstance(body, BaseModel):
        text = body.model_dump_json()
    else:
        text = json.dumps(body, allow_nan=False, separators=(",", ":"))
    return func.HttpResponse(text, status_code=status, mimetype="application/json", headers=dict(headers or {}))


def refusals(route: Callable[..., Any]) -> Callable[..., Any]:
    """A route whose ServiceErrors become their HTTP answers; any other error rises, for the host to log."""
    if inspect.iscoroutinefunction(route):
        @functools.wraps(route)
        async def answered(*args: Any, **kwargs: Any) -> Any:
            try:
                return await route(*args, **kwargs)
            except ServiceError as error:
                return _refuse(error)
    else:
        @functools.wraps(route)
        def answered(*args: Any, **kwargs: Any) -> Any:
            try:
                return route(*args, **kwargs)
            except ServiceError as error:
                return _refuse(error)
    return answered


def _refuse(error: ServiceError) -> func.HttpResponse:
    headers = {"Retry-After": "30"} if error.status == 503 else {}
    return answer(error.render(), error.status, headers)
