"""What a step is given while a job is advanced: the project, the lease, a way to tell and a way to be stopped."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sqlalchemy import Connection

from batch_jobs.lifecycle.project import Project
from batch_jobs.storage import leases


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a job is right now, for whoever watches.

    Attributes:
        step: rendering, preparing, waiting, answering, merging, filing, writing; or held, trouble.
        done: units done, of `total`.
        detail: the provider's own word for it, or what went wrong on the way.
        eta_seconds: remaining time, where it can be told.
    """

    task_id: str
    step: str
    done: int
    total: int
    detail: str = ""
    eta_seconds: float | None = None


Notify = Callable[[Progress], None]


def nobody(_: Progress) -> None:
    """Nobody watches."""


@dataclass(frozen=True, slots=True)
class Run:
    """The right to advance one job, and its surroundings."""

    project: Project
    lease: leases.Lease
    notify: Notify = nobody
    stop: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """A fenced ledger transaction."""
        with self.project.ledger.write(self.lease) as connection:
            yield connection
