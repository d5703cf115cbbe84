"""Processes for work on many rows: begun when first needed, shared by a run's steps, ended with their parent.

They are forked from a small server process that has the libraries loaded (on systems that have it), so that the second
one costs next to nothing. Rows don't travel: a task names files and ranges, and its worker reads and writes them.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import starmap
from typing import Any, TypeVar

from batch_jobs import system
from batch_jobs.errors import SyncFailed, WorkerDied

T = TypeVar("T")
AHEAD = 2
"""Tasks a worker that are begun and whose results nobody has taken yet."""

PRELOADED = "batch_jobs.lifecycle.preloaded"


class Workers:
    """A pool of processes; safe to share between threads. `kept` says for how long it lives.

    Attributes:
        count: how many at most.
        apart: even what is done at once is done in a process of its own, so that users' code can't end this one.
        none: no process is ever begun, as each would import the caller's script once more: all is done in this one.
    """

    def __init__(self, count: int | None = None, *, none: bool = False) -> None:
        self.count = count or os.cpu_count() or 1
        self.apart = False
        self.none = none
        self._lock = threading.Lock()
        self._users = 0
        self._pool: ProcessPoolExecutor | None = None

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the processes, once begun, until nobody keeps them any more."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                pool, self._pool = (self._pool, None) if self._users == 0 else (None, self._pool)
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)

    def warm(self) -> None:
        """Begin the processes now, in the background: something for them to do comes soon, in this process."""
        if self.none:
            return
        with self._lock:
            pool = self._begun()
        threading.Thread(target=_warm, args=(pool, self.count), name="workers-warm", daemon=True).start()

    def close(self) -> None:
        """End the processes, whoever began them."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def run(
        self, function: Callable[..., T], tasks: Iterable[tuple[Any, ...]], *, here: bool = False
    ) -> Generator[T, None, None]:
        """Yield `function(*task)` for each task, in order; only a few results wait to be taken.

        Args:
            function: of a module, as it travels by its name.
            tasks: its arguments.
            here: it is not worth a process: do it in this one.

        Raises:
            WorkerDied: a process ended in the middle of its task.
            SyncFailed: the disk could not make a worker's files durable; this process can't go on either.
        """
        if here or self.none:
            yield from starmap(function, tasks)
            return
        under_way: deque[Future[T]] = deque()
        with self.kept():
            try:
                for task in tasks:
                    if len(under_way) >= AHEAD * self.count:
                        yield under_way.popleft().result()
                    under_way.append(self._submit(function, *task))
                while under_way:
                    yield under_way.popleft().result()
            except BrokenProcessPool as error:
                with self._lock:
                    self._pool = None
                raise WorkerDied from error
            except SyncFailed as error:
                system.sync_failed_in_worker(error)
                raise
            finally:
                for future in under_way:
                    future.cancel()

    def _submit(self, function: Callable[..., T], *task: Any) -> Future[T]:
        """Hand a task over, beginning the processes where there are none; never to a pool that is just being ended."""
        with self._lock:
            return self._begun().submit(function, *task)

    def _begun(self) -> ProcessPoolExecutor:
        """The pool, under the lock; it begins its processes as it needs them."""
        self._pool = self._pool or ProcessPoolExecutor(self.count, mp_context=_context(), initializer=_as_worker)
        return self._pool


def _warm(pool: ProcessPoolExecutor, count: int) -> None:
    """Begin a pool's processes; where it is ended meanwhile, or one dies, whoever needs them is told."""
    with contextlib.suppress(BrokenProcessPool, RuntimeError, OSError, EOFError):
        for _ in range(count):
            pool.submit(os.getpid)


def _context() -> Any:
    """Never fork this process itself: it has threads."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOADED])
    return context


def _as_worker() -> None:
    """What a worker does first."""
    _collect_seldom()
    _end_with_parent()


def _collect_seldom() -> None:
    """Let this process make lists of thousands of rows without looking for cycles in them again and again.

    After 50,000 new objects instead of 700: it saves a sixth of the time that a row takes.
    """
    gc.set_threshold(50_000, 10, 10)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever, with the parent's output pipes open."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
