"""Drafts in the ledger: answers that are not final yet, what is asked next, and what was said of them.

An item has one as soon as an answer of it was invalid, or where a judge has the last word. The text of a valid draft
lies in the call cache, under the call that gave it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, case, func, or_, select
from sqlalchemy.dialects.sqlite import insert

from batch_jobs.models import AskKind, Verdict
from batch_jobs.storage.database import execute_many
from batch_jobs.storage.schema import drafts

CHUNK = 10_000
KEPT_CHARS = 20_000
"""Of an invalid answer: enough to show the model what it wrote."""


class Draft(NamedTuple):
    """How far an item is on its way to an answer that is final.

    Attributes:
        step: what is asked next.
        call: fingerprint of the request that is under way, or was last.
        draft: the call whose answer in the cache is the draft; None where there is no valid one.
        text: of an invalid draft, as the model wrote it.
        feedback: why the last draft was not taken: the fault in it, or the judge's words; or why it was accepted.
        repairs: how often it was asked for again with that.
        score: the judge's, 0 to 1.
    """

    item: int
    step: AskKind = AskKind.ANSWER
    call: bytes | None = None
    draft: bytes | None = None
    text: str | None = None
    feedback: str | None = None
    repairs: int = 0
    verdict: Verdict | None = None
    score: float | None = None


def any_of(connection: Connection, task_id: str) -> bool:
    """Whether any item of a job has one."""
    return connection.execute(select(drafts.c.item).where(drafts.c.task_id == task_id).limit(1)).first() is not None


def some(connection: Connection, task_id: str, chosen: Sequence[int]) -> dict[int, Draft]:
    """The drafts of chosen items, by item, as far as they have one."""
    found: dict[int, Draft] = {}
    columns = [drafts.c[name] for name in Draft._fields]
    for start in range(0, len(chosen), CHUNK):
        part = drafts.c.item.in_(chosen[start : start + CHUNK])
        for row in connection.execute(select(*columns).where(drafts.c.task_id == task_id, part)):
            draft = Draft._make(row)
            verdict = Verdict(draft.verdict) if draft.verdict else None
            found[draft.item] = draft._replace(step=AskKind(draft.step), verdict=verdict)
    return found


def steps(connection: Connection, task_id: str, chosen: Sequence[int]) -> dict[int, AskKind]:
    """What is asked next of chosen items, as far as their drafts say so: the judge, or again with what was wrong."""
    found: dict[int, AskKind] = {}
    says = or_(drafts.c.step == AskKind.JUDGE.value, drafts.c.feedback.is_not(None))
    for start in range(0, len(chosen), CHUNK):
        part = drafts.c.item.in_(chosen[start : start + CHUNK])
        query = select(drafts.c.item, drafts.c.step).where(drafts.c.task_id == task_id, part, says)
        found.update((item, AskKind(step)) for item, step in connection.execute(query))
    return found


def put(connection: Connection, task_id: str, changed: Iterable[Draft]) -> None:
    """Record drafts as they are now."""
    query = insert(drafts)
    kept = {name: query.excluded[name] for name in Draft._fields if name != "item"}
    rows = ((task_id, *draft._replace(text=draft.text and draft.text[:KEPT_CHARS])) for draft in changed)
    query = query.on_conflict_do_update(index_elements=["task_id", "item"], set_=kept)
    execute_many(connection, query, ("task_id", *Draft._fields), rows)


def verdicts(connection: Connection, task_id: str) -> dict[str, int]:
    """Items by the judge's last word on them, and under `accepted_again` those that he accepted after a repair."""
    again = func.sum(case((drafts.c.repairs > 0, 1), else_=0))
    query = select(drafts.c.verdict, func.count(), again).where(drafts.c.task_id == task_id)
    rows = connection.execute(query.where(drafts.c.verdict.is_not(None)).group_by(drafts.c.verdict)).fetchall()
    found = {verdict: int(number) for verdict, number, _ in rows}
    repaired = {verdict: int(number or 0) for verdict, _, number in rows}
    return {**found, **({"accepted_again": repaired[Verdict.ACCEPT]} if repaired.get(Verdict.ACCEPT) else {})}
