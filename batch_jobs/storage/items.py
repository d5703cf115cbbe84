"""BatchItems in the ledger: what is still open, what was sent in which round and shard, how each ended.

An item is open until its `outcome` is set; `last_outcome` remembers how its latest attempt went meanwhile.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, bindparam, case, exists, func, insert, select, update

from batch_jobs.models import Outcome
from batch_jobs.storage.database import execute_many, fetch_plain
from batch_jobs.storage.schema import items
from batch_jobs.storage.shards import Shard

CHUNK = 10_000
SUCCEEDED = Outcome.SUCCEEDED.value


class ItemRecord(NamedTuple):
    """One item as the ledger knows it."""

    item: int
    fingerprint: bytes
    attempts: int
    known: bool
    merged_round: int | None
    last_outcome: Outcome | None
    outcome: Outcome | None
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Ending:
    """What one attempt did to an item.

    Attributes:
        last_outcome: how the attempt went; None where it gave a draft, and the item begins anew with the judge.
        outcome: set when the item is not sent again.
    """

    item: int
    last_outcome: Outcome | None
    outcome: Outcome | None
    code: str = ""
    detail: str = ""


def add_all(connection: Connection, task_id: str, fingerprints: Iterable[tuple[int, bytes, int | bool]]) -> int:
    """Record the items of a plan: (item, fingerprint, known); known ones are succeeded already."""
    added = 0

    def rows() -> Iterator[tuple[Any, ...]]:
        nonlocal added
        for added, (item, fingerprint, known) in enumerate(fingerprints, 1):  # noqa: B007
            yield task_id, item, fingerprint, 0, int(known), SUCCEEDED if known else None

    names = ("task_id", "item", "fingerprint", "attempts", "known", "outcome")
    execute_many(connection, insert(items), names, rows())
    return added


def unassigned(connection: Connection, task_id: str, round_no: int) -> Iterator[tuple[int, bytes]]:
    """Open items that are in no shard of this round yet, ascending, each with its fingerprint; streamed."""
    return _pairs(connection, task_id, (items.c.round.is_(None)) | (items.c.round < round_no))


def unanswered(connection: Connection, task_id: str) -> Iterator[tuple[int, bytes]]:
    """Every open item, ascending, with its fingerprint; streamed."""
    return _pairs(connection, task_id)


def _pairs(connection: Connection, task_id: str, *conditions: ColumnElement[bool]) -> Iterator[tuple[int, bytes]]:
    query = select(items.c.item, items.c.fingerprint)
    query = query.where(items.c.task_id == task_id, items.c.outcome.is_(None), *conditions)
    for row in connection.execute(query.order_by(items.c.item)):
        yield row.item, row.fingerprint


def adopt(connection: Connection, task_id: str, chosen: Sequence[int]) -> None:
    """End open items whose answer another job has got; one that was never sent counts as known."""
    query = update(items).where(
        items.c.task_id == task_id, items.c.item == bindparam("which"), items.c.outcome.is_(None)
    )
    never_sent = case((items.c.attempts == 0, 1), else_=items.c.known)
    values = query.values(outcome=Outcome.SUCCEEDED, last_outcome=Outcome.SUCCEEDED, known=never_sent)
    connection.execute(values, [{"which": item} for item in chosen])


def assign(connection: Connection, task_id: str, chosen: Sequence[int], round_no: int, shard_no: int) -> None:
    """Put items into a shard of a round; each such sending is one attempt."""
    query = (
        update(items)
        .where(items.c.task_id == bindparam("job"), items.c.item == bindparam("which"))
        .values(round=bindparam("to_round"), shard=bindparam("to_shard"), attempts=items.c.attempts + bindparam("more"))
    )
    rows = zip(*map(repeat, (round_no, shard_no, 1, task_id)), chosen, strict=False)
    execute_many(connection, query, ("to_round", "to_shard", "more", "job", "which"), rows)


def unassign(connection: Connection, shard: Shard) -> None:
    """Take items out of a shard that was never accepted; they are in no shard of the round, and had no attempt."""
    query = update(items).where(*_inside(shard))
    connection.execute(query.values(round=None, shard=None, attempts=items.c.attempts - 1))


def of_shard(connection: Connection, shard: Shard) -> dict[int, ItemRecord]:
    """The items sent in one shard."""
    return _records(connection, *_inside(shard))


def waiting_in_shard(connection: Connection, shard: Shard) -> tuple[dict[int, bytes], set[int]]:
    """The items sent in one shard: those that still wait for what becomes of them, with their calls; and the others."""
    merged = items.c.merged_round.is_not(None) & (items.c.merged_round >= shard.round)
    over = case((items.c.outcome.is_not(None) | merged, 1), else_=0)
    rows = fetch_plain(connection, select(items.c.item, items.c.fingerprint, over).where(*_inside(shard)))
    return {item: call for item, call, over in rows if not over}, {item for item, _, over in rows if over}


def _inside(shard: Shard) -> tuple[ColumnElement[bool], ...]:
    """What is true of a shard's items; by their range, as an index over a million rows in no order costs too much."""
    mine = items.c.task_id == shard.task_id, items.c.round == shard.round, items.c.shard == shard.shard
    if shard.first_item is None or shard.last_item is None:  # made by an older version
        return mine
    return *mine, items.c.item.between(shard.first_item, shard.last_item)


