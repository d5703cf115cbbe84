"""The simulator can see: each planted bug is noticed within a few seeds, and without it the same seeds pass."""

from __future__ import annotations

import pytest

from tests.simulation.bugs import BUGS, Bug
from tests.simulation.campaign import Players


@pytest.mark.parametrize("bug", BUGS, ids=[f"{number} {bug.name}" for number, bug in enumerate(BUGS, 1)])
def test_a_planted_bug_is_noticed(here: Players, bug: Bug) -> None:
    with pytest.MonkeyPatch.context() as patch:
        bug.plant(patch)
        for seed in range(bug.seeds):
            failure, _ = here.play(seed, bug.faults)
            if failure is not None:
                break
    assert failure is not None, f"not noticed within {bug.seeds} seeds"
    assert failure.violation.kind in bug.shows, str(failure)
    innocent = [here.play(seed, bug.faults)[0] for seed in range(failure.seed + 1)]
    assert innocent == [None] * len(innocent)
