"""Gemini's routes: resumable uploads, files, batches and generateContent below /gemini/v1 and /gemini/v1beta.

A batch is shown as a long-running operation, with its results both in `metadata.output` and in `response`.
"""

from __future__ import annotations

from functools import partial

import orjson
from fastapi import APIRouter
from starlette.responses import Response

from . import batches
from .behaviour import Route
from .calls import single_call
from .execute import LineIndex, result_path
from .gemini_caches import cache_routes
from .gemini_files import FILES_WIRE, file_of, file_routes
from .gemini_words import rfc3339
from .handling import Incoming, add_route, reply
from .intake import Scan, scan_gemini
from .limits import INLINE_BYTES, batch_limits, camel
from .records import BatchRow, End
from .sandbox import Sandbox
from .timeline import Stage, ends_at, shows_unknown_state, stage, was_cancelled
from .validation import MESSAGES
from .wire import Body, Place, Problem, Refused

WIRE = FILES_WIRE
BATCH_FIELDS = frozenset({"displayName", "inputConfig", "priority", "webhookConfig", "model", "name"})


def router() -> APIRouter:
    """Give the routes of this dialect, in both API versions."""
    made = APIRouter(prefix="/gemini")
    add = partial(add_route, made, WIRE)
    for version in ("v1", "v1beta"):
        file_routes(made, version)
        cache_routes(made, version)
        add(Route.CALL, "POST", f"/{version}/models/{{model}}:generateContent", call)
        add(Route.CREATE, "POST", f"/{version}/models/{{model}}:batchGenerateContent", create)
        add(Route.LIST, "GET", f"/{version}/batches", list_batches)
        add(Route.CANCEL, "POST", f"/{version}/batches/{{batch_id}}:cancel", cancel)
        add(Route.CHECK, "GET", f"/{version}/batches/{{batch_id}}", check)
        add(Route.DELETE, "DELETE", f"/{version}/batches/{{batch_id}}", delete)
    return made


def call(box: Sandbox, incoming: Incoming) -> Response:
    """Answer one request now."""
    return single_call(box, incoming, Place(model=incoming.params["model"]))


def create(box: Sandbox, incoming: Incoming) -> Response:
    """Accept a batch, of a file or with its requests inline."""
    batch = incoming.json().get("batch")
    if not isinstance(batch, dict):
        raise Refused(Problem(400, "* BatchGenerateContentRequest.batch: batch is not specified"))
    fields = {camel(name): value for name, value in batch.items()}
    if unknown := sorted(fields.keys() - BATCH_FIELDS):
        message = f"Invalid JSON payload received. Unknown name \"{unknown[0]}\" at 'batch': Cannot find field."
        raise Refused(Problem(400, message))
    if not fields.get("displayName"):
        raise Refused(Problem(400, "* BatchGenerateContentRequest.batch.display_name: display_name is required"))
    config = {camel(name): value for name, value in (fields.get("inputConfig") or {}).items()}
    inline = config.get("requests")
    path, scan = _inline(box, incoming, inline) if inline else _from_file(box, incoming, config.get("fileName"))
    scan.model = incoming.params["model"]
    made = batches.accept(
        box,
        incoming,
        batch_id=f"batches/sim{box.new_id()}",
        scan=scan,
        input_path=path,
        spec={"display_name": fields["displayName"], "inline": bool(inline), "file_name": config.get("fileName")},
    )
    return reply(_operation(box, made, whole=False))


def _inline(box: Sandbox, incoming: Incoming, inline: Body) -> tuple[str, Scan]:
    size = incoming.spool.stat().st_size if incoming.spool else len(incoming.body)
    if size > min(INLINE_BYTES, batch_limits(WIRE.dialect, box.behaviour).bytes):
        raise Refused(Problem(400, "Request payload size exceeds the limit: 20000000 bytes. (simulated)"))
    requests = inline.get("requests")
    if not isinstance(requests, list) or not requests:
        raise Refused(Problem(400, "* BatchGenerateContentRequest.batch.input_config.requests: is empty"))
    path = f"files/{box.new_id()}"
    with (box.state.folder / path).open("wb") as out:
        for each in requests:
            if not isinstance(each, dict) or not isinstance(each.get("request"), dict):
                raise Refused(Problem(400, "* InlinedRequest.request: request is not specified"))
            line = {"key": (each.get("metadata") or {}).get("key", ""), "request": each["request"]}
            out.write(orjson.dumps(line) + b"\n")
    return path, Scan(total=len(requests))


def _from_file(box: Sandbox, incoming: Incoming, name: object) -> tuple[str, Scan]:
    if not name:
        raise Refused(Problem(400, "* BatchGenerateContentRequest.batch.input_config: input_config is not specified"))
    file = file_of(box, incoming, str(name).removeprefix("files/"))
    if file.ready_at > box.clock():
        message = f"The File {file.file_id} is not in an ACTIVE state and usage is not allowed. (simulated)"
        raise Refused(Problem(400, message, code="FAILED_PRECONDITION"))
    limits = batch_limits(WIRE.dialect, box.behaviour)
    if file.bytes > limits.bytes:
        raise Refused(Problem(400, f"The input file is over {limits.bytes} bytes. (simulated)"))
    scan = scan_gemini(box.state.folder / file.path)
    if limits.requests and scan.total > limits.requests:
        raise Refused(Problem(400, f"The input file has over {limits.requests} requests. (simulated)"))
    return file.path, scan


