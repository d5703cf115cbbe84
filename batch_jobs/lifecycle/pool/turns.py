"""Turns: of several jobs that want to make calls of one account, whose goes next.

Retries go first; otherwise each job gets an equal share (stride scheduling), a small job, or one that is nearly done,
four of them. Pure: the clock is an argument. Source: Waldspurger and Weihl, "Stride Scheduling", 1995.
"""

from __future__ import annotations

from dataclasses import dataclass

SMALL_ITEMS = 100
SMALL_WEIGHT = 4.0
WANTS_SECONDS = 0.15
"""A job that has not asked for so long does not want a turn now: longer than the pool's own pace of asking."""


@dataclass(slots=True)
class _Share:
    had: float
    asked_at: float
    retry: bool = False
    wants: bool = True
    weight: float = 1.0

    @property
    def rank(self) -> tuple[bool, float]:
        return not self.retry, self.had


class Turns:
    """Who had how much, and who wants more."""

    def __init__(self) -> None:
        self._shares: dict[str, _Share] = {}

    def asks(self, job: str, now: float, *, left: int, retry: bool) -> bool:
        """A job wants to make a call; whether it is its turn.

        Args:
            job: its task_id.
            now: the clock.
            left: its items without an answer.
            retry: the call is another attempt.
        """
        rivals = [one for name, one in self._shares.items() if name != job and now - one.asked_at <= WANTS_SECONDS]
        share = self._shares.get(job)
        if share is None or now - share.asked_at > WANTS_SECONDS:  # what it did not ask for meanwhile it does not get
            had = max(min((one.had for one in rivals), default=0.0), share.had if share else 0.0)
            share = self._shares[job] = _Share(had, now)
        share.asked_at, share.retry, share.wants = now, retry, True
        share.weight = SMALL_WEIGHT if left <= SMALL_ITEMS else 1.0
        return all(share.rank <= rival.rank for rival in rivals if rival.wants)

    def had(self, job: str) -> None:
        """A job made a call."""
        share = self._shares[job]
        share.had += 1.0 / share.weight
        share.wants = False

    def leaves(self, job: str) -> None:
        """A job wants nothing more."""
        self._shares.pop(job, None)
