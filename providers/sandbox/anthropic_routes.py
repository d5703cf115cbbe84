"""Anthropic's routes: messages and message batches below /anthropic/v1.

A create is one long body, streamed to a file; a bad id refuses the whole of it, bad params show per line later.
"""

from __future__ import annotations

import io
from datetime import UTC, datetime
from functools import partial

from fastapi import APIRouter
from starlette.responses import Response

from . import batches
from .anthropic_wire import AnthropicWire
from .behaviour import Route
from .calls import single_call
from .execute import result_path
from .handling import Incoming, add_route, reply
from .intake import split_anthropic
from .limits import batch_limits
from .records import BatchRow
from .sandbox import Sandbox
from .timeline import Stage, ends_at, shows_unknown_state, stage
from .wire import Body, Place, Problem, Refused

WIRE = AnthropicWire()
DAY = 86_400


def router() -> APIRouter:
    """Give the routes of this dialect."""
    made = APIRouter(prefix="/anthropic/v1/messages")
    add = partial(add_route, made, WIRE)
    add(Route.CALL, "POST", "", call)
    add(Route.CREATE, "POST", "/batches", create)
    add(Route.LIST, "GET", "/batches", list_batches)
    add(Route.CHECK, "GET", "/batches/{batch_id}", check)
    add(Route.CANCEL, "POST", "/batches/{batch_id}/cancel", cancel)
    add(Route.DELETE, "DELETE", "/batches/{batch_id}", delete)
    add(Route.FETCH, "GET", "/batches/{batch_id}/results", results)
    return made


def call(box: Sandbox, incoming: Incoming) -> Response:
    """Answer one request now."""
    return single_call(box, incoming, Place(version=incoming.headers.get("anthropic-version", "")))


def create(box: Sandbox, incoming: Incoming) -> Response:
    """Accept a batch."""
    limits = batch_limits(WIRE.dialect, box.behaviour)
    size = incoming.spool.stat().st_size if incoming.spool else len(incoming.body)
    if size > limits.bytes:
        raise Refused(Problem(413, f"Request exceeds the maximum size of {limits.bytes} bytes. (simulated)"))
    input_path = f"files/{box.new_id()}"
    target = box.state.folder / input_path
    try:
        with incoming.spool.open("rb") if incoming.spool else io.BytesIO(incoming.body) as source:
            scan = split_anthropic(source, target, limits)
    except Refused:
        target.unlink(missing_ok=True)
        raise
    batch = batches.accept(
        box,
        incoming,
        batch_id=f"msgbatch_sim_{box.new_id()}",
        scan=scan,
        input_path=input_path,
        spec={"version": incoming.headers.get("anthropic-version", "")},
    )
    return reply(_batch_body(box, incoming, batch))


def list_batches(box: Sandbox, incoming: Incoming) -> Response:
    """List batches, newest first."""
    found = batches.page(
        box,
        incoming,
        limit=batches.whole_number(incoming.query.get("limit", ""), 20, 1, 1000),
        after=incoming.query.get("after_id", ""),
        before=incoming.query.get("before_id", ""),
    )
    shown = [_batch_body(box, incoming, batch) for batch in found.batches]
    return reply(
        {
            "data": shown,
            "has_more": found.has_more,
            "first_id": shown[0]["id"] if shown else None,
            "last_id": shown[-1]["id"] if shown else None,
        }
    )


def check(box: Sandbox, incoming: Incoming) -> Response:
    """Show one batch."""
    return reply(_batch_body(box, incoming, _batch(box, incoming)))


def cancel(box: Sandbox, incoming: Incoming) -> Response:
    """Ask a batch to stop."""
    batch = _batch(box, incoming)
    if stage(batch, box.clock()) is Stage.ENDED:
        raise Refused(Problem(400, "Batch cannot be canceled because it has ended processing. (simulated)"))
    return reply(_batch_body(box, incoming, batches.cancel(box, batch)))


def delete(box: Sandbox, incoming: Incoming) -> Response:
    """Delete a batch that has ended."""
    batch = _batch(box, incoming)
    if stage(batch, box.clock()) is not Stage.ENDED:
        raise Refused(Problem(400, "Batch cannot be deleted while it is being processed. (simulated)"))
    box.state.drop_batch(batch)
    return reply({"id": batch.batch_id, "type": "message_batch_deleted"})


def results(box: Sandbox, incoming: Incoming) -> Response:
    """Send the results as JSON lines."""
    batch = _batch(box, incoming)
    if not batch.settled or batch.plan.no_files or shows_unknown_state(batch, box.clock()):
        raise Refused(Problem(404, f"Batch {batch.batch_id} has no available results. (simulated)"))
    return batches.send_file(box, incoming, result_path(box, batch, "output"), "application/x-jsonl")


def _batch(box: Sandbox, incoming: Incoming) -> BatchRow:
    batch_id = incoming.params["batch_id"]
    return batches.find(box, incoming, batch_id, Problem(404, f"Batch {batch_id} not found. (simulated)"))


def _rfc3339(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _counts(counts: batches.Progress, ended: bool) -> Body:
    """Show the counts: all but `processing` stay 0 until the batch ends."""
    if not ended:
        counts = batches.Progress(counts.total, 0, 0, 0, 0)
    return {
        "processing": counts.pending,
        "succeeded": counts.succeeded,
        "errored": counts.errored,
        "canceled": counts.cancelled,
        "expired": counts.expired,
    }


def _batch_body(box: Sandbox, incoming: Incoming, batch: BatchRow) -> Body:
    now = box.clock()
    status = {Stage.ENDED: "ended", Stage.CANCELLING: "canceling"}.get(stage(batch, now), "in_progress")
    if shows_unknown_state(batch, now):
        status = "reviewing_sim"
    ended = status == "ended"
    url = f"{incoming.url}/anthropic/v1/messages/batches/{batch.batch_id}/results"
    cancelled_at = batch.cancelled_at
    return {
        "id": batch.batch_id,
        "type": "message_batch",
        "processing_status": status,
        "request_counts": _counts(batches.progress(box, batch), ended),
        "created_at": _rfc3339(batch.created_at),
        "expires_at": _rfc3339(batch.created_at + DAY),
        "ended_at": _rfc3339(ends_at(batch)) if ended else None,
        "cancel_initiated_at": _rfc3339(cancelled_at) if cancelled_at is not None else None,
        "archived_at": None,
        "results_url": url if ended and not batch.plan.no_files else "" if batch.plan.empty_ids else None,
    }
