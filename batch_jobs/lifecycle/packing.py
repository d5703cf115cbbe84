"""Packs a job's results into one segment: the layout for large jobs, a projection like the folders.

Plan rows and snapshot are both in file order, so they are read side by side, ten thousand rows at a time, with no join;
the only work per row is for what comes from the call cache.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from batch_jobs.arrow import TableReader, integers
from batch_jobs.lifecycle.plan import plan_of
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.run import Notify, Progress, nobody
from batch_jobs.models import Phase
from batch_jobs.render.places import firsts_of_places
from batch_jobs.storage import items
from batch_jobs.storage.call_cache import Answer
from batch_jobs.storage.files import remove_file
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.packed import PackedStore
from batch_jobs.storage.results import result_name
from batch_jobs.storage.segments import SegmentWriter, new_segment, result_columns, waiting_columns

BATCH_ROWS = 10_000
PLAN_COLUMNS = ("item", "identity", "alternate", "fingerprint")
Answers = Mapping[bytes, Answer]


class PackedRows:
    """What a job's segments hold, made of plan and snapshot in file order, as many rows at a time as are asked for."""

    def __init__(self, project: Project, job: Job) -> None:
        self._job, self._row = job, 0
        self._plan = TableReader(project.workspace.plan(job.task_id) / "rows.parquet", PLAN_COLUMNS)
        self._snapshot = TableReader(project.workspace.snapshot(job.task_id))
        self._firsts = firsts_of(project, job)

    def results(self, count: int, answers: Answers) -> Any:
        """The next rows' results as a table: those with an answer, of equal rows the first."""
        return results_table(self._job, *self._take(count), answers)

    def waiting(self, count: int, open_items: bytearray) -> Any:
        """The next rows that wait for an answer as a table, one an identity; `open_items` has one byte an item."""
        plan, cells, firsts = self._take(count)
        lines = zip(firsts, plan.column("item").to_pylist(), plan.column("alternate").to_pylist(), strict=True)
        chosen = [
            n
            for n, (first, item, alternate) in enumerate(lines)
            if first and item is not None and open_items[item] and not alternate
        ]
        return waiting_columns(_some(plan, chosen).column("identity").combine_chunks(), _some(cells, chosen))

    def _take(self, count: int) -> tuple[Any, Any, bytearray]:
        plan, cells = self._plan.take(count), self._snapshot.take(count).remove_column(0)
        firsts = self._firsts[self._row : self._row + plan.num_rows]
        self._row += plan.num_rows
        return plan, cells, firsts

    def close(self) -> None:
        """Release the files."""
        self._plan.close()
        self._snapshot.close()


def firsts_of(project: Project, job: Job) -> bytearray:
    """One byte a row: 1 where it stands for its item and identity."""
    figures = plan_of(job)
    if figures.items == figures.rows - figures.failed_rows:  # all differ
        return bytearray(b"\1") * job.rows
    return firsts_of_places(project.workspace.plan(job.task_id), job.rows, figures.items)


def results_table(job: Job, plan: Any, cells: Any, firsts: Sequence[int], answers: Answers) -> Any:
    """The results of rows as a table: those with an answer, of equal rows the first.

    Args:
        job: whose rows they are.
        plan: their lines of the plan, with `PLAN_COLUMNS`.
        cells: their input columns.
        firsts: a number a row, 1 where it stands for its item and identity.
        answers: of the items that succeeded, by fingerprint.
    """
    calls = plan.column("fingerprint").to_pylist()
    chosen = [n for n, (first, call) in enumerate(zip(firsts, calls, strict=True)) if first and call in answers]
    plan, cells = _some(plan, chosen), _some(cells, chosen)
    found = [calls[n] for n in chosen]
    alternates = plan.column("alternate").to_pylist()
    names = [result_name(job.task, *pair) for pair in zip(found, alternates, strict=True)]
    identities = plan.column("identity").combine_chunks()
    return result_columns(job.task_id, identities, names, [answers[call] for call in found], cells)


