"""Room: whether a shard fits into what an account's queue still takes, and what a full queue teaches. Pure decisions.

Providers bound what is enqueued and not done: input tokens and requests a model, batches an account. OpenAI says
"Enqueued token limit reached for MODEL in organization ORG. Limit: N enqueued tokens", mostly as the reason of a batch
that fails after its create; the others refuse the create with 429, without a number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from providers.contract import Limits

TOLD_LASTS_SECONDS = 86_400.0
"""A limit that the provider named; tiers are raised, so it is asked again the next day."""
GUESS_LASTS_SECONDS = 3_600.0
"""A limit that was guessed from what was under way: asked again each hour, by one create that may be refused."""
ALONE_REFUSALS = 3
"""So often a shard is refused while nothing else is under way, until it is taken for too large."""
MAX_WAIT_SECONDS = 3_600.0
_TOLD = re.compile(r"limit:?\s*([0-9][0-9,_.]*)\s*(?:enqueued\s*)?tokens", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Weight:
    """What one shard puts into a queue."""

    tokens: int
    requests: int


@dataclass(frozen=True, slots=True)
class Queued:
    """What is submitted, or may be, and has not ended, over all jobs of the store.

    Attributes:
        tokens: of the model, estimated.
        requests: of the model.
        batches: of the model.
        account_batches: of all models of the account.
    """

    tokens: int = 0
    requests: int = 0
    batches: int = 0
    account_batches: int = 0


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a full queue has taught about an account and a model.

    Attributes:
        tokens: what may be enqueued in all; None when that is not what was learned.
        shard_tokens: what one shard may weigh; None when that is not what was learned.
        told: the provider named it; else it is a guess.
        learned_at: unix seconds.
    """

    tokens: int | None
    shard_tokens: int | None
    told: bool
    learned_at: float


def in_force(lesson: Lesson | None, now: float) -> Lesson | None:
    """A lesson while it lasts; a clock that was set back does not end it."""
    lasts = TOLD_LASTS_SECONDS if lesson is not None and lesson.told else GUESS_LASTS_SECONDS
    return lesson if lesson is not None and now - lesson.learned_at < lasts else None


def bounded(limits: Limits, lesson: Lesson | None) -> Limits:
    """The limits of the queue, as configured and as learned, whichever is lower."""
    return limits if lesson is None else replace(limits, max_enqueued_tokens=_lower(limits, lesson.tokens))


def shard_bound(limits: Limits, lesson: Lesson | None) -> int | None:
    """The most tokens that a new shard may weigh, None for no known limit."""
    return _lower(limits, lesson.shard_tokens if lesson is not None else None)


def _lower(limits: Limits, learned: int | None) -> int | None:
    known = [tokens for tokens in (limits.max_enqueued_tokens, learned) if tokens is not None]
    return min(known, default=None)


def fits(weight: Weight, queued: Queued, limits: Limits) -> bool:
    """Whether a shard fits into the queue beside what is in it.

    Into an empty queue everything fits: what the provider thinks of it, it will say.
    """
    if _above(queued.account_batches + 1, limits.max_in_flight_batches):
        return False
    if not queued.batches:
        return True
    tokens_fit = not _above(queued.tokens + weight.tokens, limits.max_enqueued_tokens)
    return tokens_fit and not _above(queued.requests + weight.requests, limits.max_enqueued_requests)


def _above(number: int, limit: int | None) -> bool:
    return limit is not None and number > limit


def wait_seconds(refusals: int, min_seconds: float) -> float:
    """How long a refused shard waits while nothing else is under way: twice as long each time, an hour at most."""
    return min(min_seconds * 2.0 ** min(refusals, 32), MAX_WAIT_SECONDS)


def told_tokens(words: str) -> int | None:
    """The limit that a provider names in its message, None where it names none."""
    found = _TOLD.search(words)
    return int(re.sub(r"\D", "", found.group(1))) if found else None


def learn(words: str, weight: Weight, queued: Queued, refusals: int, now: float) -> Lesson | None:
    """What a refusal teaches.

    Args:
        words: the provider's.
        weight: of the shard that was refused.
        queued: what else was under way.
        refusals: of this shard, this one included.
        now: unix seconds.

    Returns:
        None when it teaches nothing: somebody else fills the queue, or it is only a matter of time.
    """
    told = told_tokens(words)
    if told and queued.tokens + weight.tokens > told:
        return Lesson(told, told, True, now)
    if queued.batches:
        return Lesson(queued.tokens, told or None, False, now)
    if refusals >= ALONE_REFUSALS and weight.requests > 1:
        return Lesson(None, max(weight.tokens // 2, 1), False, now)
    return None


def is_too_large(weight: Weight, lesson: Lesson | None) -> bool:
    """Whether a shard can't ever be taken as it is, and can be cut smaller."""
    limit = lesson.shard_tokens if lesson is not None else None
    return weight.requests > 1 and limit is not None and weight.tokens > limit


def waves(weights: Sequence[Weight], limits: Limits) -> int:
    """In how many waves shards go through an empty queue, when a wave begins as the one before it has ended."""
    number, queued = 0, Queued()
    for weight in weights:
        if not number or not fits(weight, queued, limits):
            number, queued = number + 1, Queued()
        tokens, requests = queued.tokens + weight.tokens, queued.requests + weight.requests
        queued = Queued(tokens, requests, queued.batches + 1, queued.account_batches + 1)
    return number


@dataclass(frozen=True, slots=True)
class RoomWait:
    """Shards that wait for room in the provider's queue.

    Attributes:
        batches: how many wait.
        of: batches of the round.
        tokens: enqueued now, by all jobs of the account, estimated.
        max_tokens: the limit that holds now, configured or learned; None when it is not one of tokens.
    """

    batches: int
    of: int
    tokens: int
    max_tokens: int | None

    def words(self) -> str:
        """`2 of 7 batches wait for room: 3.0M of 4.0M enqueued tokens`."""
        verb = "waits" if self.batches == 1 else "wait"
        limit = f" of {short(self.max_tokens)}" if self.max_tokens is not None else ""
        noun = "batch" if self.of == 1 else "batches"
        return f"{self.batches:,} of {self.of:,} {noun} {verb} for room: {short(self.tokens)}{limit} enqueued tokens"


def short(number: int) -> str:
    """`950`, `12.5k`, `3.0M`."""
    if number < 1_000:
        return str(number)
    return f"{number / 1_000:.1f}k" if number < 999_950 else f"{number / 1_000_000:.1f}M"
