"""Killed at its persisted steps, as the code itself lists them, a job loses nothing and pays for nothing twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults.figures import note
from tests.faults.killed_job import Bench, KilledJob
from tests.faults.sweep import CASES, DIALECTS, MODES, NamedSweep, cases_of, replay

SEED = 1
MONEY = ("lifecycle.submit.", ".complete ", "commit of call_cache lifecycle.merge", "commit of ledger lifecycle.merge")
"""Where money is spent, and where what it bought is written down."""

SPENDING = {
    "submit": ("create_batch", "submit_shard", "_record", "mark_unknown", "reconcile"),
    "merge": ("commit of call_cache lifecycle.merge", "commit of ledger lifecycle.merge"),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_kill_at_each_step_that_spends_and_at_some_others(bench: Bench, mode: str) -> None:
    case = CASES[f"{mode}/clean"]
    sweep = NamedSweep(bench, [case], SEED)
    sweep.job(case, 0.02, always=MONEY)
    passed_by = [name for name in sweep.left if any(part in name for part in MONEY)]
    assert not passed_by
    words = SPENDING["merge"] + (SPENDING["submit"] if mode in DIALECTS else (".complete ",))
    for word in words:
        assert any(word in name for name in sweep.killed_at), f"no step {word}: the list of steps has a hole"
    assert sweep.total.kills >= 14
    note(f"kills at steps that spend, {mode}", **sweep.total.figures)


@pytest.mark.parametrize("moment", ["finish.write_output:* after", "deliver._remember:* *before"])
def test_a_kill_before_the_file_is_handed_over_asks_for_no_row_again(bench: Bench, moment: str) -> None:
    """The job is done, and the user has not heard of it: the same command hands over what is there."""
    audit = replay(bench, CASES["openai/wrong"], [f"commit of ledger lifecycle.{moment}"])
    assert (audit.kills, audit.twice, audit.lost) == (1, 0, 0)


def test_what_a_cancelled_gemini_batch_bills_and_keeps_is_not_taken_for_lost(bench: Bench) -> None:
    job = KilledJob(bench, replace(CASES["gemini/cancelled"], batch_seconds=0.3))
    job.finish()
    assert job.audit().lost == 0


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", MODES)
def test_a_kill_at_every_step(bench: Bench, mode: str) -> None:
    sweep = NamedSweep(bench, cases_of(mode), SEED)
    recorded = sweep.record()
    sweep.until_all()
    late = {name for name in sweep.left if "storage.leases.renew" in name}  # by the clock: not in every run
    assert sweep.left - late == set()
    assert recorded - sweep.killed_at == late & recorded
    steps = {"steps": len(recorded), "steps_killed_at": len(sweep.killed_at), "steps_left": len(late)}
    note(f"kills at every step, {mode}", **steps, **sweep.total.figures)
