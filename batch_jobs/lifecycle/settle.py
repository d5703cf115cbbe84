"""What an attempt makes of its item: an end, a draft that is to be looked at, or another attempt. Pure decisions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from batch_jobs.lifecycle.policy import Next, after_attempt, after_bundle
from batch_jobs.models import AnswerRules, AskKind, ItemResult, Outcome, Verdict
from batch_jobs.render.judge_prompt import Judgement
from batch_jobs.storage.drafts import Draft
from batch_jobs.storage.items import Ending, ItemRecord

ONCE_MORE = frozenset({Outcome.INVALID, Outcome.TRUNCATED})
NOT_JUDGED = "not_judged"


class Step(NamedTuple):
    """One item's step.

    Attributes:
        draft: as it is from now on; None where that does not change.
        paused_by: the account's problem, for which the job has to wait.
    """

    ending: Ending
    draft: Draft | None = None
    paused_by: str | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the moment allows.

    Attributes:
        last_try: a failed attempt is not made again.
        last_ask: nothing more is asked of an item, whatever came of it.
        cancelling: the user cancelled the job.
    """

    last_try: bool
    last_ask: bool
    cancelling: bool = False


def failed(
    kind: AskKind, result: ItemResult, record: ItemRecord, draft: Draft, rules: AnswerRules, bounds: Bounds
) -> Step:
    """Settle an attempt that gave no answer.

    Args:
        kind: what was asked for.
        result: how it went.
        record: the item.
        draft: how far it was.
        rules: of its job.
        bounds: of the moment.
    """
    if kind is AskKind.ANSWER and result.outcome is Outcome.INVALID:
        return _invalid(result, record, draft, rules, bounds)
    if kind is AskKind.JUDGE:
        result = replace(result, detail=f"the judge: {result.detail}")
    decision = _next(kind, result, record.last_outcome, bounds)
    final = result.outcome if decision is Next.FINAL else None
    last = final or _remembered(kind, result.outcome, record.last_outcome)
    return Step(
        Ending(record.item, last, final, result.code, result.detail),
        draft=draft if kind is AskKind.JUDGE else None,
        paused_by=(result.detail or result.code) if decision is Next.PAUSE else None,
    )


def _next(kind: AskKind, result: ItemResult, before: Outcome | None, bounds: Bounds) -> Next:
    """What becomes of the item; a judge's answer that is no verdict counts as asked, not as failed."""
    if kind is AskKind.BUNDLE:
        return after_bundle(result, last_round=bounds.last_ask, cancelling=bounds.cancelling)
    unclear = kind is AskKind.JUDGE and result.outcome is Outcome.INVALID
    last_round = bounds.last_ask if unclear else bounds.last_try
    return after_attempt(result, before, last_round=last_round, cancelling=bounds.cancelling)


def _remembered(kind: AskKind, now: Outcome, before: Outcome | None) -> Outcome:
    """What is kept of an attempt: one that gave no answer does not undo what the one before it taught."""
    if kind is AskKind.BUNDLE and now in ONCE_MORE:
        return Outcome.MISSING  # it says nothing of the row alone
    return before if now not in ONCE_MORE and before in ONCE_MORE else now


def _invalid(result: ItemResult, record: ItemRecord, draft: Draft, rules: AnswerRules, bounds: Bounds) -> Step:
    """An answer that does not fit the schema goes again with the fault, while it may; one cut off keeps its room."""
    if bounds.cancelling or bounds.last_ask or draft.repairs >= rules.repairs:
        return Step(Ending(draft.item, Outcome.INVALID, Outcome.INVALID, result.code, result.detail))
    repaired = draft._replace(
        step=AskKind.ANSWER,
        draft=None,
        text=result.text,
        feedback=result.detail or result.code,
        repairs=draft.repairs + 1,
    )
    last = Outcome.TRUNCATED if record.last_outcome is Outcome.TRUNCATED else Outcome.INVALID
    return Step(Ending(draft.item, last, None, result.code, result.detail), repaired)


def drafted(draft: Draft, call: bytes, bounds: Bounds) -> Step:
    """Settle a valid answer that a judge has to accept; it is in the cache, under the call that gave it."""
    now = draft._replace(step=AskKind.JUDGE, draft=call, text=None)
    if bounds.cancelling or bounds.last_ask:
        ended = Outcome.CANCELLED if bounds.cancelling else Outcome.MISSING
        return Step(Ending(draft.item, ended, ended, NOT_JUDGED, "answered, but not judged any more"), now)
    return Step(Ending(draft.item, None, None), now)


def judged(draft: Draft, judgement: Judgement, rules: AnswerRules, bounds: Bounds) -> Step:
    """Settle what the judge said of a draft; an accepted one has to be in the cache as the item's answer by now."""
    verdict, score, feedback = judgement
    now = draft._replace(verdict=verdict, score=score, feedback=feedback or None)
    if verdict is Verdict.ACCEPT:
        return Step(Ending(draft.item, Outcome.SUCCEEDED, Outcome.SUCCEEDED), now)
    now = now._replace(feedback=feedback or "no reason was given")
    ending = Ending(draft.item, Outcome.REJECTED, Outcome.REJECTED, "", now.feedback or "")
    if bounds.cancelling or bounds.last_ask or draft.repairs >= rules.repairs:
        return Step(ending, now)
    return Step(replace(ending, outcome=None), now._replace(step=AskKind.ANSWER, repairs=draft.repairs + 1))
