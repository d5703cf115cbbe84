"""Which rows stand for an item and an identity: of equal rows the first, so that each result is kept once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from batch_jobs.arrow import TableReader

BATCH_ROWS = 10_000


def firsts_of_places(plan: Path, rows: int, items: int) -> bytearray:
    """One byte a row of the plan, in file order: 1 where its item and identity have not come before; 0 without an item.

    Only the rows of items that have several are looked at one by one, and remembered, in 90 bytes each.

    Args:
        plan: the plan's folder.
        rows: of the plan.
        items: of the plan.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    several = pa.array(_served_twice(plan, items), pa.int64())
    marks, seen, row = bytearray(rows), set[bytes](), 0
    for table in _batches(plan, "item", "identity"):
        item = table.column("item")
        marks[row : row + len(item)] = pc.is_valid(item).combine_chunks().cast(pa.uint8()).buffers()[1][: len(item)]
        chosen = pc.indices_nonzero(pc.is_in(item, value_set=several))
        lines = zip(chosen.to_pylist(), *(column.to_pylist() for column in table.take(chosen).columns), strict=True)
        for position, number, identity in lines:
            place = bytes.fromhex(identity[:32]) + number.to_bytes(8, "little")  # 128 bits of a sha256
            marks[row + position] = place not in seen
            seen.add(place)
        row += len(item)
    return marks


def _served_twice(plan: Path, items: int) -> list[int]:
    """The items of several rows."""
    served, several = bytearray(items), set[int]()
    for table in _batches(plan, "item"):
        for item in table.column("item").drop_null().to_pylist():
            if served[item]:
                several.add(item)
            served[item] = 1
    return sorted(several)


def _batches(plan: Path, *columns: str) -> Iterator[Any]:
    with contextlib.closing(TableReader(plan / "rows.parquet", columns)) as reader:
        while (table := reader.take(BATCH_ROWS)).num_rows:
            yield table
