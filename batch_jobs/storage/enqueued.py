"""The ledger of what is enqueued at the providers, per account and model over all jobs, and of the limits it met.

Both are read inside the transaction that writes a shard's intent: writers queue up, so two can't take the last room.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select

from batch_jobs.models import ShardState
from batch_jobs.storage.schema import jobs, learned_limits
from batch_jobs.storage.schema import provider_batches as batches

ENQUEUED = (ShardState.SUBMITTING, ShardState.UNKNOWN, ShardState.SUBMITTED)
"""States in which a shard's batch is, or may be, in the provider's queue."""


@dataclass(frozen=True, slots=True)
class Enqueued:
    """What one model of an account has enqueued, estimated."""

    batches: int
    tokens: int
    requests: int


@dataclass(frozen=True, slots=True)
class LearnedLimit:
    """What the refusals of a full queue have taught about one model of an account."""

    account: str
    dialect: str
    model: str
    tokens: int | None
    shard_tokens: int | None
    told: bool
    learned_at: float


def by_model(connection: Connection, dialect: str, account: str, *, but: str = "") -> dict[str, Enqueued]:
    """What an account has enqueued, by model.

    Args:
        connection: a transaction; one that writes, where the answer decides about a submission.
        dialect: rehearsals of all dialects share one account's name.
        account: as it is recorded with the shards.
        but: the key of a shard that does not count.
    """
    query = (
        select(batches.c.model, func.count(), func.sum(batches.c.tokens), func.sum(batches.c.requests))
        .join(jobs, jobs.c.task_id == batches.c.task_id)
        .where(jobs.c.dialect == dialect, batches.c.account == account, batches.c.state.in_(ENQUEUED))
        .where(batches.c.shard_key != but)
        .group_by(batches.c.model)
    )
    return {model: Enqueued(number, tokens, requests) for model, number, tokens, requests in connection.execute(query)}


def learned(connection: Connection, dialect: str, account: str, model: str) -> LearnedLimit | None:
    """The latest lesson about a model, however old."""
    row = connection.execute(select(learned_limits).where(*_about(dialect, account, model))).one_or_none()
    return None if row is None else LearnedLimit(**{**row._mapping, "told": bool(row.told)})


def keep(connection: Connection, limit: LearnedLimit) -> None:
    """Put a lesson in the place of the one before."""
    connection.execute(delete(learned_limits).where(*_about(limit.dialect, limit.account, limit.model)))
    values = {name: getattr(limit, name) for name in LearnedLimit.__slots__}
    connection.execute(insert(learned_limits).values(**{**values, "told": int(limit.told)}))


def _about(dialect: str, account: str, model: str) -> tuple[ColumnElement[bool], ...]:
    table = learned_limits.c
    return table.dialect == dialect, table.account == account, table.model == model
