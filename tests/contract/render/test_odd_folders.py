"""A plan in a folder whose name means something to a query or to a pattern is a plan like any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.render.kit import in_process, make_spec


@pytest.mark.parametrize("name", ["it's", "a[1]*b", "q?{x}", 'say "hi"', "%s $f"])
def test_a_plan_in_an_odd_folder(tmp_path: Path, name: str) -> None:
    plan = in_process(make_spec(tmp_path / name, {"what": ["a", "b", "a"]}))
    assert [row.item for row in plan.rows] == [0, 1, 0]
    assert plan.texts() == ["[a]", "[b]"]
