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

from batch_jobs.render.group_table import groups_path
from batch_jobs.render.items import PlannedItem, read_items
from batch_jobs.render.worker import GROUP_COLUMN

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
    """The first row of each item, as the snapshot has its cells, and what its group shows."""

    def __init__(self, plan: Path, snapshot: Path) -> None:
        import pyarrow.parquet as pq

        names = pq.read_schema(plan / "items.parquet").names
        wanted = ["first_row", *([GROUP_COLUMN] if GROUP_COLUMN in names else [])]
        table = pq.read_table(plan / "items.parquet", columns=wanted, use_threads=False)
        self._first_row = array("q", table.column("first_row").to_pylist())
        self._rows = _Ranges(snapshot)
        self._names: list[str] = self._rows.names[1:]
        grouped = GROUP_COLUMN in names
        self._group = array("q", table.column(GROUP_COLUMN).to_pylist()) if grouped else None
        self._groups = _Ranges(groups_path(plan), ["key", "text", "rows"]) if grouped else None

    def cells(self, item: int) -> dict[str, str]:
        """Column name -> cell."""
        columns, position = self._rows.at(self._first_row[item])
        return {name: column[position].as_py() for name, column in zip(self._names, columns[1:], strict=True)}

    def group(self, item: int) -> tuple[str, str, int]:
        """The key of the item's group, what it shows, and its rows; nothing where the job has no groups."""
        if self._groups is None or self._group is None:
            return "", "", 0
        columns, position = self._groups.at(self._group[item])
        key, text, rows = (column[position].as_py() for column in columns)
        return key, text, rows

    def close(self) -> None:
        """Close the files."""
        self._rows.close()
        if self._groups is not None:
            self._groups.close()


class _Ranges:
    """The lines of a Parquet file in any order; the ranges that were read last are kept."""

    def __init__(self, path: Path, columns: list[str] | None = None) -> None:
        import pyarrow.parquet as pq

        self._file, self._columns = pq.ParquetFile(path), columns
        metadata = self._file.metadata
        sizes = (metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
        self._starts = list(accumulate(sizes, initial=0))
        self.names: list[str] = columns or self._file.schema_arrow.names
        self._range = lru_cache(maxsize=RANGES_KEPT)(self._read)

    def at(self, line: int) -> tuple[list[Any], int]:
        """The columns of the range that holds a line, and its place there."""
        part = bisect_right(self._starts, line) - 1
        return self._range(part), line - self._starts[part]

    def close(self) -> None:
        self._file.close()

    def _read(self, part: int) -> list[Any]:
        table = self._file.read_row_group(part, columns=self._columns, use_threads=False)
        return [table.column(name).combine_chunks() for name in self.names]