def some(connection: Connection, task_id: str, chosen: Sequence[int]) -> dict[int, ItemRecord]:
    """Chosen items, by number."""
    found: dict[int, ItemRecord] = {}
    for start in range(0, len(chosen), CHUNK):
        part = items.c.item.in_(chosen[start : start + CHUNK])
        found.update(_records(connection, items.c.task_id == task_id, part))
    return found


def open_items(connection: Connection, task_id: str) -> list[int]:
    """Every item without an outcome, ascending."""
    query = select(items.c.item).where(items.c.task_id == task_id, items.c.outcome.is_(None))
    return list(connection.execute(query.order_by(items.c.item)).scalars())


def never_sent(connection: Connection, task_id: str) -> frozenset[int]:
    """The open items that had no attempt yet."""
    query = select(items.c.item).where(items.c.task_id == task_id, items.c.outcome.is_(None), items.c.attempts == 0)
    return frozenset(connection.execute(query).scalars())


def truncated(connection: Connection, task_id: str) -> frozenset[int]:
    """The open items whose last answer hit the output limit."""
    query = select(items.c.item).where(
        items.c.task_id == task_id, items.c.outcome.is_(None), items.c.last_outcome == Outcome.TRUNCATED
    )
    return frozenset(connection.execute(query).scalars())


def blocked(connection: Connection, task_id: str, codes: Collection[str], since_round: int) -> str | None:
    """What a provider said to the first open item that ended, in or after a round, with one of these codes."""
    query = select(items.c.detail, items.c.code).where(
        items.c.task_id == task_id,
        items.c.outcome.is_(None),
        items.c.code.in_(codes),
        items.c.merged_round >= since_round,
    )
    row = connection.execute(query.order_by(items.c.item).limit(1)).first()
    return None if row is None else str(row.detail or row.code)


def end(
    connection: Connection,
    task_id: str,
    endings: Sequence[Ending],
    *,
    round_no: int,
    attempts: int = 0,
    goes_on: bool = False,
) -> None:
    """Record how attempts of a round went.

    `attempts` is added where the sending itself did not count one (concurrent mode). Where an item that is still open
    `goes_on`, it stays claimed: its next call is made at once.
    """
    rows = (
        (
            attempts,
            None if goes_on and ending.outcome is None else round_no,
            ending.last_outcome and ending.last_outcome.value,
            ending.outcome and ending.outcome.value,
            ending.code[:100],
            ending.detail[:1000],
            task_id,
            ending.item,
        )
        for ending in endings
    )
    _end(connection, rows)


def end_succeeded(connection: Connection, task_id: str, chosen: Iterable[int], *, round_no: int) -> None:
    """Record that the attempts of a batch round at these items succeeded."""
    them = func.json_each(json.dumps(list(chosen))).table_valued("value")  # a third less work than one by one
    query = update(items).where(
        items.c.task_id == task_id, items.c.item.in_(select(them.c.value)), items.c.outcome.is_(None)
    )
    values = {"merged_round": round_no, "last_outcome": SUCCEEDED, "outcome": SUCCEEDED, "code": "", "detail": ""}
    connection.execute(query.values(**values))


_ENDED = "more", "new_round", "new_last", "new_outcome", "new_code", "new_detail", "job", "which"


