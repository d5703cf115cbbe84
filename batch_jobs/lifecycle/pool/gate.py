"""Gate: the one place that every single call of an account's model passes, whichever job of this process makes it.

It puts the rules together: cool-down, breaker, pace of requests and tokens, concurrency, turns. It never sleeps: it
says how long to wait and why, and the clock is an argument.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from batch_jobs.config import Concurrent, ProviderLimits
from batch_jobs.lifecycle.pool.breaker import Breaker
from batch_jobs.lifecycle.pool.concurrency import Concurrency
from batch_jobs.lifecycle.pool.pace import WINDOW_SECONDS, Pace, Taken
from batch_jobs.lifecycle.pool.turns import Turns
from batch_jobs.models import Allowance, BreakerState

if TYPE_CHECKING:  # tenacity brings asyncio: `status` needs neither
    from batch_jobs.lifecycle.pool.retries import Call

TURN_SECONDS = 0.01
BUSY_SECONDS = 0.05
"""How soon to ask again where nobody knows when it will be time: another job's turn, or its calls in flight."""
USED_UP_SECONDS = 1.0
"""How long nobody calls, at most, when the headers say that nothing remains: a bucket may hold one call again by then,
whatever its `reset` says, and if not, the 429 names the time."""


class Reason(StrEnum):
    """Why a call has to wait."""

    COOLING_DOWN = "cooling_down"  # the provider asked for it
    BREAKER = "breaker"  # call after call failed
    PACE = "pace"  # the limit of requests or tokens a minute
    BUSY = "busy"  # enough calls are in flight
    TURN = "turn"  # another job's call goes first


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now: ask again after `seconds`."""

    seconds: float
    reason: Reason


@dataclass(frozen=True, slots=True)
class Permit:
    """One call may go out now; give it back with what became of it.

    Attributes:
        began: when.
        probe: the breaker waits for its answer.
    """

    item: object
    began: float
    tokens: Taken
    probe: bool


class News(StrEnum):
    """What a call's end says of the provider."""

    ANSWERED = "answered"  # in any way: an answer, a refusal, an error of this request or of the account
    REFUSED = "refused"  # too many requests: nothing was executed
    OVERLOADED = "overloaded"
    FAILED = "failed"  # no readable answer
    NONE = "none"  # it ended on our side


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a call.

    Attributes:
        tokens: that it really took, None where nobody said.
        retry_after_seconds: how long the provider asks everybody to wait.
    """

    news: News
    tokens: float | None = None
    retry_after_seconds: float | None = None
    allowance: Allowance | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """How a gate stands, for people.

    Attributes:
        concurrency: calls that may be in flight now, of `most`.
        waits_seconds: until a call may go out again after a cool-down or while the breaker is open.
    """

    in_flight: int
    concurrency: int
    most: int
    requests_per_minute: float | None
    tokens_per_minute: float | None
    breaker: BreakerState
    waits_seconds: float


class Gate:
    """One account's model; safe to share between threads."""

    def __init__(self, settings: Concurrent, limits: ProviderLimits) -> None:
        self._lock = threading.Lock()
        self._limits = limits
        self._requests, self._tokens = Pace(limits.requests_per_minute), Pace(limits.tokens_per_minute)
        self._concurrency = Concurrency(settings.max_workers)
        self._breaker = Breaker(settings.breaker_failures, settings.breaker_seconds)
        self._turns = Turns()
        self._cool_until = float("-inf")
        self._in_flight = 0

    def ask(self, now: float, job: str, item: int, *, tokens: float, left: int, retry: bool) -> Permit | Wait:
        """Ask for one call.

        Args:
            now: the clock.
            job: its task_id.
            item: its number.
            tokens: estimate of what it takes, in and out.
            left: the job's items without an answer.
            retry: it is another attempt.
        """
        with self._lock:
            my_turn = self._turns.asks(job, now, left=left, retry=retry)
            wait = self._wait(now, tokens)
            if wait is not None:
                return wait
            if not my_turn:
                return Wait(TURN_SECONDS, Reason.TURN)
            self._turns.had(job)
            self._requests.take(now, 1.0)
            self._in_flight += 1
            return Permit((job, item), now, self._tokens.take(now, tokens), self._breaker.begin())

    def _wait(self, now: float, tokens: float) -> Wait | None:
        if now < self._cool_until:
            return Wait(self._cool_until - now, Reason.COOLING_DOWN)
        if (seconds := self._breaker.wait_seconds(now)) > 0:
            return Wait(seconds, Reason.BREAKER)
        if (seconds := max(self._requests.wait_seconds(now, 1.0), self._tokens.wait_seconds(now, tokens))) > 0:
            return Wait(seconds, Reason.PACE)
        if self._in_flight >= int(self._concurrency.limit):
            return Wait(BUSY_SECONDS, Reason.BUSY)
        return None

    def done(self, now: float, permit: Permit, report: Report) -> None:
        """Give a permit back."""
        with self._lock:
            if report.tokens is not None:
                self._tokens.correct(now, permit.tokens, report.tokens)
            elif report.news is News.REFUSED:
                self._tokens.correct(now, permit.tokens, 0.0)
            self._hear(now, permit, report)
            self._in_flight -= 1
            if report.allowance is not None:
                self._learn(now, report.allowance)
            if report.retry_after_seconds:
                self._cool_until = max(self._cool_until, now + report.retry_after_seconds)

    def _hear(self, now: float, permit: Permit, report: Report) -> None:
        match report.news:
            case News.ANSWERED:
                self._breaker.answered()
                self._concurrency.answered(max(now - permit.began, 0.0), self._in_flight)
            case News.REFUSED:
                self._breaker.answered()
                self._concurrency.overloaded(now, permit.began)
            case News.OVERLOADED:
                self._breaker.failed(now, permit.item, probe=permit.probe)
                self._concurrency.overloaded(now, permit.began)
            case News.FAILED:
                self._breaker.failed(now, permit.item, probe=permit.probe)
            case News.NONE:
                self._breaker.gave_up(probe=permit.probe)

    def _learn(self, now: float, said: Allowance) -> None:
        """Take over the limits that the headers name, under those of config.json; pause where nothing remains."""
        limits = self._limits
        self._requests.per_minute = _lower(
            limits.requests_per_minute, said.requests_limit, said.requests_reset_seconds, self._requests.per_minute
        )
        self._tokens.per_minute = _lower(
            limits.tokens_per_minute, said.tokens_limit, said.tokens_reset_seconds, self._tokens.per_minute
        )
        for remaining, reset in (
            (said.requests_remaining, said.requests_reset_seconds),
            (said.tokens_remaining, said.tokens_reset_seconds),
        ):
            if remaining == 0 and reset:
                self._cool_until = max(self._cool_until, now + min(reset, USED_UP_SECONDS))

    def leave(self, job: str) -> None:
        """A job makes no more calls."""
        with self._lock:
            self._turns.leaves(job)

    def standing(self, now: float) -> Standing:
        """How it stands now."""
        with self._lock:
            breaker = self._breaker.wait_seconds(now) if self._breaker.state is BreakerState.OPEN else 0.0
            return Standing(
                in_flight=self._in_flight,
                concurrency=int(self._concurrency.limit),
                most=self._concurrency.most,
                requests_per_minute=self._requests.per_minute,
                tokens_per_minute=self._tokens.per_minute,
                breaker=self._breaker.state,
                waits_seconds=max(self._cool_until - now, breaker, 0.0),
            )


def _lower(ours: int | None, theirs: int | None, reset_seconds: float | None, known: float | None) -> float | None:
    """The lower of two limits a minute; one that takes longer than a minute to be whole again is none a minute."""
    if not theirs or (reset_seconds or 0.0) > WINDOW_SECONDS + USED_UP_SECONDS:
        return known
    return float(min(ours, theirs)) if ours is not None else float(theirs)


@dataclass
class Gates:
    """The gates of one process, by account and model.

    Attributes:
        clock: seconds that only grow.
        kept: calls that were to be tried again when their job left for a while, by task_id and item.
    """

    clock: Callable[[], float] = time.monotonic
    kept: dict[str, dict[int, Call]] = field(default_factory=dict)
    _made: dict[tuple[str, str], Gate] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, account: str, model: str, settings: Concurrent, limits: ProviderLimits) -> Gate:
        """The gate of an account's model, made when it is first asked for."""
        with self._lock:
            return self._made.setdefault((account, model), Gate(settings, limits))
