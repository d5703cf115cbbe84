"""A simulated world: planned jobs on real files and databases, a provider, a clock, processes that come and go."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine

from batch_jobs import system
from batch_jobs.config import Settings, load_settings
from batch_jobs.lifecycle.advance import Advanced, Came, advance
from batch_jobs.lifecycle.pool.gate import Gates
from batch_jobs.lifecycle.project import Project, workspace_of
from batch_jobs.lifecycle.receive import Order, receive
from batch_jobs.lifecycle.run import Progress
from batch_jobs.models import PHASE_MOVES, SHARD_MOVES, Mode, Outcome
from batch_jobs.render.items import read_items, read_rows
from batch_jobs.storage import leases
from batch_jobs.storage.call_cache import Answer, CallCache
from batch_jobs.storage.database import open_sqlite
from batch_jobs.storage.ledger import Ledger
from batch_jobs.storage.workspace import Workspace
from tests.contract.lifecycle.kit import EVENTS, Crash, OnlyProvider, make_template, open_fake, write_project
from tests.simulation.disk import Disk
from tests.simulation.faults import CHANCE, Fault, Faults
from tests.simulation.server import Server
from tests.simulation.violations import Kind, Violation
from tests.simulation.wire import Wire

RIGHT_KEY = "key"
START = 1_800_000_000.0
QUARANTINE = 900.0
HOUR = 3600.0
SHARD_SIZES = (2, 3, 3)
CRASH_CHANCE = 0.06
"""At each of the about hundred moments of a job at which a process may die, where its site is on; the cache has few."""
EQUAL_ERRORS_MIN = 4
SECTIONS: dict[str, Any] = {
    "polling": {"min_seconds": 5, "max_seconds": 7200},
    "submission": {"quarantine_seconds": QUARANTINE, "parallel_transfers": 1},
    "rounds": {"equal_errors_min": EQUAL_ERRORS_MIN},
}
LATER = ["event-6", "event-4", "event-5", "UNRENDERABLE", "event-7", "event-4"]
"""A second upload, two of whose four items are the first one's, too."""
MOVES = (("provider_batches", "state", SHARD_MOVES), ("jobs", "phase", PHASE_MOVES))


def in_memory_folder() -> str | None:
    """A folder without a disk behind it, where there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@dataclass(frozen=True)
class JobPlan:
    """A planned job of the template: what its file holds, row by row, and which item answers which row."""

    task_id: str
    uploaded: list[str]
    item_of_row: list[int | None]
    events: list[str]

    @classmethod
    def read(cls, task_id: str, uploaded: list[str], plan: Path) -> JobPlan:
        """Read a job's plan."""
        items = [row.item for row in read_rows(plan)]
        event_of = {item: uploaded[row] for row, item in enumerate(items) if item is not None}
        return cls(task_id, uploaded, items, [event_of[item] for item in sorted(event_of)])


class Template:
    """Two planned jobs, made once by the real process pool; each world is a copy of one or both.

    Its ledger refuses by triggers what must never happen: a move that no table allows, an outcome that changes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "template"
        self.root = folder / "world"
        first = make_template(self.folder)
        self.settings: dict[int, Settings] = {}
        for size in set(SHARD_SIZES):
            config = write_project(self.folder, limits={"max_requests": size}, **SECTIONS)
            self.settings[size] = load_settings(config, {})
        some = self.settings[SHARD_SIZES[0]]
        self.workspace: Workspace = workspace_of(some, self.root / "config.json", self.root)
        here = workspace_of(some, config, self.folder)
        self.jobs = [JobPlan.read(first, EVENTS, here.plan(first))]
        second = _add_job(config, self.folder / "later.csv", LATER)
        self.jobs.append(JobPlan.read(second, LATER, here.plan(second)))
        self.by_fingerprint = {
            planned.fingerprint: job.events[planned.item]
            for job in self.jobs
            for planned in read_items(here.plan(job.task_id))
        }
        with contextlib.closing(sqlite3.connect(here.ledger)) as ledger:
            ledger.executescript("".join(_triggers()))
        self.ledger_engine = open_sqlite(self.workspace.ledger)
        self.cache_engine = open_sqlite(self.workspace.call_cache)

    def copy(self) -> None:
        """A fresh world; what is never written again is only linked."""
        self.ledger_engine.dispose()
        self.cache_engine.dispose()
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.folder, self.root, copy_function=_link_or_copy)

    def close(self) -> None:
        self.ledger_engine.dispose()
        self.cache_engine.dispose()


def _add_job(config: Path, upload: Path, events: list[str]) -> str:
    """Plan another job in the template's store; returns its task_id."""
    project, _, _ = open_fake(config)
    upload.write_text("number,what\n" + "".join(f"{number},{event}\n" for number, event in enumerate(events)))
    task_id = receive(project, Order(upload, upload.name, "summarize", "loss")).task_id
    assert advance(project, task_id).came is Came.CONFIRM
    project.close()
    return task_id


