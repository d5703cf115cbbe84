"""Settling a batch that is due: every item executed once, results streamed to files, the bill appended.

Bodies are never held: an index of line offsets is shuffled, and each line is read from the mapped file in turn.
"""

from __future__ import annotations

import mmap
import os
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import BinaryIO

from batch_jobs.models import Dialect

from .items import ItemEnd, ItemRunner
from .records import BatchRow, BillLine, End, FileRow, Outcome
from .sandbox import Sandbox
from .timeline import done_items, ends_at, is_due, was_cancelled
from .wire import Unrun, Wire

BILL_CHUNK = 500
LONG_STEM = 36
"""With `batch-` before it, such an id is longer than the 40 characters that Gemini can delete."""


def settle(box: Sandbox, wire: Wire, batch: BatchRow) -> BatchRow:
    """Execute a batch when it is due; give it as it stands now."""
    if not is_due(batch, box.clock()):
        return batch
    with box.lock(batch.batch_id):
        found = box.state.database.row("SELECT * FROM batches WHERE batch_id = ?", batch.batch_id)
        batch = BatchRow.of(found) if found else batch
        if not batch.settled:
            _execute(box, wire, batch)
            found = box.state.database.row("SELECT * FROM batches WHERE batch_id = ?", batch.batch_id)
    return BatchRow.of(found) if found else batch


@dataclass(slots=True)
class _Tally:
    ends: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    pending: list[BillLine] = field(default_factory=list)

    def note(self, end: ItemEnd) -> None:
        self.ends[end.kind] += 1
        if end.bill is not None:
            self.tokens["input"] += end.bill.input_tokens
            self.tokens["cached"] += end.bill.cached_tokens
            self.tokens["output"] += end.bill.output_tokens
            self.pending.append(end.bill)


def _execute(box: Sandbox, wire: Wire, batch: BatchRow) -> None:
    box.state.begin_bill(batch.batch_id)
    tally = _Tally()
    if batch.plan.end is not End.FAILED:
        _run_items(box, wire, batch, tally)
    files = [] if _keeps_nothing(batch) else _result_files(box, batch)
    names = {file.purpose: file.file_id for file in files}
    outcome = Outcome(
        succeeded=tally.ends["succeeded"],
        errored=tally.ends["errored"],
        cancelled=tally.ends[Unrun.CANCELLED],
        expired=tally.ends[Unrun.EXPIRED],
        input_tokens=tally.tokens["input"],
        cached_tokens=tally.tokens["cached"],
        output_tokens=tally.tokens["output"],
        output_file=names.get("batch_output", ""),
        error_file=names.get("batch_error", ""),
        ended_at=ends_at(batch),
    )
    box.state.settle(batch, outcome, files)


def _run_items(box: Sandbox, wire: Wire, batch: BatchRow, tally: _Tally) -> None:
    runner = ItemRunner(box, wire, batch)
    done = done_items(batch, ends_at(batch))
    why = Unrun.CANCELLED if was_cancelled(batch) else Unrun.EXPIRED
    with ExitStack() as stack:
        good = stack.enter_context(_partial(result_path(box, batch, "output")).open("wb"))
        bad = good
        if batch.dialect is Dialect.OPENAI:
            bad = stack.enter_context(_partial(result_path(box, batch, "error")).open("wb"))
        lines = stack.enter_context(LineIndex(box.state.folder / batch.input_path))
        for index in _order(batch, len(lines)):
            end = runner.run(index, lines[index], None if index < done else why)
            _write(good if end.kind == "succeeded" else bad, end)
            tally.note(end)
            if len(tally.pending) >= BILL_CHUNK:
                box.state.add_bill(tally.pending)
                tally.pending.clear()
        box.state.add_bill(tally.pending)


def _write(handle: BinaryIO, end: ItemEnd) -> None:
    for line in end.lines:
        handle.write(line)
        handle.write(b"\n")


def _order(batch: BatchRow, count: int) -> list[int]:
    order = list(range(count))
    if batch.plan.reverse:
        order.reverse()
    elif batch.plan.shuffle and count > 1:
        Random(batch.batch_id).shuffle(order)
        if order == sorted(order):
            order.reverse()
    return order


def _keeps_nothing(batch: BatchRow) -> bool:
    """Gemini hands out nothing of an expired or cancelled batch."""
    if batch.plan.no_files:
        return True
    spoiled = was_cancelled(batch) or batch.plan.end is End.EXPIRED
    return batch.dialect is Dialect.GEMINI and spoiled


def _result_files(box: Sandbox, batch: BatchRow) -> list[FileRow]:
    """Give their final names to the result files that hold something."""
    files = []
    for kind in ("output", "error"):
        path = result_path(box, batch, kind)
        if not _partial(path).exists():
            continue
        os.replace(_partial(path), path)
        if (not path.stat().st_size and batch.dialect is Dialect.OPENAI) or batch.spec.get("inline"):
            continue
        now = ends_at(batch)
        files.append(
            FileRow(
                file_id=_file_id(batch, kind),
                dialect=batch.dialect,
                owner=batch.owner,
                name=f"{batch.batch_id.replace('/', '_')}_{kind}.jsonl",
                purpose=f"batch_{kind}",
                bytes=path.stat().st_size,
                created_at=now,
                ready_at=now,
                path=str(path.relative_to(box.state.folder)),
            )
        )
    return files


def _file_id(batch: BatchRow, kind: str) -> str:
    """Name a result file in its provider's way; Anthropic's have no name but their batch's."""
    stem = batch.batch_id.rsplit("_", 1)[-1].rsplit("/", 1)[-1]
    match batch.dialect:
        case Dialect.OPENAI:
            return f"file-sim-{kind[:3]}-{stem}"
        case Dialect.ANTHROPIC:
            return batch.batch_id
        case Dialect.GEMINI:
            return f"files/batch-{stem.ljust(LONG_STEM, '0') if batch.plan.long_file_id else stem}"


def result_path(box: Sandbox, batch: BatchRow, kind: str) -> Path:
    """Give the path of a batch's result file."""
    return box.state.folder / "results" / f"{batch.batch_id.replace('/', '_')}_{kind}.jsonl"


def _partial(path: Path) -> Path:
    return path.with_suffix(".partial")


class LineIndex:
    """Random access to the non-empty lines of a file, by 8 bytes a line."""

    def __init__(self, path: Path) -> None:
        self._handle = path.open("rb")
        self._map = mmap.mmap(self._handle.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else None
        self._starts = array("Q", self._scan())

    def _scan(self) -> Iterator[int]:
        position = 0
        for line in self._handle:
            if line.strip():
                yield position
            position += len(line)

    def __enter__(self) -> LineIndex:
        return self

    def __exit__(self, *error: object) -> None:
        if self._map is not None:
            self._map.close()
        self._handle.close()

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> bytes:
        if self._map is None:
            raise IndexError(index)
        start = self._starts[index]
        end = self._map.find(b"\n", start)
        return self._map[start : end if end >= 0 else len(self._map)]
