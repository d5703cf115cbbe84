"""The sandbox's own routes: what was executed, what was accepted, what was asked, and how it behaves.

They need no key: they are for the tests and the person at the desk, not for the product.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from .behaviour import Behaviour
from .handling import owner_of, reply
from .sandbox import Sandbox
from .timeline import ends_at
from .wires import settle_all

MOST_SECONDS = 10 * 365 * 86_400


def _sandbox(request: Request) -> Sandbox:
    box: Sandbox = request.app.state.sandbox
    return box


Box = Annotated[Sandbox, Depends(_sandbox)]


def router() -> APIRouter:
    """Give the routes below /sandbox."""
    made = APIRouter(prefix="/sandbox")
    made.add_api_route("/healthz", healthz, methods=["GET"], response_model=None)
    made.add_api_route("/bill", bill, methods=["GET"], response_model=None)
    made.add_api_route("/verdicts", verdicts, methods=["GET"], response_model=None)
    made.add_api_route("/creates", creates, methods=["GET"], response_model=None)
    made.add_api_route("/files", files, methods=["GET"], response_model=None)
    made.add_api_route("/calls", calls, methods=["GET"], response_model=None)
    made.add_api_route("/behaviour", show_behaviour, methods=["GET"], response_model=None)
    made.add_api_route("/behaviour", set_behaviour, methods=["PUT"], response_model=None)
    made.add_api_route("/forget", forget, methods=["POST"], response_model=None)
    made.add_api_route("/forward", forward, methods=["POST"], response_model=None)
    return made


def healthz() -> Response:
    """Say that the sandbox is up."""
    return reply({"status": "ok", "simulated": True, "pid": os.getpid()})


def bill(box: Box, detail: int = 0) -> Response:
    """Sum up every executed call, by dialect, model and kind; with detail=1 each of them."""
    settle_all(box)
    rows = box.state.bill_totals()
    keys = ("calls", "input_tokens", "cached_tokens", "output_tokens")
    totals = {key: sum(int(str(row[key])) for row in rows) for key in keys}
    body: dict[str, object] = {"simulated": True, **totals, "totals": rows}
    if detail:
        body["lines"] = [{**line, "at": _utc(float(str(line["at"])))} for line in box.state.bill_lines()]
    return reply(body)


def verdicts(box: Box) -> Response:
    """Count the verdicts that were given to judges' requests, in all and by dialect and model."""
    settle_all(box)
    rows = box.state.verdicts()
    sums = {verdict: sum(int(str(row[verdict])) for row in rows) for verdict in ("accept", "reject")}
    return reply({"simulated": True, **sums, "totals": rows})


def creates(box: Box) -> Response:
    """Show every accepted batch, oldest first, and their number by dialect."""
    found = box.state.creates(box.clock())
    counts: dict[str, int] = {}
    for batch in found:
        counts[batch.dialect.value] = counts.get(batch.dialect.value, 0) + 1
    listed = [
        {
            "dialect": batch.dialect,
            "batch_id": batch.batch_id,
            "created_at": _utc(batch.created_at),
            "model": batch.model,
            "requests": batch.total,
            "shard_key": batch.spec.get("display_name") or batch.spec.get("metadata"),
            "cancelled": batch.cancelled_at is not None,
            "ends_at": _utc(ends_at(batch)),
            "tokens": batch.plan.tokens,
            "problems": [problem.code for problem in batch.plan.problems],
        }
        for batch in found
    ]
    return reply({"counts": counts, "total": len(listed), "creates": listed})


def files(box: Box, key: str = "") -> Response:
    """Show every file that nobody has deleted, oldest first; with a key only those of that key.

    Results of Anthropic count as one file under their batch's id.
    """
    settle_all(box)
    found = box.state.kept_files()
    if key:
        found = [file for file in found if file.owner == owner_of(file.dialect, key)]
    counts: dict[str, int] = {}
    for file in found:
        counts[file.dialect.value] = counts.get(file.dialect.value, 0) + 1
    listed = [
        {
            "dialect": file.dialect,
            "file_id": file.file_id,
            "name": file.name,
            "purpose": file.purpose,
            "bytes": file.bytes,
            "created_at": _utc(file.created_at),
            "owner": file.owner,
        }
        for file in found
    ]
    return reply({"counts": counts, "total": len(listed), "bytes": sum(file.bytes for file in found), "files": listed})


def calls(box: Box) -> Response:
    """Count the requests by dialect and route, refused ones too."""
    return reply(box.state.calls())


def show_behaviour(box: Box) -> Response:
    """Show the behaviour in force."""
    return Response(box.behaviour.to_json(), media_type="application/json")


async def set_behaviour(request: Request, box: Box) -> Response:
    """Put another behaviour in force; the hits of faults are counted anew."""
    text = await request.body()
    try:
        behaviour = Behaviour.from_json(text)
    except ValueError as error:
        return reply({"error": f"This is no behaviour: {error}"}, status=422)
    await run_in_threadpool(box.behave, behaviour)
    return Response(behaviour.to_json(), media_type="application/json")


def forget(box: Box) -> Response:
    """Clear the request counters and the hits of faults; files, batches and the bill stay."""
    box.state.forget()
    return reply({"status": "ok"})


def forward(box: Box, seconds: float) -> Response:
    """Put the sandbox's clock forward, so that nobody has to wait for what is due later."""
    if not 0 <= seconds < MOST_SECONDS:
        return reply({"error": f"seconds must be from 0 to {MOST_SECONDS}."}, status=422)
    return reply({"ahead_seconds": box.forward(seconds)})


def _utc(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
