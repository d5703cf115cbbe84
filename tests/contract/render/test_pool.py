"""The process pool: what it makes does not depend on it, a dead worker is an error, what is finished is kept."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from batch_jobs.errors import BatchJobsError, RenderFailed
from batch_jobs.models import Dialect, Parameters
from batch_jobs.render.join import join_items
from batch_jobs.render.pool import render_all
from batch_jobs.render.spec import RenderSpec
from batch_jobs.render.worker import bodies_path, index_path, render_segment
from batch_jobs.workers import Workers
from tests.contract.render.kit import Plan, by_pool, in_process, make_spec

ROWS = 25_000
WHAT = [f"event {number % 24_000}" for number in range(ROWS)]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """25,000 rows in three row groups, the last thousand equal to the first, through the real pool."""
    return by_pool(make_spec(tmp_path_factory.mktemp("large"), {"what": WHAT}, group_rows=10_000))


def test_every_row_has_its_item_in_file_order(large: Plan) -> None:
    rows = large.rows
    assert [row.row for row in rows] == list(range(ROWS))
    assert [row.number for row in rows] == list(range(2, ROWS + 2))
    assert [row.item for row in rows] == [number % 24_000 for number in range(ROWS)]


def test_no_byte_of_one_row_is_in_anothers_request(large: Plan) -> None:
    assert large.texts() == [f"[event {number}]" for number in range(24_000)]


def test_items_are_numbered_by_their_first_row(large: Plan) -> None:
    items = large.items
    assert [item.item for item in items] == list(range(24_000))
    assert [item.segment for item in items] == [number // 10_000 for number in range(24_000)]


def test_every_row_of_an_item_has_its_fingerprint(large: Plan) -> None:
    prints = large.fingerprints()
    assert len(set(prints)) == 24_000
    assert all(row.item is not None and row.fingerprint == prints[row.item] for row in large.rows)


def test_fingerprints_do_not_depend_on_pool_or_row_groups(large: Plan, tmp_path: Path) -> None:
    here = in_process(make_spec(tmp_path, {"what": WHAT[:3_000]}, group_rows=700))
    assert here.fingerprints() == large.fingerprints()[:3_000]
    assert here.bodies() == large.bodies()[:3_000]


@pytest.mark.parametrize(
    "change",
    [
        {"realm": "sandbox:openai"},
        {"model": "model-2"},
        {"endpoint": "/v1/responses"},
        {"dialect": Dialect.GEMINI, "endpoint": None},
        {"parameters": Parameters(max_output_tokens=1)},
        {"parameters": Parameters(temperature=0.0)},
    ],
)
def test_another_call_has_another_fingerprint(tmp_path: Path, change: dict[str, object]) -> None:
    spec = make_spec(tmp_path, {"what": ["a"]})
    one = in_process(spec).fingerprints()
    other = in_process(replace(spec, plan=tmp_path / "other", **change)).fingerprints()  # type: ignore[arg-type]
    assert one != other


def test_where_the_plan_lies_makes_no_difference(tmp_path: Path) -> None:
    plans = [in_process(make_spec(tmp_path / name, {"what": ["a", "b"]})) for name in ("one", "two")]
    assert plans[0].fingerprints() == plans[1].fingerprints()


def test_a_worker_that_dies_is_an_error_that_says_so(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, {"what": ["a", "DIE", "b"]}, group_rows=1)
    with pytest.raises(RenderFailed, match=r"worker process died .* nothing was sent. Check test_prompt.py"):
        render_all(spec, lambda _: None, Workers())
    assert not index_path(spec.plan, 1).exists()


def test_finished_segments_are_not_rendered_again(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, {"what": ["a", "b", "c", "d"]}, group_rows=2)
    told: list[int] = []
    assert render_all(spec, told.append, Workers()) == 2
    files = [path(spec.plan, segment) for path in (bodies_path, index_path) for segment in range(2)]
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in files]
    assert render_all(spec, told.append, Workers()) == 2
    assert told == [2, 2, 2, 2]
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in files] == before


def test_a_segment_without_its_index_is_rendered_anew(tmp_path: Path) -> None:
    """A crash between the two files, or within either of them, leaves what the next run overwrites."""
    spec = make_spec(tmp_path, {"what": ["a", "b", "c", "d"]}, group_rows=2)
    whole = in_process(spec)
    expected = (whole.fingerprints(), whole.texts())
    index_path(spec.plan, 1).unlink()
    bodies_path(spec.plan, 1).write_bytes(b"half a li")
    bodies_path(spec.plan, 1).with_suffix(".tmp").write_bytes(b"older rubbish, longer than what is written now" * 99)
    for name in ("items.parquet", "rows.parquet"):
        (spec.plan / name).unlink()
    again = in_process(spec)
    assert (again.fingerprints(), again.texts()) == expected


def test_joining_again_keeps_what_is_there(tmp_path: Path) -> None:
    plan = in_process(make_spec(tmp_path, {"what": ["a", "b", "a"]}))
    before = (plan.spec.plan / "rows.parquet").stat().st_ino
    join_items(plan.spec.plan)
    assert (plan.spec.plan / "rows.parquet").stat().st_ino == before
    (plan.spec.plan / "rows.parquet").unlink()
    join_items(plan.spec.plan)
    assert [row.item for row in plan.rows] == [0, 1, 0]


def test_no_temp_file_is_left(large: Plan) -> None:
    assert sorted({path.suffix for path in large.spec.plan.iterdir()}) == [".bin", ".parquet"]


def test_a_disk_that_can_not_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    """Disk full while rendering: the operator is told, it is no bug."""
    spec = make_spec(tmp_path, {"what": ["a"]})
    spec.plan.mkdir()
    bodies_path(spec.plan, 0).with_suffix(".tmp").mkdir()
    with pytest.raises(BatchJobsError):
        render_segment(spec, 0, 0)


def rendered_in(spec: RenderSpec, workers: Workers) -> set[str]:
    """The ids of the processes in which a prompt was called."""
    prompt = spec.prompt_folder / spec.prompt_file
    prompt.write_text(prompt.read_text().replace('f"[{what}]"', "str(os.getpid())"))
    return set(by_pool(spec, workers).texts())


def test_many_rows_are_rendered_in_other_processes(tmp_path: Path) -> None:
    assert str(os.getpid()) not in rendered_in(make_spec(tmp_path, {"what": ["a", "b"]}, group_rows=1), Workers())


def test_a_range_alone_is_rendered_at_once_in_this_process(tmp_path: Path) -> None:
    assert rendered_in(make_spec(tmp_path, {"what": ["a", "b"]}), Workers()) == {str(os.getpid())}


def test_where_prompts_have_to_stay_apart_no_range_is_rendered_in_this_process(tmp_path: Path) -> None:
    workers = Workers()
    workers.apart = True
    assert str(os.getpid()) not in rendered_in(make_spec(tmp_path, {"what": ["a"]}), workers)
