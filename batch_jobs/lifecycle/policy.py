"""What is sent again, when a job pauses, and when to look again: pure decisions, in one place.

| how an attempt ended                    | then                                             |
| --------------------------------------- | ------------------------------------------------ |
| succeeded                               | final                                            |
| invalid (does not fit the schema)       | again with the fault, `repairs` times            |
| rejected by the judge                   | again with his words, `repairs` times            |
| a verdict that is none                  | asked for again, once                            |
| truncated (hit the output limit)        | again, once, with four times the limit           |
| refused                                 | final                                            |
| errored, transient (429, 5xx, overload) | again                                            |
| errored, not transient (400, 404, 422)  | final                                            |
| errored, account (quota, billing)       | the job pauses; again after `resume`             |
| expired, missing, cancelled             | again; final when the job itself was cancelled   |
| several rows in one request, not so     | each of them alone                               |

Nothing is sent in more than `rounds.max` rounds, and no round is begun after `rounds.max_hours`; both count anew from
a `resume`. A judge, and rows that were sent together, have rounds of their own (`AnswerRules.more_rounds`). Where many
items ended in one and the same error (`rounds.equal_errors_min` of them, and `rounds.equal_errors_share` of all that
came back), not the items are at fault: the job pauses, and `resume` sends them again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from batch_jobs.config import Rounds
from batch_jobs.models import ItemResult, Outcome
from providers.codes import QUOTA_CODES

WIDEN_FACTOR = 4
ONCE_MORE = frozenset({Outcome.INVALID, Outcome.TRUNCATED})
_OUR_CODES = frozenset({"doubled_id"})
_VARYING = re.compile(r"[0-9a-f]*\d[0-9a-f]*")
_NOT_EXECUTED = frozenset({Outcome.EXPIRED, Outcome.MISSING, Outcome.CANCELLED})


class Next(StrEnum):
    """What becomes of an item after an attempt."""

    FINAL = "final"
    AGAIN = "again"
    PAUSE = "pause"  # the account is the problem: the item stays open, the job waits for its operator


def after_attempt(result: ItemResult, before: Outcome | None, *, last_round: bool, cancelling: bool) -> Next:
    """Decide on an item.

    Args:
        result: how the attempt went.
        before: how the attempt before it went, None for the first.
        last_round: no further round is allowed.
        cancelling: the user cancelled the job.
    """
    if result.outcome is Outcome.SUCCEEDED:
        return Next.FINAL
    if result.code in QUOTA_CODES and not cancelling:
        return Next.PAUSE
    if last_round or cancelling:
        return Next.FINAL
    if result.outcome in ONCE_MORE:
        return Next.FINAL if before in {result.outcome, Outcome.TRUNCATED} else Next.AGAIN
    if result.outcome in _NOT_EXECUTED or result.transient:
        return Next.AGAIN
    return Next.FINAL


def after_bundle(result: ItemResult, *, last_round: bool, cancelling: bool) -> Next:
    """Decide on an item that was asked for together with others, and got no answer: it goes alone, whatever it was."""
    if result.code in QUOTA_CODES and not cancelling:
        return Next.PAUSE
    return Next.FINAL if last_round or cancelling else Next.AGAIN


@dataclass(frozen=True, slots=True)
class MassRule:
    """From when on equal errors are not the items' own.

    Attributes:
        min_items: so many items with one error.
        share: so large a part of all items that came back.
    """

    min_items: int
    share: float


def mass_rule(rounds: Rounds) -> MassRule:
    """The rule that config.json sets."""
    return MassRule(rounds.equal_errors_min, rounds.equal_errors_share)


def mass_error(ended: int, errors: Mapping[tuple[str, str], int], rule: MassRule) -> tuple[str, str] | None:
    """The error that hit the job as a whole, if there is one.

    Args:
        ended: items that came back, well or not.
        errors: items that ended in an error, by (code, the provider's words).
        rule: from when on.

    Returns:
        The error's code and the words of one of its items. Words that differ in numbers and ids only are equal.
    """
    alike: Counter[tuple[str, str]] = Counter()
    words: dict[tuple[str, str], str] = {}
    for (code, detail), number in errors.items():
        key = code, _VARYING.sub("#", detail.lower())
        alike[key] += number
        words.setdefault(key, detail)
    if not alike:
        return None
    key, number = alike.most_common(1)[0]
    if key[0] in _OUR_CODES or number < rule.min_items or number < rule.share * ended:
        return None
    return key[0], words[key]


def is_last_round(rounds_done: int, max_rounds: int, age_seconds: float, max_hours: float) -> bool:
    """Whether no further round may follow, by number or by time, both since the job began or was resumed."""
    return rounds_done >= max_rounds or age_seconds > max_hours * 3600


@dataclass(frozen=True, slots=True)
class Pace:
    """Bounds of the poll interval, in seconds."""

    min_seconds: float
    max_seconds: float


def poll_seconds(age_seconds: float, pace: Pace, jitter: float) -> float:
    """How long to wait before the next look: a tenth of the batch's age, within bounds, give or take a tenth.

    Args:
        age_seconds: since the batch was submitted.
        pace: the bounds.
        jitter: 0 to 1, drawn by the caller.
    """
    wait = min(max(age_seconds / 10, pace.min_seconds), pace.max_seconds)
    return wait * (0.9 + 0.2 * jitter)