def list_batches(box: Sandbox, incoming: Incoming) -> Response:
    """List batches, newest first."""
    limit = batches.whole_number(incoming.query.get("pageSize", ""), 100, 1, 1000)
    found = batches.page(box, incoming, limit=limit, after=incoming.query.get("pageToken", ""))
    body: Body = {"operations": [_operation(box, batch, whole=False) for batch in found.batches]}
    if found.has_more:
        body["nextPageToken"] = found.batches[-1].batch_id
    return reply(body)


def check(box: Sandbox, incoming: Incoming) -> Response:
    """Show one batch."""
    return reply(_operation(box, _batch(box, incoming), whole=True))


def cancel(box: Sandbox, incoming: Incoming) -> Response:
    """Ask a batch to stop."""
    batches.cancel(box, _batch(box, incoming))
    return reply({})


def delete(box: Sandbox, incoming: Incoming) -> Response:
    """Delete a batch; one that runs is stopped first, so what it had executed stays on the bill."""
    batch = batches.cancel(box, _batch(box, incoming))
    box.state.drop_batch(batch)
    return reply({})


def _batch(box: Sandbox, incoming: Incoming) -> BatchRow:
    name = f"batches/{incoming.params['batch_id']}"
    return batches.find(box, incoming, name, Problem(404, "Requested entity was not found. (simulated)"))


def _state(box: Sandbox, batch: BatchRow) -> str:
    now = box.clock()
    if shows_unknown_state(batch, now):
        return "BATCH_STATE_REVIEWING_SIM"
    at = stage(batch, now)
    if at is Stage.VALIDATING:
        return "BATCH_STATE_PENDING"
    if at is not Stage.ENDED:
        return "BATCH_STATE_RUNNING"
    if was_cancelled(batch):
        return "BATCH_STATE_CANCELLED"
    return {
        End.COMPLETED: "BATCH_STATE_SUCCEEDED",
        End.FAILED: "BATCH_STATE_FAILED",
        End.EXPIRED: "BATCH_STATE_EXPIRED",
        End.CANCELLED: "BATCH_STATE_CANCELLED",
    }[batch.plan.end]


def _operation(box: Sandbox, batch: BatchRow, *, whole: bool) -> Body:
    """Show a batch.

    Args:
        box: the sandbox.
        batch: which.
        whole: with inline results.
    """
    now, state = box.clock(), _state(box, batch)
    done = stage(batch, now) is Stage.ENDED and not shows_unknown_state(batch, now)
    counts = batches.progress(box, batch)
    source = {"fileName": batch.spec["file_name"]} if batch.spec["file_name"] else {}
    metadata: Body = {
        "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
        "name": batch.batch_id,
        "model": f"models/{batch.model}",
        "displayName": batch.spec["display_name"],
        "state": state,
        "createTime": rfc3339(batch.created_at),
        "updateTime": rfc3339(min(now, ends_at(batch))),
        "inputConfig": source,
        "batchStats": _stats(counts),
    }
    operation: Body = {"name": batch.batch_id, "metadata": metadata}
    if not done:
        return operation
    metadata["endTime"] = rfc3339(ends_at(batch))
    operation["done"] = True
    error = _error(batch, state)
    if error:
        return {**operation, "error": error}
    output = _output(box, batch, whole=whole)
    metadata["output"] = output
    kind = "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatchOutput"
    return {**operation, "response": {"@type": kind, **output}}


def _stats(counts: batches.Progress) -> Body:
    figures = {
        "requestCount": counts.total,
        "successfulRequestCount": counts.succeeded,
        "failedRequestCount": counts.errored + counts.cancelled + counts.expired,
        "pendingRequestCount": counts.pending,
    }
    return {name: str(value) for name, value in figures.items() if value}


def _error(batch: BatchRow, state: str) -> Body | None:
    if state == "BATCH_STATE_CANCELLED":
        return {"code": 1, "message": "The operation was cancelled. (simulated)"}
    if state == "BATCH_STATE_EXPIRED":
        return {"code": 4, "message": "The batch was not finished within 48 hours. (simulated)"}
    if state != "BATCH_STATE_FAILED":
        return None
    problem = batch.plan.problems[0]
    return {"code": _rpc_code(problem.code), "message": problem.message}


def _rpc_code(code: str) -> int:
    """Give Google's number for a reason: its own, an exhausted resource, or an invalid argument."""
    if code.isdecimal():
        return int(code)
    return 8 if "limit" in code else 3 if code in MESSAGES else 13


def _output(box: Sandbox, batch: BatchRow, *, whole: bool) -> Body:
    if batch.plan.no_files:
        return {"responsesFile": ""} if batch.plan.empty_ids else {}
    if not batch.spec["inline"]:
        return {"responsesFile": batch.outcome.output_file}
    if not whole:
        return {}
    with LineIndex(result_path(box, batch, "output")) as lines:
        found = [orjson.Fragment(lines[index]) for index in range(len(lines))]
    return {"inlinedResponses": {"inlinedResponses": found}}
