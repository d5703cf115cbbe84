"""manifest.json: a job as documents that people can open, kept by TinyDB and replaced atomically."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from batch_jobs.storage.files import atomic_write

PRETTY = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE


def write_documents(path: Path, tables: dict[str, list[dict[str, Any]]]) -> None:
    """Write a TinyDB file of these tables, whole: a reader sees the old documents or the new ones."""
    from tinydb import TinyDB
    from tinydb.storages import MemoryStorage

    database = TinyDB(storage=MemoryStorage)
    for name, documents in tables.items():
        database.table(name).insert_multiple(documents)
    atomic_write(path, orjson.dumps(database.storage.read(), option=PRETTY))
    database.close()


def read_documents(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Read a manifest back, table by table."""
    from tinydb import TinyDB

    with TinyDB(path, access_mode="r") as database:
        return {name: [dict(document) for document in database.table(name).all()] for name in sorted(database.tables())}
