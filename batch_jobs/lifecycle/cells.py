"""What each row comes to: our cells of the output file, and its line in a packed segment.

Made by ranges of rows, in processes where there are many. A range reads the plan's rows, what the ledger says of the
items that failed, and the answers from the call cache.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from batch_jobs.arrow import line_breaks
from batch_jobs.errors import StoreError
from batch_jobs.lifecycle.packing import PLAN_COLUMNS, firsts_of, results_table
from batch_jobs.lifecycle.plan import layout_of
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.receive import STATUS_FIELD
from batch_jobs.lifecycle.settle import NOT_JUDGED
from batch_jobs.lifecycle.values import Write, spreadsheet_text, writer_for
from batch_jobs.models import Layout, Outcome
from batch_jobs.render.items import PlannedRow, read_rows, row_ranges
from batch_jobs.storage import items
from batch_jobs.storage.call_cache import CallCache, cache_of_worker
from batch_jobs.storage.database import CACHE_KB, open_sqlite
from batch_jobs.storage.files import store_errors
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.ledger import Ledger
from batch_jobs.table import Addition, FileKind

OK = "ok"
REASONS = {
    Outcome.INVALID: "invalid answer",
    Outcome.REFUSED: "refused by the model",
    Outcome.TRUNCATED: "answer cut off at the output limit",
    Outcome.ERRORED: "provider error",
    Outcome.EXPIRED: "not executed in time",
    Outcome.CANCELLED: "cancelled",
    Outcome.MISSING: "missing from the provider's results",
    Outcome.REJECTED: "rejected by the judge",
}
DETAIL_CHARS = 160
HANDED_OVER = "handed-over-"
"""How a folder begins in which workers leave what the main process takes."""
SHOWN_FAILURES = 5
Failures = Mapping[int, tuple[Outcome, str, str]]
"""Items without an answer: how they ended, the code, the provider's words."""
Answers = Mapping[bytes, dict[str, Any]]


@dataclass
class RowTally:
    """How the rows of the output came out.

    Attributes:
        first_failures: the first failed rows: (row as the spreadsheet shows it, reason).
    """

    rows: int = 0
    answered: int = 0
    failed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    first_failures: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: RowTally) -> None:
        """Add the rows that follow these."""
        self.rows += other.rows
        self.answered += other.answered
        self.failed += other.failed
        self.reasons += other.reasons
        self.first_failures = (self.first_failures + other.first_failures)[:SHOWN_FAILURES]

    def count(self, number: int, reason: str | None) -> None:
        """Count one row; `reason` None when it is answered."""
        self.rows += 1
        if reason is None:
            self.answered += 1
            return
        self.failed += 1
        self.reasons[reason.partition(" (")[0]] += 1
        if len(self.first_failures) < SHOWN_FAILURES:
            self.first_failures.append((number, reason))


@dataclass(frozen=True, slots=True)
class Source:
    """What the rows of a job are made from; travels to other processes.

    Attributes:
        fields: of the answer, that become columns.
        failures: whether any item failed.
    """

    job: Job
    plan: Path
    snapshot: Path
    ledger: Path
    cache: Path
    fields: tuple[str, ...]
    failures: bool


class Made(NamedTuple):
    """What a range of rows came to.

    Attributes:
        additions: what the output gives to each row.
        tally: how they came out.
        packed: their lines in a packed segment, a table, or the file that it is in; None where the job is not packed.
    """

    additions: list[Addition]
    tally: RowTally
    packed: Any


def source_of(project: Project, job: Job) -> Source:
    """Where a job's rows come from."""
    with project.ledger.read() as connection:
        failures = items.any_failed(connection, job.task_id)
    workspace = project.workspace
    return Source(
        job=job,
        plan=workspace.plan(job.task_id),
        snapshot=workspace.snapshot(job.task_id),
        ledger=workspace.ledger,
        cache=workspace.call_cache,
        fields=answer_fields(job),
        failures=failures,
    )


def answer_fields(job: Job) -> tuple[str, ...]:
    """The fields of the answer that become columns."""
    return tuple(field for field in job.output_columns if field != STATUS_FIELD)


def all_rows(project: Project, job: Job) -> Iterator[Made]:
    """Make every row of a job, in file order and in ranges."""
    source = source_of(project, job)
    sizes = row_ranges(source.plan)
    firsts = firsts_of(project, job) if layout_of(job) is Layout.PACKED else None
    starts = accumulate(sizes, initial=0)
    tasks = (
        (source, number, None if firsts is None else bytes(firsts[start : start + size]))
        for number, (start, size) in enumerate(zip(starts, sizes, strict=False))
    )
    if len(sizes) <= 1:
        yield from (_made(*task, project.ledger, project.cache) for task in tasks)
        return
    with (
        store_errors(source.plan),
        tempfile.TemporaryDirectory(prefix=HANDED_OVER, dir=source.plan, ignore_cleanup_errors=True) as folder,
    ):
        for made in project.workers.run(make_range, ((*task, folder) for task in tasks)):
            yield made if made.packed is None else made._replace(packed=_taken(made.packed))


