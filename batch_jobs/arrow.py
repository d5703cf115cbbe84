"""Arrow columns from Python values, without pandas where there are few.

`pyarrow.array` imports pandas at its first call, to ask whether what it was given is a Series: 0.3 s and 40 MB, which
is much of a small job and nothing of a large one. It converts texts six times faster than the builder, though.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FEW = 10_000


def texts(values: Sequence[str | None]) -> Any:
    """A string column."""
    import pyarrow as pa

    if len(values) >= FEW:
        return pa.array(values, pa.string())
    from pyarrow.lib import StringBuilder

    builder = StringBuilder()
    builder.append_values(values)
    return builder.finish()


def integers(values: Sequence[int]) -> Any:
    """An int64 column."""
    import pyarrow as pa

    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(array("q", values))])


def digests(values: Sequence[bytes | None]) -> Any:
    """A binary column."""
    import pyarrow as pa

    if len(values) >= FEW:
        return pa.array(values, pa.binary())
    ends, total, there = array("i", [0]), 0, 0
    for position, value in enumerate(values):
        total += len(value or b"")
        ends.append(total)
        there |= (value is not None) << position
    validity = there.to_bytes(len(values) // 8 + 1, "little")
    data = b"".join(value for value in values if value is not None)
    return pa.Array.from_buffers(
        pa.binary(), len(values), [pa.py_buffer(validity), pa.py_buffer(ends), pa.py_buffer(data)]
    )


class TableReader:
    """Hands a Parquet file out in order, as many rows at a time as are asked for; holds no more than a row group."""

    def __init__(self, path: Path, columns: Sequence[str] | None = None) -> None:
        """Open a file.

        Args:
            path: the file.
            columns: in the order that they are handed out; None for all.
        """
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(path)
        schema = self._file.schema_arrow
        self.rows = int(self._file.metadata.num_rows)
        self._columns = list(columns) if columns is not None else None
        self._groups = iter(range(self._file.num_row_groups))
        self._empty = self._chosen(schema.empty_table())
        self._ahead = self._empty

    def take(self, count: int) -> Any:
        """The next rows as a table, fewer only at the end of the file."""
        import pyarrow as pa

        parts = [self._ahead]
        while sum(part.num_rows for part in parts) < count and (group := next(self._groups, None)) is not None:
            # threads would each keep a heap of their own: 100 MB more over a million rows
            parts.append(self._chosen(self._file.read_row_group(group, columns=self._columns, use_threads=False)))
        whole = pa.concat_tables(parts)
        self._ahead = whole.slice(count) if whole.num_rows > count else self._empty  # an empty slice holds on to all
        return whole.slice(0, count).combine_chunks()

    def _chosen(self, table: Any) -> Any:
        return table if self._columns is None else table.select(self._columns)

    def close(self) -> None:
        """Release the file."""
        self._file.close()
