"""The ledger: one database that holds the truth, reached by transactions that a lost lease can't commit.

The modules beside this one (`jobs`, `items`, `shards`, `events`, `calls`) are functions over a transaction's
connection, so that a step can change several tables in one durable commit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection, Engine

from batch_jobs.storage import leases
from batch_jobs.storage.database import open_sqlite, reading, writing
from batch_jobs.storage.migrate import migrate


class Ledger:
    """Open with `Ledger.open(path)`; safe to share between threads."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def open(cls, path: Path) -> Ledger:
        """Open the ledger file, made and migrated when needed."""
        engine = open_sqlite(path)
        migrate(engine)
        return cls(engine)

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view."""
        with reading(self.engine) as connection:
            yield connection

    @contextlib.contextmanager
    def write(self, lease: leases.Lease | None = None) -> Iterator[Connection]:
        """A write transaction; with a lease, only while that lease is still ours (fencing).

        Raises:
            JobHeld: another process has taken the job over; nothing is written.
        """
        with writing(self.engine) as connection:
            if lease is not None:
                leases.verify(connection, lease)
            yield connection

    def close(self) -> None:
        """Release the connections."""
        self.engine.dispose()
