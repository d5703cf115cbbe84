"""The way of every provider request: body in, key checked, faults met, route run in a thread, reply out.

Routes are plain functions of the sandbox and an `Incoming`; a `Refused` they raise becomes the provider's error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import orjson
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from batch_jobs.models import Dialect

from .behaviour import Fault, FaultKind, Route
from .faults import Met, Subject, delay_seconds, route_faults
from .gate import SCOPE_KEY, Ending, Mischief
from .sandbox import Sandbox
from .wire import SPOOL_BYTES, Body, Problem, Refused, Wire, file_contains, file_hash, needles, short_hash


@dataclass(frozen=True, slots=True)
class Incoming:
    """One request of a provider's client.

    Attributes:
        wire: its dialect.
        route: what it wants.
        owner: stands for the key, "" before it is checked.
        url: the server's own base URL.
        method: of HTTP.
        path: as it was sent.
        params: of the path.
        query: of the URL.
        headers: lower-case names.
        body: empty when it was spooled.
        spool: the file that holds a long body or an upload.
        form: the other fields of a multipart form, with the upload's `filename`.
        mischief: what is to happen to the reply.
        late: the fault that lets what it creates exist only later.
    """

    wire: Wire
    route: Route
    owner: str
    url: str
    method: str
    path: str
    params: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    spool: Path | None
    form: Mapping[str, str]
    mischief: Mischief
    late: Fault | None = None

    def json(self) -> Body:
        """Read the body as a JSON object.

        Raises:
            Refused: 400, it is none.
        """
        try:
            found = orjson.loads(self.spool.read_bytes() if self.spool else self.body)
        except orjson.JSONDecodeError:
            raise Refused(Problem(400, "We could not parse the JSON body of your request.")) from None
        if not isinstance(found, dict):
            raise Refused(Problem(400, "The body of your request must be a JSON object."))
        return cast(Body, found)

    def contains(self, text: str) -> bool:
        """Tell whether path, query, form or body hold a text."""
        if text in self.path or any(text in value for value in (*self.query.values(), *self.form.values())):
            return True
        if self.spool is None:
            return any(needle in self.body for needle in needles(text))
        return file_contains(self.spool, text)

    def lot(self) -> str:
        """Give what stands for the request: the same for the same path and body."""
        return short_hash(self.path, file_hash(self.spool) if self.spool else self.body.hex())


Handler = Callable[[Sandbox, Incoming], Response]


def add_route(
    router: APIRouter, wire: Wire, route: Route, method: str, path: str, handler: Handler, *, open_door: bool = False
) -> None:
    """Serve a path of a dialect.

    Args:
        router: where.
        wire: the dialect.
        route: what requests to it want.
        method: of HTTP.
        path: with parameters.
        handler: a plain function, run in a thread.
        open_door: no key is asked for; the path itself is a secret.
    """

    async def endpoint(request: Request) -> Response:
        box = cast(Sandbox, request.app.state.sandbox)
        try:
            incoming = await _receive(box, wire, route, request)
        except ClientDisconnect:
            return Response(status_code=400)
        try:
            return await run_in_threadpool(_handle, box, incoming, handler, open_door)
        finally:
            if incoming.spool is not None:
                incoming.spool.unlink(missing_ok=True)

    router.add_api_route(path, endpoint, methods=[method], name=f"{wire.dialect} {route}", response_model=None)


async def _receive(box: Sandbox, wire: Wire, route: Route, request: Request) -> Incoming:
    take = _form_body if request.headers.get("content-type", "").startswith("multipart/") else _plain_body
    body, spool, form = await take(box, request)
    return Incoming(
        wire=wire,
        route=route,
        owner="",
        url=str(request.base_url).rstrip("/"),
        method=request.method,
        path=request.url.path,
        params={name: str(value) for name, value in request.path_params.items()},
        query=dict(request.query_params),
        headers=request.headers,
        body=body,
        spool=spool,
        form=form,
        mischief=cast(Mischief, request.scope[SCOPE_KEY]),
    )


Taken = tuple[bytes, Path | None, dict[str, str]]


async def _plain_body(box: Sandbox, request: Request) -> Taken:
    """Read the body; a long one goes to a file chunk by chunk."""
    if request.method in {"GET", "DELETE"}:
        return b"", None, {}
    chunks = bytearray()
    stream = request.stream()
    async for chunk in stream:
        chunks += chunk
        if len(chunks) > SPOOL_BYTES:
            break
    else:
        return bytes(chunks), None, {}
    spool = box.state.folder / "spool" / box.new_id()
    try:
        with spool.open("wb") as handle:
            handle.write(chunks)
            async for chunk in stream:
                handle.write(chunk)
    except ClientDisconnect:
        spool.unlink(missing_ok=True)
        raise
    return b"", spool, {}


async def _form_body(box: Sandbox, request: Request) -> Taken:
    """Read a multipart form with one file."""
    async with request.form(max_files=1, max_fields=20) as parts:
        form = {name: part for name, part in parts.items() if isinstance(part, str)}
        file = parts.get("file")
        if not isinstance(file, UploadFile):
            return b"", None, form
        spool = box.state.folder / "spool" / box.new_id()
        await run_in_threadpool(_copy, file.file.read, spool)
        return b"", spool, form | {"filename": file.filename or "upload"}


def _copy(read: Callable[[int], bytes], target: Path) -> None:
    with target.open("wb") as handle:
        while chunk := read(SPOOL_BYTES):
            handle.write(chunk)


def _handle(box: Sandbox, incoming: Incoming, handler: Handler, open_door: bool) -> Response:
    wire = incoming.wire
    try:
        if not open_door:
            incoming = replace(incoming, owner=_owner(incoming))
        met = _faults_met(box, incoming)
        _before(incoming, met)
        incoming = replace(incoming, late=met.get(FaultKind.ACCEPT_LATE))
        response = _after(incoming, met, handler(box, incoming))
    except Refused as refused:
        response = refusal(wire, refused.problem)
    box.state.count_call(f"{wire.dialect} {incoming.route}")
    response.headers.setdefault(
        "request-id" if wire.dialect is Dialect.ANTHROPIC else "x-request-id", f"req_sim_{box.new_id()}"
    )
    return response


def _owner(incoming: Incoming) -> str:
    key = incoming.wire.key(incoming.headers, incoming.query)
    if not key or "invalid" in key:
        raise Refused(incoming.wire.key_problem(key))
    return owner_of(incoming.wire.dialect, key)


def owner_of(dialect: Dialect, key: str) -> str:
    """Give what stands for a key: each has its own files and batches."""
    return short_hash(dialect, key)


def _faults_met(box: Sandbox, incoming: Incoming) -> Met:
    if not box.behaviour.faults:
        return {}
    take = partial(box.state.take_hit, subject=box.new_id())
    request = Subject(incoming.wire.dialect, incoming.contains, take, incoming.lot)
    return route_faults(box.behaviour, incoming.route, request)


def _before(incoming: Incoming, met: Met) -> None:
    """Meet the faults that keep a request from being accepted.

    Raises:
        Refused: one of them did.
    """
    mischief = incoming.mischief
    mischief.delay_seconds += delay_seconds(met.get(FaultKind.SLOW_REPLY), incoming.lot)
    mischief.drip_seconds = delay_seconds(met.get(FaultKind.SLOW_DRIP), incoming.lot)
    if hang := met.get(FaultKind.HANG):
        mischief.ending, mischief.hold_seconds = Ending.HANG, hang.seconds or 0.0
    elif FaultKind.CONNECTION_RESET in met:
        mischief.ending = Ending.RESET
    if mischief.ending is not Ending.SEND:
        raise Refused(Problem(503, "Nobody reads this: the connection ends."))
    for kind, problem in _REFUSALS.items():
        if fault := met.get(kind):
            raise Refused(_worded(problem(incoming.wire, fault), fault))


def _worded(problem: Problem, fault: Fault) -> Problem:
    """Say it with the fault's own code and words, where it has some."""
    return replace(problem, code=fault.code or problem.code, message=fault.message or problem.message)


