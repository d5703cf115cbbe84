"""What the simulator puts in the place of the world outside: time, leases' neighbours, syncs, threads.

Nothing of the product's own decisions is replaced. Two reads are only made cheaper: one DuckDB for all queries, and one
read-only engine for all checks.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest
from sqlalchemy import Engine

from batch_jobs import system
from batch_jobs.lifecycle import (
    advance,
    asking,
    check_databases,
    check_folders,
    check_plan,
    checking,
    concurrent,
    merger,
    passes,
    plan,
)
from batch_jobs.lifecycle.joblog import ROOT_LOGGER
from batch_jobs.lifecycle.pool import calls as pool_calls
from batch_jobs.render.judge_prompt import load_judge
from batch_jobs.render.prompts import load_prompt
from batch_jobs.storage import claims, events, jobs, leases
from tests.simulation.faults import Fault
from tests.simulation.world import World


class Stage:
    """Holds the world that is on."""

    def __init__(self) -> None:
        self._world: World | None = None

    @property
    def world(self) -> World:
        assert self._world is not None, "no world is on the stage"
        return self._world

    @contextlib.contextmanager
    def shows(self, world: World) -> Iterator[None]:
        """Play one world."""
        self._world = world
        try:
            yield
        finally:
            world.close()
            self._world = None

    # --- time and chance -------------------------------------------------------------------------------------

    def time(self) -> float:
        """In the place of `time.time`."""
        return self.world.client_time()

    def random(self) -> float:
        """In the place of `random.random`."""
        return self.world.faults.draw("jitter")

    def next_done(self, done: queue.SimpleQueue[Any], seconds: float) -> Any:
        """In the place of the pool's waiting: time passes at once."""
        try:
            return done.get_nowait()
        except queue.Empty:
            if seconds > 0:
                self.world.sleep(seconds)
            return None

    # --- leases ----------------------------------------------------------------------------------------------

    def holder_name(self) -> str:
        return self.world.running[-1].name

    def is_dead(self, holder: str) -> bool:
        """Only of a process of the same machine it can be told."""
        return holder.startswith("here:") and holder in self.world.dead

    # --- the disk --------------------------------------------------------------------------------------------

    def fsync(self, handle: int) -> None:
        if self.world.faults.strikes(Fault.SYNC_FAILS, chance=0.02):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.world.disk.fsync(handle)

    def sync_filesystem(self, _: Path) -> None:
        self.world.disk.sync_all()


class OwnThread:
    """In the place of a thread pool: whatever is submitted is done at once, in its order."""

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> OwnThread:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*arguments))
        return future


@contextlib.contextmanager
def set_up() -> Iterator[Stage]:
    """Put everything in its place, and take it away again."""
    stage = Stage()
    with pytest.MonkeyPatch.context() as patch:
        for module in (leases, events, jobs, claims):
            patch.setattr(module, "time", stage)
        patch.setattr(advance, "random", stage)
        patch.setattr(passes, "random", stage)
        patch.setattr(leases, "holder_name", stage.holder_name)
        patch.setattr(leases, "_is_dead", stage.is_dead)
        patch.setattr(leases, "release", _release_of_the_living(stage, leases.release))
        for module in (concurrent, pool_calls):
            patch.setattr(module, "ThreadPoolExecutor", OwnThread)
        patch.setattr(pool_calls, "next_done", stage.next_done)
        patch.setattr(os, "fsync", stage.fsync)
        patch.setattr(system, "sync_filesystem", stage.sync_filesystem)
        patch.setattr(os, "replace", _noticed(stage, os.replace))
        _make_cheap(patch)
        yield stage


def _release_of_the_living(stage: Stage, release: Callable[[Engine, leases.Lease], None]) -> Any:
    """A process that died gives nothing back."""

    def maybe(engine: Engine, lease: leases.Lease) -> None:
        if lease.holder not in stage.world.dead:
            release(engine, lease)

    return maybe


def _noticed(stage: Stage, replace: Callable[[Any, Any], None]) -> Any:
    def noticed(source: Any, target: Any) -> None:
        stage.world.disk.renaming(Path(target))
        replace(source, target)

    return noticed


class NoThread:
    """In the place of the thread that renews a lease: no `advance` takes so long here."""

    def __init__(self, **_: object) -> None:
        pass

    def start(self) -> None:
        pass

    def join(self) -> None:
        pass


def _make_cheap(patch: pytest.MonkeyPatch) -> None:
    """What costs a job most of its time and is the same for every copy of the template is done once.

    A DuckDB of its own takes 15 ms, a new engine compiles each query anew; plans and prompts never change.
    """
    patch.setattr(logging.getLogger(ROOT_LOGGER), "propagate", False)  # each job has its own log file all the same
    patch.setattr(leases, "threading", SimpleNamespace(Thread=NoThread, Event=threading.Event))
    prompts = lru_cache(load_prompt)
    for user in (merger, checking, asking):
        patch.setattr(user, "kept_prompt", prompts)
    judges = lru_cache(lambda folder, judge, prompt: load_judge(folder / judge, prompts(folder, prompt).output))
    for reader in (merger, checking, asking, plan):
        patch.setattr(reader, "kept_judge", judges)
    for module in (check_plan, check_folders):
        patch.setattr(module, "query_parquet", _queried_once(check_plan.query_parquet))
    shared = duckdb.connect(config={"threads": 1})
    patch.setattr(duckdb, "connect", lambda *_, **__: shared.cursor())
    patch.setattr(check_databases, "open_read_only", lru_cache(check_databases.open_read_only))


def _queried_once(query_parquet: Callable[..., Iterator[tuple[Any, ...]]]) -> Any:
    known: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}

    def rows(query: str, tables: dict[str, Any], spill: Path) -> Iterator[tuple[Any, ...]]:
        if not all(isinstance(table, Path) for table in tables.values()):
            yield from query_parquet(query, tables, spill)
            return
        key = query, *map(str, tables.values())
        if key not in known:
            known[key] = list(query_parquet(query, tables, spill))
        yield from known[key]

    return rows
