"""Shards in the ledger: one row a shard and its ProviderBatch, moved only as `SHARD_MOVES` allows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update

from batch_jobs.errors import StoreError
from batch_jobs.models import SHARD_MOVES, AskKind, BatchState, ShardState
from batch_jobs.storage.schema import jobs
from batch_jobs.storage.schema import provider_batches as table

ITEM_PATTERN = re.compile(r"0|[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True)
class Shard:
    """One provider batch's worth of items of one round. Times are unix seconds.

    Attributes:
        first_item, last_item: between these its items are, with others of the job among them.
        shard_key: travels with the create, so that a lost one can be found again.
        creates: how many create POSTs were begun for it.
        sent_after: a time before its create, by the provider's own clock, where it was asked for.
        discarded_at: when the provider was told to delete its files of this batch.
        was_unknown: a create once ended without a clear answer, so a late double may still appear.
        tokens: what it weighs in the provider's queue, estimated; `refusals` of its creates met a full queue.
        refused_ids: provider batches that were made of it and failed because the queue was full; nothing was executed.
        split: the provider's queue can never hold it, so its items went into smaller shards of the same round.
        kind: what its requests ask for.
        results: bytes of each raw result file by its name, as fetched; None before, and in ledgers of older versions.
    """

    task_id: str
    round: int
    shard: int
    shard_key: str
    state: ShardState
    requests: int
    bytes: int
    sha256: str
    account: str
    model: str
    rendered_at: float
    prompt_sha256: str | None = None
    schema_sha256: str | None = None
    file_id: str | None = None
    batch_id: str | None = None
    batch_state: BatchState | None = None
    provider_state: str | None = None
    finished: int = 0
    problems: list[dict[str, Any]] | None = None
    was_unknown: bool = False
    creates: int = 0
    submitting_at: float | None = None
    unknown_at: float | None = None
    submitted_at: float | None = None
    ended_at: float | None = None
    merged_at: float | None = None
    discarded_at: float | None = None
    sent_after: float | None = None
    first_item: int | None = None
    last_item: int | None = None
    tokens: int = 0
    uploaded_at: float | None = None
    refusals: int = 0
    refused_at: float | None = None
    refused_ids: list[str] | None = None
    split: bool = False
    kind: AskKind = AskKind.ANSWER
    results: dict[str, int] | None = None


def key_of(task_id: str, round_no: int, shard_no: int) -> str:
    """The shard key."""
    return f"{task_id}-r{round_no}-s{shard_no}"


def custom_id(shard_key: str, item: int) -> str:
    """The id an item is sent under; unique over all rounds, at most 64 characters."""
    return f"{shard_key}-i{item}"


def item_of(custom_id: str, shard_key: str) -> int | None:
    """The item a custom_id of this shard names, or None when it is not one of this shard's ids."""
    prefix = f"{shard_key}-i"
    digits = custom_id[len(prefix) :]
    if not custom_id.startswith(prefix) or not ITEM_PATTERN.fullmatch(digits):
        return None
    return int(digits)


def add(connection: Connection, shard: Shard) -> None:
    """Record a rendered shard."""
    values = {name: getattr(shard, name) for name in Shard.__slots__}
    connection.execute(insert(table).values(**values))


def of_job(connection: Connection, task_id: str, round_no: int | None = None) -> list[Shard]:
    """A job's shards in order, of one round or of all."""
    query = select(table).where(table.c.task_id == task_id)
    if round_no is not None:
        query = query.where(table.c.round == round_no)
    return [_from_row(row) for row in connection.execute(query.order_by(table.c.round, table.c.shard))]


def get(connection: Connection, shard: Shard) -> Shard:
    """The shard as it is now."""
    return _from_row(connection.execute(select(table).where(*_same(shard))).one())


def move(connection: Connection, shard: Shard, state: ShardState, **values: Any) -> Shard:
    """Move a shard on, by compare-and-set on the state it was seen in; returns it as it is now.

    Raises:
        StoreError: the move is not legal, or the shard has moved meanwhile.
    """
    if state not in SHARD_MOVES[shard.state]:
        raise StoreError(f"shard {shard.shard_key}: {shard.state} can't become {state}")
    query = update(table).where(*_same(shard), table.c.state == shard.state).values(state=state, **values)
    if connection.execute(query).rowcount != 1:
        raise StoreError(f"shard {shard.shard_key} is not {shard.state} any more")
    return get(connection, shard)


def change(connection: Connection, shard: Shard, **values: Any) -> Shard:
    """Set columns of a shard, except its state; returns it as it is now."""
    assert "state" not in values
    connection.execute(update(table).where(*_same(shard)).values(**values))
    return get(connection, shard)


def typical_seconds(
    connection: Connection, provider: str, model: str, *, simulated: bool, last: int = 20
) -> float | None:
    """How long earlier batches of this provider and model took from submission to their end: the median.

    None when there were none; a rehearsal's batches say nothing about real ones.
    """
    query = (
        select(table.c.ended_at - table.c.submitted_at)
        .join(jobs, jobs.c.task_id == table.c.task_id)
        .where(
            jobs.c.provider == provider,
            jobs.c.simulated == int(simulated),
            table.c.model == model,
            table.c.ended_at.is_not(None),
        )
        .where(table.c.submitted_at.is_not(None))
        .order_by(table.c.ended_at.desc())
        .limit(last)
    )
    durations = sorted(connection.execute(query).scalars())
    return durations[len(durations) // 2] if durations else None


def taken_batch_ids(connection: Connection, shard: Shard) -> set[str]:
    """Provider batch ids that are not this shard's: recorded for others, of any job, or refused and done with."""
    query = select(table.c.batch_id).where(table.c.batch_id.is_not(None), table.c.shard_key != shard.shard_key)
    refused = select(table.c.refused_ids).where(table.c.refused_ids.is_not(None))
    others = (batch_id for ids in connection.execute(refused).scalars() for batch_id in ids or ())
    return set(connection.execute(query).scalars()).union(others)


def _same(shard: Shard) -> tuple[Any, ...]:
    return table.c.task_id == shard.task_id, table.c.round == shard.round, table.c.shard == shard.shard


def _from_row(row: Any) -> Shard:
    values = dict(row._mapping)
    values["state"], values["kind"] = ShardState(values["state"]), AskKind(values["kind"])
    values["batch_state"] = BatchState(values["batch_state"]) if values["batch_state"] else None
    values["was_unknown"], values["split"] = bool(values["was_unknown"]), bool(values["split"])
    return Shard(**values)
