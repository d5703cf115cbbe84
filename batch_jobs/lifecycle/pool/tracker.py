"""Tracker: how the calls of one job go, in figures: for the status, the API and the job's log.

Counts only; what an item came to stands in the ledger. Pure: the clock is an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from batch_jobs.lifecycle.pool.gate import Standing

WINDOW_SECONDS = 60.0
LAST_CALLS = 1_000
"""Average and p95 are of so many calls, the last ones."""


@dataclass
class Tracker:
    """The figures of one pass of a job.

    Attributes:
        total: items of the pass.
        attempts: calls that came back, whatever with.
        refused: of them, those that were too many (429).
        failed: of them, those without a readable answer.
        ended: items by how they ended.
    """

    total: int
    began: float
    attempts: int = 0
    refused: int = 0
    failed: int = 0
    ended: dict[str, int] = field(default_factory=dict)
    _seconds: deque[float] = field(default_factory=lambda: deque(maxlen=LAST_CALLS))
    _recent: deque[list[float]] = field(default_factory=deque)

    def came(self, now: float, seconds: float, tokens: int, *, refused: bool, failed: bool) -> None:
        """A call came back.

        Args:
            now: the clock.
            seconds: how long it took.
            tokens: that it took, in and out.
            refused: it was one too many.
            failed: no readable answer came.
        """
        self.attempts += 1
        self.refused += refused
        self.failed += failed
        if not refused and not failed:
            self._seconds.append(seconds)
        second = float(int(now))
        if not self._recent or self._recent[-1][0] != second:
            self._recent.append([second, 0.0, 0.0])
        self._recent[-1][1] += 1
        self._recent[-1][2] += tokens

    def end(self, outcomes: Iterable[str | None]) -> None:
        """Items have these outcomes now; None for one that goes on."""
        for outcome in outcomes:
            if outcome is not None:
                self.ended[str(outcome)] = self.ended.get(str(outcome), 0) + 1

    def per_minute(self, now: float) -> tuple[float, float]:
        """Calls and tokens a minute, of the last minute or of what there is of it."""
        while self._recent and self._recent[0][0] < now - WINDOW_SECONDS:
            self._recent.popleft()
        scale = 60.0 / min(max(now - self.began, 1.0), WINDOW_SECONDS)
        return scale * sum(one[1] for one in self._recent), scale * sum(one[2] for one in self._recent)

    def figures(self, now: float, *, in_flight: int, retrying: int, standing: Standing) -> dict[str, Any]:
        """Everything, as JSON values.

        Args:
            now: the clock.
            in_flight: calls of this job.
            retrying: items that wait for another attempt.
            standing: of the gate, which other jobs may share.
        """
        calls, tokens = self.per_minute(now)
        times = sorted(self._seconds)
        ended = sum(self.ended.values())
        return {
            "items": {
                "waiting": max(self.total - ended - in_flight - retrying, 0),
                "in_flight": in_flight,
                "retrying": retrying,
                **self.ended,
            },
            "attempts": self.attempts,
            "refused_429": self.refused,
            "failed_calls": self.failed,
            "average_seconds": round(sum(times) / len(times), 3) if times else None,
            "p95_seconds": round(times[int(0.95 * (len(times) - 1))], 3) if times else None,
            "calls_per_minute": round(calls),
            "tokens_per_minute": round(tokens),
            "concurrency": standing.concurrency,
            "max_concurrency": standing.most,
            "limit_requests_per_minute": standing.requests_per_minute,
            "limit_tokens_per_minute": standing.tokens_per_minute,
            "breaker": standing.breaker.value,
            "waits_seconds": round(standing.waits_seconds, 1),
        }