def make_range(source: Source, number: int, firsts: bytes | None, folder: str) -> Made:
    """Make one range of rows, in a process of its own.

    Args:
        source: where they come from.
        number: of the range.
        firsts: a byte a row, 1 where it stands for its item and identity; None where the job is not packed.
        folder: the packed lines are left in a file here: to send them would take as long as to make them.
    """
    made = _made(source, number, firsts, _ledger(source.ledger), cache_of_worker(source.cache, CACHE_KB))
    return made if made.packed is None else made._replace(packed=_left(made.packed, Path(folder, str(number))))


def _left(table: Any, path: Path) -> Path:
    import pyarrow as pa

    with store_errors(path), pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return path


def remove_left(plan: Path) -> None:
    """Drop what a killed process's workers left behind; harmless where it stays."""
    for folder in plan.glob(f"{HANDED_OVER}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _taken(path: Path) -> Any:
    """What a worker left in a file: mapped, not read; the file is gone with it."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    with contextlib.suppress(OSError):  # the folder goes at the end
        path.unlink()
    return table


@lru_cache(maxsize=4)
def _ledger(path: Path) -> Ledger:
    return Ledger(open_sqlite(path))


def forget_files() -> None:
    """Let go of what workers' functions opened by its path, where they ran in a process that lives on.

    Somebody may put another store in the same place; an answer written to the one that is gone would be lost.
    """
    _ledger.cache_clear()
    cache_of_worker.cache_clear()


def _made(source: Source, number: int, firsts: bytes | None, ledger: Ledger, cache: CallCache) -> Made:
    rows, given, tally = list(read_rows(source.plan, number)), _given(source, number), RowTally()
    failures: Failures = {}
    if source.failures:
        chosen = sorted({row.item for row in rows if row.item is not None})
        with ledger.read() as connection:
            failures = items.failures(connection, source.job.task_id, chosen)
    wanted = _wanted(rows, failures)
    packed = None
    if firsts is None:
        texts = cache.texts(wanted)
    else:
        answers = cache.get(wanted)
        texts = {call: answer.answer for call, answer in answers.items()}
        packed = results_table(source.job, _planned(source, number), given, firsts, answers)
    read = _read(texts, wanted, source.cache)
    additions, write = [], writer_for(source.job.format.kind)
    breaks_of_rows = line_breaks(given) if source.job.format.kind is FileKind.TEXT else [0] * len(rows)
    for row, breaks in zip(rows, breaks_of_rows, strict=True):
        reason = reason_of(row, failures)
        tally.count(row.number, reason)
        additions.append(Addition(row_cells(row, reason, read, source.fields, write), 1 + breaks))
    return Made(additions, tally, packed)


def _given(source: Source, number: int) -> Any:
    """A range's input columns: snapshot and plan have the same ranges."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(source.snapshot) as snapshot:
        return snapshot.read_row_group(number, use_threads=False).remove_column(0)


def _planned(source: Source, number: int) -> Any:
    """A range's lines of the plan."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(source.plan / "rows.parquet") as plan:
        return plan.read_row_group(number, columns=list(PLAN_COLUMNS), use_threads=False).select(list(PLAN_COLUMNS))


def row_cells(
    row: PlannedRow, reason: str | None, answers: Answers, fields: Sequence[str], write: Write = spreadsheet_text
) -> list[str]:
    """Our cells of one row: its answer, or blanks and the reason."""
    if reason is not None:
        return [*(write(None) for _ in fields), write(f"failed: {reason}")]
    assert row.fingerprint is not None
    answer = answers[row.fingerprint]
    return [*(write(answer.get(name)) for name in fields), write(OK)]


def answers_to(cache: CallCache, path: Path, rows: Iterable[PlannedRow], failures: Failures) -> Answers:
    """The answers to some rows, by fingerprint.

    Raises:
        StoreError: the cache has lost one.
    """
    wanted = _wanted(rows, failures)
    return _read(cache.texts(wanted), wanted, path)


def _wanted(rows: Iterable[PlannedRow], failures: Failures) -> list[bytes]:
    return list({row.fingerprint for row in rows if row.fingerprint is not None and row.item not in failures})


def _read(texts: Mapping[bytes, str], wanted: Sequence[bytes], path: Path) -> Answers:
    if len(texts) < len(wanted):
        raise StoreError(
            f"{path}: {len(wanted) - len(texts)} answers that were paid for are not in the call cache any more. "
            "Put the file back from your backup, then run the same command again"
        )
    return {fingerprint: orjson.loads(text) for fingerprint, text in texts.items()}


def reason_of(row: PlannedRow, failures: Failures) -> str | None:
    """Why a row has no answer, for people; None when it has one."""
    if row.item is None:
        return f"the prompt could not be made ({row.error})"
    if row.item not in failures:
        return None
    outcome, code, detail = failures[row.item]
    if code == NOT_JUDGED:
        return detail
    said = ": ".join(part for part in (code, detail[:DETAIL_CHARS]) if part and part not in ("schema", outcome))
    return f"{REASONS[outcome]} ({said})" if said else REASONS[outcome]
