"""The kill sweep: jobs whose runs are killed with SIGKILL, at every named step and at random instants.

A named sweep goes on until there is no step left where no run was killed; the steps are what `tests.faults.steps`
sees, in these runs and in the ones after a kill too. Each job takes several kills, one a run, at steps drawn by the
seed. A sweep of random instants kills after seeded delays, which grow a little so that each job ends.

    python -m tests.faults.sweep --case openai/lost --seed 7                 a named sweep of one case
    python -m tests.faults.sweep --case openai/large --seed 7 --kills 9      random instants
    python -m tests.faults.sweep --case openai/lost --kill 0.3 --kill '...'  one job, killed so: seconds or steps
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.acceptance.kit import sandbox_server
from tests.faults.killed_job import Audit, Bench, Case, KilledJob
from tests.faults.steps import names_in
from tests.faults.zygote import zygote

DIALECTS = ("openai", "anthropic", "gemini")
MODES = (*DIALECTS, "concurrent")
RUNS = 400
"""A job that is not done after so many runs never will be."""

DELAYS = 0.05, 0.6
GROWTH, EARLY_GROWTH = 1.05, 1.7
BEFORE_THE_FIRST_CALL = {"", "received", "planned"}
ODDS, AGAIN_ODDS = 0.5, 0.15
TURNS = 24
"""Jobs a case, at most, after the one that is killed by the odds."""

Fault = dict[str, Any]
LATE: tuple[Fault, ...] = (
    {"kind": "accept_late", "route": "create", "share": 0.1, "seconds": 0.05},
    {"kind": "accept_late", "route": "create", "share": 0.2, "seconds": 0.1},
    {"kind": "accept_late", "route": "create", "share": 0.3, "seconds": 0.15},
    {"kind": "reply_lost", "route": "create", "share": 0.2},
    {"kind": "list_lag", "seconds": 0.1},
)
LOST: tuple[Fault, ...] = (
    {"kind": "connection_reset", "route": "create", "times": 1},
    {"kind": "accept_late", "route": "create", "times": 2, "seconds": 0.15},
    {"kind": "reply_lost", "route": "create", "times": 3},
    {"kind": "list_lag", "times": 1, "seconds": 0.1},
)
WRONG: tuple[Fault, ...] = (
    {"kind": "rate_limited", "route": "create", "times": 1, "seconds": 0.05},
    {"kind": "download_truncated", "times": 1},
    {"kind": "item_missing", "match": "Please forget this one", "times": 1},
)
WRONG_ITEMS: tuple[Fault, ...] = (
    {"kind": "item_error", "match": "Please drop this one", "times": 2, "status": 500},
    {"kind": "item_invalid_json", "match": "Please mumble this one", "times": 2},
)
PARTS: tuple[Fault, ...] = (
    {"kind": "pack_missing", "match": "results", "times": 1},
    {"kind": "pack_foreign", "match": "results", "times": 1},
    {"kind": "pack_doubled", "match": "results", "times": 1},
    {"kind": "pack_invalid", "match": "results", "times": 1},
)
REJECTS = 0.3
WORDS = {3: "forget", 11: "drop", 12: "drop", 21: "mumble", 33: "mumble"}
REFUSE: Fault = {"kind": "item_refused", "match": "Please refuse this one"}
REFUSED = 7
SLOW: Fault = {"kind": "slow_reply", "route": "check", "times": 1, "seconds": 4.3}
"""Longer than a third of a lease's life, so that the lease is renewed."""


