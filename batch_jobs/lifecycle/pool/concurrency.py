"""Concurrency: how many calls may be in flight, found by trying: up while answers take no longer, half on overload.

It begins with a few, grows by one an answer until the first overload (slow start), then by one a round of answers:
TCP's congestion control (RFC 5681), with the model's latency for the round trip. Pure: the clock is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass

START = 4.0
SLOWER = 2.0
"""Answers that take so many times as long as usual: it does not grow."""
NOISE_SECONDS = 0.1
RECENT, USUAL = 0.1, 0.01
"""Weights of the newest answer in the two moving averages."""


@dataclass
class Concurrency:
    """How many calls may be in flight.

    Attributes:
        most: the upper bound, from config.
        limit: now; its whole part counts.
    """

    most: int
    limit: float = START
    _slow_start: bool = True
    _halved_at: float = float("-inf")
    _recent: float | None = None
    _usual: float = 0.0

    def __post_init__(self) -> None:
        self.limit = min(self.limit, float(self.most))

    def answered(self, seconds: float, in_flight: int) -> None:
        """Note an answer.

        Args:
            seconds: how long it took.
            in_flight: calls in flight when it came, itself included; a limit that is not used is not raised.
        """
        if self._recent is None:
            self._recent = self._usual = seconds
        self._recent += RECENT * (seconds - self._recent)
        self._usual += USUAL * (seconds - self._usual)
        if self._recent <= SLOWER * self._usual + NOISE_SECONDS and 2 * in_flight >= self.limit:
            self.limit = min(self.limit + (1.0 if self._slow_start else 1.0 / self.limit), float(self.most))

    def overloaded(self, now: float, began: float) -> bool:
        """Halve the limit, once for all calls that were in flight together.

        Args:
            now: when the refusal came.
            began: when the refused call went out.
        """
        self._slow_start = False
        if began <= self._halved_at:
            return False
        self._halved_at = now
        self.limit = max(self.limit / 2, 1.0)
        return True
