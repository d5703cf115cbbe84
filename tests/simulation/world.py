"""A simulated world: planned jobs on real files and databases, a provider, a clock, processes that come and go."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, Engine

from batch_jobs import system
from batch_jobs.lifecycle.advance import Advanced, advance
from batch_jobs.lifecycle.pool.gate import Gates
from batch_jobs.lifecycle.project import Project
from batch_jobs.lifecycle.run import Progress
from batch_jobs.models import Mode
from batch_jobs.storage import leases
from batch_jobs.storage.call_cache import Answer, CallCache
from batch_jobs.storage.ledger import Ledger
from tests.contract.lifecycle.kit import Crash
from tests.simulation.audit import Rules
from tests.simulation.disk import Disk
from tests.simulation.faults import CHANCE, Fault, Faults
from tests.simulation.server import Server
from tests.simulation.template import ANSWERS, JUDGES, LIMITS, QUARANTINE, RIGHT_KEY, ROWS_TOGETHER, Template, Way
from tests.simulation.violations import Kind, Violation
from tests.simulation.wire import Wires

START = 1_800_000_000.0
HOUR = 3600.0
CRASH_CHANCE = 0.06
"""At each of the about hundred moments of a job at which a process may die, where its site is on; the cache has few."""
JUDGED_CHANCE = 0.9
"""Where it is on: rules of answers are what most of a job's steps depend on."""


def in_memory_folder() -> str | None:
    """A folder without a disk behind it, where there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


COUNTING = frozenset({"merge_now"})
"""Where single calls are counted."""
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
        strikes = self.faults.strikes
        judged, bundled = strikes(Fault.JUDGED, chance=JUDGED_CHANCE), strikes(Fault.BUNDLED, chance=JUDGED_CHANCE)
        grouped = not bundled and strikes(Fault.GROUPED, chance=JUDGED_CHANCE)
        self.way = Way(judged, ROWS_TOGETHER if bundled else 1, grouped)
        repairs = self.faults.pick("repairs", [0, 1]) if strikes(Fault.FEW_REPAIRS, chance=JUDGED_CHANCE) else 2
        self.rules = Rules(judged, self.way.rows, repairs)
        self.made = self.template.made[self.way]
        self.template.copy(self.way)
        self.disk = Disk(self.template.root, watched=Fault.POWER_LOSS in self.faults.on)
        self.disk.format()
        if self.faults.strikes(Fault.CLOCK_WRONG, chance=0.5):
            self.skew = self.faults.between("skew", -6 * HOUR, 6 * HOUR)
        self.settings = self.template.settings[self.way, self.faults.pick("size", range(len(LIMITS)))]
        self.reader = sqlite3.connect(self.template.workspace.ledger, isolation_level=None)
        self.cache_reader = sqlite3.connect(self.template.workspace.call_cache, isolation_level=None)
        report = self.violations.append
        self.server = Server(self.faults, lambda: self.now, report, QUARANTINE, self.rules, self.forgiven)
        self.jobs = self.made.jobs[: 2 if self.faults.strikes(Fault.TWO_JOBS, chance=0.5) else 1]
        for plan in self.made.jobs[len(self.jobs) :]:
            for table in ("items", "events", "jobs"):
                self.reader.execute(f"DELETE FROM {table} WHERE task_id = ?", (plan.task_id,))
        for plan in self.jobs:
            mode = Mode.CONCURRENT if self.faults.strikes(Fault.CONCURRENT, chance=0.5) else Mode.BATCH
            values = mode, self.rules.repairs, plan.task_id
            self.reader.execute(
                "UPDATE jobs SET mode = ?, autostart = 1, rules = json_set(rules, '$.repairs', ?) WHERE task_id = ?",
                values,
            )

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
        process = Process(self, 0, {ANSWERS: RIGHT_KEY, JUDGES: RIGHT_KEY})
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
            environ=self.environ(),
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
        """A process; one with another key has it for the one provider or for the other."""
        self.processes += 1
        keys = {ANSWERS: RIGHT_KEY, JUDGES: RIGHT_KEY}
        keys[self.faults.pick("which key", sorted(keys)) if self.rules.judged and key != RIGHT_KEY else ANSWERS] = key
        return Process(self, self.processes, keys)

    @staticmethod
    def environ(key: str = RIGHT_KEY, judge_key: str = RIGHT_KEY) -> dict[str, str]:
        """The keys that are set."""
        return {"THE_KEY": key, "JUDGE_KEY": judge_key}

    def note(self, text: str) -> None:
        """A line of the schedule."""
        self.log.append(f"{self.now - START:10.1f}  {text}")

    def close(self) -> None:
        self.reader.close()
        self.cache_reader.close()


class Process:
    """One of our processes: its own Project, and moments at which it may die, sleep, be replaced or be spoken to."""

    def __init__(self, world: World, number: int, keys: dict[str, str]) -> None:
        self.world, self.number, self.keys = world, number, keys
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
            environ=world.environ(keys[ANSWERS], keys[JUDGES]),
            clock=world.client_time,
            gates=Gates(lambda: world.now),
            uptime=lambda: world.now,
            _connected=Wires(world.server, self, world.made.prefixes),
        )

    @property
    def has_another_key(self) -> bool:
        """Whether a key is not that of the jobs' account."""
        return any(key != RIGHT_KEY for key in self.keys.values())

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
        kept, world = {answer.fingerprint for answer in new}, self.world
        for call in world.server.calls:
            if call.process == self.number and not call.lost and kept & world.template.keys_of(world.way, call.asked):
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
        if site in COUNTING:
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