def _some(table: Any, chosen: list[int]) -> Any:
    return table if len(chosen) == table.num_rows else table.take(integers(chosen))


@contextlib.contextmanager
def packing(project: Project, job: Job) -> Iterator[SegmentWriter]:
    """Write a job's segment anew; when the block ends well it is durable, and what waited in `to_process` is gone.

    Yields:
        What takes the tables of `results_table`, in the order of the rows.

    Raises:
        StoreError: the disk is full, or there is no right to write.
    """
    store = PackedStore(project.workspace.store, job.data_case)
    with new_segment(store.segment(job.task, job.task_id), job.created_at, answered=True) as segment:
        yield segment
    remove_file(store.waiting(job.task, job.task_id))


def pack_job(project: Project, job: Job, notify: Notify = nobody) -> int:
    """Pack the answers of a job whose items have all ended; again, it has the same effect.

    Returns:
        Results filed.

    Raises:
        StoreError: the disk is full, or there is no right to write.
    """
    done = filed = 0
    with packing(project, job) as segment, contextlib.closing(PackedRows(project, job)) as rows:
        for count, _, answers in answers_of_rows(project, job):
            table = rows.results(count, answers)
            segment.add(table)
            done, filed = done + count, filed + table.num_rows
            notify(Progress(job.task_id, "filing", done, job.rows))
    return filed


def answers_of_rows(project: Project, job: Job) -> Iterator[tuple[int, set[bytes], Answers]]:
    """Pass over the rows of a job in file order.

    Yields:
        How many rows, the fingerprints of their items that succeeded, and those answers, as far as they are cached.
    """
    with project.ledger.read() as connection:
        failed: Collection[int] = items.failures(connection, job.task_id).keys()
    plan = project.workspace.plan(job.task_id) / "rows.parquet"
    with contextlib.closing(TableReader(plan, ("item", "fingerprint"))) as rows:
        while (table := rows.take(BATCH_ROWS)).num_rows:
            pairs = zip(table.column(0).to_pylist(), table.column(1).to_pylist(), strict=True)
            wanted = {call for item, call in pairs if item is not None and item not in failed}
            yield table.num_rows, wanted, project.cache.get(list(wanted))


def pack_waiting(project: Project, job: Job, notify: Notify = nobody, stop: threading.Event | None = None) -> int:
    """Write the segment of what a job has still to do; a stop ends it early.

    Returns:
        Identities that wait.

    Raises:
        StoreError: the disk is full, or there is no right to write.
    """
    open_items = _open_items(project, job)
    if not any(open_items):
        return 0
    made = 0
    target = PackedStore(project.workspace.store, job.data_case).waiting(job.task, job.task_id)
    segment = new_segment(target, job.created_at, answered=False)
    with segment as writer, contextlib.closing(PackedRows(project, job)) as rows:
        for first in range(0, job.rows, BATCH_ROWS):
            if stop is not None and stop.is_set():
                break
            table = rows.waiting(BATCH_ROWS, open_items)
            writer.add(table)
            made += table.num_rows
            notify(Progress(job.task_id, "preparing", min(first + BATCH_ROWS, job.rows), job.rows))
    return made


def forget_waiting(project: Project, job: Job) -> None:
    """Remove the segment of what a job has still to do, when it will never do it."""
    remove_file(PackedStore(project.workspace.store, job.data_case).waiting(job.task, job.task_id))


def _open_items(project: Project, job: Job) -> bytearray:
    """One byte an item, 1 where it waits for an answer."""
    figures = plan_of(job)
    if job.phase is Phase.PLANNED and not figures.known:
        return bytearray(b"\1") * figures.items
    waiting = bytearray(figures.items)
    with project.ledger.read() as connection:
        for item, _ in items.unanswered(connection, job.task_id):
            waiting[item] = 1
    return waiting
