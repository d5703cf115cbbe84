"""Sample rows for people to look at: what was given, what came back, what the judge said of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from batch_jobs.lifecycle.cells import answer_fields, answers_to, reason_of
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.report.rows import ANSWERED, KNOWN, OPEN, Rows
from batch_jobs.output.report_facts import Sample
from batch_jobs.render.answers import cell_text
from batch_jobs.render.items import PlannedRow, read_rows, row_ranges
from batch_jobs.storage import items, statistics
from batch_jobs.storage.jobs import Job

SAMPLES = 20
FAILED_SAMPLES = 6
CELL_CHARS = 700
SHOWN_COLUMNS = 12
_STATES = {ANSWERED: "answered", KNOWN: "answered", OPEN: "open"}


def samples_of(project: Project, job: Job, rows: Rows) -> tuple[Sample, ...]:
    """Twenty rows, spread over the file, failed ones among them; reads their ranges and their answers only."""
    chosen = rows.sample(SAMPLES, FAILED_SAMPLES)
    columns = shown_columns(project, job)
    planned, cells = _read(project, job, chosen, columns)
    states = [_STATES.get(int(rows.codes[place]), "failed") for place in chosen]
    numbers = [row.item for row in planned if row.item is not None]
    with project.ledger.read() as connection:
        failures = items.failures(connection, job.task_id, numbers)
        said = statistics.said_by_judge(connection, job.task_id, numbers)
    answered = [row for row, state in zip(planned, states, strict=True) if state == "answered"]
    answers = answers_to(project.cache, project.workspace.call_cache, answered, failures)
    return tuple(
        Sample(
            number=row.number,
            state=state,
            reason="" if state == "open" else reason_of(row, failures) or "",
            inputs=tuple(zip(columns, map(shortened, texts), strict=True)),
            answers=_answers(job, answers.get(row.fingerprint or b"", {})) if state == "answered" else (),
            verdict=None if row.item is None else _verdict(said.get(row.item)),
        )
        for row, state, texts in zip(planned, states, cells, strict=True)
    )


def shown_columns(project: Project, job: Job) -> list[str]:
    """The mandatory columns as config.json has them now; the file's own where it does not know the task any more."""
    task = project.settings.tasks.get(job.task)
    data_case = task.data_cases.get(job.data_case) if task is not None else None
    named = [name for name in (data_case.mandatory_columns if data_case else ()) if name in job.columns]
    return (named or list(job.columns))[:SHOWN_COLUMNS]


def _read(
    project: Project, job: Job, chosen: Sequence[int], columns: list[str]
) -> tuple[list[PlannedRow], list[list[str]]]:
    """The plan's lines of some rows, and their cells; by the ranges that they are in."""
    import pyarrow.parquet as pq

    plan = project.workspace.plan(job.task_id)
    starts, start = [], 0
    for size in row_ranges(plan):
        starts.append((start, start + size))
        start += size
    planned: list[PlannedRow] = []
    cells: list[list[str]] = []
    with pq.ParquetFile(project.workspace.snapshot(job.task_id)) as snapshot:
        for number, places in groupby(chosen, key=lambda place: _range_of(starts, place)):
            first = starts[number][0]
            lines = list(read_rows(plan, number))
            table = snapshot.read_row_group(number, columns=columns, use_threads=False)
            for place in places:
                planned.append(lines[place - first])
                cells.append([_text(table, name, place - first) for name in columns])
    return planned, cells


def _range_of(starts: Sequence[tuple[int, int]], place: int) -> int:
    return next(number for number, (first, end) in enumerate(starts) if first <= place < end)


def _text(table: Any, name: str, place: int) -> str:
    return str(table.column(name)[place].as_py())


def shortened(text: str) -> str:
    """The beginning of a cell."""
    return text if len(text) <= CELL_CHARS else f"{text[:CELL_CHARS]}…"


def _answers(job: Job, answer: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    names = answer_fields(job)
    return tuple((job.output_columns[name], shortened(cell_text(answer.get(name)))) for name in names)


def _verdict(said: tuple[str, float | None, str] | None) -> str | None:
    if said is None:
        return None
    verdict, score, feedback = said
    scored = f", score {score:.2f}" if score is not None else ""
    return f"{verdict}{scored}{f': {shortened(feedback)}' if feedback else ''}"
