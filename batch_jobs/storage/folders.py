"""The folder store: one folder an identity, for people and other programs to browse.

A projection of the ledger, the cache and the snapshots: it may be deleted and rebuilt at any time. Files appear
whole (temp and rename); many are made durable together, by one file system sync per thousand.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from batch_jobs import system
from batch_jobs.storage.files import remove_tree, store_errors

SYNC_EVERY = 1_000
RACES = 20
PRETTY = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE


@dataclass(frozen=True, slots=True)
class Filed:
    """One answer to be filed under an identity.

    Attributes:
        identity: hex sha256, the folder's name.
        name: file name below ai_results, without suffix.
        result: what goes into the file.
        details: the row's input columns, for a folder that has none yet.
    """

    identity: str
    name: str
    result: dict[str, Any]
    details: dict[str, str]


class FolderStore:
    """The folders of one data case: `to_process/<identity>` and `processed/<identity>`."""

    def __init__(self, store: Path, data_case: str) -> None:
        self.root = store / data_case
        self.to_process = self.root / "to_process"
        self.processed = self.root / "processed"

    def expect(self, rows: Iterable[tuple[str, dict[str, str]]], name: str) -> int:
        """Make `to_process/<identity>` with its details for every identity that has no result `name` yet."""
        made = 0
        with store_errors(self.root):
            self.to_process.mkdir(parents=True, exist_ok=True)
            for identity, details in rows:
                if self._result(self.processed, identity, name).exists():
                    continue
                _write(self.root, self.to_process / identity / "meta_data" / "details.json", details)
                made += 1
                self._sync_now_and_then(made)
            self._sync()
        return made

    def file(self, answers: Iterable[Filed]) -> int:
        """File answers: each folder moves from `to_process` to `processed`, or gains a result there."""
        filed = 0
        with store_errors(self.root):
            self.processed.mkdir(parents=True, exist_ok=True)
            for answer in answers:
                self._file_one(answer)
                filed += 1
                self._sync_now_and_then(filed)
            self._sync()
        return filed

    def _file_one(self, answer: Filed) -> None:
        done, waiting = self.processed / answer.identity, self.to_process / answer.identity
        if not done.exists():
            self._complete(waiting, answer)
            try:
                os.rename(waiting, done)
            except OSError:
                if not done.exists():  # else another job has just filed this identity
                    raise
        if waiting.exists():
            remove_tree(waiting)
            self._complete(done, answer)
        elif not self._result(self.processed, answer.identity, answer.name).exists() or self._differs(answer):
            self._complete(done, answer)

    def _complete(self, folder: Path, answer: Filed) -> None:
        details = folder / "meta_data" / "details.json"
        if not details.exists():
            _write(self.root, details, answer.details)
        _write(self.root, self._result(folder.parent, answer.identity, answer.name), answer.result)

    def _differs(self, answer: Filed) -> bool:
        stored = self._result(self.processed, answer.identity, answer.name).read_bytes()
        return stored != orjson.dumps(answer.result, option=PRETTY)

    @staticmethod
    def _result(root: Path, identity: str, name: str) -> Path:
        return root / identity / "ai_results" / f"{name}.json"

    def _sync_now_and_then(self, count: int) -> None:
        if count % SYNC_EVERY == 0:
            self._sync()

    def _sync(self) -> None:
        if self.root.exists():
            system.sync_filesystem(self.root)


def _write(root: Path, path: Path, values: dict[str, Any]) -> None:
    """Write below `root`; the temp file lies outside the identity's folder, which another job may move meanwhile."""
    temp = root / f".{uuid.uuid4().hex[:16]}.tmp"
    temp.write_bytes(orjson.dumps(values, option=PRETTY))
    for _ in range(RACES):
        with contextlib.suppress(FileNotFoundError, FileExistsError):  # another job moved or removed the folder
            return _put(temp, path)
    return _put(temp, path)


def _put(temp: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(temp, path)
