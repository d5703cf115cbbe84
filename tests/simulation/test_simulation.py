"""Hundreds of jobs under every fault that we know of: no promise is broken, and every fault has happened."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from batch_jobs import system
from tests.faults import figures
from tests.simulation.campaign import Players, Report, play_in_processes
from tests.simulation.faults import Fault

GROUPS = 6
GROUP_SEEDS = 20
SOAK_SEEDS = 10_000


@pytest.mark.parametrize("group", range(GROUPS))
def test_every_promise_is_kept(here: Players, group: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    report = here.play_all(range(group * GROUP_SEEDS, (group + 1) * GROUP_SEEDS))
    assert not report.failures, "\n".join(map(str, report.failures))
    whole = _with_the_other_groups(_shared_folder(tmp_path_factory), group, report)
    if whole is not None:
        _tell("simulated jobs", whole)
        assert not whole.never_struck, f"never happened: {', '.join(whole.never_struck)}"


def _shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this test run share."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if own.name.startswith("popen-") else own) / "simulation-counts"
    folder.mkdir(exist_ok=True)
    return folder


def _with_the_other_groups(folder: Path, group: int, report: Report) -> Report | None:
    """The counts of all groups, for whoever comes last; None for the others."""
    with system.exclusive_lock(folder / "lock"):
        (folder / f"{group}.json").write_text(json.dumps({fault.name: report.struck[fault] for fault in Fault}))
        counts = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if len(counts) < GROUPS:
        return None
    struck = sum((Counter({Fault[name]: number for name, number in one.items()}) for one in counts), Counter[Fault]())
    return Report(GROUPS * GROUP_SEEDS, struck)


def test_a_seed_is_the_same_whenever_it_is_played(here: Players) -> None:
    first, second = ([here.play(seed)[1].world.log for seed in range(5)] for _ in range(2))
    assert first == second
    assert len([line for log in first for line in log]) > 50


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_every_promise_is_kept_by_ten_thousand_jobs() -> None:
    report = play_in_processes(range(GROUPS * GROUP_SEEDS, GROUPS * GROUP_SEEDS + SOAK_SEEDS), processes=2)
    _tell("simulated jobs, soak", report)
    assert not report.failures, "\n".join(map(str, report.failures))
    assert not report.never_struck, f"never happened: {', '.join(report.never_struck)}"


def _tell(name: str, report: Report) -> None:
    sys.stdout.write(f"{report.table()}\n")
    rarest = min(Fault, key=lambda fault: report.struck[fault])
    figures.note(
        name,
        jobs=report.jobs,
        broken_promises=len(report.failures),
        fault_classes=len(Fault),
        faults=report.struck.total(),
        rarest=f"{rarest}: {report.struck[rarest]}",
    )
