"""Both layouts hold the same results and answer the same questions; a reader can't tell which one it has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from batch_jobs.arrow import texts
from batch_jobs.errors import StoreError
from batch_jobs.storage.folders import FolderStore
from batch_jobs.storage.packed import PackedStore
from batch_jobs.storage.results import Filed, ResultStore
from batch_jobs.storage.segments import new_segment, result_columns
from tests.contract.storage.layouts import CELLS, A, B, C, Filing, Line, an_answer, into_folders, into_segment


@pytest.fixture(params=[into_folders, into_segment], ids=["folders", "packed"])
def file(request: pytest.FixtureRequest) -> Filing:
    """Files the results of one job after the other, and hands out their reader."""
    filing: Filing = request.param
    return filing


def contents(store: ResultStore) -> list[Filed]:
    return sorted(store.stream(), key=lambda filed: (filed.identity, filed.name))


def test_what_was_filed_is_found_and_streamed_and_counted(tmp_path: Path, file: Filing) -> None:
    lines = [Line(A, an_answer("one")), Line(B, an_answer("two")), Line(A, an_answer("x"), "summarize.0a1b2c3d")]
    store = file(tmp_path, 0, lines)
    assert store.count() == 3
    assert contents(store) == [lines[0].filed, lines[2].filed, lines[1].filed]
    assert store.results_of(A) == {line.name: line.filed.result for line in (lines[0], lines[2])}
    assert store.results_of(B) == {"summarize": lines[1].filed.result}
    assert store.results_of(C) == {}


def test_the_order_of_a_documents_keys_is_the_same(tmp_path: Path, file: Filing) -> None:
    """Folders that are unpacked are the files, byte for byte, that would have been written."""
    line = Line(A, an_answer("one"))
    (found,) = file(tmp_path, 0, [line]).stream()
    assert repr(found.result) == repr(line.filed.result)
    assert list(found.details.items()) == list(CELLS.items())


def test_a_store_that_holds_nothing(tmp_path: Path, file: Filing) -> None:
    store = file(tmp_path, 0, [])
    assert (store.count(), contents(store), store.results_of(A)) == (0, [], {})


@pytest.mark.parametrize("reader", [FolderStore, PackedStore])
def test_a_store_that_is_not_there(tmp_path: Path, reader: Callable[[Path, str], ResultStore]) -> None:
    store = reader(tmp_path, "loss")
    assert (store.count(), contents(store), store.results_of(A)) == (0, [], {})
    assert not (tmp_path / "loss").exists()


def test_a_later_job_takes_the_place_of_an_earlier_one(tmp_path: Path, file: Filing) -> None:
    file(tmp_path, 1, [Line(A, an_answer("one")), Line(B, an_answer("two"))])
    store = file(tmp_path, 2, [Line(A, an_answer("later")), Line(C, an_answer("three"))])
    assert store.count() == 3
    answers = {filed.identity: filed.result["answer"]["summary"] for filed in contents(store)}
    assert answers == {A: "later", B: "two", C: "three"}
    assert store.results_of(A)["summarize"]["answer"]["summary"] == "later"


def test_tasks_do_not_replace_each_other(tmp_path: Path, file: Filing) -> None:
    file(tmp_path, 1, [Line(A, an_answer("one"))])
    store = file(tmp_path, 2, [Line(A, an_answer("lesson"), "learning"), Line(A, an_answer("two"), "summarize-2")])
    assert store.count() == 3
    assert set(store.results_of(A)) == {"summarize", "learning", "summarize-2"}


def test_filing_again_has_the_same_effect(tmp_path: Path, file: Filing) -> None:
    lines = [Line(A, an_answer("one")), Line(B, an_answer("two"))]
    before = contents(file(tmp_path, 0, lines))
    assert contents(file(tmp_path, 0, lines)) == before


def test_both_kinds_lie_side_by_side_and_are_not_taken_for_each_other(tmp_path: Path) -> None:
    folders, packed = into_folders(tmp_path, 0, [Line(A, an_answer("one"))]), PackedStore(tmp_path, "loss")
    assert (folders.count(), packed.count()) == (1, 0)
    into_segment(tmp_path, 1, [Line(B, an_answer("two"))])
    assert (folders.count(), packed.count()) == (1, 1)
    assert [filed.identity for filed in folders.stream()] == [A]
    assert [filed.identity for filed in packed.stream()] == [B]


@pytest.mark.parametrize("cell", [None, "", "\0", "x" * 200_000])
def test_any_cell_comes_back(tmp_path: Path, cell: str | None) -> None:
    import pyarrow as pa

    packed, line = PackedStore(tmp_path, "loss"), Line(A, an_answer("one"))
    cells = pa.table({"what": pa.array([cell], pa.string())})
    with new_segment(packed.segment("summarize", "1" * 32), 1.0, answered=True) as segment:
        segment.add(result_columns("1" * 32, texts([A]), [line.name], [line.answer], cells))
    assert contents(packed) == [replace(line.filed, details={"what": cell})]  # type: ignore[dict-item]


@pytest.mark.parametrize("file", [into_folders, into_segment])
def test_a_damaged_file_is_named_with_the_command_that_mends_it(tmp_path: Path, file: Filing) -> None:
    store = file(tmp_path, 0, [Line(A, an_answer("one"))])
    damaged = next(path for path in (tmp_path / "loss").rglob("summarize*") if path.is_file())
    damaged.write_bytes(damaged.read_bytes()[:50])
    for look in (lambda: store.results_of(A), lambda: contents(store)):
        with pytest.raises(StoreError, match="rebuild-store") as caught:
            look()
        assert str(damaged) in caught.value.message
