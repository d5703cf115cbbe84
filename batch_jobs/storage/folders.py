"""The folder store: one folder an identity, for people and other programs to browse.

A projection of the ledger, the cache and the snapshots: it may be deleted and rebuilt at any time. Files and folders
appear whole (temp and rename); many are made durable together, by one file system sync per thousand.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from batch_jobs import system
from batch_jobs.errors import StoreError
from batch_jobs.storage.files import remove_tree, store_errors
from batch_jobs.storage.results import Filed

SYNC_EVERY = 1_000
RACES = 20
PRETTY = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
DETAILS = "meta_data/details.json"


class FolderStore:
    """The folders of one data case: `to_process/<identity>` and `processed/<identity>`.

    Paths are plain strings within: a folder takes seven calls of the system, and pathlib would double their time.
    """

    def __init__(self, store: Path, data_case: str) -> None:
        self.root = store / data_case
        self.to_process = self.root / "to_process"
        self.processed = self.root / "processed"
        self._waiting, self._done = str(self.to_process), str(self.processed)
        ours = f"{self.root}/.{uuid.uuid4().hex[:16]}"
        self._temp_names = (f"{ours}-{number}.tmp" for number in itertools.count())

    def expect(self, rows: Iterable[tuple[str, dict[str, str]]], name: str) -> int:
        """Make `to_process/<identity>` with its details for every identity that has no result `name` yet."""
        made = 0
        with store_errors(self.root):
            self.to_process.mkdir(parents=True, exist_ok=True)
            for identity, details in rows:
                if os.path.exists(_result(f"{self._done}/{identity}", name)):
                    continue
                folder = f"{self._waiting}/{identity}"
                if not self._appear(folder, details):
                    self._write(f"{folder}/{DETAILS}", details)
                made += 1
                self._sync_now_and_then(made)
            self._sync_rest(made)
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
            self._sync_rest(filed)
        return filed

    def results_of(self, identity: str) -> dict[str, dict[str, Any]]:
        """The results of an identity by name; empty where it has none."""
        found = sorted((self.processed / identity / "ai_results").glob("*.json"))
        return {path.name.removesuffix(".json"): _read(path) for path in found}

    def stream(self) -> Iterator[Filed]:
        """Every result, once, as the file system lists the folders."""
        for folder in self._folders():
            details = _read(folder / DETAILS)
            for name, result in self.results_of(folder.name).items():
                yield Filed(folder.name, name, result, details)

    def count(self) -> int:
        """How many results there are."""
        return sum(len(list((folder / "ai_results").glob("*.json"))) for folder in self._folders())

    def _folders(self) -> Iterator[Path]:
        if self.processed.is_dir():
            with os.scandir(self.processed) as entries:
                yield from (Path(entry.path) for entry in entries if entry.is_dir())

    def _file_one(self, answer: Filed) -> None:
        done, waiting = f"{self._done}/{answer.identity}", f"{self._waiting}/{answer.identity}"
        is_done, waits = os.path.exists(done), os.path.exists(waiting)
        if not is_done and not waits and self._appear(done, answer.details, answer):
            return
        if waits and not is_done:
            self._move(waiting, done, answer)
        if self._lacks(done, answer):
            self._complete(done, answer)
        if os.path.exists(waiting):
            remove_tree(Path(waiting))
            self._complete(done, answer)

    def _move(self, waiting: str, done: str, answer: Filed) -> None:
        """Complete what waits and move it; that another job does the same meanwhile is fine."""
        self._complete(waiting, answer)
        try:
            os.rename(waiting, done)
        except OSError:
            if not os.path.exists(done):
                raise

    def _appear(self, folder: str, details: dict[str, str], answer: Filed | None = None) -> bool:
        """Make a whole folder aside and rename it into its place: half a folder is never seen.

        Returns:
            False when there is one already.
        """
        aside = next(self._temp_names)
        try:
            os.mkdir(aside)
            os.mkdir(f"{aside}/meta_data")
            _dump(f"{aside}/{DETAILS}", details)
            if answer is not None:
                os.mkdir(f"{aside}/ai_results")
                _dump(_result(aside, answer.name), answer.result)
            os.rename(aside, folder)
        except OSError as error:
            remove_tree(Path(aside))
            if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
                raise
            return False  # there was one, whether or not another job has moved it since
        return True

    def _complete(self, folder: str, answer: Filed) -> None:
        """Write what a folder lacks: details that are whole, and the result."""
        if not _is_whole(f"{folder}/{DETAILS}"):
            self._write(f"{folder}/{DETAILS}", answer.details)
        self._write(_result(folder, answer.name), answer.result)

    @staticmethod
    def _lacks(folder: str, answer: Filed) -> bool:
        """Whether a folder holds not this very result, or no details that are whole (a crash may cut files short)."""
        try:
            with open(_result(folder, answer.name), "rb") as file:
                same = file.read() == orjson.dumps(answer.result, option=PRETTY)
        except FileNotFoundError:
            return True
        return not same or not _is_whole(f"{folder}/{DETAILS}")

    def _write(self, path: str, values: dict[str, Any]) -> None:
        """Write one file; the temp lies outside the identity's folder, which another job may move meanwhile."""
        temp = next(self._temp_names)
        _dump(temp, values)
        for _ in range(RACES):
            with contextlib.suppress(FileNotFoundError, FileExistsError):  # another job moved or removed the folder
                return _put(temp, path)
        return _put(temp, path)

    def _sync_now_and_then(self, count: int) -> None:
        if count % SYNC_EVERY == 0:
            system.sync_filesystem(self.root)

    def _sync_rest(self, count: int) -> None:
        if count % SYNC_EVERY:
            system.sync_filesystem(self.root)


def _result(folder: str, name: str) -> str:
    return f"{folder}/ai_results/{name}.json"


def _dump(path: str, values: dict[str, Any]) -> None:
    """Write a new file: three calls of the system, where `open` takes five."""
    data = orjson.dumps(values, option=PRETTY)
    handle = os.open(path, NEW_FILE, 0o666)
    try:
        while data:
            data = data[os.write(handle, data) :]
    finally:
        os.close(handle)


def _put(temp: str, path: str) -> None:
    """Rename, making the folder where it is not there; whoever it is that removes it meanwhile, the caller tries on."""
    try:
        os.replace(temp, path)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.replace(temp, path)


def _is_whole(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return isinstance(orjson.loads(file.read()), dict)
    except (FileNotFoundError, orjson.JSONDecodeError):
        return False


def _read(path: Path) -> dict[str, Any]:
    """One of the store's JSON documents.

    Raises:
        StoreError: it is not there, or not one.
    """
    try:
        document = orjson.loads(path.read_bytes())
        if isinstance(document, dict):
            return document
        reason = "it holds no JSON object"
    except (OSError, orjson.JSONDecodeError) as error:
        reason = str(error)
    raise StoreError(f"{path}: can't be read ({reason}). Make the folders anew: batch-jobs rebuild-store")
