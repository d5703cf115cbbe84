"""How a job stands, for the CLI, the scripts and the API: one frozen value, read from the ledger only."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from batch_jobs.lifecycle.admission import room_for_round
from batch_jobs.lifecycle.eta import round_eta
from batch_jobs.lifecycle.manifest import iso
from batch_jobs.lifecycle.pool.figures import read_figures
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.room import RoomWait
from batch_jobs.models import JobOutcome, Mode, Outcome, Phase, ShardState, Status
from batch_jobs.storage import calls, claims, drafts, items, jobs, shards
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.shards import Shard

OPEN_JOBS = 1_000
STUCK_AFTER_SECONDS = 26 * 3600.0
"""Longer than any provider's completion window of 24 hours, with some slack."""

_JSON_FIELDS = (
    *(
        "task_id",
        "status",
        "outcome",
        "phase",
        "message",
        "task",
        "data_case",
        "provider",
        "model",
        "mode",
        "simulated",
    ),
    *("file_name", "rows", "items", "sent", "from_cache", "succeeded", "failed", "reasons", "round", "provider_state"),
    *(
        "unknown_outcomes",
        "waits_for",
        "waits_for_room",
        "verdicts",
        "batch_done",
        "batch_total",
        "eta_seconds",
        "pool",
        "output",
    ),
)


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as people and programs see it.

    Attributes:
        items: distinct requests; `sent` of them went (or will go) to the provider, `from_cache` were known.
        answered_items: items with a valid answer so far, known ones included.
        succeeded, failed: rows, once the output is written; they sum up to `rows`.
        waits_for: items that other jobs of the store have under way, whose answers this one waits for, by task_id.
        waits_for_room: batches of the round under way that find no room in the provider's queue.
        verdicts: items by the judge's last word, `accept` or `reject`; `accepted_again` of them after a repair.
        batch_done, batch_total: the provider's counts of the round under way.
        eta_seconds: remaining time, where it can be told.
        pool: of a job by single calls, how they go: the figures of `Tracker`, as they were at its `at`.
        output: the finished file as it was delivered, else the copy in batch_output.
    """

    task_id: str
    status: Status
    phase: Phase
    outcome: JobOutcome | None
    message: str | None
    task: str
    data_case: str
    provider: str
    model: str
    mode: Mode
    simulated: bool
    file_name: str
    rows: int
    items: int
    sent: int
    from_cache: int
    answered_items: int
    failed_items: int
    succeeded: int
    failed: int
    reasons: dict[str, int]
    first_failures: list[tuple[int, str]]
    cells_changed: int
    round: int
    provider_state: str | None
    unknown_outcomes: int
    waits_for: dict[str, int]
    waits_for_room: RoomWait | None
    verdicts: dict[str, int]
    batch_done: int
    batch_total: int
    eta_seconds: float | None
    pool: dict[str, Any] | None
    stuck: bool
    calls: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_usd: float
    price_known: bool
    seconds: float
    created_at: float
    done_at: float | None
    output: str | None

    def as_json(self) -> dict[str, Any]:
        """The one object of `--json` and of the API."""
        tokens = {"input": self.input_tokens, "cached": self.cached_tokens, "output": self.output_tokens}
        return {
            **{name: getattr(self, name) for name in _JSON_FIELDS},
            "waits_for_room": asdict(self.waits_for_room) if self.waits_for_room is not None else None,
            "tokens": tokens,
            "cost_usd": round(self.cost_usd, 6) if self.price_known else None,
            "seconds": round(self.seconds, 1),
            "created_at": iso(self.created_at),
            "done_at": iso(self.done_at),
        }


def newest_views(project: Project, limit: int, *, stuck: bool) -> list[JobView]:
    """The newest jobs, or the newest that somebody should look at."""
    with project.ledger.read() as connection:
        found = jobs.newest(connection, OPEN_JOBS if stuck else limit, unfinished_only=stuck)
    views = (view(project, job.task_id) for job in found)
    return list(islice((seen for seen in views if seen.stuck or not stuck), limit))


def view(project: Project, task_id: str) -> JobView:
    """How a job stands now.

    Raises:
        JobNotFound: there is no such job.
    """
    with project.ledger.read() as connection:
        job = jobs.get(connection, task_id)
        counts = items.counts(connection, task_id)
        of_job = shards.of_job(connection, task_id)
        spent = calls.spent(connection, task_id)
        typical = shards.typical_seconds(connection, job.provider, job.model, simulated=job.simulated)
        verdicts = drafts.verdicts(connection, task_id) if job.rules.judge is not None else {}
        running = job.phase is Phase.RUNNING
        waits_for = claims.waited_for(connection, task_id) if running else {}
        of_round = [shard for shard in of_job if shard.round == job.round]
        room = room_for_round(project, connection, job, of_round) if running else None
    return JobView(
        **_of_job(project, job),
        **_of_items(job, counts),
        **_of_shards(job, of_job, typical, project.clock()),
        waits_for=waits_for,
        waits_for_room=room,
        verdicts=verdicts,
        pool=read_figures(project, task_id) if job.mode is Mode.CONCURRENT else None,
        calls=spent.calls,
        input_tokens=spent.input_tokens,
        cached_tokens=spent.cached_tokens,
        output_tokens=spent.output_tokens,
        cost_usd=spent.cost_usd,
    )


def _of_job(project: Project, job: Job) -> dict[str, Any]:
    """What the job itself says, and how its output came out."""
    same = ("task_id", "status", "phase", "message", "task", "data_case", "provider", "model", "mode", "simulated")
    result = (job.plan or {}).get("result", {})
    return {
        **{name: getattr(job, name) for name in (*same, "file_name", "rows", "round", "created_at", "done_at")},
        "outcome": job.outcome if job.phase is Phase.DONE else None,
        "succeeded": int(result.get("answered", 0)),
        "failed": int(result.get("failed", 0)),
        "reasons": dict(result.get("reasons", {})),
        "first_failures": [tuple(entry) for entry in result.get("first_failures", [])],
        "cells_changed": int(result.get("cells_changed", 0)),
        "price_known": _price_known(project, job),
        "seconds": (job.done_at or project.clock()) - (job.started_at or job.created_at),
        "output": _output(project, job),
    }


def _of_items(job: Job, counts: Counter[str]) -> dict[str, Any]:
    total, known, succeeded = int((job.plan or {}).get("items", 0)), counts["known"], counts[Outcome.SUCCEEDED]
    return {
        "items": total,
        "from_cache": known,
        "sent": total - known if job.started_at is not None else 0,
        "answered_items": succeeded,
        "failed_items": sum(counts[outcome] for outcome in Outcome) - succeeded,
    }


def _of_shards(job: Job, of_job: list[Shard], typical: float | None, now: float) -> dict[str, Any]:
    under_way = [shard for shard in of_job if shard.round == job.round and not shard.split]
    return {
        "provider_state": _word(under_way),
        "unknown_outcomes": sum(shard.state is ShardState.UNKNOWN for shard in of_job),
        "batch_done": sum(shard.requests if shard.ended_at else shard.finished for shard in under_way),
        "batch_total": sum(shard.requests for shard in under_way),
        "eta_seconds": round_eta(under_way, typical, now) if job.phase is Phase.RUNNING else None,
        "stuck": is_stuck(job, of_job, now),
    }


def _price_known(project: Project, job: Job) -> bool:
    return job.provider in project.settings.providers and project.price(job.provider, job.model, job.mode) is not None


def _word(under_way: list[Shard]) -> str | None:
    waiting = [shard for shard in under_way if shard.state is not ShardState.MERGED]
    return (waiting[0].provider_state or waiting[0].state.value) if waiting else None


def _output(project: Project, job: Job) -> str | None:
    for path in reversed(list(job.delivered)):
        if Path(path).exists():
            return path
    kept = project.workspace.result(job.task_id, job.suffix)
    return str(kept) if job.phase is Phase.DONE and kept.exists() else None


def is_stuck(job: Job, of_job: list[Shard], now: float) -> bool:
    """Whether somebody should look at this job: paused, an unknown outcome, or a batch past its window."""
    if job.phase is Phase.PAUSED:
        return True
    if job.phase not in {Phase.RUNNING, Phase.CANCELLING}:
        return False
    unknown = any(shard.state is ShardState.UNKNOWN for shard in of_job)
    old = [shard for shard in of_job if shard.state is ShardState.SUBMITTED and shard.submitted_at]
    return unknown or any(now - (shard.submitted_at or now) > STUCK_AFTER_SECONDS for shard in old)


def all_submitted(project: Project, task_id: str) -> bool:
    """Whether every shard of the round under way is with the provider, so that nobody has to stay."""
    with project.ledger.read() as connection:
        job = jobs.get(connection, task_id)
        under_way = shards.of_job(connection, task_id, job.round)
    early = {ShardState.RENDERED, ShardState.SUBMITTING, ShardState.UNKNOWN}
    return bool(under_way) and not any(shard.state in early for shard in under_way)
