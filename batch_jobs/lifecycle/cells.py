"""Our cells: what each row of the output file says, made by ranges of rows, in processes where there are many.

A range reads the plan's rows, what the ledger says of the items that failed, and the answers from the call cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import starmap
from pathlib import Path
from typing import Any

import orjson

from batch_jobs.errors import StoreError
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.receive import STATUS_FIELD
from batch_jobs.models import Outcome
from batch_jobs.output.neutral import neutralise
from batch_jobs.render.items import PlannedRow, read_rows, row_ranges
from batch_jobs.render.prompts import cell_text
from batch_jobs.storage import items
from batch_jobs.storage.call_cache import CallCache
from batch_jobs.storage.database import open_sqlite
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.ledger import Ledger

OK = "ok"
REASONS = {
    Outcome.INVALID: "invalid answer",
    Outcome.REFUSED: "refused by the model",
    Outcome.TRUNCATED: "answer cut off at the output limit",
    Outcome.ERRORED: "provider error",
    Outcome.EXPIRED: "not executed in time",
    Outcome.CANCELLED: "cancelled",
    Outcome.MISSING: "missing from the provider's results",
}
DETAIL_CHARS = 160
SHOWN_FAILURES = 5
Failures = Mapping[int, tuple[Outcome, str, str]]
"""Items without an answer: how they ended, the code, the provider's words."""


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
class CellsOf:
    """What the cells of a job's rows are made from; travels to other processes.

    Attributes:
        fields: of the answer, that become columns.
        failures: whether any item failed.
    """

    task_id: str
    plan: Path
    ledger: Path
    cache: Path
    fields: tuple[str, ...]
    failures: bool


def cells_of(project: Project, job: Job) -> CellsOf:
    """The source of a job's cells."""
    with project.ledger.read() as connection:
        failures = items.any_failed(connection, job.task_id)
    workspace = project.workspace
    plan = workspace.plan(job.task_id)
    return CellsOf(job.task_id, plan, workspace.ledger, workspace.call_cache, answer_fields(job), failures)


def answer_fields(job: Job) -> tuple[str, ...]:
    """The fields of the answer that become columns."""
    return tuple(field for field in job.output_columns if field != STATUS_FIELD)


def all_cells(project: Project, job: Job, tally: RowTally) -> Iterator[list[list[str]]]:
    """Yield our cells of every row, in file order and in ranges; `tally` counts along."""
    source = cells_of(project, job)
    ranges = row_ranges(source.plan)
    tasks = ((source, number) for number in range(ranges))
    made = project.workers.run(make_cells, tasks) if ranges > 1 else starmap(_cells_here(project), tasks)
    for cells, counted in made:
        tally.add(counted)
        yield cells


def make_cells(source: CellsOf, number: int) -> tuple[list[list[str]], RowTally]:
    """Make the cells of one range of rows, in a process of its own."""
    return _made(source, number, *_opened(source.ledger, source.cache))


def _cells_here(project: Project) -> Any:
    return lambda source, number: _made(source, number, project.ledger, project.cache)


@lru_cache(maxsize=4)
def _opened(ledger: Path, cache: Path) -> tuple[Ledger, CallCache]:
    return Ledger(open_sqlite(ledger)), CallCache(open_sqlite(cache))


def _made(source: CellsOf, number: int, ledger: Ledger, cache: CallCache) -> tuple[list[list[str]], RowTally]:
    rows, tally = list(read_rows(source.plan, number)), RowTally()
    failures: Failures = {}
    if source.failures:
        chosen = sorted({row.item for row in rows if row.item is not None})
        with ledger.read() as connection:
            failures = items.failures(connection, source.task_id, chosen)
    answers = answers_to(cache, source.cache, rows, failures)
    cells = []
    for row in rows:
        reason = reason_of(row, failures)
        tally.count(row.number, reason)
        cells.append(row_cells(row, reason, answers, source.fields))
    return cells, tally


def row_cells(
    row: PlannedRow, reason: str | None, answers: Mapping[bytes, dict[str, Any]], fields: Sequence[str]
) -> list[str]:
    """Our cells of one row: its answer, or blanks and the reason."""
    if reason is not None:
        return [*("" for _ in fields), neutralise(f"failed: {reason}")]
    assert row.fingerprint is not None
    answer = answers[row.fingerprint]
    return [*(neutralise(cell_text(answer.get(name))) for name in fields), OK]


def answers_to(
    cache: CallCache, path: Path, rows: Iterable[PlannedRow], failures: Failures
) -> dict[bytes, dict[str, Any]]:
    """The answers to some rows, by fingerprint.

    Raises:
        StoreError: the cache has lost one.
    """
    wanted = {row.fingerprint for row in rows if row.fingerprint is not None and row.item not in failures}
    found = cache.texts(list(wanted))
    if len(found) < len(wanted):
        raise StoreError(
            f"{path}: {len(wanted) - len(found)} answers that were paid for are not in the call cache any more. "
            "Put the file back from your backup, then run the same command again"
        )
    return {fingerprint: orjson.loads(text) for fingerprint, text in found.items()}


def reason_of(row: PlannedRow, failures: Failures) -> str | None:
    """Why a row has no answer, for people; None when it has one."""
    if row.item is None:
        return f"the prompt could not be made ({row.error})"
    if row.item not in failures:
        return None
    outcome, code, detail = failures[row.item]
    said = ": ".join(part for part in (code, detail[:DETAIL_CHARS]) if part and part not in ("schema", outcome))
    return f"{REASONS[outcome]} ({said})" if said else REASONS[outcome]
