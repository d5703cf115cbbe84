"""Admission: asks the ledger whether a shard finds room in the provider's queue, and records what a full one teaches.

A shard without room stays `rendered` and waits; that uses up no round and no attempt, and is no error of its items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection

from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.room import (
    Lesson,
    Queued,
    RoomWait,
    Weight,
    bounded,
    fits,
    in_force,
    is_too_large,
    learn,
    shard_bound,
    wait_seconds,
)
from batch_jobs.lifecycle.run import Run
from batch_jobs.lifecycle.sides import side_of
from batch_jobs.models import AskKind, EventName, ShardState
from batch_jobs.storage import enqueued, events, items, shards
from batch_jobs.storage.enqueued import LearnedLimit
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.shards import Shard
from providers.contract import Limits


class NotNow(Exception):
    """A shard that can't be submitted yet; nothing was written.

    Attributes:
        seconds: when to come again; None for when the next batch of the account ends, or at the usual pace.
    """

    def __init__(self, seconds: float | None = None) -> None:
        super().__init__(seconds)
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Queue:
    """One model of an account: what is in its queue, and what it takes."""

    queued: Queued
    limits: Limits
    lesson: Lesson | None


def queue_of(project: Project, connection: Connection, job: Job, *, but: str = "") -> Queue:
    """The queue that a job's shards go into; `but` is the key of a shard that does not count."""
    found = enqueued.by_model(connection, job.dialect, job.account, but=but)
    mine = found.get(job.model)
    account_batches = sum(each.batches for each in found.values())
    queued = (
        Queued(mine.tokens, mine.requests, mine.batches, account_batches) if mine else Queued(0, 0, 0, account_batches)
    )
    lesson = _lesson(project, connection, job)
    return Queue(queued, bounded(project.limits(job.provider, job.model), lesson), lesson)


def _lesson(project: Project, connection: Connection, job: Job) -> Lesson | None:
    known = enqueued.learned(connection, job.dialect, job.account, job.model)
    if known is None:
        return None
    return in_force(Lesson(known.tokens, known.shard_tokens, known.told, known.learned_at), project.clock())


