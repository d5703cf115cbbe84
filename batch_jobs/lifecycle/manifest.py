"""What goes into a job's manifest: the job, its rounds, its provider batches, its costs."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from batch_jobs.lifecycle.project import Project
from batch_jobs.models import Outcome
from batch_jobs.output.manifest import write_documents
from batch_jobs.storage import calls, drafts, items, jobs, shards
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.shards import Shard


def write_manifest(project: Project, task_id: str, connection: Connection | None = None) -> None:
    """Write `batch_output/<task_id>/manifest.json` from the ledger.

    Args:
        project: the project.
        task_id: the job.
        connection: of a transaction whose changes are to be in it; a job's last one, as nobody comes after it.
    """
    with contextlib.nullcontext(connection) if connection is not None else project.ledger.read() as connection:
        job = jobs.get(connection, task_id)
        batches = shards.of_job(connection, task_id)
        spent = calls.spent(connection, task_id)
        verdicts = drafts.verdicts(connection, task_id)
        ended = items.counts(connection, task_id)
    document = {**_job(project, job, ended), "verdicts": verdicts}
    costs = {
        "calls": spent.calls,
        "input_tokens": spent.input_tokens,
        "cached_tokens": spent.cached_tokens,
        "output_tokens": spent.output_tokens,
        "cost_usd": spent.cost_usd,
    }
    rounds = [_round(number, list(group)) for number, group in groupby(batches, key=lambda shard: shard.round)]
    tables = {"job": [document], "rounds": rounds, "batches": [_batch(shard) for shard in batches], "costs": [costs]}
    write_documents(project.workspace.manifest(task_id), tables)


def _job(project: Project, job: Job, ended: Counter[str]) -> dict[str, Any]:
    plan = job.plan or {}
    return {
        "task_id": job.task_id,
        "simulated": job.simulated,
        "status": job.status,
        "outcome": job.outcome,
        "task": job.task,
        "data_case": job.data_case,
        "provider": job.provider,
        "model": job.model,
        "parameters": asdict(job.parameters),
        "endpoint": job.endpoint,
        "account": job.account,
        "mode": job.mode,
        "file": job.file_name,
        "file_sha256": job.file_sha256,
        "format": job.format.describe(),
        "rows": job.rows,
        "columns_added": list(job.output_columns.values()),
        "prompt_sha256": job.prompt_sha256,
        "schema_sha256": job.schema_sha256,
        "judge_sha256": plan.get("judge_sha256"),
        "rules": asdict(job.rules),
        "config_sha256": plan.get("config_sha256"),
        "counts": {"rows": _rows(job), "items": _items(job, ended)},
        "workers": plan.get("workers"),
        "plan": job.plan,
        "created_at": iso(job.created_at),
        "started_at": iso(job.started_at),
        "done_at": iso(job.done_at),
        "files": _files(project, job),
    }


def _rows(job: Job) -> dict[str, Any]:
    """Rows; how they ended is known once the output is written."""
    result = (job.plan or {}).get("result", {})
    return {"total": job.rows, **{name: result.get(name) for name in ("answered", "failed", "reasons")}}


def _items(job: Job, ended: Counter[str]) -> dict[str, Any]:
    """Items: what was known before, what was to run, how it ended; `open` has no outcome yet."""
    total, known = int((job.plan or {}).get("items", 0)), ended["known"]
    failed = {
        outcome.value: ended[outcome] for outcome in Outcome if outcome is not Outcome.SUCCEEDED and ended[outcome]
    }
    return {
        "total": total,
        "from_cache": known,
        "to_run": total - known,
        "ok": ended[Outcome.SUCCEEDED],
        "failed": failed,
        "open": ended["open"],
    }


def _files(project: Project, job: Job) -> dict[str, str]:
    """The job's files that are there, as paths from this one's folder."""
    workspace, task_id = project.workspace, job.task_id
    files = {
        "upload": workspace.upload(task_id, job.suffix),
        "snapshot": workspace.snapshot(task_id),
        "plan": workspace.plan(task_id),
        "config": workspace.config(task_id),
        "sent": workspace.input(task_id),
        "received": workspace.output(task_id),
        "output": workspace.result(task_id, job.suffix),
        "log": workspace.log(task_id),
    }
    start = workspace.manifest(task_id).parent
    return {name: Path(os.path.relpath(path, start)).as_posix() for name, path in files.items() if path.exists()}


def _round(number: int, batches: list[Shard]) -> dict[str, Any]:
    return {"round": number, "batches": len(batches), "requests": sum(shard.requests for shard in batches)}


def _batch(shard: Shard) -> dict[str, Any]:
    return {
        "round": shard.round,
        "shard": shard.shard,
        "shard_key": shard.shard_key,
        "kind": shard.kind,
        "batch_id": shard.batch_id,
        "state": shard.state,
        "provider_state": shard.provider_state,
        "requests": shard.requests,
        "bytes": shard.bytes,
        "sha256": shard.sha256,
        "account": shard.account,
        "model": shard.model,
        "creates": shard.creates,
        "submitted_at": iso(shard.submitted_at),
        "ended_at": iso(shard.ended_at),
    }


def iso(at: float | None) -> str | None:
    """Unix seconds as ISO 8601 UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds") if at is not None else None
