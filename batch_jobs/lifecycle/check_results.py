"""What a done job left for people: the output file and the manifest."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from batch_jobs.lifecycle.check_report import Kind, Look
from batch_jobs.output.manifest import read_documents
from batch_jobs.storage import calls, shards
from batch_jobs.storage.files import sha256_of
from batch_jobs.storage.jobs import Job
from batch_jobs.table import FileKind, IntakeLimits

UNLIMITED = IntakeLimits(max_bytes=1 << 60, max_rows=1 << 60, max_columns=1 << 30, max_cell_chars=1 << 40)
MANIFEST_FIX = "make it anew from the ledger, which is the truth: batch-jobs rebuild-store"
FIXED = ("task_id", "task", "data_case", "provider", "model", "account", "simulated", "file_sha256", "rows")
AT_THE_END = ("status", "outcome", "mode", "plan", "prompt_sha256", "schema_sha256")
PER_BATCH = ("round", "shard", "shard_key", "batch_id", "state", "requests", "bytes", "sha256", "creates")
COUNTED = ("calls", "input_tokens", "cached_tokens", "output_tokens")


def check_output(look: Look) -> None:
    """A done job's output: there, the file that was delivered, as many whole rows as the job."""
    if not (look.done and look.planned):
        return
    job = look.job
    path = look.project.workspace.result(job.task_id, job.suffix)
    if not look.there(Kind.OUTPUT, path):
        return
    with look.reading(Kind.OUTPUT, path):
        rows, ragged = _table_rows(path, job)
        if rows != job.rows:
            look.add(Kind.OUTPUT, path, f"holds {rows:,} rows, and the job has {job.rows:,}")
        elif ragged:
            look.add(Kind.OUTPUT, path, f"row {ragged:,} has not all the columns: it was cut off or changed")
        elif (delivered := _delivered(look)) and sha256_of(path) not in delivered:
            look.add(Kind.OUTPUT, path, "is not the file that was delivered: its sha256 differs")


def _delivered(look: Look) -> set[str]:
    """The sha256 of each file that was handed over with a line a row."""
    folder = look.project.workspace.output(look.job.task_id)
    by_group = {sha256_of(path) for path in folder.glob("groups.*")}
    return set(look.job.delivered.values()) - by_group


def _table_rows(path: Path, job: Job) -> tuple[int, int]:
    """Data rows of an output, and the number of the first that is too short or too long (0 for none)."""
    if job.format.kind is not FileKind.TEXT:
        from batch_jobs.intake.recognise import open_table

        table = open_table(path, filename=path.name, sheet=job.format.sheet, limits=UNLIMITED)
        rows, ours = sum(1 for _ in table.rows()), set(job.output_columns.values())
        return rows, int(job.format.kind is not FileKind.XLSX and not ours <= set(table.columns))
    from batch_jobs.intake.dialect import Encoding, allow_any_cell, open_decoded
    from batch_jobs.intake.text import RecordReader

    allow_any_cell()
    rows, ragged, width = -1, 0, len(job.columns) + len(job.output_columns)
    with open_decoded(path, Encoding(job.format.encoding, job.format.bom)) as source:
        for record in RecordReader(source, delimiter=job.format.delimiter, filename=path.name):
            if any(record.cells):
                rows += 1
                ragged = ragged or (record.number if len(record.cells) != width else 0)
    return rows, ragged


def check_manifest(look: Look) -> None:
    """The manifest says what the ledger says; while a job is under way only what can't change is compared."""
    path, fix = look.project.workspace.manifest(look.job.task_id), MANIFEST_FIX.format(look.job.task_id)
    if not path.exists() and not look.done:
        return
    if not look.there(Kind.MANIFEST, path, fix):
        return
    with look.reading(Kind.MANIFEST, path, fix):
        wrong = _differences(look, read_documents(path))
        if wrong:
            look.add(Kind.MANIFEST, path, f"does not agree with the ledger about {', '.join(wrong)}", fix)


def _differences(look: Look, documents: dict[str, list[dict[str, Any]]]) -> list[str]:
    said = documents["job"][0]
    names = FIXED + (AT_THE_END if look.done else ())
    wrong = [name for name in names if said.get(name) != getattr(look.job, name)]
    if not look.done:
        return wrong
    batches = [tuple(batch.get(name) for name in PER_BATCH) for batch in documents.get("batches", [])]
    recorded = shards.of_job(look.connection, look.job.task_id)
    if batches != [tuple(getattr(shard, name) for name in PER_BATCH) for shard in recorded]:
        wrong.append("batches")
    return wrong + _cost_differences(look, documents["costs"][0])


def _cost_differences(look: Look, said: dict[str, Any]) -> list[str]:
    spent = calls.spent(look.connection, look.job.task_id)
    wrong = [name for name in COUNTED if said.get(name) != getattr(spent, name)]
    same = math.isclose(float(said["cost_usd"]), spent.cost_usd, rel_tol=1e-9, abs_tol=1e-12)
    return wrong if same else [*wrong, "cost_usd"]
