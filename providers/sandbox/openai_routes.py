"""OpenAI's routes: files, batches, chat completions and responses below /openai/v1.

Content errors make a created batch that fails, as the provider does; only what is wrong with the create itself
is a 400.
"""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter
from starlette.responses import Response

from . import batches
from .behaviour import Route
from .calls import single_call
from .handling import Incoming, add_route, reply
from .intake import Scan, scan_openai
from .limits import batch_limits
from .openai_wire import CHAT, ENDPOINTS, RESPONSES, OpenAIWire, missing_parameter, unknown_parameter
from .records import BatchRow, End, FileRow
from .sandbox import Sandbox
from .timeline import FINALIZING_AT, VALIDATED_AT, Stage, ends_at, shows_unknown_state, stage, was_cancelled
from .wire import Body, Place, Problem, Refused

WIRE = OpenAIWire()
CREATE_FIELDS = frozenset({"completion_window", "endpoint", "input_file_id", "metadata", "output_expires_after"})
DAY = 86_400


def router() -> APIRouter:
    """Give the routes of this dialect."""
    made = APIRouter(prefix="/openai/v1")
    add = partial(add_route, made, WIRE)
    add(Route.UPLOAD, "POST", "/files", upload)
    add(Route.FILE, "GET", "/files", list_files)
    add(Route.FILE, "GET", "/files/{file_id}", get_file)
    add(Route.DELETE, "DELETE", "/files/{file_id}", delete_file)
    add(Route.FETCH, "GET", "/files/{file_id}/content", content)
    add(Route.CREATE, "POST", "/batches", create)
    add(Route.LIST, "GET", "/batches", list_batches)
    add(Route.CHECK, "GET", "/batches/{batch_id}", check)
    add(Route.CANCEL, "POST", "/batches/{batch_id}/cancel", cancel)
    add(Route.CALL, "POST", "/chat/completions", partial(call, endpoint=CHAT))
    add(Route.CALL, "POST", "/responses", partial(call, endpoint=RESPONSES))
    return made


def call(box: Sandbox, incoming: Incoming, endpoint: str) -> Response:
    """Answer one request now."""
    return single_call(box, incoming, Place(endpoint=endpoint))


# -- files ----------------------------------------------------------------------------------------------------


def upload(box: Sandbox, incoming: Incoming) -> Response:
    """Keep an input file."""
    purpose = incoming.form.get("purpose", "")
    if purpose != "batch":
        raise Refused(Problem(400, f"'{purpose}' is not one of ['batch'] - 'purpose'", param="purpose"))
    if incoming.spool is None:
        raise Refused(missing_parameter("file"))
    size = incoming.spool.stat().st_size
    most = batch_limits(WIRE.dialect, box.behaviour).bytes
    if size > most:
        raise Refused(Problem(413, f"File is too large: {size} bytes, a batch file may have {most}. (simulated)"))
    now, ident = box.clock(), box.new_id()
    file = FileRow(
        file_id=f"file-sim-{ident}",
        dialect=WIRE.dialect,
        owner=incoming.owner,
        name=incoming.form.get("filename", "upload"),
        purpose=purpose,
        bytes=size,
        created_at=now,
        ready_at=now,
        path=f"files/{ident}",
    )
    batches.keep_file(box, incoming, incoming.spool, file)
    return reply(_file_body(file))


def list_files(box: Sandbox, incoming: Incoming) -> Response:
    """List files, newest first."""
    limit = batches.whole_number(incoming.query.get("limit", ""), 10_000, 1, 10_000)
    after = incoming.query.get("after")
    start = _file(box, incoming, after).seq if after else 1 << 62
    purpose = incoming.query.get("purpose", "")
    like = {"": "%", "batch_output": "batch_%"}.get(purpose, purpose)
    found = box.state.files(WIRE.dialect, incoming.owner, before_seq=start, limit=limit + 1, purpose_like=like)
    return reply(_listing([_file_body(file) for file in found[:limit]], len(found) > limit))


