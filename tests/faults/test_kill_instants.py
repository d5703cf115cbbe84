"""Killed at random instants, a job of four shards loses nothing and pays for nothing twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults.figures import note
from tests.faults.killed_job import Bench
from tests.faults.sweep import CASES, MODES, random_instants

PARTS = 5
KILLS = 25
"""In each part of the soak: 500 over the four modes."""


@pytest.mark.parametrize("mode", MODES)
def test_some_random_instants(bench: Bench, mode: str) -> None:
    case = replace(CASES[f"{mode}/large"], rows=600, shard=150)
    total = random_instants(bench, case, kills=6, running=2, seed=1)
    assert total.kills >= 6
    note(f"kills at random instants, {mode}", **total.figures)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("mode", MODES)
def test_many_random_instants(bench: Bench, mode: str, part: int) -> None:
    total = random_instants(bench, CASES[f"{mode}/large"], kills=KILLS, running=KILLS // 2, seed=100 + part)
    assert total.kills >= KILLS
    note(f"kills at random instants of 2,000 rows, {mode}, part {part}", **total.figures)
