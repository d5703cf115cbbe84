"""Write: the user's file comes back, every row with its own answer or with the reason why there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from batch_jobs.errors import StoreError
from batch_jobs.lifecycle.filing import file_job
from batch_jobs.lifecycle.manifest import write_manifest
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.receive import STATUS_FIELD
from batch_jobs.lifecycle.run import Progress, Run
from batch_jobs.models import EventName, JobOutcome, Outcome, Phase
from batch_jobs.output.neutral import neutralise
from batch_jobs.output.table import write_table
from batch_jobs.render.items import PlannedRow, read_rows
from batch_jobs.render.prompts import cell_text
from batch_jobs.render.worker import remove_bodies
from batch_jobs.storage import events, items, jobs
from batch_jobs.storage.files import adopt, remove_files
from batch_jobs.storage.jobs import Job

CHUNK = 5_000
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

    def count(self, number: int, reason: str | None) -> None:
        """Count one row; `reason` None when it is answered."""
        self.rows += 1
        if reason is None:
            self.answered += 1
            return
        self.failed += 1
        self.reasons[reason.partition(" (")[0]] += 1
        if len(self.first_failures) < 5:
            self.first_failures.append((number, reason))


def write_output(run: Run, job: Job) -> None:
    """WRITING to DONE: the output file, the folders and the manifest. May be run again after a crash."""
    project, tally = run.project, RowTally()
    cancelled = job.outcome is JobOutcome.CANCELLED
    changed = 0
    if job.plan is not None:
        changed = _write_file(run, job, tally)
        file_job(project, job, run.notify)
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


def outcome_of(tally: RowTally) -> JobOutcome:
    """Complete when every row is answered, failed when none is."""
    if tally.failed == 0:
        return JobOutcome.COMPLETE
    return JobOutcome.PARTIAL if tally.answered else JobOutcome.FAILED


def _write_file(run: Run, job: Job, tally: RowTally) -> int:
    """Write the output beside nothing else of that name, atomically; returns how many of our cells had to change."""
    workspace = run.project.workspace
    target = workspace.result(job.task_id, job.suffix)
    temp = target.with_name(f".{target.name}.{run.lease.token}.tmp")  # one that lost its lease may still be writing
    columns = list(job.output_columns.values())
    cells = _cells(run, job, tally)
    changed = write_table(workspace.upload(job.task_id, job.suffix), job.format, temp, columns, cells)
    with run.write():  # still ours: else JobHeld, and the file of whoever took over stays
        adopt(temp, target)
    remove_files(target.parent, f".{target.name}.*.tmp")
    return changed


def _cells(run: Run, job: Job, tally: RowTally) -> Iterator[list[str]]:
    """One list of our cells per row, in file order."""
    project = run.project
    with project.ledger.read() as connection:
        failures = items.failures(connection, job.task_id)
    fields = _fields(job)
    rows = read_rows(project.workspace.plan(job.task_id))
    while chunk := list(islice(rows, CHUNK)):
        answers = _answers(project, chunk, failures)
        for row in chunk:
            reason = reason_of(row, failures)
            tally.count(row.number, reason)
            yield _row_cells(row, reason, answers, fields)
        run.notify(Progress(job.task_id, "writing", tally.rows, job.rows))


def _row_cells(
    row: PlannedRow, reason: str | None, answers: dict[bytes, dict[str, Any]], fields: list[str]
) -> list[str]:
    """Our cells of one row: its answer, or blanks and the reason."""
    if reason is not None:
        return [*("" for _ in fields), neutralise(f"failed: {reason}")]
    assert row.fingerprint is not None
    answer = answers[row.fingerprint]
    return [*(neutralise(cell_text(answer.get(name))) for name in fields), OK]


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
    answers, fields = _answers(project, rows, failures), _fields(job)
    shown = (_row_cells(row, reason_of(row, failures), answers, fields) for row in rows)
    lines = ([f"{row.number:,}", text, *cells] for row, text, cells in zip(rows, texts, shown, strict=True))
    return [["row", name, *job.output_columns.values()], *lines]


def _fields(job: Job) -> list[str]:
    """The fields of the answer that become columns."""
    return [field for field in job.output_columns if field != STATUS_FIELD]


def _answers(
    project: Project, rows: list[PlannedRow], failures: dict[int, tuple[Outcome, str, str]]
) -> dict[bytes, dict[str, Any]]:
    wanted = {row.fingerprint for row in rows if row.fingerprint is not None and row.item not in failures}
    found = project.cache.get(list(wanted))
    if len(found) < len(wanted):
        raise StoreError(
            f"{project.workspace.call_cache}: {len(wanted) - len(found)} answers that were paid for are not in the "
            "call cache any more. Put the file back from your backup, then run the same command again"
        )
    return {fingerprint: orjson.loads(answer.answer) for fingerprint, answer in found.items()}


def reason_of(row: PlannedRow, failures: dict[int, tuple[Outcome, str, str]]) -> str | None:
    """Why a row has no answer, for people; None when it has one."""
    if row.item is None:
        return f"the prompt could not be made ({row.error})"
    if row.item not in failures:
        return None
    outcome, code, detail = failures[row.item]
    said = ": ".join(part for part in (code, detail[:DETAIL_CHARS]) if part and part not in ("schema", outcome))
    return f"{REASONS[outcome]} ({said})" if said else REASONS[outcome]


def output_file(project: Project, job: Job) -> Path | None:
    """The finished file in the store, or None where the job ended before there was anything to write."""
    path = project.workspace.result(job.task_id, job.suffix)
    return path if path.exists() else None