def _auth_refused(wire: Wire, fault: Fault) -> Problem:
    usual = 403 if wire.dialect is Dialect.GEMINI else 401
    return Problem(fault.status or usual, "The key is refused. (simulated)")


def _server_error(_: Wire, fault: Fault) -> Problem:
    message = "The server is overloaded or not ready yet. (simulated)"
    return Problem(fault.status or 503, message, retry_after_seconds=fault.seconds)


_REFUSALS: dict[FaultKind, Callable[[Wire, Fault], Problem]] = {
    FaultKind.RATE_LIMITED: lambda wire, fault: wire.rate_problem(fault.seconds),
    FaultKind.QUOTA_EXHAUSTED: lambda wire, _: wire.quota_problem(),
    FaultKind.AUTH_REFUSED: _auth_refused,
    FaultKind.SERVER_ERROR: _server_error,
}


def _after(incoming: Incoming, met: Met, response: Response) -> Response:
    """Meet the faults that spoil the reply to a request that was accepted."""
    if FaultKind.REPLY_LOST in met or FaultKind.ACCEPT_LATE in met:
        incoming.mischief.ending = Ending.CLOSE
    if failed := met.get(FaultKind.ACCEPTED_THEN_500):
        problem = Problem(failed.status or 500, "The server had an error. (simulated)")
        return refusal(incoming.wire, _worded(problem, failed))
    return response


def reply(body: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Make a JSON reply."""
    return Response(orjson.dumps(body), status, dict(headers or {}), "application/json")


def refusal(wire: Wire, problem: Problem) -> Response:
    """Make a provider's error reply."""
    headers = {}
    if problem.retry_after_seconds is not None and wire.dialect is not Dialect.GEMINI:
        headers["retry-after"] = str(math.ceil(problem.retry_after_seconds))
        if wire.dialect is Dialect.OPENAI:
            headers["retry-after-ms"] = str(math.ceil(problem.retry_after_seconds * 1000))
    return reply(wire.error_body(problem), status=problem.status or 500, headers=headers)