def shard_limits(project: Project, connection: Connection, job: Job) -> Limits:
    """What a new shard of a job may hold: never more than the queue takes, nor than results that can be fetched."""
    limits = project.limits(job.provider, job.model)
    tokens = shard_bound(limits, _lesson(project, connection, job))
    expected = project.settings.tasks[job.task].expected_output_tokens if job.task in project.settings.tasks else 0
    most = limits.max_requests
    if limits.max_output_bytes is not None:
        most = max(1, min(most, limits.max_output_bytes // (expected * OUTPUT_BYTES_PER_TOKEN + RESULT_LINE_BYTES)))
    return replace(limits, max_requests=most, max_enqueued_tokens=tokens)


OUTPUT_BYTES_PER_TOKEN = 6
"""Of a result file; an answer is JSON within JSON, so its quotes are escaped twice."""
RESULT_LINE_BYTES = 1_000
"""What is around an answer in a line of a result file."""


def find_room(run: Run, connection: Connection, job: Job, shard: Shard) -> None:
    """Go on only when a shard may be submitted now.

    Raises:
        NotNow: the queue is full, or was for this shard a short while ago.
    """
    queue = queue_of(run.project, connection, job, but=shard.shard_key)
    if not fits(weight_of(shard), queue.queued, queue.limits):
        raise NotNow
    left = _seconds_left(run.project, job, shard)
    if left > 0 and not queue.queued.batches:
        raise NotNow(left)


def weight_of(shard: Shard) -> Weight:
    """What a shard puts into the queue."""
    return Weight(shard.tokens, shard.requests)


def _seconds_left(project: Project, job: Job, shard: Shard) -> float:
    """Of a refused shard's wait; a `resume` ends it, and so does a clock that was set back."""
    now, refused_at = project.clock(), shard.refused_at
    if refused_at is None or now < refused_at or refused_at < (job.resumed_at or 0.0):
        return 0.0
    return max(refused_at + wait_seconds(shard.refusals, project.settings.polling.min_seconds) - now, 0.0)


def back_to_rendered(run: Run, job: Job, shard: Shard, code: str, words: str, *, lesson: bool = True) -> Shard:
    """A shard whose create, or whose batch, met a full queue: it waits, and what it teaches is kept. In one commit.

    Args:
        run: of the job.
        job: whose.
        shard: submitting or submitted; what the provider made of it has failed and executed nothing.
        code: the provider's.
        words: the provider's.
        lesson: False where the refusal says nothing about the queue.

    Returns:
        The shard: rendered, or merged when its items are to go into smaller ones.
    """
    now, refusals = run.project.clock(), shard.refusals + 1
    problems = [{"code": code, "message": words, "line": None}]
    values: dict[str, Any] = {"refusals": refusals, "refused_at": now, "problems": problems}
    if shard.batch_id is not None:
        values |= dict.fromkeys(("batch_id", "batch_state", "provider_state", "submitted_at"))
        values |= {"refused_ids": [*(shard.refused_ids or []), shard.batch_id], "finished": 0}
    data = {"shard_key": shard.shard_key, "code": code, "why": words, "batch_id": shard.batch_id}
    with run.write() as connection:
        shard = shards.move(connection, shard, ShardState.RENDERED, **values)
        events.add(connection, job.task_id, EventName.SHARD_REFUSED, data)
        known = _learn(run, connection, job, shard, words) if lesson else None
        return _split(run, connection, job, shard) if is_too_large(weight_of(shard), known) else shard


def _learn(run: Run, connection: Connection, job: Job, shard: Shard, words: str) -> Lesson | None:
    """What is known after a refusal; a lesson adds to the one that is in force."""
    queue, now = queue_of(run.project, connection, job, but=shard.shard_key), run.project.clock()
    new = learn(words, weight_of(shard), queue.queued, shard.refusals, now)
    if new is None:
        return queue.lesson
    if queue.lesson is not None:
        tokens = new.tokens if new.tokens is not None else queue.lesson.tokens
        shard_tokens = new.shard_tokens if new.shard_tokens is not None else queue.lesson.shard_tokens
        new = replace(new, tokens=tokens, shard_tokens=shard_tokens)
    enqueued.keep(
        connection,
        LearnedLimit(job.account, job.dialect, job.model, new.tokens, new.shard_tokens, new.told, new.learned_at),
    )
    data = {"model": job.model, "tokens": new.tokens, "shard_tokens": new.shard_tokens, "told": new.told}
    events.add(connection, job.task_id, EventName.LIMIT_LEARNED, data)
    return new


def _split(run: Run, connection: Connection, job: Job, shard: Shard) -> Shard:
    """Give a shard's items back to its round: they go into smaller shards, and this one is never sent."""
    items.unassign(connection, shard)
    events.add(connection, job.task_id, EventName.SHARD_SPLIT, {"shard_key": shard.shard_key, "tokens": shard.tokens})
    return shards.move(connection, shard, ShardState.MERGED, split=1, merged_at=run.project.clock())


def stalled_by(run: Run, job: Job) -> str | None:
    """Why a job has got no batch into an empty queue for `rounds.max_hours`, in the provider's words; None if it has.

    Counted since its last batch ended, or since its `resume`.
    """
    with run.project.ledger.read() as connection:
        of_job = shards.of_job(connection, job.task_id)
        if queue_of(run.project, connection, job).queued.batches:
            return None
    refused = [s for s in of_job if s.state is ShardState.RENDERED and s.refusals]
    began = job.resumed_at or job.started_at or job.created_at
    since = max([began, *(shard.ended_at for shard in of_job if shard.ended_at)])
    if not refused or run.project.clock() - since <= run.project.settings.rounds.max_hours * 3600:
        return None
    return str((refused[0].problems or [{"message": "the provider's queue is full"}])[0]["message"])


def room_for_round(project: Project, connection: Connection, job: Job, of_round: Sequence[Shard]) -> RoomWait | None:
    """The shards of a round that find no room now: those of the model that answers, else the judge's."""
    for kind in AskKind:
        mine = [shard for shard in of_round if shard.kind is kind]
        found = waiting_for_room(project, connection, side_of(job, kind), mine)
        if found is not None:
            return found
    return None


def waiting_for_room(project: Project, connection: Connection, job: Job, of_round: Sequence[Shard]) -> RoomWait | None:
    """The shards of a round that find no room now, None when there are none or when config.json lacks the provider."""
    rendered = [shard for shard in of_round if shard.state is ShardState.RENDERED]
    if not rendered or job.provider not in project.settings.providers:
        return None
    queue = queue_of(project, connection, job)
    waiting = [s for s in rendered if s.refusals or not fits(weight_of(s), queue.queued, queue.limits)]
    if not waiting:
        return None
    of = sum(not shard.split for shard in of_round)
    return RoomWait(len(waiting), of, queue.queued.tokens, queue.limits.max_enqueued_tokens)
