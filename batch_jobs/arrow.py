"""Arrow columns from Python values, by their buffers.

`pyarrow.array` imports pandas at its first call, to ask whether what it was given is a Series: 0.4 s and 60 MB. Joining
the values and handing the buffers over takes a third of its time, too.
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any

MOST_BYTES = 2**31 - 1
"""Of one column's values: their offsets are 32-bit integers."""


def texts(values: Sequence[str | None]) -> Any:
    """A string column; in several chunks where it holds over 2 GB."""
    import pyarrow as pa

    filled = ["" if value is None else value for value in values] if None in values else values
    joined = "".join(filled)  # type: ignore[arg-type]
    if joined.isascii():
        data, sizes = joined.encode(), list(map(len, filled))  # type: ignore[arg-type]
    else:
        encoded = [value.encode() for value in filled]  # type: ignore[union-attr]
        data, sizes = b"".join(encoded), list(map(len, encoded))
    if len(data) <= MOST_BYTES:
        return _column(pa.string(), values, data, sizes)
    half = len(values) // 2
    parts = [texts(values[:half]), texts(values[half:])]
    return pa.chunked_array([chunk for part in parts for chunk in getattr(part, "chunks", [part])])


def integers(values: Sequence[int]) -> Any:
    """An int64 column; of a numpy array of such integers, without a copy."""
    import pyarrow as pa

    data = values if hasattr(values, "dtype") else array("q", values)
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(data)])


def digests(values: Sequence[bytes | None]) -> Any:
    """A binary column."""
    import pyarrow as pa

    filled = [b"" if value is None else value for value in values]
    return _column(pa.binary(), values, b"".join(filled), list(map(len, filled)))


def _column(kind: Any, values: Sequence[object], data: bytes, sizes: list[int]) -> Any:
    """A column of values of any length: what is there, where each ends, all of them joined."""
    import pyarrow as pa

    ends = array("i", accumulate(sizes, initial=0))
    there = pa.py_buffer(_bits(values)) if None in values else None
    return pa.Array.from_buffers(kind, len(values), [there, pa.py_buffer(ends), pa.py_buffer(data)])


def _bits(values: Sequence[object]) -> bytes:
    """A bit a value, the lowest first: whether it is there."""
    bits = bytearray(len(values) // 8 + 1)
    for position, value in enumerate(values):
        if value is not None:
            bits[position >> 3] |= 1 << (position & 7)
    return bytes(bits)


def line_breaks(table: Any) -> list[int]:
    r"""How many line breaks (`\n`, `\r`, `\r\n`) each row of a table of texts holds."""
    total = [0] * table.num_rows
    for column in table.columns:
        data = b"".join(buffer.to_pybytes() for chunk in column.chunks for buffer in chunk.buffers()[2:] if buffer)
        if b"\n" in data or b"\r" in data:  # mostly there are none
            texts_of_rows = zip(total, column.to_pylist(), strict=True)
            total = [n + text.count("\n") + text.count("\r") - text.count("\r\n") for n, text in texts_of_rows]
    return total


@contextlib.contextmanager
def writing_behind(writer: Any, thread_name: str) -> Iterator[Callable[..., None]]:
    """Write tables to a Parquet file one at a time, in a thread: each is compressed while the next one is made.

    Yields:
        What takes a table, and the further arguments of `ParquetWriter.write_table`. It raises what the write before
        has raised; all is written when the block ends well.
    """
    under_way: Future[None] | None = None
    with ThreadPoolExecutor(1, thread_name) as thread:

        def write(table: Any, *arguments: Any) -> None:
            nonlocal under_way
            if under_way is not None:
                under_way.result()
            under_way = thread.submit(writer.write_table, table, *arguments)

        yield write
        if under_way is not None:
            under_way.result()


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
