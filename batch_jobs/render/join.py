"""Rows to items: equal requests become one item, numbered by its first row.

Writes `items.parquet` (one line an item) and `rows.parquet` (one line a row) into the plan folder. DuckDB finds what is
equal, as it can do so for more fingerprints than fit into memory; a number for each row is all that is held here.
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from batch_jobs.arrow import integers
from batch_jobs.render.query import plan_query
from batch_jobs.storage.files import adopt, store_errors

FETCHED_ROWS = 10_000
NO_ITEM, FIRST = -1, 0
_FIRST_ROWS = """
    SELECT min(row), count(*) FROM read_index WHERE fingerprint IS NOT NULL GROUP BY fingerprint
"""
_REPEATS = """
    SELECT i.row, f.first FROM read_index i
    JOIN (SELECT fingerprint, min(row) AS first FROM read_index GROUP BY fingerprint HAVING count(*) > 1) f
    ON f.fingerprint = i.fingerprint WHERE i.row <> f.first
"""
_ALTERNATES = """
    SELECT i.row FROM read_index i
    JOIN (SELECT identity, arg_min(fingerprint, row) AS first FROM read_index WHERE fingerprint IS NOT NULL
          GROUP BY identity HAVING min(fingerprint) <> max(fingerprint)) f
    ON f.identity = i.identity WHERE i.fingerprint <> f.first
"""
"""Rows that share their identity with an earlier row, and ask something else."""


def join_items(plan: Path) -> None:
    """Make items.parquet and rows.parquet from the workers' index files; done already is done.

    Where there are many rows, in a process that ends: what DuckDB takes for them is not given back.
    """
    import pyarrow.parquet as pq

    if (plan / "rows.parquet").exists():
        return
    index = sorted(plan.glob("index-*.parquet"))
    rows = sum(pq.read_metadata(path).num_rows for path in index)
    with plan_query(plan, read_index=index) as connection:
        item_of = _numbered(connection, rows)
        alternates = {row for (row,) in _fetched(connection, _ALTERNATES)}
    _write(plan, index, item_of, alternates)


def _numbered(connection: Any, rows: int) -> array[int]:
    """The item of each row, `NO_ITEM` where its prompt failed; items count from 0 in the order of their first rows."""
    item_of = array("i", [NO_ITEM]) * rows
    items = asked = 0
    for first, times in _fetched(connection, _FIRST_ROWS):
        item_of[first] = FIRST
        items += 1
        asked += times
    number = 0
    for row, mark in enumerate(item_of):
        if mark == FIRST:
            item_of[row] = number
            number += 1
    for row, first in _fetched(connection, _REPEATS) if asked > items else ():
        item_of[row] = item_of[first]
    return item_of


def _fetched(connection: Any, query: str) -> Iterator[tuple[Any, ...]]:
    result = connection.execute(query)
    while batch := result.fetchmany(FETCHED_ROWS):
        yield from batch


def _write(plan: Path, index: list[Path], item_of: array[int], alternates: set[int]) -> None:
    """Write both files, one range of rows for each index file."""
    import pyarrow.parquet as pq

    temps = [plan / "items.tmp", plan / "rows.tmp"]
    row = items = 0
    with contextlib.ExitStack() as stack:
        writers: list[Any] = []
        for path in index:
            table = pq.read_table(path, use_threads=False)
            numbers = item_of[row : row + table.num_rows]
            news = _first_of_their_items(numbers, items)
            made = _items(table, numbers, news), _rows(table, numbers, row, alternates)
            if not writers:
                for temp, one in zip(temps, made, strict=True):
                    stack.enter_context(store_errors(temp))
                    writers.append(stack.enter_context(pq.ParquetWriter(temp, one.schema)))
            for temp, writer, one in zip(temps, writers, made, strict=True):
                with store_errors(temp):
                    writer.write_table(one)
            row += table.num_rows
            items += len(news)
    adopt(temps[0], plan / "items.parquet")
    adopt(temps[1], plan / "rows.parquet")


def _first_of_their_items(numbers: array[int], items: int) -> list[int]:
    """Where the items that are numbered from `items` on stand first."""
    found: list[int] = []
    for position, item in enumerate(numbers):
        if item == items:
            found.append(position)
            items += 1
    return found


def _items(table: Any, numbers: array[int], news: list[int]) -> Any:
    """The items whose first row is in this range."""
    import pyarrow as pa
    import pyarrow.compute as pc

    one = table.take(integers(news))
    columns = {
        "item": integers([numbers[n] for n in news]),
        "fingerprint": one["fingerprint"],
        "first_row": one["row"],
        "segment": one["segment"],
        "offset": one["offset"],
        "length": pc.add(one["length"], one["shared"]),
        "shared": one["shared"],
    }
    return pa.table(list(columns.values()), names=list(columns))


def _rows(table: Any, numbers: array[int], first: int, alternates: set[int]) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    items = integers(numbers)
    later = alternates.intersection(range(first, first + len(numbers))) if alternates else ()
    columns = {
        "row": table["row"],
        "number": table["number"],
        "identity": table["identity"],
        "error": table["error"],
        "item": pc.if_else(pc.equal(items, NO_ITEM), pa.scalar(None, pa.int64()), items),
        "fingerprint": table["fingerprint"],
        "alternate": pc.equal(integers([int(first + n in later) for n in range(len(numbers))]), 1),
    }
    return pa.table(list(columns.values()), names=list(columns))