def get_file(box: Sandbox, incoming: Incoming) -> Response:
    """Show one file."""
    return reply(_file_body(_file(box, incoming, incoming.params["file_id"])))


def delete_file(box: Sandbox, incoming: Incoming) -> Response:
    """Delete one file."""
    file = _file(box, incoming, incoming.params["file_id"])
    box.state.drop_file(file)
    return reply({"id": file.file_id, "object": "file", "deleted": True})


def content(box: Sandbox, incoming: Incoming) -> Response:
    """Send a file's bytes."""
    file = _file(box, incoming, incoming.params["file_id"])
    return batches.send_file(box, incoming, box.state.folder / file.path, "application/octet-stream")


def _file(box: Sandbox, incoming: Incoming, file_id: str) -> FileRow:
    file = box.state.file(WIRE.dialect, incoming.owner, file_id)
    if file is None or file.ready_at > box.clock():
        raise Refused(Problem(404, f"No such File object: {file_id}", param="id"))
    return file


def _purpose(file: FileRow) -> str:
    return "batch" if file.purpose == "batch" else "batch_output"


def _file_body(file: FileRow) -> Body:
    return {
        "id": file.file_id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created_at),
        "expires_at": int(file.created_at) + 30 * DAY,
        "filename": file.name,
        "purpose": _purpose(file),
        "status": "processed",
        "status_details": None,
    }


def _listing(shown: list[Body], has_more: bool) -> Body:
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": has_more,
    }


# -- batches --------------------------------------------------------------------------------------------------


def create(box: Sandbox, incoming: Incoming) -> Response:
    """Accept a batch; what is wrong with its file shows later, in its state."""
    body = incoming.json()
    _check_create(body)
    file = box.state.file(WIRE.dialect, incoming.owner, str(body["input_file_id"]))
    if file is None or file.ready_at > box.clock():
        message = f"No such File object: {body['input_file_id']}"
        raise Refused(Problem(404, message, param="input_file_id"))
    limits = batch_limits(WIRE.dialect, box.behaviour)
    path = box.state.folder / file.path
    scan = scan_openai(path, str(body["endpoint"]), limits) if file.purpose == "batch" else Scan()
    spec = {name: body.get(name) for name in ("input_file_id", "metadata", "completion_window")}
    batch = batches.accept(
        box,
        incoming,
        batch_id=f"batch_sim_{box.new_id()}",
        scan=scan,
        input_path=file.path,
        spec=spec,
        endpoint=str(body["endpoint"]),
    )
    return reply(_batch_body(box, batch))


def _check_create(body: Body) -> None:
    if unknown := body.keys() - CREATE_FIELDS:
        raise Refused(unknown_parameter(min(unknown)))
    for name in ("input_file_id", "endpoint", "completion_window"):
        if not body.get(name):
            raise Refused(missing_parameter(name))
    if body["completion_window"] != "24h":
        message = f"Invalid value: '{body['completion_window']}'. Supported values are: '24h'."
        raise Refused(Problem(400, message, "invalid_value", "completion_window"))
    if body["endpoint"] not in ENDPOINTS:
        message = f"Invalid value: '{body['endpoint']}'. Simulated values are: {ENDPOINTS}."
        raise Refused(Problem(400, message, "invalid_value", "endpoint"))
    if not _metadata_fits(body.get("metadata") or {}):
        message = "Invalid 'metadata': at most 16 pairs, keys of 64 and string values of 512 characters."
        raise Refused(Problem(400, message, "invalid_metadata", "metadata"))


def _metadata_fits(metadata: object) -> bool:
    if not isinstance(metadata, dict) or len(metadata) > 16:
        return False
    return all(_pair_fits(key, value) for key, value in metadata.items())


def _pair_fits(key: str, value: object) -> bool:
    return len(key) <= 64 and isinstance(value, str) and len(value) <= 512


