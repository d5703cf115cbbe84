"""DuckDB over a plan's files: larger than memory, spilling beside them, its disk errors as ours."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from batch_jobs.errors import StoreError

MEMORY_LIMIT = "120MB"
_PATTERN = re.compile(r"[*?\[\]{}]")


@contextlib.contextmanager
def plan_query(folder: Path, **tables: Any) -> Iterator[Any]:
    """A DuckDB of its own, in memory, spilling into the plan folder; with each table, a list of Parquet files or Arrow.

    Raises:
        StoreError: it could not spill, or not read.
    """
    import duckdb

    config: dict[str, Any] = {"temp_directory": str(folder), "threads": 2, "memory_limit": MEMORY_LIMIT}
    with duckdb.connect(config=config) as connection:
        for name, table in tables.items():
            _register(connection, name, table)
        try:
            yield connection
        except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
            text = str(error).splitlines()[0]
            raise StoreError(f"{folder}: {text}. Free some space, then run the same command again") from error


def _register(connection: Any, name: str, table: Any) -> None:
    """Files are read by DuckDB itself, at half the memory, unless it would take their names for patterns."""
    if not isinstance(table, list):
        connection.register(name, table)
    elif _PATTERN.search("".join(map(str, table))):
        import pyarrow.dataset as ds

        connection.register(name, ds.dataset(list(map(str, table)), format="parquet"))
    else:
        files = ", ".join("'" + str(path).replace("'", "''") + "'" for path in table)
        connection.execute(f"CREATE TEMP VIEW {name} AS FROM read_parquet([{files}])")
