"""The rows of a done job as an export has them: ids, all input columns, all fields of the answer, how it ended.

Made by the ranges of rows that plan and snapshot are kept in, as the output is (`lifecycle.cells`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from batch_jobs.arrow import TableReader
from batch_jobs.errors import StoreError
from batch_jobs.lifecycle.cells import OK, Answers, Failures, answers_to, reason_of
from batch_jobs.lifecycle.project import Project
from batch_jobs.models import Outcome, Verdict
from batch_jobs.output.export import Chunk, ExportColumn, ValueKind
from batch_jobs.render.answers import OutputSchema
from batch_jobs.render.field_types import types_of
from batch_jobs.render.group_table import groups_path, read_groups
from batch_jobs.render.grouping import cells_of
from batch_jobs.render.items import PlannedRow, read_rows, row_ranges
from batch_jobs.render.prompts import load_prompt, sha256s_in
from batch_jobs.storage import drafts, items
from batch_jobs.storage.drafts import Draft
from batch_jobs.storage.jobs import Job
from batch_jobs.table import free_names

FIRST = {
    "row_number": ValueKind.INTEGER,
    "item": ValueKind.INTEGER,
    "identity": ValueKind.TEXT,
    "group_key": ValueKind.TEXT,
}
"""Before the columns of the file."""
LAST = {
    "status": ValueKind.TEXT,
    "outcome": ValueKind.TEXT,
    "verdict": ValueKind.TEXT,
    "score": ValueKind.NUMBER,
}
"""After the fields of the answer."""
GROUP = "group"
_KINDS = {
    "string": ValueKind.TEXT,
    "integer": ValueKind.INTEGER,
    "number": ValueKind.NUMBER,
    "boolean": ValueKind.BOOLEAN,
}


def answer_of(project: Project, job: Job) -> OutputSchema:
    """What the job's answers are, by the prompt that is kept with it.

    Raises:
        StoreError: it is not there any more.
    """
    folder = project.workspace.prompt(job.task_id, "any").parent
    kept = sha256s_in(folder).get(job.prompt_sha256 or "")
    if kept is None:
        raise StoreError(f"{folder}: the prompt that the job was planned with is not there. Restore it from a backup")
    return load_prompt(folder, kept.name).output


def columns_of(job: Job, answer: OutputSchema) -> list[ExportColumn]:
    """The columns of an export, in order.

    A column of the file keeps its name. One of ours whose name is taken gets `_2`, or the next number that is free; the
    first ones choose first, then the fields of the answer, then the last ones.
    """
    names = free_names([*FIRST, *answer.fields, *LAST], job.columns)
    kinds = [*FIRST.values(), *(kind_of(answer.schema, name) for name in answer.fields), *LAST.values()]
    ours = list(map(ExportColumn, names, kinds))
    theirs = [ExportColumn(name, ValueKind.TEXT) for name in job.columns]
    return [*ours[: len(FIRST)], *theirs, *ours[len(FIRST) :]]


def kind_of(schema: Mapping[str, Any], field: str) -> ValueKind:
    """What a field of the answer holds, by its JSON Schema; JSON where that is not one plain type, or null."""
    kinds = types_of(schema, field) - {"null"}
    return _KINDS.get(kinds.pop(), ValueKind.JSON) if len(kinds) == 1 else ValueKind.JSON


def chunks_of(
    project: Project, job: Job, answer: OutputSchema, columns: Sequence[ExportColumn], made: Callable[[int], None]
) -> Iterator[Chunk]:
    """Stream the rows in file order, a range at a time; `made` is told the number of each."""
    plan = project.workspace.plan(job.task_id)
    keys = _group_keys(plan)
    kinds = [column.kind for column in columns[len(FIRST) + len(job.columns) :]]
    with (
        contextlib.closing(TableReader(plan / "rows.parquet")) as planned,
        contextlib.closing(TableReader(project.workspace.snapshot(job.task_id))) as snapshot,
    ):
        for number, size in enumerate(row_ranges(plan)):
            rows, table = list(read_rows(plan, number)), planned.take(size)
            ids = [row.number for row in rows], [row.item for row in rows], table.column("identity").to_pylist()
            group = [keys[number] for number in table.column(GROUP).to_pylist()] if keys else [None] * size
            cells = [column.to_pylist() for column in snapshot.take(size).columns[1:]]
            ours = _ours(project, job, rows, answer.fields)
            yield [*ids, group, *cells, *(_typed(kind, values) for kind, values in zip(kinds, ours, strict=True))]
            made(size)


def _group_keys(plan: Path) -> list[str]:
    """The key of each group, by number: its cell, or several as a JSON list; none where the job has no groups."""
    if not groups_path(plan).exists():
        return []
    cells = (cells_of(group.key) for group in read_groups(plan))
    return [key[0] if len(key) == 1 else json.dumps(key, ensure_ascii=False) for key in cells]


class _Ended(NamedTuple):
    """How one row ended: its answer, empty where it has none, and what the columns of `LAST` say."""

    answer: Mapping[str, object]
    status: str
    outcome: Outcome | None
    verdict: Verdict | None
    score: float | None


def _ours(project: Project, job: Job, rows: Sequence[PlannedRow], fields: Sequence[str]) -> Iterator[Sequence[object]]:
    """The fields of the answers, and the last columns, of one range."""
    chosen = sorted({row.item for row in rows if row.item is not None})
    with project.ledger.read() as connection:
        failures: Failures = items.failures(connection, job.task_id, chosen)
        judged = drafts.some(connection, job.task_id, chosen) if job.rules.judge is not None else {}
    answers = answers_to(project.cache, project.workspace.call_cache, rows, failures)
    ended = [_ended(row, answers, failures, judged) for row in rows]
    yield from ([row.answer.get(field) for row in ended] for field in fields)
    yield from ([getattr(row, name) for row in ended] for name in LAST)


def _ended(row: PlannedRow, answers: Answers, failures: Failures, judged: Mapping[int, Draft]) -> _Ended:
    reason = reason_of(row, failures)
    if row.item is None:
        return _Ended({}, f"failed: {reason}", None, None, None)
    draft = judged.get(row.item, Draft(row.item))
    if reason is not None:
        return _Ended({}, f"failed: {reason}", failures[row.item][0], draft.verdict, draft.score)
    assert row.fingerprint is not None
    return _Ended(answers[row.fingerprint], OK, Outcome.SUCCEEDED, draft.verdict, draft.score)


def _typed(kind: ValueKind, values: Iterable[object]) -> list[object]:
    """Values of one kind each: JSON Schema takes 5.0 for a whole number."""
    if kind is ValueKind.INTEGER:
        return [int(value) if isinstance(value, float) else value for value in values]
    return list(values)