def _cases() -> Iterator[Case]:
    for name in DIALECTS:
        yield Case(f"{name}/clean")
        yield Case(f"{name}/lost", faults=LOST)
        refuse = name != "gemini"  # the sandbox's Gemini bills more for a refused item than its reply says
        yield _wrong(name, (*WRONG, *WRONG_ITEMS), refuse)
        yield Case(f"{name}/expired", faults=({"kind": "batch_expires", "share": 0.0, "times": 1},))
        yield Case(f"{name}/quota", faults=({"kind": "quota_exhausted", "route": "create", "times": 1},))
        yield Case(f"{name}/cancelled", batch_seconds=0.6, cancelled=True)
        yield from _asked_more_than_once(name)
        yield Case(f"{name}/large", rows=2_000, shard=500, batch_seconds=0.4, faults=LATE)
    rate_limited = {"kind": "rate_limited", "route": "call", "times": 1, "seconds": 0.05}
    yield Case("openai/slow", faults=(SLOW,))
    yield Case("concurrent/clean", call_ms=5)
    yield _wrong("concurrent", (rate_limited, *WRONG_ITEMS), True)
    yield from _asked_more_than_once("concurrent")
    yield Case("concurrent/quota", call_ms=5, faults=({"kind": "quota_exhausted", "route": "call", "times": 1},))
    yield Case("concurrent/cancelled", call_ms=5, cancelled=True)
    yield Case("concurrent/large", rows=2_000, call_ms=5)


def _asked_more_than_once(name: str) -> Iterator[Case]:
    """Answers that a judge has to accept, and rows that are asked for together: of each some go again."""
    twice = PARTS[:2]
    yield Case(f"{name}/judged", rows=24, call_ms=5, task="judged", rejects=REJECTS)
    yield Case(f"{name}/grouped", rows=24, call_ms=5, task="grouped", rejects=REJECTS)
    yield Case(f"{name}/together", call_ms=5, faults=PARTS, task="together")
    yield Case(f"{name}/both", rows=24, call_ms=5, faults=twice, task="judged_together", rejects=REJECTS)


def _wrong(name: str, faults: tuple[Fault, ...], refuse: bool) -> Case:
    """Items go wrong in several ways at the first attempt, and one is refused."""
    words = {**WORDS, **({REFUSED: "refuse"} if refuse else {})}
    failed = frozenset({REFUSED}) if refuse else frozenset[int]()
    faults = (*faults, REFUSE) if refuse else faults
    return Case(f"{name}/wrong", call_ms=5, faults=faults, words=words, failed=failed)


CASES = {case.name: case for case in _cases()}


def cases_of(mode: str) -> list[Case]:
    """The small cases of a dialect, or of concurrent mode."""
    return [case for case in CASES.values() if case.name.startswith(f"{mode}/") and not case.name.endswith("/large")]


@contextlib.contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    """A warmed process and a sandbox for the block."""
    with zygote(folder) as warmed, sandbox_server(folder / "sandbox") as server:
        yield Bench(warmed, server, folder)


class NamedSweep:
    """Jobs that are killed at named steps, until a run was killed at each."""

    def __init__(self, bench: Bench, cases: Sequence[Case], seed: int) -> None:
        self.bench, self.cases, self.seed = bench, cases, seed
        name = f"{cases[0].name.replace('/', '-')}-{seed}"
        self.done, self.usual = bench.folder / f"{name}.killed", bench.folder / f"{name}.usual"
        self.seen: dict[str, set[str]] = {case.name: set() for case in cases}
        self.total = Audit()
        self._draws = random.Random(f"steps {name}")

    @property
    def killed_at(self) -> set[str]:
        """The steps where a run was killed."""
        return set(names_in(self.done))

    @property
    def left(self) -> set[str]:
        """The steps that some run has come to, and where none was killed."""
        return set().union(*self.seen.values()) - self.killed_at

    def record(self) -> set[str]:
        """The steps of every case without a kill."""
        for case in self.cases:
            job = KilledJob(self.bench, case)
            while not self._once(job, "note", {}):
                assert job.runs < 6, job.story("is not done")
            self.total += job.audit()
        found = set().union(*self.seen.values())
        self.usual.write_text("".join(f"{name}\n" for name in sorted(found)))
        return found

    def job(self, case: Case, odds: float, *, always: Sequence[str] = ()) -> None:
        """One job, killed at steps where none was before; sometimes the run after a kill is killed there again.

        Args:
            case: of the job.
            odds: see `steps.kill`.
            always: see `steps.kill`.
        """
        job, again = KilledJob(self.bench, case), None
        for _ in range(RUNS):
            seed, usual = f"{self.seed} {case.name} {self._draws.random()}", str(self.usual)
            named = {"done": str(self.done), "seed": seed, "odds": odds, "always": always, "again": again}
            if self._once(job, "kill", {**named, "usual": usual if self.usual.exists() else None}):
                break
            again = job.kills[-1] if job.kills and again is None and self._draws.random() < AGAIN_ODDS else None
        else:
            raise AssertionError(job.story(f"is not done after {RUNS} runs"))
        self.total += job.audit()

    def _once(self, job: KilledJob, how: str, named: dict[str, Any]) -> bool:
        ended = job.once(arm=(f"tests.faults.steps:{how}", named))
        self.seen[job.case.name].update(names_in(job.log))
        return ended

    def until_all(self) -> None:
        """Go on until a run was killed at every step that any run has come to.

        A step that only some kills lead to is killed at when a run first comes to it. The others, which runs without
        a kill come to, are left to the odds first, so that the kills of a job fall in many ways; but some can be
        killed at only once in a job, because the next run has no more need of them, so there are further jobs.
        """
        for case in self.cases:
            self.job(case, ODDS)
        for _ in range(TURNS):
            for case in self.cases:
                if self.left & self.seen[case.name]:
                    self.job(case, 1.0)
            if not self.left:
                return


