"""What came in and what was planned of it: upload, snapshot, kept prompt, plan, and the items in the ledger."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from batch_jobs.lifecycle.cells import RowTally
from batch_jobs.lifecycle.check_report import RESTORE_LEDGER, Kind, Look
from batch_jobs.lifecycle.finish import outcome_of
from batch_jobs.lifecycle.plan import render_spec
from batch_jobs.models import JobOutcome, Outcome, Phase
from batch_jobs.render.bodies import BodyReader
from batch_jobs.render.items import read_items
from batch_jobs.render.prompts import sha256s_in
from batch_jobs.render.spec import fingerprint
from batch_jobs.storage import items, schema
from batch_jobs.storage.files import sha256_of

CHUNK = 5_000
LOST_BODIES = (
    "restore it from your backup, or: batch-jobs cancel {}, then run the upload again: "
    "what was answered is known and not paid again"
)
LOST_ANSWERS = "restore store/call_cache.sqlite from your backup; run the upload again only if you have none: it costs"
_PLANNED = """
    SELECT i.item, i.fingerprint, count(r."row") AS "rows",
           count(r."row") FILTER (r.fingerprint IS DISTINCT FROM i.fingerprint) AS strange
    FROM read_items i LEFT JOIN read_rows r ON r.item = i.item GROUP BY i.item, i.fingerprint ORDER BY i.item
"""
Pair = tuple[Any, Any]


def check_input(look: Look) -> None:
    """The upload byte for byte, and its rows."""
    job, workspace = look.job, look.project.workspace
    upload, snapshot = workspace.upload(job.task_id, job.suffix), workspace.snapshot(job.task_id)
    if look.there(Kind.UPLOAD, upload):
        with look.reading(Kind.UPLOAD, upload):
            if sha256_of(upload) != job.file_sha256:
                look.add(Kind.UPLOAD, upload, "is not the file that was uploaded: its sha256 differs")
    if look.there(Kind.SNAPSHOT, snapshot):
        with look.reading(Kind.SNAPSHOT, snapshot):
            rows = _row_count(snapshot)
            if rows != job.rows:
                look.add(Kind.SNAPSHOT, snapshot, f"holds {rows:,} rows, and the job has {job.rows:,}")


def check_names(look: Look) -> None:
    """Whether config.json still knows the names that the job uses."""
    job, settings = look.job, look.project.settings
    fix = "put it back into config.json; until then the job can't be resumed"
    task = settings.tasks.get(job.task)
    if task is None:
        look.add(Kind.CONFIG, f"config.json, tasks.{job.task}", f'there is no task "{job.task}" any more', fix)
    elif job.data_case not in task.data_cases:
        place = f"config.json, tasks.{job.task}.data_cases.{job.data_case}"
        look.add(Kind.CONFIG, place, f'there is no data case "{job.data_case}" any more', fix)
    if job.provider not in settings.providers:
        place = f"config.json, providers.{job.provider}"
        look.add(Kind.CONFIG, place, f'there is no provider "{job.provider}" any more', fix)


def check_prompt(look: Look) -> None:
    """The prompt as it was when the job was planned."""
    if not look.planned or look.job.prompt_sha256 is None:
        return
    folder = look.project.workspace.prompt(look.job.task_id, "any").parent
    look.findings.checked["files"] += 1
    kept = sha256s_in(folder)
    if not kept:
        look.add(Kind.PROMPT, folder, "holds no prompt")
    elif look.job.prompt_sha256 not in kept:
        file = next(iter(kept.values()))
        look.add(Kind.PROMPT, file, "is not the prompt that the job was planned with: its sha256 differs")


def check_plan(look: Look) -> None:
    """The plan's two files against each other, and against the ledger's items."""
    if not look.planned:
        return
    plan = look.project.workspace.plan(look.job.task_id)
    there = [look.there(Kind.PLAN, plan / name) for name in ("rows.parquet", "items.parquet")]
    if not all(there):
        return
    with look.reading(Kind.PLAN, plan / "rows.parquet"):
        if (rows := _row_count(plan / "rows.parquet")) != look.job.rows:
            look.add(Kind.PLAN, plan / "rows.parquet", f"holds {rows:,} rows, and the job has {look.job.rows:,}")
    with look.reading(Kind.PLAN, plan / "items.parquet"):
        tally: Counter[bool] = Counter()
        for planned, recorded in side_by_side(_planned(plan), _recorded(look)):
            _judge(look, plan, planned, recorded)
            if planned is not None and recorded is not None:
                tally[recorded.outcome == Outcome.SUCCEEDED] += planned[2]
        _check_result(look, tally[True])


def side_by_side(left: Iterator[Any], right: Iterator[Any]) -> Iterator[Pair]:
    """Join two streams that ascend by their first column; None where one of them lacks a number."""
    one, other = next(left, None), next(right, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one[0] < other[0]):
            yield one, None
            one = next(left, None)
        elif one is None or other[0] < one[0]:
            yield None, other
            other = next(right, None)
        else:
            yield one, other
            one, other = next(left, None), next(right, None)


def _judge(look: Look, plan: Path, planned: Any, recorded: Any) -> None:
    look.findings.checked["items"] += 1
    if recorded is None:
        look.add(Kind.ITEM, look.ledger(planned[0]), "is in the plan and not in the ledger", RESTORE_LEDGER)
        return
    if planned is None:
        look.add(Kind.PLAN, plan / "items.parquet", f"lacks item {recorded.item}, which the ledger has")
        return
    if planned[1] != recorded.fingerprint:
        problem = "the ledger and items.parquet have different fingerprints"
        look.add(Kind.ITEM, look.ledger(recorded.item), problem, "restore both from one backup (docs/backup.md)")
    elif planned[3] or not planned[2]:
        look.add(Kind.PLAN, plan / "rows.parquet", f"does not agree with items.parquet about item {recorded.item}")
    wrong = _contradiction(look, recorded)
    if wrong:
        look.add(Kind.ITEM, look.ledger(recorded.item), wrong, RESTORE_LEDGER)


def _contradiction(look: Look, recorded: Any) -> str | None:
    """What is wrong with an item's record as it stands."""
    outcome, last = recorded.outcome, recorded.last_outcome
    if outcome is None:
        ended = look.job.phase in {Phase.WRITING, Phase.DONE}
        return f"has no outcome, and the job is {look.job.phase}" if ended else None
    if outcome not in set(Outcome):
        return f'has an outcome "{outcome}" that does not exist'
    if recorded.known and outcome != Outcome.SUCCEEDED:
        return f"was answered before the job, and its outcome is {outcome}"
    if last is not None and last != outcome:
        return f"its outcome is {outcome}, and its last attempt was {last}"
    return None


