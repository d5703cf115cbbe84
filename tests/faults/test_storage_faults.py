"""Whatever the disk does, nothing is lost, paid twice or mixed up: faults at the Nth call, and loss of power.

The long form fails every write, sync and rename of a 50-row job, each once or from then on; every other time the same
command, given again, meets the next fault; then the job ends right. The short form is a sample of it, drawn by place.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.figures import note
from tests.faults.lost import Crash, Loss, crash_problems
from tests.faults.shim import Call, Calls, Fault
from tests.faults.storage_sweep import Bench, Case, bench

SEED = int(os.environ.get("BATCH_JOBS_SEED", "7"))
PARTS = 24
POSITIONS_AT_LEAST = 1_000
CRASHES_AT_LEAST = 20
NEXT = (
    (Calls.SYNC, "EIO", False),
    (Calls.WRITE, "EIO", False),
    (Calls.RENAME, "EIO", True),
    (Calls.NAMES, "ENOSPC", False),
    (Calls.GROWTH, "ENOSPC", True),
    (Calls.WRITE, "ENOSPC", False),
)
"""What the command meets when it is given again: kinds of calls, error, from then on."""


@pytest.fixture(scope="session")
def storage_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench(tmp_path_factory.mktemp("storage")) as made:
        yield made


def followed(made: Bench, start: str, first: Fault, index: int, chance: random.Random) -> Case:
    """A case with this first fault, at the clean run's call of that index, and one of the next kind in what is left."""
    calls, error, again = chance.choice(NEXT)
    left = sum(Calls[call.kind.upper()] in calls for call in made.calls(start)[index:])
    return Case(start, (first, Fault(calls, error, chance.randint(1, max(left, 1)), again)))


def of_kind(made: Bench, start: str, calls: Calls) -> list[int]:
    """Where in a clean run the calls of these kinds are."""
    return [index for index, call in enumerate(made.calls(start)) if Calls[call.kind.upper()] in calls]


def soak_cases(made: Bench) -> list[Case]:
    """Every write, sync and rename of the batch job; every few of its intake and of the concurrent mode."""
    chance, cases = random.Random(SEED), []
    for start, calls, error, step in (
        ("batch", Calls.WRITE, "ENOSPC", 1),
        ("batch", Calls.SYNC, "EIO", 1),
        ("batch", Calls.RENAME, "EIO", 1),
        ("intake", Calls.WRITE, "ENOSPC", 7),
        ("intake", Calls.SYNC, "EIO", 3),
        ("intake", Calls.NAMES | Calls.RENAME, "ENOSPC", 11),
        ("concurrent", Calls.WRITE, "ENOSPC", 17),
        ("concurrent", Calls.SYNC, "EIO", 4),
        ("concurrent", Calls.NAMES | Calls.RENAME, "EIO", 23),
    ):
        for position, index in list(enumerate(of_kind(made, start, calls), 1))[::step]:
            first = Fault(calls, error, position, again=chance.random() < 0.5)
            alone = chance.random() < 0.5
            cases.append(Case(start, (first,)) if alone else followed(made, start, first, index, chance))
    for calls, error, step in ((Calls.WRITE, "EINTR", 29), (Calls.WRITE, "SHORT", 29), (Calls.SYNC, "EINTR", 7)):
        last = made.positions("batch", calls)
        cases += [Case("batch", (Fault(calls, error, n, chance.random() < 0.5),)) for n in range(1, last + 1, step)]
    return cases


def place(call: Call) -> tuple[str, str]:
    """A call by its kind and by where it is, without the names that are made up."""
    return call.kind, re.sub(r"[0-9a-f]{16,}", "x", Path(call.path).name) or call.path


def sample_cases(made: Bench, start: str, number: int) -> list[Case]:
    """Some cases of a start, each at another place: two faults a case."""
    chance = random.Random(f"{SEED} {start}")
    places: dict[tuple[str, str], list[int]] = {}
    calls = made.calls(start)
    # how often the pool's answers are merged differs from run to run, so the last calls may not come
    sure = len(calls) * 3 // 4 if start == "concurrent" else len(calls)
    for index, call in enumerate(calls[:sure]):
        places.setdefault(place(call), []).append(index)
    cases = []
    for kind, name in chance.sample(sorted(places), number):
        index = chance.choice(places[kind, name])
        error = "EIO" if kind == "sync" else chance.choice(("ENOSPC", "EIO"))
        first = Fault(Calls.ALL, error, index + 1, again=chance.random() < 0.5)
        cases.append(followed(made, start, first, index, chance))
    return cases


