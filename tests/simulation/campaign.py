"""Many seeds: played one after another in one process, or by several; what struck is counted, what broke is told."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.simulation.faults import Fault
from tests.simulation.simulator import Failure, Simulation
from tests.simulation.stage import Stage, set_up
from tests.simulation.template import Template
from tests.simulation.world import in_memory_folder

COLLECT_EVERY = 25
"""Seeds. The collector's own rhythm costs a tenth of the time."""


@dataclass
class Report:
    """What came of some seeds."""

    jobs: int = 0
    struck: Counter[Fault] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Take in what others found."""
        self.jobs += other.jobs
        self.struck += other.struck
        self.failures += other.failures

    @property
    def never_struck(self) -> list[Fault]:
        """Classes of faults of which nothing is known: they never happened."""
        return [fault for fault in Fault if not self.struck[fault]]

    def table(self) -> str:
        """Every class of faults and how often it struck."""
        width = max(len(fault) for fault in Fault)
        lines = [f"{fault:<{width}}  {self.struck[fault]:>9,}" for fault in Fault]
        return "\n".join([f"{self.jobs:,} jobs, {len(self.failures):,} failures", *lines])


class Players:
    """A stage with a template, kept for all seeds of a process."""

    def __init__(self, stage: Stage, template: Template) -> None:
        self.stage, self.template = stage, template

    def play(self, seed: int, only: Collection[Fault] | None = None) -> tuple[Failure | None, Simulation]:
        """Play one seed."""
        simulation = Simulation(self.stage, self.template, seed, only)
        return simulation.run(), simulation

    def play_all(self, seeds: Iterable[int]) -> Report:
        """Play seeds one after another."""
        report = Report()
        with _collecting_seldom():
            for number, seed in enumerate(seeds, 1):
                failure, simulation = self.play(seed)
                report.jobs += 1
                report.struck += simulation.world.faults.struck
                report.failures += [failure] if failure else []
                if number % COLLECT_EVERY == 0:
                    gc.collect()
        return report


@contextlib.contextmanager
def new_template() -> Iterator[Template]:
    """Make a template, in memory where that can be."""
    with (
        tempfile.TemporaryDirectory(dir=in_memory_folder(), prefix="simulation-") as folder,
        contextlib.closing(Template(Path(folder))) as template,
    ):
        yield template


@contextlib.contextmanager
def players() -> Iterator[Players]:
    """Make the template, set up the stage."""
    with new_template() as template, set_up() as stage:
        yield Players(stage, template)


@contextlib.contextmanager
def _collecting_seldom() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def play_range(seeds: range) -> Report:
    """Play a range of seeds in this process."""
    with players() as here:
        return here.play_all(seeds)


def play_in_processes(seeds: range, processes: int) -> Report:
    """Play a range of seeds in several processes, in shares."""
    share = max(1, min(500, len(seeds) // processes))
    shares = [seeds[start : start + share] for start in range(0, len(seeds), share)]
    report = Report()
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for part in pool.map(play_range, shares):
            report.add(part)
    return report
