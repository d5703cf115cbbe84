"""Every error as one JSON shape; its status comes from the table on the error classes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from batch_jobs.api.documents import ErrorBody, ErrorDocument, JobForm
from batch_jobs.config import nearest
from batch_jobs.errors import EXIT_BAD_INPUT, EXIT_BUG, BatchJobsError, NotAllowed

logger = logging.getLogger(__name__)

INVALID_REQUEST = "InvalidRequest"
METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
_TEXTS = {
    404: "there is nothing at this address; the routes are listed at /docs",
    405: "this address does not take this method; the routes are listed at /docs",
}


def reply(
    status: int, kind: str, message: str, exit_code: int, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error as a response."""
    text = message.encode("utf-8", "replace").decode("utf-8")
    document = ErrorDocument(error=ErrorBody(type=kind, message=text, exit_code=exit_code))
    return JSONResponse(document.model_dump(), status_code=status, headers=dict(headers) if headers else None)


def of_error(error: BatchJobsError) -> JSONResponse:
    """One of our own errors, with the message that the command line shows."""
    headers = {"WWW-Authenticate": 'Bearer realm="batch-jobs"'} if isinstance(error, NotAllowed) else None
    return reply(error.http_status, type(error).__name__, error.message, error.exit_code, headers)


def of_bug() -> JSONResponse:
    """What a client hears of a bug: nothing of what is inside."""
    return reply(500, "Bug", "a bug in the server; its log says more. Nothing that was accepted is lost", EXIT_BUG)


def install(app: FastAPI) -> None:
    """Make every error of the app come out in the one shape."""
    app.add_exception_handler(BatchJobsError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _plain)


async def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, BatchJobsError)
    if error.http_status >= 500:
        data = {"path": request.url.path, "type": type(error).__name__, "why": error.message}
        logger.error("api.request_failed", extra={"data": data})
    return of_error(error)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return reply(422, INVALID_REQUEST, "; ".join(_problem(one) for one in error.errors()), EXIT_BAD_INPUT)


async def _plain(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    kind = "".join(word.capitalize() for word in HTTPStatus(error.status_code).phrase.split())
    text = _TEXTS.get(error.status_code, str(error.detail))
    headers = {"Allow": _allowed(request)} if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED else error.headers
    return reply(error.status_code, kind, text, EXIT_BAD_INPUT, headers)


def _allowed(request: Request) -> str:
    """Every method that the address takes (RFC 9110, 15.5.6): the framework names those of its first route only."""

    def takes(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return ", ".join(filter(takes, METHODS))


def _problem(one: Mapping[str, Any]) -> str:
    """One problem of a request: its field and what is wrong with it, never the value."""
    loc: Sequence[int | str] = one["loc"]
    name = str(loc[-1]) if len(loc) > 1 else "the request"
    if one["type"] == "missing":
        return f'"{name}" is missing'
    if one["type"] == "extra_forbidden":
        return f'there is no field "{name[:64]}"{nearest(name[:64], JobForm.model_fields)}'
    if "UploadFile" in one["msg"]:
        return f'"{name}" must be a file, sent as multipart/form-data with a file name'
    return f'"{name}": {one["msg"]}'
