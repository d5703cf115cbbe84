"""Circuit breaker: when call after call fails, none goes out for a while, then one, alone, to see.

A call that a provider answers in any way, if only by a 400, closes it. Pure: the clock is an argument.
Source: M. Nygard, Release It!, "Circuit Breaker".
"""

from __future__ import annotations

from dataclasses import dataclass, field

from batch_jobs.models import BreakerState

LONGEST_SECONDS = 300.0


@dataclass
class Breaker:
    """Whether calls go out.

    Attributes:
        failures: so many different items failing in a row open it; one item's own trouble never does.
        seconds: how long it is open at first; twice as long each time the probe fails, up to five minutes.
    """

    failures: int
    seconds: float
    state: BreakerState = BreakerState.CLOSED
    open_until: float = 0.0
    _failed: set[object] = field(default_factory=set)
    _times: int = 0

    def wait_seconds(self, now: float) -> float:
        """How long until a call may go out; while one is out to see, ask again after its answer."""
        match self.state:
            case BreakerState.CLOSED:
                return 0.0
            case BreakerState.OPEN:
                return max(self.open_until - now, 0.0)
            case BreakerState.HALF_OPEN:
                return self.seconds

    def begin(self) -> bool:
        """A call goes out; whether it is the one that is to see."""
        if self.state is BreakerState.CLOSED:
            return False
        self.state = BreakerState.HALF_OPEN
        return True

    def answered(self) -> None:
        """A call was answered."""
        self.state, self._times = BreakerState.CLOSED, 0
        self._failed.clear()

    def failed(self, now: float, item: object, *, probe: bool) -> bool:
        """A call failed; whether the breaker opens by it.

        Args:
            now: the clock.
            item: what it was for.
            probe: it was the one that was to see.
        """
        self._failed.add(item)
        opens = probe or (self.state is BreakerState.CLOSED and len(self._failed) >= self.failures)
        if opens:
            self.state = BreakerState.OPEN
            self.open_until = now + min(self.seconds * 2**self._times, max(LONGEST_SECONDS, self.seconds))
            self._times += 1
        return opens

    def gave_up(self, *, probe: bool) -> None:
        """A call ended without any news of the provider: whoever comes next is to see."""
        if probe and self.state is BreakerState.HALF_OPEN:
            self.state = BreakerState.OPEN