def list_batches(box: Sandbox, incoming: Incoming) -> Response:
    """List batches, newest first."""
    limit = batches.whole_number(incoming.query.get("limit", ""), 20, 1, 100)
    found = batches.page(box, incoming, limit=limit, after=incoming.query.get("after", ""))
    return reply(_listing([_batch_body(box, batch) for batch in found.batches], found.has_more))


def check(box: Sandbox, incoming: Incoming) -> Response:
    """Show one batch."""
    return reply(_batch_body(box, _batch(box, incoming)))


def cancel(box: Sandbox, incoming: Incoming) -> Response:
    """Ask a batch to stop."""
    batch = _batch(box, incoming)
    if stage(batch, box.clock()) is Stage.ENDED:
        message = f"Cannot cancel a batch with status '{_status(box, batch)}'."
        raise Refused(Problem(409, message, kind="invalid_request_error"))
    return reply(_batch_body(box, batches.cancel(box, batch)))


def _batch(box: Sandbox, incoming: Incoming) -> BatchRow:
    batch_id = incoming.params["batch_id"]
    return batches.find(box, incoming, batch_id, Problem(404, f"No batch found with id '{batch_id}'."))


_STATUSES = {
    Stage.VALIDATING: "validating",
    Stage.RUNNING: "in_progress",
    Stage.FINALIZING: "finalizing",
    Stage.CANCELLING: "cancelling",
}


def _status(box: Sandbox, batch: BatchRow) -> str:
    if shows_unknown_state(batch, box.clock()):
        return "reviewing_sim"
    now = stage(batch, box.clock())
    if now is not Stage.ENDED:
        return _STATUSES[now]
    return "cancelled" if was_cancelled(batch) else str(batch.plan.end)


def _batch_body(box: Sandbox, batch: BatchRow) -> Body:
    status = _status(box, batch)
    counts = batches.progress(box, batch)
    failed = status == "failed"
    outcome = batch.outcome
    absent = "" if batch.plan.empty_ids else None
    total = 0 if status in {"validating", "failed"} else counts.total
    problems = [
        {"code": each.code, "line": each.line, "message": each.message, "param": None} for each in batch.plan.problems
    ]
    return {
        "id": batch.batch_id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model or None,
        "errors": {"object": "list", "data": problems} if failed else None,
        "input_file_id": batch.spec["input_file_id"],
        "completion_window": batch.spec["completion_window"],
        "status": status,
        "output_file_id": outcome.output_file or absent,
        "error_file_id": outcome.error_file or absent,
        **_times(box, batch, status),
        "request_counts": {
            "total": total,
            "completed": counts.succeeded,
            "failed": counts.errored + counts.cancelled + counts.expired,
        },
        "usage": {
            "input_tokens": outcome.input_tokens,
            "input_tokens_details": {"cached_tokens": outcome.cached_tokens},
            "output_tokens": outcome.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": outcome.input_tokens + outcome.output_tokens,
        },
        "metadata": batch.spec["metadata"],
    }


def _times(box: Sandbox, batch: BatchRow, status: str) -> Body:
    now, start, seconds = box.clock(), batch.created_at, batch.plan.seconds
    times: Body = dict.fromkeys(
        ("in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at")
    )
    if batch.plan.end is not End.FAILED and now >= start + VALIDATED_AT * seconds:
        times["in_progress_at"] = int(start + VALIDATED_AT * seconds)
    if status in {"finalizing", "completed"}:
        times["finalizing_at"] = int(start + FINALIZING_AT * seconds)
    if batch.cancelled_at is not None:
        times["cancelling_at"] = int(batch.cancelled_at)
    if stage(batch, now) is Stage.ENDED and f"{status}_at" in times:
        times[f"{status}_at"] = int(ends_at(batch))
    return {"created_at": int(start), "expires_at": int(start) + DAY, **times}
