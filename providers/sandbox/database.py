"""One SQLite file as the sandbox's durable memory: one connection, one lock, short statements.

WAL without a sync per commit: what is committed outlives the process, also a kill -9, which is all that is asked.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

Value = str | int | float | bytes | None

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, file_id TEXT NOT NULL UNIQUE, dialect TEXT NOT NULL, owner TEXT NOT NULL,
    name TEXT NOT NULL, purpose TEXT NOT NULL, bytes INTEGER NOT NULL, created_at REAL NOT NULL,
    ready_at REAL NOT NULL, path TEXT NOT NULL, deleted INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS uploads (
    upload_id TEXT PRIMARY KEY, owner TEXT NOT NULL, file_id TEXT NOT NULL, name TEXT NOT NULL, path TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS batches (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, batch_id TEXT NOT NULL UNIQUE, dialect TEXT NOT NULL,
    owner TEXT NOT NULL, created_at REAL NOT NULL, listed_at REAL NOT NULL, endpoint TEXT NOT NULL,
    model TEXT NOT NULL, total INTEGER NOT NULL, input_path TEXT NOT NULL, spec BLOB NOT NULL, plan BLOB NOT NULL,
    cancelled_at REAL, settled INTEGER NOT NULL DEFAULT 0, outcome BLOB NOT NULL DEFAULT '{}',
    deleted INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS batches_by_owner ON batches (dialect, owner, created_at);
CREATE TABLE IF NOT EXISTS bill (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, dialect TEXT NOT NULL, model TEXT NOT NULL, custom_id TEXT NOT NULL,
    kind TEXT NOT NULL, input_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    at REAL NOT NULL, batch_id TEXT NOT NULL, request_hash TEXT NOT NULL, written_tokens INTEGER NOT NULL DEFAULT 0,
    accepted INTEGER NOT NULL DEFAULT 0, rejected INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS bill_by_batch ON bill (batch_id);
CREATE TABLE IF NOT EXISTS calls (route TEXT PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS hits (fault TEXT NOT NULL, subject TEXT NOT NULL, PRIMARY KEY (fault, subject));
CREATE TABLE IF NOT EXISTS beginnings (hash BLOB NOT NULL PRIMARY KEY, subject TEXT NOT NULL, until REAL NOT NULL);
CREATE TABLE IF NOT EXISTS cached_contents (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, model TEXT NOT NULL,
    display_name TEXT NOT NULL, tokens INTEGER NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL,
    expires_at REAL NOT NULL);
"""
_LATER_COLUMNS = {"bill": ("written_tokens", "accepted", "rejected")}
"""Counts that a folder of an older sandbox does not have yet."""


class Database:
    """The file `sandbox.sqlite` below a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(folder / "sandbox.sqlite", check_same_thread=False, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.executescript(_SCHEMA)
        for table, names in _LATER_COLUMNS.items():
            known = {str(row["name"]) for row in self.rows(f"PRAGMA table_info({table})")}
            for name in [each for each in names if each not in known]:
                self.run(f"ALTER TABLE {table} ADD COLUMN {name} INTEGER NOT NULL DEFAULT 0")

    def run(self, sql: str, *values: Value) -> int:
        """Run one statement; give the number of rows it changed."""
        with self._lock:
            return self._connection.execute(sql, values).rowcount

    def run_many(self, sql: str, rows: Iterable[Sequence[Value]]) -> None:
        """Run one statement for many rows in one transaction."""
        with self.transaction():
            self._connection.executemany(sql, rows)

    def rows(self, sql: str, *values: Value) -> list[sqlite3.Row]:
        """Run a query."""
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    def row(self, sql: str, *values: Value) -> sqlite3.Row | None:
        """Run a query for its first row."""
        with self._lock:
            found: sqlite3.Row | None = self._connection.execute(sql, values).fetchone()
            return found

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all statements within one change, or none."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()