def _link_or_copy(source: str, target: str) -> None:
    if ".sqlite" in source:
        shutil.copy(source, target)
    else:
        os.link(source, target)


def _triggers() -> Iterator[str]:
    for table, column, moves in MOVES:
        legal = " OR ".join(f"(OLD.{column}='{a}' AND NEW.{column}='{b}')" for a, to in moves.items() for b in to)
        yield (
            f"CREATE TRIGGER legal_{table} BEFORE UPDATE OF {column} ON {table} "
            f"WHEN NOT ({legal} OR OLD.{column}=NEW.{column}) "
            f"BEGIN SELECT RAISE(ABORT, '{Kind.ILLEGAL_MOVE}: {table}'); END;"
        )
    yield (
        "CREATE TRIGGER one_outcome BEFORE UPDATE OF outcome ON items "
        "WHEN OLD.outcome IS NOT NULL AND NEW.outcome IS NOT OLD.outcome "
        f"AND NOT (OLD.outcome='{Outcome.ERRORED}' AND NEW.outcome IS NULL) "
        f"BEGIN SELECT RAISE(ABORT, '{Kind.OUTCOME}: it changed'); END;"
        "CREATE TABLE reopened (task_id TEXT, item INTEGER);"
        "CREATE TRIGGER note_reopened AFTER UPDATE OF outcome ON items "
        "WHEN OLD.outcome IS NOT NULL AND NEW.outcome IS NULL "
        "BEGIN INSERT INTO reopened VALUES (NEW.task_id, NEW.item); END;"
    )


Interfere = Callable[["Process", str], None]


