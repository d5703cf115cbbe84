"""One seed, from the first step to the end: processes advance the job, faults strike, people interfere, time passes.

After every step the promises are checked.
"""

from __future__ import annotations

import traceback
from collections.abc import Collection
from dataclasses import dataclass

from batch_jobs.errors import BatchJobsError, ConfigError, JobHeld, ProviderError, SyncFailed, WrongMoment
from batch_jobs.lifecycle.advance import Advanced, Came
from batch_jobs.lifecycle.control import cancel, resume
from batch_jobs.lifecycle.view import view
from batch_jobs.models import Phase
from batch_jobs.storage.leases import TTL_SECONDS
from tests.contract.lifecycle.kit import Crash
from tests.simulation.faults import Fault, Faults
from tests.simulation.invariants import check_end, check_step
from tests.simulation.stage import Stage
from tests.simulation.template import QUARANTINE, Template
from tests.simulation.violations import Kind, Violation
from tests.simulation.world import HOUR, Process, World

STEPS = 160
QUIET_AFTER = 45
"""Then all faults are lifted, and the job has to end."""
FORWARD_SECONDS = 50.0
"""How far our clock is set forward at once. It shortens the quarantine, which has so much to spare here."""
RARELY = 0.02
"""The chance of what may happen at any moment of a job: there are about a hundred."""


@dataclass(frozen=True)
class Failure:
    """A seed that broke a promise, with what led to it."""

    seed: int
    violation: Violation
    log: list[str]

    def __str__(self) -> str:
        again = f"python -m tests.simulation --seed {self.seed} --verbose"
        return f"seed {self.seed}: {self.violation}\n  repeat it with: {again}"


