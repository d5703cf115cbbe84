"""A segment is there whole or not at all, in row groups of ten thousand, whatever sizes it was given in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batch_jobs.arrow import TableReader, texts
from batch_jobs.errors import StoreError
from batch_jobs.storage.files import remove_file
from batch_jobs.storage.packed import PackedStore, find
from batch_jobs.storage.segments import new_segment, waiting_columns
from tests.contract.storage.layouts import A, Line, an_answer, into_segment

TASK_ID = "1" * 32


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return PackedStore(tmp_path, "loss").waiting("summarize", TASK_ID)


def waiting(first: int, count: int) -> Any:
    import pyarrow as pa

    numbers = [f"{number:064x}" for number in range(first, first + count)]
    return waiting_columns(texts(numbers), pa.table({"id": pa.array(numbers, pa.string())}))


def write(target: Path, *sizes: int) -> None:
    with new_segment(target, 1.0, answered=False) as segment:
        for number, size in enumerate(sizes):
            segment.add(waiting(sum(sizes[:number]), size))


@pytest.mark.parametrize("sizes", [(), (0,), (1,), (9_999, 1), (10_001,), (25_000,), (4_000,) * 6, (0, 3, 0, 20_000)])
def test_row_groups_hold_ten_thousand(target: Path, sizes: tuple[int, ...]) -> None:
    import pyarrow.parquet as pq

    write(target, *sizes)
    data = pq.read_metadata(target)
    groups = [data.row_group(number).num_rows for number in range(data.num_row_groups)]
    assert sum(groups) == sum(sizes)
    assert all(rows == 10_000 for rows in groups[:-1])
    lines = pq.read_table(target).to_pylist()
    assert [line["identity"] for line in lines] == [f"{number:064x}" for number in range(sum(sizes))]
    assert all(line["details"] == [("id", line["identity"])] for line in lines)


def test_nothing_is_left_of_a_segment_that_was_not_finished(target: Path) -> None:
    write(target, 3)
    before = target.read_bytes()
    with pytest.raises(KeyError), new_segment(target, 2.0, answered=False) as segment:
        segment.add(waiting(0, 30_000))
        raise KeyError
    assert target.read_bytes() == before
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_what_a_killed_run_left_is_removed_by_the_next(target: Path) -> None:
    target.parent.mkdir(parents=True)
    left, others = target.with_name(f".{target.stem}.0123.tmp"), target.with_name(".learning-0.0123.tmp")
    left.touch()
    others.touch()
    write(target, 3)
    assert (left.exists(), others.exists()) == (False, True)


def test_a_half_written_segment_is_no_segment(tmp_path: Path) -> None:
    packed = PackedStore(tmp_path, "loss")
    with new_segment(packed.segment("summarize", TASK_ID), 1.0, answered=True):
        assert [path.suffix for path in packed.processed.iterdir()] == [".tmp"]
        assert (packed.segments(), packed.count()) == ([], 0)
    assert packed.segments() == [packed.segment("summarize", TASK_ID)]


def test_a_disk_error_is_the_stores_error(tmp_path: Path, target: Path) -> None:
    (tmp_path / "loss").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=r"loss"):
        write(target, 1)


def test_records_are_found_over_row_groups(tmp_path: Path) -> None:
    every = [f"{number:064x}" for number in range(10_005)]
    packed = into_segment(tmp_path, 0, [Line(identity, an_answer("one")) for identity in every])
    assert isinstance(packed, PackedStore)
    (segment,) = packed.segments()
    found = list(find(segment, [every[10_004], every[3], A]))
    assert [filed.identity for filed in found] == [every[3], every[10_004]]


def test_a_reader_hands_out_as_many_rows_as_are_asked_for(target: Path) -> None:
    write(target, 25_000)
    reader = TableReader(target, ["identity"])
    assert reader.rows == 25_000
    taken = [reader.take(count) for count in (1, 0, 9_999, 10_001, 4_000, 4_000, 5)]
    reader.close()
    assert [table.num_rows for table in taken] == [1, 0, 9_999, 10_001, 4_000, 999, 0]
    numbers = [int(text, 16) for table in taken for text in table.column(0).to_pylist()]
    assert numbers == list(range(25_000))


def test_removing_a_file_that_is_gone_is_fine(target: Path) -> None:
    write(target, 1)
    remove_file(target)
    remove_file(target)
    assert not target.exists()
