"""Where a batch stands: a pure function of its plan and the clock, so no background worker is needed.

A quarter of its time is validation, the rest execution with growing counts, the last tenth finalizing.
"""

from __future__ import annotations

from enum import StrEnum

from .records import BatchRow, End

VALIDATED_AT = 0.25
FINALIZING_AT = 0.9
CANCELLING_TAKES = 0.1


class Stage(StrEnum):
    """Where a batch stands, whatever its dialect calls it."""

    VALIDATING = "validating"
    RUNNING = "running"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    ENDED = "ended"


def ends_at(batch: BatchRow) -> float:
    """Give the moment the batch ends."""
    plan = batch.plan
    share = VALIDATED_AT if plan.end is End.FAILED else 1.0
    end = batch.created_at + share * plan.seconds
    if batch.cancelled_at is None:
        return end
    return min(end, batch.cancelled_at + CANCELLING_TAKES * plan.seconds)


def is_due(batch: BatchRow, now: float) -> bool:
    """Tell whether the batch is to be settled."""
    return not batch.settled and now >= ends_at(batch)


def stage(batch: BatchRow, now: float) -> Stage:
    """Say where the batch stands now; it has ended once it is settled, never before its results are there."""
    if batch.settled:
        return Stage.ENDED
    if batch.cancelled_at is not None:
        return Stage.CANCELLING
    age = (now - batch.created_at) / batch.plan.seconds if batch.plan.seconds else 1.0
    if age < VALIDATED_AT or batch.plan.end is End.FAILED:
        return Stage.VALIDATING
    return Stage.RUNNING if age < FINALIZING_AT else Stage.FINALIZING


def was_cancelled(batch: BatchRow) -> bool:
    """Tell whether the batch was stopped by someone else, or the wish to stop it came before its own end."""
    if batch.plan.end is End.CANCELLED:
        return True
    if batch.cancelled_at is None:
        return False
    share = VALIDATED_AT if batch.plan.end is End.FAILED else 1.0
    return batch.cancelled_at < batch.created_at + share * batch.plan.seconds


def done_items(batch: BatchRow, now: float) -> int:
    """Count the items executed until now; the first ones of the input are executed first."""
    if batch.plan.end is End.FAILED:
        return 0
    moment = batch.cancelled_at if batch.cancelled_at is not None and was_cancelled(batch) else now
    age = (moment - batch.created_at) / batch.plan.seconds if batch.plan.seconds else 1.0
    progress = min(1.0, max(0.0, (age - VALIDATED_AT) / (FINALIZING_AT - VALIDATED_AT)))
    return int(min(progress, batch.plan.done_share) * batch.total)


def shows_unknown_state(batch: BatchRow, now: float) -> bool:
    """Tell whether the batch is to show a state nobody documented."""
    return now < batch.created_at + batch.plan.unknown_until
