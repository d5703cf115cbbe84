"""Claims: a call that is under way for one job is not made for another job of the same store.

An item claims its call from when it is put into a shard (or handed to the pool of single calls) until the answer, or
what became of it, is merged. Read inside the transaction that claims, so that of two jobs only one gets an item.

No index finds a claim: it would cost every item of every job two changes in no order, which is more than all else that
the ledger does for it. Where other jobs are open, their items are read through once for many questions instead.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    FromClause,
    LargeBinary,
    MetaData,
    Table,
    and_,
    func,
    insert,
    not_,
    or_,
    select,
    update,
)

from batch_jobs.models import Phase
from batch_jobs.storage import leases
from batch_jobs.storage.database import execute_many
from batch_jobs.storage.jobs import lease_name
from batch_jobs.storage.schema import items, jobs

CALLS = -1
"""Stands in an item's `shard` where it is answered by single calls."""
CHUNK = 5_000
_asked = Table("asked", MetaData(), Column("fingerprint", LargeBinary, primary_key=True), prefixes=["TEMPORARY"])


def held_by_others(connection: Connection, task_id: str, fingerprints: Sequence[bytes]) -> dict[bytes, str]:
    """Which of these calls other jobs have under way: fingerprint -> the other job's task_id.

    A claim by single calls counts only while somebody works on that job: when its process has ended, nothing of it is
    in flight any more.
    """
    others = _open_jobs(connection, task_id)
    if not (others and fingerprints):
        return {}
    held: dict[bytes, str] = {}
    alive: dict[str, bool] = {}
    with _questions(connection, fingerprints):
        query = select(items.c.fingerprint, items.c.task_id, items.c.shard).join(
            _asked, _asked.c.fingerprint == items.c.fingerprint
        )
        for fingerprint, other, shard in connection.execute(
            query.where(items.c.task_id.in_(others), *_under_way(items))
        ):
            if shard == CALLS and other not in alive:
                alive[other] = leases.holder_of(connection, lease_name(other), time.time()) is not None
            if shard != CALLS or alive[other]:
                held[fingerprint] = other
    return held


def waited_for(connection: Connection, task_id: str) -> dict[str, int]:
    """For which other jobs this one waits: task_id -> items that the other has under way and this one needs."""
    others = _open_jobs(connection, task_id)
    waiting = select(items.c.fingerprint).where(
        items.c.task_id == task_id, items.c.outcome.is_(None), not_(and_(*_under_way(items)))
    )
    needed = connection.execute(waiting).scalars().all() if others else ()
    if not needed:
        return {}
    with _questions(connection, needed):
        query = (
            select(items.c.task_id, func.count())
            .join(_asked, _asked.c.fingerprint == items.c.fingerprint)
            .where(items.c.task_id.in_(others), *_under_way(items))
            .group_by(items.c.task_id)
        )
        return {str(other): int(number) for other, number in connection.execute(query)}


@contextlib.contextmanager
def _questions(connection: Connection, fingerprints: Iterable[bytes]) -> Iterator[None]:
    """Have the fingerprints in a table of this connection's own, for the block."""
    _asked.create(connection)
    try:
        rows = ((fingerprint,) for fingerprint in dict.fromkeys(fingerprints))
        execute_many(connection, insert(_asked), ("fingerprint",), rows)
        yield
    finally:
        _asked.drop(connection)


def _under_way(table: FromClause) -> tuple[ColumnElement[bool], ...]:
    """An item is in a shard, or with the pool, and what became of it is not merged yet."""
    unmerged = or_(table.c.merged_round.is_(None), table.c.merged_round < table.c.round)
    return table.c.outcome.is_(None), table.c.round.is_not(None), unmerged


def _open_jobs(connection: Connection, task_id: str) -> list[str]:
    """The other open jobs of the store: mostly there are none, and nothing to look up."""
    query = select(jobs.c.task_id).where(jobs.c.phase != Phase.DONE, jobs.c.task_id != task_id)
    return list(connection.execute(query).scalars())


def claim_calls(connection: Connection, task_id: str, chosen: Sequence[int], round_no: int) -> None:
    """Claim items for single calls; each call counts its own attempt."""
    for start in range(0, len(chosen), CHUNK):
        part = chosen[start : start + CHUNK]
        query = update(items).where(items.c.task_id == task_id, items.c.item.in_(part))
        connection.execute(query.values(round=round_no, shard=CALLS, merged_round=None))
