"""What is sent again, and when to look again: pure decisions, in one place.

| how an attempt ended                    | then                                             |
| --------------------------------------- | ------------------------------------------------ |
| succeeded                               | final                                            |
| invalid (does not fit the schema)       | again, once                                      |
| truncated (hit the output limit)        | again, once, with four times the limit           |
| refused                                 | final                                            |
| errored, transient (429, 5xx, overload) | again                                            |
| errored, not transient (400, 404, 422)  | final                                            |
| errored, account (quota, billing)       | the job pauses; again after `resume`             |
| expired, missing, cancelled             | again; final when the job itself was cancelled   |

Nothing is sent in more than `rounds.max` rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from batch_jobs.models import ItemResult, Outcome
from providers.codes import QUOTA_CODES

WIDEN_FACTOR = 4
ONCE_MORE = frozenset({Outcome.INVALID, Outcome.TRUNCATED})
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
