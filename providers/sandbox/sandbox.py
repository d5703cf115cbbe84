"""The running sandbox: its state, its clock, the behaviour in force, and the locks that keep executions apart.

One value of this is made by `create_app` and handed to every route.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from pathlib import Path

from .behaviour import Behaviour
from .state import State
from .wire import short_hash


class Sandbox:
    """What all routes share."""

    def __init__(self, folder: Path, behaviour: Behaviour) -> None:
        self.state = State(folder)
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

    def take_token(self, owner: str) -> tuple[int, float]:
        """Take one call from a key's allowance.

        Returns:
            what remains, and the seconds to wait; 0 seconds when the call is allowed.
        """
        limit = self._behaviour.requests_per_minute
        if limit <= 0:
            return 9999, 0.0
        burst, rate = max(1.0, limit / 6), limit / 60
        with self._guard:
            now = time.monotonic()
            left, since = self._buckets.get(owner, (burst, now))
            left = min(burst, left + (now - since) * rate)
            if left < 1:
                self._buckets[owner] = (left, now)
                return 0, (1 - left) / rate
            self._buckets[owner] = (left - 1, now)
            return int(left - 1), 0.0