def _check_result(look: Look, answered: int) -> None:
    """A done job's figures against its items."""
    result = (look.job.plan or {}).get("result")
    if not look.done or result is None:
        return
    if (answered, look.job.rows - answered) != (result["answered"], result["failed"]):
        said = f"{result['answered']:,} answered and {result['failed']:,} failed rows"
        problem = f"the job was closed with {said}, and its items make {answered:,} answered rows"
        look.add(Kind.JOB, look.ledger(), problem, RESTORE_LEDGER)
    expected = outcome_of(RowTally(answered=result["answered"], failed=result["failed"]))
    if look.job.outcome not in {expected, JobOutcome.CANCELLED}:
        problem = f"the job's outcome is {look.job.outcome}, and its rows say {expected}"
        look.add(Kind.JOB, look.ledger(), problem, RESTORE_LEDGER)


def check_paid(look: Look) -> None:
    """A call that succeeded answered its item, or gave a draft of it; one for several rows may leave out the first."""
    calls, table, drafts, task_id = schema.calls, schema.items, schema.drafts, look.job.task_id
    if look.job.rules.rows_per_request > 1:
        return
    paid = select(calls.c.item).where(calls.c.task_id == task_id, calls.c.outcome == Outcome.SUCCEEDED)
    answered = select(table.c.item).where(table.c.task_id == task_id, table.c.outcome == Outcome.SUCCEEDED)
    drafted = select(drafts.c.item).where(drafts.c.task_id == task_id)
    for item in look.connection.execute(paid.except_(answered, drafted)).yield_per(CHUNK).scalars():
        problem = "a call for it succeeded and was paid, and the item is not answered"
        look.add(Kind.ITEM, look.ledger(item), problem, RESTORE_LEDGER)