@dataclass
class World:
    """Everything of one seed.

    Attributes:
        now: the true time; our machines' clocks are `skew` seconds off.
        running: the processes that are in the middle of something, innermost last.
        interfere: told of each moment at which anything may happen to a process.
    """

    template: Template
    faults: Faults
    now: float = START
    skew: float = 0.0
    log: list[str] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    dead: set[str] = field(default_factory=set)
    processes: int = 0
    reopened: int = 0
    running: list[Process] = field(default_factory=list)
    interfere: Interfere = lambda _process, _site: None

    def __post_init__(self) -> None:
        self.template.copy()
        self.disk = Disk(self.template.root, watched=Fault.POWER_LOSS in self.faults.on)
        self.disk.format()
        if self.faults.strikes(Fault.CLOCK_WRONG, chance=0.5):
            self.skew = self.faults.between("skew", -6 * HOUR, 6 * HOUR)
        self.settings = self.template.settings[self.faults.pick("size", SHARD_SIZES)]
        self.reader = sqlite3.connect(self.template.workspace.ledger, isolation_level=None)
        self.cache_reader = sqlite3.connect(self.template.workspace.call_cache, isolation_level=None)
        self.server = Server(self.faults, lambda: self.now, self.violations.append, QUARANTINE, self.forgiven)
        self.jobs = self.template.jobs[: 2 if self.faults.strikes(Fault.TWO_JOBS, chance=0.5) else 1]
        for plan in self.template.jobs[len(self.jobs) :]:
            for table in ("items", "events", "jobs"):
                self.reader.execute(f"DELETE FROM {table} WHERE task_id = ?", (plan.task_id,))
        for plan in self.jobs:
            mode = Mode.CONCURRENT if self.faults.strikes(Fault.CONCURRENT, chance=0.5) else Mode.BATCH
            self.reader.execute("UPDATE jobs SET mode = ?, autostart = 1 WHERE task_id = ?", (mode, plan.task_id))

    def forgiven(self, task_id: str, event: str) -> int:
        """How often an item of a job was opened again, because not it was at fault."""
        plan = next(plan for plan in self.jobs if plan.task_id == task_id)
        query = "SELECT count(*) FROM reopened WHERE task_id = ? AND item = ?"
        return int(self.reader.execute(query, (task_id, plan.events.index(event))).fetchone()[0])

    @contextlib.contextmanager
    def runs(self, process: Process) -> Iterator[None]:
        """Let a process do something; what a process knows of failed syncs is its own."""
        outside, system._failed_sync = system._failed_sync, process.failed_sync
        self.running.append(process)
        try:
            yield
        finally:
            self.running.pop()
            process.failed_sync, system._failed_sync = system._failed_sync, outside

    @contextlib.contextmanager
    def user(self) -> Iterator[Project]:
        """A process of somebody's own, to whom nothing happens."""
        process = Process(self, 0, RIGHT_KEY)
        with self.runs(process):
            yield self.observer

    @property
    def observer(self) -> Project:
        """A project of somebody to whom nothing happens: the user's own process."""
        template = self.template
        return Project(
            settings=self.settings,
            prompt_lib=template.root / "prompt_lib",
            workspace=template.workspace,
            ledger=Ledger(template.ledger_engine),
            cache=CallCache(template.cache_engine),
            environ={"THE_KEY": RIGHT_KEY},
            clock=self.client_time,
            gates=Gates(lambda: self.now),
            uptime=lambda: self.now,
        )

    def sleep(self, seconds: float) -> None:
        """Time passes for everybody; who holds a lease holds it on, as its renewal is the first to wake up."""
        self.now += seconds
        for process in self.running:
            values = self.client_time() + leases.TTL_SECONDS, process.name
            self.reader.execute("UPDATE leases SET expires_at = ? WHERE holder = ? AND expires_at > 0", values)

    def client_time(self) -> float:
        """What our machines take for the time."""
        return self.now + self.skew

    def new_process(self, key: str = RIGHT_KEY) -> Process:
        self.processes += 1
        return Process(self, self.processes, key)

    def note(self, text: str) -> None:
        """A line of the schedule."""
        self.log.append(f"{self.now - START:10.1f}  {text}")

    def close(self) -> None:
        self.reader.close()
        self.cache_reader.close()


