"""Pace: a limit a minute, of requests or of tokens, kept smoothly, so that no 60 seconds hold more than it.

Two rules together: a bucket that fills evenly and holds little, and a log of the last minute that is never over the
limit. Pure: the clock is an argument.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

WINDOW_SECONDS = 60.0
BURST_SECONDS = 0.2
"""How much of the pace may be made up for after a delay of ours: what one pass of the pool may take."""
SHARE = 0.99
"""Of the limit, what the even pace comes to: calls that leave here evenly arrive there a little less so."""


@dataclass(slots=True)
class Taken:
    """One thing taken from a pace: when, and how much."""

    at: float
    amount: float


class Pace:
    """A limit a minute; None for no limit known yet."""

    def __init__(self, per_minute: float | None = None) -> None:
        self.per_minute = per_minute
        self._log: deque[Taken] = deque()
        self._total = 0.0
        self._paid_until = float("-inf")

    def wait_seconds(self, now: float, amount: float) -> float:
        """How long until so much may be taken; 0 for now. More than a whole minute's limit has to go alone."""
        self._expire(now)
        if self.per_minute is None:
            return 0.0
        return max(self._paid_until - BURST_SECONDS - now, self._window_seconds(now, amount), 0.0)

    def take(self, now: float, amount: float) -> Taken:
        """Take so much, whether or not it was time."""
        taken = Taken(now, amount)
        self._log.append(taken)
        self._total += amount
        self._pay(now, amount)
        return taken

    def correct(self, now: float, taken: Taken, amount: float) -> None:
        """Put what it really was in the place of what was taken."""
        more = amount - taken.amount
        taken.amount = amount
        if self._log and taken.at >= self._log[0].at:
            self._total += more
        self._pay(now, more)

    def used(self, now: float) -> float:
        """What was taken in the last 60 seconds."""
        self._expire(now)
        return self._total

    def _pay(self, now: float, amount: float) -> None:
        if self.per_minute is not None:
            begin = max(self._paid_until, now) if amount > 0 else self._paid_until
            self._paid_until = begin + amount * WINDOW_SECONDS / (SHARE * self.per_minute)

    def _window_seconds(self, now: float, amount: float) -> float:
        """How long until enough of the log is older than a minute."""
        over = self._total + amount - (self.per_minute or 0.0)
        wait = 0.0
        for taken in self._log:
            if over <= 0:
                break
            over -= taken.amount
            wait = taken.at + WINDOW_SECONDS - now
        return wait

    def _expire(self, now: float) -> None:
        while self._log and self._log[0].at + WINDOW_SECONDS <= now:
            self._total -= self._log.popleft().amount
        if not self._log:
            self._total = 0.0
