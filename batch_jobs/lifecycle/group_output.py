"""The other shape of a job's output: a line a group; made on request, from the plan and the cache."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from batch_jobs.config import pick
from batch_jobs.config_tasks import DataCase
from batch_jobs.errors import UserError
from batch_jobs.lifecycle.cells import Failures, answer_fields, answers_to, reason_of, row_cells
from batch_jobs.lifecycle.plan import plan_of
from batch_jobs.lifecycle.project import Project
from batch_jobs.models import GroupMode, Outcome, OutputShape
from batch_jobs.output.groups import suffix_of, write_group_table
from batch_jobs.render.group_table import Group, read_groups
from batch_jobs.render.grouping import cells_of
from batch_jobs.render.items import PlannedRow, read_rows_of_groups
from batch_jobs.storage import items
from batch_jobs.storage.files import atomic_file
from batch_jobs.storage.jobs import Job
from batch_jobs.table import free_names

CHUNK = 1_000
ROWS = "rows"


def check_shape(project: Project, task: str, data_case: str, shape: OutputShape) -> None:
    """Check that a job of this data case can have its output in this shape.

    Raises:
        UnknownName: there is no such task or data case.
        UserError: it can't.
    """
    cases = pick("task", task, project.settings.tasks).data_cases
    asked: DataCase = pick("data case", data_case, cases, f'task "{task}"')
    if shape is OutputShape.GROUPS and asked.grouping.mode is not GroupMode.OUTPUT:
        raise UserError(_only_groups(task, data_case))


def groups_file(project: Project, job: Job) -> Path:
    """The output of a done job with a line a group, made if it is not there yet.

    Raises:
        UserError: the job's rows have answers of their own.
        StoreError: the disk is full, or the cache has lost an answer.
    """
    figures = plan_of(job).grouped if job.plan is not None else None
    if figures is None or figures.mode is not GroupMode.OUTPUT:
        raise UserError(_only_groups(job.task, job.data_case))
    target = project.workspace.groups(job.task_id, suffix_of(job.format, job.suffix))
    with project.making(target):
        if not target.exists():
            header = _header(figures.columns, tuple(job.output_columns.values()))
            with atomic_file(target) as handle:
                write_group_table(handle, job.format, header, _lines(project, job))
    return target


def _only_groups(task: str, data_case: str) -> str:
    return (
        f"--output-shape {OutputShape.GROUPS} is for jobs with one answer a group, and tasks.{task}.data_cases."
        f'{data_case}.grouping.mode is not "{GroupMode.OUTPUT}". Leave it out: the file has a line for every row'
    )


def _header(columns: tuple[str, ...], ours: tuple[str, ...]) -> list[str]:
    """The key's columns, the number of rows under a name that is not taken, and our columns."""
    return [*columns, *free_names([ROWS], [*columns, *ours]), *ours]


def _lines(project: Project, job: Job) -> Iterator[list[str]]:
    """The lines, in the order in which the groups come in the file."""
    plan, fields = project.workspace.plan(job.task_id), answer_fields(job)
    pairs = zip(read_groups(plan), read_rows_of_groups(plan), strict=True)
    while chunk := list(islice(pairs, CHUNK)):
        rows = [row for _, row in chunk]
        failures = _failures(project, job, rows)
        answers = answers_to(project.cache, project.workspace.call_cache, rows, failures)
        for group, row in chunk:
            yield [*_key(group), f"{group.rows}", *row_cells(row, reason_of(row, failures), answers, fields)]


def _key(group: Group) -> list[str]:
    return cells_of(group.key)


def _failures(project: Project, job: Job, rows: list[PlannedRow]) -> Failures:
    with project.ledger.read() as connection:
        records = items.some(connection, job.task_id, sorted({row.item for row in rows if row.item is not None}))
    return {
        number: (record.outcome, record.code, record.detail)
        for number, record in records.items()
        if record.outcome is not None and record.outcome is not Outcome.SUCCEEDED
    }
