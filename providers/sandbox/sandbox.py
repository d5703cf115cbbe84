"""The running sandbox: its state, its clock, the behaviour in force, and the locks that keep executions apart.

One value of this is made by `create_app` and handed to every route.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from pathlib import Path

from .behaviour import Behaviour
from .prompt_cache import PromptCache
from .state import State
from .wire import Left, short_hash

BURST = 6
"""This part of a minute's allowance may come at once."""
UNLIMITED = {"requests": (10_000, 9_999, 0.006), "tokens": (30_000_000, 29_999_000, 0.002)}
"""What headers say where there is no limit: so many a minute, and hardly any taken."""


class Sandbox:
    """What all routes share."""

    def __init__(self, folder: Path, behaviour: Behaviour) -> None:
        self.state = State(folder)
        self.cache = PromptCache(self.state.database)
        self._ahead = self.state.ahead_seconds()
        self._behaviour = behaviour
        self._guard = threading.Lock()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._buckets: dict[str, tuple[float, float]] = {}
        self._count = 0

    @property
    def behaviour(self) -> Behaviour:
        """The behaviour in force."""
        return self._behaviour

    def behave(self, behaviour: Behaviour) -> None:
        """Put another behaviour in force, from the next request on."""
        self.state.save_behaviour(behaviour)
        self._behaviour = behaviour

    def clock(self) -> float:
        """Give the time, in seconds since 1970."""
        return time.time() + self._ahead

    def forward(self, seconds: float) -> float:
        """Put the clock forward; give how far it is ahead in all."""
        with self._guard:
            self._ahead += seconds
            self.state.put_ahead(self._ahead)
            return self._ahead

    def lock(self, name: str) -> threading.Lock:
        """Give the one lock of a batch."""
        with self._guard:
            return self._locks[name]

    def new_id(self) -> str:
        """Give 24 hex digits never given before."""
        with self._guard:
            self._count += 1
            return short_hash(str(time.time_ns()), str(self._count), str(id(self)))

    def take_call(self, owner: str, tokens: int) -> tuple[Left, Left, float]:
        """Take one call, with its tokens, from a key's allowance, unless there is too little of either.

        Returns:
            what is left of the requests and of the tokens a minute, and the seconds to wait; 0 when it is allowed.
        """
        wanted = {
            "requests": (self._behaviour.requests_per_minute, 1),
            "tokens": (self._behaviour.tokens_per_minute, tokens),
        }
        with self._guard:
            now = time.monotonic()
            wait = max(self._missing_seconds(owner, now, name, *want) for name, want in wanted.items())
            left = [self._left(owner, name, limit, 0 if wait else want) for name, (limit, want) in wanted.items()]
            return left[0], left[1], wait

    def _missing_seconds(self, owner: str, now: float, name: str, limit: int, amount: int) -> float:
        """Fill a bucket up to now; how long until it holds so much. For more than it ever holds it has to be full."""
        if limit <= 0:
            return 0.0
        most, rate = max(1.0, limit / BURST), limit / 60
        held, since = self._buckets.get(f"{name} {owner}", (most, now))
        held = min(most, held + (now - since) * rate)
        self._buckets[f"{name} {owner}"] = held, now
        return max(min(float(amount), most) - held, 0.0) / rate

    def _left(self, owner: str, name: str, limit: int, amount: int) -> Left:
        if limit <= 0:
            return Left(*UNLIMITED[name])
        held, since = self._buckets[f"{name} {owner}"]
        self._buckets[f"{name} {owner}"] = held - amount, since
        remaining = max(held - amount, 0.0)
        return Left(limit, int(remaining), (max(1.0, limit / BURST) - remaining) * 60 / limit)
