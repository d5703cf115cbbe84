"""What the three dialects' batch routes share: accepting, finding, paging, cancelling, and sending files.

A route adds only its provider's words.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from starlette.responses import FileResponse, Response

from . import faults
from .behaviour import FaultKind
from .execute import settle
from .gate import Ending
from .handling import Incoming
from .intake import Scan
from .records import BatchRow, End, FileRow
from .sandbox import Sandbox
from .timeline import Stage, done_items, stage
from .wire import Body, Problem, Refused


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
    """Make a batch durable; a scan with problems makes one that fails."""
    behaviour, dialect = box.behaviour, incoming.wire.dialect
    take = partial(box.state.take_hit, subject=batch_id)
    plan = faults.plan_batch(behaviour, dialect, incoming.contains, take)
    if scan.problems:
        plan = replace(plan, end=End.FAILED, problems=tuple(scan.problems))
    created_at = box.clock() + incoming.accepted_in
    batch = BatchRow(
        batch_id=batch_id,
        dialect=dialect,
        owner=incoming.owner,
        created_at=created_at,
        model=scan.model,
        total=scan.total,
        input_path=input_path,
        plan=plan,
        endpoint=endpoint,
        listed_at=created_at + _list_lag(box, incoming, batch_id),
        spec=spec,
    )
    box.state.add_batch(batch)
    return batch


def _list_lag(box: Sandbox, incoming: Incoming, batch_id: str) -> float:
    take = partial(box.state.take_hit, subject=batch_id)
    lag = faults.file_fault(box.behaviour, incoming.wire.dialect, FaultKind.LIST_LAG, incoming.contains, take)
    if lag is None:
        return 0.0
    return 1.0 if lag.seconds is None else lag.seconds


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
    outcome = batch.outcome
    shown = Progress(batch.total, outcome.succeeded, outcome.errored, outcome.cancelled, outcome.expired)
    if not batch.settled:
        shown = Progress(batch.total, done_items(batch, box.clock()), 0, 0, 0)
    if batch.plan.counts_lie:
        shown = Progress(batch.total + 7, max(0, shown.succeeded - 1) + 5, shown.errored + 3, 0, 0)
    return shown


def cancel(box: Sandbox, batch: BatchRow) -> BatchRow:
    """Ask a batch to stop; one that has ended stays as it is."""
    now = box.clock()
    if stage(batch, now) is not Stage.ENDED and batch.cancelled_at is None:
        box.state.cancel(batch, now)
        return replace(batch, cancelled_at=now)
    return batch


def keep_file(box: Sandbox, incoming: Incoming, source: Path, file: FileRow) -> FileRow | None:
    """Keep an uploaded file under its id; None when the id is taken."""
    take = partial(box.state.take_hit, subject=file.file_id)
    contains: Callable[[str], bool] = incoming.contains
    lag = faults.file_fault(box.behaviour, file.dialect, FaultKind.FILE_NOT_READY, contains, take)
    seconds = 0.0 if lag is None else 1.0 if lag.seconds is None else lag.seconds
    kept = replace(file, ready_at=file.created_at + seconds)
    shutil.move(source, box.state.folder / file.path)
    if box.state.add_file(kept):
        return kept
    (box.state.folder / file.path).unlink()
    return None


def send_file(box: Sandbox, incoming: Incoming, path: Path, media_type: str) -> Response:
    """Send a result file, whole or as its faults want it."""
    take = partial(box.state.take_hit, subject=box.new_id())
    cut = faults.file_fault(box.behaviour, incoming.wire.dialect, FaultKind.DOWNLOAD_TRUNCATED, incoming.contains, take)
    if cut is not None and cut.code == "no_newline":
        with path.open("rb") as handle:
            return Response(handle.read(max(0, path.stat().st_size - 20)), media_type=media_type)
    if cut is not None:
        incoming.mischief.ending, incoming.mischief.cut_after = Ending.CUT, path.stat().st_size // 2
    return FileResponse(path, media_type=media_type)


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
