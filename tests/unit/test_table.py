"""Names of new columns: those of the table stay, ours step aside."""

from __future__ import annotations

import pytest

from batch_jobs.table import free_names


@pytest.mark.parametrize(
    ("names", "taken", "free"),
    [
        (["a", "b"], [], ["a", "b"]),
        (["a"], ["a"], ["a_2"]),
        (["a"], ["a", "a_2", "a_4"], ["a_3"]),
        (["a", "a_2"], ["a"], ["a_2", "a_2_2"]),  # who comes first chooses first
        (["a", "a"], ["b"], ["a", "a_2"]),
        ([], ["a"], []),
    ],
)
def test_a_name_that_is_taken_gets_the_next_number(names: list[str], taken: list[str], free: list[str]) -> None:
    assert free_names(names, taken) == free