def random_instants(bench: Bench, case: Case, kills: int, running: int, seed: int) -> Audit:
    """Jobs of a case, killed after seeded delays, until there were so many kills; each job is ended and audited.

    What comes before the first call is done anew after a kill, so until then the delays grow fast; later a little.

    Args:
        bench: to work on.
        case: of the jobs.
        kills: at least.
        running: at least so many of them while batches or calls are under way.
        seed: of the delays.
    """
    draws, total = random.Random(f"instants {case.name} {seed}"), Audit()

    def wanted(job: KilledJob | None = None) -> bool:
        killed, killed_running = (len(job.kills), job.killed_running) if job else (0, 0)
        return total.kills + killed < kills or total.killed_running + killed_running < running

    while wanted():
        job, growth, begun = KilledJob(bench, case), 1.0, False
        while wanted(job) and job.runs < RUNS:
            if job.once(kill_after=draws.uniform(*DELAYS) * growth):
                break
            had_begun, begun = begun, job.phase() not in BEFORE_THE_FIRST_CALL
            growth = 1.0 if begun and not had_begun else growth * (GROWTH if begun else EARLY_GROWTH)
        else:
            job.finish()
        total += job.audit()
    return total


def replay(bench: Bench, case: Case, kills: Sequence[str]) -> Audit:
    """One job that is killed so: after some seconds, or at a step."""
    job, done = KilledJob(bench, case), str(bench.folder / "replayed.killed")
    for kill in kills:
        if kill.replace(".", "", 1).isdigit():
            job.once(kill_after=float(kill))
        else:
            job.once(arm=("tests.faults.steps:kill_at", {"done": done, "name": kill}))
    job.finish()
    return job.audit()


def main() -> None:
    """Sweep one case, in a folder that is kept when it fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=[*CASES, *MODES], required=True, help="a case, or all small ones of a mode")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, help="kills at random instants instead of at named steps")
    parser.add_argument("--kill", action="append", help="replay one job: seconds, or the name of a step")
    given, say = parser.parse_args(), sys.stdout.write
    cases = [CASES[given.case]] if given.case in CASES else cases_of(given.case)
    folder = Path(tempfile.mkdtemp(prefix="sweep-"))
    with bench(folder) as made:
        if given.kill:
            total = replay(made, cases[0], given.kill)
        elif given.kills:
            total = random_instants(made, cases[0], given.kills, given.kills // 2, given.seed)
        else:
            sweep = NamedSweep(made, cases, given.seed)
            without = sweep.record()
            sweep.until_all()
            left = "".join(f"  {name}\n" for name in sorted(sweep.left))
            say(f"{len(without)} steps without a kill, {len(sweep.killed_at)} with one, left:\n{left}")
            total = sweep.total
    say(f"{total}\n")


if __name__ == "__main__":
    main()
