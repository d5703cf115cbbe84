"""What a judge said of a job's answers, where tasks are judged: from the ledger's table `drafts`, if there is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Column, Connection, Float, Integer, MetaData, Table, Text, inspect, select

CHUNK = 10_000
_drafts = Table(
    "drafts",
    MetaData(),
    Column("task_id", Text),
    Column("item", Integer),
    Column("verdict", Text),
    Column("score", Float),
)


class Verdict(NamedTuple):
    """Of one item; None where it was not judged."""

    verdict: str | None = None
    score: float | None = None


def there(connection: Connection) -> bool:
    """Whether this ledger can hold any."""
    return inspect(connection).has_table(_drafts.name)


def verdicts(connection: Connection, task_id: str, chosen: Sequence[int]) -> dict[int, Verdict]:
    """The verdicts on some items, by item; those that were not judged are left out."""
    found: dict[int, Verdict] = {}
    query = select(_drafts.c.item, _drafts.c.verdict, _drafts.c.score).where(_drafts.c.task_id == task_id)
    for start in range(0, len(chosen), CHUNK):
        for item, verdict, score in connection.execute(query.where(_drafts.c.item.in_(chosen[start : start + CHUNK]))):
            found[item] = Verdict(verdict, score)
    return found
