"""The stages of one job: ingest, items, and what generate leaves; each with an artefact to look at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from batch_jobs.arrow import TableReader
from batch_jobs.errors import WrongMoment
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.receive import Order, find_open, receive
from batch_jobs.lifecycle.stages import (
    Made,
    State,
    archive,
    document,
    is_current,
    is_outdated,
    json_line,
    keep_inputs,
    own_inputs,
    require_current,
    sha256_of_values,
)
from batch_jobs.models import SHEET_ROW, Outcome, Phase
from batch_jobs.storage import jobs, schema
from batch_jobs.storage.files import atomic_file, atomic_write, sha256_of
from batch_jobs.storage.jobs import Job

FIRST_ROWS = 5
SHOWN_CHARS = 500
"""Of a cell of the first rows, and no more."""
CHUNK = 5_000
GROUP = "group"


@dataclass(frozen=True, slots=True)
class Ingested:
    """A file that was taken in.

    Attributes:
        found: this very file was taken in before, and its job is not done.
    """

    job: Job
    found: bool
    made: Made


def ingest(project: Project, order: Order, *, force: bool = False) -> Ingested:
    """Take a file in, or find its job again, and write down what it is.

    A job that was planned with another prompt or config than the present ones is not the one: it keeps them.

    Args:
        project: opened.
        order: what is asked for.
        force: write the artefact anew.

    Raises:
        FileRefused: the table can't be taken as it is.
        UserError, ConfigError: as `receive`.
    """
    found = find_open(project, order)
    if found is not None and is_outdated(project, found):
        found = None
    job = found or receive(project, order)
    return Ingested(job, found is not None, _write_ingest(project, job, force=force))


def _write_ingest(project: Project, job: Job, *, force: bool) -> Made:
    path = project.workspace.input(job.task_id) / "ingest.json"
    inputs = sha256_of_values(job.file_sha256, job.format.to_json(), job.task, job.data_case)
    if not force and is_current(path, inputs):
        return Made(State.UNCHANGED, path)
    upload = project.workspace.upload(job.task_id, job.suffix)
    snapshot = project.workspace.snapshot(job.task_id)
    values = {
        "task": job.task,
        "data_case": job.data_case,
        "columns": list(job.columns),
        "rows": job.rows,
        "format": job.format.to_json(),
        "upload": {"sha256": job.file_sha256, "bytes": upload.stat().st_size},
        "snapshot": {"sha256": sha256_of(snapshot), "bytes": snapshot.stat().st_size},
        "first_rows": _first_rows(snapshot),
    }
    archived = archive(path, project.clock())
    atomic_write(path, document(values))
    keep_inputs(path, inputs)
    return Made(State.WRITTEN, path, archived)


def _first_rows(snapshot: Path) -> list[dict[str, Any]]:
    with closing(TableReader(snapshot)) as reader:
        rows = reader.take(FIRST_ROWS).to_pylist()
    return [
        {"number": row[SHEET_ROW], "cells": {name: _shown(cell) for name, cell in row.items() if name != SHEET_ROW}}
        for row in rows
    ]


def _shown(cell: str) -> str:
    return cell if len(cell) <= SHOWN_CHARS else f"{cell[: SHOWN_CHARS - 1]}…"


def write_items(project: Project, task_id: str, *, force: bool = False) -> Made:
    """Write down what a planned job asks: `items.jsonl`, a line an item.

    Raises:
        WrongMoment: it is not planned yet.
        UserError: it was planned with another prompt or config than the present ones.
    """
    job = _planned(project, task_id)
    require_current(project, job)
    path, inputs = project.workspace.items(task_id), own_inputs(project, job)
    if not force and is_current(path, inputs):
        return Made(State.UNCHANGED, path)
    archived = archive(path, project.clock())
    plan = project.workspace.plan(task_id)
    with project.ledger.read() as connection, atomic_file(path) as handle:
        known = _known(connection, task_id)
        handle.writelines(json_line({**line, "known": next(known)}) for line in _items(plan))
    keep_inputs(path, inputs)
    return Made(State.WRITTEN, path, archived)


def _planned(project: Project, task_id: str) -> Job:
    with project.ledger.read() as connection:
        job = jobs.get(connection, task_id)
    if job.plan is None:
        raise WrongMoment(f"job {task_id} is not planned yet ({job.phase}); plan it: batch-jobs stage items {task_id}")
    return job


def _known(connection: Connection, task_id: str) -> Iterator[bool]:
    """Whether each item's answer was known before the job was sent, in order."""
    table = schema.items
    query = select(table.c.known).where(table.c.task_id == task_id).order_by(table.c.item)
    return (bool(known) for known in connection.execute(query).scalars())


