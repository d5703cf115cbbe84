"""Which layout the results of a job get: as the config says, else by the number of its rows."""

from __future__ import annotations

import pytest

from batch_jobs.config import Store
from batch_jobs.lifecycle.plan import choose_layout, layout_of
from batch_jobs.models import Layout
from tests.contract.storage.kit import full_job


@pytest.mark.parametrize(
    ("asked", "rows", "chosen"),
    [
        (Layout.AUTO, 50_000, Layout.FOLDERS),
        (Layout.AUTO, 50_001, Layout.PACKED),
        (Layout.FOLDERS, 1_000_000, Layout.FOLDERS),
        (Layout.PACKED, 1, Layout.PACKED),
    ],
)
def test_a_layout_is_chosen(asked: Layout, rows: int, chosen: Layout) -> None:
    assert choose_layout(Store(layout=asked), rows) is chosen


def test_a_job_that_was_planned_before_there_was_a_choice_has_folders() -> None:
    assert layout_of(full_job(plan={"items": 3})) is Layout.FOLDERS
    assert layout_of(full_job(plan=None)) is Layout.FOLDERS