class Process:
    """One of our processes: its own Project, and moments at which it may die, sleep, be replaced or be spoken to."""

    def __init__(self, world: World, number: int, key: str) -> None:
        self.world, self.number, self.key = world, number, key
        self.dead = self.replaced = False
        self.stop = threading.Event()
        self.failed_sync: str | None = None
        self.job = ""
        elsewhere = number and world.faults.strikes(Fault.DIED_ELSEWHERE)
        self.name = f"{'elsewhere' if elsewhere else 'here'}:{number}:x"
        template = world.template
        self.project = Project(
            settings=world.settings,
            prompt_lib=template.root / "prompt_lib",
            workspace=template.workspace,
            ledger=SimLedger(template.ledger_engine, self),
            cache=SimCache(template.cache_engine, self),
            environ={"THE_KEY": key},
            clock=world.client_time,
            gates=Gates(lambda: world.now),
            uptime=lambda: world.now,
            _connected=OnlyProvider(Wire(world.server, self, RIGHT_KEY)),
        )

    def advance(self, task_id: str) -> Advanced:
        """Take a job as far as it goes."""
        self.job = task_id
        with self.world.runs(self):
            return advance(self.project, task_id, self._notified, self.stop)

    def note(self, text: str) -> None:
        self.world.note(f"p{self.number}  {text}")

    def _notified(self, progress: Progress) -> None:
        self.at(f"while {progress.step}", Fault.CRASH_ON_THE_WAY)

    def at(self, site: str, crash: Fault, *, alone: bool = False) -> None:
        """A moment at which this process may end, and where `alone` is not said, anybody else may act."""
        if self.dead:
            raise Crash
        if self.world.faults.strikes(crash, site, CHANCE if crash is Fault.CRASH_AT_CACHE else CRASH_CHANCE):
            self.note(f"dies {site}")
            raise self.die()
        if not alone:
            self.world.interfere(self, site)

    def die(self) -> Crash:
        """End here: what was in flight is lost, and with the power all that was not synced."""
        world = self.world
        self.dead = True
        world.dead.add(self.name)
        self.lose_calls()
        if world.faults.strikes(Fault.POWER_LOSS):
            self.note(f"the power goes: {', '.join(world.disk.lose(world.faults)) or 'nothing was lost'}")
        return Crash()

    def replace(self) -> None:
        """Another process has its lease, and this one does not know yet."""
        self.replaced = True
        self.lose_calls()

    def lose_calls(self) -> None:
        """Replies that were not made durable by this process will never be."""
        for call in self.world.server.calls:
            if call.process == self.number and not (call.cached or call.counted):
                call.lost = True

    def caches(self, new: Sequence[Answer]) -> None:
        """These answers are durable."""
        events = {self.world.template.by_fingerprint[answer.fingerprint] for answer in new}
        for call in self.world.server.calls:
            if call.process == self.number and call.event in events and not call.lost:
                call.cached = True

    def counts(self) -> None:
        """What was in flight was counted by this commit."""
        for call in self.world.server.calls:
            if call.process == self.number:
                call.counted = not call.lost


class SimLedger(Ledger):
    """The ledger as one process sees it."""

    def __init__(self, engine: Engine, process: Process) -> None:
        super().__init__(engine)
        self.process = process

    @contextlib.contextmanager
    def write(self, lease: leases.Lease | None = None) -> Iterator[Connection]:
        site = _caller()
        self.process.at(f"before the commit of {site}", Fault.CRASH_AT_COMMIT)
        with super().write(lease) as connection:
            if lease is not None:
                self._check_lease(connection, lease, site)
            yield connection
            self.process.at(f"within the commit of {site}", Fault.CRASH_AT_COMMIT, alone=True)
        self.process.counts()
        self.process.at(f"after the commit of {site}", Fault.CRASH_AT_COMMIT)

    def _check_lease(self, connection: Connection, lease: leases.Lease, site: str) -> None:
        token = connection.exec_driver_sql("SELECT token FROM leases WHERE name = ?", (lease.name,)).scalar()
        if token != lease.token:
            report = self.process.world.violations.append
            report(Violation(Kind.FENCING, f"{site} writes with token {lease.token}, and {token} is out"))


class SimCache(CallCache):
    """The call cache as one process sees it."""

    def __init__(self, engine: Engine, process: Process) -> None:
        super().__init__(engine)
        self.process = process

    def put(self, new: Sequence[Answer]) -> None:
        self.process.at("before the cache", Fault.CRASH_AT_CACHE)
        super().put(new)
        self.process.caches(new)
        self.process.at("after the cache", Fault.CRASH_AT_CACHE)


def _caller() -> str:
    """The product's function that writes, as the name of a site."""
    frame = sys._getframe(3)
    while frame.f_back is not None and frame.f_code.co_name in {"write", "__enter__", "inner", "helper"}:
        frame = frame.f_back
    return frame.f_code.co_name
