"""Claims: a call that is under way for one job is not made for another job of the same store.

An item claims its call from when it is put into a shard (or handed to the pool of single calls) until the answer, or
what became of it, is merged. Read inside the transaction that claims, so that of two jobs only one gets an item.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, FromClause, and_, exists, func, not_, or_, select, update

from batch_jobs.models import Phase
from batch_jobs.storage import leases
from batch_jobs.storage.jobs import lease_name
from batch_jobs.storage.schema import items, jobs

CALLS = -1
"""Stands in an item's `shard` where it is answered by single calls."""
CHUNK = 5_000


def held_by_others(connection: Connection, task_id: str, fingerprints: Sequence[bytes]) -> dict[bytes, str]:
    """Which of these calls other jobs have under way: fingerprint -> the other job's task_id.

    A claim by single calls counts only while somebody works on that job: when its process has ended, nothing of it is
    in flight any more.
    """
    if not _others_run(connection, task_id):
        return {}
    held: dict[bytes, str] = {}
    alive: dict[str, bool] = {}
    for start in range(0, len(fingerprints), CHUNK):
        query = select(items.c.fingerprint, items.c.task_id, items.c.shard).where(
            items.c.fingerprint.in_(fingerprints[start : start + CHUNK]),
            items.c.task_id != task_id,
            *_under_way(items),
        )
        for fingerprint, other, shard in connection.execute(query):
            if shard == CALLS and other not in alive:
                alive[other] = leases.holder_of(connection, lease_name(other), time.time()) is not None
            if shard != CALLS or alive[other]:
                held[fingerprint] = other
    return held


def waited_for(connection: Connection, task_id: str) -> dict[str, int]:
    """For which other jobs this one waits: task_id -> items that the other has under way and this one needs."""
    if not _others_run(connection, task_id):
        return {}
    mine, theirs = items.alias("mine"), items.alias("theirs")
    query = (
        select(theirs.c.task_id, func.count(mine.c.item.distinct()))
        .join(theirs, theirs.c.fingerprint == mine.c.fingerprint)
        .where(mine.c.task_id == task_id, mine.c.outcome.is_(None), not_(and_(*_under_way(mine))))
        .where(theirs.c.task_id != task_id, *_under_way(theirs))
        .group_by(theirs.c.task_id)
    )
    return {str(other): int(number) for other, number in connection.execute(query)}


def _under_way(table: FromClause) -> tuple[ColumnElement[bool], ...]:
    """An item is in a shard, or with the pool, and what became of it is not merged yet."""
    unmerged = or_(table.c.merged_round.is_(None), table.c.merged_round < table.c.round)
    return table.c.outcome.is_(None), table.c.round.is_not(None), unmerged


def _others_run(connection: Connection, task_id: str) -> bool:
    """Whether any other job of the store is open at all: mostly there is none, and nothing to look up."""
    query = select(exists().where(jobs.c.phase != Phase.DONE, jobs.c.task_id != task_id))
    return bool(connection.execute(query).scalar())


def claim_calls(connection: Connection, task_id: str, chosen: Sequence[int], round_no: int) -> None:
    """Claim items for single calls; each call counts its own attempt."""
    for start in range(0, len(chosen), CHUNK):
        part = chosen[start : start + CHUNK]
        query = update(items).where(items.c.task_id == task_id, items.c.item.in_(part))
        connection.execute(query.values(round=round_no, shard=CALLS, merged_round=None))