def try_all(made: Bench, name: str, cases: list[Case]) -> int:
    """How many faults were met; every case must end well."""
    began = time.monotonic()
    verdicts = [made.try_case(case) for case in cases]
    wrong = [verdict for verdict in verdicts if verdict.problems]
    met = sum(verdict.met for verdict in verdicts)
    codes = [code for verdict in verdicts for code in verdict.codes]
    seconds = round(time.monotonic() - began, 1)
    note(name, cases=len(cases), positions=met, runs=len(codes), stopped=codes.count(4), seconds=seconds)
    assert not wrong, f"{len(wrong)} of {len(cases)} cases:\n" + "\n".join(map(str, wrong[:10]))
    return met


@pytest.mark.soak
@pytest.mark.parametrize("part", range(PARTS))
def test_every_call_of_a_job_may_fail(storage_bench: Bench, part: int) -> None:
    met = try_all(storage_bench, "storage faults", soak_cases(storage_bench)[part::PARTS])
    assert met * PARTS >= POSITIONS_AT_LEAST


@pytest.mark.parametrize(("start", "cases"), [("batch", 8), ("intake", 2), ("concurrent", 3)])
def test_calls_all_over_a_job_may_fail(storage_bench: Bench, start: str, cases: int) -> None:
    met = try_all(storage_bench, "storage faults, sample", sample_cases(storage_bench, start, cases))
    assert met >= cases


def test_short_and_interrupted_writes_are_finished(storage_bench: Bench) -> None:
    for fault in ("write:SHORT:1:again", "write:EINTR:1:again"):
        verdict = storage_bench.try_case(Case("batch", (Fault.parse(fault),)))
        assert not verdict.problems, verdict
        assert verdict.codes == [0]
        assert verdict.met


def crashes(made: Bench, number: int) -> list[Crash]:
    """Crashes at calls all over the job, by turns of each loss; half of them right after something was synced."""
    chance, found = random.Random(f"{SEED} crashes"), []
    for turn in range(number):
        start = ("batch", "batch", "concurrent", "intake")[turn % 4]
        calls = made.calls(start)[
            : int(0.9 * len(made.calls(start)))
        ]  # a concurrent run makes a few calls less or more
        after_sync = [n for n, call in enumerate(calls, 1) if call.kind == "sync"]
        position = chance.choice(after_sync) + 1 if turn % 2 else chance.randint(1, len(calls))
        found.append(Crash(start, position, list(Loss)[turn % len(Loss)], chance.randrange(10_000)))
    return found


@pytest.mark.parametrize("turn", range(4))
def test_what_is_lost_with_the_power_is_made_again(storage_bench: Bench, turn: int) -> None:
    assert not crash_problems(storage_bench, crashes(storage_bench, 4)[turn])


@pytest.mark.soak
@pytest.mark.parametrize("part", range(4))
def test_whatever_is_lost_with_the_power_is_made_again(storage_bench: Bench, part: int) -> None:
    chosen = crashes(storage_bench, 2 * CRASHES_AT_LEAST)[part::4]
    assert len(chosen) * 4 >= CRASHES_AT_LEAST
    problems = [problem for crash in chosen for problem in crash_problems(storage_bench, crash)]
    note("storage losses", crashes=len(chosen), problems=len(problems))
    assert not problems, "\n".join(problems[:10])


def test_the_sweep_finds_a_product_that_ignores_a_failed_sync(storage_bench: Bench) -> None:
    syncs = [call for call in storage_bench.calls("batch") if call.kind == "sync"]
    position = next(n for n, call in enumerate(syncs, 1) if "round-0" in call.path)
    case = Case("batch", (Fault(Calls.SYNC, "EIO", position),))
    verdict = storage_bench.try_case(case, "failed syncs are ignored")
    assert verdict.met
    assert any(problem.startswith("after the failed sync of ") for problem in verdict.problems)


def test_the_sweep_finds_errors_that_do_not_say_what_to_do(storage_bench: Bench) -> None:
    verdict = storage_bench.try_case(Case("batch", (Fault(Calls.RENAME, "EIO", 1),)), "errors say nothing")
    assert verdict.met
    assert any(problem.startswith("the message names no file") for problem in verdict.problems)
    assert any(problem.startswith("the message does not say what to do") for problem in verdict.problems)


def test_the_crashes_find_a_product_that_syncs_nothing(storage_bench: Bench) -> None:
    position = len(storage_bench.calls("batch")) * 2 // 3
    problems = crash_problems(storage_bench, Crash("batch", position, Loss.ALL, SEED, syncs=False))
    assert any("calls were executed for 50 items" in problem for problem in problems)
