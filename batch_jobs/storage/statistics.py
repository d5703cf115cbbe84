"""Sums over a job's items, calls and drafts, for its report: made by the database, or streamed in plain tuples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Select, case, cast, func, select
from sqlalchemy import Integer as SqlInteger

from batch_jobs.models import Outcome
from batch_jobs.storage.schema import calls, drafts, items

SCORE_BINS = 10


def _stream(connection: Connection, query: Select[Any]) -> Iterator[tuple[Any, ...]]:
    """The rows as the database gives them, never all of them at once."""
    compiled: Any = query.compile(dialect=connection.dialect)
    values = tuple(compiled.params[name] for name in compiled.positiontup)
    cursor: Any = connection.exec_driver_sql(str(compiled), values).cursor
    yield from cursor


def not_simply_answered(
    connection: Connection, task_id: str
) -> Iterator[tuple[int, str | None, int, str | None, str | None]]:
    """Stream the items that a call of this job did not answer: (item, outcome, known, code, detail), ascending."""
    query = select(items.c.item, items.c.outcome, items.c.known, items.c.code, items.c.detail).where(
        items.c.task_id == task_id,
        items.c.outcome.is_(None) | (items.c.outcome != Outcome.SUCCEEDED.value) | (items.c.known == 1),
    )
    yield from _stream(connection, query.order_by(items.c.item))


def answer_times(connection: Connection, task_id: str) -> Iterator[float]:
    """Stream when each good answer was recorded, in no order."""
    query = select(calls.c.at).where(calls.c.task_id == task_id, calls.c.outcome == Outcome.SUCCEEDED.value)
    return (at for (at,) in _stream(connection, query))


def spends(connection: Connection, task_id: str) -> list[tuple[str, str, str, int, int, int, int, float]]:
    """Calls by what they asked for: (model, kind, outcome, calls, input, cached, output tokens, USD)."""
    sums = (calls.c.input_tokens, calls.c.cached_tokens, calls.c.output_tokens, calls.c.cost_usd)
    asked = calls.c.model, calls.c.kind, calls.c.outcome
    query = select(*asked, func.count(), *map(func.sum, sums)).where(calls.c.task_id == task_id).group_by(*asked)
    order = calls.c.model, calls.c.kind, func.count().desc(), calls.c.outcome
    return list(_stream(connection, query.order_by(*order)))


def ended_in_rounds(connection: Connection, task_id: str) -> dict[int, tuple[int, int]]:
    """Items whose last result came in each round: round -> (answered, failed)."""
    good = func.sum(case((items.c.outcome == Outcome.SUCCEEDED.value, 1), else_=0))
    query = select(items.c.merged_round, good, func.count()).where(
        items.c.task_id == task_id, items.c.outcome.is_not(None), items.c.merged_round.is_not(None)
    )
    rows = _stream(connection, query.group_by(items.c.merged_round))
    return {number: (answered, ended - answered) for number, answered, ended in rows}


def attempts(connection: Connection, task_id: str) -> list[tuple[int, int]]:
    """How often items were sent: (times, items), of those that were sent at all."""
    query = select(items.c.attempts, func.count()).where(items.c.task_id == task_id, items.c.attempts > 0)
    return list(_stream(connection, query.group_by(items.c.attempts).order_by(items.c.attempts)))


def has_drafts(connection: Connection, task_id: str) -> bool:
    """Whether a judge said anything about the job's answers."""
    query = select(func.count()).where(drafts.c.task_id == task_id, drafts.c.verdict.is_not(None))
    return bool(connection.execute(query).scalar())


def verdicts(connection: Connection, task_id: str) -> list[tuple[str, int]]:
    """Items by verdict."""
    query = select(drafts.c.verdict, func.count()).where(drafts.c.task_id == task_id, drafts.c.verdict.is_not(None))
    return list(_stream(connection, query.group_by(drafts.c.verdict).order_by(drafts.c.verdict)))


def scores(connection: Connection, task_id: str) -> tuple[list[int], float | None]:
    """Items by tenths of the judge's score, and its mean."""
    found = [0] * SCORE_BINS
    score = drafts.c.score
    tenth = case((score >= 1, SCORE_BINS - 1), (score <= 0, 0), else_=cast(score * SCORE_BINS, SqlInteger))
    scored = drafts.c.task_id == task_id, drafts.c.score.is_not(None)
    for number, amount in connection.execute(select(tenth, func.count()).where(*scored).group_by(tenth)):
        found[int(number)] = int(amount)
    mean = connection.execute(select(func.avg(drafts.c.score)).where(*scored)).scalar()
    return found, None if mean is None else float(mean)


def repairs(connection: Connection, task_id: str) -> list[tuple[int, int]]:
    """How often answers were written anew: (times, items)."""
    query = select(drafts.c.repairs, func.count()).where(drafts.c.task_id == task_id)
    return list(_stream(connection, query.group_by(drafts.c.repairs).order_by(drafts.c.repairs)))


def said_by_judge(
    connection: Connection, task_id: str, chosen: Sequence[int]
) -> dict[int, tuple[str, float | None, str]]:
    """What the judge said of some items: item -> (verdict, score, feedback)."""
    query = select(drafts.c.item, drafts.c.verdict, drafts.c.score, drafts.c.feedback)
    query = query.where(drafts.c.task_id == task_id, drafts.c.item.in_(chosen), drafts.c.verdict.is_not(None))
    return {item: (verdict, score, feedback or "") for item, verdict, score, feedback in connection.execute(query)}
