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

    Only items of several rows are remembered, in 90 bytes a row: by DuckDB a million rows took three times the memory.

    Args:
        plan: the plan's folder.
        rows: of the plan.
        items: of the plan.
    """
    served = bytearray(items)
    for (item,) in _lines(plan, "item"):
        if item is not None and served[item] < 2:
            served[item] += 1
    marks, seen = bytearray(rows), set()
    for row, (item, identity) in enumerate(_lines(plan, "item", "identity")):
        if item is None:
            continue
        if served[item] > 1:
            place = bytes.fromhex(identity[:32]) + item.to_bytes(8, "little")  # 128 bits of a sha256
            if place in seen:
                continue
            seen.add(place)
        marks[row] = 1
    return marks


def _lines(plan: Path, *columns: str) -> Iterator[tuple[Any, ...]]:
    with contextlib.closing(TableReader(plan / "rows.parquet", columns)) as reader:
        while (table := reader.take(BATCH_ROWS)).num_rows:
            yield from zip(*(column.to_pylist() for column in table.columns), strict=True)
