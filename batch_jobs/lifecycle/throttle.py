"""Throttle: how fast an account may be asked to take uploads and batches, over all jobs of this process.

A token bucket a verb, and one common pause where the provider says how long to wait. Nobody sleeps here: who comes too
early is told when to come again. Rates come from the provider's documentation or from config.json.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import StrEnum

from providers.contract import Limits, Rate

BURST_SHARE = 0.1
"""Of a rate's number, what may come at once; the rest is spread, so that no stretch of time sees more than the rate."""


class Verb(StrEnum):
    """What is throttled."""

    CREATE = "create"
    UPLOAD = "upload"


@dataclass(frozen=True, slots=True)
class Bucket:
    """What is left of a rate: `level` requests at the time `at`."""

    level: float
    at: float


def per_minute(number: float | None) -> Rate | None:
    """The rate that config.json gives, or None."""
    return Rate(number, 60.0) if number is not None else None


def take(bucket: Bucket | None, rate: Rate, now: float) -> tuple[Bucket, float]:
    """Take one request out of a bucket.

    Args:
        bucket: None for a full one.
        rate: that it refills by.
        now: any clock, in seconds; one that was set back only stands still for a while.

    Returns:
        The bucket after it, and 0; or the bucket as it is now, and the seconds until it holds one again.
    """
    burst = max(1.0, rate.number * BURST_SHARE)
    a_second = rate.number * (1 - BURST_SHARE) / rate.seconds
    level = burst if bucket is None else min(burst, bucket.level + max(now - bucket.at, 0.0) * a_second)
    if level >= 1.0:
        return Bucket(level - 1.0, now), 0.0
    return Bucket(level, now), (1.0 - level) / a_second


class Throttle:
    """One account's buckets; safe to share between threads."""

    def __init__(self) -> None:
        self._buckets: dict[Verb, Bucket] = {}
        self._held_at = 0.0
        self._held_seconds = 0.0
        self._lock = threading.Lock()

    def take(self, verb: Verb, limits: Limits, now: float) -> float:
        """Ask for one request; 0 when it may be sent now, else the seconds to wait."""
        rate = limits.creates if verb is Verb.CREATE else limits.uploads
        with self._lock:
            held = self._held(now)
            if held > 0 or rate is None:
                return held
            self._buckets[verb], seconds = take(self._buckets.get(verb), rate, now)
            return seconds

    def hold(self, seconds: float, now: float) -> None:
        """The provider wants nothing from this account for so long (Retry-After)."""
        with self._lock:
            if seconds > self._held(now):
                self._held_at, self._held_seconds = now, seconds

    def _held(self, now: float) -> float:
        """Seconds that are left of the pause; a clock that was set back can't make it longer."""
        return 0.0 if now < self._held_at else max(self._held_at + self._held_seconds - now, 0.0)
