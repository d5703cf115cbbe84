"""What the three dialects' batch routes share: accepting, finding, paging, cancelling, and sending files.

A route adds only its provider's words.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import orjson
from starlette.responses import FileResponse, Response

from .behaviour import DOWNLOAD_KINDS, FaultKind
from .enqueued import enqueue
from .execute import settle
from .faults import Subject, batch_faults, delay_seconds, file_faults, plan_batch
from .gate import Ending
from .handling import Incoming
from .intake import Scan
from .records import BatchRow, End, FileRow
from .sandbox import Sandbox
from .timeline import Stage, done_items, stage
from .wire import Body, Problem, Refused, file_contains, file_hash, short_hash


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of a listing, newest first."""

    batches: list[BatchRow]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """A batch's counts as they are shown, true or not."""

    total: int
    succeeded: int
    errored: int
    cancelled: int
    expired: int

    @property
    def pending(self) -> int:
        """Items without an end."""
        return max(0, self.total - self.succeeded - self.errored - self.cancelled - self.expired)


def accept(
    box: Sandbox, incoming: Incoming, *, batch_id: str, scan: Scan, input_path: str, spec: Body, endpoint: str = ""
) -> BatchRow:
    """Make a batch durable; a scan with problems makes one that fails.

    Raises:
        Refused: 429, its queue is full.
    """
    subject = _subject(box, incoming, batch_id, input_path, spec)
    met = batch_faults(box.behaviour, subject)
    plan = plan_batch(box.behaviour, met, subject)
    if scan.problems:
        plan = replace(plan, end=End.FAILED, problems=tuple(scan.problems))
    created_at = box.clock() + delay_seconds(incoming.late, subject.lot)
    batch = BatchRow(
        batch_id=batch_id,
        dialect=subject.dialect,
        owner=incoming.owner,
        created_at=created_at,
        model=scan.model,
        total=scan.total,
        input_path=input_path,
        plan=plan,
        endpoint=endpoint,
        listed_at=created_at + delay_seconds(met.get(FaultKind.LIST_LAG), subject.lot),
        spec=spec,
    )
    return enqueue(box, incoming, batch)


def _subject(box: Sandbox, incoming: Incoming, batch_id: str, input_path: str, spec: Body) -> Subject:
    """Give the new batch as faults see it; what stands for it is its content, not its id."""

    def lot() -> str:
        named = orjson.dumps([spec.get("metadata"), spec.get("display_name")]).decode()
        return short_hash(named, file_hash(box.state.folder / input_path))

    take = partial(box.state.take_hit, subject=batch_id)
    return Subject(incoming.wire.dialect, incoming.contains, take, lot)


def find(box: Sandbox, incoming: Incoming, batch_id: str, missing: Problem) -> BatchRow:
    """Find the caller's batch, settled when it is due.

    Raises:
        Refused: with `missing`.
    """
    batch = box.state.batch(incoming.wire.dialect, incoming.owner, batch_id, box.clock())
    if batch is None:
        raise Refused(missing)
    return settle(box, incoming.wire, batch)


def page(box: Sandbox, incoming: Incoming, *, limit: int, after: str = "", before: str = "") -> Page:
    """Give one page of the caller's batches.

    Args:
        box: the sandbox.
        incoming: whose.
        limit: at most.
        after: an id; older ones follow.
        before: an id; newer ones, the nearest.
    """
    now = box.clock()
    dialect, owner = incoming.wire.dialect, incoming.owner
    ids = [batch_id for _, batch_id in box.state.batches(dialect, owner, now)]
    if after:
        ids = ids[ids.index(after) + 1 :] if after in ids else []
    if before:
        ids = ids[: ids.index(before)] if before in ids else []
    shown = ids[-limit:] if before else ids[:limit]
    found = (box.state.batch(dialect, owner, batch_id, now) for batch_id in shown)
    return Page([settle(box, incoming.wire, batch) for batch in found if batch], len(ids) > limit)


def progress(box: Sandbox, batch: BatchRow) -> Progress:
    """Give the counts of a batch, or the lies it was told to show."""
    outcome, plan = batch.outcome, batch.plan
    total = batch.total + 7 if plan.total_lies else batch.total
    if not batch.settled:
        return Progress(total, done_items(batch, box.clock()), 0, 0, 0)
    if plan.counts_lie and outcome.succeeded == batch.total:
        return Progress(total, 0, total, 0, 0)
    if plan.counts_lie:
        return Progress(total, total, 0, 0, 0)
    return Progress(total, outcome.succeeded, outcome.errored, outcome.cancelled, outcome.expired)


def cancel(box: Sandbox, batch: BatchRow) -> BatchRow:
    """Ask a batch to stop; one that has ended stays as it is."""
    now = box.clock()
    if stage(batch, now) is not Stage.ENDED and batch.cancelled_at is None:
        box.state.cancel(batch, now)
        return replace(batch, cancelled_at=now)
    return batch


def keep_file(box: Sandbox, incoming: Incoming, source: Path, file: FileRow) -> FileRow | None:
    """Keep an uploaded file under its id; None when the id is taken."""
    subject = _file_subject(box, incoming, source, file.file_id)
    met = file_faults(box.behaviour, {FaultKind.FILE_NOT_READY}, subject)
    kept = replace(file, ready_at=file.created_at + delay_seconds(met.get(FaultKind.FILE_NOT_READY), subject.lot))
    path = box.state.folder / file.path
    shutil.move(source, path)
    if box.state.add_file(kept):
        return kept
    path.unlink()
    return None


def send_file(box: Sandbox, incoming: Incoming, path: Path, media_type: str) -> Response:
    """Send a result file, whole or as its faults want it."""
    met = file_faults(box.behaviour, DOWNLOAD_KINDS, _file_subject(box, incoming, path, box.new_id()))
    cut, stalled = met.get(FaultKind.DOWNLOAD_TRUNCATED), met.get(FaultKind.DOWNLOAD_STALLED)
    if cut is not None and cut.code == "no_newline":
        with path.open("rb") as handle:
            return Response(handle.read(max(0, path.stat().st_size - 20)), media_type=media_type)
    mischief = incoming.mischief
    mischief.cut_after = path.stat().st_size // 2
    if cut is not None:
        mischief.ending = Ending.CUT
    elif stalled is not None:
        mischief.ending, mischief.hold_seconds = Ending.STALL, stalled.seconds or 0.0
    return FileResponse(path, media_type=media_type)


def _file_subject(box: Sandbox, incoming: Incoming, path: Path, name: str) -> Subject:
    """Give a file on its way in or out as faults see it: the request, and what the file holds."""

    def contains(text: str) -> bool:
        return incoming.contains(text) or file_contains(path, text)

    take = partial(box.state.take_hit, subject=name)
    return Subject(incoming.wire.dialect, contains, take, lambda: file_hash(path))


def whole_number(text: str, default: int, least: int, most: int) -> int:
    """Read a page size of a query, within bounds.

    Raises:
        Refused: 400, it is no number.
    """
    if not text:
        return default
    if not text.isdecimal():
        raise Refused(Problem(400, f"'{text}' is not a valid integer."))
    return min(most, max(least, int(text)))
