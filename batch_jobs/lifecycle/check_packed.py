"""The packed store against the cache: a done job's segment holds, line by line, what packing it again would write."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from batch_jobs.arrow import TableReader
from batch_jobs.lifecycle.check_report import Kind, Look
from batch_jobs.lifecycle.packing import PackedRows, answers_of_rows
from batch_jobs.lifecycle.plan import layout_of
from batch_jobs.models import Layout
from batch_jobs.storage.packed import PackedStore

REPACK = "make the segments anew: batch-jobs rebuild-store"
Line = dict[str, Any]


def check_packed(look: Look) -> None:
    """The segment of a done job that is packed."""
    job, workspace = look.job, look.project.workspace
    if layout_of(job) is not Layout.PACKED or not (look.done and look.planned and look.answers_there):
        return
    store = PackedStore(workspace.store, job.data_case)
    segment, waiting = store.segment(job.task, job.task_id), store.waiting(job.task, job.task_id)
    if waiting.exists():
        look.add(Kind.LEFTOVER, waiting, "waits for a job that is done", "harmless: delete the file")
    sources = workspace.plan(job.task_id) / "rows.parquet", workspace.snapshot(job.task_id)
    if not look.there(Kind.SEGMENT, segment, REPACK) or not all(path.exists() for path in sources):
        return  # what is missing of the sources is a finding of its own
    with look.reading(Kind.SEGMENT, segment, REPACK):
        for problem, line in _differences(look, segment):
            look.add(Kind.SEGMENT, f"{segment}, identity {line['identity']}", problem, REPACK)


def _differences(look: Look, segment: Path) -> Iterator[tuple[str, Line]]:
    """What differs, with the line; nothing further after lines that are missing or too many: all others would."""
    with (
        contextlib.closing(PackedRows(look.project, look.job)) as rows,
        contextlib.closing(TableReader(segment)) as found,
    ):
        for count, wanted, answers in answers_of_rows(look.project, look.job):
            if len(answers) < len(wanted):
                return  # a finding of its own
            expected = rows.results(count, answers)
            there = found.take(expected.num_rows)
            look.findings.checked["packed"] += expected.num_rows
            if expected.equals(there):
                continue
            for right, line in zip_longest(expected.to_pylist(), there.to_pylist()):
                if line is None or _place(line) != _place(right):
                    yield "is missing, or not in its place", right
                    return
                if line != right:
                    yield f"is not the answer of the job: it was changed ({_changed(right, line)})", line
        for line in found.take(1).to_pylist():
            yield "is no result of the job, with all that follow", line


def _place(line: Line) -> tuple[object, object]:
    return line.get("identity"), line.get("name")


def _changed(right: Line, line: Line) -> str:
    return ", ".join(name for name, value in right.items() if line.get(name) != value) or "columns that are not ours"
