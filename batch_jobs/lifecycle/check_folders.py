"""The folder store against the cache: every answered identity of a done job has its result, as it would be filed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import select

from batch_jobs.lifecycle.check_plan import query_parquet
from batch_jobs.lifecycle.check_report import REBUILD, Kind, Look
from batch_jobs.lifecycle.plan import layout_of
from batch_jobs.models import Layout, Outcome
from batch_jobs.storage import items, schema
from batch_jobs.storage.call_cache import Answer
from batch_jobs.storage.folders import FolderStore
from batch_jobs.storage.results import result_document, result_name

CHUNK = 1_000
_PLACES = """
    SELECT item, identity, any_value(alternate), any_value(fingerprint)
    FROM read_rows WHERE item IS NOT NULL GROUP BY item, identity ORDER BY item, identity
"""
_OTHERS = """
    SELECT DISTINCT r.identity, r.fingerprint FROM read_rows r
    SEMI JOIN wanted w ON r.identity = w.identity AND r.fingerprint = w.fingerprint
"""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one answer should be filed."""

    item: int
    identity: str
    fingerprint: bytes
    path: Path


def check_folders(look: Look) -> None:
    """Every answered identity has its file; one that a later job with other answers has replaced is right too."""
    plan = look.project.workspace.plan(look.job.task_id)
    if layout_of(look.job) is Layout.PACKED:
        return
    if not (look.done and look.planned and look.answers_there and (plan / "rows.parquet").exists()):
        return
    with look.reading(Kind.PLAN, plan / "rows.parquet"), tempfile.TemporaryDirectory() as spill:
        places = _places(look, plan, Path(spill))
        while chunk := list(islice(places, CHUNK)):
            _check_chunk(look, chunk, Path(spill))


def _places(look: Look, plan: Path, spill: Path) -> Iterator[_Place]:
    job = look.job
    processed = FolderStore(look.project.workspace.store, job.data_case).processed
    rows = query_parquet(_PLACES, {"read_rows": plan / "rows.parquet"}, spill)
    while chunk := list(islice(rows, CHUNK)):
        records = items.some(look.connection, job.task_id, sorted({row[0] for row in chunk}))
        for item, identity, alternate, call in chunk:
            if item in records and records[item].outcome is Outcome.SUCCEEDED:
                name = result_name(job.task, call, alternate)
                yield _Place(item, identity, call, processed / identity / "ai_results" / f"{name}.json")


def _check_chunk(look: Look, chunk: list[_Place], spill: Path) -> None:
    answers = look.project.cache.get(list({place.fingerprint for place in chunk}))
    replaced: list[tuple[_Place, dict[str, Any]]] = []
    for place in chunk:
        if place.fingerprint not in answers:
            continue  # a finding of its own
        found = _read(look, place)
        if found is None or found == result_document(answers[place.fingerprint]):
            continue
        if found.get("fingerprint") == place.fingerprint.hex():
            look.add(Kind.FOLDER, place.path, f"is not the answer of item {place.item}: it was changed", REBUILD)
        else:
            replaced.append((place, found))
    if replaced:
        _check_replaced(look, replaced, spill)


def _read(look: Look, place: _Place) -> dict[str, Any] | None:
    """The filed result; None, and a finding, where there is none that can be read."""
    look.findings.checked["folders"] += 1
    details = place.path.parent.parent / "meta_data" / "details.json"
    if not look.there(Kind.FOLDER, place.path, REBUILD) or not look.there(Kind.FOLDER, details, REBUILD):
        return None
    with look.reading(Kind.FOLDER, details, REBUILD):
        orjson.loads(details.read_bytes())
    with look.reading(Kind.FOLDER, place.path, REBUILD):
        found = orjson.loads(place.path.read_bytes())
        if isinstance(found, dict):
            return found
        look.add(Kind.FOLDER, place.path, "holds no JSON object", REBUILD)
    return None


def _check_replaced(look: Look, replaced: list[tuple[_Place, dict[str, Any]]], spill: Path) -> None:
    """Another fingerprint is right only where another job of this task asked that very call for that identity."""
    called = {place.identity: _call_of(found) for place, found in replaced}
    answers = look.project.cache.get([call for call in called.values() if call])
    asked = _asked_elsewhere(look, called, spill)
    for place, found in replaced:
        call = called[place.identity]
        answer: Answer | None = answers.get(call)
        if (place.identity, call) not in asked or answer is None or found != result_document(answer):
            problem = f"holds another call's answer than that of item {place.item}"
            look.add(Kind.FOLDER, place.path, problem, REBUILD)


def _asked_elsewhere(look: Look, called: dict[str, bytes], spill: Path) -> set[tuple[str, bytes]]:
    """Of (identity, fingerprint), those that the plans of the task's other jobs hold."""
    import pyarrow as pa

    table, job = schema.jobs, look.job
    same = table.c.task == job.task, table.c.data_case == job.data_case, table.c.task_id != job.task_id
    others = look.connection.execute(select(table.c.task_id).where(*same)).scalars()
    plans = [look.project.workspace.plan(task_id) / "rows.parquet" for task_id in others]
    wanted = pa.table({"identity": list(called), "fingerprint": pa.array(called.values(), pa.binary())})
    found: set[tuple[str, bytes]] = set()
    for plan in filter(Path.exists, plans):
        with look.reading(Kind.PLAN, plan):
            found.update(query_parquet(_OTHERS, {"read_rows": plan, "wanted": wanted}, spill))
    return found


def _call_of(found: dict[str, Any]) -> bytes:
    try:
        return bytes.fromhex(str(found.get("fingerprint", "")))
    except ValueError:
        return b""
