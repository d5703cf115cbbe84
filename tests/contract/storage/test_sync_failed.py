"""After a failed fsync a process calls nothing durable any more: no second try, in no file and no database."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from batch_jobs import system
from batch_jobs.errors import EXIT_OPERATOR, StoreError, SyncFailed
from batch_jobs.models import EventName
from batch_jobs.storage import events
from batch_jobs.storage.call_cache import CallCache
from batch_jobs.storage.files import adopt, atomic_write, publish_new
from batch_jobs.storage.folders import FolderStore
from batch_jobs.storage.ledger import Ledger
from tests.contract.storage.kit import TASK_ID, full_job


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Breaks fsync for good; the process is itself again after the test."""
    monkeypatch.setattr(system, "_failed_sync", None)

    def break_it(number: int) -> None:
        def fail(_: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fail)

    return break_it


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_failed_sync_is_said_and_never_tried_again(
    tmp_path: Path, broken: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    target = tmp_path / "file"
    atomic_write(target, b"old")
    with monkeypatch.context() as patch:
        broken(number)
        with pytest.raises(SyncFailed, match="this process stops") as caught:
            atomic_write(target, b"new")
        patch.undo()
    assert os.strerror(number) in caught.value.message
    assert caught.value.exit_code == EXIT_OPERATOR
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_process_may_not_write_on(tmp_path: Path, broken: Callable[[int], None], ledger: Ledger) -> None:
    cache = CallCache.open(tmp_path / "cache.sqlite")
    (tmp_path / "temp").write_bytes(b"finished")
    with ledger.write() as connection:
        from batch_jobs.storage import jobs

        jobs.add(connection, full_job())
    with pytest.raises(SyncFailed):
        system.sync_failed(tmp_path / "file", "Input/output error")
    store = FolderStore(tmp_path / "store", "case")
    attempts: list[Callable[[], object]] = [
        lambda: atomic_write(tmp_path / "other", b"new"),
        lambda: adopt(tmp_path / "temp", tmp_path / "other"),
        lambda: publish_new(tmp_path / "temp", tmp_path / "other"),
        lambda: store.expect([("a" * 64, {"column": "text"})], "task"),
        lambda: CallCache.open(tmp_path / "another.sqlite"),
        lambda: ledger.write().__enter__(),
    ]
    for attempt in attempts:
        with pytest.raises(SyncFailed, match="Input/output error"):
            attempt()
    assert not (tmp_path / "other").exists()
    assert not (tmp_path / "store").exists()
    with ledger.read() as connection:
        assert [event.name for event in events.of_job(connection, TASK_ID)] == [EventName.JOB_RECEIVED]
    cache.close()


def test_a_failed_sync_of_a_database_is_told_from_a_failed_write(ledger: Ledger, broken: Callable[[int], None]) -> None:
    def fail(name: str) -> None:
        reason = sqlite3.OperationalError("disk I/O error")
        reason.sqlite_errorname = name
        with ledger.write():
            raise OperationalError("COMMIT", None, reason)

    with pytest.raises(StoreError) as caught:
        fail("SQLITE_IOERR_WRITE")
    assert not isinstance(caught.value, SyncFailed)
    assert not system.sync_has_failed()
    with pytest.raises(SyncFailed, match="ledger"):
        fail("SQLITE_IOERR_FSYNC")
    assert system.sync_has_failed()
