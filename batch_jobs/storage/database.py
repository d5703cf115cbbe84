"""Engines for the ledger and the cache: SQLite in WAL mode with full syncs, writers taking their lock at once.

A write transaction begins with BEGIN IMMEDIATE, so that two processes queue up instead of failing half way.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Column, Connection, Engine, Insert, Select, Update, create_engine, event, select
from sqlalchemy.exc import DatabaseError

from batch_jobs import system
from batch_jobs.errors import StoreError
from batch_jobs.storage.files import store_errors

BUSY_SECONDS = 60
ROWS_AT_ONCE = 10_000
CACHE_KB = 4_000
"""Of pages that each connection keeps, where they are touched in order."""
CHECKPOINT_PAGES = 8_000
"""32 MB: such pages are written from the log to the database once in many commits, not once in each."""
READER = "batch_jobs_reader"
_SILENT = logging.NullHandler()
SYNC_ERRORS = frozenset({"SQLITE_IOERR_FSYNC", "SQLITE_IOERR_DIR_FSYNC"})


def open_sqlite(path: Path, *, cache_kb: int = CACHE_KB) -> Engine:
    """An engine on a SQLite file; the file and its folder are made when missing.

    Args:
        path: the file.
        cache_kb: of pages that each of its connections keeps.
    """
    with store_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    # what its pool can't undo on a broken disk is said by our errors, not by a traceback on the user's screen
    logging.getLogger("sqlalchemy").addHandler(_SILENT)
    url = URL.create("sqlite", database=str(path))  # built from its parts: a folder's name may hold a "?"
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        connection.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
        # The switch to WAL does not wait for others that switch too: SQLite answers "locked" at once.
        with store_errors(path), system.exclusive_lock(path.with_name(f".{path.name}.lock")):
            connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute(f"PRAGMA cache_size=-{cache_kb}")
        connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        reader = connection.get_execution_options().get(READER)
        connection.exec_driver_sql("BEGIN" if reader else "BEGIN IMMEDIATE")

    return engine


@contextlib.contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One write transaction: durable when the block ends, undone when it raises.

    Raises:
        StoreError: the disk is full, or can't be written.
        SyncFailed: data could not be made durable, now or ever before in this process.
    """
    system.require_durable()
    with _errors_of(engine), engine.begin() as connection:
        yield connection


@contextlib.contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One consistent view; does not wait for writers."""
    with _errors_of(engine), engine.execution_options(**{READER: True}).begin() as connection:
        yield connection


def execute_many(
    connection: Connection, statement: Insert | Update, names: Sequence[str], rows: Iterable[tuple[Any, ...]]
) -> None:
    """Execute one statement for many rows, without SQLAlchemy's work for each of them (a third of the time).

    Args:
        connection: within a transaction.
        statement: an INSERT, or an UPDATE whose values are all `bindparam`s.
        names: of its parameters, in the order in which the compiled statement has them.
        rows: their values as the database takes them (no enums), in that order; streamed.
    """
    keys = list(names) if isinstance(statement, Insert) else None
    compiled: Any = statement.compile(dialect=connection.dialect, column_keys=keys)
    assert compiled.positiontup == list(names), compiled.positiontup
    text, source = str(compiled), iter(rows)
    while chunk := list(islice(source, ROWS_AT_ONCE)):
        connection.exec_driver_sql(text, chunk)


def fetch_plain(connection: Connection, query: Select[Any]) -> list[tuple[Any, ...]]:
    """Fetch all rows as the database gives them: plain tuples, five times faster where there are many."""
    compiled: Any = query.compile(dialect=connection.dialect)
    values = tuple(compiled.params[name] for name in compiled.positiontup)
    cursor: Any = connection.exec_driver_sql(str(compiled), values).cursor
    return list(cursor.fetchall())


def fetch_among(
    connection: Connection, columns: Sequence[Column[Any]], column: Column[Any], values: Sequence[Any]
) -> list[tuple[Any, ...]]:
    """Fetch the rows whose `column` is among some thousand values, as plain tuples."""
    marks = ", ".join("?" * len(values))
    query = f"{select(*columns).compile(dialect=connection.dialect)} WHERE {column} IN ({marks})"
    cursor: Any = connection.exec_driver_sql(query, tuple(values)).cursor
    return list(cursor.fetchall())


@contextlib.contextmanager
def _errors_of(engine: Engine) -> Iterator[None]:
    try:
        yield
    except DatabaseError as error:
        reason = str(error.orig)
        if getattr(error.orig, "sqlite_errorname", "") in SYNC_ERRORS:
            system.sync_failed(str(engine.url.database), reason)
        fix = {
            "database or disk is full": "free some space, then run the same command again",
            "attempt to write a readonly database": "check the file's owner and rights",
            "database is locked": "another process held it for over a minute; run the same command again",
        }.get(reason, "nothing was changed; check the disk, then run the same command again")
        raise StoreError(f"{engine.url.database}: {reason}: {fix}") from error