def _end(connection: Connection, rows: Iterable[tuple[Any, ...]]) -> None:
    """End open items, with the values of `_ENDED` for each."""
    query = (
        update(items)
        .where(items.c.task_id == bindparam("job"), items.c.item == bindparam("which"), items.c.outcome.is_(None))
        .values(
            merged_round=bindparam("new_round"),
            last_outcome=bindparam("new_last"),
            outcome=bindparam("new_outcome"),
            code=bindparam("new_code"),
            detail=bindparam("new_detail"),
            attempts=items.c.attempts + bindparam("more"),
        )
    )
    execute_many(connection, query, _ENDED, rows)


def close_open(connection: Connection, task_id: str, otherwise: Outcome) -> int:
    """End every open item with its last outcome, or `otherwise` where it was never attempted."""
    query = update(items).where(items.c.task_id == task_id, items.c.outcome.is_(None))
    return connection.execute(query.values(outcome=func.coalesce(items.c.last_outcome, otherwise))).rowcount


def errors(connection: Connection, task_id: str, since_round: int) -> tuple[int, Counter[tuple[str, str]]]:
    """How the attempts of a job went since a round: items that had one, and how many ended in which error.

    Returns:
        Items with a result of those rounds; items whose error is final, by (code, detail).
    """
    tried = (items.c.task_id == task_id) & (items.c.merged_round >= since_round)
    total = connection.execute(select(func.count()).where(tried)).scalar() or 0
    query = select(items.c.code, items.c.detail, func.count()).where(tried, items.c.outcome == Outcome.ERRORED)
    rows = connection.execute(query.group_by(items.c.code, items.c.detail))
    return total, Counter({(code or "", detail or ""): number for code, detail, number in rows})


def reopen(connection: Connection, task_id: str, since_round: int, code: str) -> int:
    """Open the items again that ended in an error of this code since a round: not they were at fault."""
    query = update(items).where(
        items.c.task_id == task_id,
        items.c.merged_round >= since_round,
        items.c.outcome == Outcome.ERRORED,
        items.c.code == code,
    )
    return connection.execute(query.values(outcome=None)).rowcount


def counts(connection: Connection, task_id: str) -> Counter[str]:
    """Items by outcome; open ones under `open`, answered-before ones also under `known`."""
    query = (
        select(items.c.outcome, items.c.known, func.count())
        .where(items.c.task_id == task_id)
        .group_by(items.c.outcome, items.c.known)
    )
    found: Counter[str] = Counter()
    for outcome, known, number in connection.execute(query):
        found[outcome or "open"] += number
        found["known"] += number if known else 0
    return found


def any_failed(connection: Connection, task_id: str) -> bool:
    """Whether an item ended in anything but success."""
    failed = items.c.task_id == task_id, items.c.outcome != Outcome.SUCCEEDED
    return bool(connection.execute(select(exists().where(*failed))).scalar())


def failures(
    connection: Connection, task_id: str, chosen: Sequence[int] | None = None
) -> dict[int, tuple[Outcome, str, str]]:
    """Items, of all or of the chosen, that ended in anything but success: item -> (outcome, code, detail)."""
    query = select(items.c.item, items.c.outcome, items.c.code, items.c.detail).where(
        items.c.task_id == task_id, items.c.outcome != Outcome.SUCCEEDED
    )
    starts = range(0, len(chosen), CHUNK) if chosen is not None else [0]
    found: dict[int, tuple[Outcome, str, str]] = {}
    for start in starts:
        part = query.where(items.c.item.in_(chosen[start : start + CHUNK])) if chosen is not None else query
        for row in connection.execute(part.order_by(items.c.item)):
            found[row.item] = Outcome(row.outcome), row.code or "", row.detail or ""
    return found


def fingerprints(connection: Connection, task_id: str) -> Iterator[tuple[int, bytes]]:
    """Every succeeded item with its fingerprint, ascending."""
    query = select(items.c.item, items.c.fingerprint).where(
        items.c.task_id == task_id, items.c.outcome == Outcome.SUCCEEDED
    )
    for row in connection.execute(query.order_by(items.c.item)):
        yield row.item, row.fingerprint


def _records(connection: Connection, *conditions: ColumnElement[bool]) -> dict[int, ItemRecord]:
    rows = connection.execute(select(*(items.c[name] for name in ItemRecord._fields)).where(*conditions)).fetchall()
    return {
        item: ItemRecord(
            item,
            fingerprint,
            attempts,
            bool(known),
            merged_round,
            last_outcome and Outcome(last_outcome),
            outcome and Outcome(outcome),
            code or "",
            detail or "",
        )
        for item, fingerprint, attempts, known, merged_round, last_outcome, outcome, code, detail in rows
    }
