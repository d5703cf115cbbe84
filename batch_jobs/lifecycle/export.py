"""Export: the rows of a done job in a format of the user's choice, joined with their ids and with all of the answer.

Made from plan, snapshot, ledger and call cache, which a done job leaves as they are: the same job gives the same bytes.
For a user's folder it is made anew each time; for the API, whose clients may come twice, it is kept in the store.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import IO, NamedTuple

from batch_jobs import system
from batch_jobs.errors import WrongMoment
from batch_jobs.lifecycle.deliver import NAME_BYTES, Finished, check_target, cut
from batch_jobs.lifecycle.export_rows import answer_of, chunks_of, columns_of
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.run import Notify, Progress, nobody
from batch_jobs.lifecycle.stages import is_current, keep_inputs, kept_notes, sha256_of_values
from batch_jobs.lifecycle.values import spreadsheet_text
from batch_jobs.models import Phase
from batch_jobs.output.export import ExportFormat, write_export
from batch_jobs.storage import jobs
from batch_jobs.storage.files import atomic_file, publish_new, remove_files, sha256_of
from batch_jobs.storage.jobs import Job

EXPORT = "export"
CELLS_CUT = "cells_cut"


class Exported(NamedTuple):
    """What was written.

    Attributes:
        columns: their names, in order.
        cut: cells that were cut to what a worksheet's cell holds.
    """

    path: Path
    rows: int
    columns: tuple[str, ...]
    cut: int


def export(
    project: Project,
    task_id: str,
    fmt: ExportFormat,
    output: Path | None = None,
    folder: Path | None = None,
    notify: Notify = nobody,
) -> Exported:
    """Write the rows of a done job, whole or not at all.

    Args:
        project: the project.
        task_id: a done job.
        fmt: what to write.
        output: this very file, replaced if it is there; None for beside the user's file, under a free name.
        folder: where it goes without `output`, when the user's own file is not known or its folder is gone.
        notify: told of every range.

    Returns:
        What was written, and where. A file of these very bytes that is there already is not written again.

    Raises:
        WrongMoment: not done yet, or cancelled before there was a plan.
        UserError: `output` is a folder or lies in none; the format can't hold the rows.
        StoreError: something of the job is not there any more; the disk is full.
    """
    job = _done(project, task_id)
    if output is not None:
        check_target(output)
        with atomic_file(output) as target:
            return _written(project, job, fmt, target, notify)._replace(path=output)
    beside = Path(job.source_path).parent if job.source_path else folder
    if beside is None or not beside.is_dir():
        beside = folder or project.workspace.output(task_id)
    with _temp_file(project, task_id) as temp:
        with atomic_file(temp) as target:
            made = _written(project, job, fmt, target, notify)
        return made._replace(path=_published(temp, beside, job, fmt))


def export_file(project: Project, task_id: str, fmt: ExportFormat) -> Finished:
    """The same rows as a file of the store: made when it is first asked for, and anew by another version of ours.

    Raises:
        WrongMoment, UserError, StoreError: as `export`.
    """
    job = _done(project, task_id)
    path = project.workspace.export(task_id, fmt)
    inputs = sha256_of_values(version("batch-jobs"), job.done_at, job.prompt_sha256)
    with project.making(path.parent):
        if not is_current(path, inputs):
            remove_files(path.parent, ".*.tmp")  # of processes that were killed
            with atomic_file(path) as target:
                made = _written(project, job, fmt, target, nobody)
            keep_inputs(path, inputs, **{CELLS_CUT: made.cut})
            system.give_memory_back()
        cells_cut = int(kept_notes(path).get(CELLS_CUT, 0))
    return Finished(job, path, (f".{job.task}.{EXPORT}", f".{fmt}"), cells_cut)


def _done(project: Project, task_id: str) -> Job:
    with project.ledger.read() as connection:
        job = jobs.get(connection, task_id)
    if job.phase is not Phase.DONE:
        raise WrongMoment(f"job {task_id} is not done yet ({job.phase}); ask again with: batch-jobs status {task_id}")
    if "items" not in (job.plan or {}):
        raise WrongMoment(f"job {task_id} was cancelled before it was planned: there is nothing to export")
    return job


def _written(project: Project, job: Job, fmt: ExportFormat, target: IO[bytes], notify: Notify) -> Exported:
    answer, done = answer_of(project, job), 0
    columns = columns_of(job, answer)

    def made(rows: int) -> None:
        nonlocal done
        done += rows
        notify(Progress(job.task_id, "exporting", done, job.rows))

    cut_cells = write_export(fmt, target, columns, chunks_of(project, job, answer, columns, made), spreadsheet_text)
    return Exported(Path(), done, tuple(column.name for column in columns), cut_cells)


@contextlib.contextmanager
def _temp_file(project: Project, task_id: str) -> Iterator[Path]:
    """A name in the job's own folder for what is being made; nothing is left there."""
    temp = project.workspace.output(task_id) / f".export-{uuid.uuid4().hex[:16]}.tmp"
    try:
        yield temp
    finally:
        remove_files(temp.parent, temp.name)


def _published(temp: Path, folder: Path, job: Job, fmt: ExportFormat) -> Path:
    """Put it under `<stem>.<task>.export.<format>`, or `-2`, `-3`, ...: never over another file, and never twice."""
    stem, digest = Path(job.file_name).stem, sha256_of(temp)
    for number in count(1):
        ending = f".{job.task}.{EXPORT}{'' if number == 1 else f'-{number}'}.{fmt}"
        target = folder / f"{cut(stem, NAME_BYTES - len(ending.encode()))}{ending}"
        if publish_new(temp, target) or (target.is_file() and sha256_of(target) == digest):
            return target
    raise AssertionError("count() does not end")
