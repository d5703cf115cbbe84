"""The folder store: what waits is in to_process, what is answered in processed, whatever happened in between."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from batch_jobs.errors import StoreError
from batch_jobs.storage.folders import FolderStore
from batch_jobs.storage.results import Filed

A, B = "a" * 64, "b" * 64
DETAILS = {"what": "事故", "../x": "=1+1"}


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path, "loss")


def tree(store: FolderStore) -> dict[str, Any]:
    """Every file below the data case, with its content."""
    files = sorted(path for path in store.root.rglob("*") if path.is_file())
    return {path.relative_to(store.root).as_posix(): json.loads(path.read_bytes()) for path in files}


def filed(identity: str = A, name: str = "summarize", answer: str = "one") -> Filed:
    return Filed(identity, name, {"answer": answer}, DETAILS)


def processed(**results: str) -> dict[str, Any]:
    documents: dict[str, Any] = {f"processed/{A}/meta_data/details.json": DETAILS}
    return {**documents, **{f"processed/{A}/ai_results/{n}.json": {"answer": a} for n, a in results.items()}}


def test_expected_rows_wait(store: FolderStore) -> None:
    assert store.expect([(A, DETAILS), (B, DETAILS)], "summarize") == 2
    assert tree(store) == {f"to_process/{who}/meta_data/details.json": DETAILS for who in (A, B)}
    assert store.expect([(A, DETAILS)], "summarize") == 1


def test_what_is_answered_is_not_expected_again_but_by_another_task(store: FolderStore) -> None:
    store.file([filed()])
    assert store.expect([(A, DETAILS)], "summarize") == 0
    assert not (store.to_process / A).exists()
    assert store.expect([(A, DETAILS)], "learning") == 1
    store.file([filed(name="learning", answer="two")])
    assert tree(store) == processed(summarize="one", learning="two")


def test_an_answer_moves_its_folder(store: FolderStore) -> None:
    store.expect([(A, DETAILS)], "summarize")
    assert store.file([filed()]) == 1
    assert tree(store) == processed(summarize="one")
    assert not (store.to_process / A).exists()


def test_an_answer_without_a_waiting_folder_makes_one(store: FolderStore) -> None:
    store.file([filed()])
    assert tree(store) == processed(summarize="one")


def test_filing_again_changes_nothing_not_even_the_file(store: FolderStore) -> None:
    store.file([filed()])
    path = store.processed / A / "ai_results" / "summarize.json"
    before = path.stat()
    store.file([filed(), filed()])
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_later_answer_replaces_an_earlier_one(store: FolderStore) -> None:
    store.file([filed()])
    store.file([filed(answer="two")])
    assert tree(store) == processed(summarize="two")


def test_alternates_lie_beside_it(store: FolderStore) -> None:
    store.expect([(A, DETAILS)], "summarize")
    store.file([filed(name="summarize.0a1b2c3d", answer="other"), filed()])
    assert tree(store) == processed(summarize="one", **{"summarize.0a1b2c3d": "other"})


@pytest.mark.parametrize("left", ["answered but not moved", "half written", "moved but still waiting", "no details"])
def test_after_a_crash_half_way_the_next_filing_puts_it_right(store: FolderStore, left: str) -> None:
    store.expect([(A, DETAILS)], "summarize")
    if left == "answered but not moved":
        store.file([filed()])
        shutil.move(store.processed / A, store.to_process / A)
    elif left == "half written":
        (store.to_process / A / "ai_results").mkdir()
    elif left == "moved but still waiting":
        store.file([filed()])
        shutil.copytree(store.processed / A, store.to_process / A)
    else:
        shutil.rmtree(store.to_process / A / "meta_data")
    store.file([filed()])
    assert tree(store) == processed(summarize="one")
    assert not (store.to_process / A).exists()


def test_two_jobs_that_file_the_same_rows_at_once(store: FolderStore) -> None:
    """Two tasks over one file: both answers arrive, and neither job stumbles over the other's rename."""
    identities = [f"{number:064x}" for number in range(400)]
    tasks = ["summarize", "learning", "third"]
    store.expect([(who, DETAILS) for who in identities], "summarize")
    errors: list[BaseException] = []
    begin = threading.Barrier(len(tasks))

    def work(task: str) -> None:
        mine = FolderStore(store.root.parent, "loss")
        begin.wait()
        try:
            mine.expect([(who, DETAILS) for who in identities], task)
            mine.file(filed(who, task, task) for who in identities)
        except StoreError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for who in identities:
        assert sorted(path.name for path in (store.processed / who / "ai_results").iterdir()) == sorted(
            f"{task}.json" for task in tasks
        )
    assert list(store.to_process.iterdir()) == []


def test_a_disk_error_is_the_stores_error(store: FolderStore) -> None:
    store.root.parent.mkdir(exist_ok=True)
    store.root.write_text("a file where the folder should be")
    with pytest.raises(StoreError):
        store.file([filed()])
    with pytest.raises(StoreError):
        store.expect([(A, DETAILS)], "summarize")


def test_a_thousand_and_one(store: FolderStore) -> None:
    rows = [(f"{number:064x}", DETAILS) for number in range(1_001)]
    assert store.expect(rows, "summarize") == 1_001
    assert store.file(filed(who) for who, _ in rows) == 1_001
    assert sum(1 for _ in store.processed.iterdir()) == 1_001
    assert list(store.to_process.iterdir()) == []