class _Served(NamedTuple):
    """Which rows the items serve, as numpy arrays: 30 bytes a row, whatever their order in the file is.

    Attributes:
        numbers: of the rows as the spreadsheet shows them, by item.
        starts: where an item's begin in it; one more than there are items.
        cuts: characters cut off, the most of an item's rows.
    """

    numbers: Any
    starts: Any
    cuts: Any


def _served(plan: Path) -> _Served:
    import numpy as np
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(plan / "rows.parquet") as file:
        table = file.read(columns=["item", "number", "cut"], use_threads=False)
    item = pc.fill_null(table["item"], -1).combine_chunks().to_numpy(zero_copy_only=False)
    order = np.argsort(item, kind="stable")[int((item < 0).sum()) :]
    starts = np.searchsorted(item[order], np.arange(int(item.max(initial=-1)) + 2))
    cuts = table["cut"].combine_chunks().to_numpy(zero_copy_only=False)[order]
    most = np.maximum.reduceat(cuts, starts[:-1]) if len(order) else cuts
    return _Served(table["number"].combine_chunks().to_numpy(zero_copy_only=False)[order], starts, most)


def _items(plan: Path) -> Iterator[dict[str, Any]]:
    """What there is to say of each item, in order; both files are read side by side, some thousand lines at a time."""
    served = _served(plan)
    with closing(TableReader(plan / "items.parquet", ["item", "first_row", "fingerprint", "length"])) as reader:
        first_rows = _chosen_rows(plan)
        next(first_rows)
        while (table := reader.take(CHUNK)).num_rows:
            for line in table.to_pylist():
                item, row = line["item"], first_rows.send(line["first_row"])
                yield {
                    "item": item,
                    "rows": served.numbers[served.starts[item] : served.starts[item + 1]].tolist(),
                    "identity": row["identity"],
                    "fingerprint": line["fingerprint"].hex(),
                    "request_bytes": line["length"],
                    "cut_chars": int(served.cuts[item]),
                    **({GROUP: row[GROUP]} if GROUP in row else {}),
                }


def _chosen_rows(plan: Path) -> Any:
    """A generator that is sent ascending row numbers and gives these rows."""
    import pyarrow.parquet as pq

    there = pq.read_schema(plan / "rows.parquet").names
    columns = [name for name in ("row", "identity", GROUP) if name in there]
    with closing(TableReader(plan / "rows.parquet", columns)) as reader:
        wanted = yield
        while (table := reader.take(CHUNK)).num_rows:
            for row in table.to_pylist():
                if row["row"] == wanted:
                    wanted = yield row


def write_answers(project: Project, task_id: str, *, force: bool = False) -> Made:
    """Write down how each item of a done job ended: `answers.jsonl`, a line an item, from ledger and cache.

    Nothing is asked again: what was paid for is not paid twice.

    Raises:
        WrongMoment: the job is not done yet.
    """
    job = _planned(project, task_id)
    if job.phase is not Phase.DONE:
        raise WrongMoment(f"job {task_id} is not done yet ({job.phase})")
    path, inputs = project.workspace.answers(task_id), own_inputs(project, job)
    if not force and is_current(path, inputs):
        return Made(State.UNCHANGED, path)
    archived = archive(path, project.clock())
    with project.ledger.read() as connection, atomic_file(path) as handle:
        handle.writelines(map(json_line, _answers(project, connection, task_id)))
    keep_inputs(path, inputs)
    return Made(State.WRITTEN, path, archived)


def _answers(project: Project, connection: Connection, task_id: str) -> Iterator[dict[str, Any]]:
    import orjson

    table = schema.items
    columns = table.c.item, table.c.fingerprint, table.c.outcome, table.c.code, table.c.detail
    rows = iter(connection.execute(select(*columns).where(table.c.task_id == task_id).order_by(table.c.item)))
    while block := list(islice(rows, CHUNK)):
        texts = project.cache.texts([row.fingerprint for row in block if row.outcome == Outcome.SUCCEEDED])
        for row in block:
            text = texts.get(row.fingerprint)
            yield {
                "item": row.item,
                "fingerprint": row.fingerprint.hex(),
                "outcome": row.outcome,
                "answer": orjson.loads(text) if text is not None else None,
                **({} if row.outcome == Outcome.SUCCEEDED else {"code": row.code or "", "detail": row.detail or ""}),
            }


def is_generated(project: Project, job: Job) -> bool:
    """Whether a job is done and its answers are written down."""
    current = job.phase is Phase.DONE and job.plan is not None
    return current and is_current(project.workspace.answers(job.task_id), own_inputs(project, job))


def ingested_as_json(ingested: Ingested) -> dict[str, Any]:
    """For `--json`."""
    job = ingested.job
    return {
        "stage": "ingest",
        "task_id": job.task_id,
        "found": ingested.found,
        "rows": job.rows,
        "columns": list(job.columns),
        "format": asdict(job.format),
        **ingested.made.as_json(),
    }
