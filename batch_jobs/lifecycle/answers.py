"""The answers of a done job as values, row by row: for who wants them as they are, and not as cells of a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from batch_jobs.errors import WrongMoment
from batch_jobs.lifecycle.cells import REASONS, answers_to, reason_of
from batch_jobs.lifecycle.finish import output_file
from batch_jobs.lifecycle.project import Project
from batch_jobs.models import Outcome, Phase
from batch_jobs.render.items import read_rows, row_ranges
from batch_jobs.render.prompts import load_prompt
from batch_jobs.storage import items
from batch_jobs.storage.jobs import Job


class RowAnswer(NamedTuple):
    """What one row came to.

    Attributes:
        row: the text of its cell in the upload's first column.
        item: that answers it; None where its prompt could not be made.
        reason: why it has no answer; None when it has one.
        answer: field -> value, in plain JSON values; empty where there is none.
    """

    row: str
    item: int | None
    reason: str | None
    answer: dict[str, Any]


def answers_of(project: Project, job: Job) -> Iterator[RowAnswer]:
    """Stream what each row of a done job came to, in file order.

    Raises:
        WrongMoment: it is not done.
        StoreError: the cache has lost an answer.
    """
    if job.phase is not Phase.DONE:
        raise WrongMoment(f"job {job.task_id} is not done yet ({job.phase})")
    plan, cache = project.workspace.plan(job.task_id), project.workspace.call_cache
    if output_file(project, job) is None:  # cancelled before it was planned
        yield from (RowAnswer(row, None, REASONS[Outcome.CANCELLED], {}) for row in _first_cells(project, job))
        return
    for number in range(len(row_ranges(plan))):
        rows = list(read_rows(plan, number))
        chosen = sorted({row.item for row in rows if row.item is not None})
        with project.ledger.read() as connection:
            failures = items.failures(connection, job.task_id, chosen)
        answers = answers_to(project.cache, cache, rows, failures)
        for row, cell in zip(rows, _first_cells(project, job, number), strict=True):
            reason = reason_of(row, failures)
            answered = reason is None and row.fingerprint is not None
            yield RowAnswer(cell, row.item, reason, answers[row.fingerprint] if answered and row.fingerprint else {})


def _first_cells(project: Project, job: Job, number: int | None = None) -> list[str]:
    """The first column of the upload: all of it, or one range."""
    import pyarrow.parquet as pq

    names = [job.columns[0]]
    with pq.ParquetFile(project.workspace.snapshot(job.task_id)) as snapshot:
        table = snapshot.read(names) if number is None else snapshot.read_row_group(number, names, use_threads=False)
    cells: list[str] = table.column(0).to_pylist()
    return cells


def answer_schema(project: Project, job: Job) -> dict[str, Any]:
    """The JSON Schema of a job's answers, as it was when it was planned; before that, as it is now."""
    file = project.settings.tasks[job.task].prompt
    kept = project.workspace.prompt(job.task_id, file)
    return load_prompt(kept.parent if kept.exists() else project.prompt_lib, file).output.schema
