"""Reads what one item stands for, in any order: its planned request, and the cells of its first row.

Items are mostly asked for in order, so the range that was read last is kept.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from batch_jobs.render.items import PlannedItem, read_items

RANGES_KEPT = 4


class ItemReader:
    """The planned items of a job, by number."""

    def __init__(self, plan: Path) -> None:
        import pyarrow.parquet as pq

        self._plan = plan
        metadata = pq.read_metadata(plan / "items.parquet")
        sizes = (metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
        self._starts = list(accumulate(sizes, initial=0))
        self._range = lru_cache(maxsize=RANGES_KEPT)(self._read)

    def item(self, number: int) -> PlannedItem:
        """One item."""
        group = bisect_right(self._starts, number) - 1
        found: PlannedItem = self._range(group)[number - self._starts[group]]
        return found

    def _read(self, group: int) -> list[PlannedItem]:
        return list(read_items(self._plan, [group]))


class RowReader:
    """The first row of each item, as the snapshot has its cells."""

    def __init__(self, plan: Path, snapshot: Path) -> None:
        import pyarrow.parquet as pq

        first_rows = pq.read_table(plan / "items.parquet", columns=["first_row"], use_threads=False).column(0)
        self._first_row = array("q", first_rows.to_pylist())
        self._snapshot = pq.ParquetFile(snapshot)
        metadata = self._snapshot.metadata
        sizes = (metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
        self._starts = list(accumulate(sizes, initial=0))
        self._names = self._snapshot.schema_arrow.names[1:]
        self._range = lru_cache(maxsize=RANGES_KEPT)(self._read)

    def cells(self, item: int) -> dict[str, str]:
        """Column name -> cell."""
        row = self._first_row[item]
        group = bisect_right(self._starts, row) - 1
        position = row - self._starts[group]
        return {name: column[position].as_py() for name, column in zip(self._names, self._range(group), strict=True)}

    def close(self) -> None:
        """Close the snapshot."""
        self._snapshot.close()

    def _read(self, group: int) -> list[Any]:
        return list(self._snapshot.read_row_group(group, use_threads=False).combine_chunks().columns[1:])
