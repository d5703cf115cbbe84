"""What is tried again, how often and after how long: tenacity's rules, asked between attempts instead of slept through.

An attempt that was refused (429) or that a breaker sent out to see costs time, not one of the item's attempts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tenacity import DoSleep, RetryCallState, Retrying, retry_if_exception, stop_after_delay
from tenacity.stop import stop_base
from tenacity.wait import wait_random_exponential

from batch_jobs.config import Concurrent
from batch_jobs.errors import ProviderError
from batch_jobs.models import AskKind, ItemResult


class TransientResult(Exception):
    """A result that says "not now"; if it was paid for, that travels with it."""

    def __init__(self, result: ItemResult) -> None:
        super().__init__(result.detail)
        self.result = result


@dataclass
class Call:
    """One request on its way to an answer.

    Attributes:
        item: whose it is; of several items the first.
        tokens: estimate of what it takes, in and out.
        kind: what it asks for.
        items: all that it asks for.
        calls: under which fingerprint each one's answer is kept; empty where that is the item's own.
        widened: the body has the larger output limit after a truncation.
        attempts: that count.
        begun: attempts, refused ones too.
        seconds: that they took together.
        last_seconds: that the last one took.
    """

    item: int
    body: bytes
    tokens: float
    kind: AskKind = AskKind.ANSWER
    items: tuple[int, ...] = ()
    calls: tuple[bytes, ...] = ()
    widened: bool = False
    attempts: int = 0
    begun: int = 0
    seconds: float = 0.0
    last_seconds: float = 0.0
    state: RetryCallState | None = field(default=None, repr=False)


class Retries:
    """The rules of one job; asked from one thread."""

    def __init__(self, settings: Concurrent) -> None:
        self._retrying = Retrying(
            stop=AttemptsUsedUp(settings.attempts) | stop_after_delay(settings.max_seconds),
            wait=Waiting(settings.min_wait_seconds, settings.max_wait_seconds),
            retry=retry_if_exception(worth_another_try),
            reraise=True,
        )

    def seconds_after(self, call: Call, error: Exception, *, counts: bool) -> float | None:
        """How long until the next attempt after this one failed; None where there is none.

        Args:
            call: what was tried.
            error: how the attempt ended.
            counts: it costs one of the item's attempts.
        """
        call.attempts += counts
        if call.state is None:
            call.state = RetryCallState(self._retrying, None, (call,), {})
        else:
            call.state.prepare_for_next_attempt()
        call.state.set_exception((type(error), error, error.__traceback__))
        self._retrying.begin()
        try:
            said = self._retrying.iter(call.state)  # as `Retrying.__call__` does, which would sleep so long now
        except type(error):
            return None
        return said if isinstance(said, DoSleep) else 0.0


class Waiting:
    """Exponential wait with full jitter between the bounds; a longer Retry-After is honoured."""

    def __init__(self, min_seconds: float, max_seconds: float) -> None:
        self._jittered = wait_random_exponential(multiplier=1, min=min_seconds, max=max_seconds)

    def __call__(self, state: RetryCallState) -> float:
        """Seconds until the next attempt."""
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after_seconds if isinstance(error, ProviderError) else None
        return max(self._jittered(state), asked or 0.0)


class AttemptsUsedUp(stop_base):
    """No further attempt once those that count are used up."""

    def __init__(self, most: int) -> None:
        self._most = most

    def __call__(self, state: RetryCallState) -> bool:
        """Whether this was the last one."""
        call: Call = state.args[0]
        return call.attempts >= self._most


def worth_another_try(error: BaseException) -> bool:
    """Whether the same call may go better the next time."""
    return isinstance(error, TransientResult) or (isinstance(error, ProviderError) and error.transient)
