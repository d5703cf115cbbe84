"""One usage-and-cost record per executed call, idempotent by call_id: a job's cost is the sum over them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.sqlite import insert

from batch_jobs.models import AskKind, Price, Usage
from batch_jobs.storage.database import execute_many
from batch_jobs.storage.schema import calls, jobs

PER_MILLION = 1_000_000
ENOUGH_CALLS = 20
LATEST_JOBS = 20


class CallRecord(NamedTuple):
    """One call that a provider executed and bills: plain values, in the order of the table's columns."""

    task_id: str
    call_id: str
    item: int
    mode: str
    model: str
    outcome: str
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_usd: float
    at: float
    kind: str = AskKind.ANSWER.value


@dataclass(frozen=True, slots=True)
class Spent:
    """Sum over a job's calls."""

    calls: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_usd: float


def cost_of(usage: Usage, price: Price | None) -> float:
    """USD for one call; 0 where the model has no price in config.json."""
    if price is None:
        return 0.0
    fresh = max(usage.input_tokens - usage.cached_tokens, 0)
    return (fresh * price.input + usage.cached_tokens * price.cached + usage.output_tokens * price.output) / PER_MILLION


def add_all(connection: Connection, records: Iterable[CallRecord | tuple[Any, ...]]) -> None:
    """Record calls (plain tuples of the same fields will do); one that is recorded already stays as it is."""
    execute_many(connection, insert(calls).on_conflict_do_nothing(), CallRecord._fields, records)


def spent(connection: Connection, task_id: str) -> Spent:
    """What a job has cost so far."""
    columns = calls.c.input_tokens, calls.c.cached_tokens, calls.c.output_tokens, calls.c.cost_usd
    query = select(func.count(), *(func.coalesce(func.sum(column), 0) for column in columns))
    row = connection.execute(query.where(calls.c.task_id == task_id)).one()
    return Spent(int(row[0]), int(row[1]), int(row[2]), int(row[3]), float(row[4]))


def typical_output_tokens(
    connection: Connection, model: str, *, simulated: bool, last: int = 200, enough: int = ENOUGH_CALLS
) -> float | None:
    """Mean output tokens of an answer in the model's latest jobs, for estimates; None when there were too few to say.

    Verdicts, and answers to several rows, are of other lengths; a rehearsal's calls say nothing about real ones. Job by
    job, by the table's key: a job may have a million calls.
    """
    latest = select(jobs.c.task_id).where(jobs.c.model == model, jobs.c.simulated == int(simulated))
    found: list[int] = []
    for task_id in connection.execute(latest.order_by(jobs.c.created_at.desc()).limit(LATEST_JOBS)).scalars().all():
        answers = calls.c.task_id == task_id, calls.c.kind == AskKind.ANSWER.value
        query = select(calls.c.output_tokens).where(*answers).limit(last - len(found))
        found += connection.execute(query).scalars()
        if len(found) >= last:
            break
    return sum(found) / len(found) if len(found) >= enough else None
