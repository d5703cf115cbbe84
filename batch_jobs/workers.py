"""Processes for work on many rows: begun when first needed, shared by a run's steps, ended with their parent.

They are forked from a small server process that has the libraries loaded (on systems that have it), so that the second
one costs next to nothing. Rows don't travel: a task names files and ranges, and its worker reads and writes them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Any, TypeVar

from batch_jobs import system
from batch_jobs.errors import SyncFailed, WorkerDied

T = TypeVar("T")
AHEAD = 2
"""Tasks a worker that are begun and whose results nobody has taken yet."""

PRELOADED = "batch_jobs.lifecycle.preloaded"


class Workers:
    """A pool of processes; safe to share between threads. `kept` says for how long it lives."""

    def __init__(self, count: int | None = None) -> None:
        self.count = count or os.cpu_count() or 1
        self._lock = threading.Lock()
        self._users = 0
        self._many = False
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

    def expect_many(self) -> None:
        """This process lives long: have all that any step needs loaded before the first of them, however small."""
        self._many = True

    def warm(self) -> None:
        """Begin the processes now, in the background: something for them to do comes soon, in this process."""
        pool = self._begin(PRELOADED)
        threading.Thread(target=_warm, args=(pool, self.count), name="workers-warm", daemon=True).start()

    def close(self) -> None:
        """End the processes, whoever began them."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def run(self, function: Callable[..., T], tasks: Iterable[tuple[Any, ...]]) -> Iterator[T]:
        """Yield `function(*task)` for each task, in order; only a few results wait to be taken.

        Raises:
            WorkerDied: a process ended in the middle of its task.
            SyncFailed: the disk could not make a worker's files durable; this process can't go on either.
        """
        under_way: deque[Future[T]] = deque()
        source = iter(tasks)
        first = list(islice(source, 2))
        with self.kept():
            try:
                self._begin(PRELOADED if len(first) > 1 or self._many else function.__module__)
                for task in chain(first, source):
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
            pool = self._pool = self._pool or _new_pool(self.count, PRELOADED)
            return pool.submit(function, *task)

    def _begin(self, preloaded: str) -> ProcessPoolExecutor:
        with self._lock:
            pool = self._pool = self._pool or _new_pool(self.count, preloaded)
            return pool


def _new_pool(count: int, preloaded: str) -> ProcessPoolExecutor:
    """A pool that begins its processes as it needs them.

    Args:
        count: how many at most.
        preloaded: the module that they are forked with. For one task only its own: a small job is done with it before
            all the others are loaded. Where this process has forked before, what was loaded then stays.
    """
    return ProcessPoolExecutor(count, mp_context=_context(preloaded), initializer=_as_worker)


def _warm(pool: ProcessPoolExecutor, count: int) -> None:
    """Begin a pool's processes; where it is ended meanwhile, or one dies, whoever needs them is told."""
    with contextlib.suppress(BrokenProcessPool, RuntimeError):
        for _ in range(count):
            pool.submit(os.getpid)


def _context(preloaded: str) -> Any:
    """Never fork this process itself: it has threads."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preloaded])
    return context


def _as_worker() -> None:
    """What a worker does first."""
    system.collect_seldom()
    _end_with_parent()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever, with the parent's output pipes open."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
