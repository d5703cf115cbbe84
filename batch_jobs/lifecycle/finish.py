"""Write: the user's file comes back, every row with its own answer or with the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from batch_jobs.lifecycle.cells import RowTally, all_rows, answer_fields, answers_to, reason_of, remove_left, row_cells
from batch_jobs.lifecycle.filing import file_answers, pack
from batch_jobs.lifecycle.manifest import write_manifest
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.run import Progress, Run
from batch_jobs.models import EventName, JobOutcome, Outcome, Phase
from batch_jobs.output.table import write_table
from batch_jobs.render.items import read_rows
from batch_jobs.render.worker import remove_bodies
from batch_jobs.storage import events, items, jobs
from batch_jobs.storage.files import adopt, remove_files
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.segments import SegmentWriter
from batch_jobs.table import Addition

CHUNK = 5_000


def write_output(run: Run, job: Job) -> None:
    """WRITING to DONE: the output file, the folders and the manifest. May be run again after a crash."""
    project, tally = run.project, RowTally()
    cancelled = job.outcome is JobOutcome.CANCELLED
    changed = 0
    if job.plan is not None:
        with pack(project, job) as segment:
            changed = _write_file(run, job, tally, segment)
        file_answers(project, job, None, notify=run.notify)
    outcome = JobOutcome.CANCELLED if cancelled else outcome_of(tally)
    result = {
        "answered": tally.answered,
        "failed": tally.failed,
        "reasons": dict(tally.reasons.most_common(20)),
        "first_failures": tally.first_failures,
        "cells_changed": changed,
    }
    with run.write() as connection:
        done_at = project.clock()
        plan = {**(job.plan or {}), "result": result}
        jobs.move(connection, job, Phase.DONE, outcome=outcome, done_at=done_at, plan=plan)
        data = {"outcome": outcome, "answered": tally.answered, "failed": tally.failed}
        events.add(connection, job.task_id, EventName.JOB_DONE, data)
        write_manifest(project, job.task_id, connection)  # or the job is not done: nobody would write it later
    remove_bodies(project.workspace.plan(job.task_id))
    remove_left(project.workspace.plan(job.task_id))


def outcome_of(tally: RowTally) -> JobOutcome:
    """Complete when every row is answered, failed when none is."""
    if tally.failed == 0:
        return JobOutcome.COMPLETE
    return JobOutcome.PARTIAL if tally.answered else JobOutcome.FAILED


def _write_file(run: Run, job: Job, tally: RowTally, segment: SegmentWriter | None) -> int:
    """Write the output beside nothing else of that name, atomically; returns how many of our cells had to change."""
    workspace = run.project.workspace
    target = workspace.result(job.task_id, job.suffix)
    temp = target.with_name(f".{target.name}.{run.lease.token}.tmp")  # one that lost its lease may still be writing
    columns = list(job.output_columns.values())
    additions = _additions(run, job, tally, segment)
    changed = write_table(workspace.upload(job.task_id, job.suffix), job.format, temp, columns, additions)
    with run.write():  # still ours: else JobHeld, and the file of whoever took over stays
        adopt(temp, target)
    remove_files(target.parent, f".{target.name}.*.tmp")
    return changed


def _additions(run: Run, job: Job, tally: RowTally, segment: SegmentWriter | None) -> Iterator[Addition]:
    """What the output gives to each row, in file order; the same pass fills the segment of a packed job."""
    for made in all_rows(run.project, job):
        tally.add(made.tally)
        if segment is not None:
            segment.add(made.packed)
        yield from made.additions
        run.notify(Progress(job.task_id, "writing", tally.rows, job.rows))


def first_rows(project: Project, job: Job, limit: int = 3) -> list[list[str]]:
    """The first rows of a done job for people to look at: row number, first mandatory column, our columns.

    Read from the plan and the cache, not from the output: that may be large, and over the limits of an upload.

    Returns:
        The header, then at most `limit` rows; the row's number is as the spreadsheet shows it.
    """
    import pyarrow.parquet as pq

    name = next(iter(project.settings.tasks[job.task].data_cases[job.data_case].mandatory_columns))
    rows = list(islice(read_rows(project.workspace.plan(job.task_id)), limit))
    with pq.ParquetFile(project.workspace.snapshot(job.task_id)) as snapshot:
        texts = next(snapshot.iter_batches(limit, columns=[name])).column(0).to_pylist()
    with project.ledger.read() as connection:
        records = items.some(connection, job.task_id, [row.item for row in rows if row.item is not None])
    failures: dict[int, tuple[Outcome, str, str]] = {
        number: (record.outcome, record.code, record.detail)
        for number, record in records.items()
        if record.outcome is not None and record.outcome is not Outcome.SUCCEEDED
    }
    answers = answers_to(project.cache, project.workspace.call_cache, rows, failures)
    fields = answer_fields(job)
    shown = (row_cells(row, reason_of(row, failures), answers, fields) for row in rows)
    lines = ([f"{row.number:,}", text, *cells] for row, text, cells in zip(rows, texts, shown, strict=True))
    return [["row", name, *job.output_columns.values()], *lines]


def output_file(project: Project, job: Job) -> Path | None:
    """The finished file in the store, or None where the job ended before there was anything to write."""
    path = project.workspace.result(job.task_id, job.suffix)
    return path if path.exists() else None