def check_answers(look: Look) -> None:
    """Every succeeded item has its answer in the call cache."""
    if not look.answers_there:
        return
    succeeded = items.fingerprints(look.connection, look.job.task_id)
    wanted = (call for _, call in items.fingerprints(look.connection, look.job.task_id))
    for (item, call), known in zip(succeeded, look.project.cache.known(wanted), strict=True):
        look.findings.checked["answers"] += 1
        if not known:
            place = f"{look.project.workspace.call_cache}, item {item}"
            look.add(Kind.ANSWER, place, f"the answer {call.hex()[:16]}... was paid for and is not there", LOST_ANSWERS)
    _check_drafts(look)


def _check_drafts(look: Look) -> None:
    """Every draft that somebody still has to judge, or has judged, is in the call cache."""
    table = schema.drafts
    query = select(table.c.item, table.c.draft).where(table.c.task_id == look.job.task_id, table.c.draft.is_not(None))
    found = [(int(item), bytes(call)) for item, call in look.connection.execute(query)]
    for (item, call), known in zip(found, look.project.cache.known(call for _, call in found), strict=True):
        if not known:
            place = f"{look.project.workspace.call_cache}, item {item}"
            look.add(Kind.ANSWER, place, f"the draft {call.hex()[:16]}... was paid for and is not there", LOST_ANSWERS)


def check_bodies(look: Look) -> None:
    """An unfinished job's rendered requests are what their fingerprints say, as long as some may be sent."""
    sending = look.job.phase in {Phase.PLANNED, Phase.RUNNING, Phase.PAUSED}
    if not (look.planned and sending and _open_items(look)) or look.job.task not in look.project.settings.tasks:
        return
    plan, fix = look.project.workspace.plan(look.job.task_id), LOST_BODIES.format(look.job.task_id)
    with look.reading(Kind.BODY, plan, fix), BodyReader(plan) as reader:
        prefix = render_spec(look.project, look.job).fingerprint_prefix()
        for planned in read_items(plan):
            if fingerprint(prefix, reader.read(planned)) != planned.fingerprint:
                problem = "its rendered request is not the one that was planned"
                look.add(Kind.BODY, f"{plan}, item {planned.item}", problem, fix)


def _open_items(look: Look) -> int:
    table = schema.items
    query = select(func.count()).where(table.c.task_id == look.job.task_id, table.c.outcome.is_(None))
    return int(look.connection.execute(query).scalar() or 0)


def _recorded(look: Look) -> Iterator[Any]:
    table = schema.items
    columns = table.c.item, table.c.fingerprint, table.c.outcome, table.c.last_outcome, table.c.known
    query = select(*columns).where(table.c.task_id == look.job.task_id).order_by(table.c.item)
    yield from look.connection.execute(query).yield_per(CHUNK)


def _planned(plan: Path) -> Iterator[tuple[Any, ...]]:
    """(item, fingerprint, rows it serves, rows that name another fingerprint), ascending."""
    tables = {"read_items": plan / "items.parquet", "read_rows": plan / "rows.parquet"}
    with tempfile.TemporaryDirectory() as spill:
        yield from query_parquet(_PLANNED, tables, Path(spill))


def query_parquet(query: str, tables: dict[str, Any], spill: Path) -> Iterator[tuple[Any, ...]]:
    """Stream a query over Parquet files (paths) and Arrow tables; DuckDB spills outside of the root."""
    import duckdb
    import pyarrow.dataset as ds

    with duckdb.connect(config={"temp_directory": str(spill), "threads": 2, "memory_limit": "1GB"}) as connection:
        for name, table in tables.items():
            is_files = isinstance(table, Path | list)
            files = [str(path) for path in (table if isinstance(table, list) else [table])]
            connection.register(name, ds.dataset(files, format="parquet") if is_files else table)
        result = connection.execute(query)
        yield from chain.from_iterable(iter(lambda: result.fetchmany(CHUNK), []))


def _row_count(path: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)