class Simulation:
    """Plays one seed."""

    def __init__(self, stage: Stage, template: Template, seed: int, only: Collection[Fault] | None = None) -> None:
        self.stage, self.seed = stage, seed
        self.world = World(template, Faults(seed, only))
        self.world.interfere = self._interfere
        self.process = self.world.new_process()
        self.open = [plan.task_id for plan in self.world.jobs]
        self.nested = False

    def run(self) -> Failure | None:
        """Play it; None when every promise was kept."""
        with self.stage.shows(self.world):
            try:
                self._play()
            except Violation as violation:
                return Failure(self.seed, violation, self.world.log)
        return None

    def _play(self) -> None:
        world = self.world
        for step in range(STEPS * len(world.jobs)):
            world.faults.quiet = step >= QUIET_AFTER * len(world.jobs)
            task_id = world.faults.pick("job", self.open)
            self._people(task_id)
            advanced = self._step(task_id)
            self._first_violation()
            check_step(world)
            self._between(task_id, advanced)
            if not self.open:
                check_end(world)
                return
        raise Violation(Kind.NO_END, f"after {STEPS * len(world.jobs)} steps")

    def _first_violation(self) -> None:
        if self.world.violations:
            raise self.world.violations[0]

    # --- our processes ---------------------------------------------------------------------------------------

    def _step(self, task_id: str) -> Advanced | None:
        """One `advance`; None when it did not come to its end."""
        process, server = self._next_process(), self.world.server
        before, server.step_began = server.step_began, self.world.now
        try:
            advanced = process.advance(task_id)
        except Crash:
            return None
        except SyncFailed:
            process.note("stops: a sync failed")
            process.die()
            return None
        except JobHeld:
            process.note("is held by another")
            process.replace()
            return None
        except BatchJobsError as error:
            self._judge(task_id, process, error)
            return None
        except Exception as error:
            raise Violation(Kind.TROUBLE, "".join(traceback.format_exception(error))) from error
        finally:
            server.step_began = before
        process.note(f"came to {advanced.came} {advanced.seconds:.1f} {' '.join(advanced.waits_for)[:6]}")
        return advanced

    def _judge(self, task_id: str, process: Process, error: BatchJobsError) -> None:
        """What `advance` may raise: that it is the wrong key, and while it cancels, what it can't pause for."""
        self._first_violation()
        if isinstance(error, ConfigError) and process.has_another_key:
            process.note("refuses to go on with another key")
        elif isinstance(error, ProviderError) and error.operator and self._phase(task_id) is Phase.CANCELLING:
            process.note("can't cancel without the account")
        else:
            kind = next((kind for kind in (Kind.ILLEGAL_MOVE, Kind.OUTCOME) if f"{kind}:" in str(error)), Kind.TROUBLE)
            raise Violation(kind, f"{type(error).__name__}: {error}") from error

    def _phase(self, task_id: str) -> Phase:
        row = self.world.reader.execute("SELECT phase FROM jobs WHERE task_id = ?", (task_id,)).fetchone()
        return Phase(row[0])

    def _next_process(self) -> Process:
        """The one that goes on; a new one after a death, and one with another key where the operator mixed them up."""
        if self.world.faults.strikes(Fault.OTHER_KEY, chance=0.06):
            return self.world.new_process("another key")
        if self.process.dead or self.process.replaced:
            self.process = self.world.new_process()
        return self.process

    def _interfere(self, process: Process, site: str) -> None:
        """What else may happen while a process is in the middle of something."""
        if self.nested or self.world.faults.quiet or process.replaced:
            return
        strikes, world = self.world.faults.strikes, self.world
        if strikes(Fault.STOP, site, RARELY):
            process.note(f"is asked to stop, {site}")
            process.stop.set()
        if strikes(Fault.SLEEPS, site, RARELY):
            world.sleep(world.faults.between("sleep", 600, 40_000))
            process.note(f"slept, {site}")
        self._set_clock(process, site)
        if world.server.batches and strikes(Fault.USER_CANCELS, site, RARELY):
            self._cancel(process.job)
        if strikes(Fault.TAKEOVER, site, 2 * RARELY):
            self._take_over(process, site)
        elif len(self.open) > 1 and strikes(Fault.AT_ONCE, site, 4 * RARELY):
            self._advance_the_other(process, site)

    def _set_clock(self, process: Process, site: str) -> None:
        world = self.world
        before = world.skew
        if world.faults.strikes(Fault.CLOCK_BACK, site, 2 * RARELY):
            world.skew -= world.faults.between("skew", 1, 2 * HOUR)
        if world.faults.strikes(Fault.CLOCK_ON, site, 2 * RARELY):
            world.skew += world.faults.between("skew", 1, FORWARD_SECONDS)
        if world.skew != before:
            process.note(f"the clock is set from {before:.0f} to {world.skew:.0f}, {site}")
            world.sleep(0)

    def _take_over(self, process: Process, site: str) -> None:
        """The process sleeps past its lease, another one works on its job, and then it wakes up."""
        world = self.world
        process.note(f"falls asleep, {site}")
        process.replace()
        world.now += TTL_SECONDS + 1
        self.process = world.new_process()
        for _ in range(1 + int(world.faults.draw("passes") * 3)):
            advanced = self._meanwhile(process.job)
            if advanced is None:
                break
            world.now += min(advanced.seconds, 20.0)
        process.note("wakes up")

    def _advance_the_other(self, process: Process, site: str) -> None:
        """Another process advances the other job, right in the middle."""
        process.note(f"is in the middle of something, {site}")
        before, self.process = self.process, self.world.new_process()
        self._meanwhile(next(task_id for task_id in self.open if task_id != process.job))
        self.process = before
        process.note("goes on")

    def _meanwhile(self, task_id: str) -> Advanced | None:
        self.nested = True
        try:
            return self._step(task_id)
        finally:
            self.nested = False

    # --- people, and time ------------------------------------------------------------------------------------

    def _people(self, task_id: str) -> None:
        if self.world.faults.strikes(Fault.USER_LOOKS):
            with self.world.user() as project:
                view(project, task_id).as_json()
        if self.world.server.batches and self.world.faults.strikes(Fault.USER_CANCELS, chance=4 * RARELY):
            self._cancel(task_id)

    def _cancel(self, task_id: str) -> None:
        self.world.note("the user cancels")
        try:
            with self.world.user() as project:
                cancel(project, task_id)
        except WrongMoment:
            self.world.note("too late")

    def _between(self, task_id: str, advanced: Advanced | None) -> None:
        """What happens until somebody comes again."""
        world, faults = self.world, self.world.faults
        if advanced is None:
            world.now += HOUR if self.process.replaced else TTL_SECONDS
            return
        self.process.stop.clear()
        if advanced.came is Came.DONE:
            self.open.remove(task_id)
        if advanced.came is Came.PAUSED:
            world.now += faults.between("pause", 60, 7200)
            faults.note(Fault.USER_RESUMES)
            world.note("the user resumes")
            world.server.low_balance = False
            with world.user() as project:
                resume(project, task_id)
        if advanced.came is Came.WAIT:
            self._wait(advanced.seconds)

    def _wait(self, seconds: float) -> None:
        """Come back too early, when asked to, when the provider has news, or the next morning."""
        world, how = self.world, self.world.faults.draw("patience")
        changes = world.server.next_changes()
        if how < 0.06:
            world.now += seconds * 0.5
        elif how < 0.2:
            world.now += max(seconds, 0.05)
        elif how < 0.6 and changes:
            world.now = max(world.now + seconds, changes[0] + 1)
        else:
            world.now = max([world.now + QUARANTINE + 60, *changes]) + seconds
